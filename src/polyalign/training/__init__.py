"""train: rows of one meaning in up to N languages → an aligned encoder."""

from __future__ import annotations

from polyalign.training.advice import advice as advice
from polyalign.training.batches import EpochOfLanguages as EpochOfLanguages
from polyalign.training.batches import MultiwayCollator as MultiwayCollator
from polyalign.training.batches import to_dataset as to_dataset
from polyalign.training.language_bias import center_by_language as center_by_language
from polyalign.training.loss import MultiwayLoss as MultiwayLoss
from polyalign.training.objective import PRESETS as PRESETS
from polyalign.training.objective import Objective as Objective
from polyalign.training.projecting import project as project
from polyalign.training.recommending import RECOMMENDED as RECOMMENDED
from polyalign.training.recommending import recommended as recommended
from polyalign.training.settings import LexicalSettings as LexicalSettings
from polyalign.training.settings import ProjectionSettings as ProjectionSettings
from polyalign.training.settings import StaticSettings as StaticSettings
from polyalign.training.settings import TrainingSettings as TrainingSettings
from polyalign.training.trainer import train as train
