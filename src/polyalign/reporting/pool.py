"""Retrieval in one pool of several languages: what is found, and whether its language or its meaning decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from polyalign.reporting.comparison import Comparison
from polyalign.reporting.labels import points
from polyalign.reporting.significance import Difference, difference
from polyalign.reporting.tables import NONE, Cell, Column, Table, arm_label, change_cell, count

_METRIC = "same_language"


@dataclass(frozen=True)
class Bias:
    """An arm's result on one subset of a task with a mixed pool.

    Attributes:
        task: Name of the task, safe to print.
        subset: Name of the subset, safe to print.
        arm: Name of the arm.
        accuracy: Main score, mean over seeds.
        difference: Of the accuracy, against the control; None for the control.
        same_language: Share of queries that find a text in their own language first, mean over seeds.
    """

    task: str
    subset: str
    arm: str
    accuracy: float
    difference: Difference | None
    same_language: float


def biases(comparison: Comparison) -> tuple[Bias, ...]:
    """Return every arm's result on every subset whose scores record how often the query's own language was found."""
    return tuple(_biases(comparison))


def _biases(comparison: Comparison) -> Iterator[Bias]:
    for index, one in enumerate(comparison.subsets):
        control = comparison.estimates(comparison.control, [index])
        for arm in comparison.arms:
            shares = [run.others.get(one.key, {}).get(_METRIC) for run in arm.runs]
            known = [share for share in shares if share is not None]
            if len(known) < len(shares):
                continue
            mine = comparison.estimates(arm.name, [index])
            against = None if arm.name == comparison.control else difference(mine, control)
            yield Bias(one.task, one.subset, arm.name, mine.mean, against, sum(known) / len(known))


def pool_table(comparison: Comparison, found: Sequence[Bias]) -> Table | None:
    """Accuracy and language bias by task and arm; None without a mixed pool."""
    groups: dict[str, list[tuple[Cell, ...]]] = {}
    for task in dict.fromkeys(one.task for one in found):
        chosen = [index for index, one in enumerate(comparison.subsets) if one.task == task]
        control = comparison.estimates(comparison.control, chosen)
        for arm in comparison.arms:
            shares = [one.same_language for one in found if (one.task, one.arm) == (task, arm.name)]
            mine = comparison.estimates(arm.name, chosen)
            row = (
                Cell(arm_label(comparison, arm.name)),
                Cell(points(mine.mean)),
                change_cell(None if arm.name == comparison.control else difference(mine, control)),
                Cell(points(sum(shares) / len(shares)) if shares else NONE),
                Cell(points(max(shares)) if shares else NONE),
            )
            groups.setdefault(f"{task} ({count(len(chosen), 'subset')})", []).append(row)
    if not groups:
        return None
    return Table(
        "Mixed pool and language bias",
        (
            Column("Arm"),
            Column("Accuracy", True),
            Column(f"Difference to {comparison.control} [95%]", True),
            Column("Own language found, %", True),
            Column("Highest of a subset, %", True),
        ),
        tuple((heading, tuple(rows)) for heading, rows in groups.items()),
        note="One pool holds texts of all languages. “Own language found”: how often the first text found is in the "
        "language of the query. Where that is far above other arms, language decides rather than meaning.",
    )
