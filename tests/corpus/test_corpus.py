"""The corpus on disk and in hand: invariants, fingerprint, selection, dev split."""

import json
import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_128_hexdigest

from polyalign.corpus import Corpus

REPORT = {"rows_read": 2, "rows_kept": 2, "merged_duplicates": 0, "dropped": {}, "cells": {}, "normalised": 0}


def corpus_of(*rows, tags=("en", "de", "fr")):
    texts = pl.DataFrame(rows, schema=dict.fromkeys(tags, pl.String), orient="row")
    return Corpus.from_texts(texts, "the test's rows")


THREE = (("a", "A", "à"), ("b", "B", None), ("c", None, "ç"))


@pytest.mark.parametrize(
    ("columns", "languages", "message"),
    [
        ({"row_id": ["1", "2"], "en": ["a", "b"], "de": ["A", "B"]}, ("en", "fr"), "not row_id (String), en (String)"),
        ({"row_id": ["1", "2"], "en": ["a", "b"], "de": [3, 4]}, ("en", "de"), "de (Int64)"),
        ({"row_id": ["1", "2"], "en": ["a", "b"]}, ("en",), "two or more languages"),
        ({"row_id": ["1", "1"], "en": ["a", "b"], "de": ["A", "B"]}, ("en", "de"), "no two rows with the same"),
        ({"row_id": ["1", None], "en": ["a", "b"], "de": ["A", "B"]}, ("en", "de"), "a row_id in every row"),
        ({"row_id": ["1", "2"], "en": ["a", ""], "de": ["A", "B"]}, ("en", "de"), "no empty string"),
        ({"row_id": ["1", "2"], "en": ["a", "b"], "de": ["A", None]}, ("en", "de"), "text in at least two languages"),
    ],
)
def test_unsound_rows_are_refused(columns, languages, message, refused):
    assert message in refused(Corpus, pl.DataFrame(columns), languages, REPORT)


def test_counts_and_length():
    corpus = corpus_of(*THREE)
    assert (len(corpus), corpus.counts()) == (3, {"en": 3, "de": 2, "fr": 2})


def test_a_written_corpus_is_the_same_when_opened(tmp_path):
    corpus = corpus_of(*THREE, ("d", "", None))
    out = corpus.write(tmp_path / "out", provenance={"sources": ["x.csv"]})
    opened = Corpus.open(out)
    assert opened.rows.equals(corpus.rows)
    assert (opened.languages, opened.report) == (corpus.languages, corpus.report)
    manifest = json.loads((out / "manifest.json").read_text())
    assert {key: manifest[key] for key in ("kind", "format", "languages", "rows", "counts", "provenance")} == {
        "kind": "corpus",
        "format": 2,
        "languages": ["en", "de", "fr"],
        "rows": 3,
        "counts": {"en": 3, "de": 2, "fr": 2},
        "provenance": {"sources": ["x.csv"]},
    }
    assert manifest["fingerprint"] == corpus.fingerprint
    assert manifest["report"]["dropped"] == {"one language only": 1}
    assert Corpus.open(out, languages=["de", "en"]).fingerprint == corpus.select(["en", "de"]).fingerprint


def test_many_files_are_one_corpus(tmp_path, monkeypatch):
    monkeypatch.setattr("polyalign.corpus.corpus.ROWS_PER_FILE", 2)
    out = corpus_of(*THREE).write(tmp_path / "out")
    assert sorted(path.name for path in (out / "rows").iterdir()) == ["00000.parquet", "00001.parquet"]
    assert Corpus.open(out).rows.equals(corpus_of(*THREE).rows)


def test_a_complete_corpus_is_left_alone_unless_forced(tmp_path, caplog, refused):
    caplog.set_level("INFO")
    first, second = corpus_of(*THREE), corpus_of(*THREE[:2])
    first.write(tmp_path / "out")
    second.write(tmp_path / "out")
    assert "is complete and was left alone" in caplog.text
    assert Corpus.open(tmp_path / "out").fingerprint == first.fingerprint
    second.write(tmp_path / "out", force=True)
    assert Corpus.open(tmp_path / "out").fingerprint == second.fingerprint
    (tmp_path / "mine").write_text("precious")
    assert "not a complete polyalign output" in refused(first.write, tmp_path / "mine", force=True)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda out: (out / "manifest.json").unlink(), "is incomplete or not a corpus: it has no manifest.json"),
        (lambda out: (out / "manifest.json").write_text('{"kind": "scores", "format": 1}'), "has kind 'scores'"),
        (lambda out: (out / "manifest.json").write_text('{"kind": "corpus", "format": 1}'), "format 1; give a folder"),
        (lambda out: (out / "manifest.json").write_text('{"kind": "corpus", "format": 2}'), "damaged (KeyError"),
        (lambda out: (out / "rows" / "00000.parquet").unlink(), "is damaged"),
        (lambda out: (out / "rows" / "00000.parquet").write_text("x"), "is damaged (ComputeError: parquet"),
        (lambda out: respoil(out, lambda rows: rows.head(2)), "damaged (has {'rows': 2,"),
        (lambda out: respoil(out, lambda rows: rows.with_columns(de=pl.col("de") + "!")), "damaged (has {'rows': 3,"),
        (lambda out: respoil(out, lambda rows: rows.with_columns(de=pl.lit(""))), "UserError: a corpus holds no empty"),
    ],
)
def test_an_incomplete_or_damaged_folder_is_refused(tmp_path, refused, spoil, message):
    out = corpus_of(*THREE).write(tmp_path / "out")
    spoil(out)
    assert message in refused(Corpus.open, out)


