"""Where the numbers of a report come from: models, data, settings, versions, and the commands that make them again."""

from __future__ import annotations

import json
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from polyalign.reporting.labels import printable
from polyalign.reporting.scores import Scores
from polyalign.reporting.tables import NONE, Cell, Column, Table

_OWN_ROWS = "OwnRowsBitext"
_SETTINGS = ("base", "teacher", "processes", "batch_rows", "gradient_cache", "temperature")


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
        one.seed if encoder else None,
        ", ".join(map(printable, one.manifest["budgets"])) or "all",
        one.manifest.get("model"),
        _short(one.manifest.get("encoder_fingerprint")),
        {"hub": "Hugging Face Hub", "local": "local copy"}.get(one.manifest.get("data_source", "")),
        one.manifest.get("split") or "default",
        f"{corpus.get('rows', 0):,} rows of corpus {_short(corpus.get('fingerprint'))}" if corpus else None,
    )
    seen = ", ".join(map(printable, encoder.get("languages") or ()))
    return (*(Cell(NONE if text in (None, "") else printable(str(text))) for text in texts), Cell(seen or NONE))


def _short(digest: str | None) -> str:
    return (digest or "")[:12]


def settings_table(scores: Sequence[Scores]) -> Table | None:
    """Every setting of training, an arm with its budgets a column; None when nothing was trained here."""
    found: dict[str, dict[str, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
    columns: dict[str, None] = {}
    for one in scores:
        if one.encoder:
            column = ", ".join([one.arm, *map(printable, one.manifest["budgets"])])
            columns[column] = None
            for name, value in _settings(one.encoder):
                found[name][column][printable(value if isinstance(value, str) else json.dumps(value))] = None
    if not found:
        return None
    groups: dict[str, list[tuple[Cell, ...]]] = {"Where arms differ": [], "The same in all arms": []}
    for name, by_arm in found.items():
        texts = [", ".join(by_arm[column]) for column in columns]
        same = len(set(texts)) == 1
        groups["The same in all arms" if same else "Where arms differ"].append(
            (Cell(printable(name)), *(Cell(text or NONE) for text in texts))
        )
    return Table(
        "Settings of training",
        (Column("Setting"), *map(Column, columns)),
        tuple((heading, tuple(rows)) for heading, rows in groups.items() if rows),
        note="As in each encoder's record; several values where the seeds of an arm differ.",
        folded=True,
    )


def _settings(encoder: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "objective", encoder.get("objective_name")
    for part in ("objective", "budget", "training"):
        of_part = encoder.get(part)
        for name, value in of_part.items() if isinstance(of_part, dict) else ():
            yield f"{part}.{name}", value
    for name in _SETTINGS:
        if name in encoder:
            yield name, encoder[name]
    yield "base_fingerprint", _short(encoder.get("base_fingerprint"))


def missing_table(scores: Sequence[Scores]) -> Table | None:
    """Languages asked for that a task does not have; None when none is missing."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for one in scores:
        for task, languages in (one.manifest.get("missing") or {}).items():
            found[task].update(dict.fromkeys(map(printable, languages)))
    rows = tuple((Cell(printable(task)), Cell(", ".join(found[task]))) for task in found if found[task])
    if not rows:
        return None
    return Table("Languages that a task does not have", (Column("Task"), Column("Languages", long=True)), (("", rows),))


def versions_table(versions: Mapping[str, str], scores: Sequence[Scores]) -> Table:
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
                        Cell(printable(", ".join(recorded[name])) or NONE),
                        Cell(versions.get(name, NONE)),
                    )
                    for name in dict.fromkeys((*versions, *recorded))
                ),
            ),
        ),
    )


def commands(scores: Sequence[Scores], control: str | None, resamples: int) -> tuple[str, ...]:
    """Return the commands that evaluate and compare again, as far as the manifests tell.

    Capitals stand for what a manifest does not say: where the user's data lies.
    """
    folders = [f"scores/{printable(one.path.name)}" for one in scores]
    lines = [_evaluate(one, folder) for one, folder in zip(scores, folders, strict=True)]
    chosen = ["--control", control] if control else []
    compare = ["polyalign", "compare", *folders, *chosen, "--resamples", str(resamples), "--out", "report"]
    return (*lines, shlex.join(map(printable, compare)))


def _evaluate(one: Scores, folder: str) -> str:
    tasks = list(map(str, one.manifest.get("tasks") or ()))
    official = [task for task in tasks if task != _OWN_ROWS]
    asked = ["--languages", ",".join(map(printable, one.manifest.get("languages") or ["all"]))]
    asked += ["--tasks", ",".join(map(printable, official))] if official else []
    asked += ["--own-rows", "ROWS"] if _OWN_ROWS in tasks else []
    asked += ["--split", printable(str(one.manifest["split"]))] if one.manifest.get("split") else []
    asked += ["--mteb-data", "DATA"] if official and one.manifest.get("data_source") == "local" else []
    asked += [] if one.encoder else ["--arm", one.arm]
    return shlex.join(["polyalign", "evaluate", printable(str(one.manifest.get("model"))), *asked, "--out", folder])
