"""On a CUDA device: texts a second and the share of the card's matrix rate, the tiled loss's memory, packing.

- Training: XLM-RoBERTa base's shape with random weights, bfloat16, 2,048 rows in 7 languages a step, 64 tokens at most.
  Ours, and sentence-transformers' Trainer with CachedMultipleNegativesRankingLoss on as many texts, the best of some
  mini-batch sizes, in turns. The share counts one forward and one backward pass over real tokens, 6 operations a weight
  that is no embedding, and attention; the second forward pass of cached gradients counts as nothing.
- The loss at 131,072 embeddings of 768 dimensions: memory beside the embeddings and their gradient.
- Packing, where flash attention is installed: that texts laid end to end have the embeddings of padded ones.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --quick

Without a GPU it says so and measures nothing. The last line is one JSON object: name, value, unit, goal, met.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import common
from common import SentenceTransformer, SentenceTransformerTrainer, Work
from polyalign.corpus import Corpus
from polyalign.training.objective import PRESETS, contrastive_terms

GOAL_SHARE = 0.40
GOAL_TIMES = 1.5
MAX_DIFFERENCE = 0.02
"""Of packed and padded embeddings, 1 - cosine, in bfloat16."""


class Sizes(NamedTuple):
    """The encoder's shape, rows of a step, embeddings of the loss alone and their dimensions, rows of a matrix."""

    shape: str
    rows: int
    embeddings: int
    dimensions: int
    matrix: int


SIZES = {"cuda": Sizes("xlm-r-base", 2048, 131_072, 768, 8192), "cpu": Sizes("tiny", 16, 1024, 64, 256)}
MINI_BATCHES = {"cuda": (128, 512, 2048), "cpu": (32, 64)}


def main() -> None:
    """Measure what the device allows, print what was found."""
    parser = common.arguments_parser(__doc__)
    parser.add_argument("--seconds", type=float, help="of a turn of one side; default 20, with --quick 8")
    parser.add_argument("--rounds", type=int, help="turns of each; default 3, with --quick 1")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help=argparse.SUPPRESS)  # cpu: a rehearsal
    options = parser.parse_args()
    unit, goal = "of the card's bfloat16 matrix rate", f">= {GOAL_SHARE:g}, at >= {GOAL_TIMES:g} times the peer's speed"
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here: nothing is measured")
        common.conclude("gpu", None, unit, goal, None)
        return
    on_gpu = options.device == "cuda"
    options.seconds = options.seconds or ((8 if options.quick else 20) if on_gpu else 0)
    options.rounds = options.rounds or (1 if options.quick or not on_gpu else 3)
    sizes = SIZES[options.device]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base, corpus = common.prepared(options, folder, rows=4 * sizes.rows, shape=sizes.shape)
        difference = packed_difference(base, corpus)
        found = training(base, corpus, folder, options)
    loss_gib, loss_seconds = loss_memory(sizes.embeddings, sizes.dimensions)
    print(
        f"loss at {sizes.embeddings:,} x {sizes.dimensions}: {loss_seconds:.2f} s forward and backward, "
        f"{'memory not measured' if loss_gib is None else f'{loss_gib:.2f} GiB beside embeddings and gradient'}"
    )
    met = found["share"] >= GOAL_SHARE and found["ratio"] >= GOAL_TIMES
    met = met and (difference is None or difference <= MAX_DIFFERENCE)
    common.conclude(
        "gpu", found.pop("share"), unit, goal, met, **found, loss_gib=loss_gib, packed_difference=difference
    )


def load(base: Path) -> SentenceTransformer:
    """Return the encoder in training precision, with flash attention and without padding where that is installed."""
    packed = {"attn_implementation": "flash_attention_2"} if is_packed() else {}
    return SentenceTransformer(str(base), model_kwargs=packed)


def is_packed() -> bool:
    """Return whether texts can be laid end to end instead of padded."""
    from transformers.utils import is_flash_attn_2_available

    return torch.cuda.is_available() and is_flash_attn_2_available()


