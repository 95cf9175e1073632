"""Train an encoder on a corpus: rows in, a sentence-transformers folder with its record out."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from polyalign.corpus import Corpus
from polyalign.encoder import RECORD, encoder_fingerprint, load_encoder, read_record
from polyalign.errors import UserError
from polyalign.storage import (
    fingerprint,
    keep_existing,
    read_manifest,
    versions,
    write_json,
)
from polyalign.training.adapting import adapt, restore
from polyalign.training.averaging import average, weights_of
from polyalign.training.bases import STATIC, is_static, load_base
from polyalign.training.callbacks import Checkpoints, Progress, last_checkpoint
from polyalign.training.distributed import from_first, join, rank, wait_for_all, world_size
from polyalign.training.extension import extend_vocabulary
from polyalign.training.fitting import Fit, fitted, peak_memory, uses_bf16
from polyalign.training.language_bias import check_rank
from polyalign.training.lexical import check_lexical
from polyalign.training.loss import MultiwayLoss
from polyalign.training.objective import Objective
from polyalign.training.plan import Plan, make_plan, split_dev, usable_rows
from polyalign.training.projecting import add_parts
from polyalign.training.publishing import publish
from polyalign.training.recommending import RECOMMENDED, recommended
from polyalign.training.settings import TrainingSettings
from polyalign.training.teacher import in_dimensions, teacher_vectors
from polyalign.training.tokens import Tokens, tokens_of
from polyalign.training.vocabulary import token_embeddings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer

    from polyalign.training.dev import BitextAccuracy

log = logging.getLogger(__name__)


def train(
    corpus: Corpus | str | Path,
    out: str | Path,
    *,
    base: str = STATIC,
    objective: Objective | str = RECOMMENDED,
    languages: Sequence[str] | None = None,
    settings: TrainingSettings | None = None,
    seed: int = 0,
    teacher: str | None = None,
    arm: str | None = None,
    budgets: Sequence[str] = (),
    trust_remote_code: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Train an encoder and write it, with its record and its model card.

    A run that was interrupted goes on from its last complete checkpoint, in the hidden folder beside ``out``.

    Args:
        corpus: a `Corpus` or anything `Corpus.open` takes.
        out: the folder to write; a complete encoder there is left alone.
        base: ``static``, or a folder or Hub id of a sentence-transformers or transformers encoder.
        objective: an `Objective` or the name of a preset; ``recommended`` for the one that suits the base, and its
            settings: see `recommended`.
        languages: those to train on; None for all of the corpus.
        settings: hyper-parameters; None for the defaults.
        seed: of the initial weights made here, the order of rows, the sampled languages and dropout.
        teacher: the frozen encoder of a ``keep`` term; None for the untrained base.
        arm: the name under which `compare` shows the encoder; None for the objective's.
        budgets: the comparisons the encoder takes part in; see `compare`.
        trust_remote_code: whether code that comes with a model may run.
        force: train anew although a complete encoder, or an interrupted run under other settings, is there.

    Returns:
        The record, as in ``polyalign.json``.

    Raises:
        UserError: for a mistake in the input or the settings, or an interrupted run under other settings.
    """
    out = Path(out)
    settings = settings or TrainingSettings()
    if isinstance(objective, str) and objective != RECOMMENDED:
        objective = Objective.named(objective)
    if keep_existing(out, force=force, manifest=RECORD):
        log.info("%s is complete and left alone", out)
        return read_record(out) or {}
    join()

    source = corpus if isinstance(corpus, Corpus) else Corpus.open(corpus)
    source = source.select(languages) if languages else source
    if isinstance(objective, str):
        objective, settings = recommended(source, base, settings, teacher=teacher, trust_remote_code=trust_remote_code)
    train_rows, dev_rows = split_dev(source, settings)
    train_rows = usable_rows(train_rows, objective)
    if settings.batch_rows != "auto" and len(train_rows) < settings.batch_rows:
        raise UserError(
            f"{len(train_rows)} training rows are fewer than a batch of {settings.batch_rows}; lower batch_rows"
        )
    frozen = _teacher(objective, base, teacher, trust_remote_code=trust_remote_code)
    of_base = _with_dimensions(settings, objective, frozen)
    model = load_base(base, train_rows, of_base, seed=seed, trust_remote_code=trust_remote_code)
    if settings.base_share and base == STATIC:
        raise UserError("a static base knows nothing that its weights could keep; leave base_share out")
    if settings.lexical is not None:
        check_lexical(model, train_rows, settings.lexical, trust_remote_code=trust_remote_code)
    if settings.lsar is not None:  # not only when hours of training are over
        spoken = sum(count > 0 for count in train_rows.counts().values())
        check_rank(settings.lsar, languages=spoken, dimensions=model.get_embedding_dimension() or 0)
    request = {
        "base": base,
        "base_fingerprint": encoder_fingerprint(model),
        "objective": objective.model_dump(),
        "languages": list(source.languages),
        "corpus": source.fingerprint,
        "training": settings.model_dump(),
        "seed": seed,
        "teacher": teacher,
        "processes": world_size(),
    }
    work = _work_folder(out, request, force=force)
    loss = _loss(model, objective, train_rows, frozen or model)
    untrained = weights_of(model) if settings.base_share else {}
    # The teacher has seen the base as it was.
    extension = extend_vocabulary(model, train_rows, settings.extension, seed=seed) if settings.extension else None
    tokens = tokens_of(train_rows, model)
    adapt(model, tokens, settings, seed=seed)
    fit = fitted(model, tokens, objective, settings, seed=seed)
    loss.cache_gradients = fit.cache_gradients
    budget = settings.budget(static=base == STATIC)
    plan = make_plan(train_rows, objective, fit.batch_rows, seed=seed, **budget)
    texts, pairs = plan.texts.sum(), plan.pairs.sum()
    log.info(
        "training %s: %d steps, %d texts, %d anchor-positive pairs, %.4g passes over %d rows",
        out.name, plan.steps, texts, pairs, plan.rows.sum() / len(train_rows), len(train_rows),
    )  # fmt: skip

    trainer, seconds = _fit(loss, tokens, dev_rows, plan, fit, settings, seed, work)
    steps = trainer.state.global_step  # fewer than planned where it stopped early
    restore(model)
    if settings.base_share:
        average(model, untrained, settings.base_share)
    parts = add_parts(model, train_rows, settings, seed=seed, trust_remote_code=trust_remote_code)
    counts = loss.all_counts()
    real, computed = counts["real"], counts["computed"]
    padding, peak = 1 - real / max(computed, 1), peak_memory(model.device) / 2**30
    log.info("%.1f%% of the computed tokens were padding; peak memory %.2f GiB", 100 * padding, peak)
    earlier = read_record(base) or {}
    record = {
        "format": 1,
        "kind": "encoder",
        "arm": arm or objective.preset,
        "objective_name": objective.preset,
        **request,
        "languages": sorted(set(source.languages) | set(earlier.get("languages", []))),
        "budgets": list(budgets),
        "corpus": {
            "fingerprint": source.fingerprint,
            "rows": len(train_rows),
            "dev_rows": len(dev_rows) if dev_rows else 0,
            "texts": train_rows.counts(),
        },
        "budget": budget,
        "batch_rows": fit.batch_rows,
        "gradient_cache": fit.cache_gradients,
        "temperature": float(loss.temperature()),
        "extension": extension,
        "cost": {
            "texts_encoded": int(plan.texts[:steps].sum()),
            "seconds": round(seconds, 1),
            "steps": steps,
            "rows_seen": int(plan.rows[:steps].sum()),
            "pairs": int(plan.pairs[:steps].sum()),
            "terms_without_negative": counts["skipped_terms"],
            "tokens": real,
            "padding": round(padding, 4),
            "peak_memory_gib": round(peak, 2),
        },
        "best": {"step": trainer.state.best_global_step, "dev_accuracy": trainer.state.best_metric}
        if dev_rows
        else None,
        "history": _history(trainer.state.log_history, plan),
        "base_share": settings.base_share,
        **parts,
        "versions": versions(),
        "fingerprint": encoder_fingerprint(model),
    }
    if rank() == 0:
        publish(model, record, out)
        shutil.rmtree(work)
    wait_for_all()
    return record


