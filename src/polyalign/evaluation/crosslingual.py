"""Tasks across languages that MTEB lacks, made from the data of official ones.

SIB-200 has the same sentences in all its languages, linked by ``index_id``; the pairs of STSBenchmarkMultilingualSTS
are the same in all of its. So they hold more than the official tasks ask: bitext between any two languages, similarity
and classification across two, and retrieval from a pool of many.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from datasets import Dataset, load_dataset
from mteb.abstasks import AbsTask, AbsTaskBitextMining
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.tasks import SIB200Classification, STSBenchmarkMultilingualSTS

from polyalign import languages as codes_table
from polyalign.errors import UserError
from polyalign.evaluation.adapter import MtebEncoder
from polyalign.evaluation.bitext import PairBitext, embed
from polyalign.similarity import nearest_other, unit
from polyalign.storage import fingerprint
from polyalign.tasks import ALL_LANGUAGES, SIB200_LEFT_OUT, SelectedTask, is_english, select, use_local_data

_SIB = dict(
    sorted(
        (
            SIB200Classification.metadata.eval_langs | {name: [name.replace("_", "-")] for name in SIB200_LEFT_OUT}
        ).items()
    )
)


_EXAMPLES = 3


def _metadata(official: type[AbsTask], name: str, description: str, splits: Sequence[str], **rest: str) -> TaskMetadata:
    own = {"name": name, "description": description, "eval_splits": list(splits), "superseded_by": None}
    return official.metadata.model_copy(update=own | rest)


class _Crosslingual(AbsTask):
    """A task whose subsets are combinations of the languages of an official task's dataset.

    Args:
        combined: the combinations, as the dataset names its languages; a subset's name is theirs joined.

    Attributes:
        sources: the dataset's name of each language -> MTEB's code, as a list of one.
        default_split: what runs where no split is asked for.
        examples: after a run, texts with what was found for them, where the task shows some; see `SIB200Pool`.
    """

    metadata: TaskMetadata
    examples: Sequence[dict[str, Any]] = ()
    sources: dict[str, list[str]] = _SIB
    default_split = "all"

    def __init__(self, combined: Iterable[tuple[str, ...]]) -> None:
        self.combined = {"-".join(names): names for names in combined}
        codes = {subset: [self.sources[name][0] for name in names] for subset, names in self.combined.items()}
        # The class's own metadata cannot know them.
        self.metadata = self.metadata.model_copy(update={"eval_langs": codes})
        super().__init__()

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        (split,) = self.eval_splits
        names = dict.fromkeys(name for names in self.combined.values() for name in names)
        self.dataset = self._load_subsets(list(names), split)
        self.data_loaded = True

    @staticmethod
    def combine(english: str, others: Sequence[str], *, everything: bool) -> Sequence[tuple[str, ...]]:
        """Return the combinations to run, of the dataset's names of the languages asked for.

        Args:
            english: English.
            others: the other languages, at least one.
            everything: whether all languages were asked for, rather than these by name.
        """
        raise NotImplementedError

    def _load_subsets(self, names: Sequence[str], split: str) -> dict[str, dict[str, Dataset]]:
        """Return subset -> split -> data, from the data of the languages ``names``."""
        raise NotImplementedError

    def _read_sib(self, name: str, split: str) -> pl.DataFrame:
        """Return SIB-200's rows of a language: ``row_id``, ``label`` and ``text``; "all" is those of every split."""
        splits = load_dataset(name=name, **self.metadata.dataset)
        rows: pl.DataFrame = pl.concat([splits[one].to_polars() for one in (splits if split == "all" else [split])])
        return rows.select(pl.col("index_id").alias("row_id"), pl.col("category").alias("label"), "text")


class SIB200Bitext(_Crosslingual, PairBitext):
    """Bitext over every pair of the languages asked for; with all languages, of English and each other one."""

    metadata = _metadata(
        SIB200Classification,
        "SIB200Bitext",
        "The sentences of SIB-200 as bitext between any two of its languages.",
        ["all", "train", "validation", "test"],
        type="BitextMining",
        main_score="f1",
    )

    @staticmethod
    def combine(english: str, others: Sequence[str], *, everything: bool) -> Sequence[tuple[str, ...]]:
        """Return the pairs; all of 205 languages would be 20,910."""
        return [*((other, english) for other in others), *(() if everything else combinations(others, 2))]

    def _load_subsets(self, names: Sequence[str], split: str) -> dict[str, dict[str, Dataset]]:
        rows = {name: self._read_sib(name, split).select("row_id", "text") for name in names}
        pairs = {
            subset: rows[first].join(rows[second], on="row_id", maintain_order="left")
            for subset, (first, second) in self.combined.items()
        }
        columns = {"text": "sentence1", "text_right": "sentence2"}
        return {subset: {split: Dataset.from_polars(both.rename(columns))} for subset, both in pairs.items()}


