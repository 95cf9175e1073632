"""Tasks that pair any two languages, as tables of languages by languages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from polyalign.reporting.comparison import Comparison
from polyalign.reporting.labels import interval, language_label, points, printable
from polyalign.reporting.significance import Difference, difference, mean_interval
from polyalign.reporting.tables import Cell, Column, Table

_MEASURES = {"bitext": "F1", "STS": "Spearman correlation"}


@dataclass(frozen=True)
class Pair:
    """One ordered pair of languages.

    Attributes:
        query: Language of the queries.
        searched: Language of the texts that are searched.
        items: Number of test items.
        scores: Main score of each arm, with its interval.
        changes: Difference of each arm to the control; None for the control.
    """

    query: str
    searched: str
    items: int
    scores: tuple[Difference, ...]
    changes: tuple[Difference | None, ...]


@dataclass(frozen=True)
class Square:
    """A cell of the table on the page: its text, what it means in words, and how deep its colour is, from 0 to 1."""

    text: str
    title: str
    depth: float


@dataclass(frozen=True)
class Matrix:
    """A task whose subsets pair other languages than English too.

    Attributes:
        task: Name of the task, safe to print.
        measure: What is measured, in a word.
        arms: Names of the arms.
        control: Name of the control.
        first: The arm that is shown to begin with.
        tags: The languages, English first.
        pairs: The pairs that were scored, in both orders.
        skipped: Languages with a single partner, which are left out.
    """

    task: str
    measure: str
    arms: tuple[str, ...]
    control: str
    first: str
    tags: tuple[str, ...]
    pairs: tuple[Pair, ...]
    skipped: tuple[str, ...]

    @property
    def caption(self) -> str:
        """Title of the table."""
        return f"{self.task}, {self.first}: {self.measure} from language to language"

    @property
    def note(self) -> str:
        """What a reader must know to read it."""
        note = (
            "In points. Rows are the language of the first text (in bitext, of the query), columns that of the "
            "second. A pair with English is the mean of its directions; a pair scored in one direction stands in both."
        )
        return f"{note} Left out, with a single partner: {', '.join(self.skipped)}." if self.skipped else note

    @property
    def labels(self) -> tuple[str, ...]:
        """The languages' names, in the order of the tags."""
        return tuple(map(language_label, self.tags))

    @property
    def squares(self) -> tuple[tuple[Square | None, ...], ...]:
        """The cells of the first arm, None where a pair was not scored."""
        at = {(one.query, one.searched): one for one in self.pairs}
        low, high = self._range()
        arm = self.arms.index(self.first)
        return tuple(
            tuple(self._square(at.get((query, searched)), arm, low, high) for searched in self.tags)
            for query in self.tags
        )

    def _range(self) -> tuple[float, float]:
        values = [score.value for one in self.pairs for score in one.scores]
        return min(values), max(values)

    def _square(self, pair: Pair | None, arm: int, low: float, high: float) -> Square | None:
        if pair is None:
            return None
        score, change = pair.scores[arm], pair.changes[arm]
        title = (
            f"{language_label(pair.query)} to {language_label(pair.searched)}: {points(score.value)} "
            f"[{points(score.low)}, {points(score.high)}], n = {pair.items:,}"
        )
        if change:
            title += f"; {interval(change)} against {self.control}"
        return Square(points(score.value), title, (score.value - low) / ((high - low) or 1))

    @property
    def table(self) -> Table:
        """The same as a plain table, for Markdown."""
        return Table(
            self.caption,
            (Column("From"), *(Column(printable(tag), True) for tag in self.tags)),
            (
                (
                    "",
                    tuple(
                        (Cell(label), *(Cell(square.text if square else "") for square in row))
                        for label, row in zip(self.labels, self.squares, strict=True)
                    ),
                ),
            ),
            note=self.note,
        )

    @property
    def payload(self) -> dict[str, Any]:
        """What the page's script needs to show any arm; scores in points."""
        place = {tag: position for position, tag in enumerate(self.tags)}
        low, high = self._range()
        return {
            "task": self.task,
            "measure": self.measure,
            "arms": self.arms,
            "control": self.control,
            "first": self.first,
            "tags": list(map(printable, self.tags)),
            "names": self.labels,
            "range": [100 * low, 100 * high],
            "pairs": [
                [
                    place[one.query],
                    place[one.searched],
                    one.items,
                    [_numbers(score) for score in one.scores],
                    [_numbers(change) for change in one.changes],
                ]
                for one in self.pairs
            ],
        }


def _numbers(one: Difference | None) -> list[float] | None:
    return [round(100 * value, 2) for value in (one.value, one.low, one.high)] if one else None


def matrices(comparison: Comparison) -> tuple[Matrix, ...]:
    """Return one matrix for each task that pairs other languages than English too."""
    return tuple(_matrices(comparison))


def _matrices(comparison: Comparison) -> Iterator[Matrix]:
    tasks: dict[str, list[int]] = defaultdict(list)
    for index, one in enumerate(comparison.subsets):
        if len(one.languages) == 2:
            tasks[one.task].append(index)
    for task, chosen in tasks.items():
        if all("en" in comparison.subsets[index].languages for index in chosen):
            continue
        positions = _positions(comparison, chosen)
        partners: dict[str, set[str]] = defaultdict(set)
        for query, searched in positions:
            partners[query].add(searched)
        tags = [tag for tag in partners if len(partners[tag]) > 1]
        if not any(partners[tag] & set(tags) for tag in tags):
            tags = list(partners)
        tags.sort(key=lambda tag: (tag != "en", tag))
        yield Matrix(
            task=task,
            measure=_MEASURES.get(comparison.subsets[chosen[0]].family.split()[0], "accuracy"),
            arms=tuple(arm.name for arm in comparison.arms),
            control=comparison.control,
            first=comparison.compared[0],
            tags=tuple(tags),
            pairs=tuple(
                _pair(comparison, query, searched, own)
                for (query, searched), own in positions.items()
                if query in tags and searched in tags
            ),
            skipped=tuple(printable(tag) for tag in sorted(set(partners) - set(tags))),
        )


def _positions(comparison: Comparison, chosen: Sequence[int]) -> dict[tuple[str, str], list[int]]:
    """Return (language of the queries, language searched) -> positions of subsets, in both orders.

    Which way round an English pair was scored is not on disk: its directions are averaged. A pair scored in one
    direction alone stands in both.
    """
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index in chosen:
        first, second = comparison.subsets[index].languages
        found[first, second].append(index)
        if "en" in (first, second):
            found[second, first].append(index)
    return {(second, first): own for (first, second), own in found.items()} | found


def _pair(comparison: Comparison, query: str, searched: str, positions: Sequence[int]) -> Pair:
    control = comparison.estimates(comparison.control, positions)
    own = [comparison.estimates(arm.name, positions) for arm in comparison.arms]
    return Pair(
        query=query,
        searched=searched,
        items=comparison.subsets[positions[0]].items,
        scores=tuple(map(mean_interval, own)),
        changes=tuple(
            None if arm.name == comparison.control else difference(mine, control)
            for arm, mine in zip(comparison.arms, own, strict=True)
        ),
    )
