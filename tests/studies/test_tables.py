"""The published tables of the studies are those of the kept scores."""

import json
from itertools import chain

import polars as pl
import pytest

from tables import PAGE, ROOT, block, blocks, marks, runs, scores_of, with_block

RUNS = runs()


def name_of(run):
    return run.name


@pytest.mark.parametrize("run", RUNS, ids=name_of)
def test_the_page_has_the_kept_numbers(run):
    page = PAGE.read_text(encoding="utf-8")
    found = blocks(run, json.loads((run / "tables.json").read_text(encoding="utf-8")))
    published = [name for name in marks(page) if name in found]
    assert published
    assert all(name in published for name in found if name.endswith("+wccn"))
    assert {name: block(page, name) for name in published} == {name: found[name] for name in published}


def test_the_page_has_no_other_marks():
    page = PAGE.read_text(encoding="utf-8")
    assert sorted(marks(page)) == sorted(set(marks(page)))
    assert all(any((ROOT / name).is_relative_to(run) for run in RUNS) for name in marks(page))


@pytest.mark.parametrize("run", RUNS, ids=name_of)
def test_the_kept_numbers_are_those_of_the_scores(run):
    """The means over tasks, subsets and seeds, computed once more from scores.parquet alone."""
    cells = [(json.loads((cell / "manifest.json").read_text()), cell) for cell in scores_of(run)]
    numbers = json.loads((run / "tables.json").read_text(encoding="utf-8"))
    projected = [one[key] for one in numbers["projected"].values() for key in ("comparisons", "gains")]
    for comparison in [*numbers["comparisons"], *chain(*projected)]:
        taking_part = [
            pl.read_parquet(cell / "scores.parquet").filter("main")
            for manifest, cell in cells
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
        assert found
        assert found == pytest.approx({arm: mean for arm, mean in means if arm in found}, abs=1e-12)


def test_tables_by_hand(tmp_path, monkeypatch):
    """One budget, two arms, two families; a clear difference is bold, and a line is told for each family."""
    monkeypatch.setattr("tables.ROOT", tmp_path)
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
    run = tmp_path / "kept"
    run.mkdir()
    gain = {"arm": "multi-way+wccn", "family": "STS", "exposure": "seen", "mean": 0.46, "difference": change}
    projected = {
        "comparisons": [{"budget": "equal rows", "control": "en-x+wccn", "headline": [gain], "english": []}],
        "gains": [
            {"arm": "multi-way", "budget": "equal rows", "headline": [comparison["headline"][1], gain], "english": []}
        ],
    }
    numbers = {"comparisons": [comparison], "crossings": [], "growth": [], "projected": {"+wccn": projected}}
    found = blocks(run, numbers)
    assert list(found) == ["kept", "kept/+wccn"]
    assert found["kept/+wccn"].splitlines() == [
        "**equal rows** (mean; difference to en-x+wccn with 95% interval)",
        "",
        "| | multi-way+wccn |",
        "|---|---|",
        "| STS, seen | 46.0 (**−2.0 [−3.0, −1.0]**) |",
        "",
        "**equal rows** (mean; difference to the arm without +wccn)",
        "",
        "| | multi-way+wccn |",
        "|---|---|",
        "| STS, seen | 46.0 (**−2.0 [−3.0, −1.0]**) |",
    ]
    text = found["kept"]
    assert text.splitlines()[2:] == [
        "| | en-x | multi-way |",
        "|---|---|---|",
        "| STS, seen | 50.0 | 48.0 (**−2.0 [−3.0, −1.0]**) |",
        "| STS, English | 70.0 | 71.0 (+1.0 [−1.0, 3.0]) |",
    ]
    page = with_block("a\n<!-- x/y -->\nold\n<!-- end of x/y -->\nb", "x/y", text)
    assert block(page, "x/y") == text
    assert marks(page) == ["x/y"]
    assert page.startswith("a\n")
    with pytest.raises(ValueError, match="lacks the marks"):
        with_block("a", "x", text)
    for base in ("few", "many"):
        (run / base / "scores").mkdir(parents=True)
    crossing = {"family": "STS", "exposure": "seen", "arm": "multi-way", "told": "ahead from 12k texts (1.5 passes)"}
    crossing |= {"better": 2, "worse": 1, "unclear": 0}
    growth = {
        "quantity": "rows",
        "fixed": "7 languages",
        "family": "STS",
        "exposure": "seen",
        "languages": ["de", "fr"],
    }
    sizes = [{"amount": 1000, "mean": {"value": 0.4}, "difference": change}]
    several = blocks(
        run,
        {
            "comparisons": [comparison | {"budget": f"{base}, equal rows"} for base in ("few", "many")],
            "crossings": [crossing],
            "growth": [growth | {"arm": "multi-way", "sizes": sizes}],
            "projected": {},
        },
    )
    assert list(several) == ["kept", "kept/few", "kept/many"]
    assert several["kept/few"] == text.replace("equal rows", "few, equal rows")
    assert several["kept"].splitlines() == [
        "| against en-x | multi-way |",
        "|---|---|",
        "| STS, seen | ahead from 12k texts (1.5 passes) (2 better, 1 worse, 0 unclear) |",
        "",
        "**Quality against rows, 7 languages** (mean; difference to en-x with 95% interval)",
        "",
        "| | 1,000 rows |",
        "|---|---|",
        "| STS, seen (de fr): multi-way | 40.0 (**−2.0 [−3.0, −1.0]**) |",
    ]
