"""Arms side by side: which scores are comparable, and the numbers of the report."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polyalign.errors import UserError, nearest
from polyalign.metrics import Scorer, prepare
from polyalign.reporting.labels import printable
from polyalign.reporting.scores import Scores
from polyalign.reporting.significance import Difference, Estimates, difference, resample_scores
from polyalign.storage import fingerprint

BASE = "base"
FAMILIES = (
    "bitext en-X",
    "bitext X-X",
    "STS",
    "STS cross-lingual",
    "classification",
    "classification zero-shot",
    "retrieval, mixed pool",
)
EXPOSURES = ("seen", "unseen", "mixed")
_SAME_SCORE = 5e-4  # half of the last digit shown


@dataclass(frozen=True)
class Subset:
    """One subset of a task, the smallest thing that has a score.

    Attributes:
        key: The task's and the subset's names in MTEB.
        family: One of `FAMILIES`.
        languages: Its languages, English first when it is there.
        exposure: One of `EXPOSURES` ("mixed": seen in training by some arms only) or "english".
        items: Number of test items.
    """

    key: tuple[str, str]
    family: str
    languages: tuple[str, ...]
    exposure: str
    items: int

    @property
    def task(self) -> str:
        """Name of the task, safe to print."""
        return printable(self.key[0])

    @property
    def subset(self) -> str:
        """Name of the subset, safe to print."""
        return printable(self.key[1])


@dataclass(frozen=True)
class LeftOut:
    """A subset that is in some arm's scores but not in the comparison, and why."""

    task: str
    subset: str
    reason: str


@dataclass(frozen=True)
class Arm:
    """One training recipe and its runs, which differ by seed alone."""

    name: str
    runs: tuple[Scores, ...]

    @property
    def trained(self) -> bool:
        """Whether it was trained here, so that a seed decided something."""
        return any(run.encoder is not None for run in self.runs)

    def mean_cost(self, key: str, *, evaluation: bool = False) -> float | None:
        """Return a cost of training, or of evaluation, by its key on disk: its mean over runs; None where unknown."""
        records = [run.manifest if evaluation else run.encoder or {} for run in self.runs]
        costs = [(record.get("cost") or {}).get(key) for record in records]
        known = [float(cost) for cost in costs if cost is not None]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class Subject:
    """What a comparison is about, as its control was trained.

    Attributes:
        base: what training began from; None where it is not recorded.
        rows: of the corpus; None where they are not recorded.
        languages: of the corpus.
    """

    base: str | None
    rows: int | None
    languages: tuple[str, ...]


@dataclass(frozen=True)
class Headline:
    """An arm's result for one family and exposure.

    Attributes:
        family: One of `FAMILIES`.
        exposure: One of `EXPOSURES`, or "english".
        arm: Name of the arm.
        tasks: Number of tasks averaged.
        languages: Languages other than English that take part.
        mean: Mean over tasks of the mean over their subsets, then over seeds.
        difference: Against the control; None for the control itself.
        relative_gain: 100 * (arm - control) / control; None for the control, or where it is not above 0.
        won: Languages whose difference is clear and positive.
        lost: Languages whose difference is clear and negative.
        worst: The language with the lowest mean and that mean; None without languages.
    """

    family: str
    exposure: str
    arm: str
    tasks: int
    languages: tuple[str, ...]
    mean: float
    difference: Difference | None
    relative_gain: float | None
    won: tuple[str, ...]
    lost: tuple[str, ...]
    worst: tuple[str, float] | None


@dataclass(frozen=True)
class LanguageResult:
    """An arm's result for one language within a family and exposure."""

    family: str
    exposure: str
    language: str
    arm: str
    mean: float
    difference: Difference | None


