"""The report's figures. Each is drawn once and saved twice: as SVG for the page and as PNG for a file."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from polyalign.reporting.comparison import BASE, Comparison, LanguageResult
from polyalign.reporting.labels import exposure_label, language_label
from polyalign.reporting.significance import Difference

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with any colour vision; the shapes repeat what the colours say
_CONTROL_STYLE = ("#000000", "s")
_BASE_STYLE = ("#8a8a8a", "X")
_STYLES = (("#0072B2", "o"), ("#D55E00", "^"), ("#009E73", "D"), ("#CC79A7", "v"), ("#E69F00", "P"), ("#56B4E9", "<"))
_RC = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that files are the same everywhere
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "svg.fonttype": "path",
    "text.parse_math": False,
}
_WIDTH = 4.9  # inches, so that two stand side by side on a page and one is legible on a phone
_MOST_NUMBERED = 24  # languages above which a heat map's cells are too small for numbers
_LONGEST_NAME = 32  # characters of an arm's name in a figure
_ALWAYS_OPEN = 40  # rows above which the page folds a chart away


@dataclass(frozen=True)
class Picture:
    """A finished figure.

    Attributes:
        name: File name without suffix.
        title: What it shows, in a few words.
        caption: How to read it.
        alt: What a reader who cannot see it needs to know.
        svg: The `<svg>` element.
        png: The same as PNG.
        width: Natural width in CSS pixels.
        folded: Whether it is so tall that the page shows it only on request.
    """

    name: str
    title: str
    caption: str
    alt: str
    svg: str
    png: bytes
    width: int
    folded: bool = False


def draw(comparison: Comparison, results: Sequence[LanguageResult], prefix: str) -> dict[str, tuple[Picture, ...]]:
    """Return the figures of one comparison by the section they belong to: bitext, change, curves.

    Args:
        comparison: What to draw.
        results: Its results by language.
        prefix: Start of the file names, unique to this comparison.
    """
    return {
        "bitext": tuple(_bitext(comparison, f"{prefix}-bitext")),
        "change": tuple(_changes(comparison, results, f"{prefix}-change")),
        "curves": tuple(_curves(comparison, f"{prefix}-training")),
    }


@contextmanager
def _style(name: str) -> Iterator[None]:
    """Draw with our settings whatever the user's own are; ids inside the SVG follow from ``name`` alone."""
    from matplotlib import style

    with style.context(["default", _RC | {"svg.hashsalt": name}]):
        yield


