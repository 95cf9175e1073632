"""What a run will do and cost, before it does it: the cells of a recipe, their steps, texts and hours."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyalign.corpus import Corpus, import_corpus
from polyalign.errors import UserError
from polyalign.evaluation.counting import count_texts
from polyalign.recipe import BASE_ARM, Arm, Recipe
from polyalign.storage import MANIFEST, read_manifest
from polyalign.training.bases import STATIC
from polyalign.training.plan import Plan, make_plan, split_dev, usable_rows
from polyalign.training.speed import measure_speed
from polyalign.translation import BuildSettings


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One encoder of a run: an arm with a budget, before the seeds.

    Attributes:
        arm: how it is trained.
        name: of its folders, without the seed.
        steps: optimizer steps.
        texts: encoded texts.
        budgets: the comparisons it takes part in, such as ``equal rows``.
        scale: multiple of the recipe's budget.
    """

    arm: Arm
    name: str
    steps: int
    texts: int
    budgets: tuple[str, ...]
    scale: float = 1.0


def plan_cells(recipe: Recipe, corpus: Corpus) -> list[Cell]:
    """Return every arm with its steps, so that the budgets are equal as the recipe says.

    The reference, the first arm that trains, has the budget of ``training``; each other arm gets the steps that see as
    many rows, encode as many texts or have as many pairs. An arm whose languages come in turn sees each of those rows
    with all its translations. Where budgets come to the same steps the arm is trained once, for all of them.
    """
    return [cell for scale in recipe.scale for cell in _cells_of_scale(recipe, corpus, scale)]


def scaled(name: str, scale: float, sign: str = "-x") -> str:
    """Return the name of something that belongs to a multiple of the budget; the budget itself adds nothing to it."""
    return name if scale == 1 else f"{name}{sign}{scale:g}"