@dataclass(frozen=True)
class Comparison:
    """All arms that share a budget, on the same subsets of the same tasks.

    Attributes:
        budget: Name of the budget, or None when no scores name one.
        arms: The untouched base first, then the control, then the others in the order given.
        control: Name of the arm the others are compared with.
        subsets: The K subsets that every run has.
        values: Main scores, ``values[run, subset]``; runs in the order of the arms.
        resampled: The same on R resamples, ``resampled[run, subset, resample]``.
        left_out: What could not be compared.
    """

    budget: str | None
    arms: tuple[Arm, ...]
    control: str
    subsets: tuple[Subset, ...]
    values: np.ndarray
    resampled: np.ndarray
    left_out: tuple[LeftOut, ...]

    def arm(self, name: str) -> Arm:
        """Return the arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    @property
    def subject(self) -> Subject:
        """What its control was trained from and on."""
        record = self.arm(self.control).runs[0].encoder or {}
        rows = (record.get("corpus") or {}).get("rows")
        return Subject(record.get("base"), rows, tuple(record.get("languages") or ()))

    @property
    def challengers(self) -> list[str]:
        """The trained arms other than the control: those the comparison is about."""
        return [arm.name for arm in self.arms if arm.name not in (self.control, BASE)]

    @property
    def compared(self) -> list[str]:
        """The challengers; the untouched base where there is no other arm beside the control."""
        return self.challengers or [BASE]

    def estimates(self, arm: str, chosen: Sequence[int]) -> Estimates:
        """Return an arm's mean over tasks of the mean over the chosen subsets of each task.

        Args:
            arm: Name of the arm.
            chosen: Positions in `subsets`.
        """
        per_task = Counter(self.subsets[index].task for index in chosen)
        weights = np.array([1 / (len(per_task) * per_task[self.subsets[index].task]) for index in chosen])
        names = [one.name for one in self.arms for _ in one.runs]
        runs = [position for position, name in enumerate(names) if name == arm]
        return Estimates(
            seeds=tuple(run.seed for run in self.arm(arm).runs),
            points=self.values[np.ix_(runs, chosen)] @ weights,
            resampled=np.einsum("skr,k->sr", self.resampled[np.ix_(runs, chosen)], weights),
            trained=self.arm(arm).trained,
        )

    def choose(self, family: str, exposure: str) -> list[int]:
        """Return the positions of the subsets of a family and exposure."""
        return [index for index, one in enumerate(self.subsets) if (one.family, one.exposure) == (family, exposure)]

    def cells(self) -> list[tuple[str, str, list[int]]]:
        """Return (family, exposure, positions of its subsets) wherever there are any, without English-only subsets."""
        found = [(family, exposure, self.choose(family, exposure)) for family in FAMILIES for exposure in EXPOSURES]
        return [cell for cell in found if cell[2]]

    def languages(self) -> list[LanguageResult]:
        """Return every arm's result for every language other than English, by family and exposure."""
        results = []
        for family, exposure, chosen in self.cells():
            by_language: dict[str, list[int]] = defaultdict(list)
            for index in chosen:
                for language in self.subsets[index].languages:
                    by_language[language].append(index)
            by_language.pop("en", None)
            for language, own in sorted(by_language.items()):
                control = self.estimates(self.control, own)
                for arm in self.arms:
                    mine = self.estimates(arm.name, own)
                    against = None if arm.name == self.control else difference(mine, control)
                    results.append(LanguageResult(family, exposure, language, arm.name, mine.mean, against))
        return results

    def headlines(self, languages: Sequence[LanguageResult]) -> list[Headline]:
        """Return every arm's result for every family and exposure.

        Args:
            languages: The results by language, from `languages`.
        """
        results = []
        for family, exposure, chosen in self.cells():
            for arm in self.arms:
                own = [one for one in languages if (one.family, one.exposure, one.arm) == (family, exposure, arm.name)]
                results.append(self._headline(family, exposure, arm.name, chosen, own))
        return results

    def english(self) -> list[Headline]:
        """Return every arm's result on English alone by family, compared with the untouched base (else the control)."""
        before = BASE if any(arm.name == BASE for arm in self.arms) else self.control
        results = []
        for family in FAMILIES:
            chosen = self.choose(family, "english")
            if chosen:
                results += [
                    self._headline(family, "english", arm.name, chosen, [], against=before) for arm in self.arms
                ]
        return results

    def _headline(
        self,
        family: str,
        exposure: str,
        arm: str,
        chosen: list[int],
        languages: Sequence[LanguageResult],
        against: str | None = None,
    ) -> Headline:
        against = against or self.control
        mine, other = self.estimates(arm, chosen), self.estimates(against, chosen)
        worst = min(languages, key=lambda one: (one.mean, one.language), default=None)
        signs = {one.language: one.difference.sign for one in languages if one.difference}
        return Headline(
            family=family,
            exposure=exposure,
            arm=arm,
            tasks=len({self.subsets[index].task for index in chosen}),
            languages=tuple(one.language for one in languages),
            mean=mine.mean,
            difference=None if arm == against else difference(mine, other),
            relative_gain=None if arm == against or other.mean <= 0 else 100 * (mine.mean / other.mean - 1),
            won=tuple(language for language, sign in signs.items() if sign > 0),
            lost=tuple(language for language, sign in signs.items() if sign < 0),
            worst=(worst.language, worst.mean) if worst else None,
        )


