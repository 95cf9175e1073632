"""The last step of a build: judge all cells, put rows together, write the corpus folder with its card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from pyarrow.parquet import ParquetWriter

from polyalign.corpus.columns import ENGLISH, ROW_ID
from polyalign.corpus.corpus import FORMAT, KIND, ROWS_PER_FILE
from polyalign.corpus.decontamination import IN_EVALUATION, Decontaminator
from polyalign.corpus.fingerprint import RowsFingerprint
from polyalign.corpus.verdicts import OK, LengthRange
from polyalign.errors import UserError
from polyalign.identification import identifier_version
from polyalign.storage import MANIFEST, new_folder, versions, write_json, write_text
from polyalign.translation.card import dataset_card
from polyalign.translation.cells import judge_cells, usual_length
from polyalign.translation.settings import BuildSettings
from polyalign.translation.similarity import LOW_SIMILARITY

TOO_FEW = "too few good translations"
_CELLS_SAMPLED = 20_000


@dataclass
class _Counts:
    """What the pass over the rows adds up."""

    rows: int = 0
    kept: int = 0
    texts: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    verdicts: dict[str, Counter[str]] = field(default_factory=dict)
    removed: list[dict[str, Any]] = field(default_factory=list)


def publish(
    work: Path,
    out: Path,
    settings: BuildSettings,
    *,
    sources: Mapping[str, str],
    english: Mapping[str, Any],
    engines: Mapping[str, Mapping[str, object]],
    decontaminator: Decontaminator | None,
    similarity: Mapping[str, Any] | None,
    cost: Mapping[str, float],
) -> dict[str, Any]:
    """Write the corpus folder from the finished cells and return its manifest.

    Args:
        work: holds ``english/*.parquet`` and ``cells/*.parquet`` with the same names.
        out: the corpus folder.
        settings: the request.
        sources: source -> hash of its files, or its name.
        english: the report of `prepare_english`.
        engines: by key of provenance, what the manifest says of them.
        decontaminator: claims rows whose translations stand in evaluation data.
        similarity: what the manifest says of the encoder that scored the cells, ``similarity/*.parquet``.
        cost: seconds, and cells by where they came from.

    Raises:
        UserError: when no row is left.
    """
    ranges = _length_ranges(work, settings)
    counts = _Counts(verdicts={language: Counter() for language in settings.to})
    if before := len(english["removed"]):
        counts.rows = counts.dropped[IN_EVALUATION] = before
    digest = RowsFingerprint([ENGLISH, *settings.to])
    languages = [ENGLISH, *settings.to]
    with new_folder(out) as folder:
        with closing(_Files(folder / "rows")) as row_files, closing(_Files(folder / "cells")) as cell_files:
            for rows, cells in _judged(work, settings, ranges, decontaminator, counts):
                row_files.write(rows)
                cell_files.write(_with_engines(cells, engines))
                digest.update(rows)
        if counts.kept == 0:
            told = "; ".join(f"{language}: {_told(found)}" for language, found in counts.verdicts.items())
            raise UserError(
                f"no row has {settings.min_languages} good translations ({told}); look at the engine, or at "
                "min_languages and the thresholds of the verdicts"
            )
        rejected = Counter[str]()
        for found in counts.verdicts.values():
            rejected.update({reason: count for reason, count in found.items() if reason != OK})
        manifest: dict[str, Any] = {
            "kind": KIND,
            "format": FORMAT,
            "languages": languages,
            "rows": counts.kept,
            "counts": {language: counts.texts[language] for language in languages},
            "fingerprint": digest.hexdigest(),
            "report": {
                "rows_read": counts.rows,
                "rows_kept": counts.kept,
                "merged_duplicates": 0,
                "dropped": dict(counts.dropped),
                "cells": dict(rejected.most_common()),
                "normalised": 0,
            },
            "provenance": {
                "request": settings.model_dump(mode="json"),
                "sources": dict(sources),
                "english": {key: value for key, value in english.items() if key != "removed"},
                "engines": engines,
                "verdicts": {language: dict(found.most_common()) for language, found in counts.verdicts.items()},
                "length_ranges": {language: range_.model_dump() for language, range_ in ranges.items()},
                "language_identifier": identifier_version(),
                "decontamination": decontaminator
                and {**decontaminator.provenance, "removed": [*english["removed"], *counts.removed]},
                "similarity": similarity,
                "cost": cost,
            },
            "versions": versions(),
        }
        write_text(folder / "README.md", dataset_card(out.name, manifest))
        write_json(folder / MANIFEST, manifest)
    return manifest


def _told(verdicts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in verdicts.items())


def _length_ranges(work: Path, settings: BuildSettings) -> dict[str, LengthRange]:
    """Return each language's usual length ratio, from the first of its cells that nothing else is wrong with."""
    ranges = {}
    for language in settings.to:
        sample: list[pl.DataFrame] = []
        for path in sorted((work / "cells").glob("*.parquet")):
            sample.append(pl.read_parquet(path).filter(lang=language))
            if sum(map(len, sample)) >= _CELLS_SAMPLED:
                break
        ranges[language] = usual_length(pl.concat(sample), settings.verdicts)
    return ranges


def _judged(
    work: Path,
    settings: BuildSettings,
    ranges: Mapping[str, LengthRange],
    decontaminator: Decontaminator | None,
    counts: _Counts,
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Yield the kept rows and all cells of chunk after chunk."""
    for path in sorted((work / "cells").glob("*.parquet")):
        cells = pl.read_parquet(path)
        if settings.similarity is not None:
            scores = pl.read_parquet(work / "similarity" / path.name)
            cells = cells.join(scores, on=[ROW_ID, "lang"], how="left", maintain_order="left")
        parts = []
        for language in settings.to:
            part = cells.filter(pl.col("lang") == language)
            verdicts = judge_cells(part, settings.verdicts, ranges[language])
            part = _too_dissimilar(part.with_columns(verdicts.alias("verdict")), settings)
            counts.verdicts[language].update(dict(part["verdict"].value_counts().iter_rows()))
            parts.append(part)
        rows = pl.read_parquet(work / "english" / path.name)
        for part in parts:
            good = part.filter(pl.col("verdict") == OK).select(ROW_ID, pl.col("text").alias(part["lang"][0]))
            rows = rows.join(good, on=ROW_ID, how="left", maintain_order="left")
        yield _kept(rows, settings, decontaminator, counts), pl.concat(parts)


def _too_dissimilar(cells: pl.DataFrame, settings: BuildSettings) -> pl.DataFrame:
    """Reject good cells whose similarity to the English is below what is required."""
    wanted = settings.similarity
    if wanted is None:
        return cells
    low = pl.lit(value=False)
    for column, least in (("similarity", wanted.min_similarity), ("margin", wanted.min_margin)):
        if least is not None:
            low = low | (pl.col(column) < least)
    verdict = pl.when((pl.col("verdict") == OK) & low).then(pl.lit(LOW_SIMILARITY)).otherwise("verdict")
    return cells.with_columns(verdict.alias("verdict"))


def _kept(
    rows: pl.DataFrame, settings: BuildSettings, decontaminator: Decontaminator | None, counts: _Counts
) -> pl.DataFrame:
    counts.rows += len(rows)
    enough = pl.sum_horizontal(pl.col(settings.to).is_not_null()) >= settings.min_languages
    kept = rows.filter(enough)
    if few := len(rows) - len(kept):
        counts.dropped[TOO_FEW] += few
    if decontaminator is not None:
        removed = decontaminator.removed(kept)
        counts.removed += removed.to_dicts()
        if len(removed):
            counts.dropped[IN_EVALUATION] += len(removed)
        kept = kept.join(removed, on=ROW_ID, how="anti", maintain_order="left")
    counts.kept += len(kept)
    counts.texts.update({tag: len(kept) - kept[tag].null_count() for tag in (ENGLISH, *settings.to)})
    return kept


class _Files:
    """Parquet files of some `ROWS_PER_FILE` rows, written chunk by chunk, so that memory holds one chunk."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._number = 0
        self._rows = 0
        self._writer: ParquetWriter | None = None

    def write(self, frame: pl.DataFrame) -> None:
        """Append rows."""
        table = frame.to_arrow()
        if self._writer is None:
            self._writer = ParquetWriter(self._folder / f"{self._number:05d}.parquet", table.schema, compression="zstd")
        self._writer.write_table(table)
        self._rows += len(frame)
        if self._rows >= ROWS_PER_FILE:
            self.close()

    def close(self) -> None:
        """End the file at hand; the next rows begin another one."""
        if self._writer is not None:
            self._writer.close()
            self._writer, self._rows = None, 0
            self._number += 1


def _with_engines(cells: pl.DataFrame, engines: Mapping[str, Mapping[str, object]]) -> pl.DataFrame:
    """Add engine, revision and licence to each cell."""
    about = pl.DataFrame(
        [
            {"source": key, **{name: str(found[name]) for name in ("engine", "revision", "licence")}}
            for key, found in engines.items()
        ]
    )
    return cells.join(about, on="source", how="left", maintain_order="left")
