"""The verbs: many files to one corpus, and a corpus described."""

import gzip
import json
import os
from pathlib import Path

import polars as pl
import pytest
import zstandard

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


def test_packed_files_are_read_like_others(write, tmp_path, refused):
    sources = [
        write("a.csv.gz", gzip.compress(b"en,de\na,A\n")),
        write("b.tsv.zst", zstandard.compress(b"en\tde\nb\tB\n")),
        write("c.jsonl.gz", gzip.compress(b'{"en":"c","de":"C"}\n')),
        write("d.en.gz", gzip.compress(b"d\n")),
        write("d.de.zst", zstandard.compress(b"D\n")),
        write("de.po.gz", gzip.compress(b'msgid "e"\nmsgstr "E"\n')),
    ]
    corpus = import_corpus(sources, tmp_path / "out")
    assert corpus.rows.select("en", "de").rows() == [("a", "A"), ("b", "B"), ("c", "C"), ("d", "D"), ("e", "E")]
    assert "y.parquet.gz has an unknown format" in refused(Corpus.open, write("y.parquet.gz", b""))
    assert "y.csv.gz is damaged" in refused(Corpus.open, write("y.csv.gz", b"en,de\na,A\n"))
    twice = [sources[3], write("d.en", "d\n"), sources[4]]
    assert "line pairs need one file a language" in refused(import_corpus, twice, tmp_path / "other")


def test_a_folder_stands_for_its_files(write, tmp_path, caplog, refused):
    caplog.set_level("INFO")
    (tmp_path / "in" / "de").mkdir(parents=True)
    (tmp_path / "in" / "fr" / "LC_MESSAGES").mkdir(parents=True)
    write("in/x.en", "b\n")
    write("in/x.pl", "B\n")
    write("in/README.md", "x")
    write("in/notes.fr", "x")
    write("in/de/app.po", 'msgid "a"\nmsgstr "A"\n\n#, fuzzy\nmsgid "b"\nmsgstr "B"\n')
    write("in/fr/LC_MESSAGES/app.po", 'msgid "a"\nmsgstr "à"\n\nmsgid "<b>b</b>"\nmsgstr ""\n')
    corpus = import_corpus([tmp_path / "in"], tmp_path / "out")
    assert corpus.rows.drop("row_id").to_dicts() == [
        {"en": "a", "de": "A", "fr": "à", "pl": None},
        {"en": "b", "de": None, "fr": None, "pl": "B"},
    ]
    assert corpus.report["left_out"] == {"entry without a translation": 1, "fuzzy entry": 1}
    assert "in: 2 files of other formats were left alone" in caplog.text
    (tmp_path / "empty").mkdir()
    assert "has no manifest.json" in refused(import_corpus, [tmp_path / "empty"], tmp_path / "other")


def test_what_files_hold_beside_rows_is_in_the_report(write, tmp_path):
    tmx = '<tmx><tu><tuv lang="en"><seg>{}</seg></tuv><tuv lang="de"><seg>b</seg></tuv></tu><tu><tuv></tu></tmx>'
    sources = [
        write("x.tmx", tmx.format("a &amp; <ph/>b")),
        write("de.po", 'msgid "*a*"\nmsgstr "b"\n\nmsgid "c"\nmsgstr ""\n'),
        write("x.csv", "en,de\nd,\n"),
    ]
    corpus = import_corpus(sources, tmp_path / "out")
    report = corpus.report
    assert report["left_out"] == {"damaged unit: mismatched tag": 1, "entry without a translation": 1}
    assert report["changed"] == {"texts without their inline tags": 1}
    assert corpus.rows["en"].to_list() == ["a & b", "*a*"]
    assert report["rows_read"] == 3
    assert report["rows_kept"] + report["merged_duplicates"] + sum(report["dropped"].values()) == 3
    assert inspect_corpus(Corpus.open(tmp_path / "out"))["report"] == report
    assert import_corpus(sources, tmp_path / "keep", markup="keep").rows["en"].to_list() == ["a &amp; <ph />b", "*a*"]
    assert import_corpus(sources, tmp_path / "strip", markup="strip").rows["en"].to_list() == ["a & b", "a"]


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
