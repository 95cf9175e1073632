"""Verdicts on cells and rows: what is kept, and the reason for what is not."""

from __future__ import annotations

from collections import Counter
from typing import Any

import polars as pl
from xxhash import xxh3_128_hexdigest

from polyalign.corpus.columns import ENGLISH, ROW_ID

EMPTY = "empty"
CONTROL = "control characters"
INVALID = "invalid utf-8"
NO_TEXT = "no text"
ONE_LANGUAGE = "one language only"

CONTROL_PATTERN = r"[\p{Cc}--[\n\t]]"
# U+FFFD is what a decoder leaves where it met invalid bytes. Between quotes or other marks ("``\ufffd``") a text speaks
# of the character itself; beside a letter, a space, an end of the text or another U+FFFD something was lost.
INVALID_PATTERN = r"(^|[^\p{P}\p{S}]|\x{FFFD})\x{FFFD}|\x{FFFD}($|[^\p{P}\p{S}])"


def check(raw: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Clean the cells, drop the rows with fewer than two languages, merge the rows of one English text.

    A cell is brought to NFC, its line breaks to line feeds, and loses its outer white space. It becomes null when then
    it is empty, or holds control characters other than line feed and tab, or signs of invalid UTF-8.

    Rows with the same English (without English: with the same text in the language first by name of those present) are
    one row, standing where the first of them stood, with the first text met of each language.

    Args:
        raw: one string column per canonical tag; a column ``row_id`` gives the ids of rows that have one already.

    Returns:
        The rows, with ``row_id``, then English if there, then the other languages in the order of ``raw``; and the
        report: ``rows_read`` = ``rows_kept`` + ``merged_duplicates`` + the sum of ``dropped`` (rows by reason),
        ``cells`` (rejected cells by reason) and ``normalised`` (cells kept whose text was changed by normalising).
    """
    tags = sorted((tag for tag in raw.columns if tag != ROW_ID), key=lambda tag: tag != ENGLISH)
    cells: Counter[str] = Counter()
    normalised = 0
    texts = []
    for tag in tags:
        judged = _judge(raw[tag])
        cells.update(dict(judged["verdict"].drop_nulls().value_counts().iter_rows()))
        kept = judged.select(pl.when(pl.col("verdict").is_null()).then("text")).to_series()
        normalised += int((kept != raw[tag]).sum())
        texts.append(kept.alias(tag))
    cleaned = pl.DataFrame(texts)
    present = cleaned.select(pl.sum_horizontal(pl.all().is_not_null())).to_series()
    rows = cleaned.with_columns(raw.select(ROW_ID) if ROW_ID in raw.columns else pl.lit(None, pl.String).alias(ROW_ID))
    rows = _with_row_ids(rows.filter(present >= 2), tags)
    merged = rows.group_by(ROW_ID, maintain_order=True).agg(pl.col(tags).first(ignore_nulls=True))
    dropped = {NO_TEXT: (present == 0).sum(), ONE_LANGUAGE: (present == 1).sum()}
    return merged, {
        "rows_read": len(raw),
        "rows_kept": len(merged),
        "merged_duplicates": len(rows) - len(merged),
        "dropped": {reason: count for reason, count in dropped.items() if count},
        "cells": dict(sorted(cells.items())),
        "normalised": normalised,
    }


def _judge(raw: pl.Series) -> pl.DataFrame:
    """Return ``text``, the normalised cells, and ``verdict``, the reason to reject each or null."""
    text = raw.str.normalize("NFC").str.replace_all("\r\n", "\n", literal=True).str.strip_chars().alias("text")
    return text.to_frame().with_columns(
        verdict=pl.when(pl.col("text") == "")
        .then(pl.lit(EMPTY))
        .when(pl.col("text").str.contains(CONTROL_PATTERN))
        .then(pl.lit(CONTROL))
        .when(pl.col("text").str.contains(INVALID_PATTERN))
        .then(pl.lit(INVALID))
    )


def _with_row_ids(rows: pl.DataFrame, tags: list[str]) -> pl.DataFrame:
    """Fill missing row ids: xxh3-128 hashes of the row's English, else of its first tag, by name, and that text."""
    # Texts hold no U+001F, so that no English text equals another language's tag and text.
    keys = [pl.lit(f"{tag}\x1f") + pl.col(tag) for tag in sorted(tags) if tag != ENGLISH]
    if ENGLISH in tags:
        keys.insert(0, pl.col(ENGLISH))
    texts = rows.select(pl.coalesce(keys)).to_series()
    hashes = pl.Series(map(xxh3_128_hexdigest, texts.cast(pl.Binary)), dtype=pl.String)
    return rows.select(pl.coalesce(ROW_ID, hashes).alias(ROW_ID), *tags)
