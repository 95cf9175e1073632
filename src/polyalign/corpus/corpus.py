"""The corpus as a noun: opened, checked, selected from, split and written."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import polars as pl
from xxhash import xxh3_128_hexdigest

from polyalign.corpus.checking import ONE_LANGUAGE, check
from polyalign.corpus.columns import ROW_ID
from polyalign.corpus.fingerprint import RowsFingerprint
from polyalign.corpus.readers import DATASETS, read_source
from polyalign.corpus.units import Read
from polyalign.errors import UserError
from polyalign.languages import canonical
from polyalign.storage import MANIFEST, keep_existing, new_folder, read_manifest, versions, write_json

logger = logging.getLogger(__name__)

KIND = "corpus"
FORMAT = 2
OTHER_PART = "other part of a split"
ROWS_PER_FILE = 100_000


@dataclass(frozen=True, eq=False)
class Corpus:
    """An N-way parallel corpus with gaps: a row is one meaning in at least two languages.

    Attributes:
        rows: ``row_id`` (32 hex digits, unique), then a string column per language; null is a missing text, an empty
            string never occurs.
        languages: canonical tags in the order of the columns: English first if present, the others as in the source.
        report: how the source's rows became these: ``rows_read`` = ``rows_kept`` + ``merged_duplicates`` + the sum of
            ``dropped`` (rows by reason); ``cells`` (rejected cells of the source, in whatever language, by reason) and
            ``normalised`` (cells whose Unicode form, line breaks or outer white space were normalised); of the source,
            ``left_out`` and ``changed`` as `polyalign.corpus.units.Read` has them.

    Raises:
        UserError: at construction, when the rows are not such a table.
    """

    rows: pl.DataFrame
    languages: tuple[str, ...]
    report: dict[str, Any]

    def __post_init__(self) -> None:
        columns = self.rows.columns
        if len(self.languages) < 2 or columns != [ROW_ID, *self.languages] or {*self.rows.dtypes} != {pl.String}:
            found = ", ".join(f"{column} ({dtype})" for column, dtype in self.rows.schema.items())
            raise UserError(f"a corpus has the string columns row_id and two or more languages, not {found}")
        texts = pl.col(self.languages)
        if self.rows[ROW_ID].null_count() or not self.rows[ROW_ID].is_unique().all():
            raise UserError("a corpus needs a row_id in every row, and no two rows with the same")
        if self.rows.select(pl.any_horizontal((texts == "").any())).item():
            raise UserError("a corpus holds no empty string: a missing text is null")
        if not self.rows.select(pl.sum_horizontal(texts.is_not_null()) >= 2).to_series().all():
            raise UserError("a row of a corpus has text in at least two languages")

    @classmethod
    def open(cls, source: str | Path, *, languages: Sequence[str] | None = None) -> Self:
        """Open a corpus folder, or read a file or a `datasets` id as one.

        Args:
            source: a corpus folder, or whatever `polyalign.corpus.readers.read_source` reads.
            languages: codes of the languages to keep, or None for all.

        Raises:
            UserError: when the source is missing, incomplete, damaged or unfit, or lacks one of ``languages``.
        """
        if Path(source).is_dir():
            corpus = cls._open_folder(Path(source))
        else:
            corpus = cls.from_read(read_source(source, languages), str(source))
        return corpus if languages is None else corpus.select(languages)

    @classmethod
    def from_texts(cls, texts: pl.DataFrame, source: str) -> Self:
        """Check texts as they were found, and keep the sound ones (see `polyalign.corpus.checking.check`).

        Args:
            texts: a string column per canonical tag, and ``row_id`` where rows have an id already.
            source: what the texts are called in messages.

        Raises:
            UserError: when no row is left.
        """
        return cls.from_read(Read(texts), source)

    @classmethod
    def from_read(cls, read: Read, source: str) -> Self:
        """Check what was read as `from_texts` does, and put its counts into the report."""
        if not read.table.columns:
            raise UserError(f"{source}: no rows{_reasons(read.left_out)}")
        rows, report = check(read.table)
        if rows.is_empty():
            reasons = _reasons(report["dropped"] | report["cells"] | read.left_out)
            found = f"none of its {len(read.table)} rows has text in two languages" if len(read.table) else "no rows"
            raise UserError(f"{source}: {found}{reasons}")
        return cls(rows, tuple(rows.columns[1:]), report | {"left_out": read.left_out, "changed": read.changed})

    @classmethod
    def _open_folder(cls, folder: Path) -> Self:
        manifest = read_manifest(folder)
        if manifest is None:
            raise UserError(
                f"{folder} is incomplete or not a corpus: it has no {MANIFEST}; make it again with polyalign "
                f"import, or give {DATASETS}{folder} if it is a folder for the datasets library"
            )
        kind, layout = manifest.get("kind"), manifest.get("format")
        if (kind, layout) != (KIND, FORMAT):
            expected = f"kind {KIND!r}, format {FORMAT}"
            raise UserError(f"{folder} has kind {kind!r}, format {layout!r}; give a folder of {expected}")
        try:
            rows = pl.read_parquet(sorted((folder / "rows").glob("*.parquet")), glob=False)
            corpus = cls(rows, tuple(manifest["languages"]), manifest["report"])
            found = {"rows": len(corpus), "fingerprint": corpus.fingerprint}
            stated = {key: manifest[key] for key in found}
        except (pl.exceptions.PolarsError, OSError, KeyError, TypeError, UserError) as error:
            fault = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(f"{folder} is damaged ({fault}); delete it and make it again") from error
        if found != stated:
            raise UserError(f"{folder} is damaged (has {found}, {MANIFEST} says {stated}); delete it and make it again")
        return corpus

    def write(self, out: str | Path, *, force: bool = False, provenance: dict[str, Any] | None = None) -> Path:
        """Write the corpus as a folder that appears whole or not at all; a complete one at ``out`` is left alone.

        Args:
            out: the folder to make.
            force: replace a complete output at ``out``.
            provenance: where the rows come from, kept in the manifest as it is.

        Raises:
            UserError: when something else stands at ``out``.
        """
        out = Path(out)
        if keep_existing(out, force=force):
            logger.info("%s is complete and was left alone; --force replaces it", out)
            return out
        with new_folder(out) as folder:
            (folder / "rows").mkdir()
            for number, block in enumerate(self.rows.iter_slices(ROWS_PER_FILE)):
                block.write_parquet(folder / "rows" / f"{number:05d}.parquet")
            manifest = {
                "kind": KIND,
                "format": FORMAT,
                "languages": self.languages,
                "rows": len(self),
                "counts": self.counts(),
                "fingerprint": self.fingerprint,
                "report": self.report,
                "provenance": provenance or {},
                "versions": versions(),
            }
            write_json(folder / MANIFEST, manifest)
        return out

    @cached_property
    def fingerprint(self) -> str:
        """The hash of the languages, row ids and texts, in whatever order and format they lie on disk."""
        digest = RowsFingerprint(self.languages)
        digest.update(self.rows)
        return digest.hexdigest()

    def select(self, languages: Sequence[str]) -> Self:
        """Keep some languages, in this corpus's order, and the rows that have text in two of them, with their ids.

        Raises:
            UserError: for a language that this corpus lacks, for fewer than two, and when no row is left.
        """
        wanted = {canonical(tag) for tag in languages}
        available = ", ".join(self.languages)
        if missing := sorted(wanted - set(self.languages)):
            raise UserError(f"no {' and no '.join(map(repr, missing))} in this corpus; its languages are {available}")
        if len(wanted) < 2:
            raise UserError(f"got {len(wanted)} of this corpus's languages; a corpus needs two or more of {available}")
        tags = tuple(tag for tag in self.languages if tag in wanted)
        rows = self.rows.select(ROW_ID, *tags)
        enough = rows.select(pl.sum_horizontal(pl.col(tags).is_not_null()) >= 2).to_series()
        if not enough.any():
            raise UserError(
                f"none of the {len(self)} rows has text in two of {', '.join(tags)}; choose other languages"
            )
        return self._part(rows.filter(enough), tags, ONE_LANGUAGE)

    def split(self, dev_rows: int, *, seed: int = 0) -> tuple[Self, Self]:
        """Split off a dev set: the ``dev_rows`` rows with the smallest hash of (seed, row id), whatever their order.

        Returns:
            The training and the dev corpus; both keep the order of the rows.

        Raises:
            UserError: unless 1 ≤ ``dev_rows`` < the number of rows.
        """
        if not 1 <= dev_rows < len(self):
            raise UserError(f"got {dev_rows} dev rows of {len(self)} rows; allowed are 1 to {len(self) - 1}")
        hashes = pl.Series([xxh3_128_hexdigest(f"{seed}:{row_id}".encode()) for row_id in self.rows[ROW_ID]])
        dev = hashes.rank("ordinal") <= dev_rows
        train_part, dev_part = (self._part(self.rows.filter(side), self.languages, OTHER_PART) for side in (~dev, dev))
        return train_part, dev_part

    def without(self, row_ids: pl.Series, reason: str) -> Self:
        """Leave rows out, counted as dropped for ``reason``.

        Raises:
            UserError: when no row is left.
        """
        kept = self.rows.filter(~pl.col(ROW_ID).is_in(row_ids.implode()))
        if kept.is_empty():
            raise UserError(f"all {len(self)} rows are left out: {reason}")
        return self._part(kept, self.languages, reason)

    def counts(self) -> dict[str, int]:
        """Return the number of texts present in each language."""
        return {tag: len(self) - self.rows[tag].null_count() for tag in self.languages}

    def __len__(self) -> int:
        return len(self.rows)

    def _part(self, rows: pl.DataFrame, languages: tuple[str, ...], reason: str) -> Self:
        """Return a corpus of some of the rows; the others are counted as dropped for ``reason``."""
        dropped = dict(self.report["dropped"])
        if left_out := len(self) - len(rows):
            dropped[reason] = dropped.get(reason, 0) + left_out
        return type(self)(rows, languages, {**self.report, "rows_kept": len(rows), "dropped": dropped})


def _reasons(counts: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{reason}: {count}' for reason, count in counts.items())})" if counts else ""
