"""Nearest neighbours against the plain loop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyalign.similarity import alignment, csls_index, margins, nearest_index, nearest_other, uniformity, unit


@given(st.integers(0, 12), st.integers(1, 12), st.integers(1, 5), st.integers(0, 99))
def test_blocks_equal_the_plain_loop(queries, candidates, block, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(queries, 4)), rng.normal(size=(candidates, 4))
    cosine = [[x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in b] for x in a]
    assert nearest_index(a, b, block=block).tolist() == [int(np.argmax(row)) for row in cosine]


def test_scale_does_not_count_and_zero_stays_zero():
    np.testing.assert_allclose(unit(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0, 0]])
    assert nearest_index(np.array([[0.0, 9.0]]), np.array([[5.0, 0.0], [0.0, 0.1], [0.0, 7.0]])).tolist() == [1]


@given(st.integers(2, 12), st.data(), st.integers(1, 5), st.integers(0, 99))
def test_the_nearest_other_is_never_the_row_itself(n, data, block, seed):
    start = data.draw(st.integers(0, n))
    stop = data.draw(st.integers(start, n))
    vectors = np.random.default_rng(seed).normal(size=(n, 4))
    vectors[-1] = vectors[0]  # the same text in two languages is another row
    expected = [nearest_but(vectors, row) for row in range(start, stop)]
    assert nearest_other(vectors, start, stop, block=block).tolist() == expected


def nearest_but(vectors, row):
    others = [other for other in range(len(vectors)) if other != row]
    return max(others, key=lambda other: (round(cosine(vectors[row], vectors[other]), 9), -other))


def cosine(x, y):
    lengths = np.linalg.norm(x) * np.linalg.norm(y)
    return float(x @ y / lengths) if lengths else 0.0


def naive_csls(queries, candidates, neighbours):
    """Equation 3 of Conneau et al. (2018), pair by pair, with both sides' means."""

    def mean(text, others):
        nearest = sorted((cosine(text, other) for other in others), reverse=True)[:neighbours]
        return sum(nearest) / len(nearest)

    scores = [[2 * cosine(x, y) - mean(x, candidates) - mean(y, queries) for y in candidates] for x in queries]
    return [int(np.argmax(row)) for row in scores]


@given(st.integers(0, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 5), st.integers(0, 99))
def test_csls_equals_the_plain_loop(n, m, neighbours, block, seed):
    rng = np.random.default_rng(seed)
    queries, candidates = rng.normal(size=(n, 4)), rng.normal(size=(m, 4))
    found = csls_index(queries, candidates, neighbours=neighbours, block=block)
    assert found.tolist() == naive_csls(queries, candidates, neighbours)


def test_csls_passes_over_the_candidate_that_is_near_to_all():
    """Cosines of the queries to a hub: 0.6, 0.6, 0.5; to their own translations 0.5, 0.8, 0.8, to the others' 0."""
    queries = np.eye(4)[:3]
    hub = [0.6, 0.6, 0.5, np.sqrt(0.03)]
    candidates = np.array([hub, [0.5, 0, 0, np.sqrt(0.75)], [0, 0.8, 0, 0.6], [0, 0, 0.8, 0.6]])
    assert nearest_index(queries, candidates).tolist() == [0, 2, 3]
    # The hub's two nearest have a mean of 0.6: 2 * 0.6 - 0.6 = 0.6 is less than 2 * 0.5 - (0.5 + 0) / 2 = 0.75.
    assert csls_index(queries, candidates, neighbours=2).tolist() == [1, 2, 3]


def test_alignment_and_uniformity_by_hand():
    """The unit vectors are at right angles or the same: squared distances 2, 0 and 0."""
    first, second = np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([[0.0, 3.0], [0.0, 0.5]])
    assert alignment(first, second) == pytest.approx((2 + 0) / 2)
    assert uniformity(first) == pytest.approx(-4.0)
    assert uniformity(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 5.0]])) == pytest.approx(np.log((2 * np.exp(-4) + 1) / 3))
    assert uniformity(second) == pytest.approx(0.0)
    assert np.isnan(uniformity(first[:1]))


@given(st.integers(2, 9), st.integers(1, 5), st.integers(0, 99))
def test_alignment_and_uniformity_equal_the_plain_loop(n, block, seed):
    """Zero vectors too: they stay at the centre of the sphere."""
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(n, 4)), rng.normal(size=(n, 4))
    first[rng.random(n) < 0.1] = 0
    a, b = unit(first), unit(second)
    assert alignment(first, second) == pytest.approx(np.mean([((x - y) ** 2).sum() for x, y in zip(a, b, strict=True)]))
    kernel = [np.exp(-2 * ((a[i] - a[j]) ** 2).sum()) for i in range(n) for j in range(i)]
    assert uniformity(first, block=block) == pytest.approx(np.log(np.mean(kernel)))


def naive_margins(sources, targets, neighbours):
    """The margin of Artetxe and Schwenk (2019), pair by pair."""
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
