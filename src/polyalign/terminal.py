"""Results as tables for a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table
from rich.text import Text

from polyalign.languages import name

PIPED_WIDTH = 140
"""Columns where the output is no terminal: a file has no width of its own, and a table cut to 80 is of no use."""


def show(*parts: str | Table) -> None:
    """Print to stdout; strings are printed as they are, without markup."""
    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False)
    for part in parts:
        console.print(Text(part) if isinstance(part, str) else part)


def _table(title: str, columns: Iterable[str], *, numeric: Iterable[str] = ()) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    right = set(numeric)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left")
    return table


def show_corpus(description: dict[str, Any], where: str) -> None:
    """Print what `inspect_corpus` returns."""
    columns = ("Language", "Name", "Texts", "Share", "Mean characters", "Equal to English", "Repeated")
    table = _table(f"{where}: {description['rows']:,} rows", columns, numeric=columns[2:])
    for language in description["languages"]:
        equal, length = language["equal_to_english"], language["mean_characters"]
        table.add_row(
            language["language"],
            language["name"],
            f"{language['present']:,}",
            f"{100 * language['share']:.1f}%",
            f"{length:.1f}" if length is not None else "–",
            f"{equal:,}" if equal is not None else "–",
            f"{language['repeated']:,}",
        )
    report = description["report"]
    show(table, f"{description['complete_rows']:,} rows are complete; fingerprint {description['fingerprint']}")
    read, merged = report.get("rows_read"), report.get("merged_duplicates")
    if read is not None:
        show(f"{read:,} rows read, {merged:,} merged with a row of the same English")
    for kind, counts in (("rows dropped", report.get("dropped", {})), ("cells rejected", report.get("cells", {}))):
        for reason, count in counts.items():
            show(f"{count:,} {kind}: {reason}")
    for counts, told in ((report.get("left_out", {}), "left out of the files"), (report.get("changed", {}), "changed")):
        for reason, count in counts.items():
            show(f"{count:,} {told}: {reason}")
    for row in description["sample"]:
        show("", *(f"  {tag:8} {text}" for tag, text in row.items() if tag != "row_id" and text is not None))
    for one in description.get("verdicts", ()):
        show("", f"{one['language']}: {one['cells']:,} cells {one['verdict']}")
        show(*(f"  {sample['english'] or '(row dropped)'}\n  → {sample['text'] or ''}" for sample in one["samples"]))


def show_build(manifest: dict[str, Any], where: str) -> None:
    """Print what `build` made: verdicts by language, and what was left out."""
    made = manifest["provenance"]
    columns = ("Language", "Name", "Good", "Share", "Rejected")
    table = _table(f"{where}: {manifest['rows']:,} rows", columns, numeric=columns[2:4])
    for language, verdicts in made["verdicts"].items():
        good, total = verdicts.get("ok", 0), sum(verdicts.values())
        rejected = ", ".join(f"{reason} {count:,}" for reason, count in verdicts.items() if reason != "ok")
        table.add_row(language, name(language), f"{good:,}", f"{100 * good / max(1, total):.1f}%", rejected or "–")
    english = made["english"]
    show(table, f"{english['lines_read']:,} lines read, {english['kept']:,} English texts kept")
    for reason, count in english["left_out"].items():
        show(f"{count:,} English texts left out: {reason}")
    for reason, count in manifest["report"]["dropped"].items():
        show(f"{count:,} rows dropped: {reason}")
    if removed := (made["decontamination"] or {}).get("removed"):
        show(f"{len(removed):,} rows stand in evaluation data; {where}/manifest.json lists them")
    licences = sorted({engine["licence"] for engine in made["engines"].values()})
    cost = made["cost"]
    show(f"Licences of the engines: {', '.join(licences)}")
    show(f"{cost['translated']:,} cells translated, the others remembered; {cost['seconds']:,.0f} s")


def show_export(result: dict[str, Any], where: str) -> None:
    """Print what `export_corpus` wrote."""
    show(f"{where}: {result['rows']:,} rows in {', '.join(result['languages'])}")
    for reason, count in result["left_out"].items():
        show(f"{count:,} left out: {reason}")


def show_training(record: dict[str, Any], where: str, advice: Iterable[str]) -> None:
    """Print what a training cost and where it got, and what else is worth trying."""
    cost, best = record["cost"], record["best"]
    reached = f"; bitext accuracy {best['dev_accuracy']:.3f} on the dev rows at step {best['step']:,}" if best else ""
    show(f"{where}: {cost['steps']:,} steps, {cost['texts_encoded']:,} texts, {cost['seconds']:,.0f} s{reached}")
    for line in advice:
        show(f"Worth trying: {line}")


def show_projection(record: dict[str, Any], where: str) -> None:
    """Print what was put at the end of an encoder, and on how much text it was fitted."""
    maps = []
    if lexical := record.get("lexical"):
        maps.append(f"lexical half of weight {lexical['settings']['weight']:g}, {lexical['rows']:,} rows")
    if lsar := record.get("lsar"):
        maps.append(f"LSAR, {lsar['rank']} directions, {sum(lsar['texts'].values()):,} texts")
    if wccn := record.get("wccn"):
        maps.append(f"WCCN to the power of {wccn['power']:g}, {wccn['rows']:,} rows, {wccn['texts']:,} texts")
    show(f"{where}: {'; '.join(maps)}")


def show_scores(scores: pl.DataFrame, where: str) -> None:
    """Print the mean main score of each task and exposure, and the weakest subset behind it."""
    columns = ("Task", "Languages", "Subsets", "Mean", "Lowest")
    table = _table("Scores", columns, numeric=columns[2:])
    main = scores.filter("main")
    for (task, exposure), group in main.group_by("task", "exposure", maintain_order=True):
        worst = group.sort("value").row(0, named=True)
        mean = group["value"].mean()
        assert isinstance(mean, float)
        lowest = f"{worst['subset']} {100 * worst['value']:.1f}"
        table.add_row(str(task), str(exposure), f"{len(group)}", f"{100 * mean:.1f}", lowest)
    show(table, f"Scores: {where}")


def show_outline(lines: list[dict[str, Any]]) -> None:
    """Print what a run would do, as `polyalign.planning.outline` tells it, and the hours that are left."""
    columns = ("Base", "What", "Budgets", "Steps", "Texts", "Done", "Hours left")
    table = _table("Plan", columns, numeric=columns[3:])
    for line in lines:
        steps = f"{line['steps']:,}" if line["steps"] else "–"
        done = f"{line['done']} of {line['times']}"
        table.add_row(
            line["base"] or "–", line["what"], ", ".join(line["budgets"]), steps, f"{line['texts']:,}", done,
            f"{line['hours']:.2f}",
        )  # fmt: skip
    total = sum(line["hours"] for line in lines)
    show(
        table,
        f"About {total:.1f} hours on this machine, from a few measured batches; the tasks' own work and the start of "
        "each part come on top.",
    )


def show_comparison(result: dict[str, Any]) -> None:
    """Print the headline table and the verdict of each comparison that `compare` returns."""
    for comparison in result["comparisons"]:
        control = comparison["control"]
        columns = (
            "Family",
            "Languages",
            "Arm",
            "Mean",
            f"Difference to {control} [95%]",
            "Gain",
            "Won/lost/tied",
            "Worst",
        )
        title = f"Budget: {comparison['budget']}" if comparison["budget"] else "Comparison"
        table = _table(title, columns, numeric=columns[3:7])
        for one in comparison["headline"]:
            table.add_row(one["family"], one["exposure"], one["arm"], f"{100 * one['mean']:.1f}", *_change(one))
        show(table)
        if comparison["english"]:
            show(_english_table(comparison["english"]))
        show(*comparison["verdict"], "")
    show(f"Report: {result['report']}")


def _english_table(english: list[dict[str, Any]]) -> Table:
    before = next((one["arm"] for one in english if one["difference"] is None), "")
    table = _table("English alone", ("Family", "Arm", "Mean", f"Difference to {before} [95%]"), numeric=("Mean",))
    for one in english:
        table.add_row(one["family"], one["arm"], f"{100 * one['mean']:.1f}", _interval(one["difference"]))
    return table


def _change(one: dict[str, Any]) -> tuple[str, str, str, str]:
    worst = f"{one['worst'][0]} {100 * one['worst'][1]:.1f}" if one["worst"] else "–"
    if one["difference"] is None:
        return "–", "–", "–", worst
    gain = f"{one['relative_gain']:+.1f}%" if one["relative_gain"] is not None else "–"
    tied = len(one["languages"]) - len(one["won"]) - len(one["lost"])
    return _interval(one["difference"]), gain, f"{len(one['won'])}/{len(one['lost'])}/{tied}", worst


def _interval(difference: dict[str, Any] | None) -> str:
    if difference is None:
        return "–"
    return f"{100 * difference['value']:+.1f} [{100 * difference['low']:+.1f}, {100 * difference['high']:+.1f}]"
