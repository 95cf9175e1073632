"""The report's words and tables, as data; HTML and Markdown are two renderings of the same cells."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from polyalign.reporting.comparison import BASE, Arm, Comparison, Headline, LanguageResult
from polyalign.reporting.labels import exposure_label, interval, language_label, points, signed
from polyalign.reporting.significance import Difference, difference

NONE = "–"
"""Stands in a cell without a value."""


class Bar(NamedTuple):
    """Where an interval, its middle and 0 lie on an axis, in percent of its width; the axis is the table's."""

    low: float
    value: float
    high: float
    zero: float


class Cell(NamedTuple):
    """A cell's text, whether it is highlighted ("better", "worse" or not: ""), and its interval drawn as a bar."""

    text: str
    tone: str = ""
    bar: Bar | None = None


class Column(NamedTuple):
    """A column's heading, and whether it holds numbers, long text that may break over lines, bars beside its text."""

    name: str
    numeric: bool = False
    long: bool = False
    barred: bool = False


@dataclass(frozen=True)
class Table:
    """A table in groups of rows.

    Attributes:
        caption: Its title.
        columns: Its columns.
        groups: (heading, rows) pairs; a heading may be empty.
        note: What a reader must know to read it.
        folded: Whether the page shows it only on request.
    """

    caption: str
    columns: tuple[Column, ...]
    groups: tuple[tuple[str, tuple[tuple[Cell, ...], ...]], ...]
    note: str = ""
    folded: bool = False


def change_cell(change: Difference | None, bar: Bar | None = None) -> Cell:
    """Return "+5.2 [3.1, 7.4]", highlighted where it is clear."""
    if change is None:
        return Cell(NONE)
    return Cell(interval(change), {1: "better", -1: "worse", 0: ""}[change.sign], bar)


def arm_label(comparison: Comparison, arm: str) -> str:
    """Return the arm's name, with its part in the comparison if that is not a challenger's."""
    roles = [role for role, name in (("untouched", BASE), ("control", comparison.control)) if name == arm]
    return f"{arm} ({', '.join(roles)})" if roles else arm


def count(number: int, noun: str) -> str:
    """Return "1 task" or "2 tasks"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def headline_table(comparison: Comparison, headlines: Sequence[Headline]) -> Table:
    """Means, differences, gains and languages won, by family and exposure."""
    groups: dict[str, list[tuple[Cell, ...]]] = defaultdict(list)
    bars = _bars(comparison, headlines)
    for one in headlines:
        size = f"{count(len(one.languages), 'language')}, {count(one.tasks, 'task')}"
        groups[f"{one.family}, {exposure_label(one.family, one.exposure)} ({size})"].append(
            _headline_row(comparison, one, bars.get((one.family, one.exposure, one.arm)))
        )
    return Table(
        "Scores by family",
        (
            Column("Arm"),
            Column("Mean", True),
            Column(f"Difference to {comparison.control} [95%]", True, barred=True),
            Column("Relative gain", True),
            Column("Languages won / lost / tied", True),
            Column("Worst language"),
        ),
        tuple((heading, tuple(rows)) for heading, rows in groups.items()),
        note=f"In points. Bold with ▲ or ▼: the interval excludes 0. {seeds_note(comparison)}",
    )


def _bars(comparison: Comparison, headlines: Sequence[Headline]) -> dict[tuple[str, str, str], Bar]:
    """Return the intervals of the arms that the comparison is about, all on one axis that holds 0."""
    shown = {
        (one.family, one.exposure, one.arm): one.difference
        for one in headlines
        if one.difference and one.arm in comparison.compared
    }
    ends = [0.0, *(end for one in shown.values() for end in (one.low, one.high))]
    low, width = min(ends), (max(ends) - min(ends)) or 1.0
    return {
        key: Bar(*(round(100 * (value - low) / width, 1) for value in (one.low, one.value, one.high, 0.0)))
        for key, one in shown.items()
    }


def _headline_row(comparison: Comparison, one: Headline, bar: Bar | None) -> tuple[Cell, ...]:
    tied = len(one.languages) - len(one.won) - len(one.lost)
    return (
        Cell(arm_label(comparison, one.arm)),
        Cell(points(one.mean)),
        change_cell(one.difference, bar),
        Cell(NONE if one.relative_gain is None else f"{signed(one.relative_gain)}%"),
        Cell(f"{len(one.won)} / {len(one.lost)} / {tied}" if one.difference else NONE),
        Cell(f"{language_label(one.worst[0])} {points(one.worst[1])}" if one.worst else NONE),
    )


def english_table(comparison: Comparison, english: Sequence[Headline]) -> Table:
    """English before and after, by family."""
    before = next((one.arm for one in english if one.difference is None), comparison.control)
    groups: dict[str, list[tuple[Cell, ...]]] = defaultdict(list)
    for one in english:
        groups[f"{one.family} ({count(one.tasks, 'task')})"].append(
            (Cell(arm_label(comparison, one.arm)), Cell(points(one.mean)), change_cell(one.difference))
        )
    untouched = "" if before == BASE else " There are no scores of the untouched base to compare with."
    return Table(
        "English before and after",
        (Column("Arm"), Column("English", True), Column(f"Change from {before} [95%]", True)),
        tuple((heading, tuple(rows)) for heading, rows in groups.items()),
        note=f"Scores on texts in English alone, in points.{untouched}",
    )


def language_table(comparison: Comparison, results: Sequence[LanguageResult]) -> Table:
    """Each language's score in every arm, and its difference to the control."""
    rivals = [arm.name for arm in comparison.arms if arm.name != comparison.control]
    found: dict[tuple[str, str], dict[str, dict[str, LanguageResult]]] = defaultdict(lambda: defaultdict(dict))
    for one in results:
        found[one.family, one.exposure][one.language][one.arm] = one
    return Table(
        "Scores by language",
        (
            Column("Language"),
            Column(f"{comparison.control} (control)", True),
            *(column for arm in rivals for column in (Column(arm, True), Column(f"{arm} − control [95%]", True))),
        ),
        tuple(
            (
                f"{family}, {exposure_label(family, exposure)}",
                tuple(
                    (
                        Cell(language_label(language)),
                        Cell(points(by_arm[comparison.control].mean)),
                        *(
                            cell
                            for arm in rivals
                            for cell in (Cell(points(by_arm[arm].mean)), change_cell(by_arm[arm].difference))
                        ),
                    )
                    for language, by_arm in by_language.items()
                ),
            )
            for (family, exposure), by_language in found.items()
        ),
        note="In points. A language's score is the mean over tasks of the mean over the subsets that contain it.",
        folded=True,
    )


