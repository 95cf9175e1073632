"""The main metric of each task family, recomputed from the predictions of single items.

Evaluation checks with these that the kept predictions are those that were scored; comparison calls them once per
bootstrap resample, which is why an item's weight is the number of times a resample drew it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import polars as pl

MAIN_METRICS = {"bitext": "f1", "sts": "cosine_spearman", "classification": "accuracy", "retrieval": "accuracy"}
"""Task family -> MTEB's name of the metric that a `Scorer` of that family computes."""


class Scorer(ABC):
    """The main metric of one subset of a task, as a function of how often each item counts.

    Attributes:
        groups: [n] the group of each item, in the order of the weights. Items of one group are one item of the
            task seen in several subsets, so they are resampled together.
    """

    def __init__(self, groups: pl.Series) -> None:
        self.groups = groups.to_numpy().astype(np.str_)

    def score(self, weights: np.ndarray | None = None) -> float:
        """Return the metric with item i repeated ``weights[i]`` times; without weights, of every item once.

        Args:
            weights: [n] integers of at least 0.

        Returns:
            The metric, in [0, 1], for sts in [-1, 1]; NaN where it is not defined
            (no item drawn, or a correlation with a constant).
        """
        counts = np.ones(len(self.groups)) if weights is None else np.asarray(weights, dtype=np.float64)
        if counts.shape != self.groups.shape:
            raise ValueError(f"{len(self.groups)} items need weights of shape {self.groups.shape}, got {counts.shape}")
        return self._score(counts) if counts.any() else float("nan")

    @abstractmethod
    def _score(self, weights: np.ndarray) -> float: ...


class _BitextScorer(Scorer):
    """F1 of each gold index, averaged with its support as weight."""

    def __init__(self, predictions: pl.DataFrame) -> None:
        super().__init__(predictions["group"])
        gold, predicted = predictions["gold"].to_numpy(), predictions["predicted"].to_numpy()
        labels, codes = np.unique(np.concatenate([gold, predicted]), return_inverse=True)
        self._num_labels = len(labels)
        self._gold, self._predicted = codes[: len(gold)], codes[len(gold) :]
        self._hit = (self._gold == self._predicted).astype(np.float64)

    def _score(self, weights: np.ndarray) -> float:
        support = np.bincount(self._gold, weights, self._num_labels)
        retrieved = np.bincount(self._predicted, weights, self._num_labels)
        hits = np.bincount(self._gold, weights * self._hit, self._num_labels)
        # A label neither drawn nor retrieved has support 0; the 1 only keeps its 0/0 out.
        f1 = 2 * hits / np.where(support + retrieved > 0, support + retrieved, 1)
        return float(support @ f1 / weights.sum())


class _StsScorer(Scorer):
    """Spearman's rank correlation, ties at their average rank."""

    def __init__(self, predictions: pl.DataFrame) -> None:
        super().__init__(predictions["group"])
        self._gold = np.unique(predictions["gold"].cast(pl.Float64).to_numpy(), return_inverse=True)[1]
        self._similarity = np.unique(predictions["similarity"].to_numpy(), return_inverse=True)[1]

    def _score(self, weights: np.ndarray) -> float:
        x, y = _centred_ranks(self._gold, weights), _centred_ranks(self._similarity, weights)
        spread = np.sqrt((weights @ (x * x)) * (weights @ (y * y)))
        return float(weights @ (x * y) / spread) if spread > 0 else float("nan")


def _centred_ranks(codes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return each item's average rank among the items repeated by ``weights``, less the mean rank, [n].

    Args:
        codes: [n] the position of an item's value among the distinct values in ascending order.
        weights: [n] how often an item is repeated.
    """
    counts = np.bincount(codes, weights)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    centred: np.ndarray = ranks[codes] - (weights.sum() + 1) / 2
    return centred


class _ClassificationScorer(Scorer):
    """Accuracy, averaged over the few-shot experiments. An item is a test item, not a row."""

    def __init__(self, predictions: pl.DataFrame) -> None:
        ordered = predictions.sort("experiment", maintain_order=True)
        num_experiments = ordered["experiment"].n_unique()
        num_items, rest = divmod(len(ordered), num_experiments)
        groups = ordered["group"].to_numpy()
        if rest or (groups.reshape(num_experiments, num_items) != groups[:num_items]).any():
            raise ValueError("the experiments of a classification subset differ in their items")
        super().__init__(ordered["group"].head(num_items))
        hits = (ordered["gold"] == ordered["predicted"]).to_numpy().astype(np.float64)
        self._accuracy = hits.reshape(num_experiments, num_items).mean(axis=0)

    def _score(self, weights: np.ndarray) -> float:
        return float(weights @ self._accuracy / weights.sum())


class _RetrievalScorer(Scorer):
    """Accuracy: how often the nearest neighbour is a translation of the query."""

    def __init__(self, predictions: pl.DataFrame) -> None:
        super().__init__(predictions["group"])
        # What stands behind the "@" says whose sentence it is, or among which pool it was sought.
        sentence = pl.col("gold", "predicted").str.split("@").list.first()
        gold, predicted = predictions.select(sentence)
        self._hit = (gold == predicted).to_numpy().astype(np.float64)

    def _score(self, weights: np.ndarray) -> float:
        return float(weights @ self._hit / weights.sum())


_SCORERS: dict[str, type[_BitextScorer | _StsScorer | _ClassificationScorer | _RetrievalScorer]] = {
    "bitext": _BitextScorer,
    "sts": _StsScorer,
    "classification": _ClassificationScorer,
    "retrieval": _RetrievalScorer,
}


def prepare(family: str, predictions: pl.DataFrame) -> Scorer:
    """Do once what every resample of a subset shares: codes of labels, order of values, hits of items.

    Args:
        family: ``bitext``, ``sts``, ``classification`` or ``retrieval``.
        predictions: the rows of one subset in ``predictions.parquet``: columns group, experiment, gold, predicted
            and similarity.

    Returns:
        The scorer, which computes ``MAIN_METRICS[family]``.

    Raises:
        ValueError: when there is no row, or classification experiments do not share their items.
    """
    if predictions.is_empty():
        raise ValueError(f"a {family} subset without predictions has no score")
    return _SCORERS[family](predictions)
