"""The report's words and tables, as data; HTML and Markdown are two renderings of the same cells."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from polyalign.reporting.comparison import BASE, Arm, Comparison, Headline, LanguageResult
from polyalign.reporting.labels import exposure_label, interval, language_label, points, printable, signed
from polyalign.reporting.scores import Scores
from polyalign.reporting.significance import Difference, difference

_NONE = "–"


class Cell(NamedTuple):
    """A cell's text and whether it is highlighted: "better", "worse" or not ("")."""

    text: str
    tone: str = ""


class Column(NamedTuple):
    """A column's heading, and whether it holds numbers or long text that may break over lines."""

    name: str
    numeric: bool = False
    long: bool = False


@dataclass(frozen=True)
class Table:
    """A table in groups of rows.

    Attributes:
        caption: Its title.
        columns: Its columns.
        groups: (heading, rows) pairs; a heading may be empty.
        note: What a reader must know to read it.
        folded: Whether the page shows it only on request.
    """

    caption: str
    columns: tuple[Column, ...]
    groups: tuple[tuple[str, tuple[tuple[Cell, ...], ...]], ...]
    note: str = ""
    folded: bool = False


def _change(change: Difference | None) -> Cell:
    if change is None:
        return Cell(_NONE)
    return Cell(interval(change), {1: "better", -1: "worse", 0: ""}[change.sign])


def _arm_label(comparison: Comparison, arm: str) -> str:
    roles = [role for role, name in (("untouched", BASE), ("control", comparison.control)) if name == arm]
    return f"{arm} ({', '.join(roles)})" if roles else arm


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def headline_table(comparison: Comparison, headlines: Sequence[Headline]) -> Table:
    """Means, differences, gains and languages won, by family and exposure."""
    groups: dict[str, list[tuple[Cell, ...]]] = defaultdict(list)
    for one in headlines:
        size = f"{_count(len(one.languages), 'language')}, {_count(one.tasks, 'task')}"
        groups[f"{one.family}, {exposure_label(one.family, one.exposure)} ({size})"].append(
            _headline_row(comparison, one)
        )
    return Table(
        "Scores by family",
        (
            Column("Arm"),
            Column("Mean", True),
            Column(f"Difference to {comparison.control} [95%]", True),
            Column("Relative gain", True),
            Column("Languages won / lost / tied", True),
            Column("Worst language"),
        ),
        tuple((heading, tuple(rows)) for heading, rows in groups.items()),
        note=f"In points. Bold with ▲ or ▼: the interval excludes 0. {seeds_note(comparison)}",
    )


def _headline_row(comparison: Comparison, one: Headline) -> tuple[Cell, ...]:
    tied = len(one.languages) - len(one.won) - len(one.lost)
    return (
        Cell(_arm_label(comparison, one.arm)),
        Cell(points(one.mean)),
        _change(one.difference),
        Cell(_NONE if one.relative_gain is None else f"{signed(one.relative_gain)}%"),
        Cell(f"{len(one.won)} / {len(one.lost)} / {tied}" if one.difference else _NONE),
        Cell(f"{language_label(one.worst[0])} {points(one.worst[1])}" if one.worst else _NONE),
    )


def english_table(comparison: Comparison, english: Sequence[Headline]) -> Table:
    """English before and after, by family."""
    before = next((one.arm for one in english if one.difference is None), comparison.control)
    groups: dict[str, list[tuple[Cell, ...]]] = defaultdict(list)
    for one in english:
        groups[f"{one.family} ({_count(one.tasks, 'task')})"].append(
            (Cell(_arm_label(comparison, one.arm)), Cell(points(one.mean)), _change(one.difference))
        )
    untouched = "" if before == BASE else " There are no scores of the untouched base to compare with."
    return Table(
        "English before and after",
        (Column("Arm"), Column("English", True), Column(f"Change from {before} [95%]", True)),
        tuple((heading, tuple(rows)) for heading, rows in groups.items()),
        note=f"Scores on texts in English alone, in points.{untouched}",
    )


def language_table(comparison: Comparison, results: Sequence[LanguageResult]) -> Table:
    """Each language's score in every arm, and its difference to the control."""
    rivals = [arm.name for arm in comparison.arms if arm.name != comparison.control]
    found: dict[tuple[str, str], dict[str, dict[str, LanguageResult]]] = defaultdict(lambda: defaultdict(dict))
    for one in results:
        found[one.family, one.exposure][one.language][one.arm] = one
    return Table(
        "Scores by language",
        (
            Column("Language"),
            Column(f"{comparison.control} (control)", True),
            *(column for arm in rivals for column in (Column(arm, True), Column(f"{arm} − control [95%]", True))),
        ),
        tuple(
            (
                f"{family}, {exposure_label(family, exposure)}",
                tuple(
                    (
                        Cell(language_label(language)),
                        Cell(points(by_arm[comparison.control].mean)),
                        *(
                            cell
                            for arm in rivals
                            for cell in (Cell(points(by_arm[arm].mean)), _change(by_arm[arm].difference))
                        ),
                    )
                    for language, by_arm in by_language.items()
                ),
            )
            for (family, exposure), by_language in found.items()
        ),
        note="In points. A language's score is the mean over tasks of the mean over the subsets that contain it.",
        folded=True,
    )


