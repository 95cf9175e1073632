"""What a lexical half costs at use: texts a second of an encoder with one, against the same encoder without.

Both encode the same distinct texts of seven languages in float32, 64 at a time, in turns. The vectors of the half are
random: what they hold makes no difference to the time.

    python benchmarks/lexical_half.py            # about two minutes
    python benchmarks/lexical_half.py --quick    # under one minute

The last line is one JSON object: name, value (of processor time), unit, goal, met.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

import common
from common import SentenceTransformer
from polyalign.training.lexical import append_half

GOAL = 0.95
BATCH = 64


def main() -> None:
    """Let the two take turns, print what was measured."""
    parser = common.arguments_parser(__doc__)
    parser.add_argument("--texts", type=int, help="default 4000, with --quick 1000")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each")
    options = parser.parse_args()
    count = options.texts or (1000 if options.quick else 4000)
    with tempfile.TemporaryDirectory() as temporary:
        base, corpus = common.prepared(options, Path(temporary), rows=10_000)
        cells = list(dict.fromkeys(text for tag in corpus.languages for text in corpus.rows[tag].drop_nulls()))
        texts = [cells[place] for place in np.random.default_rng(0).permutation(len(cells))[:count]]
        models = {side: SentenceTransformer(str(base)) for side in ("without", "with")}
    half = torch.randn(len(models["with"].tokenizer), models["with"].get_embedding_dimension())
    append_half(models["with"], half)
    processor: defaultdict[str, float] = defaultdict(float)
    for turn in range(options.rounds):
        for side, model in models.items():
            started, used = time.perf_counter(), time.process_time()
            model.encode(texts, batch_size=BATCH, show_progress_bar=False)
            processor[side] += time.process_time() - used
            speed = len(texts) / (time.perf_counter() - started)
            print(f"round {turn + 1} {side:7} {speed:8.0f} texts/s", flush=True)
    ratio = processor["without"] / processor["with"]
    common.conclude("lexical half", ratio, "times the texts/s of the encoder without", f">= {GOAL:g}", ratio >= GOAL)


if __name__ == "__main__":
    main()
