"""Where an arm overtakes the control as training gets longer: the same comparison at several costs."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyalign.reporting.comparison import Comparison
from polyalign.reporting.labels import exposure_label, printable
from polyalign.reporting.overview import Results
from polyalign.reporting.tables import NONE, Cell, Column, Table

_SIGNS = {"better": 1, "worse": -1, "unclear": 0}
_EQUAL = 0.05
"""Costs that differ by less than this share are equal: a budget ends with the step that reaches it."""


@dataclass(frozen=True)
class Point:
    """An arm and the control at equal cost.

    Attributes:
        texts: encoded by the arm in training.
        passes: of the arm over its rows; None where the rows are not recorded.
        difference: of the means, arm minus control.
        sign: of the difference where its interval excludes 0, else 0.
    """

    texts: float
    passes: float | None
    difference: float
    sign: int


def curves(results: Sequence[Results]) -> dict[tuple[str, str, str], list[Point]]:
    """Return, by family, exposure and arm, its points in order of cost, where there are at least two.

    Comparisons count in which arm and control encode as many texts. A curve is of one base and the same rows in the
    same languages.
    """
    found: dict[tuple[str, str, str], dict[float, Point]] = defaultdict(dict)
    repeated = Counter(_subject(one.comparison) for one in results)
    several = sum(times > 1 for times in repeated.values()) > 1
    for one in results:
        subject = _subject(one.comparison)
        comparison = one.comparison
        control = comparison.arm(comparison.control).mean_cost("texts_encoded")
        for head in one.headlines:
            texts = comparison.arm(head.arm).mean_cost("texts_encoded")
            if not head.difference or not texts or not control or abs(texts / control - 1) > _EQUAL:
                continue
            point = Point(texts, _passes(comparison, head.arm), head.difference.value, head.difference.sign)
            if repeated[subject] > 1:
                name = f"{head.arm}, {subject}" if several else head.arm
                found[head.family, head.exposure, name][texts] = point
    return {key: [points[texts] for texts in sorted(points)] for key, points in found.items() if len(points) > 1}


def _subject(comparison: Comparison) -> str:
    """Return what the control was trained from and on, in words."""
    subject = comparison.subject
    return printable(f"{subject.base}, {subject.rows} rows, {len(subject.languages)} languages")


def _passes(comparison: Comparison, arm: str) -> float | None:
    rows = [((run.encoder or {}).get("corpus") or {}).get("rows") for run in comparison.arm(arm).runs]
    seen = comparison.arm(arm).mean_cost("rows_seen")
    return seen / rows[0] if seen is not None and rows[0] and len(set(rows)) == 1 else None


def crossings_content(results: Sequence[Results]) -> list[dict[str, Any]]:
    """Return where each of `curves` crosses 0, for ``tables.json``.

    Its ``family``, ``exposure`` and ``arm``; ``told``, from how many texts on the arm is ahead of the control, as
    `crossings` says it; and at how many budgets it is clearly ``better``, clearly ``worse``, or neither (``unclear``).
    """
    return [
        {"family": family, "exposure": exposure, "arm": arm, "told": crossings(points)}
        | {name: sum(point.sign == sign for point in points) for name, sign in _SIGNS.items()}
        for (family, exposure, arm), points in curves(results).items()
    ]


def crossings_table(results: Sequence[Results]) -> Table | None:
    """Show `crossings_content`; None where nothing was trained at several costs."""
    content = crossings_content(results)
    if not content:
        return None
    found = {(one["family"], one["exposure"], one["arm"]): Cell(in_words(one)) for one in content}
    arms = list(dict.fromkeys(arm for _, _, arm in found))
    groups: dict[str, list[tuple[Cell, ...]]] = defaultdict(list)
    for family, exposure in dict.fromkeys(key[:2] for key in found):
        cells = [found.get((family, exposure, arm), Cell(NONE)) for arm in arms]
        groups[family].append((Cell(exposure_label(family, exposure)), *cells))
    control = results[0].comparison.control
    return Table(
        "Where the curves cross",
        (Column(f"Against {control} at as many texts"), *(Column(arm, long=True) for arm in arms)),
        tuple((family, tuple(rows)) for family, rows in groups.items()),
        note="By the means, between the budgets that were run, interpolated over the logarithm of the encoded texts; "
        "passes are the arm's own, over its rows. In brackets: budgets at which the difference is clearly better, "
        "clearly worse, or not clear.",
    )


def in_words(one: Mapping[str, Any]) -> str:
    """Return one of `crossings_content` as the tables tell it."""
    return f"{one['told']} ({', '.join(f'{one[name]} {name}' for name in _SIGNS)})"


def crossings(points: Sequence[Point]) -> str:
    """Say where an arm is ahead, such as "ahead from 120k texts (1.7 passes)".

    Args:
        points: at least two, in order of cost.
    """
    ahead = [point.difference > 0 for point in points]
    changes = [index for index in range(1, len(points)) if ahead[index] != ahead[index - 1]]
    if not changes:
        return "ahead throughout" if ahead[0] else "behind throughout"
    return ", ".join(
        f"{'ahead' if ahead[index] else 'behind'} from {_between(points[index - 1], points[index])}"
        for index in changes
    )


def _between(before: Point, after: Point) -> str:
    """Return where the straight line between two points, over the logarithm of the texts, crosses 0."""
    share = before.difference / (before.difference - after.difference)
    texts = math.exp(math.log(before.texts) + share * math.log(after.texts / before.texts))
    told = f"{texts / 1000:,.0f}k texts" if texts >= 10_000 else f"{texts:,.0f} texts"
    if before.passes and after.passes:
        passes = math.exp(math.log(before.passes) + share * math.log(after.passes / before.passes))
        told += f" ({float(f'{passes:.2g}'):g} passes)"
    return told
