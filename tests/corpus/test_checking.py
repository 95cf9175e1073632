"""Verdicts on cells and rows, by hand and against a reference that loops over dicts."""

import re
import unicodedata

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_128_hexdigest

from polyalign.corpus.checking import check

# White space as Unicode has it: Python counts the four information separators too.
SPACE = "".join(chr(i) for i in range(0x110000) if chr(i).isspace() and not 0x1C <= i <= 0x1F)


def texts(**columns):
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))


def naive_cell(raw):
    """The text and the reason for its rejection, one of them None."""
    if raw is None:
        return None, None
    text = unicodedata.normalize("NFC", raw).replace("\r\n", "\n").strip(SPACE)
    if not text:
        return None, "empty"
    if any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in text):
        return None, "control characters"
    for found in re.finditer("\ufffd", text):
        around = [text[i] if 0 <= i < len(text) else " " for i in (found.start() - 1, found.end())]
        if any(unicodedata.category(c)[0] not in "PS" or c == "\ufffd" for c in around):
            return None, "invalid utf-8"
    return text, None


def naive_check(rows, tags):
    """The rows kept as dicts, the rows merged, the rows dropped and the cells rejected by reason."""
    kept, merged, dropped, cells = {}, 0, {}, {}
    for row in rows:
        judged = {tag: naive_cell(row[tag]) for tag in tags}
        for _, reason in judged.values():
            if reason:
                cells[reason] = cells.get(reason, 0) + 1
        row = {tag: text for tag, (text, _) in judged.items()}
        present = sorted(tag for tag in tags if row[tag] is not None)
        if len(present) < 2:
            reason = "one language only" if present else "no text"
            dropped[reason] = dropped.get(reason, 0) + 1
            continue
        key = row["en"] if row["en"] is not None else f"{present[0]}\x1f{row[present[0]]}"
        first = kept.setdefault(key, dict.fromkeys(tags))
        merged += any(text is not None for text in first.values())
        for tag in tags:
            first[tag] = first[tag] if first[tag] is not None else row[tag]
    return [{"row_id": xxh3_128_hexdigest(key.encode()), **row} for key, row in kept.items()], merged, dropped, cells


PIECES = st.sampled_from(["a", "b", " ", "\n", "\r", "\r\n", "\x1f", "\ufffd", "'", "e\u0301", "語"])
CELL = st.none() | st.lists(PIECES, max_size=3).map("".join)


@given(st.lists(st.fixed_dictionaries({"de": CELL, "en": CELL, "ar": CELL}), min_size=1, max_size=12))
def test_agrees_with_a_loop_over_dicts(rows):
    checked, report = check(pl.DataFrame(rows, schema=dict.fromkeys(["de", "en", "ar"], pl.String)))
    expected, merged, dropped, cells = naive_check(rows, ["en", "de", "ar"])
    assert checked.to_dicts() == expected
    assert (report["merged_duplicates"], report["dropped"], report["cells"]) == (merged, dropped, cells)
    assert report["rows_read"] == len(rows)
    assert report["rows_kept"] == len(rows) - merged - sum(dropped.values())


def test_the_first_translation_met_of_each_language_stays():
    rows, report = check(texts(en=["x", "y", " x"], de=[None, "Y", "X2"], fr=["X1", None, "X3"]))
    assert rows.select("en", "de", "fr").rows() == [("x", "X2", "X1"), ("y", "Y", None)]
    assert report["merged_duplicates"] == 1


def test_english_comes_first_and_the_rest_as_found():
    rows, _ = check(texts(fr=["1"], en=["2"], de=["3"]))
    assert rows.columns == ["row_id", "en", "fr", "de"]


def test_the_row_id_follows_the_english_and_else_the_first_tag_by_name():
    rows, _ = check(texts(ru=["4", "4"], en=["e\u0301", None], de=["3", "3"]))
    assert rows["row_id"].to_list() == [xxh3_128_hexdigest("é".encode()), xxh3_128_hexdigest(b"de\x1f3")]
    reordered, _ = check(texts(de=["3"], ru=["4"]))
    assert reordered["row_id"].to_list() == rows["row_id"].to_list()[1:]


def test_ids_given_with_the_rows_stay():
    rows, _ = check(texts(row_id=["i" * 32, None], de=["1", "1"], fr=["2", "2"]))
    assert rows["row_id"].to_list() == ["i" * 32, xxh3_128_hexdigest(b"de\x1f1")]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("", "empty"),
        (" \u3000\n\x0b", "empty"),
        ("Treasury\x12s plan", "control characters"),
        ("one\rtwo", "control characters"),
        ("a\x85b", "control characters"),
        ("Stra\ufffde", "invalid utf-8"),
        ("a \ufffd b", "invalid utf-8"),
        ("'\ufffd\ufffd'", "invalid utf-8"),
    ],
)
def test_a_rejected_cell_is_null_and_counted(cell, reason):
    rows, report = check(texts(en=["x"], de=[cell], fr=["y"]))
    assert rows["de"].to_list() == [None]
    assert report["cells"] == {reason: 1}
    assert report["normalised"] == 0


@pytest.mark.parametrize(
    "cell", ["one\ntwo\tthree", "decoded as ``\ufffd``", "(\ufffd)", "soft\u00adhyphen", "नि\u200dर"]
)
def test_these_cells_are_sound(cell):
    rows, report = check(texts(en=["x"], de=[cell]))
    assert rows["de"].to_list() == [cell]
    assert (report["cells"], report["normalised"]) == ({}, 0)


def test_normalised_cells_are_counted():
    rows, report = check(texts(en=["cafe\u0301", "x"], de=[" Kaffee\x0b", "one\r\ntwo"]))
    assert rows.select("en", "de").rows() == [("café", "Kaffee"), ("x", "one\ntwo")]
    assert report["normalised"] == 3
