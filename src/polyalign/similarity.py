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