def cost_table(comparison: Comparison) -> Table:
    """What training and evaluation took."""
    return Table(
        "Cost",
        (
            Column("Arm"),
            Column("Runs", True),
            *(Column(f"Training: {name}", True) for name in ("texts encoded", "pairs", "rows", "steps", "seconds")),
            *(Column(f"Evaluation: {name}", True) for name in ("texts encoded", "seconds")),
        ),
        (("", tuple(_cost_row(comparison, arm) for arm in comparison.arms)),),
        note="Mean over an arm's runs. Seconds are wall-clock on whatever machine ran them; the counts do not depend "
        "on it.",
    )


def _cost_row(comparison: Comparison, arm: Arm) -> tuple[Cell, ...]:
    training = [(run.encoder or {}).get("cost") or {} for run in arm.runs]
    evaluation = [run.manifest.get("cost") or {} for run in arm.runs]
    return (
        Cell(_arm_label(comparison, arm.name)),
        Cell(str(len(arm.runs))),
        *(_mean_cost(training, key) for key in ("texts_encoded", "pairs", "rows_seen", "steps", "seconds")),
        *(_mean_cost(evaluation, key) for key in ("texts_encoded", "seconds")),
    )


def _mean_cost(costs: Sequence[dict[str, Any]], key: str) -> Cell:
    known = [cost[key] for cost in costs if cost.get(key) is not None]
    return Cell(f"{sum(known) / len(known):,.0f}" if known else _NONE)


def left_out_table(comparison: Comparison) -> Table | None:
    """What could not be compared, and why; None when nothing was left out."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in comparison.left_out:
        found[one.task, one.reason].append(one.subset)
    if not found:
        return None
    return Table(
        "Left out of this comparison",
        (Column("Task"), Column("Subsets", long=True), Column("Why", long=True)),
        (
            (
                "",
                tuple(
                    (Cell(task), Cell(f"{len(subsets)}: {', '.join(subsets)}"), Cell(reason))
                    for (task, reason), subsets in found.items()
                ),
            ),
        ),
    )


def sources_table(scores: Sequence[Scores]) -> Table:
    """Which model, on which data, each line of scores is."""
    return Table(
        "Scores compared",
        (
            *map(Column, ("Arm", "Seed", "Budgets", "Model", "Fingerprint", "Data", "Split")),
            Column("Trained on", long=True),
            Column("Languages seen", long=True),
        ),
        (("", tuple(_source_row(one) for one in scores)),),
    )


def _source_row(one: Scores) -> tuple[Cell, ...]:
    encoder = one.encoder or {}
    corpus = encoder.get("corpus") or {}
    texts = (
        one.arm,
        one.seed if encoder else _NONE,
        ", ".join(one.manifest["budgets"]) or "all",
        one.manifest.get("model"),
        _short(one.manifest.get("encoder_fingerprint")),
        {"hub": "Hugging Face Hub", "local": "local copy"}.get(one.manifest.get("data_source", "")),
        one.manifest.get("split") or "default",
        f"{corpus.get('name')}, {corpus.get('rows', 0):,} rows, {_short(corpus.get('fingerprint'))}" if corpus else "",
        ", ".join(encoder.get("languages") or ()),
    )
    return tuple(Cell(printable(str(text)) if text not in (None, "") else _NONE) for text in texts)


def _short(digest: str | None) -> str:
    return (digest or "")[:12]


def missing_table(scores: Sequence[Scores]) -> Table | None:
    """Languages asked for that a task does not have; None when none is missing."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for one in scores:
        for task, languages in (one.manifest.get("missing") or {}).items():
            found[task].update(dict.fromkeys(languages))
    rows = tuple((Cell(printable(task)), Cell(printable(", ".join(found[task])))) for task in found if found[task])
    if not rows:
        return None
    return Table("Languages that a task does not have", (Column("Task"), Column("Languages", long=True)), (("", rows),))


def versions_table(versions: dict[str, str], scores: Sequence[Scores]) -> Table:
    """Library versions of this report and of the scores."""
    recorded: dict[str, dict[str, None]] = defaultdict(dict)
    for one in scores:
        for library, version in (one.manifest.get("versions") or {}).items():
            recorded[library][str(version)] = None
    return Table(
        "Versions",
        (Column("Library"), Column("Evaluation"), Column("This report")),
        (
            (
                "",
                tuple(
                    (
                        Cell(printable(name)),
                        Cell(printable(", ".join(recorded[name])) or _NONE),
                        Cell(versions.get(name, _NONE)),
                    )
                    for name in dict.fromkeys((*versions, *recorded))
                ),
            ),
        ),
    )


