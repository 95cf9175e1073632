"""What is kept of a study: enough for the same numbers, and nothing of the machine."""

import json

import polars as pl

from keep import keep
from polyalign.metrics import prepare
from polyalign.storage import read_manifest, write_json


def finished_cell(folder):
    """A cell with a bitext and an STS subset, whose cosines have more digits than single precision."""
    folder.mkdir(parents=True)
    items = pl.DataFrame(
        {"group": ["a", "b", "c"], "experiment": 0, "gold": ["0", "1", "2"], "predicted": ["0", "2", "2"]}
    )
    bitext = items.with_columns(task=pl.lit("T"), family=pl.lit("bitext"), subset=pl.lit("de-en"), similarity=1 / 3)
    sts = items.with_columns(
        task=pl.lit("S"), family=pl.lit("sts"), subset=pl.lit("de"), similarity=pl.Series([0.1, 0.3, 0.2]) / 3
    )
    pl.concat([bitext, sts]).write_parquet(folder / "predictions.parquet")
    pl.DataFrame({"task": ["T", "S"], "value": [0.5, 0.5]}).write_parquet(folder / "scores.parquet")
    write_json(
        folder / "manifest.json", {"kind": "scores", "model": "/home/me/runs/x", "settings": {"MTEB data": "/d/mteb"}}
    )


def test_finished_cells_are_kept_without_cosines_and_paths(tmp_path):
    run, out = tmp_path / "run", tmp_path / "kept"
    finished_cell(run / "small" / "scores" / "en-x-seed0")
    unfinished = run / "small" / "scores" / "en-x-seed1"
    unfinished.mkdir()
    trial = run / "small" / "tuning" / "en-x" / "learning-rate-0.1.json"
    write_json(trial, {"dev_accuracy": 0.5})
    write_json(run / "recipe.json", {"corpus": "/home/me/rows.parquet", "seeds": [0, 1]})
    assert (keep(run, out), keep(run, out)) == (1, 0)
    cell = out / "small" / "scores" / "en-x-seed0"
    assert read_manifest(cell) == {"kind": "scores", "model": "x", "settings": {"MTEB data": "mteb"}}
    assert json.loads((out / "recipe.json").read_text()) == {"corpus": "rows.parquet", "seeds": [0, 1]}
    assert json.loads((out / "small/tuning/en-x/learning-rate-0.1.json").read_text()) == {"dev_accuracy": 0.5}
    assert not (out / "small" / "scores" / "en-x-seed1").exists()
    before = pl.read_parquet(run / "small/scores/en-x-seed0/predictions.parquet").partition_by("family", as_dict=True)
    after = pl.read_parquet(cell / "predictions.parquet").partition_by("family", as_dict=True)
    assert after["bitext",]["similarity"].null_count() == 3
    for family in ("bitext", "sts"):
        assert prepare(family, after[family,]).score() == prepare(family, before[family,]).score()
