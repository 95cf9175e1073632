"""The compare verb: scores folders in, one HTML page, its Markdown twin, tables and figures out."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources as package_files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from polyalign.errors import UserError
from polyalign.reporting import overview, provenance, tables
from polyalign.reporting.comparison import Comparison, compare_arms
from polyalign.reporting.crossing import crossings_content, crossings_table
from polyalign.reporting.figures import Picture, draw, draw_costs, draw_growth
from polyalign.reporting.growth import growth_content, growth_tables, growths
from polyalign.reporting.matrix import Matrix, matrices
from polyalign.reporting.neighbours import neighbours_table
from polyalign.reporting.pool import biases, pool_table
from polyalign.reporting.published import published_table
from polyalign.reporting.scores import Scores
from polyalign.reporting.trials import trials_table
from polyalign.storage import MANIFEST, keep_existing, new_folder, read_manifest, versions, write_json, write_text

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """Tables, matrices and figures under one heading, and how to read the figures; without a title they follow on."""

    title: str
    tables: tuple[tables.Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    matrices: tuple[Matrix, ...] = ()
    note: str = ""


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
    tiles: tuple[overview.Tile, ...]
    overview: tuple[Part, ...]
    sections: tuple[Section, ...]
    definitions: tuple[tuple[str, str], ...]
    provenance: tuple[tables.Table, ...]
    commands: tuple[str, ...]

    @property
    def pictures(self) -> Iterable[Picture]:
        """All figures."""
        parts = (*self.overview, *(part for section in self.sections for part in section.parts))
        return (one for part in parts for one in part.pictures)


def compare(
    scores: Sequence[str | Path],
    out: Path,
    *,
    control: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
    trials: Sequence[Mapping[str, Any]] = (),
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
        trials: How the arms were tuned, as `polyalign.tuning.tune` tells it, each with its ``base`` or None.
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
        "trials": [dict(trial) for trial in trials],
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
    results = [overview.Results.of(comparison) for comparison in comparisons]
    grown = growths(comparisons)
    sections, content = zip(*(_section(one, f"{number}") for number, one in enumerate(results, start=1)), strict=True)
    about = (
        provenance.sources_table(scores),
        provenance.settings_table(scores),
        trials_table(manifest["trials"]),
        provenance.missing_table(scores),
        provenance.versions_table(manifest["versions"], scores),
    )
    report = Report(
        title="polyalign comparison",
        lead="Differences are in points (hundredths of the score) with a 95% interval; “better” and “worse” mean that "
        "the interval excludes 0.",
        tiles=overview.tiles(results),
        overview=(
            Part(
                "",
                _given(overview.overview_table(results) if len(results) > 1 else None, crossings_table(results)),
                draw_costs(comparisons),
                note="Mean score of seen and unseen languages and its 95% interval against what training took. An "
                "untouched model stands at 0; a line joins an arm's budgets.",
            ),
            Part(
                "More rows, more languages" if grown else "",
                growth_tables(grown, comparisons[0].control),
                draw_growth(grown, comparisons),
                note="Mean score and its 95% interval at equal encoded texts; the axis is logarithmic.",
            ),
        ),
        sections=sections,
        definitions=tuple(tables.definitions(manifest["resamples"], manifest["seed"])),
        provenance=_given(*about),
        commands=provenance.commands(scores, manifest["control"], manifest["resamples"]),
    )
    numbers = {
        "comparisons": content,
        "crossings": crossings_content(results),
        "growth": growth_content(grown),
    }
    with new_folder(out) as folder:
        (folder / "figures").mkdir()
        for picture in report.pictures:
            (folder / "figures" / f"{picture.name}.png").write_bytes(picture.png)
        write_text(folder / "report.html", render_html(report))
        write_text(folder / "report.md", render_markdown(report))
        write_json(folder / "tables.json", numbers)
        write_json(folder / MANIFEST, manifest)


def _section(results: overview.Results, prefix: str) -> tuple[Section, dict[str, Any]]:
    """Return a comparison's part of the page and its part of tables.json."""
    comparison, languages, english = results.comparison, results.languages, results.english
    found, pairs = biases(comparison), matrices(comparison)
    figures = draw(comparison, languages, found, prefix)
    control = comparison.control
    parts = (
        Part("", (tables.headline_table(comparison, results.headlines),)),
        Part("", (overview.watch_table(results),)),
        Part("", _given(tables.english_table(comparison, english) if english else None)),
        Part(
            "Every seed",
            pictures=figures["seeds"],
            note="A dot a seed; the line is their mean, the bar its 95% interval. Bars may overlap where a difference "
            "is clear: arms are compared item by item and seed by seed.",
        ),
        Part(
            f"From {control} to each arm, by language",
            pictures=figures["slopes"],
            note=f"In points; a line a language, from {control} on the left to the arm on the right. Blue: better; "
            "orange: worse; grey: not clear. Of many languages, those that changed most clearly are named.",
        ),
        Part(
            "Change by language",
            pictures=figures["change"],
            note=f"Each language's difference to {control} with its 95% interval. Filled: the interval excludes 0; "
            "hollow: it does not.",
        ),
        Part("", (tables.language_table(comparison, languages),)),
        Part("Language by language" if pairs else "", matrices=pairs),
        Part(
            "",
            _given(pool_table(comparison, found)),
            figures["pool"],
            note="A small mark a subset, a large one the mean. Up is better; far to the right of other arms, language "
            "decides rather than meaning.",
        ),
        Part("", _given(neighbours_table(comparison))),
        Part("", _given(published_table(comparison))),
        Part(
            "Training",
            (tables.cost_table(comparison),),
            figures["curves"],
            note="One line a seed. Losses of different objectives are not comparable with each other.",
        ),
        Part("", _given(tables.left_out_table(comparison))),
    )
    verdict = tables.verdict(comparison, results.headlines, english)
    numbers = {
        "budget": comparison.budget,
        "control": comparison.control,
        "arms": {arm.name: [run.seed for run in arm.runs] for arm in comparison.arms},
        "verdict": verdict,
        "headline": [asdict(one) for one in results.headlines],
        "english": [asdict(one) for one in english],
        "languages": [asdict(one) for one in languages],
        "pairs": [asdict(pair) | {"task": one.task, "arms": one.arms} for one in pairs for pair in one.pairs],
        "mixed_pool": [asdict(one) for one in found],
        "left_out": [asdict(one) for one in comparison.left_out],
    }
    title = f"Budget: {results.title}" if results.title else "Comparison"
    return Section(
        title, tuple(verdict), tuple(part for part in parts if part.tables or part.pictures or part.matrices)
    ), numbers


