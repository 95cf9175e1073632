"""How sure a difference is: the paired bootstrap over items, and what the training seeds add to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtrit

if TYPE_CHECKING:
    from polyalign.metrics import Scorer

LEVEL = 0.95
_TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


def resample_scores(
    scorers: Sequence[Sequence[Scorer]], resamples: int, rng: np.random.Generator
) -> np.ndarray[tuple[int, int, int], np.dtype[np.float64]]:
    """Recompute the metric of every subset of a task, for every model, on the same resamples of the task's items.

    A resample draws as many groups as the task has, with replacement; a group that stands in several subsets (the
    same sentence in several languages) is drawn for all of them at once, and for all models.

    Args:
        scorers: ``scorers[subset][model]``; the items of a subset are the same for every model.
        resamples: How many resamples R to draw.
        rng: Where the draws come from.

    Returns:
        ``scores[model, subset, resample]``, NaN where the metric is undefined on that resample.
    """
    items = [models[0].groups.astype(str) for models in scorers]
    groups = np.unique(np.concatenate(items))
    positions = [np.searchsorted(groups, of_subset) for of_subset in items]
    scores = np.empty((len(scorers[0]), len(scorers), resamples))
    for resample in range(resamples):
        counts = np.bincount(rng.integers(len(groups), size=len(groups)), minlength=len(groups))
        for subset, (models, position) in enumerate(zip(scorers, positions, strict=True)):
            weights = counts[position]
            scores[:, subset, resample] = [model.score(weights) for model in models]
    return scores


@dataclass(frozen=True)
class Estimates:
    """One arm's mean score over some subsets, seed by seed.

    Attributes:
        seeds: The training seeds, S of them.
        points: Score on the test items, ``points[seed]``, shape [S].
        resampled: The same on the resamples shared with the other arms, ``resampled[seed, resample]``, shape [S, R].
        trained: Whether a seed decided anything; an untouched model has no seed to vary.
    """

    seeds: tuple[int, ...]
    points: np.ndarray
    resampled: np.ndarray
    trained: bool = True

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return float(self.points.mean())


@dataclass(frozen=True)
class Difference:
    """A difference between two arms with its 95% interval, on the metric's own scale.

    Attributes:
        value: Mean of the arm minus mean of the control.
        low: Lower end of the interval.
        high: Upper end of the interval.
        over_seeds: Whether the interval covers other training seeds too, not only other test items.
    """

    value: float
    low: float
    high: float
    over_seeds: bool

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies on one side of 0, else 0."""
        return int(self.low > 0) - int(self.high < 0)


def difference(arm: Estimates, control: Estimates) -> Difference:
    """Return the difference of two arms' means with a 95% interval.

    Over items alone (one seed) the interval runs between the percentiles of the paired bootstrap, moved so that the
    resamples' mean lies on the difference itself: an item drawn twice is its own duplicate, which shifts F1 and rank
    correlations a little on every resample, and that shift is no uncertainty.

    With several seeds, its half-widths and that of a Student t interval over seeds are added in quadrature (the MOVER
    rule: Zou & Donner 2008, "Construction of confidence limits about effect measures", Statistics in Medicine 27). A
    bootstrap over both items and three seeds would cover far less than 95%; this rule covers 95% where either source
    dominates, and more where they mix, because what each seed does to each item counts in both parts.

    Arms with the same seeds are compared seed by seed; with different seeds, the two variances are added (Welch). When
    one of two trained arms has a single seed, the variation over seeds is unknown and the interval is over items only.
    """
    value = arm.mean - control.mean
    resampled = arm.resampled.mean(axis=0) - control.resampled.mean(axis=0)
    below, above = np.quantile(resampled - resampled.mean(), _TAILS)
    over_seeds = _seed_half_width(arm, control)
    return Difference(
        value=value,
        low=value - float(np.hypot(below, over_seeds or 0.0)),
        high=value + float(np.hypot(above, over_seeds or 0.0)),
        over_seeds=over_seeds is not None,
    )


def mean_interval(arm: Estimates) -> Difference:
    """Return an arm's own mean with its 95% interval, by the rule of `difference`: its difference to exactly 0."""
    nothing = Estimates((), np.zeros(1), np.zeros((1, arm.resampled.shape[1])), trained=False)
    return difference(arm, nothing)


def _seed_half_width(arm: Estimates, control: Estimates) -> float | None:
    """Half-width of the t interval over seeds of the difference; None when there are too few seeds to tell."""
    if arm.trained and control.trained and arm.seeds == control.seeds:
        samples = [arm.points - control.points]
    else:
        samples = [side.points for side in (arm, control) if side.trained]
    if not samples or min(map(len, samples)) < 2:
        return None
    variances = np.array([sample.var(ddof=1) / len(sample) for sample in samples])
    freedom = np.array([len(sample) - 1 for sample in samples])
    if not variances.any():
        return 0.0
    welch = variances.sum() ** 2 / (variances**2 / freedom).sum()
    return float(stdtrit(welch, _TAILS[1]) * np.sqrt(variances.sum()))
