"""Scores that well-known models have on the MTEB leaderboard, beside those of a comparison."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from importlib import resources

from polyalign.reporting.comparison import EXPOSURES, Comparison
from polyalign.reporting.labels import exposure_label, points
from polyalign.reporting.tables import NONE, Cell, Column, Table, arm_label

_SPLIT = "test"  # what published.tsv holds
_SOURCE = "https://github.com/embeddings-benchmark/results"


@cache
def _published() -> dict[str, dict[tuple[str, str], float]]:
    """Return model -> (task, subset) -> main score."""
    text = (resources.files(__package__) / "published.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader([line for line in text.splitlines() if not line.startswith("#")], delimiter="\t")
    found: dict[str, dict[tuple[str, str], float]] = {}
    for row in rows:
        key = row.pop("task"), row.pop("subset")
        for model, score in row.items():
            if score:
                found.setdefault(model, {})[key] = float(score)
    return found


def published_table(comparison: Comparison) -> Table | None:
    """Return published means over exactly the subsets of each task and exposure; None where there are none."""
    cells: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for index, one in enumerate(comparison.subsets):
        cells[one.task, one.family, one.exposure].append(index)
    order = [*EXPOSURES, "english"]
    tasks = list(dict.fromkeys(task for task, _, _ in cells))
    cells = dict(sorted(cells.items(), key=lambda cell: (tasks.index(cell[0][0]), order.index(cell[0][2]))))
    means = {
        model: {cell: mean for cell, chosen in cells.items() if (mean := _mean(comparison, chosen, scores)) is not None}
        for model, scores in _published().items()
    }
    shown = [cell for cell in cells if any(cell in of_model for of_model in means.values())]
    if not shown:
        return None
    here = [
        _row(arm_label(comparison, arm.name), [comparison.estimates(arm.name, cells[one]).mean for one in shown])
        for arm in comparison.arms
    ]
    there = [_row(model, [of_model.get(one) for one in shown]) for model, of_model in means.items() if of_model]
    names = [f"{task}, {exposure_label(family, exposure)}" for task, family, exposure in shown]
    return Table(
        "Published scores on the same subsets",
        (Column("Model"), *(Column(name, True) for name in names)),
        (("This comparison", tuple(here)), ("Published", tuple(there))),
        note=f"In points; means over exactly the subsets compared here, from {_SOURCE}. They were measured elsewhere, "
        "some with earlier versions of mteb, and most of these models were trained on far more data.",
    )


def _mean(comparison: Comparison, chosen: Sequence[int], scores: dict[tuple[str, str], float]) -> float | None:
    """Return the mean over the chosen subsets of a task, None unless every one is published."""
    keys = [comparison.subsets[index].key for index in chosen]
    if not all(key in scores for key in keys) or any(
        run.main[key].get("split") != _SPLIT for arm in comparison.arms for run in arm.runs for key in keys
    ):
        return None
    return sum(scores[key] for key in keys) / len(keys)


def _row(name: str, means: Sequence[float | None]) -> tuple[Cell, ...]:
    return (Cell(name), *(Cell(NONE if mean is None else points(mean)) for mean in means))
