"""Decontamination: which rows of a corpus stand in the data that MTEB tasks evaluate on.

Two rules, blind to language, case, width, punctuation and invisible characters: a text equals an evaluated text, or
shares a long run of words with one. Texts become sequences of tokens: a token is a word or, in scripts written without
spaces, a character, which counts as part of a word.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import polars as pl
from pydantic import Field

from polyalign.corpus.columns import ROW_ID
from polyalign.errors import UserError
from polyalign.settings import Settings
from polyalign.tasks import load_evaluation_task

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

EXACT = "exact"
OVERLAP = "n-gram overlap"
IN_EVALUATION = "in evaluation data"
"""Why a claimed row is left out."""
NORMALISATION = "NFKC, case folded, without punctuation, white space, format and control characters"

_BYTES_PER_SLICE = 4 << 20
_ROWS_PER_BATCH = 65_536

# Attributes by which MTEB's task types name the columns that a model reads. Retrieval has none: its column is "text".
_COLUMN_ATTRIBUTES = (
    "column_names",
    "input_column_name",
    "input1_column_name",
    "input2_column_name",
    "text_column_name",
    "human_summaries_column_name",
    "machine_summaries_column_name",
)
_TITLE = "title"  # what MTEB puts before the text of a document

# In the 1,004 sentences of SIB-200, an English word is 1.6 characters of Chinese, 2.4 of Japanese, and 3.1 (Burmese) to
# 4.2 (Thai) letters with their marks.
_UNITS_PER_WORD = 12
_UNITS = {r"\p{Han}": 6, r"\p{Hiragana}\p{Katakana}ー": 4, r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}": 3}
_WITHOUT_SPACES = "".join(_UNITS)
# "don't" is one word with either apostrophe or none.
_DROPPED = r"[\p{Cf}'‘’ʼ]"
_BETWEEN = r"\p{P}\p{Z}\p{C}\p{Sk}\s"
_TOKEN = rf"[[{_WITHOUT_SPACES}]--[{_BETWEEN}]]\p{{M}}*|[^{_BETWEEN}{_WITHOUT_SPACES}]+"

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_INVERSE = pow(_BASE, -1, 1 << 64)
_WORDLESS = 0  # stands for the hash of no token
_NO_HASHES = np.empty(0, dtype=np.uint64)


class DecontaminationSettings(Settings):
    """Whose evaluation data to keep out of a corpus, and what counts as standing in it.

    Attributes:
        tasks: names of MTEB tasks of any type with text, or of those that `evaluate` has beside them. Where several
            claim a text, the first named is recorded.
        mteb_data: a folder with the tasks' data in the layout of the Hub; None loads them from the Hub.
        ngram_words: length in words, at least 1, of the run that counts as overlap. Half a word is a Chinese character,
            a third a Japanese kana, a quarter a Thai, Lao, Khmer or Burmese letter. An evaluated text that is shorter
            is found where it stands alone, however short it is, but not inside a longer text.
    """

    tasks: list[str] = Field(min_length=1)
    mteb_data: Path | None = None
    ngram_words: int = Field(8, ge=1)


class Decontaminator:
    """Finds the texts that stand in the evaluated splits of some MTEB tasks.

    The tasks' data is loaded when first needed; 14 to 18 bytes stay in memory per distinct text and n-gram.
    """

    def __init__(self, settings: DecontaminationSettings) -> None:
        self.settings = settings

    def claims(self, texts: pl.Series) -> pl.DataFrame:
        """Return which task claims each text, and how.

        Args:
            texts: strings in any language; null is no text.

        Returns:
            As many rows as ``texts``: ``task``, a name, and ``how``, ``exact`` or else ``n-gram overlap``; both are
            null if no task claims the text.

        Raises:
            UserError: for a task that is unknown or whose data cannot be loaded.
        """
        evaluated = self._evaluated
        names = pl.Series([*(task["task"] for task in evaluated.tasks), None], dtype=pl.String)
        hows = pl.Series([EXACT, OVERLAP, None])
        nobody = len(evaluated.tasks)
        found = [pl.DataFrame(schema={"task": pl.String, "how": pl.String})]
        for hashes in _hashed(texts, self.settings.ngram_words):
            exact = evaluated.texts.find(hashes.texts, nobody)
            overlap = np.full_like(exact, nobody)
            shared = evaluated.ngrams.find(hashes.ngrams, nobody)
            hits = shared < nobody
            np.minimum.at(overlap, hashes.owners[hits], shared[hits])
            task = np.where(exact < nobody, exact, overlap)
            how = np.where(exact < nobody, 0, np.where(overlap < nobody, 1, 2))
            found.append(pl.DataFrame({"task": names.gather(task), "how": hows.gather(how)}))
        return pl.concat(found)

    def removed(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the rows that a task claims, each once, in the order of ``rows``.

        Args:
            rows: ``row_id`` and a string column per language.

        Returns:
            ``row_id``, ``language``, ``task`` and ``how`` of each: of its claimed texts, the first in the order of the
            columns, one with an exact match going before one with an overlap.

        Raises:
            UserError: see `claims`.
        """
        numbered = rows.select(ROW_ID).with_row_index("row")
        claims = [
            numbered.with_columns(language=pl.lit(tag)).hstack(self.claims(rows[tag])).drop_nulls("how")
            for tag in rows.columns
            if tag != ROW_ID
        ]
        return (
            pl.concat(claims)
            .sort("row", pl.col("how") != EXACT, maintain_order=True)
            .unique("row", keep="first", maintain_order=True)
            .select(ROW_ID, "language", "task", "how")
        )

    @property
    def provenance(self) -> dict[str, Any]:
        """What texts are compared with, for a manifest: ``tasks``, ``normalisation`` and ``ngram_words``.

        Each of ``tasks`` has the name of the ``task``, its ``dataset`` (Hub id) and ``revision`` as MTEB names them,
        the evaluated ``splits``, the number of ``subsets``, and that of the distinct normalised ``texts`` found there.

        Raises:
            UserError: see `Decontaminator.claims`.
        """
        return {
            "tasks": self._evaluated.tasks,
            "normalisation": NORMALISATION,
            "ngram_words": self.settings.ngram_words,
        }

    @cached_property
    def _evaluated(self) -> _Evaluated:
        tasks, texts, ngrams = zip(*map(self._read, dict.fromkeys(self.settings.tasks)), strict=True)
        return _Evaluated(list(tasks), _Index.of(texts), _Index.of(ngrams))

    def _read(self, name: str) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
        """Return what a manifest says of the task, and the distinct hashes of its texts and of their n-grams."""
        task = load_evaluation_task(name, self.settings.mteb_data)
        texts, ngrams = [_NO_HASHES], [_NO_HASHES]
        for batch in evaluation_texts(task):
            for part in _hashed(batch, self.settings.ngram_words):
                texts.append(np.unique(part.texts))
                ngrams.append(np.unique(part.ngrams))
        distinct = np.unique(np.concatenate(texts))
        distinct = distinct[distinct != _WORDLESS]
        # The class keeps the Hub's id even where the instance reads a local folder.
        dataset = type(task).metadata.dataset
        about = {
            "task": name,
            "dataset": dataset["path"],
            "revision": dataset["revision"],
            "splits": list(task.eval_splits),
            "subsets": len(task.hf_subsets),
            "texts": len(distinct),
        }
        return about, distinct, np.unique(np.concatenate(ngrams))


