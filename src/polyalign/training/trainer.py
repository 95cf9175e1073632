"""Train an encoder on a corpus: rows in, a sentence-transformers folder with its record out."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from polyalign.corpus import Corpus
from polyalign.encoder import RECORD, CachedEncoder, encoder_fingerprint, load_encoder, read_record
from polyalign.errors import UserError
from polyalign.storage import (
    fingerprint,
    keep_existing,
    new_folder,
    read_manifest,
    versions,
    write_json,
    write_text,
)
from polyalign.training.bases import STATIC, load_base
from polyalign.training.card import model_card
from polyalign.training.objective import PRESETS, MultiwayLoss, Objective
from polyalign.training.settings import TrainingSettings

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer

    from polyalign.training.dev import BitextAccuracy

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a training will cost, known before it starts.

    Attributes:
        rows: int64 [steps], rows of each optimizer step.
        texts: int64 [steps], texts it encodes.
        pairs: int64 [steps], its anchor-positive terms.
    """

    rows: np.ndarray
    texts: np.ndarray
    pairs: np.ndarray

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return len(self.rows)


def usable_rows(corpus: Corpus, objective: Objective) -> Corpus:
    """Return the rows an objective can learn from: all, or those with English where it is about English.

    Raises:
        UserError: when none is left.
    """
    if not (objective.english_always or objective.anchors == "english"):
        return corpus
    if "en" not in corpus.languages:
        raise UserError(
            f"this objective pairs English with other languages, and the corpus has {', '.join(corpus.languages)}; "
            "choose the multi-way objective, or add English"
        )
    without = corpus.rows["en"].null_count()
    if without:
        log.warning("%d of %d rows have no English and are left out of this objective", without, len(corpus))
    rows = corpus.rows.filter(pl.col("en").is_not_null())
    return Corpus(rows=rows, languages=corpus.languages, report=corpus.report)


def make_plan(
    corpus: Corpus,
    objective: Objective,
    batch_rows: int,
    *,
    seed: int,
    epochs: int | None = None,
    steps: int | None = None,
    rows: int | None = None,
    texts: int | None = None,
) -> Plan:
    """Return the steps of a training and what each encodes, before anything is computed.

    Exactly one of the budgets is given; the training ends with the step that reaches it.

    Args:
        corpus: the training rows, after `usable_rows`.
        objective: decides how many of a row's languages a step encodes.
        batch_rows: rows a step; the last step of an epoch may have fewer.
        seed: of the order of rows.
        epochs: passes over the rows.
        steps: optimizer steps.
        rows: rows seen, a row counted each time.
        texts: encoded texts.
    """
    from polyalign.training.batches import batches_of_epoch

    present = corpus.rows.select(pl.sum_horizontal(pl.col(corpus.languages).is_not_null())).to_series().to_numpy()
    texts_of_row = np.minimum(present, objective.languages_per_row or present.max()).astype(np.int64)
    pairs_of_row = texts_of_row * (texts_of_row - 1) if objective.anchors == "all" else texts_of_row - 1
    rows = epochs * len(corpus) if epochs is not None else rows
    per_step: list[tuple[int, int, int]] = []
    seen = np.zeros(3, dtype=np.int64)
    epoch = 0
    while True:
        for batch in batches_of_epoch(len(corpus), batch_rows, seed=seed, epoch=epoch):
            per_step.append((len(batch), int(texts_of_row[batch].sum()), int(pairs_of_row[batch].sum())))
            seen += per_step[-1]
            reached = ((steps, len(per_step)), (rows, seen[0]), (texts, seen[1]))
            if any(budget is not None and so_far >= budget for budget, so_far in reached):
                rows_of_step, texts_of_step, pairs_of_step = np.array(per_step).T
                return Plan(rows=rows_of_step, texts=texts_of_step, pairs=pairs_of_step)
        epoch += 1


