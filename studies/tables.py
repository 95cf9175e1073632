"""Make the tables of the studies anew from their kept scores, and put them into docs/results.md.

    python studies/tables.py            # all runs
    python studies/tables.py curves     # one of them

The scores of each run in studies/results are compared as `polyalign compare` does it, with a thousand resamples. The
numbers stay beside them (tables.json), the tables in docs/results.md between two marks, where it has them: those of a
base between marks that name the run and the base, those that several bases make together, or the only base, between
marks that name the run. Arms that a recipe has projected are not among them; they have tables of their own, between
marks that end in what they are called after, such as run/base/+wccn: each against the control as it was projected too,
and each against itself as it was before.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from polyalign.recipe import Recipe
from polyalign.reporting import compare
from polyalign.reporting.comparison import Comparison, compare_arms
from polyalign.reporting.crossing import in_words
from polyalign.reporting.overview import Results
from polyalign.reporting.scores import Scores
from polyalign.storage import write_json, write_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "studies" / "results"
PAGE = ROOT / "docs" / "results.md"
log = logging.getLogger(__name__)


def main() -> None:
    """Compare the scores of the runs and write their numbers and tables."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [run.name for run in runs()]
    parser.add_argument("only", nargs="*", metavar="run", choices=names, help=f"of {', '.join(names)}; default: all")
    only = parser.parse_args().only
    for run in (one for one in runs() if not only or one.name in only):
        numbers = numbers_of(run)
        write_json(run / "tables.json", numbers)
        page = PAGE.read_text(encoding="utf-8")  # now, since whoever writes beside it must not lose a word
        for name, text in blocks(run, numbers).items():
            if name in marks(page):
                page = with_block(page, name, text)
        write_text(PAGE, page)
        log.info("%s: tables of %d comparisons", run.name, len(numbers["comparisons"]))


def numbers_of(run: Path) -> dict[str, Any]:
    """Return what the tables of a run are made of."""
    recipe = Recipe.checked(json.loads((run / "recipe.json").read_text(encoding="utf-8")), str(run / "recipe.json"))
    control, suffixes = recipe.report.control, [projection.suffix for projection in recipe.projected]
    folders = scores_of(run)
    plain = [folder for folder in folders if not folder.name.endswith(tuple(suffixes))]
    with tempfile.TemporaryDirectory() as temporary:
        result = compare(plain, Path(temporary) / "report", control=control)
    return {
        "comparisons": [
            {key: one[key] for key in ("budget", "control", "headline", "english")} for one in result["comparisons"]
        ],
        "crossings": result["crossings"],
        "growth": result["growth"],
        "projected": {suffix: _projected(plain, suffix, f"{control}{suffix}") for suffix in suffixes},
    }


def _projected(plain: Sequence[Path], suffix: str, control: str) -> dict[str, Any]:
    """Return each projected arm against the control, projected too, and against itself before."""
    pairs = [(folder, twin) for folder in plain if (twin := folder.with_name(folder.name + suffix)).is_dir()]
    comparisons, gains = [], []
    for one in compare_arms([Scores.read(folder) for pair in pairs for folder in pair], control=control):
        names = [arm.name for arm in one.arms if arm.name.endswith(suffix)]
        comparisons.append(_headlines(_part(one, names, control)))
        for name in names:
            before = name.removesuffix(suffix)
            gains.append({"arm": before, **_headlines(_part(one, [before, name], before))})
    return {"comparisons": comparisons, "gains": gains}


def _part(comparison: Comparison, names: Sequence[str], control: str) -> Comparison:
    """Return a comparison of some of the arms, on the same resamples."""
    chosen = [arm.name in names for arm in comparison.arms for _ in arm.runs]
    return replace(
        comparison,
        arms=tuple(arm for arm in comparison.arms if arm.name in names),
        control=control,
        values=comparison.values[chosen],
        resampled=comparison.resampled[chosen],
    )


def _headlines(comparison: Comparison) -> dict[str, Any]:
    results = Results.of(comparison)
    return {
        "budget": comparison.budget,
        "control": comparison.control,
        "headline": [asdict(one) for one in results.headlines],
        "english": [asdict(one) for one in results.english],
    }


def runs() -> list[Path]:
    """Return the folders of the runs whose scores are kept."""
    return sorted(path.parent for path in RESULTS.glob("*/recipe.json"))


def scores_of(run: Path) -> list[Path]:
    """Return the scores folders of a run, of all its bases."""
    return sorted(path.parent for path in run.glob("**/scores/*/manifest.json"))


def marks(page: str) -> list[str]:
    """Return the names between whose marks a page has tables."""
    return re.findall(r"<!-- end of (\S+) -->", page)


