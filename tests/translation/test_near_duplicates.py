"""Near-duplicates, compared with a loop over all pairs."""

import random
from contextlib import closing
from functools import cache
from string import ascii_lowercase

import numpy as np
import polars as pl
import pytest

from polyalign.translation import near_duplicates as module
from polyalign.translation import spool
from polyalign.translation.near_duplicates import near_duplicates, simplify
from polyalign.translation.spool import TextFile


def find(texts, threshold, folder, wanted=None):
    folder.mkdir(exist_ok=True)
    with closing(TextFile(folder / "texts")) as file:
        file.append(pl.Series(texts))
        wanted = np.ones(len(texts), bool) if wanted is None else np.array(wanted)
        return near_duplicates(file, wanted, threshold, folder).tolist()


@cache
def grams(text):
    """Sets of 4 characters, which are bytes as long as a text is ASCII."""
    padded = simplify(pl.Series([text]))[0] + "   "
    return {padded[start : start + 4] for start in range(len(padded) - 3)}


def jaccard(one, other):
    return len(grams(one) & grams(other)) / len(grams(one) | grams(other))


def naive(texts, threshold):
    """Of every text the first earlier one that is kept and near it."""
    instead = []
    for row, text in enumerate(texts):
        near = [old for old in range(row) if instead[old] == -1 and jaccard(text, texts[old]) >= threshold]
        instead.append(near[0] if near else -1)
    return instead


@pytest.fixture(scope="module")
def varied(sample_rows) -> list[str]:
    """120 sentences and 280 variants of them: other case, marks, letters and words, near and not so near."""
    draw = random.Random(0)
    sentences = sample_rows["en"].head(120).to_list()
    texts = list(sentences)
    for _ in range(280):
        words = draw.choice(sentences).split()
        place = draw.randrange(len(words))
        words[place] = draw.choice([words[place].upper(), f"'{words[place]}'", words[place][1:], "really", ""])
        texts.append(" ".join(words[: draw.choice([None, None, None, 6])]))
    return [texts[row] for row in draw.sample(range(400), 400)]


def test_numbers_by_hand(tmp_path):
    # "abcd", "bcde", "cdef", "def ", "ef  ", "f   " against the same with "efg ", "fg  ", "g   ", "defg" in the end.
    assert jaccard("abcdef", "abcdefg") == 3 / 10
    assert jaccard("It is 5 o'clock!", "it is 5 O CLOCK") == 1
    texts = ["It is 5 o'clock!", "Quite another text.", "it is 5 O CLOCK", "quite another text"]
    assert find(texts, 1.0, tmp_path) == [-1, -1, 0, 1]


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.95])
def test_equals_the_loop_over_all_pairs(varied, tmp_path, threshold):
    expected = naive(varied, threshold)
    found = find(varied, threshold, tmp_path)
    assert 30 < sum(old >= 0 for old in expected) < 280
    assert [old >= 0 for old in found] == [old >= 0 for old in expected]
    for row, old in enumerate(found):
        assert old == -1 or (old < row and found[old] == -1 and jaccard(varied[row], varied[old]) >= threshold)


def test_does_not_depend_on_the_sizes_of_blocks_and_parts(varied, tmp_path, monkeypatch):
    expected = find(varied, 0.8, tmp_path / "whole")
    monkeypatch.setattr(spool, "ROWS_AT_ONCE", 33)
    monkeypatch.setattr(spool, "_ROWS_PER_PART", 50)
    monkeypatch.setattr(module, "_TEXTS_AT_ONCE", 7)
    assert find(varied, 0.8, tmp_path / "parts") == expected


def test_only_wanted_texts_count(tmp_path):
    texts = ["The same old song.", "The same old song!", "the same old song"]
    assert find(texts, 0.8, tmp_path / "all") == [-1, 0, 0]
    assert find(texts, 0.8, tmp_path / "some", [False, True, True]) == [-1, -1, 1]


def test_texts_without_letters_or_digits_are_compared_as_they_are(tmp_path):
    assert find(["?!?!", "...", "?!?!", "é", "É."], 0.8, tmp_path) == [-1, -1, 0, -1, 3]


def test_a_chain_is_not_followed_from_text_to_text(tmp_path):
    texts = [ascii_lowercase[start : start + 20] for start in range(4)]
    # 20 sets of 4 each. Moved by one letter, 16 are the same; by two, 15; by three, 14.
    assert [jaccard(texts[0], text) for text in texts] == [1, 16 / 24, 15 / 25, 14 / 26]
    assert find(texts, 0.6, tmp_path) == [-1, 0, 0, -1]


def test_a_large_group_of_texts_that_are_not_alike_is_not_compared_pair_by_pair():
    calls = []

    def near(one, other):
        calls.append((one, other))
        return False

    instead = np.full(1000, -1, np.int32)
    module._compare(np.arange(1000), np.arange(1000) == 0, near, instead)
    assert len(calls) < 16 * 1000
    assert len(set(calls)) == len(calls)
    assert (instead == -1).all()


def test_bands_find_pairs_at_the_threshold():
    for threshold in (0.5, 0.65, 0.8, 0.9, 1.0):
        bands, rows = module._banding(threshold)
        assert bands * rows <= 128
        assert 1 - (1 - threshold**rows) ** bands >= 0.98


def test_signatures_agree_as_often_as_sets_overlap(varied):
    draw = np.random.default_rng(0)
    factors = draw.integers(1 << 62, size=512, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    simple = list(simplify(pl.Series(varied)).cast(pl.Binary))
    signatures = module._signatures(simple, factors)
    pairs = [(row, row + 1) for row in range(0, 60, 2)]
    pairs += [(row, old) for row, old in enumerate(naive(varied, 0.5)) if old >= 0][:30]
    for one, other in pairs:
        agree = (signatures[:, one] == signatures[:, other]).mean()
        assert agree == pytest.approx(jaccard(varied[one], varied[other]), abs=0.1)
