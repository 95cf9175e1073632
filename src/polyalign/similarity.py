"""Nearest neighbours by cosine similarity, and measures of how well two sets of embeddings are aligned."""

from __future__ import annotations

import numpy as np


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return ``vectors``, float [n, D], scaled to length 1; a zero vector stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths == 0, 1, lengths)


def nearest_index(queries: np.ndarray, candidates: np.ndarray, *, block: int = 4096) -> np.ndarray:
    """Return the index of each query's most similar candidate by cosine, int64 [n]; the first one wins a tie.

    Args:
        queries: float [n, D].
        candidates: float [m, D], m at least 1.
        block: queries compared at a time; memory is ``block`` x m floats.
    """
    candidates = unit(candidates)
    found = [(unit(queries[start : start + block]) @ candidates.T).argmax(1) for start in range(0, len(queries), block)]
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


def nearest_other(vectors: np.ndarray, start: int, stop: int, *, block: int = 256) -> np.ndarray:
    """Return the row most similar by cosine to each of the rows from ``start`` to ``stop``, itself left out.

    Args:
        vectors: float [m, D], m at least 2.
        start: first row that asks.
        stop: one past the last row that asks.
        block: rows compared at a time; memory is ``block`` x m floats.

    Returns:
        int64 [stop - start]; the first one wins a tie.
    """
    vectors = unit(vectors)
    found = []
    for first in range(start, stop, block):
        rows = np.arange(first, min(first + block, stop))
        similarity = vectors[rows] @ vectors.T
        similarity[np.arange(len(rows)), rows] = -np.inf
        found.append(similarity.argmax(1))
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


def csls_index(queries: np.ndarray, candidates: np.ndarray, *, neighbours: int = 10, block: int = 4096) -> np.ndarray:
    """Return the index of each query's best candidate by CSLS, int64 [n]; the first one wins a tie.

    Cross-domain similarity local scaling (Conneau et al. 2018, "Word translation without parallel data", equation 3):
    twice the cosine, less the mean cosine of either side to its ``neighbours`` nearest on the other side. So a
    candidate that is near to everything is not everybody's neighbour. The query's own mean is the same for all its
    candidates and left out.

    Args:
        queries: float [n, D].
        candidates: float [m, D], m at least 1.
        neighbours: how many of the other side; all where there are fewer.
        block: texts compared at a time; memory is ``block`` x max(n, m) floats.
    """
    if not len(queries):
        return np.empty(0, dtype=np.int64)
    queries, candidates = unit(queries), unit(candidates)
    crowding = np.concatenate(
        [
            _mean_of_nearest(candidates[start : start + block] @ queries.T, neighbours)
            for start in range(0, len(candidates), block)
        ]
    )
    found = [
        (2 * (queries[start : start + block] @ candidates.T) - crowding).argmax(1)
        for start in range(0, len(queries), block)
    ]
    return np.concatenate(found)


def _mean_of_nearest(similarity: np.ndarray, neighbours: int) -> np.ndarray:
    """Return the mean of the ``neighbours`` highest (all where there are fewer) of each row, float [n]."""
    rest = max(similarity.shape[1] - neighbours, 0)
    mean: np.ndarray = np.partition(similarity, rest, axis=1)[:, rest:].mean(1)
    return mean


def alignment(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean squared distance of row-aligned pairs of unit vectors, from 0 (best) to 4.

    The alignment loss of Wang and Isola 2020, "Understanding contrastive representation learning through alignment
    and uniformity on the hypersphere", with exponent 2.

    Args:
        first: float [n, D], n at least 1; of any length.
        second: float [n, D]; row i belongs to row i of ``first``.
    """
    return float(np.square(unit(first) - unit(second)).sum(1).mean())


def uniformity(vectors: np.ndarray, *, block: int = 4096) -> float:
    """Return how evenly unit vectors cover the sphere: 0 where all are the same, the lower the more even.

    The uniformity loss of Wang and Isola 2020 with t = 2: the logarithm of the mean of ``exp(-2 * distance ** 2)`` over
    all pairs of two rows; NaN for a single one.

    Args:
        vectors: float [n, D]; of any length.
        block: rows compared at a time; memory is ``block`` x n floats.
    """
    if len(vectors) < 2:
        return float("nan")
    vectors = unit(vectors)
    squares = np.square(vectors).sum(1)
    total = 0.0
    for start in range(0, len(vectors), block):
        rows = slice(start, start + block)
        distances = squares[rows, None] + squares - 2 * (vectors[rows] @ vectors.T)
        kernel = np.exp(-2 * distances)
        np.fill_diagonal(kernel[:, rows], 0)
        total += float(kernel.sum(dtype=np.float64))
    return float(np.log(total / (len(vectors) * (len(vectors) - 1))))


def margins(sources: np.ndarray, targets: np.ndarray, neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosine similarity of row-aligned pairs and its ratio margin (Artetxe and Schwenk 2019, equation 2).

    The margin of a pair is its similarity over the mean of two means: of the source's similarity to its nearest
    targets, and of the target's to its nearest sources. It is 1 where the pair is as similar as its neighbours are.

    Args:
        sources: float [n, D].
        targets: float [n, D]; row i belongs to row i of ``sources``.
        neighbours: how many of each side; all where there are fewer. The pair itself may be among them.

    Returns:
        Similarity and margin, float [n]; the margin is null (NaN) where the neighbours' mean is not above 0.
    """
    similarity = unit(sources) @ unit(targets).T
    pairs = similarity.diagonal().copy()
    usual = (_mean_of_nearest(similarity, neighbours) + _mean_of_nearest(similarity.T, neighbours)) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return pairs, np.where(usual > 0, pairs / usual, np.nan)