def blocks(run: Path, numbers: Mapping[str, Any]) -> dict[str, str]:
    """Return the Markdown of a run's tables by the name of its marks."""
    name = run.relative_to(ROOT).as_posix()
    comparisons, control = numbers["comparisons"], numbers["comparisons"][0]["control"]
    together = [*_crossings(numbers["crossings"], control), *_growth(numbers["growth"], control)]
    bases = sorted(path.parent.name for path in run.glob("*/scores"))
    found = {name: "\n".join(together)} if together and bases else {}
    for base in bases or [""]:
        place, start = (f"{name}/{base}", f"{base}, ") if base else (name, "")
        own = _tables(one for one in comparisons if one["budget"].startswith(start))
        found[place] = "\n".join(own if base else [*together, *own])
        for suffix, projected in numbers["projected"].items():
            against, gains = (
                [one for one in projected[key] if one["budget"].startswith(start)] for key in ("comparisons", "gains")
            )
            if against:  # a base may have been studied before
                found[f"{place}/{suffix}"] = "\n".join([*_tables(against), *_gains(gains, suffix)])
    return found


def with_block(page: str, name: str, text: str) -> str:
    """Return a page with other text between the two marks of a folder.

    Raises:
        ValueError: when the page lacks the marks.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if begin not in page or end not in page:
        raise ValueError(f"{PAGE} lacks the marks {begin} and {end}")
    return re.sub(
        f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n\n{text}\n{end}", page, flags=re.DOTALL
    )


def block(page: str, name: str) -> str:
    """Return the text between the two marks of a folder."""
    return page.split(f"<!-- {name} -->\n\n")[1].split(f"\n<!-- end of {name} -->")[0]


def _gains(gains: Iterable[Mapping[str, Any]], suffix: str) -> list[str]:
    """Return, for each budget, a family a line and an arm a column: means and differences to the arm as it was."""
    grids: dict[str, dict[tuple[str, str], str]] = {}
    for one in gains:
        cells = grids.setdefault(f"**{one['budget'] or 'All'}** (mean; difference to the arm without {suffix})\n", {})
        for row in _rows(one):
            if row["arm"] != one["arm"]:
                cells[row["arm"], f"{row['family']}, {row['exposure']}"] = _cell(row["mean"], row["difference"])
    return [line for title, cells in grids.items() for line in (title, *_grid("", cells))]


def _rows(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*comparison["headline"], *(english | {"exposure": "English"} for english in comparison["english"])]


def _tables(comparisons: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return, for each budget, a family a line and an arm a column: means and differences to the control."""
    lines = []
    for one in comparisons:
        cells = {
            (row["arm"], f"{row['family']}, {row['exposure']}"): _cell(row["mean"], row["difference"])
            for row in _rows(one)
        }
        lines.append(f"**{one['budget'] or 'All'}** (mean; difference to {one['control']} with 95% interval)\n")
        lines += _grid("", cells)
    return lines


def _crossings(crossings: Iterable[Mapping[str, Any]], control: str) -> list[str]:
    """Return where the curves of arms that were trained at several costs cross."""
    cells = {(one["arm"], f"{one['family']}, {one['exposure']}"): in_words(one) for one in crossings}
    return _grid(f"against {control}", cells) if cells else []


def _growth(growth: Iterable[Mapping[str, Any]], control: str) -> list[str]:
    """Return, for each thing that grows, an arm in a family a line and a size a column."""
    grids: dict[str, dict[tuple[str, str], str]] = {}
    for one in growth:
        title = (
            f"**Quality against {one['quantity']}, {one['fixed']}** (mean; difference to {control} with 95% interval)"
        )
        place = f"{one['family']}, {one['exposure']} ({' '.join(one['languages'])}): {one['arm']}"
        for size in one["sizes"]:
            column = f"{size['amount']:,} {one['quantity']}"
            grids.setdefault(title, {})[column, place] = _cell(size["mean"]["value"], size["difference"])
    return [line for title, cells in grids.items() for line in (f"{title}\n", *_grid("", cells))]


def _grid(corner: str, cells: Mapping[tuple[str, str], str]) -> list[str]:
    """Return a Markdown table of the cells by column and row, and an empty line."""
    columns, rows = (list(dict.fromkeys(key[place] for key in cells)) for place in (0, 1))
    lines = [f"| {row} | {' | '.join(cells.get((column, row), '') for column in columns)} |" for row in rows]
    return [f"{f'| {corner}'.rstrip()} | {' | '.join(columns)} |", "|---|" + "---|" * len(columns), *lines, ""]


def _cell(mean: float, change: Mapping[str, float] | None) -> str:
    if change is None:
        return f"{100 * mean:.1f}"
    value, low, high = (100 * change[key] for key in ("value", "low", "high"))
    told = f"{value:+.1f} [{low:.1f}, {high:.1f}]".replace("-", "−")
    return f"{100 * mean:.1f} ({f'**{told}**' if low > 0 or high < 0 else told})"


if __name__ == "__main__":
    main()
