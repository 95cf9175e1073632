"""Choose each arm's learning rate and temperature on the dev rows, with the same number of trials for every arm."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from polyalign.corpus import Corpus
from polyalign.errors import UserError
from polyalign.recipe import Arm, Recipe
from polyalign.storage import fingerprint, read_manifest, write_json
from polyalign.training.objective import Objective
from polyalign.training.settings import TrainingSettings
from polyalign.training.trainer import train

log = logging.getLogger(__name__)


def tuned(arm: Arm, trial: dict[str, float], settings: TrainingSettings) -> tuple[Objective, TrainingSettings]:
    """Return the objective and the training settings of an arm with what a trial changes in them."""
    objective = arm.full_objective
    if "temperature" in trial:
        objective = objective.model_copy(update={"temperature": trial["temperature"]})
    return objective, settings.model_copy(update={"learning_rate": trial["learning_rate"]})


def run_trial(
    recipe: Recipe, corpus: Corpus, arm: Arm, trial: dict[str, float], texts: int, out: Path
) -> dict[str, Any]:
    """Return a trial of an arm: its hyper-parameters, ``dev_accuracy`` in [0, 1], and its cost.

    The best of the checkpoints counts, as in a whole training. The result alone is kept, ``out/*.json``; a finished
    trial is not repeated.

    Args:
        recipe: with ``tuning``.
        corpus: all rows, those for the dev set among them.
        arm: what is tuned.
        trial: one of `TuningSettings.trials`.
        texts: that it encodes.
        out: the folder of the arm's trials.

    Raises:
        UserError: when the trial there was made under other settings.
    """
    assert recipe.tuning is not None
    name = "-".join(f"{key.replace('_', '-')}-{value:g}" for key, value in trial.items())
    objective, settings = tuned(arm, trial, recipe.settings_of(arm))
    settings = settings.model_copy(update={"epochs": None, "steps": None, "texts": texts})
    seed = recipe.tuning.seed
    request: dict[str, Any] = {
        "objective": objective.model_dump(mode="json"),
        "training": settings.model_dump(mode="json"),
        "seed": seed,
        "corpus": corpus.fingerprint,
        "teacher": arm.teacher,
    }
    done = read_manifest(out, f"{name}.json")
    if done is None:
        log.info("trial of %s: %s", arm.name, ", ".join(f"{key} {value:g}" for key, value in trial.items()))
        record = train(
            corpus, out / name, base=str(recipe.base), objective=objective, settings=settings, seed=seed,
            teacher=arm.teacher, arm=arm.name, trust_remote_code=recipe.trust_remote_code,
        )  # fmt: skip
        cost = {key: record["cost"][key] for key in ("texts_encoded", "seconds")}
        done = {"arm": arm.name, **trial, "dev_accuracy": record["best"]["dev_accuracy"], **cost}
        write_json(out / f"{name}.json", done | {"request": request})
        shutil.rmtree(out / name)
    elif differing := _differing(done["request"], request, f"{out / name}.json"):
        what = " and ".join(differing)
        raise UserError(f"{out / name}.json is a trial under another {what}; delete it, or choose another --out")
    return {key: value for key, value in done.items() if key != "request"}


def choose(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return all trials of an arm, each with whether it was ``chosen``, for its accuracy on the dev rows."""
    best = max(trials, key=lambda one: one["dev_accuracy"])
    _warn_of_edges(trials, best)
    return [one | {"chosen": one is best} for one in trials]


def _differing(recorded: dict[str, Any], request: dict[str, Any], where: str) -> list[str]:
    """Return what of a trial's request is not what was recorded."""
    recorded = recorded | {
        "objective": Objective.completed(recorded["objective"], f"{where}, objective"),
        "training": TrainingSettings.completed(recorded["training"], f"{where}, training"),
    }
    return [key for key in request if fingerprint(recorded[key]) != fingerprint(request[key])]


def _warn_of_edges(results: list[dict[str, Any]], best: dict[str, Any]) -> None:
    """Say where a better value may lie outside the grid."""
    for key in ("learning_rate", "temperature"):
        values = sorted({one[key] for one in results if key in one})
        if len(values) > 2 and best[key] in (values[0], values[-1]):
            side = "lowest" if best[key] == values[0] else "highest"
            log.warning("%s is best with the %s %s tried, %g; widen the grid", best["arm"], side, key, best[key])
