"""From rows with gaps to batches in which each present text is encoded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xxhash
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from torch import Tensor
from transformers import TrainerCallback

from polyalign.encoder import default_prompt
from polyalign.training.objective import ENGLISH, Objective

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from polyalign.corpus import Corpus


def key(text: str) -> int:
    """Return the 63-bit hash that stands for a string in int64 tensors: the same in every batch, run and process."""
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass")) >> 1


def to_dataset(corpus: Corpus) -> Dataset:
    """Return the corpus as ragged rows: columns ``row_id``, ``languages`` and ``texts`` (lists of equal length).

    Ragged, because the sentence-transformers model card cannot read a wide table with nulls.
    """
    from datasets import Dataset

    row_ids, languages, texts = [], [], []
    for row_id, *cells in corpus.rows.select("row_id", *corpus.languages).iter_rows():
        present = [(language, text) for language, text in zip(corpus.languages, cells, strict=True) if text is not None]
        row_ids.append(row_id)
        languages.append([language for language, _ in present])
        texts.append([text for _, text in present])
    return Dataset.from_dict({"row_id": row_ids, "languages": languages, "texts": texts})


def sampled_languages(
    row_id: str, languages: Sequence[str], objective: Objective, *, seed: int, epoch: int
) -> list[str]:
    """Return the languages of a row that one step encodes, in the order given.

    A pure function of (seed, epoch, row): those with the smallest hashes. So a resumed or sharded run sees the same. A
    row without English gives nothing where the objective is about English.
    """
    about_english = objective.english_always or objective.anchors == "english"
    if about_english and "en" not in languages:
        return []
    wanted = objective.languages_per_row
    if wanted is None or len(languages) <= wanted:
        return list(languages)

    def rank(language: str) -> tuple[bool, int]:
        return not (about_english and language == "en"), key(f"{seed}\0{epoch}\0{row_id}\0{language}")

    chosen = set(sorted(languages, key=rank)[:wanted])
    return [language for language in languages if language in chosen]


class MultiwayCollator(SentenceTransformerDataCollator):
    """Flatten rows into texts, each encoded once, in length-sorted chunks under a token budget.

    Takes rows with ``row_id``, ``languages`` and ``texts`` (see `to_dataset`); returns the tokenized chunks as
    ``chunk{k}_input_ids``, … (longest texts first) and ``label``, int64 [T, 3]: row key, language number (English is 0,
    the others count from 1 in the order of ``languages``) and text key. The model's default prompt is put before every
    text, as ``model.encode`` will do.

    Args:
        model: the encoder in training.
        languages: every language that may occur.
        objective: an `Objective` or the name of a preset; decides which languages of a row a step encodes.
        seed: of the sampling of languages.
        tokens_per_chunk: the most tokens of one forward pass, padding included; one text may exceed it.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        languages: Sequence[str],
        objective: Objective | str = "multi-way",
        *,
        seed: int = 0,
        tokens_per_chunk: int = 2048,
    ) -> None:
        super().__init__(preprocess_fn=model.preprocess)
        self.objective = Objective.named(objective) if isinstance(objective, str) else objective
        self.number = {tag: number for number, tag in enumerate([tag for tag in languages if tag != "en"], start=1)}
        self.number["en"] = ENGLISH
        self.prompt = default_prompt(model)
        self.seed = seed
        self.epoch = 0
        self.tokens_per_chunk = tokens_per_chunk

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate rows; see the class."""
        texts: list[str] = []
        labels: list[tuple[int, int, int]] = []
        for row in features:
            cells = dict(zip(row["languages"], row["texts"], strict=True))
            chosen = sampled_languages(
                row["row_id"], row["languages"], self.objective, seed=self.seed, epoch=self.epoch
            )
            for language in chosen:
                texts.append(cells[language])
                labels.append((key(row["row_id"]), self.number[language], key(cells[language])))
        batch: dict[str, Any] = {}
        order = torch.arange(len(texts))
        if texts:
            tokenized = self.preprocess_fn(texts, prompt=self.prompt)
            if "attention_mask" in tokenized:
                order = tokenized["attention_mask"].sum(1).argsort(descending=True, stable=True)
                for number, chunk in enumerate(_chunks(tokenized, order, self.tokens_per_chunk)):
                    batch |= {f"chunk{number}_{name}": value for name, value in chunk.items()}
            else:  # a bag of embeddings has no padding to save
                batch |= {f"chunk0_{name}": value for name, value in tokenized.items()}
        batch["label"] = torch.tensor(labels, dtype=torch.long).reshape(-1, 3)[order]
        return batch


def _chunks(tokenized: dict[str, Any], order: Tensor, tokens_per_chunk: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of padded tensors in ``order``, cut under the token budget, each without its needless padding."""
    lengths = tokenized["attention_mask"].sum(1)[order].tolist()
    start = 0
    while start < len(lengths):
        size = max(1, tokens_per_chunk // max(1, lengths[start]))
        rows = order[start : start + size]
        columns = tokenized["attention_mask"][rows].any(0)
        yield {
            name: value[rows][:, columns] if isinstance(value, Tensor) and value.dim() == 2 else value
            for name, value in tokenized.items()
        }
        start += size


class EpochOfLanguages(TrainerCallback):
    """Tells a `MultiwayCollator` the epoch; only needed where ``languages_per_row`` is set."""

    def __init__(self, collator: MultiwayCollator) -> None:
        self.collator = collator

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Runs before the epoch's first batch is collated, also when training resumes inside an epoch."""
        self.collator.epoch = int(state.epoch or 0)


class RowBatches(DefaultBatchSampler):
    """Batches of rows in an order that is a pure function of (seed, epoch); the last batch of an epoch may be short."""

    def __iter__(self) -> Iterator[list[int]]:
        yield from batches_of_epoch(len(self.sampler), self.batch_size, seed=self.seed, epoch=self.epoch or 0)

    def __len__(self) -> int:
        rows, batch_rows = len(self.sampler), int(self.batch_size)
        return -(-rows // batch_rows)


def batches_of_epoch(rows: int, batch_rows: int, *, seed: int, epoch: int) -> Iterator[list[int]]:
    """Yield the row numbers of each batch of one epoch."""
    order = np.random.default_rng([seed, epoch]).permutation(rows).tolist()
    for start in range(0, rows, batch_rows):
        yield order[start : start + batch_rows]