def _picture(figure: Figure, name: str, title: str, caption: str, alt: str, *, folded: bool = False) -> Picture:
    svg, png = io.StringIO(), io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(svg, format="svg", metadata=nothing)
    figure.set_layout_engine("none")  # as laid out, so that both files are the same picture
    figure.savefig(png, format="png", metadata={"Software": None})
    element = svg.getvalue()
    element = re.sub(r"<!--.*?-->", "", element[element.index("<svg") :], flags=re.DOTALL)
    return Picture(name, title, caption, alt, element, png.getvalue(), round(figure.get_figwidth() * 96), folded)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _styles(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """Return arm -> (colour, marker), the same in every figure and in the order of the arms."""
    fixed = {BASE: _BASE_STYLE, comparison.control: _CONTROL_STYLE}
    others = {name: _STYLES[index % len(_STYLES)] for index, name in enumerate(comparison.challengers)}
    return {arm.name: (fixed | others)[arm.name] for arm in comparison.arms}


def _bitext(comparison: Comparison, prefix: str) -> Iterator[Picture]:
    """One heat map an arm for tasks that pair other languages too; one chart for tasks with English pairs only."""
    tasks: dict[str, list[int]] = defaultdict(list)
    for index, one in enumerate(comparison.subsets):
        if one.family.startswith("bitext") and len(one.languages) == 2:
            tasks[one.task].append(index)
    for number, (task, chosen) in enumerate(tasks.items(), start=1):
        if any("en" not in comparison.subsets[index].languages for index in chosen):
            yield from _heat_maps(comparison, task, chosen, f"{prefix}-{number}")
        else:
            yield _english_pairs(comparison, task, chosen, f"{prefix}-{number}")


def _pair_scores(comparison: Comparison, arm: str, chosen: Sequence[int]) -> dict[tuple[str, str], float]:
    """Return (language of the queries, language searched) -> score in points, in both orders.

    Which way round an English pair was scored is not on disk: its directions are averaged. A pair scored in one
    direction alone stands in both.
    """
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for index in chosen:
        first, second = comparison.subsets[index].languages
        score = 100 * comparison.estimates(arm, [index]).mean
        found[first, second].append(score)
        if "en" in (first, second):
            found[second, first].append(score)
    means = {pair: float(np.mean(scores)) for pair, scores in found.items()}
    return {(second, first): score for (first, second), score in means.items()} | means


def _heat_maps(comparison: Comparison, task: str, chosen: Sequence[int], prefix: str) -> Iterator[Picture]:
    scores = {arm.name: _pair_scores(comparison, arm.name, chosen) for arm in comparison.arms}
    partners: dict[str, set[str]] = defaultdict(set)
    for first, second in scores[comparison.control]:
        partners[first].add(second)
    tags = [tag for tag in partners if len(partners[tag]) > 1]
    if not any(partners[tag] & set(tags) for tag in tags):
        tags = list(partners)
    tags.sort(key=lambda tag: (tag != "en", tag))
    skipped = sorted(set(partners) - set(tags))
    grids = {
        arm: np.array([[of_pair.get((first, second), np.nan) for second in tags] for first in tags])
        for arm, of_pair in scores.items()
    }
    low, high = min(map(np.nanmin, grids.values())), max(map(np.nanmax, grids.values()))
    for number, (arm, grid) in enumerate(grids.items(), start=1):
        pairs = {pair: score for pair, score in scores[arm].items() if set(pair) <= set(tags)}
        worst, best = min(pairs, key=lambda pair: pairs[pair]), max(pairs, key=lambda pair: pairs[pair])
        caption = f"{task}, {arm}: F1 in points; the same colours in every arm. Grey: not scored."
        if skipped:
            caption += f" Not shown, with a single partner: {', '.join(skipped)}."
        yield _heat_map(
            grid,
            tags,
            (float(low), float(high)),
            f"{prefix}-heatmap-{number}",
            f"{task}\n{_short(arm)}",
            caption,
            f"Heat map of {task} for arm {arm}: from {pairs[worst]:.1f} ({'-'.join(worst)}) "
            f"to {pairs[best]:.1f} ({'-'.join(best)}).",
        )


def _heat_map(
    grid: np.ndarray, tags: Sequence[str], limits: tuple[float, float], name: str, title: str, caption: str, alt: str
) -> Picture:
    numbered = len(tags) <= _MOST_NUMBERED
    side = max(2.6, (0.36 if numbered else 0.16) * len(tags))
    with _style(name):
        import matplotlib as mpl

        figure = _figure(side + 1.2, side + 0.9)
        axes = figure.add_subplot()
        colours = mpl.colormaps["viridis"].with_extremes(bad="#e4e4e4")
        image = axes.imshow(np.ma.masked_invalid(grid), cmap=colours, vmin=limits[0], vmax=limits[1])
        axes.set_xticks(range(len(tags)), tags, rotation=0 if max(map(len, tags)) < 4 and numbered else 90)
        axes.set_yticks(range(len(tags)), tags)
        axes.set(xlabel="searched", ylabel="query")
        axes.set_title(title, loc="left")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        figure.colorbar(image, ax=axes, label="F1, points", shrink=0.8)
        middle = limits[0] + 0.6 * (limits[1] - limits[0])  # where viridis turns from dark to light
        for (row, column), value in np.ndenumerate(grid) if numbered else ():
            if np.isfinite(value):
                colour = "white" if value < middle else "black"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=7.5)
        return _picture(figure, name, title, caption, alt)


