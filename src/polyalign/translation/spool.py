"""Columns on disk, for work on more rows than memory should hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

ROWS_AT_ONCE = 1 << 15
_ROWS_PER_PART = 1 << 20  # that `grouped` sorts in memory at once


class TextFile:
    """A column of texts on disk, in the order in which they were appended; the last call may leave it open.

    Args:
        path: where to put it; two files are made, with suffixes of their own.
    """

    def __init__(self, path: Path) -> None:
        self._rows = self._bytes = 0
        self._texts = path.with_suffix(".texts").open("w+b")
        self._starts = path.with_suffix(".starts").open("w+b")
        self._starts.write(bytes(8))

    def __len__(self) -> int:
        return self._rows

    def append(self, texts: pl.Series) -> None:
        """Append strings, none of them null; not after the first reading."""
        encoded = list(texts.cast(pl.Binary))
        ends = self._bytes + np.cumsum([len(text) for text in encoded], dtype=np.int64)
        self._texts.write(b"".join(encoded))
        self._starts.write(ends.tobytes())
        self._rows += len(encoded)
        self._bytes = int(ends[-1]) if len(ends) else self._bytes

    def __getitem__(self, row: int) -> bytes:
        """Return the UTF-8 of one text."""
        start, end = self._bounds(row, 1)
        self._texts.seek(start)
        return self._texts.read(end - start)

    def blocks(self) -> Iterator[tuple[int, pl.Series]]:
        """Yield the texts, `ROWS_AT_ONCE` at a time, with the number of the first row."""
        for first in range(0, self._rows, ROWS_AT_ONCE):
            bounds = self._bounds(first, min(ROWS_AT_ONCE, self._rows - first))
            self._texts.seek(bounds[0])
            texts = pa.py_buffer(self._texts.read(bounds[-1] - bounds[0]))
            starts = pa.py_buffer(bounds - bounds[0])
            yield first, pl.Series(pa.LargeStringArray.from_buffers(len(bounds) - 1, starts, texts))

    def _bounds(self, first: int, rows: int) -> NDArray[np.int64]:
        self._starts.seek(8 * first)
        return np.frombuffer(self._starts.read(8 * (rows + 1)), np.int64)

    def close(self) -> None:
        """Close the files, which stay."""
        self._texts.close()
        self._starts.close()


def read_keys(path: Path, dtype: DTypeLike) -> Iterator[tuple[int, NDArray[np.unsignedinteger]]]:
    """Yield the keys of a file, `ROWS_AT_ONCE` at a time, with the number of the first row.

    Args:
        path: a file of unsigned integers, written row by row.
        dtype: of a row, such as ``("<u8", 2)``: two numbers a row, which make [rows, 2].
    """
    first = 0
    row = np.dtype(dtype)
    while len(keys := np.fromfile(path, row, ROWS_AT_ONCE, offset=first * row.itemsize)):
        yield first, keys
        first += len(keys)


def grouped(
    path: Path, dtype: DTypeLike, wanted: NDArray[np.bool]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool]]]:
    """Yield the rows that share a key with another one, in parts that fit into memory; equal keys come together.

    Args:
        path: the keys, one a row of ``wanted``, as for `read_keys`.
        dtype: of a row.
        wanted: [rows], which rows to look at.

    Yields:
        Row numbers, sorted by key and then by number, and whether each is the first of its key.
    """
    parts = -(-len(wanted) // _ROWS_PER_PART)
    for part in range(parts):
        rows, keys = [], []
        for first, block in read_keys(path, dtype):
            block = block.reshape(len(block), -1)
            chosen = np.flatnonzero(wanted[first : first + len(block)] & (block[:, 0] % parts == part))
            rows.append(first + chosen)
            keys.append(block[chosen])
        yield _sorted(np.concatenate(rows), np.concatenate(keys))


def _sorted(rows: NDArray[np.int64], keys: NDArray[np.unsignedinteger]) -> tuple[NDArray[np.int64], NDArray[np.bool]]:
    order = np.lexsort(keys.T)  # stable
    rows, keys = rows[order], keys[order]
    differs = np.any(keys[1:] != keys[:-1], axis=1)
    starts = np.concatenate([[True], differs])[: len(rows)]
    shared = ~(starts & np.concatenate([starts[1:], [True]])[: len(rows)])
    return rows[shared], starts[shared]
