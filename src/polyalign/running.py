"""Run a recipe: corpus, every arm at equal budgets with every seed, scores, report. Goes on where it stopped."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl

from polyalign.corpus import Corpus, import_corpus
from polyalign.encoder import read_record
from polyalign.errors import UserError
from polyalign.evaluation import evaluate
from polyalign.evaluation.own_rows import NAME as OWN_ROWS
from polyalign.jobs import Each, calls_in
from polyalign.planning import Cell, plan_cells, recipe_in, reference_plan, scaled
from polyalign.recipe import BASE_ARM, Arm, Recipe, TuningSettings, load_recipe
from polyalign.reporting import compare
from polyalign.storage import MANIFEST, fingerprint, new_folder, read_manifest, versions, write_json, write_text
from polyalign.training.bases import STATIC, load_base
from polyalign.training.card import model_card
from polyalign.training.objective import Objective
from polyalign.training.plan import split_dev
from polyalign.training.projecting import project
from polyalign.training.settings import ProjectionSettings, TrainingSettings
from polyalign.training.trainer import train
from polyalign.translation import BuildSettings, build
from polyalign.tuning import choose, run_trial, tuned

log = logging.getLogger(__name__)


def run(recipe: Recipe | str | Path, out: str | Path, *, only: Sequence[str] = (), jobs: int = 1) -> dict[str, Any]:
    """Do all that a recipe says and return the comparison, as `compare` does.

    Finished parts are left alone, interrupted ones go on. Complete scores count as finished without their encoder. A
    recipe may grow by arms, seeds, multiples of the budget and bases.

    Args:
        recipe: a `Recipe`, a YAML file or the name of a packaged recipe.
        out: the folder of the run: ``corpus``, ``tuning``, ``encoders``, ``scores`` and ``report`` in it; of several
            bases, ``tuning``, ``encoders`` and ``scores`` lie in a folder for each.
        only: names of the bases to run and to report; none for all.
        jobs: how many trials, trainings and evaluations go on at once, in processes that share the cores.

    Raises:
        UserError: for a mistake in the recipe or its inputs, or another recipe in the same folder.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    out = Path(out)
    recipe.bases_among(only)
    _claim(out, recipe)
    _make_corpus(recipe, out / "corpus")
    scores, trials = [], []
    runners = _runners(recipe, out, only)
    with calls_in(jobs, runners, partial(_runners, recipe, out, only)) as each:
        for runner in runners.values():
            scores += runner.run(each)
            trials += runner.trials
    report = recipe.report
    where = out / "report" if not only else out / f"report-{'-'.join(only)}"
    result = compare(scores, where, control=report.control, resamples=report.resamples, trials=trials)
    if only:
        return result
    manifest = {"format": 1, "kind": "run", "recipe": recipe.model_dump(mode="json"), "versions": versions()}
    write_json(out / MANIFEST, manifest)
    return result


def _runners(recipe: Recipe, out: Path, only: Sequence[str]) -> dict[str | None, _Runner]:
    """Return the parts of a run, by base, once its corpus is there."""
    corpus = Corpus.open(out / "corpus", languages=recipe.languages)
    parts = {name: recipe if name is None else recipe.with_base(name) for name in recipe.bases_among(only)}
    return {name: _Runner(part, part.rows_of(corpus), out / (name or ""), name) for name, part in parts.items()}


