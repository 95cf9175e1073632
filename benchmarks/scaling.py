"""How time and memory grow: with the batch, the number of languages, the size of the corpus, the number of processes.

- `batch`: time a text against rows a step. Above what memory holds, gradients are cached, for a second forward pass.
- `languages`: time a text and anchor-positive terms a second against the number of languages, 64 rows a
  step, 16 with --quick.
- `corpus`: seconds from the start of Python to the first step of `polyalign.train`, and the memory held then, against
  the number of rows, with the corpus a folder and the tokens in the cache. Each is a process of its own.
- `processes`: texts a second of one process with all threads, and of two under torchrun with half of them each.

    python benchmarks/scaling.py                  # all parts: about 40 minutes on two cores
    python benchmarks/scaling.py --part corpus    # one of them
    python benchmarks/scaling.py --quick          # smaller sizes and an encoder of two layers; under two minutes

The last line is one JSON object: name, value, unit, goal, met. The value is of the largest corpus, null without it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
from common import SentenceTransformer, Work
from polyalign import train
from polyalign.training import engine
from polyalign.training.distributed import add_up, join, rank
from polyalign.training.settings import TrainingSettings

GOAL_SECONDS = 30.0


def main() -> None:
    """Run the parts that are asked for, print a table of each."""
    parser = common.arguments_parser(__doc__)
    parser.add_argument("--part", choices=PARTS, help="one part; default all")
    parser.add_argument("--seconds", type=float, help="of a measurement at least; default 20, with --quick 2")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--since", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.seconds = options.seconds or (2 if options.quick else 20)
    if options.stage:
        STAGES[options.stage](options)
        return
    if options.corpus:
        parser.error("the sizes are made from the sample's sentences; leave --corpus out")
    with tempfile.TemporaryDirectory() as temporary:
        options.folder = Path(temporary)
        options.shape = "two-layer" if options.quick else "minilm"
        base, _ = common.prepared(options, options.folder, rows=100, shape=options.shape)
        options.base = str(base)
        found = {}
        for part in [options.part] if options.part else PARTS:
            print(f"\n{part}")
            found[part] = PARTS[part](options)
    corpus = found.get("corpus", {})
    seconds = corpus.get("seconds")
    met = None if seconds is None else seconds <= GOAL_SECONDS
    common.conclude(
        "scaling", seconds, "seconds from start to first step", f"<= {GOAL_SECONDS:g}", met, rows=corpus.get("rows")
    )


def by_batch(options: argparse.Namespace) -> dict[str, Any]:
    """Time a text against rows a step."""
    sizes = (16, 128) if options.quick else (64, 256, 1024, 4096, 8192)
    corpus = common.make_corpus(sizes[-1])
    lines = []
    for rows in sizes:
        trainer = common.our_trainer(SentenceTransformer(options.base), corpus, options.folder, batch=rows)
        # A large step warms up by itself.
        work = common.measured(trainer, seconds=options.seconds, warm_up=1 if rows <= 256 else 0)
        lines.append((f"{rows:,}", *_cells(work), "yes" if trainer.loss.cache_gradients else "no"))
    common.table(("rows a step", "ms a text", "texts/s", "padding", "cached gradients"), lines)
    return {}


def by_languages(options: argparse.Namespace) -> dict[str, Any]:
    """Time a text against the number of languages."""
    lines = []
    for languages in (2, 16) if options.quick else (2, 4, 7, 11, 16):
        corpus = common.make_corpus(1000, languages)
        trainer = common.our_trainer(SentenceTransformer(options.base), corpus, options.folder, batch=_rows(options))
        work = common.measured(trainer, seconds=options.seconds, warm_up=1)
        terms = work.texts_per_sec * (languages - 1)
        lines.append((languages, *_cells(work), f"{terms:,.0f}"))
    common.table(("languages", "ms a text", "texts/s", "padding", "terms/s"), lines)
    return {}


def by_corpus(options: argparse.Namespace) -> dict[str, Any]:
    """Start-up and memory against the number of rows."""
    lines, found = [], {}
    for rows in (2_000,) if options.quick else (10_000, 100_000, 1_000_000):
        common.make_corpus(rows).write(options.folder / f"corpus-{rows}")
        environment = os.environ | {"POLYALIGN_CACHE": str(options.folder / "cache")}
        command = [sys.executable, __file__, "--stage", "start", "--base", options.base, "--rows", str(rows)]
        command += ["--folder", str(options.folder)]
        cold, warm = (_printed([*command, "--since", str(time.time())], environment) for _ in range(2))
        lines.append((f"{rows:,}", *(f"{each:.1f}" for each in (cold["seconds"], warm["seconds"])),
                      f"{warm['resident']:.2f}", f"{warm['most']:.2f}"))  # fmt: skip
        found = {"rows": rows, "seconds": warm["seconds"]}
    heads = ("rows", "start-up, tokens to make (s)", "tokens in the cache (s)", "resident (GiB)", "at most (GiB)")
    common.table(heads, lines)
    return found


def by_processes(options: argparse.Namespace) -> dict[str, Any]:
    """Texts a second of one process and of two."""
    lines = []
    for processes in (1, 2):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command += [__file__, "--stage", "process", "--base", options.base, "--folder", str(options.folder)]
        found = _printed([*command, "--quick"] if options.quick else command, dict(os.environ))
        lines.append((processes, found["threads"], f"{found['texts_per_sec']:.1f}"))
    common.table(("processes", "threads each", "texts/s"), lines)
    return {}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "batch": by_batch,
    "languages": by_languages,
    "corpus": by_corpus,
    "processes": by_processes,
}


def start(options: argparse.Namespace) -> None:
    """Train until the first step would be made; print the seconds since the start of Python, and the memory."""

    def stop(*_: Any) -> None:
        raise StopIteration

    engine.MultiwayTrainer.training_step = stop  # type: ignore[assignment, method-assign]
    try:
        train(
            options.folder / f"corpus-{options.rows}",
            options.folder / "encoder",
            base=options.base,
            settings=TrainingSettings(bf16="auto", steps=1000),
            force=True,
            objective="multi-way",
        )
    except StopIteration:
        seconds = time.time() - options.since
    resident, most = (common.memory_bytes(name) / common.GIB for name in ("VmRSS", "VmHWM"))
    print(json.dumps({"seconds": seconds, "resident": resident, "most": most}))


def process(options: argparse.Namespace) -> None:
    """Train as one of some processes; the first prints the texts a second of all together."""
    join()
    corpus = common.make_corpus(1000)
    folder = options.folder / f"rank-{rank()}"
    trainer = common.our_trainer(SentenceTransformer(options.base), corpus, folder, batch=_rows(options))
    work = common.measured(trainer, seconds=float("inf"), warm_up=1, steps=5 if options.quick else 10)
    (texts,) = add_up(common.torch.tensor(work.texts))
    if rank() == 0:
        found = {"texts_per_sec": int(texts) / work.seconds, "threads": common.torch.get_num_threads()}
        print(json.dumps(found))


STAGES: dict[str, Callable[[argparse.Namespace], None]] = {"start": start, "process": process}


def _rows(options: argparse.Namespace) -> int:
    return 16 if options.quick else 64


def _cells(work: Work) -> tuple[str, str, str]:
    return f"{1000 * work.seconds / work.texts:.2f}", f"{work.texts_per_sec:.1f}", f"{work.padding:.1%}"


def _printed(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Return what a process prints as its last line."""
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