def _work_folder(out: Path, request: dict[str, Any], *, force: bool) -> Path:
    """Return the folder of the checkpoints of ``out``, refusing one that another request left.

    Raises:
        UserError: when an interrupted run used other settings; it names them.
    """
    work = out.resolve().with_name(f".{out.name}.training")
    if rank() == 0:
        before = read_manifest(work, "request.json")
        if before is not None and fingerprint(before) != fingerprint(request):
            if last_checkpoint(work) is not None and not force:
                changed = [key for key in request if fingerprint(before.get(key)) != fingerprint(request[key])]
                raise UserError(
                    f"an interrupted training of {out} used another {' and '.join(changed)}; "
                    "repeat it with the old settings, or start over with --force"
                )
            shutil.rmtree(work)
        write_json(work / "request.json", request)
        last_checkpoint(work)
    wait_for_all()
    return work


def _teacher(
    objective: Objective, base: str, teacher: str | None, *, trust_remote_code: bool
) -> SentenceTransformer | None:
    """Return the frozen encoder of a ``keep`` term; None where it is the untrained base, or there is no such term."""
    if objective.keep == "none" and teacher is not None:
        raise UserError("a teacher is given, but the objective has no keep term; set keep, or leave the teacher out")
    if objective.keep != "none" and teacher is None and base == STATIC:
        raise UserError(
            f"keep {objective.keep!r} needs a teacher, and a static base has nothing to keep; give --teacher"
        )
    return load_encoder(teacher, trust_remote_code=trust_remote_code) if teacher else None


