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
from scipy.optimize import isotonic_regression

from polyalign.reporting.comparison import BASE, FAMILIES, Comparison, LanguageResult
from polyalign.reporting.growth import Growth
from polyalign.reporting.labels import exposure_label, language_label, points, printable
from polyalign.reporting.pool import Bias
from polyalign.reporting.significance import Difference, mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _SOFT, _GRID, _PAPER = "#1b1b1b", "#8a8a8a", "#dddddd", "#ffffff"
# Okabe and Ito's colours, told apart with any colour vision; the shapes repeat what the colours say
_CONTROL_STYLE = (_INK, "s")
_BASE_STYLE = (_SOFT, "X")
_STYLES = (("#0072b2", "o"), ("#d55e00", "^"), ("#009e73", "D"), ("#cc79a7", "v"), ("#e69f00", "P"), ("#56b4e9", "<"))
_SHORT_EXPOSURES = {"seen": "seen", "unseen": "unseen", "mixed": "partly seen"}
_SIGN_COLOURS = {1: "#0072b2", -1: "#d55e00", 0: _SOFT}
_RC = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that files are the same everywhere
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "lines.markersize": 4.5,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "svg.fonttype": "path",
    "text.parse_math": False,
}
_WIDTH = 3.45  # inches, so that three stand side by side on a page and one fills a phone's
_HEADING: dict[str, Any] = {"x": 0.01, "ha": "left", "fontsize": 8.5, "fontweight": "bold"}
_LONGEST_NAME = 20  # characters of an arm's name in a figure
_ALWAYS_OPEN = 40  # rows above which the page folds a chart away
_MANY_TIMES = 8  # costs further apart than that stand on a logarithmic axis
_MOST_NAMED = 12  # languages that a slope chart names; of more, those that changed most clearly


@dataclass(frozen=True)
class Picture:
    """A finished figure.

    Attributes:
        name: File name without suffix.
        title: What it shows, in a few words.
        alt: What a reader who cannot see it needs to know.
        svg: The `<svg>` element. Colours are as ``var(--c0072b2, #0072b2)``, so that a style can change them.
        png: The same as PNG.
        width: Natural width in CSS pixels.
        folded: Whether it is so tall that the page shows it only on request.
    """

    name: str
    title: str
    alt: str
    svg: str
    png: bytes
    width: int
    folded: bool = False


def draw(
    comparison: Comparison, results: Sequence[LanguageResult], biases: Sequence[Bias], prefix: str
) -> dict[str, tuple[Picture, ...]]:
    """Return the figures of one comparison by the section they belong to: seeds, slopes, change, pool, curves.

    Args:
        comparison: What to draw.
        results: Its results by language.
        biases: Its results on mixed pools.
        prefix: Start of the file names, unique to this comparison.
    """
    return {
        "seeds": tuple(_seeds(comparison, f"{prefix}-seeds")),
        "slopes": tuple(_slopes(comparison, results, f"{prefix}-slopes")),
        "change": tuple(_changes(comparison, results, f"{prefix}-change")),
        "pool": tuple(_pool(comparison, biases, f"{prefix}-pool")),
        "curves": tuple(_curves(comparison, f"{prefix}-training")),
    }


@contextmanager
def _style(name: str) -> Iterator[None]:
    """Draw with our settings whatever the user's own are; ids inside the SVG follow from ``name`` alone."""
    from matplotlib import style

    with style.context(["default", _RC | {"svg.hashsalt": name}]):
        yield


def _picture(figure: Figure, name: str, title: str, alt: str, *, folded: bool = False) -> Picture:
    svg, png = io.StringIO(), io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(svg, format="svg", metadata=nothing)
    figure.set_layout_engine("none")  # as laid out, so that both files are the same picture
    figure.savefig(png, format="png", metadata={"Software": None})
    element = svg.getvalue()
    element = re.sub(r"<!--.*?-->", "", element[element.index("<svg") :], flags=re.DOTALL)
    element = re.sub(r"(?<=: )#([0-9a-f]{6})\b", r"var(--c\1, #\1)", element)
    return Picture(name, title, alt, element, png.getvalue(), round(figure.get_figwidth() * 96), folded)


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH, height), layout="constrained")


