"""How quality grows with the corpus: the same training on more rows, or on more languages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from polyalign.reporting.comparison import EXPOSURES, FAMILIES, Comparison
from polyalign.reporting.labels import exposure_label, points
from polyalign.reporting.significance import Difference, difference, mean_interval
from polyalign.reporting.tables import Cell, Column, Table, count

Quantity = Literal["rows", "languages"]
_EQUAL = 0.05
"""Numbers of encoded texts that differ by less than this share are equal, as in `crossing`."""
_TONES = {1: "better", -1: "worse", 0: ""}


@dataclass(frozen=True)
class Size:
    """An arm's result with a corpus of one size.

    Attributes:
        amount: of rows, or of languages.
        mean: score over the subsets that every size has with the same exposure, with its 95% interval.
        difference: to the control at the same size; None for the control.
    """

    amount: int
    mean: Difference
    difference: Difference | None


@dataclass(frozen=True)
class Growth:
    """An arm's results in a family and exposure, over sizes of the corpus.

    Attributes:
        quantity: what grows.
        fixed: what stays the same, in words.
        family: one of `FAMILIES`.
        exposure: one of `EXPOSURES`, the same at every size.
        languages: that take part, other than English, sorted.
        arm: its name.
        sizes: in order of their amounts, at least two.
    """

    quantity: Quantity
    fixed: str
    family: str
    exposure: str
    languages: tuple[str, ...]
    arm: str
    sizes: tuple[Size, ...]


def growths(comparisons: Sequence[Comparison]) -> list[Growth]:
    """Return how the arms grow with rows, and with languages, where all else was the same.

    Comparisons belong together in which the control began with the same base and encoded as many texts in training,
    from as many rows in other languages or from more rows in the same ones.
    """
    found = []
    for quantity in ("rows", "languages"):
        groups: list[list[Comparison]] = []
        for one in comparisons:
            if not _amount(one, quantity):
                continue
            group = next((group for group in groups if _alike(group[0], one, quantity)), None)
            if group is None:
                groups.append([one])
            elif _amount(one, quantity) not in [_amount(other, quantity) for other in group]:
                group.append(one)
        for group in groups:
            if len(group) > 1:
                found += _of_group(sorted(group, key=lambda one: _amount(one, quantity)), quantity)
    return found


def _amount(comparison: Comparison, quantity: Quantity) -> int:
    subject = comparison.subject
    return (subject.rows or 0) if quantity == "rows" else len(subject.languages)


def _alike(one: Comparison, other: Comparison, quantity: Quantity) -> bool:
    """Return whether two comparisons differ in nothing but the quantity."""
    ours, theirs = one.subject, other.subject
    same = ours.languages == theirs.languages if quantity == "rows" else ours.rows == theirs.rows
    texts = [each.arm(each.control).mean_cost("texts_encoded") for each in (one, other)]
    if not same or (one.control, ours.base) != (other.control, theirs.base) or not texts[0] or not texts[1]:
        return False
    return abs(texts[0] / texts[1] - 1) <= _EQUAL


def _of_group(group: Sequence[Comparison], quantity: Quantity) -> list[Growth]:
    first = group[0]
    arms = [arm.name for arm in first.arms if all(arm.name in [one.name for one in other.arms] for other in group)]
    fixed = count(len(first.subject.languages), "language") if quantity == "rows" else f"{first.subject.rows:,} rows"
    found = []
    for family in FAMILIES:
        for exposure in EXPOSURES:
            common = set.intersection(*({one.subsets[i].key for i in one.choose(family, exposure)} for one in group))
            chosen = [[i for i in one.choose(family, exposure) if one.subsets[i].key in common] for one in group]
            languages = {tag for index in chosen[0] for tag in first.subsets[index].languages}
            found += [
                Growth(
                    quantity,
                    fixed,
                    family,
                    exposure,
                    tuple(sorted(languages - {"en"})),
                    arm,
                    tuple(_size(one, arm, own, quantity) for one, own in zip(group, chosen, strict=True)),
                )
                for arm in arms
                if common
            ]
    return found


def _size(comparison: Comparison, arm: str, chosen: Sequence[int], quantity: Quantity) -> Size:
    mine = comparison.estimates(arm, chosen)
    against = None if arm == comparison.control else difference(mine, comparison.estimates(comparison.control, chosen))
    return Size(_amount(comparison, quantity), mean_interval(mine), against)


def growth_content(found: Sequence[Growth]) -> list[dict[str, Any]]:
    """Return `growths` for ``tables.json``; scores and differences on the metric's own scale."""
    return [asdict(one) for one in found]


def growth_tables(found: Sequence[Growth], control: str) -> tuple[Table, ...]:
    """Return a table for what grows: the mean of each arm at each size, by family and exposure."""
    tables: dict[tuple[Quantity, str], list[Growth]] = defaultdict(list)
    for one in found:
        tables[one.quantity, one.fixed].append(one)
    return tuple(_table(quantity, fixed, own, control) for (quantity, fixed), own in tables.items())


def _table(quantity: Quantity, fixed: str, found: Sequence[Growth], control: str) -> Table:
    groups: dict[str, list[tuple[Cell, ...]]] = defaultdict(list)
    for one in found:
        heading = f"{one.family}, {exposure_label(one.family, one.exposure)} ({', '.join(one.languages)})"
        groups[heading].append((Cell(one.arm), *map(_cell, one.sizes)))
    amounts = dict.fromkeys(size.amount for one in found for size in one.sizes)
    return Table(
        f"Quality against {quantity}, {fixed}",
        (Column("Arm"), *(Column(f"{amount:,} {quantity}", True) for amount in amounts)),
        tuple((heading, tuple(rows)) for heading, rows in groups.items()),
        note=f"Means in points, at equal encoded texts, over the languages that are in every size's tests and seen in "
        f"training, or not, in all of them. Bold with ▲ or ▼: clearly above or below {control} at the same size.",
    )


def _cell(size: Size) -> Cell:
    return Cell(points(size.mean.value), _TONES[size.difference.sign] if size.difference else "")
