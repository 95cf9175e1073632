"""The verb `evaluate`: an encoder on tasks, to a scores folder."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from polyalign.corpus import Corpus
from polyalign.encoder import CachedEncoder, encoder_fingerprint, load_encoder, read_record
from polyalign.errors import UserError
from polyalign.evaluation.own_rows import NAME as OWN_ROWS
from polyalign.evaluation.own_rows import own_rows_task
from polyalign.evaluation.predictions import join_gold, load_data
from polyalign.languages import canonical
from polyalign.metrics import MAIN_METRICS, prepare
from polyalign.storage import MANIFEST, fingerprint, keep_existing, new_folder, read_manifest, versions, write_json
from polyalign.tasks import ALL_LANGUAGES, SelectedTask, load_tasks

if TYPE_CHECKING:
    from mteb.results import TaskResult

    from polyalign.evaluation.adapter import MtebEncoder

FORMAT = 1
METRICS = {
    "bitext": ("f1", "accuracy", "precision", "recall"),
    "sts": ("cosine_spearman", "cosine_pearson"),
    "classification": ("accuracy", "f1", "f1_weighted"),
    "retrieval": ("accuracy",),
}
"""Family -> the metrics of a task's result that are kept in ``scores.parquet``, with the ``further_metrics`` of tasks
that are not MTEB's; the rest stays in its JSON."""

_SCORES, _PREDICTIONS, _RESULT = "scores.parquet", "predictions.parquet", "mteb.json"
_EXAMPLES = "examples.parquet"
_logger = logging.getLogger(__name__)


def evaluate(
    encoder: str | Path,
    *,
    tasks: Sequence[str] | Mapping[str, Sequence[str] | None],
    languages: Sequence[str],
    out: Path,
    split: str | None = None,
    mteb_data: Path | None = None,
    arm: str | None = None,
    seed: int | None = None,
    budgets: Sequence[str] = (),
    seen_languages: Sequence[str] | None = None,
    own_rows: Path | str | None = None,
    batch_size: int = 64,
    trust_remote_code: bool = False,
    force: bool = False,
) -> pl.DataFrame:
    """Run tasks and write a scores folder; resume an interrupted one at the first unfinished task.

    Args:
        encoder: an encoder folder or a sentence-transformers id.
        tasks: names of MTEB tasks, of those in `polyalign.evaluation.crosslingual`, ``own`` for the own rows; or a
            mapping from names to languages of their own, None for ``languages``.
        languages: language tags, or ``["all"]``. English joins bitext tasks as the pivot by itself.
        out: the scores folder.
        split: the split to run; None takes each task's ``test`` split, or its first where it evaluates none; of
            SIB200Bitext and SIB200Pool, all.
        mteb_data: folder with the datasets in the Hub's layout; None loads them from the Hub.
        arm: name in comparisons; None takes that of the encoder's record, else the encoder's name.
        seed: training seed; None takes that of the encoder's record, else 0.
        budgets: the comparisons that the scores take part in; empty for those of the encoder's record.
        seen_languages: languages a model without a record of training has seen; those of a training cannot be
            overruled.
        own_rows: held-out parallel rows, anything `Corpus.open` takes; they run as one more bitext task.
        batch_size: texts per forward pass.
        trust_remote_code: whether code that comes with the model may run.
        force: replace complete scores made with other settings, or make them again.

    Returns:
        The scores, as in ``scores.parquet``: one row per task, subset and metric.

    Raises:
        UserError: for anything the user can mend; see the message.
    """
    out = Path(out)
    tags = canonical_tags(languages)
    selected = select_tasks(tasks, tags, split, mteb_data, own_rows)
    record = read_record(encoder)
    seen = _seen(encoder, record, seen_languages)
    model = load_encoder(encoder, trust_remote_code=trust_remote_code)
    known = record or {}
    name = Path(encoder).resolve().name
    identity = {
        "arm": arm or known.get("arm") or name,
        "seed": seed if seed is not None else known.get("seed", 0),
        "budgets": list(budgets) or known.get("budgets", []),
    }
    settings = identity | {
        "encoder": encoder_fingerprint(model),
        "languages": sorted(tags),
        "seen languages": seen,
        "tasks": {task.name: {"split": task.split, "subsets": list(task.subsets)} for task in selected},
        "MTEB data": None if mteb_data is None else str(Path(mteb_data).resolve()),
        "own rows": next((task.task.metadata.revision for task in selected if task.name == OWN_ROWS), None),
    }
    if _is_complete(out, settings, force=force):
        _logger.info("%s is complete and was made with the same settings; left alone", out)
        return pl.read_parquet(out / _SCORES)

    from polyalign.evaluation.adapter import MtebEncoder

    adapter = MtebEncoder(
        CachedEncoder(model, batch_size=batch_size), name=f"polyalign/{name}", fingerprint=settings["encoder"]
    )
    # Finished tasks survive a kill here, each whole in its own folder. Other settings have another fingerprint.
    work = out.with_name(f".{out.name}.work")
    finished = work / fingerprint(settings)
    for task in selected:
        if read_manifest(finished / task.name) is None:
            _run_task(adapter, task, identity, seen, finished / task.name)
        else:
            _logger.info("task %s was finished before an interruption; kept", task.name)
    manifest = {
        "format": FORMAT,
        "kind": "scores",
        **identity,
        "model": str(encoder),
        "encoder_fingerprint": settings["encoder"],
        "encoder": record,
        "tasks": [task.name for task in selected],
        "languages": tags,
        "missing": {task.name: list(task.missing) for task in selected if task.missing},
        "data_source": "hub" if mteb_data is None else "local",
        "split": split,
        "settings": settings,
        "versions": versions(),
    }
    scores = _publish(out, manifest, [finished / task.name for task in selected])
    shutil.rmtree(work)
    return scores