class SIB200Pool(_Crosslingual, AbsTaskBitextMining):
    """Every sentence of a language sought in one pool of all languages asked for and English, itself left out.

    A hit is a nearest neighbour, by cosine, that translates it: so a translation in some language must be nearer than
    whatever its own language has ("strong" alignment; Roy et al. 2020, "LAReQA: Language-agnostic answer retrieval
    from a multilingual pool"). ``same_language`` is how often the nearest is of the query's language.

    Some sentences, the same ones for every encoder, are kept as ``examples`` with what is nearest to them: dicts of
    ``row`` (the sentence's number), ``language``, ``text``, ``found_language``, ``found_text``, ``similarity``
    (cosine) and ``hit``.
    """

    metadata = _metadata(
        SIB200Classification,
        "SIB200Pool",
        "Each sentence of SIB-200 sought in a pool of the sentences of all languages.",
        ["all", "train", "validation", "test"],
        type="BitextMining",  # which decides the prompt
        main_score="accuracy",
    )
    family = "retrieval"
    further_metrics = ("same_language",)

    @staticmethod
    def combine(english: str, others: Sequence[str], *, everything: bool) -> Sequence[tuple[str, ...]]:
        """Return the languages of the pool."""
        return [(name,) for name in (*others, english)]

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        """Load the data, and forget the examples of an earlier run."""
        self.examples = []
        super().load_data(num_proc)

    def _load_subsets(self, names: Sequence[str], split: str) -> dict[str, dict[str, Dataset]]:
        # Scores among different pools are not comparable: the pool is a part of the gold, by which `compare` tells.
        pool = fingerprint(sorted(names))[:8]
        rows = {name: self._read_sib(name, split) for name in names}
        return {
            name: {split: Dataset.from_polars(own.with_columns(gold=pl.format("{}@{}", "row_id", pl.lit(pool))))}
            for name, own in rows.items()
        }

    def _evaluate_subset(
        self, model: MtebEncoder, data_split: Dataset, *, hf_split: str, hf_subset: str, **kwargs: Any
    ) -> dict[str, float]:
        pool = {name: splits[hf_split] for name, splits in self.dataset.items()}
        names = [f"{row}@{name}" for name, data in pool.items() for row in data["row_id"]]
        vectors = unit(np.concatenate([embed(self, model, list(data["text"])) for data in pool.values()]))
        start = names.index(f"{data_split['row_id'][0]}@{hf_subset}")
        found = nearest_other(vectors, start, start + len(data_split))
        cosines = (vectors[start : start + len(data_split)] * vectors[found]).sum(1)
        hits = [{"corpus_id": names[row], "score": float(cosine)} for row, cosine in zip(found, cosines, strict=True)]
        if folder := kwargs["prediction_folder"]:
            self._save_task_predictions(hits, model, folder, hf_split=hf_split, hf_subset=hf_subset)
        right = [names[row].split("@")[0] == own for row, own in zip(found, data_split["row_id"], strict=True)]
        self.examples = [*self.examples, *self._examples(pool, hf_subset, found, cosines)]
        at_home = (found >= start) & (found < start + len(data_split))
        scores = {"accuracy": float(np.mean(right)), "same_language": float(np.mean(at_home))}
        return scores | {"main_score": scores["accuracy"]}

    def _examples(
        self, pool: dict[str, Dataset], subset: str, found: np.ndarray, cosines: np.ndarray
    ) -> Iterator[dict[str, Any]]:
        """Yield what was found for a few sentences of a subset, evenly spaced through their numbers."""
        everything = [
            (codes_table.from_mteb(self.sources[name][0]), row, text)
            for name, data in pool.items()
            for row, text in zip(data["row_id"], data["text"], strict=True)
        ]
        rows, texts = list(pool[subset]["row_id"]), list(pool[subset]["text"])
        for row in sorted(rows)[:: -(-len(rows) // _EXAMPLES)]:
            place = rows.index(row)
            language, found_row, found_text = everything[found[place]]
            yield {
                "row": str(row),
                "language": codes_table.from_mteb(self.sources[subset][0]),
                "text": texts[place],
                "found_language": language,
                "found_text": found_text,
                "similarity": float(cosines[place]),
                "hit": found_row == row,
            }


class SIB200ZeroShot(_Crosslingual, SIB200Classification):
    """SIB200Classification with its ten classifiers trained on English and tested on another language.

    The few-shot samples are those of the official task in English.
    """

    metadata = _metadata(
        SIB200Classification,
        "SIB200ZeroShot",
        "Topic classification of SIB-200 in other languages by classifiers trained on English.",
        ["test", "validation"],  # in training data stand the English samples' own translations
    )
    default_split = "test"
    train_split = "english"

    @staticmethod
    def combine(english: str, others: Sequence[str], *, everything: bool) -> Sequence[tuple[str, ...]]:
        """Return English with each other language."""
        return [(english, other) for other in others]

    def _load_subsets(self, names: Sequence[str], split: str) -> dict[str, dict[str, Dataset]]:
        english = self._read_sib(next(iter(self.combined.values()))[0], "train")
        number = {label: place for place, label in enumerate(sorted(set(english["label"])))}  # as the official task's

        def numbered(rows: pl.DataFrame) -> Dataset:
            return Dataset.from_dict({"text": list(rows["text"]), "label": [number[label] for label in rows["label"]]})

        train = numbered(english)
        return {
            subset: {self.train_split: train, split: numbered(self._read_sib(other, split))}
            for subset, (_, other) in self.combined.items()
        }


class STSBenchmarkCrosslingual(_Crosslingual, STSBenchmarkMultilingualSTS):
    """STSBenchmarkMultilingualSTS with sentence1 in one language and sentence2 in another, for every ordered pair."""

    metadata = _metadata(
        STSBenchmarkMultilingualSTS,
        "STSBenchmarkCrosslingual",
        "The pairs of STSBenchmarkMultilingualSTS, each sentence in another language.",
        ["test", "dev"],
    )
    sources = STSBenchmarkMultilingualSTS.metadata.eval_langs
    default_split = "test"

    @staticmethod
    def combine(english: str, others: Sequence[str], *, everything: bool) -> Sequence[tuple[str, ...]]:
        """Return the ordered pairs."""
        return list(permutations([english, *others], 2))

    def _load_subsets(self, names: Sequence[str], split: str) -> dict[str, dict[str, Dataset]]:
        rows = load_dataset(**self.metadata.dataset)[split].to_polars().partition_by("lang", as_dict=True)
        found: dict[str, dict[str, Dataset]] = {}
        for subset, (first, second) in self.combined.items():
            if (first,) not in rows or (second,) not in rows:
                continue
            one, other = rows[first,], rows[second,]
            if not one["similarity_score"].equals(other["similarity_score"]):
                raise UserError(
                    f"the data of task {self.metadata.name!r} has other scores in {second!r} than in {first!r}, so its "
                    "pairs are not the same; use the dataset as it is on the Hub"
                )
            both = one.select("sentence1", pl.col("similarity_score").alias("score")).hstack([other["sentence2"]])
            found[subset] = {split: Dataset.from_polars(both)}
        return found


TASKS: dict[str, type[_Crosslingual]] = {
    task.metadata.name: task for task in (SIB200Bitext, SIB200Pool, SIB200ZeroShot, STSBenchmarkCrosslingual)
}
"""Name -> task, beside MTEB's."""


def crosslingual_task(
    name: str, languages: Sequence[str], split: str | None = None, mteb_data: Path | None = None
) -> SelectedTask:
    """Return a task of `TASKS` over the languages asked for; English joins by itself. No data is read yet.

    Args:
        name: one of `TASKS`.
        languages: canonical tags, or ``["all"]``. "zh" is Simplified Chinese.
        split: the split to run; None takes the task's own: all 1,004 sentences for bitext and retrieval, else ``test``.
        mteb_data: folder that holds the official task's dataset under its Hub id; None loads it from the Hub.

    Raises:
        UserError: for a task without the split, without any of the languages, or without its folder in ``mteb_data``.
    """
    kind = TASKS[name]
    codes = {source: code for source, (code,) in kind.sources.items()}
    english = next(source for source, code in codes.items() if is_english(code))
    everything = ALL_LANGUAGES in languages
    wanted = {code for tag in languages if not everything for code in codes_table.mteb_codes(tag, codes.values())}
    others = [source for source, code in codes.items() if source != english and (everything or code in wanted)]
    if not others:
        own = sorted(codes_table.from_mteb(code) for source, code in codes.items() if source != english)
        raise UserError(
            f"task {name!r} has none of the languages {', '.join(languages)} beside English; "
            f"it has {', '.join(own[:20])}{', ...' if len(own) > 20 else ''}; choose among them or leave the task out"
        )
    task = kind(kind.combine(english, others, everything=everything))
    if mteb_data is not None:
        use_local_data(task, mteb_data)
    return select(task, languages, split or kind.default_split, pivot=True)
