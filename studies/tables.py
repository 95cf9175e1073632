"""Make the tables of a study anew from its kept scores, and put them into docs/results.md.

    python studies/tables.py

The scores of each run, or base of a run, in studies/results are compared as `polyalign compare` does it, with a
thousand resamples.
The numbers stay beside the scores (tables.json), the tables in docs/results.md between two marks that name the folder.
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
from pathlib import Path
from typing import Any

from polyalign.reporting import compare
from polyalign.reporting.crossing import in_words
from polyalign.storage import write_json, write_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "studies" / "results"
PAGE = ROOT / "docs" / "results.md"
log = logging.getLogger(__name__)


def main() -> None:
    """Compare every folder and write its numbers and its tables."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    page = PAGE.read_text(encoding="utf-8")
    for folder in kept():
        control = json.loads(_recipe_of(folder).read_text(encoding="utf-8"))["report"]["control"]
        with tempfile.TemporaryDirectory() as temporary:
            result = compare(sorted((folder / "scores").iterdir()), Path(temporary) / "report", control=control)
        numbers = [
            {key: one[key] for key in ("budget", "control", "headline", "english")} for one in result["comparisons"]
        ]
        write_json(folder / "tables.json", {"comparisons": numbers, "crossings": result["crossings"]})
        page = with_block(page, name_of(folder), tables(numbers, result["crossings"]))
        log.info("%s: tables of %d comparisons", name_of(folder), len(result["comparisons"]))
    write_text(PAGE, page)


def kept() -> list[Path]:
    """Return the folders that hold kept scores: runs, or bases of a run."""
    return sorted(path.parent for path in RESULTS.glob("**/scores"))


def name_of(folder: Path) -> str:
    """Return what the marks in the page call a folder."""
    return folder.relative_to(ROOT).as_posix()


def _recipe_of(folder: Path) -> Path:
    return next(path for place in (folder, folder.parent) if (path := place / "recipe.json").is_file())


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


def tables(comparisons: list[dict[str, Any]], crossings: list[dict[str, Any]]) -> str:
    """Return Markdown: for each budget a family a line and an arm a column, means and differences to the control.

    Where arms were trained at several costs, a table before them tells where the curves cross.
    """
    parts = _crossings(crossings, comparisons[0]["control"]) if crossings else []
    for one in comparisons:
        rows = [*one["headline"], *(english | {"exposure": "English"} for english in one["english"])]
        families = list(dict.fromkeys((row["family"], row["exposure"]) for row in rows))
        arms = list(dict.fromkeys(row["arm"] for row in rows))
        cells = {(row["arm"], row["family"], row["exposure"]): row for row in rows}
        parts.append(f"**{one['budget'] or 'All'}** (mean; difference to {one['control']} with 95% interval)\n")
        parts.append(f"| | {' | '.join(arms)} |")
        parts.append("|---|" + "---|" * len(arms))
        parts += [
            f"| {family}, {exposure} | {' | '.join(_cell(cells[arm, family, exposure]) for arm in arms)} |"
            for family, exposure in families
        ]
        parts.append("")
    return "\n".join(parts)


def _crossings(crossings: list[dict[str, Any]], control: str) -> list[str]:
    arms = list(dict.fromkeys(one["arm"] for one in crossings))
    families = list(dict.fromkeys((one["family"], one["exposure"]) for one in crossings))
    cells = {(one["arm"], one["family"], one["exposure"]): in_words(one) for one in crossings}
    lines = [
        f"| {family}, {exposure} | {' | '.join(cells.get((arm, family, exposure), '') for arm in arms)} |"
        for family, exposure in families
    ]
    return [f"| against {control} | {' | '.join(arms)} |", "|---|" + "---|" * len(arms), *lines, ""]


def _cell(row: dict[str, Any]) -> str:
    change = row["difference"]
    if change is None:
        return f"{100 * row['mean']:.1f}"
    value, low, high = (100 * change[key] for key in ("value", "low", "high"))
    told = f"{value:+.1f} [{low:.1f}, {high:.1f}]".replace("-", "−")
    return f"{100 * row['mean']:.1f} ({f'**{told}**' if low > 0 or high < 0 else told})"


if __name__ == "__main__":
    main()
