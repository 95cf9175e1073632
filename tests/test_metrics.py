"""Each scorer equals the reference metric on items that are really repeated."""

import math
import warnings

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, f1_score

from polyalign.metrics import prepare


def frame(gold, predicted=None, similarity=None, experiment=None, group=None):
    n = len(gold)
    return pl.DataFrame(
        {
            "group": [str(g) for g in (group if group is not None else range(n))],
            "experiment": experiment if experiment is not None else [0] * n,
            "gold": [str(g) for g in gold],
            "predicted": [str(p) for p in predicted] if predicted is not None else [""] * n,
            "similarity": pl.Series(similarity, dtype=pl.Float64) if similarity is not None else [0.0] * n,
        }
    )


def weights_of(n):
    return st.lists(st.integers(0, 4), min_size=n, max_size=n).filter(any).map(np.array)


def test_bitext_by_hand():
    # Items 0 and 1 both retrieve sentence 0: F1 of label 0 is 2*1/(1+2), of label 1 it is 0, of label 2 it is 1.
    scorer = prepare("bitext", frame([0, 1, 2], [0, 0, 2], group=["a", "b", "c"]))
    assert scorer.score() == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert scorer.groups.tolist() == ["a", "b", "c"]
    assert scorer.score(np.array([0, 0, 5])) == 1.0


def test_sts_by_hand():
    scorer = prepare("sts", frame([0.0, 1.0, 2.0], similarity=[0.1, 0.5, 0.3]))
    assert scorer.score() == pytest.approx(0.5)
    assert scorer.score(np.array([1, 0, 1])) == pytest.approx(1.0)


def test_classification_averages_the_experiments():
    predictions = frame([0, 1, 0, 1], [0, 1, 0, 0], experiment=[0, 0, 1, 1], group=["x", "y", "x", "y"])
    scorer = prepare("classification", predictions)
    assert scorer.groups.tolist() == ["x", "y"]
    assert scorer.score() == pytest.approx((1.0 + 0.5) / 2)
    assert scorer.score(np.array([0, 3])) == pytest.approx(0.5)


def test_retrieval_by_hand():
    """The first and the third query find their sentence in another language, the second finds another sentence."""
    gold, predicted = ["7@pool", "8@pool", "9@pool"], ["7@de", "7@fr", "9@ru"]
    scorer = prepare("retrieval", frame(gold, predicted, group=["7", "8", "9"]))
    assert scorer.score() == pytest.approx(2 / 3)
    assert scorer.score(np.array([1, 3, 0])) == pytest.approx(1 / 4)


def test_undefined_scores_are_nan():
    assert math.isnan(prepare("sts", frame([1.0, 2.0], similarity=[0.3, 0.3])).score())
    assert math.isnan(prepare("bitext", frame([0], [0])).score(np.array([0])))


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="2 items need weights"):
        prepare("bitext", frame([0, 1], [0, 1])).score(np.array([1]))
    with pytest.raises(ValueError, match="differ in their items"):
        prepare("classification", frame([0, 1, 0], [0, 1, 0], experiment=[0, 0, 1]))
    with pytest.raises(ValueError, match="without predictions"):
        prepare("bitext", frame([], []))


@given(st.data())
def test_bitext_equals_sklearn_on_repeated_items(data):
    n = data.draw(st.integers(1, 12))
    predicted = np.array(data.draw(st.lists(st.integers(0, n + 1), min_size=n, max_size=n)))
    weights = data.draw(weights_of(n))
    expected = f1_score(
        np.repeat(np.arange(n), weights), np.repeat(predicted, weights), average="weighted", zero_division=0
    )
    assert prepare("bitext", frame(range(n), predicted)).score(weights) == pytest.approx(expected, abs=1e-12)


@given(st.data())
def test_sts_equals_scipy_on_repeated_items(data):
    n = data.draw(st.integers(2, 12))
    values = st.lists(st.integers(-3, 3).map(lambda v: v / 4), min_size=n, max_size=n)
    gold, similarity = np.array(data.draw(values)), np.array(data.draw(values))
    weights = data.draw(weights_of(n))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns where the correlation is not defined
        expected = (
            spearmanr(np.repeat(gold, weights), np.repeat(similarity, weights))[0] if weights.sum() > 1 else np.nan
        )
    actual = prepare("sts", frame(gold, similarity=similarity)).score(weights)
    assert actual == pytest.approx(expected, abs=1e-12, nan_ok=True)


@given(st.data())
def test_classification_equals_sklearn_on_repeated_items(data):
    n, experiments = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 4))
    labels = st.lists(st.integers(0, 2), min_size=n, max_size=n)
    gold = np.array(data.draw(labels))
    predicted = [np.array(data.draw(labels)) for _ in range(experiments)]
    weights = data.draw(weights_of(n))
    predictions = pl.concat(frame(gold, p, experiment=[e] * n, group=range(n)) for e, p in enumerate(predicted))
    expected = np.mean([accuracy_score(np.repeat(gold, weights), np.repeat(p, weights)) for p in predicted])
    assert prepare("classification", predictions).score(weights) == pytest.approx(expected, abs=1e-12)


@given(st.data())
def test_retrieval_equals_sklearn_on_repeated_items(data):
    n = data.draw(st.integers(1, 8))
    sentences = st.lists(st.integers(0, 2), min_size=n, max_size=n)
    gold, predicted = data.draw(sentences), data.draw(sentences)
    weights = data.draw(weights_of(n))
    expected = accuracy_score(np.repeat(gold, weights), np.repeat(predicted, weights))
    found = frame([f"{g}@pool" for g in gold], [f"{p}@de" for p in predicted])
    assert prepare("retrieval", found).score(weights) == pytest.approx(expected, abs=1e-12)
