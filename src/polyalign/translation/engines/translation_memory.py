"""Engine ``memory``: a translation memory, which answers what it knows and leaves the rest to the next engine."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import polars as pl
from xxhash import xxh3_128_digest

from polyalign.corpus.columns import ENGLISH, ROW_ID
from polyalign.corpus.corpus import Corpus
from polyalign.corpus.readers import read_source
from polyalign.errors import UserError
from polyalign.settings import Settings
from polyalign.translation.engines.contract import Batch, Provenance, Translation

logger = logging.getLogger(__name__)

SAMPLE = "sample"


class MemorySettings(Settings):
    """What is known of a memory beside its content.

    Attributes:
        licence: SPDX identifier of its translations' licence, or ``unknown``.
    """

    licence: str = "unknown"


class MemoryEngine:
    """Looks texts up in a translation memory.

    A text is known when it equals the memory's English after NFC, with runs of white space taken for one space. Of
    several translations of the same English, the first in the memory counts.

    Args:
        model: a corpus folder, or whatever `polyalign.corpus.readers.read_source` reads; ``sample`` is the packaged
            corpus. It is read when first used.
        settings: what is known of it.
    """

    def __init__(self, model: str, settings: MemorySettings) -> None:
        self._model = model
        self._settings = settings
        self._known: dict[str, tuple[dict[bytes, int], pl.Series]] = {}

    def provenance(self, language: str) -> Provenance | None:
        """Return where translations into ``language`` come from; None if the memory has none.

        Raises:
            UserError: when the memory cannot be read, or has no English.
        """
        if language == ENGLISH or language not in self._corpus.languages:
            return None
        return Provenance(
            engine=f"memory:{Path(self._model).name}",
            revision=self._corpus.fingerprint,
            licence=self._settings.licence,
        )

    def translate(self, texts: Sequence[str], language: str) -> Iterator[Batch]:
        """Yield one batch with the texts that the memory knows; the others are left out (see `Engine.translate`)."""
        if language not in self._known:
            self._known[language] = self._index(language)
        positions, translations = self._known[language]
        found = [(index, positions.get(_hash(text))) for index, text in enumerate(texts)]
        batch = [(index, Translation(text=translations[row])) for index, row in found if row is not None]
        if batch:
            yield batch

    def close(self) -> None:
        """Do nothing: a memory holds no process, connection or model."""

    @cached_property
    def _corpus(self) -> Corpus:
        """The memory, rows of the same English apart."""
        source = str(files("polyalign") / "sample" / "train.jsonl") if self._model == SAMPLE else self._model
        corpus = Corpus.open(source) if Path(source).is_dir() else _from_file(source)
        if ENGLISH not in corpus.languages:
            has = ", ".join(corpus.languages)
            raise UserError(f"{source} has no English (column {ENGLISH!r}), but {has}; a memory is looked up by it")
        return corpus

    def _index(self, language: str) -> tuple[dict[bytes, int], pl.Series]:
        """Return the position of each known text, by its hash, among the translations."""
        pairs = self._corpus.rows.select(ENGLISH, language).drop_nulls()
        translations = pairs[language]
        positions: dict[bytes, int] = {}
        ambiguous = set()
        for row, english in enumerate(pairs[ENGLISH]):
            first = positions.setdefault(_hash(english), row)
            if first != row and translations[first] != translations[row]:
                ambiguous.add(first)
        if ambiguous:
            counts = f"{len(ambiguous)} of {len(positions)}"
            logger.info(
                "%s: %s English texts have several %s translations; the first counts", self._model, counts, language
            )
        return positions, translations


def _from_file(source: str) -> Corpus:
    """Read a file without merging the rows of one English, so that translations that differ can be counted."""
    read = read_source(source)
    if read.table.columns:  # rows with ids of their own are not merged
        read = replace(read, table=read.table.with_row_index(ROW_ID).cast({ROW_ID: pl.String}))
    corpus = Corpus.from_read(read, source)
    if left_out := {**corpus.report["left_out"], **corpus.report["dropped"], **corpus.report["cells"]}:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in left_out.items())
        logger.info("%s: left out of this memory are %s", source, reasons)
    return corpus


def _hash(text: str) -> bytes:
    return xxh3_128_digest(" ".join(unicodedata.normalize("NFC", text).split()).encode())
