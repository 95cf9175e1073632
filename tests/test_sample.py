"""The packaged sample: complete, distinct, in the scripts its languages are written in, and held out for true."""

import unicodedata

import polars as pl
import pytest

from polyalign import languages
from polyalign.corpus import Corpus

SEEN = ["en", "de", "es", "fr", "ru", "zh", "hi"]
FIRST_LETTERS = {"Latn": "LATIN", "Cyrl": "CYRILLIC", "Hans": "CJK", "Deva": "DEVANAGARI"}


def read(part):
    from importlib.resources import files

    return pl.read_ndjson(str(files("polyalign") / "sample" / f"{part}.jsonl"))


@pytest.mark.parametrize(("part", "rows", "tags"), [("train", 500, SEEN), ("heldout", 100, [*SEEN, "pt", "uk"])])
def test_every_row_is_complete_distinct_and_in_its_script(part, rows, tags):
    frame = read(part)
    assert frame.columns == tags
    assert frame.shape == (rows, len(tags))
    for tag in tags:
        texts = frame[tag].to_list()
        assert len(set(texts)) == rows
        wanted = FIRST_LETTERS[languages.script(tag)]
        for text in texts:
            letters = [unicodedata.name(char) for char in text if char.isalpha()]
            assert sum(name.startswith(wanted) for name in letters) > 0.5 * len(letters), text


def test_nothing_is_lost_when_it_is_read():
    from importlib.resources import files

    report = Corpus.open(str(files("polyalign") / "sample" / "train.jsonl")).report
    assert (report["rows_kept"], report["merged_duplicates"], report["cells"]) == (500, 0, {})


def test_no_held_out_text_is_trained_on():
    train, held = read("train"), read("heldout")
    for tag in SEEN:
        assert not set(train[tag]) & set(held[tag])
