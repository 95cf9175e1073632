"""The engine alone: texts a second on the same batches of 64 English-X pairs with the same loss on the same encoder.

Ours is `MultiwayTrainer` with the preset `en-x`, the same as MultipleNegativesRankingLoss in both directions. The peers
are sentence-transformers' Trainer with that, and with its cached form. They take turns; model loading and the first
steps are not timed. What differs is the engine: tokens made once, chunks of alike lengths, the embeddings that occur.

    python benchmarks/like_for_like.py            # about 5 minutes
    python benchmarks/like_for_like.py --quick    # under two minutes

Useful GFLOP are of one forward and one backward pass over the real tokens; their share is of a large matrix product in
the same precision, measured in every round. The last line is one JSON object: name, value, unit, goal, met.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import common
from common import SentenceTransformer, SentenceTransformerTrainer, Work
from polyalign.corpus import Corpus

GOAL = 2.0
BATCH = 64
MINI_BATCHES = (32, 64)
"""Of the cached loss: sentence-transformers' default, and the size of a column."""


def main() -> None:
    """Let them take turns, print what was measured."""
    parser = common.arguments_parser(__doc__)
    parser.add_argument("--rows", type=int, default=4000, help="rows of the corpus, unless --corpus is given")
    parser.add_argument("--seconds", type=float, help="of a turn of one side; default 15, with --quick 8")
    parser.add_argument("--rounds", type=int, help="turns of each; default 2, with --quick 1")
    options = parser.parse_args()
    seconds = options.seconds or (8 if options.quick else 15)
    rounds = options.rounds or (1 if options.quick else 2)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base, corpus = common.prepared(options, folder, rows=options.rows)
        trainers = sides(base, corpus, folder, MINI_BATCHES[:1] if options.quick else MINI_BATCHES)
        total = dict.fromkeys(trainers, Work())
        matrix = 0.0
        for turn in range(rounds):
            matrix = max(matrix, common.matrix_gflops())
            for side, make in trainers.items():
                work = common.measured(make(), seconds=seconds)
                total[side] += work
                print(f"round {turn + 1} {side:26} {work.texts_per_sec:7.1f} texts/s in {work.steps} steps", flush=True)
        model = SentenceTransformer(str(base))
        shares = {side: work.useful_gflops(model) / matrix for side, work in total.items()}
        print(f"{BATCH} pairs a step; a matrix product in this precision: {matrix:.0f} GFLOP/s")
        common.table(
            ("", "texts/s", "real tokens", "computed", "padding", "useful GFLOP/s", "share of the matrix product"),
            [
                (side, f"{work.texts_per_sec:.1f}", f"{work.tokens:,}", f"{work.computed:,}", f"{work.padding:.1%}",
                 f"{work.useful_gflops(model):.1f}", f"{shares[side]:.1%}")
                for side, work in total.items()
            ],
        )  # fmt: skip
    ours, *peers = total.values()
    ratio = ours.texts_per_sec / max(peer.texts_per_sec for peer in peers)
    cpu = ours.texts_per_cpu_sec / max(peer.texts_per_cpu_sec for peer in peers)
    print(f"in processor time, which other programs on the machine disturb less: {cpu:.2f} times")
    common.conclude(
        "like_for_like", ratio, "times the texts/s of sentence-transformers", f">= {GOAL:g}", ratio >= GOAL,
        texts_per_sec={side: round(work.texts_per_sec, 1) for side, work in total.items()},
        share_of_matrix_rate={side: round(share, 3) for side, share in shares.items()},
    )  # fmt: skip


def sides(
    base: Path, corpus: Corpus, folder: Path, mini_batches: tuple[int, ...]
) -> dict[str, Callable[[], SentenceTransformerTrainer]]:
    """Return what makes a Trainer of each side with a fresh encoder, ours first."""
    pairs = common.exploded(corpus, english_only=True)

    def ours() -> SentenceTransformerTrainer:
        return common.our_trainer(SentenceTransformer(str(base)), corpus, folder, batch=BATCH, objective="en-x")

    def peer(size: int | None) -> Callable[[], SentenceTransformerTrainer]:
        cached = None if size is None else {"mini_batch_size": size}
        return lambda: common.peer_trainer(SentenceTransformer(str(base)), pairs, folder, batch=BATCH, cached=cached)

    peers = {f"cached, mini-batches of {size}": peer(size) for size in mini_batches}
    return {"polyalign": ours, "sentence-transformers": peer(None)} | peers


if __name__ == "__main__":
    main()
