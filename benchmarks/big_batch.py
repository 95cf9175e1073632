"""Memory of one optimizer step on 2,048 rows in 7 languages, 14,336 texts, with an encoder of MiniLM's shape.

Ours alone, with cached gradients: a process of its own loads the encoder, tokenizes, makes the step and reports the
most memory it has ever held, Python and libraries included.

    python benchmarks/big_batch.py            # some minutes
    python benchmarks/big_batch.py --quick    # 256 rows, under two minutes

The last line is one JSON object: name, value, unit, goal, met.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import common
from common import SentenceTransformer

GOAL_GIB = 4.0


def main() -> None:
    """Make the encoder, let another process make the step, print what it held."""
    parser = common.arguments_parser(__doc__)
    parser.add_argument("--rows", type=int, help="of the step; default 2048, with --quick 256")
    parser.add_argument("--stage", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.rows = options.rows or (256 if options.quick else 2048)
    if options.stage:
        print(json.dumps(one_step(options)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        base, corpus = common.prepared(options, Path(temporary), rows=options.rows)
        rows = min(options.rows, len(corpus))
        command = [sys.executable, __file__, "--stage", temporary, "--rows", str(rows), "--base", str(base)]
        command += ["--corpus", options.corpus, "--languages", options.languages] if options.corpus else []
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{rows:,} rows, {found['texts']:,} texts, {found['tokens']:,} tokens, {found['padding']:.1%} padding; "
        f"one step in {found['seconds']:.0f} s; {found['before']:.2f} GiB before it"
    )
    common.conclude(
        "big_batch", found["gib"], "GiB resident at most", f"<= {GOAL_GIB:g}", found["gib"] <= GOAL_GIB,
        rows=rows, seconds=round(found["seconds"], 1), texts_per_sec=round(found["texts"] / found["seconds"], 1),
    )  # fmt: skip


def one_step(options: argparse.Namespace) -> dict[str, Any]:
    """Make one step over all rows; return what it computed, and the memory before it and at most."""
    if options.corpus:
        corpus = common.Corpus.open(options.corpus, languages=options.languages.split(","))
        corpus = common.Corpus(corpus.rows[: options.rows], corpus.languages, corpus.report)
    else:
        corpus = common.make_corpus(options.rows)
    model = SentenceTransformer(options.base)
    trainer = common.our_trainer(model, corpus, options.stage, batch=options.rows, gradient_cache=True)
    before = common.memory_bytes("VmRSS")
    work = common.measured(trainer, seconds=0, warm_up=0, steps=1)
    return {
        "gib": common.memory_bytes("VmHWM") / common.GIB,
        "before": before / common.GIB,
        "seconds": work.seconds,
        "texts": work.texts,
        "tokens": work.tokens,
        "padding": work.padding,
    }


if __name__ == "__main__":
    main()