def evaluation_texts(task: AbsTask) -> Iterator[pl.Series]:
    """Yield every text that a model reads when it is evaluated on a task, in batches, without nulls.

    They are those of all subsets and all splits that the task evaluates, as it has loaded them. Labels, ids and prompts
    are no texts, nor is a split that only fits a classifier. A document of a retrieval task is given both with its
    title, as models read it, and without.

    Args:
        task: with its data loaded, as from `polyalign.tasks.load_evaluation_task`.

    Raises:
        UserError: when an evaluated split is missing or has no column of texts.
    """
    columns = _text_columns(task)
    for where, split in _evaluated_splits(task):
        retrieval = isinstance(split, dict)
        for table in (split["corpus"], split["queries"]) if retrieval else (split,):
            present = [column for column in columns if column in table.column_names]
            if not present:
                raise UserError(
                    f"{where} has none of the columns {', '.join(columns[:5])}, but {', '.join(table.column_names)}; "
                    "get the dataset at the revision that MTEB names"
                )
            title = [_TITLE] if retrieval and _TITLE in table.column_names else []
            for batch in table.select_columns([*present, *title]).to_polars(batch_size=_ROWS_PER_BATCH, batched=True):
                yield from (_strings(batch[column]) for column in present)
                if title:
                    yield batch.select(pl.concat_str(*title, *present, separator=" ", ignore_nulls=True)).to_series()


