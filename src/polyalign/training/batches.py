"""From rows with gaps to batches in which each present text is encoded once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
import xxhash
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from torch import Tensor
from transformers import TrainerCallback

from polyalign.encoder import default_prompt
from polyalign.training.arrays import spans
from polyalign.training.objective import ENGLISH, Objective

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from polyalign.corpus import Corpus
    from polyalign.training.tokens import Tokens

TOKENS_OF_A_PASS = 48
"""A forward pass is taken to cost what so many tokens cost: a chunk ends where more padding than that can be saved."""


def key(text: str) -> int:
    """Return the 63-bit hash that stands for a string in int64 tensors: the same in every batch, run and process."""
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass")) >> 1


def keys(texts: pl.Series) -> np.ndarray:
    """Return the `key` of each of n strings, int64 [n]."""
    hashes = map(xxhash.xxh3_64_intdigest, texts.cast(pl.Binary))
    return (np.fromiter(hashes, dtype=np.uint64, count=len(texts)) >> 1).astype(np.int64)


def language_numbers(languages: Sequence[str]) -> dict[str, int]:
    """Return the number that stands for each language in int64 tensors: English is 0, the others count from 1."""
    return {"en": ENGLISH} | {tag: number for number, tag in enumerate((t for t in languages if t != "en"), start=1)}


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

    A pure function of (seed, epoch, row): those with the smallest hashes; or, where they come in turn, the next ones in
    an order by hashes that is the same in every epoch. So a resumed or sharded run sees the same. A row without English
    gives nothing where the objective is about English.
    """
    if objective.needs_english and "en" not in languages:
        return []
    wanted = objective.languages_per_row
    if wanted is None or len(languages) <= wanted:
        return list(languages)

    order = "in turn" if objective.in_turn else epoch
    always = ["en"] if objective.needs_english else []
    others = sorted(
        (language for language in languages if language not in always),
        key=lambda language: key(f"{seed}\0{order}\0{row_id}\0{language}"),
    )
    sampled = wanted - len(always)
    start = epoch * sampled if objective.in_turn else 0
    chosen = {*always, *(others[(start + place) % len(others)] for place in range(sampled))}
    return [language for language in languages if language in chosen]