def _given(*found: tables.Table | None) -> tuple[tables.Table, ...]:
    return tuple(table for table in found if table)


def render_html(report: Report) -> str:
    """Return the report as one HTML page; every text is escaped, the figures stand in it as SVG.

    The page's own script is named in its content security policy by hash: nothing else runs and nothing is loaded.
    """
    files = package_files.files(__package__)
    template, style, script = (
        (files / name).read_text(encoding="utf-8") for name in ("report.html.jinja", "report.css", "report.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False)
    environment.filters["parts"] = _parts
    return environment.from_string(template).render(report=report, style=style, script=script, digest=digest)


def _parts(name: str) -> list[str]:
    """Return where a name such as STSBenchmarkMultilingualSTS may break, so that its column need not be that wide."""
    return re.split(r"(?<=[a-z])(?=[A-Z])", name)


def render_markdown(report: Report) -> str:
    """Return the report as Markdown with the same tables; figures are linked from the folder ``figures``."""
    lines = [f"# {report.title}", "", report.lead, ""]
    for tile in report.tiles:
        counts = f"{tile.better} better, {tile.unclear} unclear, {tile.worse} worse"
        lines += [f"- {_escaped(f'{tile.title} {tile.subtitle}')}: {counts}"]
        lines += [f"  - {_escaped(what)}: {_escaped(text)}" for what, text in tile.lines]
    lines += ["", *(line for part in report.overview for line in _markdown_part(part))]
    for section in report.sections:
        lines += [f"## {_escaped(section.title)}", "", *(f"- {_escaped(one)}" for one in section.verdict), ""]
        for part in section.parts:
            lines += _markdown_part(part)
    lines += ["## Method", "", *(f"- **{term}.** {_escaped(meaning)}" for term, meaning in report.definitions), ""]
    lines += ["## Provenance", ""]
    for table in report.provenance:
        lines += _markdown_table(table)
    return "\n".join([*lines, "Evaluate and compare again with:", "", *(f"    {one}" for one in report.commands), ""])


def _markdown_part(part: Part) -> list[str]:
    lines = [f"### {part.title}", ""] if part.title else []
    for table in (*part.tables, *(one.table for one in part.matrices)):
        lines += _markdown_table(table)
    for picture in part.pictures:
        lines += [f"![{_escaped(picture.alt)}](figures/{picture.name}.png)", ""]
    return lines + ([_escaped(part.note), ""] if part.pictures else [])


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
