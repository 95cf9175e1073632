"""Run a recipe: corpus, every arm at equal budgets with every seed, scores, report. Goes on where it stopped."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl

from polyalign.corpus import Corpus, import_corpus
from polyalign.encoder import read_record
from polyalign.errors import UserError
from polyalign.evaluation import evaluate
from polyalign.recipe import BASE_ARM, SAMPLE, Arm, Recipe, load_recipe
from polyalign.reporting import compare
from polyalign.storage import MANIFEST, fingerprint, new_folder, read_manifest, versions, write_json, write_text
from polyalign.training.bases import STATIC, load_base
from polyalign.training.card import model_card
from polyalign.training.plan import Plan, make_plan, split_dev, usable_rows
from polyalign.training.trainer import train
from polyalign.translation import BuildSettings, build

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One encoder of a run: an arm with a budget, before the seeds.

    Attributes:
        arm: how it is trained.
        name: of its folders, without the seed.
        steps: optimizer steps.
        texts: encoded texts.
        budgets: the comparisons it takes part in, such as ``equal rows``.
    """

    arm: Arm
    name: str
    steps: int
    texts: int
    budgets: tuple[str, ...]


def run(recipe: Recipe | str | Path, out: str | Path) -> dict[str, Any]:
    """Do all that a recipe says and return the comparison, as `compare` does.

    Finished parts are left alone, interrupted ones go on.

    Args:
        recipe: a `Recipe`, a YAML file or the name of a packaged recipe.
        out: the folder of the run: ``corpus``, ``encoders``, ``scores`` and ``report`` in it.

    Raises:
        UserError: for a mistake in the recipe or its inputs, or another recipe in the same folder.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    out = Path(out)
    _claim(out, recipe)
    corpus = _corpus(recipe, out / "corpus")
    cells = plan_cells(recipe, corpus)
    for cell in cells:
        budgets, seeds = ", ".join(cell.budgets), len(recipe.seeds)
        log.info("plan: %s, %d steps, %d texts, %d seeds (%s)", cell.name, cell.steps, cell.texts, seeds, budgets)

    scores = []
    if BASE_ARM in recipe.arms:
        encoder = _untouched_base(recipe, corpus, out / "encoders" / BASE_ARM)
        scores.append(_evaluate(recipe, corpus, encoder, out / "scores" / BASE_ARM))
    for cell in cells:
        for seed in recipe.seeds:
            name = f"{cell.name}-seed{seed}"
            settings = recipe.settings_of(cell.arm).model_copy(
                update={"epochs": None, "texts": None, "steps": cell.steps}
            )
            train(
                corpus,
                out / "encoders" / name,
                base=recipe.base,
                objective=cell.arm.full_objective,
                settings=settings,
                seed=seed,
                teacher=cell.arm.teacher,
                arm=cell.arm.name,
                budgets=cell.budgets,
                trust_remote_code=recipe.trust_remote_code,
            )
            scores.append(_evaluate(recipe, corpus, out / "encoders" / name, out / "scores" / name))
            _add_scores_to_card(out / "encoders" / name, scores[-1])
    result = compare(scores, out / "report", control=recipe.report.control, resamples=recipe.report.resamples)
    manifest = {"format": 1, "kind": "run", "recipe": recipe.model_dump(mode="json"), "versions": versions()}
    write_json(out / MANIFEST, manifest)
    return result


def plan_cells(recipe: Recipe, corpus: Corpus) -> list[Cell]:
    """Return every arm with its steps, so that the budgets are equal as the recipe says.

    The reference, the first arm that trains, has the budget of ``training``; each other arm gets the steps that see as
    many rows, or encode as many texts. Where both come to the same steps the arm is trained once, for both comparisons.
    """
    reference = recipe.trained_arms[0]
    budget = _plan(recipe, corpus, reference, recipe.training.budget)
    cells = []
    for arm in recipe.trained_arms:
        by_steps: dict[int, list[str]] = {}
        plans = {}
        for kind in recipe.equal:
            target = {"rows": int(budget.rows.sum()), "texts": int(budget.texts.sum())}[kind]
            plan = budget if arm is reference else _plan(recipe, corpus, arm, {kind: target})
            plans[plan.steps] = plan
            by_steps.setdefault(plan.steps, []).append(f"equal {kind}")
        for steps, budgets in by_steps.items():
            suffix = "" if len(by_steps) == 1 else "-" + budgets[0].replace(" ", "-")
            texts = int(plans[steps].texts.sum())
            cells.append(Cell(arm=arm, name=arm.name + suffix, steps=steps, texts=texts, budgets=tuple(budgets)))
    return cells


def _plan(recipe: Recipe, corpus: Corpus, arm: Arm, budget: dict[str, int]) -> Plan:
    settings, objective = recipe.settings_of(arm), arm.full_objective
    rows = usable_rows(split_dev(corpus, settings)[0], objective)
    assert settings.batch_rows != "auto"  # a recipe refuses it
    return make_plan(rows, objective, settings.batch_rows, seed=recipe.seeds[0], **budget)


def _claim(out: Path, recipe: Recipe) -> None:
    """Write the recipe into the folder of the run, or check that the one there is the same.

    Raises:
        UserError: when the folder belongs to another recipe; it names the keys that differ.
    """
    values = recipe.model_dump(mode="json")
    before = read_manifest(out, "recipe.json")
    if before is None:
        if out.is_dir() and any(out.iterdir()):
            raise UserError(f"{out} is not empty and holds no run; choose another --out")
        write_json(out / "recipe.json", values)
        return
    changed = [key for key in values if fingerprint(before.get(key)) != fingerprint(values[key])]
    if changed:
        raise UserError(
            f"{out} holds a run of another recipe (changed: {', '.join(changed)}); choose another --out, or delete it"
        )


def _corpus(recipe: Recipe, out: Path) -> Corpus:
    """Import or build the corpus, and return it in the languages of the recipe."""
    if isinstance(recipe.corpus, BuildSettings):
        build(recipe.corpus, out)
        return Corpus.open(out, languages=recipe.languages)
    sources = [recipe.corpus] if isinstance(recipe.corpus, str) else recipe.corpus
    packaged = [_packaged("train") if source == SAMPLE else source for source in sources]
    return import_corpus(packaged, out, languages=recipe.languages)


def _packaged(part: str) -> str:
    return str(resources.files("polyalign") / "sample" / f"{part}.jsonl")


def _untouched_base(recipe: Recipe, corpus: Corpus, out: Path) -> Path:
    """Write the base as the arms find it, prompt and all, so that it is evaluated as they are; return its folder."""
    if read_manifest(out) is None:
        assert recipe.base != STATIC, "the recipe refuses this"
        model = load_base(
            recipe.base, corpus, recipe.training, seed=recipe.seeds[0], trust_remote_code=recipe.trust_remote_code
        )
        with new_folder(out) as folder:
            model.save(str(folder), create_model_card=False)
            write_json(folder / MANIFEST, {"format": 1, "kind": "base", "base": recipe.base})
    return out


def _evaluate(recipe: Recipe, corpus: Corpus, encoder: Path, out: Path) -> Path:
    wanted = recipe.evaluation
    evaluate(
        encoder,
        tasks=wanted.tasks,
        languages=wanted.languages or [tag for tag in corpus.languages if tag != "en"],
        out=out,
        split=wanted.split,
        mteb_data=wanted.mteb_data,
        arm=BASE_ARM if encoder.name == BASE_ARM else None,
        seen_languages=corpus.languages if encoder.name == BASE_ARM else None,
        own_rows=_packaged("heldout") if wanted.own_rows == SAMPLE else wanted.own_rows,
        batch_size=wanted.batch_size,
        trust_remote_code=recipe.trust_remote_code,
    )
    return out


def _add_scores_to_card(encoder: Path, scores: Path) -> None:
    """Put the mean main scores, per task and exposure, on the model card."""
    means = (
        pl.read_parquet(scores / "scores.parquet")
        .filter(pl.col("main"))
        .group_by("task", "exposure", maintain_order=True)
        .agg(pl.col("value").mean())
    )
    lines = [(task, f"{exposure} languages", value) for task, exposure, value in means.iter_rows()]
    record = read_record(encoder)
    assert record is not None
    write_text(encoder / "README.md", model_card(record, lines))
