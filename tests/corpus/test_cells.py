"""A look at the cells of a built corpus."""

import polars as pl
import pytest

from polyalign.corpus import inspect_cells


@pytest.fixture
def corpus(tmp_path):
    """Six texts into two languages, in two files; rows 5 and 6 were dropped."""
    for name in ("rows", "cells"):
        (tmp_path / name).mkdir()
    english = {str(number): f"English {number}" for number in range(1, 5)}
    rows = pl.DataFrame({"row_id": list(english), "en": list(english.values())})
    rows[2:].write_parquet(tmp_path / "rows" / "00000.parquet")
    rows[:2].write_parquet(tmp_path / "rows" / "00001.parquet")
    verdicts = {
        "zh": {"4": "ok", "6": "empty", "1": "wrong script", "5": "wrong script", "2": "wrong script", "3": "ok"},
        "de": {"4": "ok", "6": "numbers lost", "1": "ok", "5": "ok", "2": "ok", "3": "ok"},
    }
    cells = pl.DataFrame(
        [
            {"row_id": row, "lang": tag, "text": None if verdict == "empty" else f"{tag} {row}", "verdict": verdict}
            for tag, found in verdicts.items()
            for row, verdict in found.items()
        ],
        orient="row",
    )
    for number, rows in enumerate((["4", "6", "1"], ["5", "2", "3"])):
        cells.filter(pl.col("row_id").is_in(rows)).write_parquet(tmp_path / "cells" / f"{number:05d}.parquet")
    return tmp_path


def test_each_verdict_has_its_count_and_samples(corpus):
    """Languages as in the corpus, their commonest verdicts first, the samples with the smallest row ids."""
    assert [(one["language"], one["verdict"], one["cells"]) for one in inspect_cells(corpus)] == [
        ("zh", "wrong script", 3), ("zh", "ok", 2), ("zh", "empty", 1), ("de", "ok", 5), ("de", "numbers lost", 1),
    ]  # fmt: skip
    samples = {(one["language"], one["verdict"]): one["samples"] for one in inspect_cells(corpus)}
    assert samples["zh", "wrong script"] == [
        {"english": "English 1", "text": "zh 1"},
        {"english": "English 2", "text": "zh 2"},
    ]
    assert samples["zh", "empty"] == [{"english": None, "text": None}]
    assert samples["de", "numbers lost"] == [{"english": None, "text": "de 6"}]


def test_as_many_samples_as_are_asked_for(corpus):
    assert {len(one["samples"]) for one in inspect_cells(corpus, samples=0)} == {0}
    most = {(one["language"], one["verdict"]): one["samples"] for one in inspect_cells(corpus, samples=9)}
    assert [sample["text"] for sample in most["de", "ok"]] == ["de 1", "de 2", "de 3", "de 4", "de 5"]


def test_a_corpus_without_cells_has_none_to_show(tmp_path):
    assert inspect_cells(tmp_path) == []
    assert inspect_cells(tmp_path / "rows.csv") == []
