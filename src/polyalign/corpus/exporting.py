"""The verb `export`: a corpus as other programs read it."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TextIO, get_args
from xml.sax.saxutils import escape, quoteattr

import polars as pl
import yaml

from polyalign.corpus.checking import ONE_LANGUAGE
from polyalign.corpus.columns import ENGLISH, ROW_ID
from polyalign.corpus.corpus import Corpus
from polyalign.corpus.lines import BREAKS, MOSES_NAME, escape_line
from polyalign.corpus.tmx import OUR_TOOL
from polyalign.errors import UserError, nearest
from polyalign.languages import name
from polyalign.storage import MANIFEST, keep_existing, new_folder, read_manifest, versions, write_json, write_text

logger = logging.getLogger(__name__)

Target = Literal["tmx", "moses", "datasets"]
LineBreaks = Literal["escape", "refuse"]

INCOMPLETE = "text missing in one of the languages"
NOT_XML = "characters that XML does not allow"

_NOT_XML = r"[^\t\n\r\x20-\x{D7FF}\x{E000}-\x{FFFD}\x{10000}-\x{10FFFF}]"
_ROWS_PER_FILE = 500_000


def export_corpus(
    corpus: Corpus,
    out: str | Path,
    *,
    to: Target,
    languages: Sequence[str] | None = None,
    line_breaks: LineBreaks = "escape",
    force: bool = False,
) -> dict[str, Any]:
    """Write a corpus for other programs; the output appears whole or not at all.

    - ``tmx``: a TMX 1.4 file with one unit a row. Texts with characters that XML does not allow are left out.
    - ``moses``: a folder with a file ``corpus.TAG`` per language, one text a line, of the rows that have text in all.
    - ``datasets``: a folder that ``datasets.load_dataset(out)`` loads: Parquet under ``data/`` and a dataset card.

    `polyalign.corpus.import_corpus` reads all three back.

    Args:
        corpus: what to write.
        out: the file (``tmx``) or folder to make.
        to: the format.
        languages: codes of the languages to write, or None for all.
        line_breaks: of ``moses``, what to do with a text that some program would not take for one line: write it as
            `polyalign.corpus.lines.escape_line` does (all texts are, so that a backslash is doubled), or refuse.
        force: replace what an earlier export left at ``out``.

    Returns:
        What the manifest of an exported folder says: ``kind``, ``languages``, ``rows`` written, ``left_out`` (by
        reason: rows, and texts for characters that XML does not allow) and the corpus's ``fingerprint``.

    Raises:
        UserError: when ``out`` is taken, or nothing can be written.
    """
    if to not in get_args(Target):
        allowed = ", ".join(get_args(Target))
        raise UserError(f"cannot export to {to!r}{nearest(to, get_args(Target))}; allowed are {allowed}")
    out = Path(out)
    if to != "tmx" and (manifest := _existing(out, to, force=force)):
        logger.info("%s is complete and was left alone; --force replaces it", out)
        return manifest
    if to == "tmx" and out.exists() and (out.is_dir() or not force):
        raise UserError(
            f"{out} exists; choose another --out" + ("" if out.is_dir() else ", or replace it with --force")
        )
    selected = corpus if languages is None else corpus.select(languages)
    before = Counter({ONE_LANGUAGE: len(corpus) - len(selected)})
    manifest = {"kind": to, "languages": selected.languages, "fingerprint": corpus.fingerprint, "versions": versions()}
    if to == "tmx":
        return manifest | _counts(*_write_tmx(selected, out), before)
    with new_folder(out) as folder:
        if to == "moses":
            manifest |= {"line_breaks": line_breaks} | _counts(*_write_moses(selected, folder, line_breaks), before)
        else:
            manifest |= _counts(*_write_dataset(selected, folder), before)
        write_json(folder / MANIFEST, manifest)
    return manifest


def _existing(out: Path, kind: str, *, force: bool) -> dict[str, Any] | None:
    """Return the manifest of an export of this kind that is to be left alone.

    Raises:
        UserError: when something else stands at ``out``.
    """
    kept = keep_existing(out, force=force)
    manifest = read_manifest(out) or {}
    if manifest and manifest.get("kind") != kind:
        raise UserError(f"{out} holds something else (kind {manifest.get('kind')!r}); choose another --out")
    return manifest if kept else None


def _counts(rows: int, left_out: Counter[str], before: Counter[str]) -> dict[str, Any]:
    found = dict(before + left_out)  # without zeros
    for reason, count in found.items():
        logger.warning("left out of the export: %s (%d)", reason, count)
    return {"rows": rows, "left_out": found}


def _write_tmx(corpus: Corpus, out: Path) -> tuple[int, Counter[str]]:
    tags = corpus.languages
    texts = corpus.rows.select(tags)
    illegal = pl.all().str.contains(_NOT_XML)
    unfit = int(texts.select(pl.sum_horizontal(illegal.sum())).item())
    fit = texts.select(pl.when(~illegal).then(pl.all()))
    rows = fit.with_columns(corpus.rows[ROW_ID]).filter(pl.sum_horizontal(pl.col(tags).is_not_null()) >= 2)
    if rows.is_empty():
        raise UserError(f"no row is left to export ({NOT_XML}: {unfit} texts)")
    with _new_file(out) as stream:
        stream.write('<?xml version="1.0" encoding="UTF-8"?>\n<tmx version="1.4">\n<header')
        header = {
            "creationtool": OUR_TOOL,
            "creationtoolversion": version("polyalign"),
            "segtype": "block",
            "o-tmf": OUR_TOOL,
            "adminlang": "en",
            "srclang": ENGLISH if ENGLISH in tags else "*all*",
            "datatype": "plaintext",
        }
        stream.writelines(f" {key}={quoteattr(value)}" for key, value in header.items())
        stream.write("/>\n<body>\n")
        for row in rows.iter_rows(named=True):
            stream.write(f"<tu tuid={quoteattr(row[ROW_ID])}>\n")
            # A parser would make a line feed of a bare carriage return.
            segments = ((tag, escape(row[tag], {"\r": "&#13;"})) for tag in tags if row[tag] is not None)
            stream.writelines(f'<tuv xml:lang="{tag}"><seg>{text}</seg></tuv>\n' for tag, text in segments)
            stream.write("</tu>\n")
        stream.write("</body>\n</tmx>\n")
    return len(rows), Counter({NOT_XML: unfit, ONE_LANGUAGE: len(texts) - len(rows)})


@contextmanager
def _new_file(out: Path) -> Iterator[TextIO]:
    """Yield a stream into a file that stands at ``out`` when the block ends without an exception."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as stream:
            yield stream
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _write_moses(corpus: Corpus, folder: Path, line_breaks: LineBreaks) -> tuple[int, Counter[str]]:
    rows = corpus.rows.drop_nulls()
    if rows.is_empty():
        raise UserError(f"no row has text in all of {', '.join(corpus.languages)}; choose fewer languages")
    for tag in corpus.languages:
        broken = int(rows[tag].str.contains(f"[{BREAKS}]").sum())
        if line_breaks == "refuse" and broken:
            raise UserError(f"{broken} texts in {tag!r} hold line breaks; write them as \\n with line breaks 'escape'")
        with (folder / f"{MOSES_NAME}.{tag}").open("w", encoding="utf-8", newline="\n") as stream:
            lines = map(escape_line, rows[tag]) if line_breaks == "escape" else iter(rows[tag])
            stream.writelines(f"{line}\n" for line in lines)
    return len(rows), Counter({INCOMPLETE: len(corpus) - len(rows)})


