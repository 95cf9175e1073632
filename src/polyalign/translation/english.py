"""English from any source, made ready to be translated: normalised, filtered, without duplicates, sampled."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator
from xxhash import xxh3_64_intdigest, xxh3_128_digest

from polyalign.corpus.checking import CONTROL, EMPTY, INVALID
from polyalign.corpus.columns import ENGLISH, ROW_ID
from polyalign.errors import UserError
from polyalign.identification import identify
from polyalign.settings import Settings
from polyalign.translation.near_duplicates import near_duplicates
from polyalign.translation.sources import Source, open_sources
from polyalign.translation.spool import TextFile, grouped, read_keys

logger = logging.getLogger(__name__)

ROWS_PER_CHUNK = 2048

NO_LETTERS = "no letters"
TOO_SHORT = "too short"
TOO_LONG = "too long"
OTHER_LANGUAGE = "other language"
DUPLICATE = "duplicate"
NEAR_DUPLICATE = "near-duplicate"
NOT_SAMPLED = "not sampled"

_KEPT = 0
_VERDICTS = ("", DUPLICATE, NEAR_DUPLICATE, NOT_SAMPLED)  # on texts that passed the filters, by number
_EXAMPLES = 20
_TELLING = 20  # characters: the language of shorter texts is not judged
_ID = "<u8", 2  # the 16 bytes of a row id

# C1 controls, NEL among them, are what text read in a wrong encoding leaves of its quotes and dashes; of C0 controls,
# backspace and escape began a sequence. The others stand for nothing where no letter can have been.
_HARMLESS = r"[\x00-\x07\x0e-\x1a\x1c-\x1f\x7f]+"
_CONTROL = r"[\p{Cc}--[\t\n\x0b\x0c\r]]"
_SPACE = r"[\s--\x{85}]+"
_INVISIBLE = r"[\x{AD}\x{200B}\x{2060}\x{FEFF}]"  # soft hyphen, zero-width space, word joiner, byte order mark
_BIDI = r"[\x{61C}\x{200E}\x{200F}\x{202A}-\x{202E}\x{2066}-\x{2069}]"
_RIGHT_TO_LEFT = r"[\p{Hebrew}\p{Arabic}\p{Syriac}\p{Thaana}\p{Nko}]"


class EnglishSettings(Settings):
    """What is taken from the sources.

    Attributes:
        split: ``lines`` takes every line, row or cell as one text; ``sentences`` splits it into sentences.
        column: that holds the texts in sources with columns; None for ``text``, else ``en``, else the only one of
            strings.
        rows: how many texts to sample from what is left after all else, in equal shares of the sources; None for all.
            A source that has fewer gives them all, and the others give more.
        seed: of the sample; 64 bits.
        min_characters: shorter texts are left out. The default keeps "Help!" and "I see." and leaves out "p. 7" and
            the like, which mean nothing, or too much, alone.
        max_characters: longer texts are left out. The default, some 250 tokens, is what translation models and encoders
            read whole.
        other_language: texts are left out for which another language is so many times likelier than English; None
            leaves none out. Many names or typing errors make less than the default. Texts of fewer than 20 characters
            tell too little and stay.
        near_duplicates: texts are left out whose Jaccard index with an earlier one reaches this, from 0.5 to 1 (see
            `polyalign.translation.near_duplicates`); None leaves none out.
    """

    split: Literal["lines", "sentences"] = "lines"
    column: str | None = None
    rows: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0, lt=1 << 64)
    min_characters: int = Field(5, ge=1)
    max_characters: int = Field(1000, ge=1)
    other_language: float | None = Field(10, ge=1)
    near_duplicates: float | None = Field(0.8, ge=0.5, le=1)

    @model_validator(mode="after")
    def _some_length(self) -> Self:
        if self.min_characters > self.max_characters:
            raise ValueError(f"min_characters, {self.min_characters}, is above max_characters, {self.max_characters}")
        return self


def prepare_english(sources: Sequence[str], settings: EnglishSettings, out: Path) -> dict[str, Any]:
    """Write the English of the sources, in the order found, to ``out/00000.parquet``, ``out/00001.parquet``, ...

    The files have string columns ``row_id`` (as `polyalign.corpus.checking` makes it) and ``en``, and `ROWS_PER_CHUNK`
    rows, the last one fewer. Texts are in NFC; single spaces are their only white space. Which texts are sampled
    depends on the seed and their row ids alone. Texts lie on disk meanwhile; memory holds some 10 bytes for each.

    Args:
        sources: see `polyalign.translation.sources.open_sources`.
        settings: what to take.
        out: an empty folder. Working files there take some three times the size of the texts.

    Returns:
        The report: ``lines_read``, lines or rows of the sources; ``texts`` in them, more or fewer than those only when
        sentences are split; of these ``kept``, and ``left_out`` by reason, which add up; ``normalised``, those that
        passed the filters and were changed by normalising; ``sources``, the same for each, with its ``name``; and
        ``near_duplicates``, the first 20: a ``text`` and the one ``kept`` instead.

    Raises:
        UserError: when a source cannot be read, or no text is left.
    """
    opened = open_sources(sources, settings.column)
    with TemporaryDirectory(prefix=".", dir=out) as name, closing(TextFile(Path(name, "english"))) as texts:
        ids = Path(name, "ids")
        reports, ends = [], []
        for source in opened:
            reports.append(_filter(source, settings, texts, ids))
            ends.append(len(texts))
        verdicts = np.zeros(len(texts), np.uint8)
        _judge_duplicates(ids, verdicts)
        examples = _judge_near_duplicates(texts, settings.near_duplicates, Path(name), verdicts)
        _judge_sample(ids, ends, settings, verdicts)
        for report, some in zip(reports, np.split(verdicts, ends[:-1]), strict=True):
            counts = np.bincount(some, minlength=len(_VERDICTS)).tolist()
            report["kept"] = counts[_KEPT]
            report["left_out"].update(dict(zip(_VERDICTS[1:], counts[1:], strict=True)))
        report = _summed(reports)
        if not report["kept"]:
            counts = ", ".join(f"{count:,} {reason}" for reason, count in report["left_out"].items())
            raise UserError(f"no text is left of {report['texts']:,} in {', '.join(sources)}: {counts}")
        _write(texts, ids, verdicts == _KEPT, out)
    return {**report, "near_duplicates": examples}


def _filter(source: Source, settings: EnglishSettings, texts: TextFile, ids: Path) -> dict[str, Any]:
    """Append the good texts of a source, and their ids, to what stands there already; return the source's report."""
    report = {"lines_read": 0, "texts": 0, "normalised": 0}
    left_out: Counter[str] = Counter()
    with ids.open("ab") as stream:
        for block in source.blocks():
            found = _sentences(block.texts) if settings.split == "sentences" else block.texts
            judged = _judge(found, settings)
            good = judged.filter(pl.col("reason").is_null())
            texts.append(good["text"])
            stream.write(b"".join(map(xxh3_128_digest, good["text"].cast(pl.Binary))))
            left_out.update(block.left_out)
            left_out.update(dict(judged["reason"].drop_nulls().value_counts().iter_rows()))
            report["lines_read"] += len(block.texts) + sum(block.left_out.values())
            report["texts"] += len(found) + sum(block.left_out.values())
            report["normalised"] += int((good["found"] != good["text"]).sum())
    return {"name": source.name, **report, "left_out": left_out}


