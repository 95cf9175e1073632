"""The compare verb: scores folders in, one HTML page, its Markdown twin, tables and figures out."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import resources as package_files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from polyalign.errors import UserError
from polyalign.reporting import tables
from polyalign.reporting.comparison import Comparison, compare_arms
from polyalign.reporting.figures import Picture, draw
from polyalign.reporting.labels import printable
from polyalign.reporting.scores import Scores
from polyalign.storage import MANIFEST, keep_existing, new_folder, read_manifest, versions, write_json, write_text

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """Tables and figures under one heading; without a title they follow on."""

    title: str
    tables: tuple[tables.Table, ...] = ()
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class Section:
    """One comparison: what it found, in words, then in tables and figures."""

    title: str
    verdict: tuple[str, ...]
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Report:
    """Everything that is on the page, before it is HTML or Markdown."""

    title: str
    lead: str
    sections: tuple[Section, ...]
    definitions: tuple[tuple[str, str], ...]
    method_tables: tuple[tables.Table, ...]

    @property
    def pictures(self) -> Iterable[Picture]:
        """All figures."""
        return (one for section in self.sections for part in section.parts for one in part.pictures)


def compare(
    scores: Sequence[str | Path],
    out: Path,
    *,
    control: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
    force: bool = False,
) -> dict[str, Any]:
    """Compare the arms of several scores folders and write the report.

    Writes ``report.html`` (one file, nothing loaded from elsewhere), ``report.md`` with the same tables,
    ``tables.json``, ``figures/*.png`` and ``manifest.json``.

    Args:
        scores: Scores folders, one for each arm, seed and budget.
        out: Folder to write. A report of the same scores and settings that stands there already is left alone.
        control: Arm the others are compared with; by default ``en-x`` if there, else ``base``, else the first.
        resamples: Bootstrap resamples of the test items.
        seed: Random seed of the resamples.
        force: Replace an existing report.

    Returns:
        The content of ``tables.json`` (scores and differences on the metric's own scale, not in points) and, under
        ``report``, the path of the HTML page.

    Raises:
        UserError: when a folder is not complete scores, two are of the same arm, seed and budget, the control is
            unknown, fewer than two arms or no common subset are given, or ``out`` holds something else.
    """
    out = Path(out)
    if resamples < 100:
        raise UserError(f"got {resamples} resamples; a 95% interval takes at least 100")
    read = [Scores.read(folder) for folder in scores]
    manifest = {
        "format": 1,
        "kind": "report",
        "scores": [
            {"arm": one.arm, "seed": one.seed, "budgets": one.manifest["budgets"], "fingerprint": one.fingerprint}
            for one in read
        ],
        "control": control,
        "resamples": resamples,
        "seed": seed,
    }
    if keep_existing(out, force=force):
        existing = read_manifest(out) or {}
        if any(existing.get(key) != value for key, value in manifest.items()):
            raise UserError(f"{out} holds a report of other scores or settings; use --force to replace it")
        _logger.info("%s is complete and left as it is", out)
    else:
        comparisons = compare_arms(read, control=control, resamples=resamples, seed=seed)
        _write(out, read, comparisons, manifest | {"versions": versions()})
    content: dict[str, Any] = json.loads((out / "tables.json").read_text(encoding="utf-8"))
    return content | {"report": str(out / "report.html")}


def _write(out: Path, scores: Sequence[Scores], comparisons: Sequence[Comparison], manifest: dict[str, Any]) -> None:
    sections, content = [], []
    for number, comparison in enumerate(comparisons, start=1):
        section, numbers = _section(comparison, f"{number}")
        sections.append(section)
        content.append(numbers)
    method = (
        tables.sources_table(scores),
        tables.missing_table(scores),
        tables.versions_table(manifest["versions"], scores),
    )
    report = Report(
        title="polyalign comparison",
        lead="Differences are in points (hundredths of the score) with a 95% interval; “better” and “worse” mean that "
        "the interval excludes 0.",
        sections=tuple(sections),
        definitions=tuple(tables.definitions(manifest["resamples"], manifest["seed"])),
        method_tables=tuple(table for table in method if table),
    )
    with new_folder(out) as folder:
        (folder / "figures").mkdir()
        for picture in report.pictures:
            (folder / "figures" / f"{picture.name}.png").write_bytes(picture.png)
        write_text(folder / "report.html", render_html(report))
        write_text(folder / "report.md", render_markdown(report))
        write_json(folder / "tables.json", {"comparisons": content})
        write_json(folder / MANIFEST, manifest)


def _section(comparison: Comparison, prefix: str) -> tuple[Section, dict[str, Any]]:
    """Return a comparison's part of the page and its part of tables.json."""
    languages = comparison.languages()
    headlines = comparison.headlines(languages)
    english = comparison.english()
    figures = draw(comparison, languages, prefix)
    left_out = tables.left_out_table(comparison)
    parts = (
        Part("", (tables.headline_table(comparison, headlines),)),
        Part("", (tables.english_table(comparison, english),) if english else ()),
        Part("Change by language", (), figures["change"]),
        Part("", (tables.language_table(comparison, languages),)),
        Part("Bitext by language", (), figures["bitext"]),
        Part("Training", (tables.cost_table(comparison),), figures["curves"]),
        Part("", (left_out,) if left_out else ()),
    )
    verdict = tables.verdict(comparison, headlines, english)
    numbers = {
        "budget": comparison.budget,
        "control": comparison.control,
        "arms": {arm.name: [run.seed for run in arm.runs] for arm in comparison.arms},
        "verdict": verdict,
        "headline": [asdict(one) for one in headlines],
        "english": [asdict(one) for one in english],
        "languages": [asdict(one) for one in languages],
        "left_out": [asdict(one) for one in comparison.left_out],
    }
    title = f"Budget: {printable(comparison.budget)}" if comparison.budget else "Comparison"
    return Section(title, tuple(verdict), tuple(part for part in parts if part.tables or part.pictures)), numbers


def render_html(report: Report) -> str:
    """Return the report as one HTML page; every text is escaped, the figures stand in it as SVG."""
    template = (package_files.files(__package__) / "report.html.jinja").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False)
    return environment.from_string(template).render(report=report)


def render_markdown(report: Report) -> str:
    """Return the report as Markdown with the same tables; figures are linked from the folder ``figures``."""
    lines = [f"# {report.title}", "", report.lead, ""]
    for section in report.sections:
        lines += [f"## {_escaped(section.title)}", "", *(f"- {_escaped(one)}" for one in section.verdict), ""]
        for part in section.parts:
            lines += [f"### {part.title}", ""] if part.title else []
            for table in part.tables:
                lines += _markdown_table(table)
            for picture in part.pictures:
                lines += [f"![{_escaped(picture.alt)}](figures/{picture.name}.png)", "", _escaped(picture.caption), ""]
    lines += ["## Method", "", *(f"- **{term}.** {_escaped(meaning)}" for term, meaning in report.definitions), ""]
    for table in report.method_tables:
        lines += _markdown_table(table)
    return "\n".join(lines)


def _markdown_table(table: tables.Table) -> list[str]:
    """Return a pipe table; the headings of its groups become a first column."""
    grouped = any(heading for heading, _ in table.groups)
    header = [""] * grouped + [_escaped(column.name) for column in table.columns]
    rule = ["---"] * grouped + ["---:" if column.numeric else "---" for column in table.columns]
    rows = [
        [_escaped(heading)] * grouped
        + [f"**{_escaped(cell.text)}**" if cell.tone else _escaped(cell.text) for cell in row]
        for heading, rows in table.groups
        for row in rows
    ]
    lines = [f"**{_escaped(table.caption)}**", ""]
    lines += [f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)] + [""]
    return lines + ([_escaped(table.note), ""] if table.note else [])


def _escaped(text: str) -> str:
    """Escape what Markdown (or HTML within it) would take for markup."""
    return re.sub(r"([\\`*_<>|$~]|\](?=\())", r"\\\1", text).replace("&", "&amp;")
