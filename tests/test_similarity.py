"""Nearest neighbours against the plain loop."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from polyalign.similarity import nearest_index, unit


@given(st.integers(0, 12), st.integers(1, 12), st.integers(1, 5), st.integers(0, 99))
def test_blocks_equal_the_plain_loop(queries, candidates, block, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(queries, 4)), rng.normal(size=(candidates, 4))
    cosine = [[x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in b] for x in a]
    assert nearest_index(a, b, block=block).tolist() == [int(np.argmax(row)) for row in cosine]


def test_scale_does_not_count_and_zero_stays_zero():
    np.testing.assert_allclose(unit(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0, 0]])
    assert nearest_index(np.array([[0.0, 9.0]]), np.array([[5.0, 0.0], [0.0, 0.1], [0.0, 7.0]])).tolist() == [1]