class _Runner:
    """The part of a run that belongs to one base.

    Args:
        recipe: of this base.
        corpus: all its rows.
        out: where the encoders, the scores and the trials lie.
        name: of the base, where there are several; budgets are then called after it.
    """

    def __init__(self, recipe: Recipe, corpus: Corpus, out: Path, name: str | None) -> None:
        self.recipe, self.corpus, self.out, self.name = recipe, corpus, out, name
        self.trials: list[dict[str, Any]] = []

    def run(self, each: Each) -> list[Path]:
        """Tune, train and evaluate every cell; return the folders of the scores.

        Args:
            each: carries out calls of the methods of a runner of this base.
        """
        recipe = self.recipe
        cells = plan_cells(recipe, self.corpus)
        for cell in cells:
            budgets, seeds = ", ".join(cell.budgets), len(recipe.seeds)
            log.info("plan: %s, %d steps, %d texts, %d seeds (%s)", cell.name, cell.steps, cell.texts, seeds, budgets)
        scores: list[Path] = []
        if BASE_ARM in recipe.arms:
            kinds = {kind for cell in cells for kind in cell.budgets}
            scores += chain(*each(self.name, "score_base", [(self._budgets(kinds),)]))
        best = self._tune(each, recipe.tuning) if recipe.tuning else {}
        calls = []
        for cell in cells:
            objective, settings = cell.arm.full_objective, recipe.settings_of(cell.arm)
            if best:
                objective, settings = tuned(cell.arm, best[cell.arm.name, cell.scale], settings)
            settings = settings.model_copy(update={"epochs": None, "texts": None, "steps": cell.steps})
            calls += [(cell, objective, settings, seed) for seed in recipe.seeds]
        return [*scores, *chain(*each(self.name, "score", calls))]

    def _tune(self, each: Each, tuning: TuningSettings) -> dict[tuple[str, float], dict[str, float]]:
        """Return each arm's best hyper-parameters for each multiple of the budget, and keep all trials."""
        calls = []
        for scale in self.recipe.scale:
            texts = round(tuning.share * int(reference_plan(self.recipe, self.corpus, scale).texts.sum()))
            for arm in self.recipe.trained_arms:
                calls += [(arm, scale, trial, texts) for trial in tuning.trials(arm.full_objective)]
        results: dict[tuple[str, float], list[dict[str, Any]]] = {}
        for (arm, scale, *_), result in zip(calls, each(self.name, "try_out", calls), strict=True):
            results.setdefault((arm.name, scale), []).append(result)
        best = {}
        for (name, scale), trials in results.items():
            chosen = choose(trials)
            self.trials += [{"base": self.name, **trial, "arm": scaled(name, scale, " × ")} for trial in chosen]
            winner = next(trial for trial in chosen if trial["chosen"])
            best[name, scale] = {key: value for key, value in winner.items() if key in ("learning_rate", "temperature")}
        return best

    def try_out(self, arm: Arm, scale: float, trial: dict[str, float], texts: int) -> dict[str, Any]:
        """Return a trial of an arm for a multiple of the budget; see `run_trial`."""
        folder = self.out / "tuning" / scaled(arm.name, scale)
        return run_trial(self.recipe, self.corpus, arm, trial, texts, folder)

    def _budgets(self, kinds: Iterable[str]) -> list[str]:
        return [kind if self.name is None else f"{self.name}, {kind}" for kind in sorted(kinds)]

    def score(self, cell: Cell, objective: Objective, settings: TrainingSettings, seed: int) -> list[Path]:
        """Train and evaluate one encoder, and its projections, unless the scores are there; return their folders."""
        recipe, name = self.recipe, f"{cell.name}-seed{seed}"
        encoder, scores = self.out / "encoders" / name, self._scores_of(name)
        expected: dict[str, Any] = {
            "objective": objective.model_dump(mode="json"),
            "training": settings.model_dump(mode="json"),
        }
        expected |= {"seed": seed, "teacher": _last_name(cell.arm.teacher)}
        done = [] if encoder.exists() else self._scored_among(scores, expected)
        if done == scores:
            return scores
        train(
            self.corpus,
            encoder,
            base=str(recipe.base),
            objective=objective,
            settings=settings,
            seed=seed,
            teacher=cell.arm.teacher,
            arm=cell.arm.name,
            budgets=self._budgets(cell.budgets),
            trust_remote_code=recipe.trust_remote_code,
        )
        for projection, folder in zip([None, *recipe.projected], scores, strict=True):
            if folder not in done:
                self._evaluate(self._projected(encoder, projection, settings) if projection else encoder, folder)
        _add_scores_to_card(encoder, scores[0])
        return scores

    def _scores_of(self, name: str) -> list[Path]:
        """Return the folders of scores of an encoder and of its projections."""
        suffixes = ["", *(projection.suffix for projection in self.recipe.projected)]
        return [self.out / "scores" / f"{name}{suffix}" for suffix in suffixes]

    def _projected(self, encoder: Path, projection: ProjectionSettings, settings: TrainingSettings) -> Path:
        """Project an encoder, unless that is done, on the rows that it is trained on; return the folder."""
        out = encoder.with_name(f"{encoder.name}{projection.suffix}")
        rows, _ = split_dev(self.corpus, settings)
        project(encoder, rows, out, projection, trust_remote_code=self.recipe.trust_remote_code)
        return out

    def _scored_among(self, scores: Sequence[Path], expected: dict[str, Any]) -> list[Path]:
        """Return which scores of an encoder and its projections are complete; see `_is_scored`."""
        parts = {name: expected["training"][name] for name in ("lexical", "lsar", "wccn")}
        wanted = [parts, *(parts | one.model_dump(include=set(one.parts)) for one in self.recipe.projected)]
        complete = [
            self._is_scored(folder, expected | {"projection": _comparable(one)})
            for folder, one in zip(scores, wanted, strict=True)
        ]
        done = [folder for folder, is_complete in zip(scores, complete, strict=True) if is_complete]
        for folder in done:
            log.info("%s is complete and left alone", folder)
        return done

    def _is_scored(self, scores: Path, expected: dict[str, Any]) -> bool:
        """Return whether scores are complete, and check that they are of this recipe.

        Raises:
            UserError: when they are of another training or evaluation; it names what differs.
        """
        manifest = read_manifest(scores)
        if manifest is None:
            return False
        record, wanted = manifest["encoder"] or {}, self.recipe.evaluation
        kept = {"lexical": "settings", "lsar": "rank", "wccn": "power"}
        parts = {name: (record.get(name) or {}).get(key) for name, key in kept.items()}
        found = {key: record.get(key) for key in expected} | {
            "objective": Objective.completed(record.get("objective") or {}, f"{scores}, objective"),
            "training": TrainingSettings.completed(record.get("training") or {}, f"{scores}, training"),
            "projection": _comparable(parts),
            "corpus": (record.get("corpus") or {}).get("fingerprint"),
            "tasks": [task for task in manifest["tasks"] if task != OWN_ROWS],
            "languages": manifest["languages"],
            "split": manifest["split"],
            "base": _last_name(record.get("base")),
            "teacher": _last_name(record.get("teacher")),
        }
        expected = expected | {
            "base": _last_name(self.recipe.base),
            "corpus": self.corpus.fingerprint,
            "tasks": list(wanted.tasks),
            "languages": wanted.languages_for(self.corpus.languages),
            "split": wanted.split,
        }
        if differing := [key for key in expected if fingerprint(found[key]) != fingerprint(expected[key])]:
            raise UserError(
                f"{scores} holds scores made with another {' and '.join(differing)}; choose another --out, or delete it"
            )
        return True

    def score_base(self, budgets: list[str]) -> list[Path]:
        """Evaluate the base as the arms find it, prompt and all, and its projections, unless the scores are there."""
        recipe = self.recipe
        encoder, scores = self.out / "encoders" / BASE_ARM, self._scores_of(BASE_ARM)
        done = [folder for folder in scores if not encoder.exists() and read_manifest(folder) is not None]
        for folder in done:
            log.info("%s is complete and left alone", folder)
        if done == scores:
            return scores
        if read_manifest(encoder) is None:
            assert recipe.base not in (STATIC, None), "the recipe refuses this"
            model = load_base(
                str(recipe.base),
                self.corpus,
                recipe.training,
                seed=recipe.seeds[0],
                trust_remote_code=recipe.trust_remote_code,
            )
            with new_folder(encoder) as folder:
                model.save(str(folder), create_model_card=False)
                write_json(folder / MANIFEST, {"format": 1, "kind": "base", "base": recipe.base})
        # A base among others is compared with its own arms alone.
        identity: dict[str, Any] = {"seen_languages": self.corpus.languages, "budgets": budgets if self.name else []}
        for projection, folder in zip([None, *recipe.projected], scores, strict=True):
            if folder not in done:
                measured = self._projected(encoder, projection, recipe.training) if projection else encoder
                self._evaluate(measured, folder, arm=folder.name, **identity)
        return scores

    def _evaluate(self, encoder: Path, out: Path, **identity: Any) -> None:
        wanted = self.recipe.evaluation
        evaluate(
            encoder,
            tasks=wanted.tasks,
            languages=wanted.languages_for(self.corpus.languages),
            out=out,
            split=wanted.split,
            mteb_data=wanted.mteb_data,
            own_rows=wanted.held_out,
            batch_size=wanted.batch_size,
            trust_remote_code=self.recipe.trust_remote_code,
            **identity,
        )


def _comparable(parts: dict[str, Any]) -> dict[str, Any]:
    """Return what is at the end of an encoder, as it is on any machine."""
    lexical = parts["lexical"]
    return parts | {"lexical": lexical and lexical | {"teacher": _last_name(lexical["teacher"])}}


def _last_name(model: str | None) -> str | None:
    """Return what stays of a folder's path, or of a Hub id, where it lies on another machine."""
    return model and Path(model).name


def _claim(out: Path, recipe: Recipe) -> None:
    """Write the recipe into the folder of the run, unless it is there; what it grew from makes way."""
    before = recipe_in(out, recipe)
    if before != recipe:
        (out / MANIFEST).unlink(missing_ok=True)
        for report in out.glob("report*"):  # of the run before it grew
            shutil.rmtree(report)
        write_json(out / "recipe.json", recipe.model_dump(mode="json"))


def _make_corpus(recipe: Recipe, out: Path) -> None:
    """Import or build the corpus."""
    if isinstance(recipe.corpus, BuildSettings):
        build(recipe.corpus, out)
    else:
        import_corpus(recipe.corpus_files, out, languages=recipe.languages)


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
