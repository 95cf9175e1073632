"""Cells in the making: one row a translation, with where it came from and what was measured of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from polyalign.corpus.columns import ENGLISH, ROW_ID
from polyalign.corpus.measuring import FEATURES, measure
from polyalign.corpus.verdicts import LENGTH, OK, LengthRange, VerdictSettings, judge, length_range
from polyalign.translation.engines.contract import Translation

NOT_TRANSLATED = "not translated"
"""The verdict, and the error, on a cell that only a translation memory was asked for, which does not know it."""

SCHEMA: dict[str, type[pl.DataType]] = {
    ROW_ID: pl.String,
    "lang": pl.String,
    "text": pl.String,
    "source": pl.String,
    "score": pl.Float32,
    "truncated": pl.Boolean,
    "unknown": pl.UInt32,
    "error": pl.String,
    **FEATURES,
}
"""The columns of cells before they are judged; ``source`` is the key of a `Provenance`."""

Answered = Mapping[str, tuple[str, Translation]]
"""English text -> key of the provenance, translation."""


def make_cells(english: pl.DataFrame, language: str, answered: Answered) -> pl.DataFrame:
    """Return the cells of one language of a chunk, measured, in the order of ``english``.

    Args:
        english: ``row_id`` and ``en``.
        language: canonical tag.
        answered: the translations; texts that are missing become cells with an error.
    """
    missing = (None, Translation(text="", error=NOT_TRANSLATED))
    found: Sequence[tuple[str | None, Translation]] = [answered.get(text, missing) for text in english[ENGLISH]]
    texts = pl.Series("text", [translation.text for _, translation in found], dtype=pl.String)
    cells = english.select(ROW_ID).with_columns(
        pl.lit(language).alias("lang"),
        _normalised(texts),
        pl.Series("source", [key for key, _ in found], dtype=pl.String),
        pl.Series("score", [translation.score for _, translation in found], dtype=pl.Float32),
        pl.Series("truncated", [translation.truncated for _, translation in found], dtype=pl.Boolean),
        pl.Series("unknown", [translation.unknown for _, translation in found], dtype=pl.UInt32),
        pl.Series("error", [translation.error for _, translation in found], dtype=pl.String),
    )
    return cells.hstack(measure(english[ENGLISH], cells["text"], language)).select(*SCHEMA)


def judge_cells(cells: pl.DataFrame, settings: VerdictSettings, range_: LengthRange) -> pl.Series:
    """Return the verdicts of `polyalign.corpus.verdicts.judge`, or `NOT_TRANSLATED`."""
    verdict = pl.when(pl.col("error") == NOT_TRANSLATED).then(pl.lit(NOT_TRANSLATED)).otherwise("verdict")
    return cells.with_columns(judge(cells, settings, range_).alias("verdict")).select(verdict.alias("verdict"))[
        "verdict"
    ]


def usual_length(cells: pl.DataFrame, settings: VerdictSettings) -> LengthRange:
    """Return the usual length ratio of one language's cells, from those that nothing else is wrong with.

    A bad engine would otherwise widen its own range.
    """
    anything = LengthRange(centre=0.0, spread=1.0)  # not looked at
    others = settings.model_copy(update={"ignored": (*settings.ignored, LENGTH)})
    return length_range(cells.filter(judge(cells, others, anything) == OK)["length_ratio"])


def _normalised(texts: pl.Series) -> pl.Series:
    """Return texts in NFC with single spaces; an empty one becomes null."""
    plain = texts.str.normalize("NFC").str.replace_all(r"\s+", " ").str.strip_chars()
    return plain.to_frame().select(pl.when(pl.col("text") != "").then(pl.col("text"))).to_series()


def write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Write a file that appears whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    frame.write_parquet(partial)
    partial.replace(path)