def split_dev(corpus: Corpus, settings: TrainingSettings) -> tuple[Corpus, Corpus | None]:
    """Return the training rows and the dev rows, by a hash of the row: the same for every arm and seed.

    Raises:
        UserError: when more dev rows are asked for than half of the corpus.
    """
    dev_rows = min(200, len(corpus) // 10) if settings.dev_rows is None else settings.dev_rows
    if dev_rows == 0:
        return corpus, None
    if dev_rows > len(corpus) // 2:
        raise UserError(f"dev_rows is {dev_rows} of {len(corpus)} rows; at most half can be held out")
    return corpus.split(dev_rows)


def train(
    corpus: Corpus | str | Path,
    out: str | Path,
    *,
    base: str = STATIC,
    objective: Objective | str = "multi-way",
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
        objective: an `Objective` or the name of a preset.
        languages: those to train on; None for all of the corpus.
        settings: hyper-parameters.
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
    objective = Objective.named(objective) if isinstance(objective, str) else objective
    name = next((preset for preset, fields in PRESETS.items() if fields == objective), "custom")
    if keep_existing(out, force=force, manifest=RECORD):
        log.info("%s is complete and left alone", out)
        return read_record(out) or {}

    source = corpus if isinstance(corpus, Corpus) else Corpus.open(corpus)
    source = source.select(languages) if languages else source
    train_rows, dev_rows = split_dev(source, settings)
    train_rows = usable_rows(train_rows, objective)
    if len(train_rows) < settings.batch_rows:
        raise UserError(
            f"{len(train_rows)} training rows are fewer than a batch of {settings.batch_rows}; lower batch_rows"
        )
    model = load_base(base, train_rows, settings, seed=seed, trust_remote_code=trust_remote_code)
    request = {
        "base": base,
        "base_fingerprint": encoder_fingerprint(model),
        "objective": objective.model_dump(),
        "languages": list(source.languages),
        "corpus": source.fingerprint,
        "training": settings.model_dump(),
        "seed": seed,
        "teacher": teacher,
    }
    work = _work_folder(out, request, force=force)
    plan = make_plan(train_rows, objective, settings.batch_rows, seed=seed, **settings.budget)
    texts, pairs = plan.texts.sum(), plan.pairs.sum()
    log.info("training %s: %d steps, %d texts, %d anchor-positive pairs", out.name, plan.steps, texts, pairs)

    loss = _loss(model, objective, train_rows, base=base, teacher=teacher, trust_remote_code=trust_remote_code)
    trainer, seconds = _fit(model, loss, train_rows, dev_rows, plan, objective, settings, seed, work)
    steps = trainer.state.global_step  # fewer than planned where it stopped early
    earlier = read_record(base) or {}
    record = {
        "format": 1,
        "kind": "encoder",
        "arm": arm or name,
        "objective_name": name,
        **request,
        "languages": sorted(set(source.languages) | set(earlier.get("languages", []))),
        "budgets": list(budgets),
        "corpus": {
            "fingerprint": source.fingerprint,
            "rows": len(train_rows),
            "dev_rows": len(dev_rows) if dev_rows else 0,
            "texts": train_rows.counts(),
        },
        "budget": settings.budget,
        "cost": {
            "texts_encoded": int(plan.texts[:steps].sum()),
            "seconds": round(seconds, 1),
            "steps": steps,
            "rows_seen": int(plan.rows[:steps].sum()),
            "pairs": int(plan.pairs[:steps].sum()),
            "terms_without_negative": loss.skipped_terms,
        },
        "best": {"step": trainer.state.best_global_step, "dev_accuracy": trainer.state.best_metric}
        if dev_rows
        else None,
        "history": _history(trainer.state.log_history, plan),
        "versions": versions(),
        "fingerprint": encoder_fingerprint(model),
    }
    _publish(model, record, out)
    shutil.rmtree(work)
    return record


def _publish(model: SentenceTransformer, record: dict[str, Any], out: Path) -> None:
    with new_folder(out, RECORD) as folder:
        model.save(str(folder), create_model_card=False)
        write_text(folder / "README.md", model_card(record))
        write_json(folder / RECORD, record)


def _work_folder(out: Path, request: dict[str, Any], *, force: bool) -> Path:
    """Return the folder of the checkpoints of ``out``, refusing one that another request left.

    Raises:
        UserError: when an interrupted run used other settings; it names them.
    """
    work = out.resolve().with_name(f".{out.name}.training")
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
    return work


def _loss(
    model: SentenceTransformer,
    objective: Objective,
    corpus: Corpus,
    *,
    base: str,
    teacher: str | None,
    trust_remote_code: bool,
) -> MultiwayLoss:
    if objective.keep == "none":
        if teacher is not None:
            raise UserError(
                "a teacher is given, but the objective has no keep term; set keep, or leave the teacher out"
            )
        return MultiwayLoss(model, objective)
    if teacher is None and base == STATIC:
        raise UserError(
            f"keep {objective.keep!r} needs a teacher, and a static base has nothing to keep; give --teacher"
        )
    frozen = load_encoder(teacher, trust_remote_code=trust_remote_code) if teacher else model
    if objective.keep != "soft-labels" and frozen.get_embedding_dimension() != model.get_embedding_dimension():
        raise UserError(
            f"keep {objective.keep!r} compares {model.get_embedding_dimension()} dimensions with a teacher's "
            f"{frozen.get_embedding_dimension()}; use keep soft-labels, or a teacher of the same size"
        )
    return MultiwayLoss(model, objective, teacher=teacher_vectors(frozen, corpus))


def teacher_vectors(teacher: SentenceTransformer, corpus: Corpus) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the teacher's embeddings of the English side: int64 [R] row keys, ascending, and float [R, D]."""
    import torch

    from polyalign.training.batches import key

    if "en" not in corpus.languages:
        raise UserError("a keep term holds the English side, and the corpus has no English; set keep to 'none'")
    rows = corpus.rows.select("row_id", "en").drop_nulls()
    keys = torch.tensor([key(row_id) for row_id in rows["row_id"]])
    vectors = torch.from_numpy(CachedEncoder(teacher).encode(rows["en"].to_list()))
    order = keys.argsort()
    return keys[order], vectors[order]


def _fit(
    model: SentenceTransformer,
    loss: MultiwayLoss,
    train_rows: Corpus,
    dev_rows: Corpus | None,
    plan: Plan,
    objective: Objective,
    settings: TrainingSettings,
    seed: int,
    work: Path,
) -> tuple[SentenceTransformerTrainer, float]:
    """Train ``model`` in place; return the trainer and the seconds over all calls that it took."""
    from sentence_transformers import SentenceTransformerTrainer
    from transformers import EarlyStoppingCallback
    from transformers.trainer_callback import PrinterCallback

    from polyalign.training.batches import EpochOfLanguages, MultiwayCollator, to_dataset
    from polyalign.training.callbacks import Checkpoints, Progress
    from polyalign.training.dev import BitextAccuracy

    checkpoint = last_checkpoint(work)
    collator = MultiwayCollator(
        model, train_rows.languages, objective, seed=seed, tokens_per_chunk=settings.tokens_per_chunk
    )
    evaluator = BitextAccuracy(dev_rows) if dev_rows else None
    checkpoints = Checkpoints(loss)
    callbacks: list[Any] = [EpochOfLanguages(collator), checkpoints, Progress(plan.texts)]
    if settings.early_stopping and evaluator:
        callbacks.append(EarlyStoppingCallback(settings.early_stopping))
    trainer = SentenceTransformerTrainer(
        model=model,
        args=_arguments(model, settings, plan, evaluator, seed, work, resumed=checkpoint is not None),
        train_dataset=to_dataset(train_rows),
        loss=loss,
        evaluator=evaluator,
        data_collator=collator,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    if checkpoint:
        log.warning("going on from step %s", checkpoint.name.rpartition("-")[2])
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if evaluator:
        _check_best(trainer, evaluator)
    model.eval()
    return trainer, checkpoints.seconds


def _check_best(trainer: SentenceTransformerTrainer, evaluator: BitextAccuracy) -> None:
    """The Trainer only logs when the best checkpoint cannot be loaded; make sure that it was."""
    found = evaluator(trainer.model)[evaluator.primary_metric]
    if abs(found - trainer.state.best_metric) > 0.02:
        raise RuntimeError(f"the best checkpoint scored {trainer.state.best_metric:.4f}, the loaded one {found:.4f}")


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

    from polyalign.training.batches import RowBatches

    every = max(1, -(-plan.steps // settings.evaluations))
    learning_rate = settings.learning_rate or (0.02 if _is_static(model) else 5e-5)
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
        per_device_train_batch_size=settings.batch_rows,
        max_steps=plan.steps,
        learning_rate=learning_rate,
        warmup_steps=round(settings.warmup * plan.steps),
        lr_scheduler_type="constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        bf16=_bf16(settings, model.device),
        use_cpu=model.device.type == "cpu",
        seed=seed,
        batch_sampler=RowBatches,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        logging_steps=max(1, plan.steps // 50),
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        dataloader_pin_memory=False,
        **chosen_by_dev,
    )


def _bf16(settings: TrainingSettings, device: torch.device) -> bool:
    """Return whether to compute in bfloat16; a CPU without instructions for it emulates it."""
    import torch

    if device.type == "cpu":
        able = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        able = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if settings.bf16 == "auto":
        return bool(able)
    if settings.bf16 and not able:
        log.warning("this device only emulates bfloat16, many times slower than float32; bf16 'auto' would not")
    return settings.bf16


def _is_static(model: SentenceTransformer) -> bool:
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    return isinstance(model[0], StaticEmbedding)


def last_checkpoint(work: Path) -> Path | None:
    """Return the complete checkpoint with the most steps, after deleting interrupted ones; None when there is none."""
    from polyalign.training.callbacks import MARKER

    complete = {}
    for folder in work.glob("checkpoint-*"):
        if (folder / MARKER).is_file():
            complete[int(folder.name.rpartition("-")[2])] = folder
        else:
            shutil.rmtree(folder)
    return complete[max(complete)] if complete else None


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