def canonical_tags(languages: Sequence[str]) -> list[str]:
    """Return canonical tags, each once; ``all`` stays.

    Raises:
        UserError: when there is none, or one is unknown.
    """
    if not languages:
        raise UserError(f"no language was asked for; give language codes, or {ALL_LANGUAGES!r}")
    return list(dict.fromkeys(tag if tag == ALL_LANGUAGES else canonical(tag) for tag in languages))


def _seen(encoder: str | Path, record: dict[str, Any] | None, seen_languages: Sequence[str] | None) -> list[str]:
    known = record or {}
    if "objective" in known and seen_languages is not None:
        raise UserError(f"{encoder} records the languages it has seen; leave out seen_languages")
    languages = known.get("languages") if seen_languages is None else seen_languages
    return sorted({canonical(tag) for tag in languages or ()})


def select_tasks(
    tasks: Sequence[str] | Mapping[str, Sequence[str] | None],
    tags: Sequence[str],
    split: str | None,
    mteb_data: Path | None,
    own_rows: Path | str | None,
) -> list[SelectedTask]:
    """Return the tasks that `evaluate` runs, with arguments as it takes them, languages as canonical tags.

    Raises:
        UserError: as `evaluate`.
    """
    official = [task for task in tasks if task not in ("own", OWN_ROWS)]
    if own_rows is None and len(official) < len(tasks):
        raise UserError("the task of own rows was asked for without rows; give them with --own-rows")
    if own_rows is None and not official:
        raise UserError("no task was asked for; give MTEB task names, or own rows")
    own_tags = tasks if isinstance(tasks, Mapping) else {}
    data = None if mteb_data is None else Path(mteb_data)
    selected = []
    if official:
        # The library takes seconds to import.
        from polyalign.evaluation.crosslingual import TASKS, crosslingual_task
    for name in dict.fromkeys(official):
        wanted = canonical_tags(own_tags.get(name) or tags)
        if name in TASKS:
            selected.append(crosslingual_task(name, wanted, split, data))
        else:
            selected += load_tasks([name], wanted, split, data, beside=list(TASKS))
    if own_rows is not None:
        selected.append(own_rows_task(Corpus.open(own_rows), tags))
    for task in selected:
        if task.missing:
            _logger.warning("task %s has no data for %s", task.name, ", ".join(task.missing))
    return selected


def _is_complete(out: Path, settings: dict[str, Any], *, force: bool) -> bool:
    manifest = read_manifest(out) or {"kind": "scores"}
    if manifest.get("kind") != "scores":
        raise UserError(f"{out} holds a {manifest.get('kind', 'folder')}, not scores; choose another output folder")
    if not keep_existing(out, force=force):
        return False
    made_with = manifest.get("settings", {})
    if differing := [name for name in settings if made_with.get(name) != settings[name]]:
        raise UserError(
            f"{out} holds scores made with another setting ({', '.join(differing)}); "
            "use --force to replace them, or choose another output folder"
        )
    return True


