"""How fast a base trains and encodes on this machine, from a few batches."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from polyalign.corpus import Corpus
from polyalign.training.adapting import adapt
from polyalign.training.bases import is_static, load_base
from polyalign.training.batches import TokenCollator
from polyalign.training.fitting import chunks_of, fitted, uses_bf16
from polyalign.training.loss import MultiwayLoss
from polyalign.training.objective import PRESETS
from polyalign.training.settings import TrainingSettings
from polyalign.training.tokens import tokens_of

_ROWS, _STATIC_ROWS = 32, 256
_BATCHES = 3
"""The first one warms up, the fastest of the others counts."""


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
    """Return how fast a base is with rows of the corpus in all their languages, from a few batches.

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
    batch_rows = _STATIC_ROWS if is_static(model) else _ROWS
    rows = corpus.rows.sample(min(len(corpus), _BATCHES * batch_rows), seed=0)
    tokens = tokens_of(Corpus(rows=rows, languages=corpus.languages, report=corpus.report), model)
    adapt(model, tokens, settings, seed=0)
    fit = fitted(model, tokens, objective, settings.model_copy(update={"batch_rows": batch_rows}), seed=0)
    collator = TokenCollator(tokens, model, objective, tokens_per_chunk=fit.tokens_per_chunk)
    loss = MultiwayLoss(model, objective, cache_gradients=fit.cache_gradients)
    best = {True: 0.0, False: 0.0}
    for number, part in enumerate(np.array_split(np.arange(len(tokens)), _BATCHES)):
        batch = collator([{"row": int(row)} for row in part])
        features = [_on(model.device, chunk) for chunk in chunks_of(batch)]
        for training in (True, False):
            model.train(training)
            started = time.perf_counter()
            bf16 = training and uses_bf16(settings, model.device)
            with torch.set_grad_enabled(training), torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
                value = loss(features, batch["label"].to(model.device))
                if training:
                    value.backward()
            value.item()  # waits for the device
            if number:
                best[training] = max(best[training], len(batch["label"]) / (time.perf_counter() - started))
    return Speed(training=best[True], encoding=best[False])


def _on(device: torch.device, chunk: dict[str, object]) -> dict[str, object]:
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in chunk.items()}
