"""The verbs `import` and `inspect`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from polyalign.corpus.columns import ENGLISH
from polyalign.corpus.corpus import Corpus
from polyalign.corpus.readers import DATASETS, FORMATS, read_moses, read_texts
from polyalign.errors import UserError
from polyalign.languages import name
from polyalign.storage import keep_existing

logger = logging.getLogger(__name__)


def import_corpus(
    files: Sequence[str | Path], out: str | Path, *, languages: Sequence[str] | None = None, force: bool = False
) -> Corpus:
    """Read files as one corpus, write it to ``out`` and return it; a complete corpus at ``out`` is opened instead.

    Files that differ in nothing but a language code as suffix (``x.en x.de``) are read together as Moses line pairs;
    every other one is a corpus folder, a file or a `datasets` id as for `Corpus.open`. Their rows are put one after the
    other, so that rows of different files with the same English become one row.

    Args:
        files: the sources, at least one.
        out: the corpus folder to make.
        languages: codes of the languages to keep, or None for all.
        force: replace a complete output at ``out``.

    Raises:
        UserError: when a source cannot be read as it should, lacks text in two languages, or ``out`` is taken.
    """
    if keep_existing(Path(out), force=force):
        logger.info("%s is complete and was left alone; --force replaces it", out)
        return Corpus.open(out)
    if not files:
        raise UserError("got no file to import; give one or more, or Moses line pairs as x.en x.de")
    texts = pl.concat([_read(group, languages) for group in _grouped(files)], how="diagonal")
    corpus = Corpus.from_texts(texts, " ".join(map(str, files)))
    if languages is not None:
        corpus = corpus.select(languages)
    corpus.write(out, force=force, provenance={"sources": [str(file) for file in files]})
    return corpus


def _grouped(files: Sequence[str | Path]) -> list[list[str | Path]]:
    """Return the sources in the order given, the sides of Moses line pairs together."""
    groups: dict[Path | int, list[str | Path]] = {}
    for number, file in enumerate(files):
        path = Path(file)
        whole = path.suffix.lower() in FORMATS or path.is_dir() or str(file).startswith(DATASETS)
        groups.setdefault(number if whole else path.with_suffix(""), []).append(file)
    return list(groups.values())


def _read(group: Sequence[str | Path], languages: Sequence[str] | None) -> pl.DataFrame:
    if len(group) > 1:
        return read_moses([Path(file) for file in group], languages)
    if Path(group[0]).is_dir():
        return Corpus.open(group[0]).rows
    return read_texts(group[0], languages)


def inspect_corpus(corpus: Corpus, *, rows: int = 3) -> dict[str, Any]:
    """Describe a corpus, ready for JSON.

    Args:
        corpus: the corpus.
        rows: how many rows to show; they lie at equal distances from the first on.

    Returns:
        ``rows``, ``complete_rows`` (text in every language), ``texts``, ``fingerprint``, ``report`` (see `Corpus`),
        ``sample`` (rows), and in ``languages`` one entry a language: its ``language`` tag and ``name``; ``present``
        texts and their ``share`` of the rows in [0, 1]; their ``mean_characters`` (null without texts);
        ``equal_to_english``, texts that repeat the row's English (null for English, or without it); and ``repeated``,
        texts that also stand in an earlier row of that language.
    """
    counts = corpus.counts()
    step = len(corpus) / max(1, min(rows, len(corpus)))
    shown = [int(step * i) for i in range(min(rows, len(corpus)))]
    return {
        "rows": len(corpus),
        "complete_rows": len(corpus.rows.drop_nulls()),
        "texts": sum(counts.values()),
        "fingerprint": corpus.fingerprint,
        "languages": [_describe(corpus, tag, counts[tag]) for tag in corpus.languages],
        "report": corpus.report,
        "sample": corpus.rows[shown].to_dicts(),
    }


def _describe(corpus: Corpus, tag: str, present: int) -> dict[str, Any]:
    texts = corpus.rows[tag].drop_nulls()
    translated = tag != ENGLISH and ENGLISH in corpus.languages
    return {
        "language": tag,
        "name": name(tag),
        "present": present,
        "share": present / len(corpus),
        "mean_characters": texts.str.len_chars().mean(),
        "equal_to_english": (corpus.rows[tag] == corpus.rows[ENGLISH]).sum() if translated else None,
        "repeated": present - texts.n_unique(),
    }
