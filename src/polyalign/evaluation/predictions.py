"""The data of a task, and MTEB's prediction files joined with their gold: one row per item.

MTEB keeps the predictions of a task without gold, in dataset order. The gold is read from the data that the task has
loaded, so both come from the same run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import xxhash

from polyalign.errors import UserError
from polyalign.tasks import SelectedTask, is_english

SCHEMA = {
    "task": pl.String,
    "family": pl.String,
    "subset": pl.String,
    "group": pl.String,
    "experiment": pl.Int64,
    "gold": pl.String,
    "predicted": pl.String,
    "similarity": pl.Float64,
}

_DIGITS = 12


def load_data(selected: SelectedTask) -> None:
    """Load the data of a task.

    Raises:
        UserError: when it cannot be had, or lacks one of the subsets.
    """
    from datasets.exceptions import DatasetsError

    source = selected.task.metadata.dataset["path"]
    try:
        selected.task.load_data()
        absent = [subset for subset in selected.subsets if not _is_loaded(selected, subset)]
    except (OSError, ValueError, KeyError, DatasetsError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if local := Path(source).is_dir():
            source = Path(source).resolve()  # `polyalign.tasks` gives the library a link to it
        hint = "mend that folder" if local else "check the network, or give a copy with --mteb-data"
        raise UserError(f"cannot load the data of task {selected.name!r} from {source} ({reason}); {hint}") from error
    if absent:
        raise UserError(
            f"the data of task {selected.name!r} in {source} lacks {', '.join(absent)} of split {selected.split!r}; "
            "leave out those languages, or complete the data"
        )


def _is_loaded(selected: SelectedTask, subset: str) -> bool:
    splits = _splits(selected, subset)
    if selected.split not in splits or not getattr(selected.task, "parallel_subsets", False):
        return selected.split in splits
    return set(subset.split("-")) <= set(splits[selected.split].column_names)


def _splits(selected: SelectedTask, subset: str) -> Any:
    """Return split -> loaded data; a task in one language, or with languages as columns, has no level of subsets."""
    return selected.task.dataset.get(subset, selected.task.dataset)


def _column(selected: SelectedTask, name: str) -> dict[str, list[Any]]:
    """Return subset -> a column of its data."""
    return {subset: list(_splits(selected, subset)[selected.split][name]) for subset in selected.subsets}


def join_gold(selected: SelectedTask, predictions: Mapping[str, Any]) -> pl.DataFrame:
    """Return one row per item of every subset, in dataset order, with the columns of `SCHEMA`.

    Args:
        selected: a task whose data is loaded.
        predictions: the content of MTEB's prediction file of that task.
    """
    rows = pl.concat(_BUILDERS[selected.family](selected, predictions))
    return rows.with_columns(task=pl.lit(selected.name), family=pl.lit(selected.family)).select(list(SCHEMA))


def _rows(
    subset: str,
    groups: Sequence[str],
    gold: Sequence[Any],
    *,
    experiment: int = 0,
    predicted: Sequence[str] | str,
    similarity: Sequence[float] | None = None,
) -> pl.DataFrame:
    columns = {
        "subset": subset,
        "group": groups,
        "experiment": experiment,
        "gold": [str(label) for label in gold],
        "predicted": predicted,
        "similarity": similarity,
    }
    return pl.DataFrame(columns, schema_overrides=SCHEMA)


def _bitext(selected: SelectedTask, predictions: Mapping[str, Any]) -> list[pl.DataFrame]:
    frames = []
    for subset, languages in selected.subsets.items():
        data = _splits(selected, subset)[selected.split]
        if selected.task.parallel_subsets:
            # Every language is a column of the same rows.
            found = predictions["parallel"][selected.split][subset]
            gold = list(range(len(found)))
            groups = [str(row) for row in gold]
        else:
            found = predictions[subset][selected.split]["sentence1-sentence2"]
            # Only BUCC, which is no datasets.Dataset, states its gold; elsewhere sentence i translates sentence i.
            gold = [target for _, target in data["gold"]] if isinstance(data, dict) else list(range(len(found)))
            groups = _bitext_groups(data, languages.codes, gold)
        predicted = [str(hit["corpus_id"]) for hit in found]
        frames.append(_rows(subset, groups, gold, predicted=predicted, similarity=[hit["score"] for hit in found]))
    return frames


def _bitext_groups(data: Any, codes: Sequence[str], gold: Sequence[int]) -> list[str]:
    """Return the row's id where it has one, else a hash of its English sentence, by which pairs with English meet.

    Twelve digits of either: hashes do not compress, and 48 bits tell the items of a task apart.
    """
    if "row_id" in getattr(data, "column_names", ()):
        return [row_id[:_DIGITS] for row_id in data["row_id"]]
    second_is_english = len(codes) == 2 and is_english(codes[1]) and not is_english(codes[0])
    sentences = list(data["sentence2" if second_is_english else "sentence1"])
    positions = gold if second_is_english else range(len(gold))
    return [xxhash.xxh3_128_hexdigest(sentences[position].encode())[:_DIGITS] for position in positions]


def _sts(selected: SelectedTask, predictions: Mapping[str, Any]) -> list[pl.DataFrame]:
    gold = _column(selected, "score")
    groups = _index_groups(gold)
    similarities = {subset: predictions[subset][selected.split]["cosine_scores"] for subset in gold}
    return [
        _rows(subset, groups[subset], gold[subset], predicted="", similarity=similarities[subset]) for subset in gold
    ]


def _classification(selected: SelectedTask, predictions: Mapping[str, Any]) -> list[pl.DataFrame]:
    gold = _column(selected, selected.task.label_column_name)
    groups = _index_groups(gold)
    return [
        _rows(subset, groups[subset], gold[subset], experiment=number, predicted=[str(label) for label in labels])
        for subset in gold
        for number, labels in enumerate(predictions[subset][selected.split])
    ]


def _retrieval(selected: SelectedTask, predictions: Mapping[str, Any]) -> list[pl.DataFrame]:
    frames = []
    for subset in selected.subsets:
        data, found = _splits(selected, subset)[selected.split], predictions[subset][selected.split]
        predicted, similarity = [hit["corpus_id"] for hit in found], [hit["score"] for hit in found]
        frames.append(_rows(subset, list(data["row_id"]), data["gold"], predicted=predicted, similarity=similarity))
    return frames


def _index_groups(gold: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
    """Return each item's index, if all subsets are the same items (they have the same gold in the same order).

    STSb's 1,379 pairs and SIB-200's sentences are: resampled by language as if they were independent, their
    intervals would come out too narrow. Other items keep to their subset.
    """
    first, *others = gold.values()
    shared = all(other == first for other in others)
    return {
        subset: [str(index) if shared else f"{subset}:{index}" for index in range(len(labels))]
        for subset, labels in gold.items()
    }


_BUILDERS = {"bitext": _bitext, "sts": _sts, "classification": _classification, "retrieval": _retrieval}
