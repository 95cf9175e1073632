"""Texts a second of training on a CPU in bfloat16, attention in plain matrix products against PyTorch's fused kernel.

`polyalign.training.adapting.adapt` chooses the first. Both train the same encoder on the same rows, in turns, with the
dropout of the encoder and without any; only that choice differs.

    python benchmarks/attention.py            # about four minutes
    python benchmarks/attention.py --quick    # under two minutes

The last line is one JSON object: name, value (the lower of both ratios), unit, goal, met.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

import common
from common import SentenceTransformer, SentenceTransformerTrainer, Work
from polyalign.corpus import Corpus

GOAL = 1.0
ROWS = 32
SIDES = {"plain": "eager", "fused": "sdpa"}


def main() -> None:
    """Let the two take turns with and without dropout, print what was measured."""
    parser = common.arguments_parser(__doc__)
    parser.add_argument("--rows", type=int, default=2000, help="rows of the corpus, unless --corpus is given")
    parser.add_argument("--rounds", type=int, help="turns of each; default 3, with --quick 1")
    options = parser.parse_args()
    unit = "times the texts/s of fused attention"
    if torch.cuda.is_available() or not common.bf16():
        print("no CPU that computes in bfloat16 trains here: nothing is measured")
        common.conclude("attention", None, unit, f">= {GOAL:g}", None)
        return
    ratios = {}
    with tempfile.TemporaryDirectory() as temporary:
        base, corpus = common.prepared(options, Path(temporary), rows=options.rows)
        for name, dropout in (("dropout as in the base", None), ("no dropout", 0.0)):
            total = dict.fromkeys(SIDES, Work())
            for turn in range(options.rounds or (1 if options.quick else 3)):
                for side in SIDES:
                    work = common.measured(trainer_of(side, dropout, base, corpus, Path(temporary)), seconds=15)
                    total[side] += work
                    print(f"round {turn + 1} {name}, {side}: {work.texts_per_sec:.1f} texts/s", flush=True)
            ratios[name] = total["plain"].texts_per_cpu_sec / total["fused"].texts_per_cpu_sec
            print(f"{name}: {total['plain'].texts_per_sec / total['fused'].texts_per_sec:.2f} times", flush=True)
    lowest = min(ratios.values())
    rounded = {name: round(ratio, 3) for name, ratio in ratios.items()}
    common.conclude("attention", lowest, f"{unit}, in processor time", f">= {GOAL:g}", lowest >= GOAL, ratios=rounded)


def trainer_of(
    side: str, dropout: float | None, base: Path, corpus: Corpus, folder: Path
) -> SentenceTransformerTrainer:
    """Return our Trainer on a fresh encoder that attends as ``side`` says; None keeps the base's dropout."""
    model = SentenceTransformer(str(base))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout) and dropout is not None:
            module.p = dropout
    trainer = common.our_trainer(model, corpus, folder, batch=ROWS)
    model[0].model.set_attn_implementation(SIDES[side])
    return trainer


if __name__ == "__main__":
    main()
