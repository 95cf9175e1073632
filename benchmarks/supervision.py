"""Anchor-positive pairs a second: rows of seven languages against the same rows as pairs, on the same encoder.

Ours is `MultiwayTrainer` with the preset `multi-way`: a row's seven texts are encoded once and make 42 terms. The peer
is sentence-transformers' Trainer with MultipleNegativesRankingLoss in both directions over all 21 pairs of a row's
languages: a pair's two texts are encoded and make 2 terms. Ours has its default batch, the peer the fastest of some.
They take turns; model loading and the first steps are not timed.

    python benchmarks/supervision.py            # about 5 minutes
    python benchmarks/supervision.py --quick    # under two minutes

With `--wall-clock SECONDS` both then train that long from the same base, once a seed, the learning rate rising in the
first tenth, and are compared on Tatoeba in the languages they have seen:

    python benchmarks/supervision.py --wall-clock 240 --seeds 3 --base DIR --corpus FILE --mteb-data DIR

The last line is one JSON object: name, value, unit, goal, met.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import common
from common import SentenceTransformer, SentenceTransformerTrainer, Work
from polyalign.corpus import Corpus
from polyalign.training.adapting import restore

GOAL = 12.0
PAIRS = (16, 32, 64, 128)
"""Batch sizes of the peer to try; with --quick the first alone."""
METRICS = ("f1", "accuracy")
UNITS = {"polyalign": "rows", "sentence-transformers": "pairs"}


def main() -> None:
    """Find the batch sizes, let the two take turns, print what was measured."""
    parser = common.arguments_parser(__doc__)
    parser.add_argument("--rows", type=int, default=4000, help="rows of the corpus, unless --corpus is given")
    parser.add_argument("--batch", type=int, default=32, help="our rows a step")
    parser.add_argument("--seconds", type=float, help="of a turn of one side; default 15, with --quick 8")
    parser.add_argument("--rounds", type=int, help="turns of each; default 3, with --quick 2")
    parser.add_argument("--wall-clock", type=float, help="seconds to train each for the comparison on Tatoeba")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each side for that comparison")
    parser.add_argument("--mteb-data", type=Path, help="a folder with Tatoeba in the Hub's layout; else the Hub's")
    options = parser.parse_args()
    options.seconds = options.seconds or (8 if options.quick else 15)
    options.rounds = options.rounds or (2 if options.quick else 3)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base, corpus = common.prepared(options, folder, rows=options.rows)
        trainers = sides(base, corpus, folder)
        batches = best_batches(trainers, options)
        total = measure(trainers, batches, corpus, options)
        terms = {side: work.texts * terms_per_text(side, corpus) / work.seconds for side, work in total.items()}
        ratio = terms["polyalign"] / terms["sentence-transformers"]
        ours, peer = (work.texts_per_cpu_sec * terms_per_text(side, corpus) for side, work in total.items())
        print(f"in processor time, which other programs on the machine disturb less: {ours / peer:.2f} times")
        beside: dict[str, Any] = {"batches": batches, "terms_per_sec": {s: round(value) for s, value in terms.items()}}
        met = ratio >= GOAL
        if options.wall_clock:
            scores = quality(trainers, batches, total, folder, corpus, options)
            beside["tatoeba"] = scores
            met = met and all(
                np.mean(scores["polyalign"][metric]) >= np.mean(scores["sentence-transformers"][metric])
                for metric in METRICS
            )
    common.conclude("supervision", ratio, "times the pairs/s of sentence-transformers", f">= {GOAL:g}", met, **beside)


def sides(base: Path, corpus: Corpus, folder: Path) -> dict[str, Callable[[int], SentenceTransformerTrainer]]:
    """Return what makes a Trainer of each side with a fresh encoder, given the batch size."""
    pairs = common.exploded(corpus)
    print(f"as pairs: {len(pairs):,}")

    def ours(batch: int) -> SentenceTransformerTrainer:
        return common.our_trainer(SentenceTransformer(str(base)), corpus, folder, batch=batch)

    def peer(batch: int) -> SentenceTransformerTrainer:
        return common.peer_trainer(SentenceTransformer(str(base)), pairs, folder, batch=batch)

    return {"polyalign": ours, "sentence-transformers": peer}


def terms_per_text(side: str, corpus: Corpus) -> float:
    """Return the anchor-positive terms for each encoded text, of rows without gaps or of pairs."""
    if side != "polyalign":
        return 1.0
    present = common.pl.sum_horizontal(common.pl.col(corpus.languages).is_not_null()).cast(int)
    return corpus.rows.select((present * (present - 1)).sum() / present.sum()).item()


def best_batches(
    trainers: dict[str, Callable[[int], SentenceTransformerTrainer]], options: argparse.Namespace
) -> dict[str, int]:
    """Try batch sizes, if there are several, for half a turn each; return the fastest of each side."""
    best = {}
    pairs = PAIRS[:1] if options.quick else PAIRS
    for side, candidates in {"polyalign": (options.batch,), "sentence-transformers": pairs}.items():
        speed = {
            batch: common.measured(trainers[side](batch), seconds=options.seconds / 2, warm_up=1).texts_per_sec
            for batch in (candidates if len(candidates) > 1 else ())
        }
        best[side] = max(speed, key=speed.__getitem__) if speed else candidates[0]
        tried = ", ".join(f"{batch}: {texts:.0f}" for batch, texts in speed.items())
        print(f"{side}: {best[side]} {UNITS[side]} a step (texts/s {tried or 'not tried'})", flush=True)
    return best


def measure(
    trainers: dict[str, Callable[[int], SentenceTransformerTrainer]],
    batches: dict[str, int],
    corpus: Corpus,
    options: argparse.Namespace,
) -> dict[str, Work]:
    """Let the sides take turns; return what each has computed over all of them."""
    total = dict.fromkeys(trainers, Work())
    for turn in range(options.rounds):
        for side, make in trainers.items():
            work = common.measured(make(batches[side]), seconds=options.seconds)
            total[side] += work
            terms = work.texts_per_sec * terms_per_text(side, corpus)
            print(
                f"round {turn + 1} {side:21} {terms:8.1f} terms/s {work.texts_per_sec:7.1f} texts/s, "
                f"{work.steps} steps in {work.seconds:.1f} s, padding {work.padding:.0%}",
                flush=True,
            )
    return total


def quality(
    trainers: dict[str, Callable[[int], SentenceTransformerTrainer]],
    batches: dict[str, int],
    total: dict[str, Work],
    folder: Path,
    corpus: Corpus,
    options: argparse.Namespace,
) -> dict[str, dict[str, list[float]]]:
    """Train each side for the same time; return its Tatoeba means over the seen languages by seed, and the base's."""
    of_base = tatoeba(options.base or str(folder / "minilm"), folder / "scores-base", corpus, options)
    found = {"base": {metric: [score] for metric, score in of_base.items()}}
    for seed in range(options.seeds):
        for side, make in trainers.items():
            trainer = make(batches[side])
            steps = options.wall_clock * total[side].steps / total[side].seconds
            trainer.args.warmup_steps = round(steps / 10)
            trainer.args.seed = seed  # of the order of rows
            common.torch.manual_seed(seed)  # of dropout
            work = common.measured(trainer, seconds=options.wall_clock, warm_up=0)
            print(f"{side}, seed {seed}: {work.steps} steps, {work.texts:,} texts in {work.seconds:.1f} s", flush=True)
            restore(trainer.model)
            encoder = folder / f"trained-{side}-{seed}"
            trainer.model.save(str(encoder), create_model_card=False)
            for metric, score in tatoeba(str(encoder), folder / f"scores-{side}-{seed}", corpus, options).items():
                found.setdefault(side, {}).setdefault(metric, []).append(score)
    return found


def tatoeba(encoder: str, out: Path, corpus: Corpus, options: argparse.Namespace) -> dict[str, float]:
    """Return an encoder's means over Tatoeba's pairs of English and the languages it has seen."""
    from polyalign import evaluate

    languages = [tag for tag in corpus.languages if tag != "en"]
    scores = evaluate(
        encoder,
        tasks=["Tatoeba"],
        languages=languages,
        seen_languages=["en", *languages],
        out=out,
        mteb_data=options.mteb_data,
    )
    means = scores.group_by("metric").agg(common.pl.col("value").mean())
    found = {metric: round(score, 4) for metric, score in means.iter_rows() if metric in METRICS}
    print(f"Tatoeba, {', '.join(languages)} with English: {out.name.removeprefix('scores-')} {found}", flush=True)
    return found


if __name__ == "__main__":
    main()
