"""How many texts an evaluation encodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from polyalign.evaluation.evaluating import canonical_tags, select_tasks
from polyalign.evaluation.predictions import load_data

_NAMES = {"row_id", "index_id", "id", "gold", "label", "category", "lang"}
"""Columns of strings that no encoder is given."""


def count_texts(
    tasks: Sequence[str] | Mapping[str, Sequence[str] | None],
    *,
    languages: Sequence[str],
    split: str | None = None,
    mteb_data: Path | None = None,
    own_rows: Path | str | None = None,
) -> int:
    """Return how many different strings the data of tasks hold: about what `evaluate` encodes, which takes the same.

    Raises:
        UserError: as `evaluate`.
    """
    texts: set[str] = set()
    for selected in select_tasks(tasks, canonical_tags(languages), split, mteb_data, own_rows):
        load_data(selected)
        for subset in selected.subsets:
            data = selected.task.dataset.get(subset, selected.task.dataset)
            splits = {selected.split, getattr(selected.task, "train_split", selected.split)}
            texts.update(text for split in splits & set(data) for text in _texts(data[split]))
        selected.task.unload_data()
    return len(texts)


def _texts(data: Any) -> Iterable[str]:
    """Yield the strings of a split, but for those that name things."""
    for column in getattr(data, "column_names", data):
        if column not in _NAMES:
            yield from (value for value in data[column] if isinstance(value, str))