def _run_task(
    encoder: MtebEncoder, selected: SelectedTask, identity: dict[str, Any], seen: Collection[str], folder: Path
) -> None:
    """Run one task and publish its scores, predictions and MTEB's result as ``folder``."""
    _logger.info("task %s: %d subsets", selected.name, len(selected.subsets))
    started, cache = time.monotonic(), encoder.encoder
    asked, encoded = cache.texts_asked, cache.texts_encoded
    load_data(selected)
    with new_folder(folder) as partial:
        result, raw_predictions = _run_mteb(encoder, selected, partial)
        predictions = join_gold(selected, raw_predictions)
        scores = _tidy(selected, result, predictions, identity, seen)
        _check(scores, predictions)
        scores.write_parquet(partial / _SCORES)
        predictions.write_parquet(partial / _PREDICTIONS)
        if examples := getattr(selected.task, "examples", ()):
            pl.DataFrame([{"task": selected.name, **one} for one in examples]).write_parquet(partial / _EXAMPLES)
        cost = {
            "seconds": round(time.monotonic() - started, 3),
            "texts_encoded": cache.texts_encoded - encoded,
            "texts_asked": cache.texts_asked - asked,
        }
        write_json(partial / MANIFEST, {"cost": cost})
    _logger.info("task %s: %d texts in %.0f s", selected.name, cost["texts_encoded"], cost["seconds"])
    selected.task.unload_data()


def _run_mteb(encoder: MtebEncoder, selected: SelectedTask, folder: Path) -> tuple[TaskResult, dict[str, Any]]:
    """Let MTEB run the task, its result cache and its predictions inside ``folder`` and never shared."""
    import mteb
    from sklearn.exceptions import UndefinedMetricWarning

    cache = mteb.ResultCache(folder / "cache")
    with warnings.catch_warnings():
        # Of the precision of labels that a weak classifier never predicts, once an experiment; it is not kept.
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        (result,) = mteb.evaluate(
            encoder,
            selected.task,
            cache=cache,
            overwrite_strategy="always",
            prediction_folder=folder / "predictions",
            encode_kwargs={"batch_size": encoder.encoder.batch_size, "show_progress_bar": False},
            co2_tracker=False,
            show_progress_bar=False,
        ).task_results
    cache.get_task_result_path(selected.name, encoder.mteb_model_meta).rename(folder / _RESULT)
    predictions = json.loads((folder / "predictions" / selected.task.prediction_file_name).read_text(encoding="utf-8"))
    return result, predictions


def _tidy(
    selected: SelectedTask,
    result: TaskResult,
    predictions: pl.DataFrame,
    identity: dict[str, Any],
    seen: Collection[str],
) -> pl.DataFrame:
    """Return one row per subset and metric, values as MTEB computed them (its JSON rounds to 6 decimals)."""
    items = predictions.filter(experiment=0).group_by("subset").len()
    num_items = dict(items.iter_rows())
    by_subset = {values["hf_subset"]: values for values in result.scores[selected.split]}
    return pl.DataFrame(
        [
            {
                "arm": identity["arm"],
                "seed": identity["seed"],
                "task": selected.name,
                "family": selected.family,
                "split": selected.split,
                "subset": subset,
                "languages": languages.languages,
                "exposure": languages.exposure(seen),
                "script": languages.script,
                "metric": metric,
                "value": float(by_subset[subset][metric]),
                "n": num_items[subset],
                "main": metric == MAIN_METRICS[selected.family],
            }
            for subset, languages in selected.subsets.items()
            for metric in (*METRICS[selected.family], *getattr(selected.task, "further_metrics", ()))
        ]
    )


def _check(scores: pl.DataFrame, predictions: pl.DataFrame) -> None:
    """Fail unless the main score of every subset follows from the predictions that are kept."""
    kept = predictions.partition_by("subset", as_dict=True)
    for task, family, subset, value in scores.filter("main").select("task", "family", "subset", "value").iter_rows():
        recomputed = prepare(family, kept[subset,]).score()
        if not (
            math.isclose(recomputed, value, rel_tol=0, abs_tol=1e-9) or (math.isnan(recomputed) and math.isnan(value))
        ):
            raise RuntimeError(f"{task} {subset}: MTEB scored {value}, its predictions give {recomputed}")


def _publish(out: Path, manifest: dict[str, Any], folders: Sequence[Path]) -> pl.DataFrame:
    """Put the finished tasks together as the scores folder ``out`` and return its scores."""
    costs = [(read_manifest(folder) or {})["cost"] for folder in folders]
    scores = pl.concat(pl.read_parquet(folder / _SCORES) for folder in folders)
    with new_folder(out) as partial:
        scores.write_parquet(partial / _SCORES)
        pl.concat(pl.read_parquet(folder / _PREDICTIONS) for folder in folders).write_parquet(partial / _PREDICTIONS)
        if examples := [folder / _EXAMPLES for folder in folders if (folder / _EXAMPLES).is_file()]:
            pl.concat(map(pl.read_parquet, examples)).write_parquet(partial / _EXAMPLES)
        (partial / "mteb").mkdir()
        for folder in folders:
            shutil.copyfile(folder / _RESULT, partial / "mteb" / f"{folder.name}.json")
        total = {name: round(sum(cost[name] for cost in costs), 3) for name in costs[0]}
        write_json(partial / MANIFEST, manifest | {"cost": total})
    return scores