class _Hashes(NamedTuple):
    """Of T texts and their G n-grams.

    Attributes:
        texts: uint64 [T]; ``_WORDLESS`` for a text without a word.
        ngrams: uint64 [G].
        owners: index of the text of each n-gram, [G].
    """

    texts: np.ndarray
    ngrams: np.ndarray
    owners: np.ndarray


@dataclass(frozen=True)
class _Index:
    """Distinct hashes and the first task that has each.

    Attributes:
        hashes: uint64 [n], in ascending order.
        tasks: numbers of the tasks, int16 [n].
        shift: by which a hash becomes a prefix of it.
        prefixes: whether a hash has the prefix, bool [2^(64 - shift)].
    """

    hashes: np.ndarray
    tasks: np.ndarray
    shift: int
    prefixes: np.ndarray

    @classmethod
    def of(cls, hashes: Sequence[np.ndarray]) -> Self:
        """Join the hashes of each task."""
        tasks = np.repeat(np.arange(len(hashes), dtype=np.int16), [len(own) for own in hashes])
        distinct, first = np.unique(np.concatenate(hashes), return_index=True)
        bits = (4 * len(distinct) + 1).bit_length()
        prefixes = np.zeros(1 << bits, dtype=bool)
        prefixes[distinct >> (64 - bits)] = True
        return cls(distinct, tasks[first], 64 - bits, prefixes)

    def find(self, hashes: np.ndarray, nobody: int) -> np.ndarray:
        """Return the number of the task that has each hash, or ``nobody``."""
        found = np.full(len(hashes), nobody, dtype=np.int16)
        # Most hashes are nobody's. Their prefix tells it in one look, far faster than a search.
        likely = np.flatnonzero(self.prefixes[hashes >> self.shift])
        places = np.searchsorted(self.hashes, hashes[likely])
        places[places == len(self.hashes)] = 0
        known = self.hashes[places] == hashes[likely]
        found[likely[known]] = self.tasks[places[known]]
        return found


class _Evaluated(NamedTuple):
    tasks: list[dict[str, Any]]
    texts: _Index
    ngrams: _Index


def _text_columns(task: AbsTask) -> list[str]:
    """Return the columns that a model reads; where a task mixes texts and images, those of the images too."""
    if getattr(task, "parallel_subsets", False):
        return list(dict.fromkeys(code for pair in task.hf_subsets for code in pair.split("-")))
    if task.metadata.type == "BitextMining":
        return ["sentence1", "sentence2"]
    return list(_flat(getattr(task, attribute, ()) for attribute in _COLUMN_ATTRIBUTES)) or ["text"]


def _flat(names: str | Iterable[Any]) -> Iterator[str]:
    """Yield the column names in a name, in a mapping from names to modalities, or in nested sequences of these."""
    if isinstance(names, str):
        yield names
    else:
        for name in names:
            yield from _flat(name)


def _evaluated_splits(task: AbsTask) -> Iterator[tuple[str, Any]]:
    """Yield a description and the data of each evaluated split, found where MTEB's own `evaluate` looks for it."""
    parallel = getattr(task, "parallel_subsets", False)
    for subset in ["all"] if parallel else task.hf_subsets:
        one_level = parallel or (subset == "default" and subset not in task.dataset)
        splits = task.dataset if one_level else task.dataset.get(subset, {})
        for split in task.eval_splits:
            where = f"the data of task {task.metadata.name!r}, subset {subset!r}, split {split!r},"
            if split not in splits:
                raise UserError(f"{where} is missing; get the dataset whole, at the revision that MTEB names")
            yield where, splits[split]


