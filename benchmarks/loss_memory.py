"""Memory and time of the multi-way objective, forward and backward, beside its plain form and another library's loss.

8,192 rows in 7 languages with 768 dimensions, 57,344 embeddings in float32 at random. Memory is the peak of the process
above what it holds before, which includes the embeddings, and above the embeddings' gradient. Each measurement is a
process of its own, after a small one that is not measured.

- The objective (`multi-way`): a tile of the similarities at a time.
- Its plain form holds whole similarity matrices, one per language and one more. It is timed where it fits, in turns
  with the objective: 1,024 rows in 7 languages.
- `CachedMultipleNegativesRankingLoss` of sentence-transformers, its loss stage alone, in both directions, on as many
  embeddings: they make half as many pairs, and each anchor is compared with half of the texts.

    python benchmarks/loss_memory.py            # about six minutes on two cores, 8 GB of memory
    python benchmarks/loss_memory.py --quick    # 2,048 rows, and 512 for the plain form; under two minutes

The last line is one JSON object: name, value, unit, goal, met.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from polyalign.training.objective import PRESETS, contrastive_terms

GOAL_GIB = 1.5
GOAL_TIMES = 1.2
GIB = 2**30
OBJECTIVE = PRESETS["multi-way"]


def main() -> None:
    """Measure each in a process of its own, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller sizes, under two minutes")
    parser.add_argument("--rows", type=int, help="default 8192, with --quick 2048")
    parser.add_argument("--plain-rows", type=int, help="rows that the plain form is given; default 1024, --quick 512")
    parser.add_argument("--languages", type=int, default=7)
    parser.add_argument("--dimensions", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=3, help="turns of the objective and its plain form")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.rows = options.rows or (2048 if options.quick else 8192)
    options.plain_rows = options.plain_rows or (512 if options.quick else 1024)
    torch.set_num_threads(options.threads)
    if options.stage:
        print(json.dumps(STAGES[options.stage](options)))
        return
    texts = options.rows * options.languages
    matrix_gib = texts**2 * 4 / GIB
    print(f"{machine()}; {options.threads} threads")
    print(
        f"{options.rows} rows x {options.languages} languages x {options.dimensions} dimensions: {texts} embeddings, "
        f"{texts * options.dimensions * 4 / GIB:.2f} GiB; one similarity matrix has {matrix_gib:.1f} GiB, and the "
        f"plain form holds {options.languages + 1}: {(options.languages + 1) * matrix_gib:.0f} GiB"
    )
    ours, cached, plain = (in_a_process(stage, options) for stage in STAGES)
    print(f"objective            {ours['gib']:6.2f} GiB {ours['seconds']:7.1f} s")
    print(f"cached MNRL          {cached['gib']:6.2f} GiB {cached['seconds']:7.1f} s")
    times = plain["ours_seconds"] / plain["plain_seconds"]
    print(
        f"{options.plain_rows} rows: objective {plain['ours_seconds']:.2f} s, plain form {plain['plain_seconds']:.2f} "
        f"s: {times:.2f} times its time, of which at most {GOAL_TIMES} are allowed"
    )
    result = {"name": "loss_memory", "value": round(ours["gib"], 2), "unit": "GiB beside embeddings and gradient"}
    met = ours["gib"] <= GOAL_GIB and times <= GOAL_TIMES
    beside = {
        "rows": options.rows,
        "seconds": round(ours["seconds"], 1),
        "times_of_plain": round(times, 2),
        "cached_mnrl_gib": round(cached["gib"], 2),
        "cached_mnrl_seconds": round(cached["seconds"], 1),
    }
    print(json.dumps(result | {"goal": GOAL_GIB, "met": met} | beside))