def seeds_note(comparison: Comparison) -> str:
    """Say what the intervals cover: other test items only, or other training seeds too."""
    runs = {arm.name: len(arm.runs) for arm in comparison.arms if arm.trained}
    single = [name for name, number in runs.items() if number == 1]
    if not runs:
        return "No arm was trained here: the intervals cover other test items only."
    if len(single) == len(runs):
        return "One seed per arm: the intervals cover other test items only, not other training runs."
    counts = ", ".join(f"{name} {number}" for name, number in runs.items())
    note = f"Seeds: {counts}; the intervals cover other test items and other seeds."
    if single:
        note += f" Differences of {', '.join(single)}, with one seed, cover other test items only."
    if 2 in runs.values():
        note += " Two seeds say little about others, which makes the intervals wide; three or more narrow them."
    return note


def verdict(comparison: Comparison, headlines: Sequence[Headline], english: Sequence[Headline]) -> list[str]:
    """Say in plain words what the numbers show: each arm against the control, then the trained arms and the base."""
    sentences = []
    for arm in comparison.challengers:
        changes = {(one.family, one.exposure): one.difference for one in headlines if one.arm == arm and one.difference}
        parts = [
            f"better on {_listed(changes, 1)}",
            f"worse on {_listed(changes, -1)}",
            f"no clear difference on {_listed(changes, 0, numbers=False)}",
        ]
        sentences.append(
            f"{arm} against {comparison.control}: {'; '.join(part for part in parts if not part.endswith(' on '))}."
        )
    if comparison.control != BASE and any(arm.name == BASE for arm in comparison.arms):
        sentences += [_against_base(comparison, arm.name, english) for arm in comparison.arms if arm.name != BASE]
    return sentences


def _listed(changes: Mapping[tuple[str, str], Difference], sign: int, *, numbers: bool = True) -> str:
    """Return "STS seen (+1.2 [0.3, 2.1]) and unseen (...)" for the changes of that sign, one family after the other."""
    families: dict[str, list[str]] = defaultdict(list)
    for (family, exposure), change in changes.items():
        if change.sign == sign:
            name = {"mixed": "partly seen", "english": "English"}.get(exposure, exposure)
            families[family].append(f"{name} ({interval(change)})" if numbers else name)
    return ", ".join(f"{family} {' and '.join(found)}" for family, found in families.items())


def _against_base(comparison: Comparison, arm: str, english: Sequence[Headline]) -> str:
    changes = {
        (family, exposure): difference(comparison.estimates(arm, chosen), comparison.estimates(BASE, chosen))
        for family, exposure, chosen in comparison.cells()
    } | {(one.family, one.exposure): one.difference for one in english if one.arm == arm and one.difference}
    better = sum(change.sign > 0 for change in changes.values())
    return (
        f"{arm} against the untouched base: better on {better} of {len(changes)} family scores, English included; "
        f"worse on {_listed(changes, -1) or 'none'}."
    )


def definitions(resamples: int, seed: int) -> Iterable[tuple[str, str]]:
    """Return (term, meaning) pairs for the method section."""
    return (
        (
            "Score of an arm",
            "For a family and exposure: the mean over tasks of the mean over that task's subsets of the task's main "
            "MTEB score (bitext: F1; STS: Spearman correlation of the cosine similarity; classification: accuracy), "
            "then the mean over seeds. In points: 100 times MTEB's number. Only subsets that every arm and seed has "
            "are used.",
        ),
        (
            "Seen, unseen",
            "A subset is seen when every language in it other than English was in the alignment training, and unseen "
            "when one or more were not. The untouched base is put with the arms it is compared with.",
        ),
        (
            "Difference and interval",
            "Arm minus control with a 95% paired-bootstrap interval: the metric itself is recomputed on each of "
            f"{resamples:,} resamples of the test items (random seed {seed}), the same resample for both arms, and "
            "items that are the same in several languages are drawn together. With one seed the interval is over "
            "items only (percentiles of the resamples, centred on the difference). With several, the half-width of a "
            "Student t interval over seeds is added in quadrature (MOVER, Zou & Donner 2008), which covers 95% where "
            "items or seeds dominate and more where they mix. Arms with the same seeds are compared seed by seed.",
        ),
        (
            "Won, lost, tied",
            "A language other than English is won when the interval of its difference lies above 0, lost when below, "
            "else tied. Intervals are not corrected for their number: of 100 languages without any true difference, "
            "up to five would be expected to be called won or lost.",
        ),
        ("Relative gain", "100 × (arm − control) / control, of the means."),
        ("Worst language", "The language with the lowest mean, and that mean."),
    )
