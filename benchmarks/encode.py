"""Texts a second of `CachedEncoder`, through which polyalign evaluates, against plain `SentenceTransformer.encode`.

Both encode the same distinct texts of seven languages in float32, 64 at a time, in turns; ours with nothing remembered.
An encoder of MiniLM's shape and a static one, both with random weights. There is no goal: what is asked is whether
remembering costs anything where nothing is asked twice.

    python benchmarks/encode.py            # about two minutes
    python benchmarks/encode.py --quick    # under one minute

The last line is one JSON object: name, value, unit, goal, met.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

import common
from common import SentenceTransformer
from polyalign.encoder import CachedEncoder

BATCH = 64


def main() -> None:
    """Let the two take turns on both encoders, print what was measured."""
    parser = common.arguments_parser(__doc__)
    parser.add_argument("--texts", type=int, help="for the larger encoder; default 4000, with --quick 1000")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each")
    options = parser.parse_args()
    texts = options.texts or (1000 if options.quick else 4000)
    with tempfile.TemporaryDirectory() as temporary:
        base, corpus = common.prepared(options, Path(temporary), rows=10_000)
        cells = list(dict.fromkeys(text for tag in corpus.languages for text in corpus.rows[tag].drop_nulls()))
        shuffled = [cells[place] for place in np.random.default_rng(0).permutation(len(cells))]
        static = common.make_base("static", Path(temporary) / "static")
        speeds = {
            name: measure(name, SentenceTransformer(str(folder)), shuffled[:count], options.rounds)
            for name, folder, count in (("static", static, 16 * texts), ("transformer", base, texts))
        }
    ratios = {name: speed["CachedEncoder"] / speed["encode"] for name, speed in speeds.items()}
    common.conclude(
        "encode", ratios["transformer"], "times the texts/s of encode", None, None,
        static=round(ratios["static"], 3), texts_per_sec=speeds,
    )  # fmt: skip


def measure(name: str, model: SentenceTransformer, texts: list[str], rounds: int) -> dict[str, float]:
    """Return the texts a second of both, over all turns; say so if the embeddings differ."""
    print(f"{name}: {len(texts):,} distinct texts, {BATCH} at a time")

    def plain() -> np.ndarray:
        return model.encode(texts, batch_size=BATCH, show_progress_bar=False)

    def ours() -> np.ndarray:
        return CachedEncoder(model, batch_size=BATCH).encode(texts)

    model.encode(texts[:BATCH], show_progress_bar=False)
    seconds: defaultdict[str, float] = defaultdict(float)
    processor: defaultdict[str, float] = defaultdict(float)
    for turn in range(rounds):
        vectors = []
        for side, run in (("encode", plain), ("CachedEncoder", ours)):
            started, used = time.perf_counter(), time.process_time()
            vectors.append(run())
            taken = time.perf_counter() - started
            seconds[side] += taken
            processor[side] += time.process_time() - used
            print(f"round {turn + 1} {side:13} {len(texts) / taken:8.0f} texts/s", flush=True)
        if not np.allclose(vectors[0], vectors[1], atol=1e-5):
            raise SystemExit(f"{name}: the embeddings differ by up to {np.abs(vectors[0] - vectors[1]).max()}")
    cpu = processor["encode"] / processor["CachedEncoder"]
    print(f"in processor time, which other programs on the machine disturb less: {cpu:.2f} times")
    return {side: round(rounds * len(texts) / taken, 1) for side, taken in seconds.items()}


if __name__ == "__main__":
    main()