def _with_dimensions(
    settings: TrainingSettings, objective: Objective, teacher: SentenceTransformer | None
) -> TrainingSettings:
    """Return the settings, in which a static base has the dimensions of a teacher that it is compared with."""
    if settings.static.dimensions is not None or teacher is None or objective.keep == "soft-labels":
        return settings
    static = settings.static.model_copy(update={"dimensions": teacher.get_embedding_dimension()})
    return settings.model_copy(update={"static": static})


def _loss(
    model: SentenceTransformer, objective: Objective, corpus: Corpus, teacher: SentenceTransformer
) -> MultiwayLoss:
    if objective.keep == "none":
        return MultiwayLoss(model, objective)
    keys, vectors = teacher_vectors(teacher, corpus)
    dimensions = model.get_embedding_dimension() or vectors.shape[1]
    if objective.keep != "soft-labels" and dimensions != vectors.shape[1]:
        vectors = in_dimensions(vectors, dimensions)
    return MultiwayLoss(model, objective, teacher=(keys, vectors))


def _fit(
    loss: MultiwayLoss,
    tokens: Tokens,
    dev_rows: Corpus | None,
    plan: Plan,
    fit: Fit,
    settings: TrainingSettings,
    seed: int,
    work: Path,
) -> tuple[SentenceTransformerTrainer, float]:
    """Train the encoder of ``loss`` in place; return the trainer and the seconds over all calls that it took."""
    from datasets import Dataset
    from transformers import EarlyStoppingCallback
    from transformers.trainer_callback import PrinterCallback

    from polyalign.training.batches import EpochOfLanguages, TokenCollator
    from polyalign.training.dev import BitextAccuracy
    from polyalign.training.engine import MultiwayTrainer

    model = loss.model
    checkpoint = from_first(last_checkpoint(work) if rank() == 0 else None)
    collator = TokenCollator(tokens, model, loss.objective, seed=seed, tokens_per_chunk=fit.tokens_per_chunk)
    evaluator = BitextAccuracy(dev_rows) if dev_rows else None
    checkpoints = Checkpoints(loss, keep=settings.keep_checkpoints)
    callbacks: list[Any] = [EpochOfLanguages(collator), checkpoints, Progress(plan.texts)]
    if settings.early_stopping and evaluator:
        callbacks.append(EarlyStoppingCallback(settings.early_stopping))
    trainer = MultiwayTrainer(
        model=model,
        args=_arguments(model, settings, plan, evaluator, seed, work, resumed=checkpoint is not None),
        train_dataset=Dataset.from_dict({"row": np.arange(len(tokens))}),
        loss=loss,
        batch_rows=fit.batch_rows,
        evaluator=evaluator,
        data_collator=collator,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    if checkpoint:
        log.warning("going on from step %s", checkpoint.name.rpartition("-")[2])
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    model.eval()
    return trainer, checkpoints.seconds


def _arguments(
    model: SentenceTransformer,
    settings: TrainingSettings,
    plan: Plan,
    evaluator: BitextAccuracy | None,
    seed: int,
    work: Path,
    *,
    resumed: bool,
) -> Any:
    from sentence_transformers import SentenceTransformerTrainingArguments

    every = max(1, -(-plan.steps // settings.evaluations))
    chosen_by_dev: dict[str, Any] = (
        {
            "eval_strategy": "steps",
            "eval_steps": every,
            "eval_on_start": not resumed,
            "load_best_model_at_end": True,
            "metric_for_best_model": f"eval_{evaluator.primary_metric}",
            "greater_is_better": True,
        }
        if evaluator
        else {}
    )
    return SentenceTransformerTrainingArguments(
        output_dir=str(work),
        per_device_train_batch_size=max(1, int(plan.rows.max()) // world_size()),
        max_steps=plan.steps,
        learning_rate=_learning_rate(model, settings),
        warmup_steps=round(settings.warmup * plan.steps),
        lr_scheduler_type="constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        bf16=uses_bf16(settings, model.device),
        use_cpu=model.device.type == "cpu",
        seed=seed,
        save_strategy="steps",
        save_steps=every,
        logging_steps=max(1, plan.steps // 50),
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        dataloader_drop_last=world_size() > 1,  # no batch is dropped; this keeps the arguments from warning
        dataloader_num_workers=2 if model.device.type == "cuda" else 0,
        dataloader_pin_memory=model.device.type == "cuda",
        learning_rate_mapping=_rates(model, settings),
        **chosen_by_dev,
    )


def _rates(model: SentenceTransformer, settings: TrainingSettings) -> dict[str, float]:
    """Return the learning rates that differ, by a pattern of parameter names."""
    rate = settings.embedding_learning_rate
    if rate is None and settings.extension:
        rate = 10 * _learning_rate(model, settings)
    if rate is None:
        return {}
    weight = getattr(token_embeddings(model), "weight", None)
    names = [name for name, one in model.named_parameters() if one.requires_grad and one is weight]
    if not names and settings.embedding_learning_rate is None:
        return {}
    if not names:
        raise UserError("no token embeddings are trained here; leave embedding_learning_rate out")
    return {f"{re.escape(name)}$": rate for name in names}


def _learning_rate(model: SentenceTransformer, settings: TrainingSettings) -> float:
    return settings.learning_rate or (0.02 if is_static(model) else 5e-5)


def _history(log_history: list[dict[str, Any]], plan: Plan) -> list[dict[str, Any]]:
    """Return the training curve: per logged step the texts encoded so far, and the loss or the dev accuracy."""
    texts = np.concatenate([[0], plan.texts.cumsum()])
    names = {"loss": "loss", "eval_dev_accuracy": "dev_accuracy"}
    curve: list[dict[str, Any]] = []
    for entry in log_history:
        for logged, name in names.items():
            if logged in entry:
                curve.append({"step": entry["step"], "texts": int(texts[entry["step"]]), name: round(entry[logged], 6)})
    return curve
