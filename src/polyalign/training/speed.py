"""How fast a base trains and encodes on this machine, from a few batches."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from polyalign.corpus import Corpus
from polyalign.training.adapting import adapt
from polyalign.training.bases import load_base
from polyalign.training.batches import TokenCollator
from polyalign.training.fitting import chunks_of, fitted, uses_bf16
from polyalign.training.loss import MultiwayLoss
from polyalign.training.objective import PRESETS
from polyalign.training.settings import TrainingSettings
from polyalign.training.tokens import tokens_of

_TRIAL_ROWS = 32


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Texts per second.

    Attributes:
        training: forwards and backwards, the optimizer's step left out.
        encoding: forwards alone, in float32.
    """

    training: float
    encoding: float


def measure_speed(base: str, corpus: Corpus, settings: TrainingSettings, *, trust_remote_code: bool = False) -> Speed:
    """Return how fast a base is with rows of the corpus in all their languages, from the second of two batches.

    Args:
        base: as in `polyalign.train`.
        corpus: the rows.
        settings: those of the training.
        trust_remote_code: whether code that comes with the base may run.

    Raises:
        UserError: when the base is missing or unreachable.
    """
    objective = PRESETS["multi-way"]
    model = load_base(base, corpus, settings, seed=0, trust_remote_code=trust_remote_code)
    rows = corpus.rows.sample(min(len(corpus), 2 * _TRIAL_ROWS), seed=0)
    tokens = tokens_of(Corpus(rows=rows, languages=corpus.languages, report=corpus.report), model)
    adapt(model, tokens, settings)
    fit = fitted(model, tokens, objective, settings.model_copy(update={"batch_rows": _TRIAL_ROWS}), seed=0)
    collator = TokenCollator(tokens, model, objective, tokens_per_chunk=fit.tokens_per_chunk)
    loss = MultiwayLoss(model, objective, cache_gradients=fit.cache_gradients)
    seconds: dict[bool, float] = {}
    texts = 0
    for part in np.array_split(np.arange(len(tokens)), 2):
        batch = collator([{"row": int(row)} for row in part])
        features, texts = [_on(model.device, chunk) for chunk in chunks_of(batch)], len(batch["label"])
        for training in (True, False):
            model.train(training)
            started = time.perf_counter()
            bf16 = training and uses_bf16(settings, model.device)
            with torch.set_grad_enabled(training), torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
                value = loss(features, batch["label"].to(model.device))
                if training:
                    value.backward()
            value.item()  # waits for the device
            seconds[training] = time.perf_counter() - started
    return Speed(training=texts / seconds[True], encoding=texts / seconds[False])


def _on(device: torch.device, chunk: dict[str, object]) -> dict[str, object]:
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in chunk.items()}
