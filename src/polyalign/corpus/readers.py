"""Readers of other people's formats: each gives a table of strings, one column a language, cells as they were found.

Translation files (TMX, PO, XLIFF) have readers of their own, which leave out what is no translation, and count it.

A reader judges the file (is it there, whole, UTF-8, of equal widths), `polyalign.corpus.columns` the columns, and
`polyalign.corpus.checking` the cells and rows.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from codecs import BOM_UTF8
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from polyalign.corpus.columns import text_columns
from polyalign.corpus.opening import open_binary, plain_path, plain_suffix
from polyalign.corpus.po import read_po
from polyalign.corpus.tmx import read_tmx
from polyalign.corpus.units import Markup, Read
from polyalign.corpus.xliff import read_xliff
from polyalign.errors import UserError

DATASETS = "datasets:"
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(:[^:/]*){0,2}")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def read_texts(source: str | Path, languages: Sequence[str] | None = None) -> pl.DataFrame:
    """Return the table of `read_source`: one string column per language, named by canonical tag."""
    return read_source(source, languages).table


def read_source(source: str | Path, languages: Sequence[str] | None = None, markup: Markup | None = None) -> Read:
    """Read a file or a `datasets` id.

    Args:
        source: a ``.parquet``, ``.csv``, ``.tsv`` or ``.jsonl`` file whose columns are language codes; a ``.tmx``,
            ``.po``, ``.pot``, ``.xlf`` or ``.xliff`` file; any of these but Parquet with ``.gz`` or ``.zst`` behind;
            an id on the Hugging Face Hub, ``org/name``; or ``datasets:ID_OR_FOLDER[:CONFIG[:SPLIT]]``, by default
            split "train".
        languages: see `polyalign.corpus.columns.text_columns`, and the readers of translation files.
        markup: what becomes of inline tags in translation files, "strip" or "keep"; None for what is usual: "strip" for
            TMX and XLIFF, "keep" for PO.

    Raises:
        UserError: when the source is missing, damaged, cut short, of an unknown format or has unfit columns.
    """
    path = Path(source)
    if is_dataset(str(source), FORMATS):
        return Read(text_columns(_read_dataset(str(source).removeprefix(DATASETS)), languages, str(source)))
    suffix = plain_suffix(path)
    if not path.is_file():
        raise UserError(f"no such file: {source}")
    if suffix not in FORMATS or (suffix == ".parquet" and plain_path(path) != path):
        allowed = f"{', '.join(FORMATS)}, all but Parquet also with .gz or .zst behind"
        moses = "or all sides of Moses line pairs together, as in x.en x.de"
        raise UserError(f"{source} has an unknown format; allowed are {allowed}, {moses}")
    if suffix in _TRANSLATION_FILES:
        return _TRANSLATION_FILES[suffix](path, languages, markup)
    return Read(text_columns(_TABLES[suffix](path), languages, str(source)))


def read_moses(paths: Sequence[Path], languages: Sequence[str] | None = None) -> pl.DataFrame:
    """Read Moses line pairs: plain text files ``x.en x.de ...`` whose n-th lines mean the same.

    Raises:
        UserError: when the files have unequal numbers of lines, or their suffixes are not different language codes.
    """
    sides = {plain_path(path).suffix[1:]: _lines(path) for path in paths}
    if len(sides) < len(paths):
        raise UserError(f"line pairs need one file a language, but got {', '.join(map(str, paths))}")
    if len({len(lines) for lines in sides.values()}) > 1:
        counts = ", ".join(f"{path} has {len(lines)}" for path, lines in zip(paths, sides.values(), strict=True))
        raise UserError(f"line pairs need equal numbers of lines, but {counts}; is a file cut short?")
    return text_columns(pl.DataFrame(sides), languages, " ".join(map(str, paths)))


def _read_parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{path} is not a whole Parquet file ({_line_of(error)}); is it cut short?") from error


def _read_delimited(path: Path, **dialect: Any) -> pl.DataFrame:
    """Read CSV (RFC 4180 quoting) or TSV (no quoting); every row has as many fields as the header."""
    csv.field_size_limit(sys.maxsize)  # a long text is no fault of the file
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True, **dialect)
    rows = []
    first_line = 1  # of the current row: a quoted cell may span lines
    try:
        header = next(reader, [])
        if twice := [column for column in header if header.count(column) > 1]:
            raise UserError(f"{path}: column {twice[0]!r} stands twice in the header; rename or remove one")
        first_line = reader.line_num + 1
        for fields in reader:
            if fields and len(fields) != len(header):
                found = f"{len(fields)} field{'s' if len(fields) > 1 else ''} where the header has {len(header)}"
                raise UserError(f"{path}, line {first_line}: {found}; mend the line (is the file cut short?)")
            rows.append(fields or [""] * len(header))  # a blank line is a row without text, and counted as one
            first_line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, row at line {first_line}: {error}; mend its quotes (is the file cut?)") from error
    return pl.DataFrame(rows, schema=dict.fromkeys(header, pl.String), orient="row")


def _read_jsonl(path: Path) -> pl.DataFrame:
    records = [_record(path, number, line) for number, line in enumerate(_lines(path), 1)]
    columns = dict.fromkeys(column for record in records for column in record)
    return pl.DataFrame([_json_column(column, [record.get(column) for record in records]) for column in columns])


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    """Return a line's object, or its ``translation`` where it holds one; a blank line is a row without text."""
    try:
        record = json.loads(line) if line.strip() else {}
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}, line {number}: not JSON ({error}); is the file cut short?") from error
    if not isinstance(record, dict):
        raise UserError(f"{path}, line {number}: a {type(record).__name__}, not an object of language codes and texts")
    translation = record.get("translation")
    found = translation if isinstance(translation, dict) else record
    if damaged := next(filter(_LONE_SURROGATE.search, found), None):
        raise UserError(f"{path}, line {number}: the key {damaged!r} is no language code, nor text")
    return found