def _write_dataset(corpus: Corpus, folder: Path) -> tuple[int, Counter[str]]:
    (folder / "data").mkdir()
    blocks = -(-len(corpus) // _ROWS_PER_FILE)
    for number, block in enumerate(corpus.rows.iter_slices(_ROWS_PER_FILE)):
        block.write_parquet(folder / "data" / f"train-{number:05d}-of-{blocks:05d}.parquet")
    write_text(folder / "README.md", _card(corpus))
    return len(corpus), Counter()


def _card(corpus: Corpus) -> str:
    """Return a dataset card as the Hub has them: the languages, and what became of the sources' rows."""
    front = {
        "language": sorted({tag.split("-")[0] for tag in corpus.languages}),
        "task_categories": ["translation", "sentence-similarity"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
    }
    counts = {key.replace("_", " "): corpus.report[key] for key in ("rows_read", "merged_duplicates")}
    for kind, what in (("dropped", "rows dropped"), ("cells", "texts rejected"), ("left_out", "left out of the files")):
        counts |= {f"{what}: {reason}": count for reason, count in corpus.report.get(kind, {}).items()}
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False).strip(),
        "---",
        "",
        f"# Parallel text in {len(corpus.languages)} languages",
        "",
        f"{len(corpus):,} rows, each one meaning in two or more of the languages; a missing text is null, and `row_id` "
        "names the row. The licence is that of the sources.",
        "",
        "| Language | | Texts |",
        "|---|---|---|",
        *(f"| `{tag}` | {name(tag)} | {count:,} |" for tag, count in corpus.counts().items()),
        "",
        "| From the sources to these rows | |",
        "|---|---|",
        *(f"| {what} | {count:,} |" for what, count in counts.items()),
        "",
        f"Written by polyalign from the corpus with the fingerprint `{corpus.fingerprint}`.",
        "",
    ]
    return "\n".join(lines)