class MultiwayCollator(SentenceTransformerDataCollator):
    """Flatten rows into texts, each encoded once, in length-sorted chunks under a token budget.

    Takes rows with ``row_id``, ``languages`` and ``texts`` (see `to_dataset`); returns the tokenized chunks as
    ``chunk{k}_input_ids``, … (longest texts first) and ``label``, int64 [T, 3]: row key, language number (see
    `language_numbers`) and text key. The model's default prompt is put before every text, as ``model.encode`` will do.

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
        self.number = language_numbers(languages)
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
                lengths = tokenized["attention_mask"].sum(1)
                order = lengths.argsort(descending=True, stable=True)
                for number, chunk in enumerate(chunks_of_lengths(lengths[order].numpy(), self.tokens_per_chunk)):
                    batch |= _named(number, _rows(tokenized, order[chunk]))
            else:  # a bag of embeddings has no padding to save
                batch |= _named(0, tokenized)
        batch["label"] = torch.tensor(labels, dtype=torch.long).reshape(-1, 3)[order]
        return batch


class TokenCollator(MultiwayCollator):
    """The batches of a `MultiwayCollator`, from texts that are tokenized already.

    Takes rows with ``row``, the number of a row in ``tokens``. Where the model takes texts without padding, one after
    the other (flash attention), chunks are such sequences; ``tokens_per_chunk`` holds for them, too.

    Args:
        tokens: of all rows, under the tokenizer of ``model``.
        model: the encoder in training.
        objective: an `Objective` or the name of a preset; decides which languages of a row a step encodes.
        seed: of the sampling of languages.
        tokens_per_chunk: the most tokens of one forward pass, padding included; one text may exceed it.
    """

    def __init__(
        self,
        tokens: Tokens,
        model: SentenceTransformer,
        objective: Objective | str = "multi-way",
        *,
        seed: int = 0,
        tokens_per_chunk: int = 2048,
    ) -> None:
        super().__init__(model, tokens.languages, objective, seed=seed, tokens_per_chunk=tokens_per_chunk)
        self.tokens = tokens
        self.tags = sorted(self.number, key=self.number.__getitem__)
        self.pad_id = getattr(model.tokenizer, "pad_token_id", None)
        self.pad_left = getattr(model.tokenizer, "padding_side", "right") == "left"
        self.module = model[0]

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate rows; see the class."""
        tokens = self.tokens
        rows, cells = self._chosen([feature["row"] for feature in features])
        starts = tokens.first_token[cells]
        lengths = tokens.first_token[cells + 1] - starts
        label = np.stack([tokens.row_keys[rows], tokens.numbers[cells], tokens.text_keys[cells]], axis=1)
        order, chunks = self._cut(lengths)
        make = {"padded": self._padded, "bag": self._bag, "packed": self._packed}[tokens.layout]
        batch: dict[str, Any] = {}
        for number, chunk in enumerate(chunks):
            texts = order[chunk]
            ids = tokens.ids[spans(starts[texts], lengths[texts])].astype(np.int64)
            batch |= _named(number, make(ids, lengths[texts]) | tokens.constants)
        batch["label"] = torch.from_numpy(label[order])
        return batch

    def _cut(self, lengths: np.ndarray) -> tuple[np.ndarray, Iterable[slice]]:
        """Return the order of texts in a batch, int64 [T], and the slices of it that are chunks."""
        if self.tokens.layout == "bag":
            return np.arange(len(lengths)), [slice(None)] if len(lengths) else []
        order = np.argsort(-lengths, kind="stable")
        padded = self.tokens.layout == "padded"
        return order, chunks_of_lengths(lengths[order], self.tokens_per_chunk, padded=padded)

    def _chosen(self, rows: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the row and the place in ``tokens`` of each text that this epoch encodes, int64 [T] both."""
        tokens = self.tokens
        row_of_cell, cells = [], []
        for row in rows:
            first, last = tokens.first_cell[row : row + 2].tolist()
            languages = [self.tags[number] for number in tokens.numbers[first:last].tolist()]
            chosen = sampled_languages(tokens.row_id(row), languages, self.objective, seed=self.seed, epoch=self.epoch)
            row_of_cell += [row] * len(chosen)
            cells += [first + place for place, language in enumerate(languages) if language in chosen]
        return np.array(row_of_cell, dtype=np.int64), np.array(cells, dtype=np.int64)

    def _padded(self, ids: np.ndarray, lengths: np.ndarray) -> dict[str, Any]:
        """Return texts as rows of [n, longest] tensors; ``ids`` has one text after the other."""
        column, width = np.arange(lengths.max()), lengths[:, None]
        mask = column >= lengths.max() - width if self.pad_left else column < width
        padded = np.full(mask.shape, self.pad_id, dtype=np.int64)
        padded[mask] = ids
        return {
            "input_ids": torch.from_numpy(padded),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
            **{name: torch.zeros(mask.shape, dtype=torch.long) for name in self.tokens.zeros},
        }

    def _bag(self, ids: np.ndarray, lengths: np.ndarray) -> dict[str, Any]:
        """Return texts as `sentence_transformers.sentence_transformer.modules.StaticEmbedding` takes them."""
        return {"input_ids": torch.from_numpy(ids), "offsets": torch.from_numpy(lengths.cumsum() - lengths)}

    def _packed(self, ids: np.ndarray, lengths: np.ndarray) -> dict[str, Any]:
        """Return texts as one sequence, as `sentence_transformers.base.modules.Transformer.preprocess` does."""
        texts = np.split(ids, lengths.cumsum()[:-1])
        packed: dict[str, Any] = self.module.data_collator([{"input_ids": text} for text in texts])
        del packed["labels"]
        packed["position_ids"] += self.module._flatten_position_offset
        return packed


def padding(batch: dict[str, Any]) -> tuple[int, int]:
    """Return the number of real tokens of a collated batch, and of those computed, which padding makes more."""
    real = computed = 0
    for name, ids in batch.items():
        if name.endswith("_input_ids"):
            mask = batch.get(name.replace("input_ids", "attention_mask"))
            real += ids.numel() if mask is None else int(mask.sum())
            computed += ids.numel()
    return real, computed


def chunks_of_lengths(lengths: np.ndarray, tokens_per_chunk: int, *, padded: bool = True) -> Iterator[slice]:
    """Yield the chunks of texts, as slices of them.

    A chunk ends where its real tokens are the largest share of its cost, which is what it computes and a pass: so one
    long text does not pad many short ones. Without padding, that is where the budget ends.

    Args:
        lengths: int64 [T], tokens of each text, descending.
        tokens_per_chunk: the most tokens of a chunk, padding included; one text may exceed it.
        padded: whether the texts of a chunk are padded to the longest of them.
    """
    total = np.concatenate([[0], lengths.cumsum()])
    start = 0
    while start < len(lengths):
        real = total[start + 1 : start + 1 + tokens_per_chunk] - total[start]
        computed = lengths[start] * np.arange(1, len(real) + 1) if padded else real
        fitting = max(1, int(computed.searchsorted(tokens_per_chunk, side="right")))
        share = real[:fitting] / (computed[:fitting] + TOKENS_OF_A_PASS)
        size = fitting - int(share[::-1].argmax())  # the last of the best
        yield slice(start, start + size)
        start += size


def _rows(tokenized: dict[str, Any], rows: Tensor) -> dict[str, Any]:
    """Return some rows of padded tensors, without the columns that are padding alone."""
    columns = tokenized["attention_mask"][rows].any(0)
    return {
        name: value[rows][:, columns] if isinstance(value, Tensor) and value.dim() == 2 else value
        for name, value in tokenized.items()
    }


def _named(number: int, chunk: dict[str, Any]) -> dict[str, Any]:
    """Return the features of a chunk under the names by which the Trainer finds them."""
    return {f"chunk{number}_{name}": value for name, value in chunk.items()}


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