def _json_column(column: str, values: list[Any]) -> pl.Series:
    """Return a string column, or one of dtype Object when a value is no string."""
    if not all(isinstance(value, str | None) for value in values):
        return pl.Series(column, values, dtype=pl.Object)
    try:
        return pl.Series(column, values, dtype=pl.String)
    except UnicodeEncodeError:  # JSON can escape half a surrogate pair, which no UTF-8 text can hold
        damaged = [value and _LONE_SURROGATE.sub("\ufffd\ufffd", value) for value in values]
        return pl.Series(column, damaged, dtype=pl.String)


def is_dataset(source: str, suffixes: Collection[str]) -> bool:
    """Return whether ``source`` names a dataset: by its prefix, or as ``org/name`` where nothing local looks like it.

    Args:
        source: what the user gave.
        suffixes: those of files that can be read instead.
    """
    if source.startswith(DATASETS):
        return True
    local = Path(source).parent.exists() or plain_suffix(Path(source)) in suffixes
    return not local and _HUB_ID.fullmatch(source) is not None


def _read_dataset(spec: str) -> pl.DataFrame:
    import datasets

    path, config, split = (*spec.split(":", 2), "", "")[:3]
    try:
        table = datasets.load_dataset(path, config or None, split=split or "train").to_polars()
    except Exception as error:  # the library, its scripts and the network raise what they like
        nowhere = "" if Path(path).exists() else f"no file or folder {path!r}, and "
        raise UserError(
            f"{nowhere}cannot load the dataset {path!r} ({_line_of(error)}); check {DATASETS}ID:CONFIG:SPLIT, or "
            f"download it elsewhere and give the folder as {DATASETS}FOLDER"
        ) from error
    assert isinstance(table, pl.DataFrame)
    return table


def _text(path: Path) -> str:
    with open_binary(path) as stream:
        content = stream.read()
    try:
        return content.removeprefix(BOM_UTF8).decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise UserError(
            f"{path}, line {line}: not UTF-8 (byte 0x{byte:02x}, {error.reason}); save it as UTF-8"
        ) from error


def _lines(path: Path) -> list[str]:
    """Return the lines, cut at line feeds alone: U+2028 and the like may stand inside a text."""
    lines = _text(path).split("\n")
    return lines if lines[-1] else lines[:-1]


def _line_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


_TABLES: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".parquet": _read_parquet,
    ".csv": _read_delimited,
    ".tsv": partial(_read_delimited, delimiter="\t", quoting=csv.QUOTE_NONE),
    ".jsonl": _read_jsonl,
}
_TRANSLATION_FILES: dict[str, Callable[[Path, Sequence[str] | None, Markup | None], Read]] = {
    ".tmx": read_tmx,
    ".po": read_po,
    ".pot": read_po,
    ".xlf": read_xliff,
    ".xliff": read_xliff,
}
FORMATS = (*_TABLES, *_TRANSLATION_FILES)
"""Suffixes of the files that `read_source` reads."""
