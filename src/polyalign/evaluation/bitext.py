"""Bitext mining as MTEB has it, with further measures of how a pair of languages is aligned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from mteb.abstasks import AbsTask, AbsTaskBitextMining

from polyalign.similarity import alignment, csls_index, nearest_index, uniformity

if TYPE_CHECKING:
    from polyalign.evaluation.adapter import MtebEncoder


class PairBitext(AbsTaskBitextMining):
    """MTEB's bitext mining of ``sentence1`` in ``sentence2``, and what `pair_metrics` returns beside its metrics.

    `parallel_subsets` stays off: it splits a subset's name at every "-" (zh-Hant-en) and wants rows without gaps.
    """

    further_metrics = ("accuracy_backward", "accuracy_csls", "alignment", "uniformity")

    def _evaluate_subset(self, model: MtebEncoder, data_split: Any, **kwargs: Any) -> dict[str, float]:
        scores = super()._evaluate_subset(model, data_split, **kwargs)
        sides = [embed(self, model, list(data_split[side])) for side in ("sentence1", "sentence2")]
        return {**scores, **pair_metrics(*sides)}


def embed(task: AbsTask, model: MtebEncoder, texts: Sequence[str]) -> np.ndarray:
    """Return the embeddings of ``texts`` as MTEB would ask for them in ``task``, float32 [n, D]."""
    return model.encode([{"text": texts}], task_metadata=task.metadata)


def pair_metrics(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Return what MTEB does not measure of two languages, by cosine.

    Args:
        first: embeddings of sentence1, float [n, D], n at least 1.
        second: embeddings of sentence2, float [n, D]; row i translates row i of ``first``.

    Returns:
        ``accuracy_backward``: how often the sentence2 finds its sentence1; ``accuracy_csls``: how often a sentence
        finds its translation by CSLS with 10 neighbours, mean of both directions; ``alignment``, and ``uniformity``,
        the mean of that of both languages. See `polyalign.similarity`.
    """
    rows = np.arange(len(first))
    both = [csls_index(first, second) == rows, csls_index(second, first) == rows]
    return {
        "accuracy_backward": float(np.mean(nearest_index(second, first) == rows)),
        "accuracy_csls": float(np.mean(both)),
        "alignment": alignment(first, second),
        "uniformity": (uniformity(first) + uniformity(second)) / 2,
    }
