"""Nearest neighbours by cosine similarity."""

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
    count = min(neighbours, len(pairs))
    means = [
        np.partition(side, len(pairs) - count, axis=1)[:, len(pairs) - count :].mean(1)
        for side in (similarity, similarity.T)
    ]
    usual = (means[0] + means[1]) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return pairs, np.where(usual > 0, pairs / usual, np.nan)