def compare_arms(
    scores: Sequence[Scores], *, control: str | None = None, resamples: int = 1000, seed: int = 0
) -> list[Comparison]:
    """Return one comparison for each budget that the scores name, or a single one when they name none.

    Scores that name no budget (the untouched base) take part in every comparison.

    Raises:
        UserError: for an unknown control, fewer than two arms, two folders of the same arm, seed and budget, or no
            subset that all have.
    """
    budgets = list(dict.fromkeys(budget for one in scores for budget in one.manifest["budgets"])) or [None]
    return [
        _compare_budget(
            budget,
            [one for one in scores if not one.manifest["budgets"] or budget in one.manifest["budgets"]],
            control,
            resamples,
            seed,
        )
        for budget in budgets
    ]


def _compare_budget(
    budget: str | None, scores: Sequence[Scores], control: str | None, resamples: int, seed: int
) -> Comparison:
    arms = _arms(scores, budget)
    name = _control(control, [arm.name for arm in arms], budget)
    arms.sort(key=lambda arm: (arm.name != BASE, arm.name != name))  # stable: the others keep the order given
    runs = [run for arm in arms for run in arm.runs]
    subsets, scorers, left_out = _common(runs)
    resampled = _resample(subsets, scorers, resamples, seed) if subsets else np.empty((len(runs), 0, resamples))
    undefined = np.asarray(np.isnan(resampled).any(axis=(0, 2)))
    left_out += [
        LeftOut(one.task, one.subset, f"its score is undefined on some resamples of its {one.items} items")
        for one, gone in zip(subsets, undefined, strict=True)
        if gone
    ]
    kept = [one for one, gone in zip(subsets, undefined, strict=True) if not gone]
    if not kept:
        reasons = "; ".join(dict.fromkeys(f"{one.task} {one.subset}: {one.reason}" for one in left_out[:3]))
        raise UserError(
            f"nothing to compare{_in_budget(budget)}: no subset is usable in all of "
            f"{', '.join(run.label for run in runs)} ({reasons}); evaluate them on the same tasks and languages"
        )
    return Comparison(
        budget=budget,
        arms=tuple(arms),
        control=name,
        subsets=tuple(kept),
        values=np.array([[run.main[one.key]["value"] for one in kept] for run in runs]),
        resampled=resampled[:, ~undefined],
        left_out=tuple(left_out),
    )


def _in_budget(budget: str | None) -> str:
    return f" under budget {budget!r}" if budget else ""


def _arms(scores: Sequence[Scores], budget: str | None) -> list[Arm]:
    runs: dict[str, dict[int, Scores]] = {}
    for one in scores:
        same = runs.setdefault(one.arm, {})
        if one.seed in same:
            raise UserError(
                f"{same[one.seed].path} and {one.path} are both arm {one.arm!r}, seed {one.seed}"
                f"{_in_budget(budget)}; give only one of them, or evaluate one with another --arm"
            )
        same[one.seed] = one
    arms = [Arm(name, tuple(by_seed[key] for key in sorted(by_seed))) for name, by_seed in runs.items()]
    if len(arms) < 2:
        raise UserError(
            f"got scores of {len(arms)} arm(s){_in_budget(budget)}: {', '.join(runs) or 'none'}; "
            "compare takes a control and at least one other"
        )
    return arms