def _cells_of_scale(recipe: Recipe, corpus: Corpus, scale: float) -> list[Cell]:
    reference = recipe.trained_arms[0]
    budget = reference_plan(recipe, corpus, scale)
    cells = []
    for arm in recipe.trained_arms:
        objective = arm.full_objective
        turns = 1
        if objective.in_turn and objective.languages_per_row:
            fixed = 1 if objective.needs_english else 0
            turns = -(-(len(corpus.languages) - fixed) // (objective.languages_per_row - fixed))
        by_steps: dict[int, list[str]] = {}
        plans = {}
        for kind in arm.equal or recipe.equal:
            target = {
                "rows": int(budget.rows.sum()) * turns,
                "texts": int(budget.texts.sum()),
                "pairs": int(budget.pairs.sum()),
            }[kind]
            plan = budget if arm is reference else _plan(recipe, corpus, arm, {kind: target})
            plans[plan.steps] = plan
            by_steps.setdefault(plan.steps, []).append(f"equal {kind}")
        for steps, kinds in by_steps.items():
            suffix = "" if len(by_steps) == 1 else "-" + kinds[0].replace(" ", "-")
            cells.append(
                Cell(
                    arm=arm,
                    name=scaled(arm.name + suffix, scale),
                    steps=steps,
                    texts=int(plans[steps].texts.sum()),
                    budgets=tuple(scaled(kind, scale, " × ") for kind in kinds),
                    scale=scale,
                )
            )
    return cells


def reference_plan(recipe: Recipe, corpus: Corpus, scale: float = 1.0) -> Plan:
    """Return the plan of the arm whose budget the others are given, with a multiple of its encoded texts."""
    plan = _plan(recipe, corpus, recipe.trained_arms[0], recipe.training.budget(static=recipe.base == STATIC))
    if scale == 1:
        return plan
    return _plan(recipe, corpus, recipe.trained_arms[0], {"texts": max(1, round(scale * int(plan.texts.sum())))})


def _plan(recipe: Recipe, corpus: Corpus, arm: Arm, budget: dict[str, int]) -> Plan:
    settings, objective = recipe.settings_of(arm), arm.full_objective
    rows = usable_rows(split_dev(corpus, settings)[0], objective)
    assert settings.batch_rows != "auto"  # a recipe refuses it
    return make_plan(rows, objective, settings.batch_rows, seed=recipe.seeds[0], **budget)


def recipe_in(out: Path, recipe: Recipe) -> Recipe | None:
    """Return the recipe that the folder of a run holds, which this one may have grown from; None for a new folder.

    A folder that holds a recipe and nothing else is new: its corpus could not be made.

    Raises:
        UserError: when the folder belongs to another recipe (it names the keys that differ), or is no run.
    """
    values = read_manifest(out, "recipe.json")
    if values is None:
        if out.is_dir() and any(out.iterdir()):
            raise UserError(f"{out} is not empty and holds no run; choose another --out")
        return None
    if len([*out.iterdir()]) == 1:
        return None
    before = Recipe.checked(values, str(out / "recipe.json"))
    if changed := recipe.changes_since(before):
        raise UserError(
            f"{out} holds a run of another recipe (changed: {', '.join(changed)}); choose another --out, or delete it"
        )
    return before


@dataclass(frozen=True, kw_only=True)
class Outline:
    """A line of what a run will do.

    Attributes:
        base: its name, where there are several.
        what: the trials of an arm, or a cell, by its name.
        texts: encoded texts of each, in training.
        times: how many there are: seeds, or trials.
        done: how many of them are finished.
        hours: what those still to do will take on this machine, about: training, and encoding the dev rows and
            the texts of the tasks.
        budgets: the comparisons that it takes part in.
        steps: optimizer steps of each.
    """

    base: str | None
    what: str
    texts: int
    times: int
    done: int
    hours: float
    budgets: tuple[str, ...] = ()
    steps: int | None = None


def outline(recipe: Recipe, out: Path, *, only: Sequence[str] = ()) -> list[Outline]:
    """Return all that `polyalign.running.run` would do, without doing it; hours follow from a few measured batches.

    Args:
        recipe: what to run.
        out: the folder of the run; what is finished there is counted.
        only: names of the bases that would run; none for all.

    Raises:
        UserError: for a base that the recipe lacks, when the folder belongs to another recipe, the corpus is still to
            be built, or the base or the data of the tasks is missing.
    """
    recipe_in(out, recipe)
    corpus = _planned_corpus(recipe, out / "corpus")
    lines = []
    for name in recipe.bases_among(only):
        one, place = (recipe, out) if name is None else (recipe.with_base(name), out / name)
        lines += _outline_of_base(one, one.rows_of(corpus), place, name)
    return lines


def _outline_of_base(recipe: Recipe, corpus: Corpus, out: Path, name: str | None) -> list[Outline]:
    speed = measure_speed(str(recipe.base), corpus, recipe.training, trust_remote_code=recipe.trust_remote_code)
    wanted = recipe.evaluation
    evaluated = count_texts(
        wanted.tasks,
        languages=wanted.languages_for(corpus.languages),
        split=wanted.split,
        mteb_data=wanted.mteb_data,
        own_rows=wanted.held_out,
    )
    _, dev = split_dev(corpus, recipe.training)
    looked_at = recipe.training.evaluations * sum(dev.counts().values()) if dev else 0
    lines = []

    def add(what: str, texts: int, times: int, done: int, *, scored: bool, **more: Any) -> None:
        encoded = (looked_at if texts else 0) + (evaluated if scored else 0)
        seconds = texts / speed.training + encoded / speed.encoding
        hours = (times - done) * seconds / 3600
        lines.append(Outline(base=name, what=what, texts=texts, times=times, done=done, hours=hours, **more))

    def scored(names: Sequence[str], suffix: str = "") -> int:
        return sum((out / "scores" / f"{name}{suffix}" / MANIFEST).is_file() for name in names)

    suffixes = [projection.suffix for projection in recipe.projected]
    if BASE_ARM in recipe.arms:
        for suffix in ("", *suffixes):
            add(BASE_ARM + suffix, 0, 1, scored([BASE_ARM], suffix), scored=True)
    if recipe.tuning:
        for scale in recipe.scale:
            texts = round(recipe.tuning.share * int(reference_plan(recipe, corpus, scale).texts.sum()))
            for arm in recipe.trained_arms:
                what = scaled(arm.name, scale)
                done = len(list((out / "tuning" / what).glob("*.json")))
                trials = recipe.tuning.trials(arm.full_objective)
                add(f"tuning of {what}", texts, len(trials), done, scored=False)
    for cell in plan_cells(recipe, corpus):
        names = [f"{cell.name}-seed{seed}" for seed in recipe.seeds]
        add(cell.name, cell.texts, len(names), scored(names), scored=True, budgets=cell.budgets, steps=cell.steps)
        for suffix in suffixes:
            add(cell.name + suffix, 0, len(names), scored(names, suffix), scored=True, budgets=cell.budgets)
    return lines


def _planned_corpus(recipe: Recipe, out: Path) -> Corpus:
    """Return the corpus as the run will have it; one that is built only once it is there."""
    if read_manifest(out) is not None:
        return Corpus.open(out, languages=recipe.languages)
    if isinstance(recipe.corpus, BuildSettings):
        raise UserError(
            f"the corpus {out} is still to be built; build it first, with the same recipe or polyalign build"
        )
    with tempfile.TemporaryDirectory() as folder:
        return import_corpus(recipe.corpus_files, Path(folder) / "corpus", languages=recipe.languages)
