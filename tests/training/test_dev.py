"""Bitext accuracy on dev rows, by hand."""

import numpy as np
import polars as pl
import pytest

from polyalign.corpus import Corpus
from polyalign.errors import UserError
from polyalign.training.dev import MIN_PAIR_ROWS, BitextAccuracy


class Lookup:
    """An encoder that knows its vectors."""

    def __init__(self, vectors):
        self.vectors = vectors

    def encode(self, texts, **options):
        return np.stack([self.vectors[text] for text in texts])


def corpus_of(columns):
    rows = pl.DataFrame({"row_id": [f"{number:032x}" for number in range(len(columns["en"]))], **columns})
    return Corpus(rows=rows, languages=tuple(columns), report={})


def test_the_mean_over_ordered_pairs_among_shared_rows():
    """12 rows; German misses two; two German vectors are swapped; French is perfect but shares 9 rows with German.

    en→de and de→en find 8 of 10, en→fr and fr→en 11 of 11; de-fr shares too few rows to count.
    """
    english = [f"e{n}" for n in range(12)]
    german = [None, None, *(f"d{n}" for n in range(2, 12))]
    french = [*(f"f{n}" for n in range(11)), None]
    vectors = {f"{language}{n}": np.eye(12)[n] for language in "edf" for n in range(12)}
    vectors["d5"], vectors["d6"] = vectors["d6"], vectors["d5"]
    evaluator = BitextAccuracy(corpus_of({"en": english, "de": german, "fr": french}))
    assert MIN_PAIR_ROWS == 10
    assert len(evaluator.pairs) == 4
    assert evaluator(Lookup(vectors)) == {"dev_accuracy": pytest.approx((0.8 + 0.8 + 1 + 1) / 4)}


def test_too_few_shared_rows():
    corpus = corpus_of({"en": [f"e{n}" for n in range(9)], "de": [f"d{n}" for n in range(9)]})
    with pytest.raises(UserError, match=r"of 9 dev rows no two languages share 10; raise dev_rows, or set it to 0"):
        BitextAccuracy(corpus)