def training(base: Path, corpus: Corpus, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Let the two take turns; return speeds, their ratio, and our share of the matrix rate."""
    sizes = SIZES[options.device]
    texts = sizes.rows * len(corpus.languages)
    pairs = common.exploded(corpus)

    def ours() -> SentenceTransformerTrainer:
        return common.our_trainer(load(base), corpus, folder, batch=sizes.rows)

    def peer(mini_batch: int) -> Callable[[], SentenceTransformerTrainer]:
        cached = {"mini_batch_size": mini_batch}
        return lambda: common.peer_trainer(load(base), pairs, folder, batch=texts // 2, cached=cached)

    speed = {
        size: common.measured(peer(size)(), seconds=options.seconds / 2, warm_up=1).texts_per_sec
        for size in MINI_BATCHES[options.device]
    }
    best = max(speed, key=speed.__getitem__)
    print(f"{texts:,} texts a step; mini-batches of sentence-transformers: {best} of {sorted(speed)}")
    total = {"polyalign": Work(), "sentence-transformers": Work()}
    matrix = 0.0
    for turn in range(options.rounds):
        matrix = max(matrix, common.matrix_gflops(sizes.matrix))
        for side, make in zip(total, (ours, peer(best)), strict=True):
            work = common.measured(make(), seconds=options.seconds, warm_up=2)
            total[side] += work
            print(f"round {turn + 1} {side:21} {work.texts_per_sec:9.0f} texts/s in {work.steps} steps", flush=True)
    model = SentenceTransformer(str(base), device="cpu")
    useful = {side: work.useful_gflops(model) for side, work in total.items()}
    print(f"a matrix product in this precision: {matrix / 1000:.1f} TFLOP/s; packed: {'yes' if is_packed() else 'no'}")
    common.table(
        ("", "texts/s", "padding", "useful TFLOP/s", "share of the matrix product"),
        [
            (side, f"{work.texts_per_sec:.0f}", f"{work.padding:.1%}", f"{useful[side] / 1000:.1f}",
             f"{useful[side] / matrix:.1%}")
            for side, work in total.items()
        ],
    )  # fmt: skip
    our, theirs = (work.texts_per_sec for work in total.values())
    return {"share": useful["polyalign"] / matrix, "ratio": our / theirs, "texts_per_sec": round(our)}


def loss_memory(count: int, dimensions: int) -> tuple[float | None, float]:
    """Return the memory in GiB that the loss takes beside embeddings and gradient, None on a CPU, and the seconds."""
    device = common.device()

    def step(texts: int) -> Tensor:
        embeddings = torch.randn(texts, dimensions, device=device).requires_grad_()
        place = torch.arange(texts, device=device)
        terms = contrastive_terms(embeddings, place // 8, place % 8, place, PRESETS["multi-way"])
        terms.mean().backward()
        return embeddings

    step(64)
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    started = time.perf_counter()
    embeddings = step(count)
    if device.type == "cpu":
        return None, time.perf_counter() - started
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    return (torch.cuda.max_memory_allocated() - before - 2 * embeddings.nbytes) / common.GIB, seconds


def packed_difference(base: Path, corpus: Corpus) -> float | None:
    """Return the largest 1 - cosine of packed and padded embeddings; None where flash attention is not installed."""
    if not is_packed():
        print("packing: flash attention is not installed; not compared")
        return None
    texts = [text for tag in corpus.languages for text in corpus.rows[tag][:64]]
    packed, padded = (
        SentenceTransformer(str(base), model_kwargs={"attn_implementation": kind, "dtype": torch.bfloat16})
        for kind in ("flash_attention_2", "sdpa")
    )
    if "cu_seq_lens_q" not in packed.preprocess(texts[:2]):
        raise SystemExit("packing: flash attention is installed, but texts are padded")
    ours, theirs = (
        torch.nn.functional.normalize(model.encode(texts, convert_to_tensor=True).float()) for model in (packed, padded)
    )
    difference = float(1 - (ours * theirs).sum(1).min())
    print(f"packing: embeddings differ from padded ones by at most {difference:.4f} (1 - cosine)")
    return difference


if __name__ == "__main__":
    main()
