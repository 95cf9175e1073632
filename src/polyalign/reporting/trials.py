"""How the arms were tuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polyalign.reporting.labels import printable
from polyalign.reporting.tables import NONE, Cell, Column, Table


def trials_table(trials: Sequence[Mapping[str, Any]]) -> Table | None:
    """Every trial of every arm and its accuracy on the dev rows; None when nothing was tuned.

    Args:
        trials: as `polyalign.tuning.tune` tells them, each with its ``base``, which is None where there is but one.
    """
    if not trials:
        return None
    several = any(trial["base"] is not None for trial in trials)
    heads = ("Learning rate", "Temperature", "Dev accuracy", "Texts encoded")
    columns = (Column("Arm"), *(Column(head, numeric=True) for head in heads), Column("Chosen"))
    rows = tuple(
        (
            Cell(printable(str(trial["base"]))),
            Cell(printable(trial["arm"])),
            Cell(f"{trial['learning_rate']:g}"),
            Cell(f"{trial['temperature']:g}" if "temperature" in trial else NONE),
            Cell(f"{100 * trial['dev_accuracy']:.1f}"),
            Cell(f"{trial['texts_encoded']:,}"),
            Cell("yes" if trial["chosen"] else ""),
        )[0 if several else 1 :]
        for trial in trials
    )
    return Table(
        "Tuning: the trials of each arm on the dev rows",
        (*((Column("Base"),) if several else ()), *columns),
        (("", rows),),
    )
