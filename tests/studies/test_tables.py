"""The published tables of the studies are those of the kept scores."""

import json

import polars as pl
import pytest

from tables import PAGE, block, kept, name_of, tables, with_block

FOLDERS = kept()


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_the_page_has_the_kept_numbers(folder):
    kept = json.loads((folder / "tables.json").read_text(encoding="utf-8"))
    assert block(PAGE.read_text(encoding="utf-8"), name_of(folder)) == tables(kept["comparisons"], kept["crossings"])


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_the_kept_numbers_are_those_of_the_scores(folder):
    """The means over tasks, subsets and seeds, computed once more from scores.parquet alone."""
    runs = [(json.loads((cell / "manifest.json").read_text()), cell) for cell in sorted((folder / "scores").iterdir())]
    for comparison in json.loads((folder / "tables.json").read_text(encoding="utf-8"))["comparisons"]:
        taking_part = [
            pl.read_parquet(cell / "scores.parquet").filter("main")
            for manifest, cell in runs
            if not manifest["budgets"] or comparison["budget"] in manifest["budgets"]
        ]
        scores = pl.concat(taking_part).filter(pl.col("family") == "sts", pl.col("languages").list.len() == 1)
        means = (
            scores.filter(pl.col("exposure") == "seen").group_by("arm").agg(pl.col("value").mean()).sort("arm").rows()
        )
        found = {
            row["arm"]: row["mean"]
            for row in comparison["headline"]
            if (row["family"], row["exposure"]) == ("STS", "seen")
        }
        assert found == pytest.approx(dict(means), abs=1e-12)


def test_tables_by_hand():
    """One budget, two arms, two families; a clear difference is bold, and a line is told for each family."""
    change = {"value": -0.02, "low": -0.03, "high": -0.01}
    comparison = {
        "budget": "equal rows",
        "control": "en-x",
        "headline": [
            {"arm": "en-x", "family": "STS", "exposure": "seen", "mean": 0.5, "difference": None},
            {"arm": "multi-way", "family": "STS", "exposure": "seen", "mean": 0.48, "difference": change},
        ],
        "english": [
            {"arm": "en-x", "family": "STS", "mean": 0.7, "difference": None},
            {
                "arm": "multi-way",
                "family": "STS",
                "mean": 0.71,
                "difference": {"value": 0.01, "low": -0.01, "high": 0.03},
            },
        ],
    }
    text = tables([comparison], [])
    assert text.splitlines()[2:] == [
        "| | en-x | multi-way |",
        "|---|---|---|",
        "| STS, seen | 50.0 | 48.0 (**−2.0 [−3.0, −1.0]**) |",
        "| STS, English | 70.0 | 71.0 (+1.0 [−1.0, 3.0]) |",
    ]
    told = {"family": "STS", "exposure": "seen", "arm": "multi-way", "told": "ahead from 12k texts (1.5 passes)"}
    with_crossings = tables([comparison], [told | {"better": 2, "worse": 1, "unclear": 0}])
    assert with_crossings.endswith(text)
    assert with_crossings.splitlines()[:3] == [
        "| against en-x | multi-way |",
        "|---|---|",
        "| STS, seen | ahead from 12k texts (1.5 passes) (2 better, 1 worse, 0 unclear) |",
    ]
    page = with_block("a\n<!-- x/y -->\nold\n<!-- end of x/y -->\nb", "x/y", text)
    assert block(page, "x/y") == text
    assert page.startswith("a\n")
    with pytest.raises(ValueError, match="lacks the marks"):
        with_block("a", "x", text)