def respoil(out, change):
    path = out / "rows" / "00000.parquet"
    change(pl.read_parquet(path)).write_parquet(path)


def test_the_fingerprint_ignores_order_and_sees_every_cell():
    corpus = corpus_of(*THREE)
    reordered = corpus_of(*((fr, de, en) for en, de, fr in reversed(THREE)), tags=("fr", "de", "en"))
    assert corpus.fingerprint == reordered.fingerprint
    variants = [
        corpus_of(("a", "A", "à!"), *THREE[1:]),
        corpus_of(("a", "à", "A"), *THREE[1:]),
        corpus_of(("a", None, "à"), *THREE[1:]),
        corpus_of(*THREE[:2]),
        corpus_of(*((*row, None) for row in THREE), tags=("en", "de", "fr", "pl")),
        corpus_of(*THREE, tags=("en", "de", "it")),
    ]
    assert len({corpus.fingerprint, *(variant.fingerprint for variant in variants)}) == 1 + len(variants)


def naive_fingerprint(corpus):
    """The hash as docs/formats.md has it; a change would make every corpus on disk a damaged one."""
    tags = sorted(corpus.languages)
    total = 0
    for row in corpus.rows.to_dicts():
        texts = (row["row_id"], *(row[tag] for tag in tags))
        framed = "".join("-" if text is None else f"{len(text.encode())}:{text}" for text in texts)
        total += int(xxh3_128_hexdigest(framed.encode()), 16)
    return xxh3_128_hexdigest("".join(f"{tag}\n" for tag in tags).encode() + (total % 2**128).to_bytes(16, "big"))


def test_the_fingerprint_is_as_documented():
    corpus = corpus_of(*THREE, ("日本", "nihon", "-"))
    assert corpus.fingerprint == naive_fingerprint(corpus)


def test_select_keeps_order_and_ids_and_counts_what_it_drops():
    corpus = corpus_of(*THREE)
    selected = corpus.select(["fr", "DE"])
    assert selected.languages == ("de", "fr")
    assert selected.rows.rows() == [(corpus.rows["row_id"][0], "A", "à")]
    assert selected.report == {**corpus.report, "rows_kept": 1, "dropped": {"one language only": 2}}


@pytest.mark.parametrize(
    ("languages", "message"),
    [
        (["en", "es", "it"], "no 'es' and no 'it' in this corpus; its languages are en, de, fr"),
        (["en"], "a corpus needs two or more of en, de, fr"),
        (["en", "xx"], "unknown language code 'xx'"),
    ],
)
def test_select_refuses(languages, message, refused):
    assert message in refused(corpus_of(*THREE).select, languages)


def test_select_refuses_languages_that_never_meet(refused):
    message = refused(corpus_of(*THREE[1:]).select, ["de", "fr"])
    assert message == "none of the 2 rows has text in two of de, fr; choose other languages"


@given(st.permutations(range(30)), st.integers(1, 29), st.integers(-1, 3))
def test_split_is_disjoint_complete_and_stable_under_row_order(order, dev_rows, seed):
    corpus = corpus_of(*((f"text {i}", f"Text {i}", None) for i in range(30)))
    train, dev = corpus.split(dev_rows, seed=seed)
    assert len(dev) == dev_rows
    assert pl.concat([train.rows, dev.rows]).sort("row_id").equals(corpus.rows.sort("row_id"))
    shuffled = Corpus(corpus.rows[order], corpus.languages, corpus.report).split(dev_rows, seed=seed)
    assert [part.fingerprint for part in shuffled] == [train.fingerprint, dev.fingerprint]
    assert dev.rows.equals(corpus.rows.filter(pl.col("row_id").is_in(dev.rows["row_id"].to_list())))


def test_split_grows_with_its_size_and_moves_with_its_seed():
    corpus = corpus_of(*((f"text {i}", f"Text {i}", None) for i in range(100)))
    small, large, other = (set(corpus.split(n, seed=s)[1].rows["row_id"]) for n, s in ((10, 0), (20, 0), (10, 1)))
    assert small < large
    assert small != other


def test_split_reports_the_rows_of_the_other_part():
    train, dev = corpus_of(*THREE).split(1)
    assert (train.report["rows_kept"], train.report["dropped"]) == (2, {"other part of a split": 1})
    assert (dev.report["rows_kept"], dev.report["dropped"]) == (1, {"other part of a split": 2})


@pytest.mark.parametrize("dev_rows", [0, 3, 4])
def test_split_needs_rows_on_both_sides(dev_rows, refused):
    assert re.fullmatch(
        rf"got {dev_rows} dev rows of 3 rows; allowed are 1 to 2", refused(corpus_of(*THREE).split, dev_rows)
    )
