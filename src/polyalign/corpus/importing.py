"""The verbs `import` and `inspect`."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from polyalign.corpus.columns import ENGLISH, ROW_ID
from polyalign.corpus.corpus import Corpus
from polyalign.corpus.decontamination import IN_EVALUATION, DecontaminationSettings, Decontaminator
from polyalign.corpus.lines import MOSES_NAME, unescape_line
from polyalign.corpus.opening import plain_path, plain_suffix
from polyalign.corpus.readers import DATASETS, FORMATS, read_moses, read_source
from polyalign.corpus.units import Markup, Read, joined
from polyalign.errors import UserError
from polyalign.languages import is_known, name
from polyalign.storage import MANIFEST, keep_existing, read_manifest

logger = logging.getLogger(__name__)


def import_corpus(
    files: Sequence[str | Path],
    out: str | Path,
    *,
    languages: Sequence[str] | None = None,
    markup: Markup | None = None,
    decontaminate: DecontaminationSettings | None = None,
    force: bool = False,
) -> Corpus:
    """Read files as one corpus, write it to ``out`` and return it; a complete corpus at ``out`` is opened instead.

    Files that differ in nothing but a language code as suffix (``x.en x.de``) are read together as Moses line pairs;
    every other one is a corpus folder, a file or a `datasets` id as for `Corpus.open`, or a folder of such files,
    however deep they lie. Rows are put one after the other, so that rows of different files with the same English
    become one row.

    Args:
        files: the sources, at least one.
        out: the corpus folder to make.
        languages: codes of the languages to keep, or None for all.
        markup: what becomes of inline tags in translation files, see `polyalign.corpus.readers.read_source`.
        decontaminate: MTEB tasks whose evaluation texts must not occur; the manifest lists the rows that are removed.
        force: replace a complete output at ``out``.

    Raises:
        UserError: when a source cannot be read as it should, lacks text in two languages, or ``out`` is taken.
    """
    if keep_existing(Path(out), force=force):
        logger.info("%s is complete and was left alone; --force replaces it", out)
        return Corpus.open(out)
    if not files:
        raise UserError("got no file to import; give one or more, or Moses line pairs as x.en x.de")
    sources = [source for file in files for source in _inside(file)]
    read = joined(_read(group, languages, markup) for group in _grouped(sources))
    corpus = Corpus.from_read(read, " ".join(map(str, files)))
    if languages is not None:
        corpus = corpus.select(languages)
    provenance: dict[str, Any] = {"sources": [str(file) for file in files]}
    if decontaminate is not None:
        decontaminator = Decontaminator(decontaminate)
        removed = decontaminator.removed(corpus.rows)
        corpus = corpus.without(removed[ROW_ID], IN_EVALUATION)
        provenance["decontamination"] = {**decontaminator.provenance, "removed": removed.to_dicts()}
    corpus.write(out, force=force, provenance=provenance)
    return corpus


def _inside(file: str | Path) -> list[str | Path]:
    """Return the files of a folder that can be read, in the order of their names; anything else as it is."""
    folder = Path(file)
    if not folder.is_dir() or _kind(folder) not in (None, "datasets"):
        return [file]
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    sides = Counter(plain_path(path).with_suffix("") for path in found if is_known(plain_suffix(path)[1:]))
    fit = [path for path in found if plain_suffix(path) in FORMATS or sides[plain_path(path).with_suffix("")] > 1]
    if len(fit) < len(found):
        logger.info("%s: %d files of other formats were left alone", folder, len(found) - len(fit))
    return [*fit] or [file]


def _kind(folder: Path) -> str | None:
    """Return what a folder says it is, or None."""
    return (read_manifest(folder) or {}).get("kind")


def _grouped(files: Sequence[str | Path]) -> list[list[str | Path]]:
    """Return the sources in the order given, the sides of Moses line pairs together."""
    groups: dict[Path | int, list[str | Path]] = {}
    for number, file in enumerate(files):
        path = Path(file)
        whole = plain_suffix(path) in FORMATS or path.is_dir() or str(file).startswith(DATASETS)
        groups.setdefault(number if whole else plain_path(path).with_suffix(""), []).append(file)
    return list(groups.values())


def _read(group: Sequence[str | Path], languages: Sequence[str] | None, markup: Markup | None) -> Read:
    if len(group) > 1:
        return Read(read_moses([Path(file) for file in group], languages))
    folder = Path(group[0])
    if not folder.is_dir():
        return read_source(group[0], languages, markup)
    if _kind(folder) == "moses":
        return Read(_read_exported_moses(folder, languages))
    return Read(Corpus.open(folder).rows)


def _read_exported_moses(folder: Path, languages: Sequence[str] | None) -> pl.DataFrame:
    """Read the line pairs of `export_corpus`, whose manifest says how line breaks were written."""
    table = read_moses(sorted(folder.glob(f"{MOSES_NAME}.*")), languages)
    if (read_manifest(folder) or {}).get("line_breaks") != "escape":
        return table
    return table.with_columns(pl.all().map_elements(unescape_line, return_dtype=pl.String))


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