def _sentences(texts: pl.Series) -> pl.Series:
    """Return the sentences of the texts; a text without any stays as it is."""
    try:
        from sentencex import segment
    except ImportError as error:
        raise UserError("splitting sentences needs sentencex; pip install 'polyalign[translate]'") from error
    pieces = ([piece.strip() for piece in segment(ENGLISH, text or "")] for text in texts)
    return pl.Series([piece for some in pieces for piece in list(filter(None, some)) or [""]], dtype=pl.String)


def _judge(found: pl.Series, settings: EnglishSettings) -> pl.DataFrame:
    """Return what was ``found``, the ``text`` that normalising makes of it, and the ``reason`` to leave it out."""
    judged = pl.DataFrame({"found": found, "text": normalise(found.fill_null(""))})
    text, length = pl.col("text"), pl.col("text").str.len_chars()
    reasons = {
        EMPTY: length == 0,
        INVALID: text.str.contains("\ufffd", literal=True),
        CONTROL: text.str.contains(_CONTROL),
        TOO_SHORT: length < settings.min_characters,
        TOO_LONG: length > settings.max_characters,
        NO_LETTERS: ~text.str.contains(r"\p{L}"),
    }
    fulfilled = [pl.when(condition).then(pl.lit(reason)) for reason, condition in reasons.items()]
    judged = judged.with_columns(reason=pl.coalesce(fulfilled))
    if settings.other_language is not None:
        judged = _judge_language(judged, settings.other_language)
    return judged


def _judge_language(judged: pl.DataFrame, times: float) -> pl.DataFrame:
    telling = pl.col("reason").is_null() & (pl.col("text").str.len_chars() >= _TELLING)
    left = judged.with_row_index("row").filter(telling)
    other = (pl.col("language") != ENGLISH) & (pl.col("probability") >= times * pl.col("expected_probability"))
    rows = pl.concat([left.select("row"), identify(left["text"], ENGLISH)], how="horizontal").filter(other)["row"]
    return judged.with_columns(judged["reason"].scatter(rows, OTHER_LANGUAGE))


