"""Nearest neighbours against the plain loop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyalign.similarity import margins, nearest_index, unit


@given(st.integers(0, 12), st.integers(1, 12), st.integers(1, 5), st.integers(0, 99))
def test_blocks_equal_the_plain_loop(queries, candidates, block, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(queries, 4)), rng.normal(size=(candidates, 4))
    cosine = [[x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in b] for x in a]
    assert nearest_index(a, b, block=block).tolist() == [int(np.argmax(row)) for row in cosine]


def test_scale_does_not_count_and_zero_stays_zero():
    np.testing.assert_allclose(unit(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0, 0]])
    assert nearest_index(np.array([[0.0, 9.0]]), np.array([[5.0, 0.0], [0.0, 0.1], [0.0, 7.0]])).tolist() == [1]


def naive_margins(sources, targets, neighbours):
    """The margin of Artetxe and Schwenk (2019), pair by pair."""

    def cosine(x, y):
        lengths = np.linalg.norm(x) * np.linalg.norm(y)
        return float(x @ y / lengths) if lengths else 0.0

    found = []
    for i, (source, target) in enumerate(zip(sources, targets, strict=True)):
        of_source = sorted((cosine(source, other) for other in targets), reverse=True)[:neighbours]
        of_target = sorted((cosine(other, target) for other in sources), reverse=True)[:neighbours]
        usual = (sum(of_source) / len(of_source) + sum(of_target) / len(of_target)) / 2
        similarity = cosine(source, targets[i])
        found.append((similarity, similarity / usual if usual > 1e-9 else np.nan))
    return np.array(found).T


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 99))
def test_margins_equal_the_plain_loop(n, neighbours, seed):
    """Fewer texts than neighbours too, and zero vectors; the vectors lean one way, so that no mean is near 0."""
    rng = np.random.default_rng(seed)
    sources, targets = rng.normal(1, 1, (n, 4)), rng.normal(1, 1, (n, 4))
    sources[rng.random(n) < 0.1] = 0
    similarity, margin = margins(sources, targets, neighbours)
    expected = naive_margins(sources, targets, neighbours)
    np.testing.assert_allclose(similarity, expected[0], atol=1e-12)
    np.testing.assert_allclose(margin, expected[1], rtol=1e-9)


def test_margins_by_hand():
    """Cosines of each source to the targets: 1, 1, 0.6; 0.6, 0.6, 1; 0, 0, 0.8."""
    sources = np.array([[2.0, 0.0], [0.6, 0.8], [0.0, 3.0]])
    targets = np.array([[1.0, 0.0], [5.0, 0.0], [0.6, 0.8]])
    similarity, margin = margins(sources, targets, 2)
    np.testing.assert_allclose(similarity, [1, 0.6, 0.8])
    # (1 + 1) / 2 and (1 + 0.6) / 2; (1 + 0.6) / 2 and (1 + 0.6) / 2; (0.8 + 0) / 2 and (1 + 0.8) / 2
    np.testing.assert_allclose(margin, [1 / 0.9, 0.6 / 0.8, 0.8 / 0.65])


@pytest.mark.parametrize("targets", [[[0.0, 0.0]], [[-1.0, 0.0]]])
def test_there_is_no_margin_over_neighbours_that_are_not_near(targets):
    similarity, margin = margins(np.array([[1.0, 0.0]]), np.array(targets), 4)
    assert similarity.tolist() == [targets[0][0]]
    assert np.isnan(margin).all()