def _english_pairs(comparison: Comparison, task: str, chosen: Sequence[int], name: str) -> Picture:
    by_language: dict[str, list[int]] = defaultdict(list)
    for index in chosen:
        by_language[comparison.subsets[index].languages[1]].append(index)
    scores = {
        arm.name: {tag: 100 * comparison.estimates(arm.name, own).mean for tag, own in by_language.items()}
        for arm in comparison.arms
    }
    control = scores[comparison.control]
    tags = sorted(by_language, key=lambda tag: (control[tag], tag))
    with _style(name):
        styles = _styles(comparison)
        figure, (axes,) = _rows_figure([tags], 1, styles)
        axes.set_title(task, loc="left")
        for arm, (colour, marker) in styles.items():
            axes.plot([scores[arm][tag] for tag in tags], range(len(tags)), marker, color=colour, ms=4.5, alpha=0.85)
        axes.set_xlabel("F1, points")
        return _picture(
            figure,
            name,
            f"{task}: score by language",
            f"{task}: F1 of each language's pairs with English, ordered by the control's score.",
            f"Dot chart of {task} by language and arm. The control {comparison.control} ranges from "
            f"{control[tags[0]]:.1f} ({tags[0]}) to {control[tags[-1]]:.1f} ({tags[-1]}).",
            folded=len(tags) > _ALWAYS_OPEN,
        )


