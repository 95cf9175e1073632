"""Multi-way parallel text alignment: corpus, training, evaluation, comparison.

The public names are imported when first used, so that ``import polyalign`` stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polyalign.corpus import Corpus as Corpus
    from polyalign.corpus import import_corpus as import_corpus
    from polyalign.errors import UserError as UserError
    from polyalign.evaluation import evaluate as evaluate
    from polyalign.reporting import compare as compare
    from polyalign.running import run as run
    from polyalign.training import LexicalSettings as LexicalSettings
    from polyalign.training import MultiwayCollator as MultiwayCollator
    from polyalign.training import MultiwayLoss as MultiwayLoss
    from polyalign.training import ProjectionSettings as ProjectionSettings
    from polyalign.training import project as project
    from polyalign.training import to_dataset as to_dataset
    from polyalign.training import train as train
    from polyalign.translation import BuildSettings as BuildSettings
    from polyalign.translation import build as build

_HOMES = {
    "BuildSettings": "translation",
    "Corpus": "corpus",
    "LexicalSettings": "training",
    "MultiwayCollator": "training",
    "MultiwayLoss": "training",
    "ProjectionSettings": "training",
    "UserError": "errors",
    "build": "translation",
    "compare": "reporting",
    "evaluate": "evaluation",
    "import_corpus": "corpus",
    "project": "training",
    "run": "running",
    "to_dataset": "training",
    "train": "training",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"polyalign.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'polyalign' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
