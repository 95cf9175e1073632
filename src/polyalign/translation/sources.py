"""Sources of English, block by block and as found: files, folders of files and `datasets`.

A reader judges lines and rows (too long, damaged); `polyalign.translation.english` judges the texts.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import logging
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from polyalign.corpus.opening import open_binary, plain_suffix
from polyalign.corpus.readers import DATASETS, is_dataset
from polyalign.errors import UserError, nearest

logger = logging.getLogger(__name__)

SAMPLE = "sample"
DAMAGED = "damaged row"
LONGEST_LINE = 1_000_000  # characters
LONG_LINE = f"line over {LONGEST_LINE:,} characters"

_BYTES_AT_ONCE = 1 << 20
_ROWS_AT_ONCE = 1 << 13
_USUAL_COLUMNS = ("text", "en")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class Block:
    """Lines or rows that were read together.

    Attributes:
        texts: strings as they were found, null where a row has none.
        left_out: numbers of lines and rows that gave no text, by reason.
    """

    texts: pl.Series
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Source:
    """What one item on the command line stands for.

    Attributes:
        name: as it was given.
        readers: of its files, in order; each call reads a file from its start.
    """

    name: str
    readers: Sequence[Callable[[], Iterator[Block]]]

    def blocks(self) -> Iterator[Block]:
        """Yield all blocks.

        Raises:
            UserError: when a file turns out to be damaged so that nothing behind that place can be read.
        """
        for reader in self.readers:
            yield from reader()


def open_sources(names: Sequence[str], column: str | None) -> list[Source]:
    """Find the sources and read the start of every file.

    Args:
        names: each of them a text file, one text a line; a ``.jsonl``, ``.csv``, ``.tsv`` or ``.parquet`` file with a
            column of texts; a folder, for all files of these formats in it and its folders, sorted by path; an id on
            the Hugging Face Hub, ``org/name``, or ``datasets:ID_OR_FOLDER[:CONFIG[:SPLIT]]``, by default split "train";
            or ``sample``, the English that comes with polyalign. Files but Parquet may be compressed (``.gz``,
            ``.zst``). Text is UTF-8, or UTF-16 after a byte order mark; a file of another suffix is text.
        column: the one that holds the texts; None for ``text``, else ``en``, else the only one of strings.

    Raises:
        UserError: when sources are missing or empty, or lack the column; all problems at once.
    """
    sources, problems = [], []
    if not names:
        problems.append(f"got no source of English; give a file, a folder, a datasets id or {SAMPLE!r}")
    for name in names:
        try:
            source = Source(name=name, readers=_readers(name, column))
            starts = [next(reader(), None) for reader in source.readers]
            if not any(starts):
                raise UserError(f"{name} is empty; leave it out or give another source")
            sources.append(source)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("; ".join(problems))
    return sources


def _readers(name: str, column: str | None) -> list[Callable[[], Iterator[Block]]]:
    if is_dataset(name, FORMATS):
        return [partial(_read_dataset, name.removeprefix(DATASETS), column)]
    path = Path(str(resources.files("polyalign") / "sample" / "english.txt")) if name == SAMPLE else Path(name)
    if not path.exists():
        raise UserError(f"no such file: {name}")
    files = _files_in(path) if path.is_dir() else [path]
    return [partial(FORMATS.get(plain_suffix(file), _read_text), file, column) for file in files]


def _files_in(folder: Path) -> list[Path]:
    """Return the files of known formats, without those that are hidden or in hidden folders."""
    inside = [file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.is_file()]
    shown = [file for file in inside if not any(part.startswith(".") for part in file.parts)]
    files = [folder / file for file in shown if plain_suffix(file) in FORMATS]
    if not files:
        raise UserError(f"{folder} holds no {', '.join(FORMATS)} file; give each file of another name by itself")
    return files


class _Flaw(NamedTuple):
    """Why a line or row gives no text."""

    reason: str
    detail: str


def _read_text(path: Path, _: str | None) -> Iterator[Block]:
    """Read one text a line; a text file has no columns."""
    return _blocks(path, "line", _lines(path))


def _read_jsonl(path: Path, column: str | None) -> Iterator[Block]:
    return _blocks(path, "line", _json_texts(path, column))


def _read_delimited(path: Path, column: str | None, **dialect: Any) -> Iterator[Block]:
    """Read CSV (RFC 4180 quoting) or TSV (no quoting)."""
    return _blocks(path, "row", _cells(path, column, **dialect))


def _read_dataset(spec: str, column: str | None) -> Iterator[Block]:
    return _blocks(spec, "row", _dataset_texts(spec, column))


def _read_parquet(path: Path, column: str | None) -> Iterator[Block]:
    if path.suffix.lower() != ".parquet":
        raise UserError(f"{path}: Parquet is compressed inside; decompress the file itself")
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=_BYTES_AT_ONCE) as file:
            chosen = _chosen({field.name: _holds_strings(field.type) for field in file.schema_arrow}, column, path)
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=[chosen]) if file.metadata.num_rows else ():
                yield Block(texts=_decoded(batch.column(0)))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path} is not a whole Parquet file ({_line_of(error)}); is it cut short?") from error


def _blocks(path: Path | str, unit: str, found: Iterator[Sequence[str | _Flaw | None]]) -> Iterator[Block]:
    """Yield what was found as blocks; in the end, say where the first flaw was."""
    flaws: Counter[str] = Counter()
    first, read = "", 0
    for values in found:
        left_out = Counter(value.reason for value in values if isinstance(value, _Flaw))
        if left_out and not flaws:
            number, flaw = next((n, value) for n, value in enumerate(values, read + 1) if isinstance(value, _Flaw))
            first = f"{unit} {number:,} ({flaw.detail})"
        flaws += left_out
        read += len(values)
        yield Block(texts=_series([value for value in values if not isinstance(value, _Flaw)]), left_out=left_out)
    if flaws:
        counts = ", ".join(f"{count:,} x {reason}" for reason, count in flaws.items())
        logger.warning("%s: left out %s; the first is %s", path, counts, first)


def _series(texts: list[str | None]) -> pl.Series:
    try:
        return pl.Series(texts, dtype=pl.String)
    except UnicodeEncodeError:  # JSON can escape half a surrogate pair, which no UTF-8 text can hold
        return pl.Series([text and _LONE_SURROGATE.sub("\ufffd", text) for text in texts], dtype=pl.String)


def _lines(path: Path) -> Iterator[list[str | _Flaw]]:
    """Yield the lines; invalid bytes become U+FFFD, and a line that is too long is never held as a whole."""
    rest = ""
    with open_binary(path) as stream:
        data = stream.read(_BYTES_AT_ONCE)
        utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        decoder = codecs.getincrementaldecoder("utf-16" if utf16 else "utf-8-sig")("replace")
        decode = io.IncrementalNewlineDecoder(decoder, translate=True).decode
        while data:
            *lines, rest = (rest + decode(data)).split("\n")
            rest = rest[: LONGEST_LINE + 1]
            if lines:
                yield [_line(line) for line in lines]
            data = stream.read(_BYTES_AT_ONCE)
        *lines, rest = (rest + decode(b"", final=True)).split("\n")
    lines += [rest] if rest else []
    if lines:
        yield [_line(line) for line in lines]


def _line(line: str) -> str | _Flaw:
    return line if len(line) <= LONGEST_LINE else _Flaw(LONG_LINE, "too long to be read")


def _json_texts(path: Path, column: str | None) -> Iterator[list[str | _Flaw | None]]:
    chosen = None
    for lines in _lines(path):
        records = [line if isinstance(line, _Flaw) else _record(line) for line in lines]
        if chosen is None:
            chosen = _chosen(_columns(record for record in records if isinstance(record, dict)), column, path)
        yield [record if isinstance(record, _Flaw) else _text_of(record.get(chosen)) for record in records]


def _record(line: str) -> dict[str, Any] | _Flaw:
    """Return the object of a line; a blank line is a row without text."""
    try:
        record = json.loads(line) if line.strip() else {}
    except (ValueError, RecursionError) as error:
        return _Flaw(DAMAGED, f"not JSON: {error}")
    return record if isinstance(record, dict) else _Flaw(DAMAGED, f"a {type(record).__name__}, not an object")


def _columns(records: Iterable[Mapping[str, Any]]) -> dict[str, bool]:
    """Return the keys, and whether each has a string."""
    columns: dict[str, bool] = {}
    for record in records:
        for key, value in record.items():
            columns[key] = columns.get(key, False) or isinstance(value, str)
    return columns


def _text_of(value: Any) -> str | _Flaw | None:
    return value if isinstance(value, str | None) else _Flaw(DAMAGED, f"a {type(value).__name__}, not text")


def _cells(path: Path, column: str | None, **dialect: Any) -> Iterator[list[str | _Flaw | None]]:
    rows = _rows(chain.from_iterable(_lines(path)), dialect)
    header = next(rows, None)
    if header is None:
        return
    if isinstance(header, _Flaw):
        raise UserError(f"{path}: the header is damaged ({header.detail}); mend its first line")
    names = [name.strip() for name in header]
    chosen = _chosen(dict.fromkeys(names, True), column, path)
    if names.count(chosen) > 1:
        raise UserError(f"{path}: column {chosen!r} stands twice in the header; rename or remove one")
    place = names.index(chosen)
    while some := list(islice(rows, _ROWS_AT_ONCE)):
        yield [row if isinstance(row, _Flaw) else row[place] if row else None for row in some]


def _rows(lines: Iterator[str | _Flaw], dialect: Mapping[str, Any]) -> Iterator[list[str] | _Flaw]:
    """Yield the rows, all as wide as the first; a blank line is a row without fields.

    A quote that is never closed would swallow the rows behind it. So after a damaged row reading goes on with its
    second line.
    """
    feed = _Feed(lines)
    reader = csv.reader(feed, strict=True, **dialect)
    width = None
    while True:
        feed.taken.clear()
        row: list[str] | _Flaw
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            row = feed.taken[0] if isinstance(feed.taken[0], _Flaw) else _Flaw(DAMAGED, str(error))
        if isinstance(row, list) and row and width not in (None, len(row)):
            row = _Flaw(DAMAGED, f"{len(row)} fields where the header has {width}")
        if isinstance(row, _Flaw):
            feed.waiting.extendleft(reversed(feed.taken[1:]))
        elif width is None:
            width = len(row)
        yield row


class _Feed:
    """Lines for the csv module, which raises what is raised here.

    Attributes:
        taken: lines given out, for whoever clears it to look at.
        waiting: lines to give out before all others.
    """

    def __init__(self, lines: Iterator[str | _Flaw]) -> None:
        self.taken: list[str | _Flaw] = []
        self.waiting: deque[str | _Flaw] = deque()
        self._lines = lines

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = self.waiting.popleft() if self.waiting else next(self._lines)
        self.taken.append(line)
        if isinstance(line, _Flaw):
            raise csv.Error(line.detail)
        return line + "\n"


def _holds_strings(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _decoded(texts: pa.Array) -> pl.Series:
    """Return the strings; Parquet may hold invalid UTF-8, which becomes U+FFFD."""
    encoded = pl.Series(texts.cast(pa.large_binary()), dtype=pl.Binary)
    try:
        return encoded.cast(pl.String)
    except pl.exceptions.ComputeError:
        return pl.Series([text and text.decode(errors="replace") for text in encoded], dtype=pl.String)


def _dataset_texts(spec: str, column: str | None) -> Iterator[list[str | _Flaw | None]]:
    path, config, split = (*spec.split(":", 2), "", "")[:3]
    try:
        import datasets

        rows = datasets.load_dataset(path, config or None, split=split or "train", streaming=True)
        chosen = _chosen(_columns(rows.take(100)), column, path)
        for batch in rows.select_columns([chosen]).iter(_ROWS_AT_ONCE):
            yield [_text_of(value) for value in batch[chosen]]
    except UserError:
        raise
    except Exception as error:  # the library, its readers and the network raise what they like
        nowhere = "" if Path(path).exists() else f"no file or folder {path!r}, and "
        raise UserError(
            f"{nowhere}cannot read the dataset {path!r} ({_line_of(error)}); check {DATASETS}ID:CONFIG:SPLIT, or "
            f"download it elsewhere and give the folder as {DATASETS}FOLDER"
        ) from error


def _chosen(columns: Mapping[str, bool], wanted: str | None, where: Path | str) -> str:
    """Return the column to read, of those given with whether they hold text."""
    texts = [column for column, has_text in columns.items() if has_text]
    usual = [column for column in _USUAL_COLUMNS if column in texts]
    if wanted is None and (usual or len(texts) == 1):
        return (usual or texts)[0]
    if wanted in texts:
        return wanted
    has = f"its columns of text are {', '.join(map(repr, texts))}" if texts else "it has no column of text"
    if wanted is None:
        raise UserError(f"{where}: cannot tell which column is the English; {has}; name one (--column NAME)")
    raise UserError(f"{where}: no text in a column {wanted!r}{nearest(wanted, texts)}; {has}")


def _line_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


FORMATS: dict[str, Callable[[Path, str | None], Iterator[Block]]] = {
    ".txt": _read_text,
    ".jsonl": _read_jsonl,
    ".csv": _read_delimited,
    ".tsv": partial(_read_delimited, delimiter="\t", quoting=csv.QUOTE_NONE),
    ".parquet": _read_parquet,
}
