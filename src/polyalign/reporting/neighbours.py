"""What is nearest to a few texts in the pool of all languages, under each arm."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from polyalign.reporting.comparison import Arm, Comparison
from polyalign.reporting.labels import language_label, printable
from polyalign.reporting.tables import NONE, Cell, Column, Table, arm_label

_LONGEST = 90  # characters of a sentence


def neighbours_table(comparison: Comparison) -> Table | None:
    """A text in each language and what each arm's first seed finds for it; None where nobody recorded it."""
    found = {arm.name: _examples(arm) for arm in comparison.arms}
    arms = [arm for arm in comparison.arms if found[arm.name]]
    if not arms:
        return None
    groups: dict[str, list[tuple[Cell, ...]]] = defaultdict(list)
    headings: dict[tuple[str, str], str] = {}
    for (task, row, language), example in (pair for arm in arms for pair in found[arm.name].items()):
        if language == "en" or (task, row) not in headings:
            headings[task, row] = _beginning(example["text"])
    keys = dict.fromkeys(key for arm in arms for key in found[arm.name])
    for task, row, language in keys:
        cells = (_cell(found[arm.name].get((task, row, language))) for arm in arms)
        groups[headings[task, row]].append((Cell(language_label(language)), *cells))
    return Table(
        "Nearest neighbours of a few sentences",
        (Column("Asked in"), *(Column(arm_label(comparison, arm.name), long=True) for arm in arms)),
        tuple((heading, tuple(rows)) for heading, rows in groups.items()),
        note="The sentence of the heading, asked in each language, and the text of the pool that is nearest to it, the "
        "sentence itself left out. ▲ a translation, ▼ something else. First seed of each arm; the sentences are evenly "
        "spaced through the data, not chosen.",
        folded=True,
    )


def _examples(arm: Arm) -> dict[tuple[str, str, str], dict[str, Any]]:
    first = min(arm.runs, key=lambda run: run.seed)
    return {(one["task"], one["row"], one["language"]): one for one in first.examples}


def _cell(example: dict[str, Any] | None) -> Cell:
    if example is None:
        return Cell(NONE)
    return Cell(
        f"{printable(example['found_language'])}: {_beginning(example['found_text'])}",
        "better" if example["hit"] else "worse",
    )


def _beginning(text: str) -> str:
    return printable(text if len(text) <= _LONGEST else f"{text[:_LONGEST].rstrip()}…")