def _styles(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """Return arm -> (colour, marker), the same in every figure and in the order of the arms."""
    fixed = {BASE: _BASE_STYLE, comparison.control: _CONTROL_STYLE}
    others = {name: _STYLES[index % len(_STYLES)] for index, name in enumerate(comparison.challengers)}
    return {arm.name: (fixed | others)[arm.name] for arm in comparison.arms}


def _short(arm: str) -> str:
    return arm if len(arm) <= _LONGEST_NAME else arm[: _LONGEST_NAME - 1] + "…"


def _legend(figure: Figure, heading: str, styles: Mapping[str, tuple[str, str]], line: str = "") -> None:
    from matplotlib.lines import Line2D

    figure.legend(
        [Line2D([], [], color=colour, marker=marker, ls=line) for colour, marker in styles.values()],
        list(map(_short, styles)),
        loc="outside upper left",
        ncols=_legend_columns(styles),
        frameon=False,
        handlelength=1.2,
        columnspacing=1.2,
        title=heading,
        alignment="left",
        title_fontproperties={"weight": "bold"},
        borderaxespad=0,
    )


def _legend_columns(styles: Iterable[str]) -> int:
    names = list(map(_short, styles))
    return max(1, min(4, len(names), 46 // (5 + max(map(len, names)))))


def _legend_height(styles: Mapping[str, tuple[str, str]]) -> float:
    return 0.3 + 0.2 * -(-len(styles) // _legend_columns(styles))


def _by_family(cells: Iterable[tuple[str, str, list[int]]]) -> dict[str, list[tuple[str, list[int]]]]:
    families: dict[str, list[tuple[str, list[int]]]] = defaultdict(list)
    for family, exposure, chosen in cells:
        families[family].append((exposure, chosen))
    return families


def _seeds(comparison: Comparison, prefix: str) -> Iterator[Picture]:
    """One chart a family: each arm's seeds, their mean and its interval."""
    english = [(family, "english", comparison.choose(family, "english")) for family in FAMILIES]
    cells = [cell for cell in (*comparison.cells(), *english) if cell[2]]
    for number, (family, panels) in enumerate(_by_family(cells).items(), start=1):
        yield _seeds_of(comparison, family, panels, f"{prefix}-{number}")


def _seeds_of(comparison: Comparison, family: str, panels: Sequence[tuple[str, list[int]]], name: str) -> Picture:
    styles = _styles(comparison)
    row = 0.24 * len(comparison.arms)
    means = []
    with _style(name):
        figure = _figure(0.5 + sum(0.42 + row for _ in panels))
        figure.suptitle(family, **_HEADING)
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for drawn, (exposure, chosen) in zip(axes, panels, strict=True):
            for height, (arm, (colour, _)) in enumerate(styles.items()):
                own = comparison.estimates(arm, chosen)
                spread = mean_interval(own)
                drawn.hlines(height, 100 * spread.low, 100 * spread.high, color=colour, lw=5, alpha=0.28)
                drawn.plot(100 * own.points, [height] * len(own.points), ".", color=colour, ms=5, alpha=0.75)
                drawn.plot(100 * own.mean, height, "|", color=colour, ms=12, mew=2)
                means.append(f"{exposure} {arm} {points(own.mean)}")
            drawn.set_yticks(range(len(styles)), list(map(_short, styles)))
            drawn.set_ylim(len(styles) - 0.5, -0.5)
            drawn.set_title(exposure_label(family, exposure), loc="left")
            drawn.tick_params(axis="y", length=0)
            drawn.grid(axis="x")
            drawn.set_axisbelow(True)
        axes[-1].set_xlabel("score, points")
        return _picture(
            figure,
            name,
            f"{family}: every seed",
            f"Means for {family} in points: {', '.join(means)}.",
        )


def _slopes(comparison: Comparison, results: Sequence[LanguageResult], prefix: str) -> Iterator[Picture]:
    """One chart a family: each language's score from the control to an arm, seen and unseen languages apart."""
    families: dict[str, dict[tuple[str, str], list[LanguageResult]]] = defaultdict(lambda: defaultdict(list))
    before = {(one.family, one.exposure, one.language): one for one in results if one.arm == comparison.control}
    for one in results:
        if one.arm in comparison.compared:
            families[one.family][one.arm, one.exposure].append(one)
    for number, (family, panels) in enumerate(families.items(), start=1):
        yield _slopes_of(comparison, family, panels, before, f"{prefix}-{number}")


def _slopes_of(
    comparison: Comparison,
    family: str,
    panels: Mapping[tuple[str, str], Sequence[LanguageResult]],
    before: Mapping[tuple[str, str, str], LanguageResult],
    name: str,
) -> Picture:
    """Draw ``panels[arm, exposure]``: a row of axes an arm, a column an exposure."""
    arms, exposures = (list(dict.fromkeys(key[place] for key in panels)) for place in (0, 1))
    height = 1.3 + 0.1 * min(max(map(len, panels.values())), _MOST_NAMED)
    every = [one for panel in panels.values() for one in panel]
    with _style(name):
        figure = _figure(0.3 + len(arms) * height)
        figure.suptitle(family, **_HEADING)
        axes = figure.subplots(len(arms), len(exposures), sharey=True, squeeze=False)
        for (arm, exposure), panel in panels.items():
            drawn = axes[arms.index(arm), exposures.index(exposure)]
            for one in sorted(panel, key=_clear_last):
                start = before[one.family, one.exposure, one.language].mean
                faint = 0.4 if len(panel) > _MOST_NAMED and not _sign(one) else 1
                colour = _SIGN_COLOURS[_sign(one)]
                drawn.plot([0, 1], [100 * start, 100 * one.mean], "o-", color=colour, alpha=faint, lw=1.1, ms=2.8)
            drawn.set_xlim(-0.05, 1.05)
            drawn.set_xticks([])
            drawn.set_title(_SHORT_EXPOSURES[exposure] if arm == arms[0] else "", loc="left")
            drawn.grid(axis="y")
            drawn.set_axisbelow(True)
            drawn.set_ylabel(_short(arm) if exposure == exposures[0] else "")
        for (arm, exposure), panel in panels.items():
            _name_languages(axes[arms.index(arm), exposures.index(exposure)], panel, height - 0.4)
        return _picture(
            figure,
            name,
            f"{family}: from {comparison.control} to each arm",
            f"Slopes by language for {family}: {sum(_sign(one) > 0 for one in every)} rise clearly, "
            f"{sum(_sign(one) < 0 for one in every)} fall clearly, of {len(every)}.",
        )


def _sign(one: LanguageResult) -> int:
    return one.difference.sign if one.difference else 0


def _clear_last(one: LanguageResult) -> tuple[bool, float]:
    return _sign(one) != 0, abs(one.difference.value) if one.difference else 0.0


def _name_languages(panel: Axes, results: Sequence[LanguageResult], inches: float) -> None:
    """Write the tags beside the right ends of the lines, moved apart where they would cover each other."""
    named = sorted(sorted(results, key=_clear_last)[-_MOST_NAMED:], key=lambda one: one.mean)
    low, high = panel.get_ylim()
    apart = 0.115 * (high - low) / inches * np.arange(len(named))
    places = isotonic_regression([100 * one.mean for one in named] - apart).x + apart
    for one, place in zip(named, places, strict=True):
        panel.text(1.08, place, printable(one.language)[:12], va="center", fontsize=7.5)


def _rows_figure(
    heading: str, panels: Sequence[Sequence[str]], arms: int, styles: Mapping[str, tuple[str, str]]
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a legend and one panel above the other, a row a language, as high as it needs to be."""
    row = 0.17 + 0.06 * (arms - 1)
    figure = _figure(sum(0.45 + row * len(tags) for tags in panels) + 0.4 + _legend_height(styles))
    _legend(figure, heading, styles)
    axes = figure.subplots(
        len(panels), 1, sharex=True, squeeze=False, height_ratios=[0.3 + row * len(tags) for tags in panels]
    )[:, 0]
    for panel, tags in zip(axes, panels, strict=True):
        panel.set_yticks(range(len(tags)), [_short(language_label(tag)) for tag in tags])
        panel.set_ylim(-0.7, len(tags) - 0.3)
        panel.grid(axis="x")
        panel.set_axisbelow(True)
        panel.tick_params(axis="y", length=0)
    return figure, list(axes)


def _changes(comparison: Comparison, results: Sequence[LanguageResult], prefix: str) -> Iterator[Picture]:
    """One chart a family: each language's difference to the control with its interval."""
    arms = comparison.compared
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
        figure, axes = _rows_figure(family, tags, len(arms), styles)
        for drawn, rows, (exposure, panel) in zip(axes, tags, panels.items(), strict=True):
            drawn.axvline(0, color=_INK, lw=0.8)
            drawn.set_title(exposure_label(family, exposure), loc="left")
            for position, arm in enumerate(arms):
                shift = ((len(arms) - 1) / 2 - position) * 0.5 / len(arms)
                _dots(drawn, [panel[tag][arm] for tag in rows], shift, *styles[arm])
        axes[-1].set_xlabel(f"difference to {_short(comparison.control)}, points")
        return _picture(
            figure,
            name,
            f"{family}: change by language",
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
    for chosen, fill in ((clear, colour), (~clear, _PAPER)):
        panel.plot(values[chosen], heights[chosen], marker, color=colour, mfc=fill)


def _pool(comparison: Comparison, biases: Sequence[Bias], prefix: str) -> Iterator[Picture]:
    """One chart a task: each subset's accuracy in the mixed pool against its language bias, an arm a colour."""
    tasks: dict[str, list[Bias]] = defaultdict(list)
    for one in biases:
        tasks[one.task].append(one)
    for number, (task, own) in enumerate(tasks.items(), start=1):
        name = f"{prefix}-{number}"
        with _style(name):
            styles = _styles(comparison)
            figure = _figure(2.6 + _legend_height(styles))
            _legend(figure, task, styles)
            axes = figure.subplots()
            for arm, (colour, marker) in styles.items():
                mine = [one for one in own if one.arm == arm]
                x, y = [100 * one.same_language for one in mine], [100 * one.accuracy for one in mine]
                axes.plot(x, y, marker, color=colour, alpha=0.4, mew=0)
                axes.plot(np.mean(x), np.mean(y), marker, color=colour, ms=9)
            axes.set_xlabel("found in the query's own language, %")
            axes.set_ylabel("accuracy, points")
            axes.grid()
            axes.set_axisbelow(True)
            means = ", ".join(
                f"{arm} {points(float(np.mean([one.accuracy for one in own if one.arm == arm])))}" for arm in styles
            )
            yield _picture(
                figure,
                name,
                f"{task}: accuracy and language bias",
                f"Accuracy of {task} against the share found in the query's own language. Mean accuracy: {means}.",
            )


def draw_costs(comparisons: Sequence[Comparison]) -> tuple[Picture, ...]:
    """Return one figure a family: the mean score of every arm of every budget against what training cost.

    Args:
        comparisons: All comparisons of a report.
    """
    families = dict.fromkeys(family for one in comparisons for family, _, _ in one.cells())
    styles: dict[str, tuple[str, str]] = {}
    for comparison in comparisons:
        styles = _styles(comparison) | styles
    if not any(arm.mean_cost("texts_encoded") for one in comparisons for arm in one.arms):
        return ()
    return tuple(
        _quality_and_cost(comparisons, family, styles, f"cost-{number}")
        for number, family in enumerate(families, start=1)
    )


def _quality_and_cost(
    comparisons: Sequence[Comparison], family: str, styles: Mapping[str, tuple[str, str]], name: str
) -> Picture:
    quantities = {"texts_encoded": "texts encoded", "seconds": "seconds"}
    dearest = ("", 0.0)
    with _style(name):
        figure = _figure(2.0 + _legend_height(styles))
        _legend(figure, family, styles)
        axes = figure.subplots(1, 2, sharey=True)
        for drawn, (key, label) in zip(axes, quantities.items(), strict=True):
            trained: list[float] = []
            for arm, (colour, marker) in styles.items():
                found = sorted(_costs(comparisons, family, arm, key))
                for cost, mean, low, high in found:
                    drawn.vlines(cost, low, high, color=colour, lw=1.1, clip_on=False)
                    dearest = max(dearest, (arm, mean), key=lambda one: one[1])
                x, y = [one[0] for one in found], [one[1] for one in found]
                drawn.plot(x, y, marker, color=colour, ls="-", lw=0.7, clip_on=False)
                trained += [cost for cost in x if cost > 0]
            drawn.set_xlabel(label)
            if trained and max(trained) > _MANY_TIMES * min(trained):  # an untouched model stands at 0 all the same
                drawn.set_xscale("symlog", linthresh=min(trained))
            else:
                drawn.xaxis.set_major_locator(_few_ticks())
            drawn.set_xlim(left=0)
            drawn.xaxis.set_major_formatter(_compact)
            drawn.grid()
            drawn.set_axisbelow(True)
        axes[0].set_ylabel("points")
        return _picture(
            figure,
            name,
            f"{family}: quality and cost",
            f"Score of {family} against texts encoded and seconds of training; the highest is "
            f"{dearest[0]} with {dearest[1]:.1f} points.",
        )


def _costs(
    comparisons: Sequence[Comparison], family: str, arm: str, key: str
) -> Iterator[tuple[float, float, float, float]]:
    """Yield (cost, mean, low, high) of an arm in each comparison, without those that are the same runs again."""
    seen = set()
    for comparison in comparisons:
        chosen = [index for name, _, positions in comparison.cells() if name == family for index in positions]
        if not chosen or arm not in [one.name for one in comparison.arms]:
            continue
        own = comparison.arm(arm)
        cost = own.mean_cost(key) if own.trained else 0.0
        if cost is None:
            continue
        spread = mean_interval(comparison.estimates(arm, chosen))
        point = (cost, 100 * spread.value, 100 * spread.low, 100 * spread.high)
        if point[:2] not in seen:
            seen.add(point[:2])
            yield point


def draw_growth(found: Sequence[Growth], comparisons: Sequence[Comparison]) -> tuple[Picture, ...]:
    """Return one figure for what grows and a family: the mean of every arm against the size of the corpus.

    Args:
        found: What grows.
        comparisons: All comparisons of a report.
    """
    styles: dict[str, tuple[str, str]] = {}
    for comparison in comparisons:
        styles = _styles(comparison) | styles
    figures: dict[tuple[str, str, str], list[Growth]] = defaultdict(list)
    for one in found:
        figures[one.quantity, one.fixed, one.family].append(one)
    return tuple(
        _quality_and_size(own, styles, f"growth-{number}") for number, own in enumerate(figures.values(), start=1)
    )


def _quality_and_size(found: Sequence[Growth], styles: Mapping[str, tuple[str, str]], name: str) -> Picture:
    exposures = list(dict.fromkeys(one.exposure for one in found))
    quantity, family = found[0].quantity, found[0].family
    shown = {arm: style for arm, style in styles.items() if arm in [one.arm for one in found]}
    with _style(name):
        figure = _figure(2.0 + _legend_height(shown))
        _legend(figure, family, shown)
        axes = figure.subplots(1, len(exposures), sharey=True, squeeze=False)[0]
        for panel, exposure in zip(axes, exposures, strict=True):
            for one in (growth for growth in found if growth.exposure == exposure):
                colour, marker = styles[one.arm]
                amounts = [size.amount for size in one.sizes]
                low, mean, high = (
                    [100 * getattr(size.mean, end) for size in one.sizes] for end in ("low", "value", "high")
                )
                panel.vlines(amounts, low, high, color=colour, lw=1.1)
                panel.plot(amounts, mean, marker, color=colour, ls="-", lw=0.7)
            panel.set_xscale("log")
            panel.set_xticks(amounts, [_compact(float(f"{amount:.2g}")) for amount in amounts])
            panel.minorticks_off()
            panel.set_title(_SHORT_EXPOSURES[exposure], loc="left")
            panel.set_xlabel(quantity)
            panel.grid()
            panel.set_axisbelow(True)
        axes[0].set_ylabel("points")
        highest = max(found, key=lambda one: one.sizes[-1].mean.value)
        return _picture(
            figure,
            name,
            f"{family}: quality and {quantity}",
            f"Score of {family} against {quantity} of the corpus; with most of them the highest is {highest.arm}, "
            f"{highest.exposure}, with {points(highest.sizes[-1].mean.value)} points.",
        )


def _compact(value: float, _: int | None = None) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=3)


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
        trained = {arm for key in drawn for arm, _ in curves[key]}
        styles = {arm: style for arm, style in _styles(comparison).items() if arm in trained}
        figure = _figure(0.3 + 1.7 * len(drawn) + _legend_height(styles))
        axes = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
        for panel, key in zip(axes, drawn, strict=True):
            for arm, points in curves[key]:
                colour, marker = styles[arm]
                panel.plot(*zip(*points, strict=True), color=colour, lw=0.8, marker=marker, ms=3, markevery=0.15)
            panel.set_ylabel(wanted[key])
            panel.grid()
        axes[-1].set_xlabel("texts encoded in training")
        axes[-1].xaxis.set_major_formatter(_compact)
        axes[-1].xaxis.set_major_locator(_few_ticks())
        _legend(figure, "training", styles, line="-")
        yield _picture(
            figure,
            name,
            "Training curves",
            f"Curves of {words} against the number of texts encoded. Last {wanted[drawn[-1]]}: "
            f"{', '.join(f'{arm} {points[-1][1]:.3g}' for arm, points in curves[drawn[-1]])}.",
        )


def _points(encoder: Mapping[str, Any] | None, key: str) -> list[tuple[int, float]]:
    history = (encoder or {}).get("history") or ()
    return [(entry["texts"], entry[key]) for entry in history if entry.get(key) is not None]