def _control(asked: str | None, arms: Sequence[str], budget: str | None) -> str:
    if asked is None:
        return next((name for name in ("en-x", BASE) if name in arms), arms[0])
    if printable(asked) not in arms:
        raise UserError(
            f"no arm {asked!r} among the scores{_in_budget(budget)}{nearest(asked, arms)}; "
            f"choose --control from: {', '.join(arms)}"
        )
    return printable(asked)


def _common(runs: Sequence[Scores]) -> tuple[list[Subset], list[list[Scorer]], list[LeftOut]]:
    """Return the subsets that all runs share, in the order first met, their ``scorers[subset][run]``, and the rest."""
    subsets, scorers, left_out = [], [], []
    for key in dict.fromkeys(key for run in runs for key in run.main):
        reason = _incomparable(key, runs)
        if not reason:
            prepared = [prepare(run.main[key]["family"], run.predictions[key]) for run in runs]
            reason = _unreproduced(key, runs, prepared)
        if reason:
            left_out.append(LeftOut(printable(key[0]), printable(key[1]), reason))
        else:
            subsets.append(_subset(key, runs))
            scorers.append(prepared)
    return subsets, scorers, left_out


def _subset(key: tuple[str, str], runs: Sequence[Scores]) -> Subset:
    row = runs[0].main[key]
    exposures = {run.main[key]["exposure"] for run in runs if run.encoder is not None} or {row["exposure"]}
    return Subset(
        key=key,
        family=_family(row["family"], row["languages"]),
        languages=tuple(row["languages"]),
        exposure=exposures.pop() if len(exposures) == 1 else "mixed",
        items=row["n"],
    )


def _family(family: str, languages: Sequence[str]) -> str:
    """Return which of `FAMILIES` a subset of a family of `polyalign.metrics` is, given its languages."""
    crosses = len(languages) > 1
    return {
        "bitext": "bitext en-X" if "en" in languages else "bitext X-X",
        "sts": "STS cross-lingual" if crosses else "STS",
        "classification": "classification zero-shot" if crosses else "classification",
        "retrieval": "retrieval, mixed pool",
    }[family]


def _incomparable(key: tuple[str, str], runs: Sequence[Scores]) -> str:
    """Return why a subset cannot be compared, or an empty string."""
    absent = [run.label for run in runs if key not in run.main or key not in run.predictions]
    if absent:
        return f"not in the scores of {', '.join(absent)}"
    values = {run.label: run.main[key]["value"] for run in runs}
    broken = [label for label, value in values.items() if value is None or not math.isfinite(value)]
    if broken:
        return f"its score is not a number for {', '.join(broken)}"
    items = [run.predictions[key].select("experiment", "group", "gold") for run in runs]
    differing = [run.label for run, own in zip(runs, items, strict=True) if not own.equals(items[0])]
    if differing:
        return f"other test items for {', '.join(differing)} than for {runs[0].label}"
    return ""


def _unreproduced(key: tuple[str, str], runs: Sequence[Scores], scorers: Sequence[Scorer]) -> str:
    """Return whose predictions do not give the recorded score back, as a reason, or an empty string."""
    off = [
        run.label
        for run, scorer in zip(runs, scorers, strict=True)
        if not abs(scorer.score() - run.main[key]["value"]) < _SAME_SCORE
    ]
    return f"its recorded score does not follow from the predictions of {', '.join(off)}" if off else ""


def _resample(subsets: Sequence[Subset], scorers: Sequence[list[Scorer]], resamples: int, seed: int) -> np.ndarray:
    """Return ``resampled[run, subset, resample]``; a task's draws do not depend on which other tasks there are."""
    resampled = np.empty((len(scorers[0]), len(subsets), resamples))
    for task in dict.fromkeys(one.task for one in subsets):
        own = [index for index, one in enumerate(subsets) if one.task == task]
        rng = np.random.default_rng([seed, int(fingerprint(task), 16)])
        resampled[:, own] = resample_scores([scorers[index] for index in own], resamples, rng)
    return resampled
