"""Several processes, one batch: what they exchange. Alone, a process exchanges nothing and these functions say so.

Started by ``torchrun``, which tells each process its rank and how many there are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

Value = TypeVar("Value")


def join() -> None:
    """Meet the other processes that ``torchrun`` started, if there are any; each gets its share of GPUs or cores."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        return
    local_rank, local_world = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    else:  # torchrun leaves one thread to each process, however many cores there are
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_world))
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def world_size() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Return the number of this process; 0 alone writes."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def wait_for_all() -> None:
    """Return when every process has come here."""
    if world_size() > 1:
        distributed.barrier()


def from_first(value: Value) -> Value:
    """Return what process 0 gave, in every process."""
    if world_size() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def gather(local: Tensor) -> tuple[Tensor, slice]:
    """Return the rows of all processes, in the order of their ranks, and where this one's are; without gradient.

    Args:
        local: [t, ...], t differing between processes and 0 in some, all else alike.
    """
    if world_size() == 1:
        return local.detach(), slice(0, len(local))
    counts = [torch.zeros(1, dtype=torch.long, device=local.device) for _ in range(world_size())]
    distributed.all_gather(counts, torch.tensor([len(local)], device=local.device))
    rows = [int(count) for count in counts]
    # all_gather wants equal shapes.
    padded = local.new_zeros(max(rows), *local.shape[1:])
    padded[: len(local)] = local.detach()
    parts = [torch.empty_like(padded) for _ in rows]
    distributed.all_gather(parts, padded)
    start = sum(rows[: rank()])
    return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)]), slice(start, start + len(local))


def add_up(*values: Tensor) -> tuple[Tensor, ...]:
    """Return the sums over all processes, without gradient; alone, the values themselves."""
    if world_size() > 1:
        values = tuple(value.detach().clone() for value in values)
        for value in values:
            distributed.all_reduce(value)
    return values


def add_up_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its sum over all processes; one that a process lacks counts as 0.

    One exchange a data type, over all gradients laid end to end: each step has one moment at which processes wait.
    """
    if world_size() == 1:
        return
    by_type: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.requires_grad:
            by_type.setdefault(parameter.dtype, []).append(parameter)
    for alike in by_type.values():
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in alike])
        distributed.all_reduce(flat)
        for parameter, gradient in zip(alike, torch.split(flat, [p.numel() for p in alike]), strict=True):
            parameter.grad = gradient.view_as(parameter)