def normalise(texts: pl.Series) -> pl.Series:
    """Return texts in NFC with single spaces as their only white space, and without characters that show nothing.

    Control characters go where white space or nothing stands beside them, marks for the direction of writing where
    nothing is written from right to left. Elsewhere they stay.
    """
    texts = texts.str.replace_all(_INVISIBLE, "")
    texts = texts.str.replace_all(r"(^|\s)" + _HARMLESS, "${1}").str.replace_all(_HARMLESS + r"(\s|$)", "${1}")
    texts = texts.zip_with(texts.str.contains(_RIGHT_TO_LEFT), texts.str.replace_all(_BIDI, ""))
    return texts.str.replace_all(_SPACE, " ").str.strip_chars(" ").str.normalize("NFC")


def _judge_duplicates(ids: Path, verdicts: NDArray[np.uint8]) -> None:
    for rows, firsts in grouped(ids, _ID, verdicts == _KEPT):
        verdicts[rows[~firsts]] = _VERDICTS.index(DUPLICATE)


def _judge_near_duplicates(
    texts: TextFile, threshold: float | None, folder: Path, verdicts: NDArray[np.uint8]
) -> list[dict[str, str]]:
    """Judge, and return examples."""
    if threshold is None:
        return []
    instead = near_duplicates(texts, verdicts == _KEPT, threshold, folder)
    found = np.flatnonzero(instead >= 0)
    verdicts[found] = _VERDICTS.index(NEAR_DUPLICATE)
    return [{"text": texts[row].decode(), "kept": texts[instead[row]].decode()} for row in found[:_EXAMPLES].tolist()]


def _judge_sample(ids: Path, ends: list[int], settings: EnglishSettings, verdicts: NDArray[np.uint8]) -> None:
    """Keep those texts of each source whose hashes are the smallest."""
    if settings.rows is None:
        return
    available = [int((some == _KEPT).sum()) for some in np.split(verdicts, ends[:-1])]
    if sum(available) < settings.rows:
        logger.warning("%s texts are fewer than the %s asked for; all are kept", sum(available), settings.rows)
    shares = _shares(available, settings.rows)
    for start, end, share in zip([0, *ends], ends, shares, strict=False):
        wanted = np.zeros(len(verdicts), np.bool)
        wanted[start:end] = verdicts[start:end] == _KEPT
        smallest = np.zeros(0, np.uint64)
        for _, hashes in _hashed(ids, settings.seed, wanted):
            smallest = np.concatenate([smallest, hashes])
            if len(smallest) > 2 * share:
                smallest = np.partition(smallest, share)[:share]
        limit = int(np.sort(smallest)[share - 1]) if share else -1
        for rows, hashes in _hashed(ids, settings.seed, wanted):
            verdicts[rows[hashes > limit]] = _VERDICTS.index(NOT_SAMPLED)


def _shares(available: Sequence[int], rows: int) -> list[int]:
    """Return how many rows each source gives: equally many, unless it has fewer; the first ones take odd rows."""
    shares = [0] * len(available)
    for served, source in enumerate(sorted(range(len(available)), key=lambda source: (available[source], -source))):
        shares[source] = min(available[source], rows // (len(available) - served))
        rows -= shares[source]
    return shares


def _hashed(ids: Path, seed: int, wanted: NDArray[np.bool]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint64]]]:
    """Yield wanted rows, and the hash of the seed and the row id of each."""
    for first, keys in read_keys(ids, _ID):
        chosen = np.flatnonzero(wanted[first : first + len(keys)])
        hashes = [xxh3_64_intdigest(key.tobytes(), seed) for key in keys[chosen]]
        yield first + chosen, np.array(hashes, np.uint64)


def _summed(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the report on all sources together."""
    left_out: Counter[str] = Counter()
    for report in reports:
        left_out.update(report["left_out"])
        report["left_out"] = _sorted(report["left_out"])
    numbers = {key: sum(report[key] for report in reports) for key in ("lines_read", "texts", "kept", "normalised")}
    return {**numbers, "left_out": _sorted(left_out), "sources": reports}


def _sorted(left_out: Counter[str]) -> dict[str, int]:
    return {reason: count for reason, count in sorted(left_out.items()) if count}


def _write(texts: TextFile, ids: Path, kept: NDArray[np.bool], out: Path) -> None:
    chunks = 0
    waiting = pl.DataFrame(schema={ROW_ID: pl.String, ENGLISH: pl.String})
    for (first, block), (_, keys) in zip(texts.blocks(), read_keys(ids, _ID), strict=True):
        digits = keys.tobytes().hex()
        row_ids = pl.Series([digits[start : start + 32] for start in range(0, len(digits), 32)])
        rows = pl.DataFrame({ROW_ID: row_ids, ENGLISH: block}).filter(kept[first : first + len(block)])
        waiting = pl.concat([waiting, rows])
        while len(waiting) >= ROWS_PER_CHUNK or (len(waiting) and first + len(block) == len(texts)):
            waiting.head(ROWS_PER_CHUNK).write_parquet(out / f"{chunks:05d}.parquet")
            waiting = waiting.slice(ROWS_PER_CHUNK)
            chunks += 1
