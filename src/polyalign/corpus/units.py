"""What the readers of translation files (TMX, PO, XLIFF) share: rows of units, languages with regions, and counts."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl

from polyalign.corpus.columns import ENGLISH
from polyalign.languages import canonical, is_known, script

logger = logging.getLogger(__name__)

Markup = Literal["strip", "keep"]

UNKNOWN_LANGUAGE = "text in an unknown language code"
SAME_LANGUAGE = "further text of a unit in the same language"
OTHER_REGION = "further text of a unit in another region's form of the language"
ONE_LANGUAGE = "translation within one language"
CUT_SHORT = "end of the file (it is cut short)"
NO_TEXT = "unit without text"

_ROWS_PER_TABLE = 50_000


@dataclass(frozen=True)
class Read:
    """What was read from a source.

    Attributes:
        table: one string column per canonical tag.
        left_out: what the source holds beside the table's rows and cells, counted by reason.
        changed: what stands in the table otherwise than in the source, counted by reason.
    """

    table: pl.DataFrame
    left_out: Mapping[str, int] = field(default_factory=dict)
    changed: Mapping[str, int] = field(default_factory=dict)


def joined(reads: Iterable[Read]) -> Read:
    """Put the rows one after the other, and add up the counts."""
    reads = list(reads)
    left_out: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    for read in reads:
        left_out.update(read.left_out)
        changed.update(read.changed)
    table = pl.concat([read.table for read in reads], how="diagonal") if reads else pl.DataFrame()
    return Read(table, dict(sorted(left_out.items())), dict(sorted(changed.items())))


class Units:
    """The rows and counts of one file as it is read."""

    def __init__(self, path: Path, languages: Sequence[str] | None, *, regions: bool) -> None:
        """Start with no row.

        Args:
            path: the file, named in warnings.
            languages: codes of the languages to keep, or None for all. English stays, since rows are joined on it.
            regions: whether a code's region makes a language of its own ("pt-BR") or is dropped ("en" for "en-US", but
                "zh-Hant" for "zh-TW") where ``languages`` does not say so.
        """
        self.left_out: Counter[str] = Counter()
        self.changed: Counter[str] = Counter()
        self._path = path
        self._wanted = None if languages is None else {canonical(code) for code in languages}
        self.regions = regions
        self._tags: dict[str, str | None] = {}
        self._rows: list[Mapping[str, str]] = []
        self._tables: list[pl.DataFrame] = []

    def tag(self, code: str) -> str | None:
        """Return the column of a code; None for a language nobody asked for, and for an unknown code (counted)."""
        code = code.strip()
        if code not in self._tags:
            self._tags[code] = self._column(code)
        if self._tags[code] is None and not is_known(code):
            self.left_out[UNKNOWN_LANGUAGE] += 1
        return self._tags[code]

    def _column(self, code: str) -> str | None:
        if not is_known(code):
            logger.warning("%s: text in %.40r, which is no language code, is left out", self._path, code)
            return None
        exact = canonical(code)
        plain = canonical(f"{exact.split('-')[0]}-{script(exact)}")
        if self._wanted is None:
            return exact if self.regions else plain
        return next((tag for tag in (exact, plain) if tag in self._wanted or tag == ENGLISH), None)

    def add(self, texts: Mapping[str, str]) -> None:
        """Add a row of texts by column."""
        if not texts:
            self.left_out[NO_TEXT] += 1
            return
        self._rows.append(texts)
        if len(self._rows) == _ROWS_PER_TABLE:
            self._pack()

    def add_each(self, texts: Iterable[tuple[str, str]]) -> None:
        """Add a row of pairs of a language code and a text; of several in one language the first stays."""
        row: dict[str, str] = {}
        codes: dict[str, str] = {}
        for code, text in texts:
            tag = self.tag(code)
            if tag is None:
                continue
            if tag in row:
                same = canonical(code.strip()) == canonical(codes[tag].strip())
                self.left_out[SAME_LANGUAGE if same else OTHER_REGION] += 1
                continue
            row[tag], codes[tag] = text, code
        self.add(row)

    def damaged(self, reason: str) -> None:
        """Count a unit that is left out because it is damaged."""
        self.left_out[f"damaged unit: {reason}"] += 1

    def cut_short(self, end: str) -> None:
        """Count and tell that the file's end is missing."""
        self.left_out[CUT_SHORT] += 1
        logger.warning("%s has no end (%s): it is cut short, and what comes before the cut was read", self._path, end)

    def read(self) -> Read:
        """Return what was added."""
        self._pack()
        return joined([Read(table) for table in self._tables] + [Read(pl.DataFrame(), self.left_out, self.changed)])

    def _pack(self) -> None:
        tags = dict.fromkeys(tag for row in self._rows for tag in row)
        columns = {tag: [row.get(tag) for row in self._rows] for tag in tags}
        self._tables.append(pl.DataFrame(columns, schema=dict.fromkeys(tags, pl.String)))
        self._rows = []
