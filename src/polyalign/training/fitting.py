"""How much of a batch fits into the memory of the device."""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from polyalign.training.batches import TokenCollator
from polyalign.training.distributed import world_size

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from polyalign.training.objective import Objective
    from polyalign.training.settings import TrainingSettings
    from polyalign.training.tokens import Tokens

log = logging.getLogger(__name__)

SHARE = 0.5
"""Of the device's memory that activations may take; the rest is for weights, optimizer and what else is at work."""


_TOKENS_PER_CHUNK = {"cpu": 512, "cuda": 16_384}
_TRIAL_ROWS = 32


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How the steps of a training fit the device.

    Attributes:
        batch_rows: rows a step, of all processes together.
        cache_gradients: whether one chunk's activations are kept at a time; see `MultiwayLoss`.
        tokens_per_chunk: the most tokens of one forward pass.
    """

    batch_rows: int
    cache_gradients: bool
    tokens_per_chunk: int


def fitted(
    model: SentenceTransformer, tokens: Tokens, objective: Objective, settings: TrainingSettings, *, seed: int
) -> Fit:
    """Return what `TrainingSettings` leave to the machine: a function of model, corpus and memory size alone.

    Args:
        model: the encoder in training, on its device.
        tokens: of the training rows.
        objective: decides how many of a row's languages a step encodes.
        settings: what is asked for.
        seed: of the rows that are tried.
    """
    per_chunk = settings.tokens_per_chunk or _TOKENS_PER_CHUNK.get(model.device.type, 2048)
    if settings.batch_rows != "auto" and settings.gradient_cache != "auto":
        return Fit(batch_rows=settings.batch_rows, cache_gradients=settings.gradient_cache, tokens_per_chunk=per_chunk)
    per_row = _bytes_per_row(model, tokens, objective, settings, per_chunk, seed) / world_size()
    available = memory_for_activations(model.device)
    batch_rows = settings.batch_rows
    if batch_rows == "auto":
        batch_rows = largest_batch(per_row, available, len(tokens))
        log.info(
            "batch: %d rows, whose activations take %.2f of the %.2f GiB there are for them",
            batch_rows, batch_rows * per_row / 2**30, available / 2**30,
        )  # fmt: skip
    cache = batch_rows * per_row > available if settings.gradient_cache == "auto" else settings.gradient_cache
    if cache:
        log.info("gradients are cached: one chunk's activations at a time, for a second forward pass")
    return Fit(batch_rows=batch_rows, cache_gradients=cache, tokens_per_chunk=per_chunk)


def _bytes_per_row(
    model: SentenceTransformer,
    tokens: Tokens,
    objective: Objective,
    settings: TrainingSettings,
    per_chunk: int,
    seed: int,
) -> float:
    """Return the mean activation memory of a row, from the chunks of some rows."""
    rows = np.random.default_rng(seed).permutation(len(tokens))[:_TRIAL_ROWS]
    collator = TokenCollator(tokens, model, objective, seed=seed, tokens_per_chunk=per_chunk)
    batch = collator([{"row": int(row)} for row in rows])
    bf16 = uses_bf16(settings, model.device)
    was_training = model.training
    model.train()
    total = sum(activation_bytes(model, features, bf16=bf16) for features in chunks_of(batch))
    model.train(was_training)
    return total / len(rows)


def chunks_of(batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the tokenized chunks of a collated batch, as the model takes them."""
    prefixes = [name.removesuffix("input_ids") for name in batch if name.endswith("_input_ids")]
    for prefix in prefixes:
        yield {name.removeprefix(prefix): value for name, value in batch.items() if name.startswith(prefix)}


def activation_bytes(model: SentenceTransformer, features: dict[str, Any], *, bf16: bool) -> int:
    """Return the bytes that a forward pass of ``features`` keeps for its backward pass, parameters left out.

    Counted at the tensors that autograd saves, so the same on every machine and for any device.

    Args:
        model: the encoder, in training mode: dropout keeps its masks.
        features: one tokenized chunk.
        bf16: whether training runs in bfloat16.
    """
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}
    held: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor.detach())  # until all is counted, or its storage would be given out again
        return torch.empty(0)  # not the tensor: a graph that holds its own outputs is never freed

    on_device = {
        name: value.to(model.device) if isinstance(value, Tensor) else value for name, value in features.items()
    }
    with (
        torch.random.fork_rng(),
        torch.autocast(model.device.type, torch.bfloat16, enabled=bf16),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda nothing: nothing),
    ):
        model(on_device)
    return sum(kept.values())


def memory_for_activations(device: torch.device) -> int:
    """Return the bytes that activations may take on a device, for each of the processes that share it."""
    if device.type == "cuda":
        return int(SHARE * torch.cuda.get_device_properties(device).total_memory)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")  # of the container, if there is one
    if limit.is_file() and (found := limit.read_text().strip()).isdigit():
        total = min(total, int(found))
    return int(SHARE * total) // world_size()


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that this process has held at once on a device, or in main memory for a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def largest_batch(bytes_per_row: float, available: int, rows: int) -> int:
    """Return the largest power of two of rows that fits, at least 2 and at most half of all rows.

    Args:
        bytes_per_row: that activations take.
        available: bytes.
        rows: of the corpus.
    """
    most = max(2, min(int(available / bytes_per_row), rows // 2))
    return 1 << (most.bit_length() - 1)


def uses_bf16(settings: TrainingSettings, device: torch.device) -> bool:
    """Return whether to compute in bfloat16; a CPU without instructions for it emulates it, many times slower."""
    if device.type == "cpu":
        able = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        able = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if settings.bf16 == "auto":
        return bool(able)
    if settings.bf16 and not able:
        log.warning("this device only emulates bfloat16, many times slower than float32; bf16 'auto' would not")
    return settings.bf16