def _strings(column: pl.Series) -> pl.Series:
    """Return the strings in a column of strings, of lists of strings, or of conversations (lists of turns)."""
    while isinstance(column.dtype, pl.List):
        column = column.explode()
    if isinstance(column.dtype, pl.Struct):
        column = column.struct.field("content")
    return column.drop_nulls() if column.dtype == pl.String else pl.Series([], dtype=pl.String)


def _hashed(texts: pl.Series, ngram_words: int) -> Iterator[_Hashes]:
    """Yield the hashes of consecutive slices of about equal size, so that memory does not grow with the texts."""
    slices = (texts.str.len_bytes().fill_null(0).cast(pl.Int64).cum_sum() // _BYTES_PER_SLICE).rle().struct.field("len")
    start = 0
    for length in slices:
        yield _hash(texts.slice(start, length), ngram_words)
        start += length


def _hash(texts: pl.Series, ngram_words: int) -> _Hashes:
    words, tokens = _tokenised(texts)
    hashes, owners = tokens["hash"].to_numpy(), tokens["text"].to_numpy()
    powers, inverses = (_powers(base, len(hashes)) for base in (_BASE, _INVERSE))
    sums = _running(hashes * powers[:-1])
    units = _running(tokens["units"].to_numpy().astype(np.int64))
    # From each token on, the shortest run that is long enough, if the text holds it.
    starts = np.arange(len(hashes))
    ends = np.searchsorted(units, units[:-1] + ngram_words * _UNITS_PER_WORD)
    text_ends = np.cumsum(np.bincount(owners, minlength=len(texts)))
    within = ends <= text_ends[owners]
    starts, ends = starts[within], ends[within]
    # The sum of hash[start + i] * base^i, modulo 2^64.
    ngrams = (sums[ends] - sums[starts]) * inverses[starts]
    return _Hashes(words.to_numpy(), ngrams, owners[within])


def _powers(base: int, count: int) -> np.ndarray:
    """Return base^0, base^1, ... base^count modulo 2^64, uint64 [count + 1]."""
    factors = np.full(count + 1, base, dtype=np.uint64)
    factors[0] = 1
    return np.cumprod(factors)


def _running(values: np.ndarray) -> np.ndarray:
    """Return the sums of the first 0, 1, ... n values, [n + 1]."""
    return np.concatenate([np.zeros(1, values.dtype), np.cumsum(values)])


def _tokenised(texts: pl.Series) -> tuple[pl.Series, pl.DataFrame]:
    """Return a hash of the tokens of each text, and the tokens.

    Returns:
        uint64 [T], blind to where a text is split; and a row per token: ``text`` (index), ``hash`` (uint64) and
        ``units`` (length in parts of a word).
    """
    folded = pl.Series("token", [text and _fold(text) for text in texts], dtype=pl.String)
    lists = folded.str.replace_all(_DROPPED, "").str.extract_all(_TOKEN)
    whole = lists.list.join("")
    token = pl.col("token")
    units = pl.lit(_UNITS_PER_WORD)
    for characters, part in _UNITS.items():
        units = pl.when(token.str.contains(f"^[{characters}]")).then(part).otherwise(units)
    tokens = lists.to_frame().with_row_index("text").explode("token").drop_nulls("token")
    return (
        pl.select(pl.when(whole != "").then(whole.hash()).otherwise(_WORDLESS)).to_series(),
        tokens.select("text", hash=token.hash(), units=units),
    )


def _fold(text: str) -> str:
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", text).casefold()
    # Turkish and Azerbaijani: the capitals of "ı" and "i" are other letters elsewhere.
    folded = folded.replace("ı", "i").replace("i\u0307", "i")
    # Folding can undo the normal form: the second pass makes "ΐ" and its capital equal.
    return unicodedata.normalize("NFKC", folded)
