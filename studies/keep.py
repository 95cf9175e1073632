"""Keep the scores of a study without its encoders, small enough for version control.

    python studies/keep.py runs/study studies/results/study

`polyalign run` takes what is kept as done; `polyalign compare studies/results/study/BASE/scores/*` makes the report
again.

Of each finished cell the scores, the predictions that intervals are computed from, and the manifest are kept; of tuning
every trial; of the run its recipe. Cosines are kept where a metric needs them (STS), in single precision. Paths of the
machine are cut to their last name.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl

from polyalign.storage import MANIFEST, new_folder, write_json

_FILES = ("scores.parquet", "predictions.parquet")


def main() -> None:
    """Copy what is finished and not kept yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="the folder of a run")
    parser.add_argument("out", type=Path, help="where to keep its scores")
    options = parser.parse_args()
    kept = keep(options.run, options.out)
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{kept} cells kept anew; {options.out} has {size / 2**20:.1f} MiB")


def keep(run: Path, out: Path) -> int:
    """Return how many cells were copied: those that are complete in the run and not in ``out``."""
    copied = 0
    for manifest in sorted(run.glob(f"**/scores/*/{MANIFEST}")):
        target = out / manifest.parent.relative_to(run)
        if not (target / MANIFEST).is_file():
            _keep_cell(manifest.parent, target)
            copied += 1
    for trial in run.glob("**/tuning/*/*.json"):
        target = out / trial.relative_to(run)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(trial, target)
    write_json(out / "recipe.json", _without_paths(json.loads((run / "recipe.json").read_text(encoding="utf-8"))))
    return copied


def _keep_cell(source: Path, out: Path) -> None:
    with new_folder(out) as folder:
        scores, predictions = (pl.read_parquet(source / name) for name in _FILES)
        cosine = pl.when(pl.col("family") == "sts").then(pl.col("similarity").cast(pl.Float32).cast(pl.Float64))
        short = pl.col("group").str.replace(r"^([0-9a-f]{12})[0-9a-f]{20}$", "$1")  # as they are written today
        predictions = predictions.with_columns(cosine.alias("similarity"), short.alias("group"))
        for name, frame in zip(_FILES, (scores, predictions), strict=True):
            frame.write_parquet(folder / name, compression="zstd", compression_level=19)
        manifest = json.loads((source / MANIFEST).read_text(encoding="utf-8"))
        write_json(folder / MANIFEST, _without_paths(manifest))


def _without_paths(value: Any) -> Any:
    """Return a value of JSON in which absolute paths are their last names."""
    if isinstance(value, dict):
        return {key: _without_paths(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_paths(one) for one in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


if __name__ == "__main__":
    main()
