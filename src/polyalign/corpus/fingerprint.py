"""The fingerprint of rows: what they hold, not how they are ordered, cut into files or encoded."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from xxhash import xxh3_128_hexdigest, xxh3_128_intdigest

from polyalign.corpus.columns import ROW_ID

_BITS = 128


class RowsFingerprint:
    """The sum, modulo 2^128, of the xxh3-128 hashes of rows, so that rows may come in blocks and in any order.

    Args:
        languages: the tags of the corpus, in any order.
    """

    def __init__(self, languages: Sequence[str]) -> None:
        self._tags = sorted(languages)
        self._sum = 0

    def update(self, rows: pl.DataFrame) -> None:
        """Take in rows: ``row_id`` and a nullable string column per language."""
        framed = rows.select(pl.concat_str([_netstring(pl.col(column)) for column in (ROW_ID, *self._tags)]))
        self._sum += sum(map(xxh3_128_intdigest, framed.to_series().cast(pl.Binary)))

    def hexdigest(self) -> str:
        """Return the hash of the tags and the rows so far, 32 hex digits."""
        tags = "".join(f"{tag}\n" for tag in self._tags).encode()
        return xxh3_128_hexdigest(tags + (self._sum % (1 << _BITS)).to_bytes(_BITS // 8, "big"))


def _netstring(texts: pl.Expr) -> pl.Expr:
    """Frame texts as ``bytes:text`` and nulls as ``-``, so that no two rows of texts join to the same string."""
    return pl.concat_str(texts.str.len_bytes().cast(pl.String), pl.lit(":"), texts).fill_null("-")
