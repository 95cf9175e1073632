"""The verbs: many files to one corpus, and a corpus described."""

import json
import os
from pathlib import Path

import polars as pl
import pytest

from polyalign.corpus import Corpus, import_corpus, inspect_corpus

DATA = Path(os.environ.get("POLYALIGN_DATA", Path(__file__).parents[3] / "shared" / "data")) / "multiway"


def test_files_of_all_kinds_become_one_corpus(write, tmp_path):
    import_corpus([write("old.csv", "en,pl\na,ą\n")], tmp_path / "old")
    sources = [
        write("x.en", "a\nb\n"),
        write("more.jsonl", '{"en":"a","de":"second","es":"á"}\n'),
        write("x.de", "A\nB\n"),
        tmp_path / "old",
    ]
    corpus = import_corpus(sources, tmp_path / "out")
    assert corpus.languages == ("en", "de", "es", "pl")
    assert corpus.rows.drop("row_id").rows() == [("a", "A", "á", "ą"), ("b", "B", None, None)]
    assert (corpus.report["rows_read"], corpus.report["merged_duplicates"]) == (4, 2)
    assert Corpus.open(tmp_path / "out").fingerprint == corpus.fingerprint
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["provenance"] == {"sources": [str(source) for source in sources]}


def test_rows_of_a_corpus_folder_keep_their_ids(write, tmp_path):
    whole = Corpus.open(write("x.csv", "en,de,fr\na,A,à\n"))
    whole.select(["de", "fr"]).write(tmp_path / "old")
    corpus = import_corpus([tmp_path / "old", write("y.csv", "en,es\na,á\n")], tmp_path / "out")
    assert corpus.rows.drop("row_id").rows() == [("a", "A", "à", "á")]


def test_languages_may_lie_in_different_files(write, tmp_path):
    sources = [write("x.csv", "en,de,label\na,A,1\n"), write("y.csv", "en,fr,pl\na,à,ą\nb,,bą\n")]
    corpus = import_corpus(sources, tmp_path / "out", languages=["en", "de", "fr"])
    assert corpus.rows.drop("row_id").rows() == [("a", "A", "à")]
    assert corpus.report["dropped"] == {"one language only": 1}


def test_moses_sides_are_those_of_one_name(write, tmp_path, refused):
    sides = [write("x.en", "a\n"), write("y.en", "b\nc\n"), write("x.de", "A\n"), write("y.de", "B\nC\n")]
    assert len(import_corpus(sides, tmp_path / "out")) == 3
    assert "x.en has an unknown format" in refused(import_corpus, [sides[0], sides[3]], tmp_path / "other")
    assert "x.en has 1, " in refused(import_corpus, [sides[0], write("x.fr", "")], tmp_path / "other")
    message = refused(import_corpus, [sides[0], write("x.qq", "q\n")], tmp_path / "other")
    assert "column 'qq': unknown language code 'qq'" in message


def test_an_existing_corpus_is_opened_unless_forced(write, tmp_path, caplog):
    caplog.set_level("INFO")
    first = import_corpus([write("x.csv", "en,de\na,A\n")], tmp_path / "out")
    other = write("y.csv", "en,de\nb,B\n")
    assert import_corpus([other], tmp_path / "out").fingerprint == first.fingerprint
    assert "is complete and was left alone; --force replaces it" in caplog.text
    assert import_corpus([other], tmp_path / "out", force=True).rows["en"].to_list() == ["b"]


def test_a_refused_import_leaves_nothing_behind(write, tmp_path, refused):
    path = write("x.csv", "en,de\na\n")
    assert "line 2" in refused(import_corpus, [path], tmp_path / "out")
    assert "got no file" in refused(import_corpus, [], tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.csv"]


def test_inspect_describes_the_corpus(write):
    corpus = Corpus.open(write("x.csv", "en,de,fr\nan,an,\nbb,B,b\ncc,B,\ndd,,e\nee\x01,D,E\n"))
    found = inspect_corpus(corpus, rows=2)
    assert json.loads(json.dumps(found)) == found
    assert (found["rows"], found["complete_rows"], found["texts"]) == (5, 1, 11)
    english, german, french = found["languages"]
    assert english == {
        "language": "en",
        "name": "English",
        "present": 4,
        "share": 0.8,
        "mean_characters": 2.0,
        "equal_to_english": None,
        "repeated": 0,
    }
    assert (german["present"], german["mean_characters"], german["equal_to_english"], german["repeated"]) == (
        4,
        1.25,
        1,
        1,
    )
    assert (french["present"], french["share"]) == (3, 0.6)
    assert found["report"]["cells"] == {"empty": 3, "control characters": 1}
    assert [row["en"] for row in found["sample"]] == ["an", "cc"]
    assert found["fingerprint"] == corpus.fingerprint
    assert len(inspect_corpus(corpus, rows=99)["sample"]) == 5
    assert inspect_corpus(corpus, rows=0)["sample"] == []


def test_inspect_without_english(write):
    found = inspect_corpus(Corpus.open(write("x.csv", "de,fr,pl\na,a,\n")))
    assert [entry["equal_to_english"] for entry in found["languages"]] == [None, None, None]
    assert found["languages"][2]["mean_characters"] is None


@pytest.mark.parametrize(
    ("name", "kept", "merged", "complete", "cells"),
    [
        ("python-docs", 31_761, 0, 629, {}),
        ("multi30k-train", 28_991, 9, 28_991, {}),
        ("stsb-train", 10_072, 0, 10_071, {"control characters": 1}),
    ],
)
def test_real_corpora_load_as_they_stand(name, kept, merged, complete, cells):
    path = DATA / f"{name}.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not there; set POLYALIGN_DATA to the folder of the real data")
    corpus = Corpus.open(path)
    assert len(corpus) == kept
    assert (corpus.report["merged_duplicates"], corpus.report["dropped"], corpus.report["cells"]) == (merged, {}, cells)
    assert len(corpus.rows.drop_nulls()) == complete
    if not merged:
        raw = pl.read_parquet(path)
        rejected = sum(cells.values())
        assert sum(corpus.counts().values()) == sum(len(raw) - raw[tag].null_count() for tag in raw.columns) - rejected