def cost_table(comparison: Comparison) -> Table:
    """What training and evaluation took."""
    return Table(
        "Cost",
        (
            Column("Arm"),
            Column("Runs", True),
            *(Column(f"Training: {name}", True) for name in ("texts encoded", "pairs", "rows", "steps", "seconds")),
            *(Column(f"Evaluation: {name}", True) for name in ("texts encoded", "seconds")),
        ),
        (("", tuple(_cost_row(comparison, arm) for arm in comparison.arms)),),
        note="Mean over an arm's runs. Seconds are wall-clock on whatever machine ran them; the counts do not depend "
        "on it.",
    )


def _cost_row(comparison: Comparison, arm: Arm) -> tuple[Cell, ...]:
    training = [arm.mean_cost(key) for key in ("texts_encoded", "pairs", "rows_seen", "steps", "seconds")]
    evaluation = [arm.mean_cost(key, evaluation=True) for key in ("texts_encoded", "seconds")]
    return (
        Cell(arm_label(comparison, arm.name)),
        Cell(str(len(arm.runs))),
        *(Cell(NONE if cost is None else f"{cost:,.0f}") for cost in (*training, *evaluation)),
    )


def left_out_table(comparison: Comparison) -> Table | None:
    """What could not be compared, and why; None when nothing was left out."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in comparison.left_out:
        found[one.task, one.reason].append(one.subset)
    if not found:
        return None
    return Table(
        "Left out of this comparison",
        (Column("Task"), Column("Subsets", long=True), Column("Why", long=True)),
        (
            (
                "",
                tuple(
                    (Cell(task), Cell(f"{len(subsets)}: {', '.join(subsets)}"), Cell(reason))
                    for (task, reason), subsets in found.items()
                ),
            ),
        ),
    )


def seeds_note(comparison: Comparison) -> str:
    """Say what the intervals cover: other test items only, or other training seeds too."""
    runs = {arm.name: len(arm.runs) for arm in comparison.arms if arm.trained}
    single = [name for name, number in runs.items() if number == 1]
    if not runs:
        return "No arm was trained here: the intervals cover other test items only."
    if len(single) == len(runs):
        return "One seed per arm: the intervals cover other test items only, not other training runs."
    counts = ", ".join(f"{name} {number}" for name, number in runs.items())
    note = f"Seeds: {counts}; the intervals cover other test items and other seeds."
    if single:
        note += f" Differences of {', '.join(single)}, with one seed, cover other test items only."
    if 2 in runs.values():
        note += " Two seeds say little about others, which makes the intervals wide; three or more narrow them."
    return note


def verdict(comparison: Comparison, headlines: Sequence[Headline], english: Sequence[Headline]) -> list[str]:
    """Say in plain words what the numbers show: each arm against the control, then the trained arms and the base."""
    sentences = []
    for arm in comparison.challengers:
        changes = {(one.family, one.exposure): one.difference for one in headlines if one.arm == arm and one.difference}
        parts = [
            f"better on {_listed(changes, 1)}",
            f"worse on {_listed(changes, -1)}",
            f"no clear difference on {_listed(changes, 0, numbers=False)}",
        ]
        said = "; ".join(part for part in parts if not part.endswith(" on ")) or "compared on English alone"
        sentences.append(f"{arm} against {comparison.control}: {said}.")
    if comparison.control != BASE and any(arm.name == BASE for arm in comparison.arms):
        sentences += [_against_base(comparison, arm.name, english) for arm in comparison.arms if arm.name != BASE]
    return sentences


def _listed(changes: Mapping[tuple[str, str], Difference], sign: int, *, numbers: bool = True) -> str:
    """Return "STS seen (+1.2 [0.3, 2.1]) and unseen (...)" for the changes of that sign, one family after the other."""
    families: dict[str, list[str]] = defaultdict(list)
    for (family, exposure), change in changes.items():
        if change.sign == sign:
            name = {"mixed": "partly seen", "english": "English"}.get(exposure, exposure)
            families[family].append(f"{name} ({interval(change)})" if numbers else name)
    return ", ".join(f"{family} {' and '.join(found)}" for family, found in families.items())


def _against_base(comparison: Comparison, arm: str, english: Sequence[Headline]) -> str:
    changes = {
        (family, exposure): difference(comparison.estimates(arm, chosen), comparison.estimates(BASE, chosen))
        for family, exposure, chosen in comparison.cells()
    } | {(one.family, one.exposure): one.difference for one in english if one.arm == arm and one.difference}
    better = sum(change.sign > 0 for change in changes.values())
    return (
        f"{arm} against the untouched base: better on {better} of {len(changes)} family scores, English included; "
        f"worse on {_listed(changes, -1) or 'none'}."
    )


def definitions(resamples: int, seed: int) -> Iterable[tuple[str, str]]:
    """Return (term, meaning) pairs for the method section."""
    return (
        (
            "Score of an arm",
            "For a family and exposure: the mean over tasks of the mean over that task's subsets of the task's main "
            "MTEB score (bitext: F1; STS: Spearman correlation of the cosine similarity; classification and retrieval: "
            "accuracy), "
            "then the mean over seeds. In points: 100 times MTEB's number. Only subsets that every arm and seed has "
            "are used.",
        ),
        (
            "Seen, unseen",
            "A subset is seen when every language in it other than English was in the alignment training, and unseen "
            "when one or more were not. The untouched base is put with the arms it is compared with.",
        ),
        (
            "Difference and interval",
            "Arm minus control with a 95% paired-bootstrap interval: the metric itself is recomputed on each of "
            f"{resamples:,} resamples of the test items (random seed {seed}), the same resample for both arms, and "
            "items that are the same in several languages are drawn together. With one seed the interval is over "
            "items only (percentiles of the resamples, centred on the difference). With several, the half-width of a "
            "Student t interval over seeds is added in quadrature (MOVER, Zou & Donner 2008), which covers 95% where "
            "items or seeds dominate and more where they mix. Arms with the same seeds are compared seed by seed.",
        ),
        (
            "Won, lost, tied",
            "A language other than English is won when the interval of its difference lies above 0, lost when below, "
            "else tied. Intervals are not corrected for their number: of 100 languages without any true difference, "
            "up to five would be expected to be called won or lost.",
        ),
        ("Relative gain", "100 × (arm − control) / control, of the means."),
        (
            "Own mean and interval",
            "Where an arm stands alone (seeds, costs, language by language) its interval follows the same rule.",
        ),
        ("Worst language", "The language with the lowest mean, and that mean."),
    )