def _rows_figure(
    panels: Sequence[Sequence[str]], arms: int, styles: Mapping[str, tuple[str, str]]
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a legend and one panel above the other, a row a language, as high as it needs to be."""
    row = 0.17 + 0.06 * (arms - 1)
    legend = 0.2 * -(-len(styles) // _legend_columns(styles))
    figure = _figure(_WIDTH, sum(0.45 + row * len(tags) for tags in panels) + 0.4 + legend)
    _legend(figure, styles)
    axes = figure.subplots(
        len(panels), 1, sharex=True, squeeze=False, height_ratios=[0.3 + row * len(tags) for tags in panels]
    )[:, 0]
    for panel, tags in zip(axes, panels, strict=True):
        panel.set_yticks(range(len(tags)), [language_label(tag) for tag in tags])
        panel.set_ylim(-0.7, len(tags) - 0.3)
        panel.grid(axis="x", color="#dddddd", lw=0.6)
        panel.set_axisbelow(True)
        panel.tick_params(axis="y", length=0)
    return figure, list(axes)


def _short(arm: str) -> str:
    return arm if len(arm) <= _LONGEST_NAME else arm[: _LONGEST_NAME - 1] + "…"


def _legend_columns(styles: Iterable[str]) -> int:
    names = list(map(_short, styles))
    return min(4, len(names), 64 // (6 + max(map(len, names))))


def _legend(figure: Figure, styles: Mapping[str, tuple[str, str]], line: str = "") -> None:
    from matplotlib.lines import Line2D

    figure.legend(
        [Line2D([], [], color=colour, marker=marker, ms=4.5, ls=line) for colour, marker in styles.values()],
        list(map(_short, styles)),
        loc="outside upper left",
        ncols=_legend_columns(styles),
        frameon=False,
        handlelength=1.2,
    )


def _changes(comparison: Comparison, results: Sequence[LanguageResult], prefix: str) -> Iterator[Picture]:
    """One chart a family: each language's difference to the control with its interval."""
    arms = comparison.challengers or [BASE]
    families: dict[str, dict[str, dict[str, dict[str, Difference]]]] = {}
    for one in results:
        if one.arm in arms and one.difference:
            panel = families.setdefault(one.family, {}).setdefault(one.exposure, {})
            panel.setdefault(one.language, {})[one.arm] = one.difference
    for number, (family, panels) in enumerate(families.items(), start=1):
        yield _change(comparison, family, panels, arms, f"{prefix}-{number}")


def _change(
    comparison: Comparison,
    family: str,
    panels: Mapping[str, Mapping[str, Mapping[str, Difference]]],
    arms: Sequence[str],
    name: str,
) -> Picture:
    """Draw ``panels[exposure][language][arm]``, languages ordered by the first arm's difference."""
    every = [change for panel in panels.values() for by_arm in panel.values() for change in by_arm.values()]
    with _style(name):
        styles = {arm: _styles(comparison)[arm] for arm in arms}
        tags = [_by_change(panel, arms[0]) for panel in panels.values()]
        figure, axes = _rows_figure(tags, len(arms), styles)
        for drawn, rows, (exposure, panel) in zip(axes, tags, panels.items(), strict=True):
            drawn.axvline(0, color="black", lw=0.8)
            drawn.set_title(f"{family}: {exposure_label(family, exposure)}", loc="left")
            for position, arm in enumerate(arms):
                shift = ((len(arms) - 1) / 2 - position) * 0.5 / len(arms)
                _dots(drawn, [panel[tag][arm] for tag in rows], shift, *styles[arm])
        axes[-1].set_xlabel(f"difference to {_short(comparison.control)}, points")
        return _picture(
            figure,
            name,
            f"{family}: change by language",
            f"{family}: each language's difference to {comparison.control} with its 95% interval. "
            "Filled: the interval excludes 0; hollow: it does not.",
            f"Dots with intervals for {family}: of {len(every)} differences to {comparison.control}, "
            f"{sum(one.sign > 0 for one in every)} are clearly positive and "
            f"{sum(one.sign < 0 for one in every)} clearly negative.",
            folded=sum(map(len, tags)) > _ALWAYS_OPEN,
        )


def _by_change(panel: Mapping[str, Mapping[str, Difference]], arm: str) -> list[str]:
    return sorted(panel, key=lambda tag: (panel[tag][arm].value, tag))


def _dots(panel: Axes, changes: Sequence[Difference], shift: float, colour: str, marker: str) -> None:
    heights = np.arange(len(changes)) + shift
    panel.hlines(heights, [100 * one.low for one in changes], [100 * one.high for one in changes], color=colour, lw=1.1)
    values, clear = np.array([100 * one.value for one in changes]), np.array([one.sign != 0 for one in changes])
    for chosen, fill in ((clear, colour), (~clear, "white")):
        panel.plot(values[chosen], heights[chosen], marker, color=colour, mfc=fill, ms=4.5)


def _curves(comparison: Comparison, name: str) -> Iterator[Picture]:
    """Training loss and dev accuracy against the number of encoded texts; a thin line a seed."""
    wanted = {"loss": "training loss", "dev_accuracy": "dev accuracy"}
    curves = {
        key: [
            (arm.name, points) for arm in comparison.arms for run in arm.runs if (points := _points(run.encoder, key))
        ]
        for key in wanted
    }
    drawn = [key for key in wanted if curves[key]]
    if not drawn:
        return
    words = " and ".join(wanted[key] for key in drawn)
    with _style(name):
        figure = _figure(_WIDTH, 0.5 + 2.2 * len(drawn))
        axes = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
        styles = _styles(comparison)
        for panel, key in zip(axes, drawn, strict=True):
            for arm, points in curves[key]:
                colour, marker = styles[arm]
                panel.plot(*zip(*points, strict=True), color=colour, lw=0.8, marker=marker, ms=3, markevery=0.15)
            panel.set_ylabel(wanted[key])
            panel.grid(color="#dddddd", lw=0.6)
        axes[-1].set_xlabel("texts encoded in training")
        axes[-1].xaxis.set_major_formatter("{x:,.0f}")
        trained = {arm for key in drawn for arm, _ in curves[key]}
        _legend(figure, {arm: style for arm, style in styles.items() if arm in trained}, line="-")
        yield _picture(
            figure,
            name,
            "Training curves",
            f"{words.capitalize()} against texts encoded, one line a seed. Losses of different objectives are not "
            "comparable with each other.",
            f"Curves of {words} against the number of texts encoded. Last {wanted[drawn[-1]]}: "
            f"{', '.join(f'{arm} {points[-1][1]:.3g}' for arm, points in curves[drawn[-1]])}.",
        )


def _points(encoder: Mapping[str, Any] | None, key: str) -> list[tuple[int, float]]:
    history = (encoder or {}).get("history") or ()
    return [(entry["texts"], entry[key]) for entry in history if entry.get(key) is not None]
