"""What a reader sees first: each arm under each budget, whether it helped, where, and what it cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from polyalign.reporting.comparison import Comparison, Headline, LanguageResult
from polyalign.reporting.labels import exposure_label, interval, language_label, points, printable, signed
from polyalign.reporting.significance import Difference
from polyalign.reporting.tables import NONE, Cell, Column, Table, change_cell

_MOST_WATCHED = 6  # languages an arm in the table of those to worry about
_COSTS = {"texts_encoded": "texts encoded in training", "seconds": "seconds of training"}


@dataclass(frozen=True)
class Results:
    """A comparison with its numbers, computed once."""

    comparison: Comparison
    languages: tuple[LanguageResult, ...]
    headlines: tuple[Headline, ...]
    english: tuple[Headline, ...]

    @classmethod
    def of(cls, comparison: Comparison) -> Results:
        """Compute the numbers of a comparison."""
        languages = comparison.languages()
        return cls(comparison, tuple(languages), tuple(comparison.headlines(languages)), tuple(comparison.english()))

    @property
    def title(self) -> str:
        """Name of the budget, if there is one."""
        return printable(self.comparison.budget) if self.comparison.budget else ""


@dataclass(frozen=True)
class Tile:
    """One arm under one budget in a few lines.

    Attributes:
        title: The arm.
        subtitle: The control and the budget.
        section: Number of the comparison's section, from 1.
        better: Family scores that are clearly above the control's.
        unclear: Family scores without a clear difference.
        worse: Family scores that are clearly below the control's.
        lines: (what, text) pairs.
    """

    title: str
    subtitle: str
    section: int
    better: int
    unclear: int
    worse: int
    lines: tuple[tuple[str, str], ...]


def tiles(results: Sequence[Results]) -> tuple[Tile, ...]:
    """Return a tile for each arm that a comparison is about."""
    return tuple(
        _tile(one, arm, section) for section, one in enumerate(results, start=1) for arm in one.comparison.compared
    )


def _tile(results: Results, arm: str, section: int) -> Tile:
    own = [one for one in results.headlines if one.arm == arm and one.difference]
    signs = [one.difference.sign for one in own if one.difference]
    ordered = sorted(own, key=lambda one: one.difference.value if one.difference else 0.0, reverse=True)
    lines = [("Largest difference", _where(ordered[0]))] if ordered else []
    lines += [("Smallest difference", _where(ordered[-1]))] if len(ordered) > 1 else []
    won, lost = (sum(map(len, sets)) for sets in ([one.won for one in own], [one.lost for one in own]))
    tied = sum(len(one.languages) for one in own) - won - lost
    lines.append(("Languages, in all families", f"{won} won, {lost} lost, {tied} tied"))
    lowest = [(*one.worst[::-1], _place(one)) for one in own if one.worst]
    if lowest:
        score, language, place = min(lowest)
        lines.append(("Worst language", f"{place}: {language_label(language)} {points(score)}"))
    before = next((one.arm for one in results.english if one.difference is None), "")
    english = [
        f"{one.family} {interval(one.difference)}" for one in results.english if one.arm == arm and one.difference
    ]
    lines += [(f"English alone, against {before}", "; ".join(english))] if english else []
    lines.append(("Cost", _cost(results.comparison, arm)))
    against = f"against {results.comparison.control}"
    return Tile(
        title=arm,
        subtitle=f"{against}, {results.title}" if results.title else against,
        section=section,
        better=signs.count(1),
        unclear=signs.count(0),
        worse=signs.count(-1),
        lines=tuple(lines),
    )


def _place(one: Headline) -> str:
    return f"{one.family} ({exposure_label(one.family, one.exposure)})"


def _where(one: Headline) -> str:
    assert one.difference
    gain = "" if one.relative_gain is None else f", {signed(one.relative_gain)}%"
    return f"{_place(one)}: {interval(one.difference)}{gain}"


def _cost(comparison: Comparison, arm: str) -> str:
    parts = []
    for key, words in _COSTS.items():
        own, control = comparison.arm(arm).mean_cost(key), comparison.arm(comparison.control).mean_cost(key)
        if own is not None:
            times = f" ({own / control:.2g} × {comparison.control})" if control else ""
            parts.append(f"{own:,.0f} {words}{times}")
    return ", ".join(parts) or "not recorded"


def overview_table(results: Sequence[Results]) -> Table:
    """Every difference of every arm under every budget."""
    columns = [(one, arm) for one in results for arm in one.comparison.compared]
    rows: dict[str, dict[str, list[Cell]]] = defaultdict(dict)
    for family, exposure in dict.fromkeys((head.family, head.exposure) for one in results for head in one.headlines):
        cells = [change_cell(_difference(one.headlines, family, exposure, arm)) for one, arm in columns]
        rows[family][exposure_label(family, exposure)] = cells
    for family in dict.fromkeys(head.family for one in results for head in one.english):
        before = next(head.arm for one in results for head in one.english if head.difference is None)
        cells = [change_cell(_difference(one.english, family, "english", arm)) for one, arm in columns]
        rows[f"English alone, against {before}"][family] = cells
    for key, words in _COSTS.items():
        rows["Cost, times the control's"][words] = [_times(one.comparison, arm, key) for one, arm in columns]
    return Table(
        "All budgets at a glance",
        (Column("Difference to the control [95%]"), *(Column(f"{arm}, {one.title}", True) for one, arm in columns)),
        tuple(
            (heading, tuple((Cell(label), *cells) for label, cells in group.items())) for heading, group in rows.items()
        ),
        note="In points. Bold with ▲ or ▼: the interval excludes 0.",
    )


def _difference(headlines: Sequence[Headline], family: str, exposure: str, arm: str) -> Difference | None:
    wanted = (family, exposure, arm)
    return next((one.difference for one in headlines if (one.family, one.exposure, one.arm) == wanted), None)


def _times(comparison: Comparison, arm: str, key: str) -> Cell:
    own, control = comparison.arm(arm).mean_cost(key), comparison.arm(comparison.control).mean_cost(key)
    return Cell(f"{own / control:.2f}" if own is not None and control else NONE)


def watch_table(results: Results) -> Table:
    """The languages that an arm clearly made worse, those that lost most first."""
    comparison = results.comparison
    before = {
        (one.family, one.exposure, one.language): one for one in results.languages if one.arm == comparison.control
    }
    groups = []
    for arm in comparison.compared:
        lost = [one for one in results.languages if one.arm == arm and one.difference and one.difference.sign < 0]
        lost.sort(key=lambda one: one.difference.value if one.difference else 0.0)
        rows = [
            (
                Cell(language_label(one.language)),
                Cell(f"{one.family}, {exposure_label(one.family, one.exposure)}"),
                Cell(f"{points(before[one.family, one.exposure, one.language].mean)} → {points(one.mean)}"),
                change_cell(one.difference),
            )
            for one in lost[:_MOST_WATCHED]
        ]
        none = (Cell("none is clearly worse"), *[Cell("")] * 3)
        more = f", {len(lost) - _MOST_WATCHED} more below" if len(lost) > _MOST_WATCHED else ""
        groups.append((f"{arm}: {len(lost)} lost{more}", tuple(rows) or (none,)))
    return Table(
        "Languages to worry about",
        (
            Column("Language"),
            Column("Where"),
            Column("From control to arm", True),
            Column(f"Difference to {comparison.control} [95%]", True),
        ),
        tuple(groups),
        note="Languages whose interval lies below 0, the largest losses first.",
    )