def in_a_process(stage: str, options: argparse.Namespace) -> dict[str, float]:
    """Return what a stage measures."""
    sizes = ("rows", "plain_rows", "languages", "dimensions", "rounds", "threads")
    arguments = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in sizes]
    command = [sys.executable, __file__, f"--stage={stage}", *arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def measure_objective(options: argparse.Namespace) -> dict[str, float]:
    """Return the memory and the seconds of the objective."""
    return measure(objective_step, options)


def measure_cached(options: argparse.Namespace) -> dict[str, float]:
    """Return the memory and the seconds of CachedMultipleNegativesRankingLoss."""
    return measure(cached_step, options)


def measure_plain(options: argparse.Namespace) -> dict[str, float]:
    """Return the seconds of the objective and its plain form, over all turns."""
    inputs = batch(options.plain_rows, options)
    seconds: dict[str, float] = {}
    for turn in range(options.rounds + 1):  # the first is not counted
        for name, step in (("ours_seconds", objective_step), ("plain_seconds", plain_step)):
            inputs[0].grad = None
            started = time.perf_counter()
            step(*inputs)
            if turn:
                seconds[name] = seconds.get(name, 0) + (time.perf_counter() - started) / options.rounds
    return seconds


STAGES: dict[str, Callable[[argparse.Namespace], dict[str, float]]] = {
    "objective": measure_objective,
    "cached": measure_cached,
    "plain": measure_plain,
}


def measure(step: Callable[..., None], options: argparse.Namespace) -> dict[str, float]:
    """Return the peak memory of a step, above what was held and the embeddings' gradient, and its seconds."""
    step(*batch(8, options))
    inputs = batch(options.rows, options)
    before = memory_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # sets the peak to what is held now
    started = time.perf_counter()
    step(*inputs)
    seconds = time.perf_counter() - started
    return {"gib": (memory_bytes("VmHWM") - before - inputs[0].nbytes) / GIB, "seconds": seconds}


def memory_bytes(name: str) -> int:
    """Return the memory of this process that Linux calls by this name."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def batch(rows: int, options: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return embeddings, rows, languages and texts: every cell, no text twice."""
    texts = rows * options.languages
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(texts, options.dimensions, generator=generator).requires_grad_()
    row = torch.arange(rows).repeat_interleave(options.languages)
    return embeddings, row, torch.arange(options.languages).repeat(rows), torch.arange(texts)


def objective_step(embeddings: Tensor, row: Tensor, language: Tensor, text_id: Tensor) -> None:
    """Forward and backward, as a training step has them."""
    contrastive_terms(embeddings, row, language, text_id, OBJECTIVE).mean().backward()


def plain_step(embeddings: Tensor, row: Tensor, language: Tensor, text_id: Tensor) -> None:
    """The same for `multi-way`, written down with whole matrices."""
    unit = normalize(embeddings, dim=-1)
    cosine = unit @ unit.T
    holds = torch.zeros(int(row.max()) + 1, int(text_id.max()) + 1, dtype=torch.bool)
    holds[row, text_id] = True
    allowed = ~holds[row][:, text_id]
    negatives = torch.stack(
        [
            (cosine / OBJECTIVE.temperature).masked_fill(~(allowed & (language == code)), -torch.inf).logsumexp(1)
            for code in range(int(language.max()) + 1)
        ],
        dim=1,
    )
    anchor, positive = ((row[:, None] == row) & (language[:, None] != language)).nonzero(as_tuple=True)
    logit = cosine[anchor, positive] / OBJECTIVE.temperature
    (torch.logaddexp(negatives[anchor, language[positive]], logit) - logit).mean().backward()


def cached_step(embeddings: Tensor, *_: Tensor) -> None:
    """The loss stage of CachedMultipleNegativesRankingLoss: the first half of the texts against the second."""
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    loss = CachedMultipleNegativesRankingLoss(
        torch.nn.Sequential(torch.nn.Identity()),
        scale=1 / OBJECTIVE.temperature,
        mini_batch_size=1024,
        directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    )
    # In training, its mini-batches of embeddings are leaves: halves of a leaf would share a gradient of full size.
    halves = [[half.detach().requires_grad_()] for half in embeddings.chunk(2)]
    loss.calculate_loss(halves, with_backward=True)


def machine() -> str:
    """Return the processor, the number of cores and the versions that decide the numbers."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "sentence-transformers"))
    return f"{cpu}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}"


if __name__ == "__main__":
    main()
