"""Pretrain `mini`, a small encoder in the shape of XLM-R, on monolingual text of many languages.

A stand-in for XLM-R or multilingual BERT where no hub is at hand: its own subwords, masked language modelling, nothing
that aligns languages. ``--text`` is a folder of Parquet files, one per language, whose column ``text`` holds sentences;
``--out`` is a transformers folder that ``polyalign train --base`` takes. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Literal, Self

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import polars as pl
import torch
from pydantic import Field, model_validator
from tokenizers import Tokenizer, processors
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import AdamW, Muon, Optimizer
from torch.utils.data import Dataset
from transformers import (
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaModel,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback
from xxhash import xxh3_64_intdigest

from polyalign.errors import UserError
from polyalign.settings import Settings
from polyalign.storage import (
    fingerprint_files,
    keep_existing,
    new_folder,
    read_manifest,
    versions,
    write_json,
    write_text,
)
from polyalign.training.arrays import ArrayWriter, made_once, spans
from polyalign.training.bases import byte_pairs
from polyalign.training.callbacks import MARKER, last_checkpoint
from polyalign.training.fitting import uses_bf16
from polyalign.training.settings import TrainingSettings

RECORD = "pretraining.json"
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
BEGIN, PAD, END = 0, 1, 2
HELD_OUT = 50
"""Sentences of each language that are not trained on; at most a tenth of them."""
SORTED_BATCHES = 64
"""So many batches at a time are drawn and sorted by length."""
INITIAL = 0.8
"""Standard deviation of the initial weights times the root of the dimensions; that of BERT-large is 0.64."""
MEASURED_STEPS = 20
"""Until the first estimate of the speed; a quarter of them warm up and do not count."""


class MiniSettings(Settings):
    """What is pretrained, on how much, and how."""

    hours: float | None = Field(None, gt=0, description="budget by this machine's speed, which is measured first")
    steps: int | None = Field(None, ge=1, description="budget in steps; without any: one pass over the text")
    seed: int = Field(0, ge=0, description="of weights, order and masks")
    layers: int = Field(4, ge=1)
    hidden: int = Field(256, ge=8, description="dimensions")
    heads: int = Field(4, ge=1)
    inner: int = Field(1024, ge=8, description="dimensions of the feed-forward layers")
    vocabulary: int = Field(32_000, ge=300, le=65_536, description="subwords; a sixth at most are single characters")
    length: int = Field(128, ge=8, description="the most tokens of a sentence, and of a text later on")
    alpha: float = Field(0.7, ge=0, le=1, description="a language is drawn by its share of sentences to this power")
    masked: float = Field(0.2, gt=0, lt=1, description="share of the tokens that is predicted")
    batch: int = Field(2048, ge=1, description="tokens a step, padding included")
    learning_rate: float = Field(2e-3, gt=0, description="of the layers' matrices: the peak, after 6%% of the steps")
    other_learning_rate: float = Field(
        1e-3, gt=0, description="of embeddings, biases and norms; both fall linearly to 0"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="of hidden units")
    bf16: bool | Literal["auto"] = Field("auto", description="auto: where the device has instructions for it")
    save_steps: int = Field(250, ge=1, description="between checkpoints, each with a look at the held-out text")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.hours is not None and self.steps is not None:
            raise ValueError("hours and steps are given; a budget is one of them")
        if self.length > self.batch:
            raise ValueError(f"a sentence of {self.length} tokens does not fit into a batch of {self.batch}")
        if self.hidden % self.heads:
            raise ValueError(f"{self.hidden} dimensions do not divide into {self.heads} heads")
        return self


class Text:
    """The tokens of all sentences, language by language; some sentences of each are held out.

    Args:
        about: ``tokenizer`` (its JSON), ``languages``, and the number of ``sentences`` of each.
        arrays: ``ids``, and by sentence ``lengths`` (in tokens) and ``held_out`` (1 or 0).
        length: the most tokens of a sentence, and of a text later on.

    Attributes:
        tokenizer: with the special tokens of XLM-R.
        languages: names of the files.
        ids: uint16, all tokens, each sentence between ``<s>`` and ``</s>``.
        starts: int64 [S + 1]; sentence ``s`` has the ids ``starts[s]`` to ``starts[s + 1]``.
        lengths: int64 [S], tokens of the sentences as they are read: at most ``length``.
        trained: for each language, int64, the sentences to train on.
        held_out: for each language, int64, the others.
    """

    def __init__(self, about: dict[str, Any], arrays: dict[str, np.ndarray], length: int) -> None:
        self.languages: list[str] = about["languages"]
        self.tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=_with_frame(about["tokenizer"]), bos_token="<s>", cls_token="<s>", pad_token="<pad>",
            eos_token="</s>", sep_token="</s>", unk_token="<unk>", mask_token="<mask>", model_max_length=length,
        )  # fmt: skip
        self.ids = arrays["ids"]
        self.starts = np.concatenate([[0], arrays["lengths"].cumsum()])
        self.lengths = np.minimum(arrays["lengths"], length)
        ends = np.cumsum(about["sentences"])
        sentences = np.split(np.arange(ends[-1]), ends[:-1])
        held_out = np.split(arrays["held_out"] == 1, ends[:-1])
        self.trained = [each[~held] for each, held in zip(sentences, held_out, strict=True)]
        self.held_out = [each[held] for each, held in zip(sentences, held_out, strict=True)]

    def padded(self, sentences: np.ndarray) -> np.ndarray:
        """Return the tokens of sentences, int64 [n, L], L that of the longest; what is beyond the length is cut."""
        lengths = self.lengths[sentences]
        rows = np.full((len(sentences), lengths.max()), PAD, dtype=np.int64)
        rows[np.arange(rows.shape[1]) < lengths[:, None]] = self.ids[spans(self.starts[sentences], lengths)]
        return rows


def _with_frame(tokenizer: str) -> Tokenizer:
    made = Tokenizer.from_str(tokenizer)
    made.post_processor = processors.RobertaProcessing(("</s>", END), ("<s>", BEGIN), add_prefix_space=False)
    return made


def prepared(paths: list[Path], work: Path, settings: MiniSettings) -> Text:
    """Return the text in tokens, made once and kept in ``work``.

    Subwords are learnt from the languages as they are drawn later: sentences of a small one are read several times.

    Raises:
        UserError: when a file has hardly any text.
    """
    texts = {
        path.stem: pl.read_parquet(path, columns=["text"])["text"].drop_nulls().unique(maintain_order=True)
        for path in paths
    }
    if few := [language for language, found in texts.items() if len(found) < 2]:
        raise UserError(f"{', '.join(few)}: fewer than two sentences; leave these files out")
    about, arrays = made_once(
        work / "tokens",
        partial(_tokenize, texts, settings),
        {"ids": np.uint16, "lengths": np.int64, "held_out": np.int8},
    )
    return Text(about, arrays, settings.length)


def _tokenize(texts: dict[str, pl.Series], settings: MiniSettings, writer: ArrayWriter) -> dict[str, Any]:
    most = max(len(found) for found in texts.values())
    repeated = (repeat(found, round((most / len(found)) ** (1 - settings.alpha))) for found in texts.values())
    said(f"learning {settings.vocabulary:,} subwords from {len(texts)} languages")
    counts = Counter("".join(pl.concat(texts.values()).str.normalize("NFKC")))
    tokenizer = byte_pairs(
        chain.from_iterable(chain.from_iterable(repeated)),
        settings.vocabulary,
        special=SPECIAL,
        unknown="<unk>",
        lowercase=False,
        alphabet=sorted(counts, key=lambda character: (-counts[character], character))[: settings.vocabulary // 6],
    )
    for found in texts.values():
        encoded = [[BEGIN, *each.ids, END] for each in tokenizer.encode_batch_fast(found.to_list())]
        # By the hash of the text, so that the choice does not depend on the order of the file.
        hashes = np.array([xxh3_64_intdigest(text.encode()) for text in found], dtype=np.uint64)
        held_out = hashes.argsort().argsort() < min(HELD_OUT, -(-len(found) // 10))
        writer.append(ids=np.concatenate(encoded), lengths=np.array([len(ids) for ids in encoded]), held_out=held_out)
    sentences = [len(found) for found in texts.values()]
    return {"tokenizer": tokenizer.to_str(), "languages": list(texts), "sentences": sentences}


class Batches(Dataset[tuple[int, np.ndarray]]):
    """The batches of a whole training in the order of their use: a pure function of text, settings and length.

    A sentence stands alone, as a text does at use. Its language is drawn with the probability of its share of the
    sentences to the power alpha; the sentences of a language come in an order that is drawn again whenever all were
    read. Sentences of similar length share a batch.

    Args:
        text: the tokens.
        settings: ``seed``, ``batch`` and ``alpha`` are used.
        steps: how many.

    Attributes:
        sentences: for each batch, int64, its sentences.
    """

    def __init__(self, text: Text, settings: MiniSettings, steps: int) -> None:
        self._text = text
        share = np.array([len(trained) for trained in text.trained]) ** settings.alpha
        generator = np.random.default_rng(settings.seed)
        coming = [np.array([], dtype=np.int64)] * len(share)
        count = max(1, SORTED_BATCHES * settings.batch // int(np.mean(text.lengths)))
        self.sentences: list[np.ndarray] = []
        while len(self.sentences) < steps:
            drawn = generator.multinomial(count, share / share.sum())
            for number, trained in enumerate(text.trained):
                while len(coming[number]) < drawn[number]:
                    coming[number] = np.concatenate([coming[number], generator.permutation(trained)])
            chosen = np.concatenate([order[:n] for order, n in zip(coming, drawn, strict=True)])
            coming = [order[n:] for order, n in zip(coming, drawn, strict=True)]
            batches = by_length(generator.permutation(chosen), text.lengths, settings.batch)
            self.sentences += [batches[place] for place in generator.permutation(len(batches))]
        del self.sentences[steps:]

    def __len__(self) -> int:
        return len(self.sentences)

    def __getitem__(self, place: int) -> tuple[int, np.ndarray]:
        """Return the place itself, which the mask depends on, and the tokens, int64 [n, L]."""
        return place, self._text.padded(self.sentences[place])


def by_length(sentences: np.ndarray, lengths: np.ndarray, batch: int) -> list[np.ndarray]:
    """Return the sentences in batches, short ones first; each has as many as fit.

    Args:
        sentences: int64.
        lengths: int64, tokens of every sentence there is; at most ``batch``.
        batch: the most tokens of a batch, with all padded to its longest.
    """
    ordered = sentences[lengths[sentences].argsort(kind="stable")]
    longest = lengths[ordered]
    batches, begin = [], 0
    while begin < len(ordered):
        sizes = longest[begin:] * np.arange(1, len(ordered) - begin + 1)  # rises: both factors do
        count = int(sizes.searchsorted(batch, side="right"))
        batches.append(ordered[begin : begin + count])
        begin += count
    return batches


class Masks(DataCollatorForLanguageModeling):
    """Masks a batch by a function of the seed and of its place: drawn from a random state, it would not resume."""

    def torch_call(self, examples: list[tuple[int, np.ndarray]]) -> dict[str, Tensor]:
        """Return ``input_ids`` and ``labels``, int64 [n, L]; labels are -100 where nothing is masked."""
        ((place, rows),) = examples
        self.generator = torch.Generator().manual_seed(xxh3_64_intdigest(f"{self.seed}:{place}".encode()) >> 1)
        ids = torch.from_numpy(rows)
        inputs, labels = self.torch_mask_tokens(ids.clone(), special_tokens_mask=ids < len(SPECIAL))
        return {"input_ids": inputs, "labels": labels}


class MuonAndAdam(Optimizer):
    """Muon for the matrices of the layers, AdamW for embeddings, biases and norms.

    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) makes the singular values of a step equal. It
    is scaled as its authors' successors do (Liu et al. 2025, https://arxiv.org/abs/2502.16982), to the size of AdamW's.

    Args:
        model: to train.
        settings: both learning rates are used.
    """

    def __init__(self, model: MaskedModel, settings: MiniSettings) -> None:
        matrices: list[Tensor] = []
        others: list[Tensor] = []
        for name, weight in model.named_parameters():
            (matrices if ".layer." in name and weight.ndim == 2 else others).append(weight)
        muon = Muon(matrices, lr=settings.learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        adam = AdamW(others, lr=settings.other_learning_rate, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
        self._parts: list[Optimizer] = [muon, adam]
        super().__init__([group for part in self._parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step of each; a closure is not called."""
        for part in self._parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both, in this order."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from states."""
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self._parts for group in part.param_groups]


class MaskedModel(XLMRobertaForMaskedLM):
    """XLM-R that scores the vocabulary at masked tokens only, and takes the loss in float32."""

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the mean ``loss`` over masked tokens and, when not in training, how many of them are ``right``."""
        masked = labels != -100
        scores = self.lm_head(
            self.roberta(input_ids, attention_mask=input_ids != PAD).last_hidden_state[masked]
        ).float()
        loss = cross_entropy(scores, labels[masked])
        if self.training:
            return {"loss": loss}
        return {"loss": loss, "right": (scores.argmax(-1) == labels[masked]).sum()}


class HeldOut:
    """Masked language modelling on held-out text, the same masks each time.

    Languages are grouped by how much text they have: a third of them each. One with nothing masked is left out.

    Args:
        text: the tokens.
        settings: of the pretraining.
        masks: the collator.
    """

    def __init__(self, text: Text, settings: MiniSettings, masks: Masks) -> None:
        self._batches: dict[str, dict[str, Tensor]] = {}
        for language, sentences in zip(text.languages, text.held_out, strict=True):
            batch = masks([(-1, text.padded(sentences))])
            if (batch["labels"] != -100).any():
                self._batches[language] = batch
        amounts = {
            language: int(text.lengths[trained].sum())
            for language, trained in zip(text.languages, text.trained, strict=True)
        }
        thirds = np.array_split(sorted(self._batches, key=lambda language: -amounts[language]), 3)
        named = zip(("most text", "medium", "least text"), thirds, strict=True)
        self.groups = {name: third.tolist() for name, third in named if len(third)}

    def __call__(self, model: MaskedModel) -> dict[str, dict[str, float]]:
        """Return ``loss`` and ``accuracy`` (0 to 1) by language and by group."""
        model.eval()
        sums: dict[str, np.ndarray] = {}
        with torch.no_grad():
            for language, batch in self._batches.items():
                masked = int((batch["labels"] != -100).sum())
                found = model(**{name: ids.to(model.device) for name, ids in batch.items()})
                sums[language] = np.array([masked * float(found["loss"]), int(found["right"]), masked])
        model.train()
        for group, languages in self.groups.items():
            sums[group] = np.sum([sums[language] for language in languages], axis=0)
        return {
            name: {"loss": round(float(loss / masked), 4), "accuracy": round(float(right / masked), 4)}
            for name, (loss, right, masked) in sums.items()
        }


class Progress(TrainerCallback):
    """Says how fast it goes and how long it will; looks at held-out text; makes checkpoints count.

    Args:
        settings: of the pretraining.
        held_out: None while the speed alone is measured.
    """

    def __init__(self, settings: MiniSettings, held_out: HeldOut | None) -> None:
        self._settings = settings
        self._held_out = held_out
        self._before = 0.0
        self._paused = 0.0
        self._first = 0
        self._start = self._warm = (0, time.perf_counter())

    @property
    def seconds(self) -> float:
        """Of all calls so far."""
        return self._before + time.perf_counter() - self._start[1]

    def steps_per_sec(self, step: int) -> float:
        """Return the speed since the warm-up, looks at held-out text left out."""
        first, since = self._warm
        seconds = time.perf_counter() - since - self._paused
        return (step - first) / seconds

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Start the clock, and add what a resumed training has taken before."""
        self._start = self._warm = (state.global_step, time.perf_counter())
        marker = read_manifest(Path(args.output_dir) / f"checkpoint-{state.global_step}", MARKER) or {}
        self._before = marker.get("seconds", 0.0)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure; at the steps that are saved, look at held-out text."""
        done = state.global_step - self._start[0]
        if done == MEASURED_STEPS // 4:
            self._warm, self._paused = (state.global_step, time.perf_counter()), 0.0
        if self._held_out is None:
            return
        if done == MEASURED_STEPS:
            said(f"after {done} steps: {self._speed(state)}")
        if state.global_step % args.save_steps == 0 or state.global_step == state.max_steps:
            began = time.perf_counter()
            found = self._held_out(kwargs["model"])
            state.log_history.append({"step": state.global_step, "held_out": found})
            self._paused += time.perf_counter() - began
            for group in self._held_out.groups:
                said(f"  held out, {group}: loss {found[group]['loss']:.3f}, {found[group]['accuracy']:.1%} right")

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Show the loss."""
        logs = kwargs.get("logs") or {}
        if self._held_out is not None and "loss" in logs:
            step = f"step {state.global_step:,} of {state.max_steps:,}"
            said(f"{step}: loss {logs['loss']:.3f}, {self._speed(state)}")

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Mark the checkpoint, which is whole now, and only then delete the older ones."""
        folder = Path(args.output_dir)
        newest = folder / f"checkpoint-{state.global_step}"
        write_json(newest / MARKER, {"seconds": self.seconds})
        for checkpoint in folder.glob("checkpoint-*"):
            if checkpoint != newest:
                shutil.rmtree(checkpoint)

    def _speed(self, state: TrainerState) -> str:
        speed = self.steps_per_sec(state.global_step)
        left = (state.max_steps - state.global_step) / speed
        return f"{speed * self._settings.batch:,.0f} tokens/s, {left / 3600:.2f} hours left"


def pretrain(text: Path, out: Path, settings: MiniSettings) -> dict[str, Any]:
    """Pretrain, and write a transformers folder with a record; go on where an interrupted call stopped.

    Args:
        text: a folder of Parquet files.
        out: the folder to write; a complete one is left alone.
        settings: shape, budget and training.

    Returns:
        The record, as in ``pretraining.json``.

    Raises:
        UserError: for a mistake in the input, or an interrupted call with other settings.
    """
    if keep_existing(out, force=False, manifest=RECORD):
        said(f"{out} is complete and left alone")
        return read_manifest(out, RECORD) or {}
    paths = sorted(text.glob("*.parquet"))
    if not paths:
        raise UserError(f"{text} holds no Parquet files; give a folder with one per language, with a column text")
    request = settings.model_dump() | {"text": fingerprint_files(paths, text)}
    work = out.resolve().with_name(f".{out.name}.pretraining")
    before = read_manifest(work, "request.json")
    if before not in (None, request):
        raise UserError(f"{work} holds an interrupted pretraining with other settings or text; repeat it or delete it")
    write_json(work / "request.json", request)

    tokens = prepared(paths, work, settings)
    masks = Masks(tokens.tokenizer, mlm_probability=settings.masked, seed=settings.seed)
    steps = _steps(tokens, masks, work, settings)
    held_out = HeldOut(tokens, settings, masks)
    progress = Progress(settings, held_out)
    batches = Batches(tokens, settings, steps)
    model = made(tokens, settings)
    weights = sum(weights.numel() for weights in model.parameters())
    said(f"{weights:,} weights, {steps:,} steps; {'bfloat16' if _bf16(settings) else 'float32'}")
    trainer = _trainer(model, batches, masks, progress, work, settings, steps)
    checkpoint = last_checkpoint(work)
    if checkpoint is not None:
        said(f"going on from {checkpoint.name}")
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    history = trainer.state.log_history
    drawn = np.bincount(np.concatenate(batches.sentences), minlength=len(tokens.lengths))
    record = {
        "kind": "pretrained",
        "settings": request,
        "weights": weights,
        "steps": steps,
        "tokens": int(drawn @ tokens.lengths),
        "seconds": round(progress.seconds),
        "languages": {
            language: {
                "sentences": len(trained),
                "tokens": int(tokens.lengths[trained].sum()),
                "drawn": int(drawn[trained].sum()),
            }
            for language, trained in zip(tokens.languages, tokens.trained, strict=True)
        },
        "groups": held_out.groups,
        "held_out": [entry for entry in history if "held_out" in entry][-1]["held_out"],
        "history": _history(history, held_out.groups),
        "versions": versions(),
    }
    publish(trainer.model, tokens.tokenizer, record, out)
    shutil.rmtree(work)
    return record


def made(text: Text, settings: MiniSettings) -> MaskedModel:
    """Return the untrained model."""
    set_seed(settings.seed)
    return MaskedModel(
        XLMRobertaConfig(
            vocab_size=len(text.tokenizer), hidden_size=settings.hidden, num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads, intermediate_size=settings.inner,
            max_position_embeddings=settings.length + 2,  # positions are counted from the padding id + 1 on
            type_vocab_size=1, pad_token_id=PAD, bos_token_id=BEGIN, eos_token_id=END, layer_norm_eps=1e-5,
            initializer_range=INITIAL / settings.hidden**0.5, hidden_dropout_prob=settings.dropout,
            attention_probs_dropout_prob=0.0,  # a CPU has no fast kernel with it
        )
    )  # fmt: skip


def _steps(text: Text, masks: Masks, work: Path, settings: MiniSettings) -> int:
    """Return the steps of the budget; a speed that decides them is measured once."""
    plan = read_manifest(work, "plan.json")
    if plan is not None:
        return int(plan["steps"])
    tokens = sum(int(text.lengths[trained].sum()) for trained in text.trained)
    steps = settings.steps or -(-tokens // settings.batch)
    if settings.hours is not None:
        progress = Progress(settings, None)
        batches = Batches(text, settings, MEASURED_STEPS)
        with tempfile.TemporaryDirectory() as folder:
            model = made(text, settings)
            _trainer(model, batches, masks, progress, Path(folder), settings, MEASURED_STEPS).train()
        speed = progress.steps_per_sec(MEASURED_STEPS)
        steps = max(1, int(settings.hours * 3600 * speed))
        said(f"{speed * settings.batch:,.0f} tokens/s: {steps:,} steps in {settings.hours:g} hours")
    said(f"{tokens:,} tokens of text; about {steps * settings.batch / tokens:.2f} passes over it")
    write_json(work / "plan.json", {"steps": steps})
    return steps


def _bf16(settings: MiniSettings) -> bool:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return uses_bf16(TrainingSettings(bf16=settings.bf16), device)


def _trainer(
    model: MaskedModel,
    batches: Batches,
    masks: Masks,
    progress: Progress,
    work: Path,
    settings: MiniSettings,
    steps: int,
) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(work),
        per_device_train_batch_size=1,  # that many batches
        train_sampling_strategy="sequential",  # the order is the batches' own
        max_steps=steps,
        warmup_steps=round(0.06 * steps),
        lr_scheduler_type="linear",
        bf16=_bf16(settings),
        use_cpu=not torch.cuda.is_available(),
        seed=settings.seed,
        save_steps=min(settings.save_steps, steps),
        logging_steps=min(50, steps),
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=False,
    )
    optimizer = MuonAndAdam(model, settings)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=batches,
        data_collator=masks,
        callbacks=[progress],
        optimizers=(optimizer, None),  # the Trainer's own schedule
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _history(log: list[dict[str, Any]], groups: dict[str, list[str]]) -> list[dict[str, Any]]:
    curve: list[dict[str, Any]] = []
    for entry in log:
        if "held_out" in entry:
            curve.append({"step": entry["step"], "held_out": {group: entry["held_out"][group] for group in groups}})
        elif "loss" in entry:
            curve.append({"step": entry["step"], "loss": round(entry["loss"], 4)})
    return curve


def publish(model: MaskedModel, tokenizer: PreTrainedTokenizerFast, record: dict[str, Any], out: Path) -> None:
    """Write the encoder without its head, the tokenizer, a README and, last, the record."""
    set_seed(0)
    encoder = XLMRobertaModel(model.config)  # with the pooler that transformers expects: random, but the same each time
    encoder.load_state_dict(model.roberta.state_dict(), strict=False)
    with new_folder(out, RECORD) as folder:
        encoder.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_text(folder / "README.md", readme(record))
        write_json(folder / RECORD, record)


def readme(record: dict[str, Any]) -> str:
    """Return the facts about a pretrained encoder as Markdown."""
    shape, languages = record["settings"], record["languages"]
    lines = [
        "# mini: a small encoder in the shape of XLM-R",
        "",
        "Masked language modelling on monolingual sentences; no translation and no other alignment between languages.",
        "A bare transformers encoder: `polyalign train CORPUS --base THIS_FOLDER`.",
        "",
        "| | |",
        "|---|---|",
        f"| Shape | {shape['layers']} layers of {shape['hidden']} dimensions, {shape['inner']} within, "
        f"{shape['heads']} heads, {shape['vocabulary']:,} subwords, texts of up to {shape['length']} tokens |",
        f"| Text | {sum(each['sentences'] for each in languages.values()):,} sentences, "
        f"{sum(each['tokens'] for each in languages.values()):,} tokens in {len(languages)} languages |",
        f"| Training | {record['steps']:,} steps, {record['tokens']:,} tokens, {record['seconds'] / 3600:.1f} hours |",
        "",
        "| Languages | Held-out loss | Masked tokens found |",
        "|---|---|---|",
    ]
    for group, members in record["groups"].items():
        found = record["held_out"][group]
        lines.append(f"| {group}: {', '.join(members)} | {found['loss']:.3f} | {found['accuracy']:.1%} |")
    return "\n".join([*lines, "", f"Everything that made it stands in `{RECORD}`.", ""])


def said(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def main() -> None:
    """Parse, pretrain; exit 2 after a user's mistake."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="folder of Parquet files, one per language")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    for name, field in MiniSettings.model_fields.items():
        default = "" if field.default is None else f"; default {field.default}"
        parser.add_argument(f"--{name.replace('_', '-')}", help=f"{field.description or 'of the encoder'}{default}")
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    text, out = given.pop("text"), given.pop("out")
    try:
        pretrain(text, out, MiniSettings.checked(given, "options"))
    except UserError as error:
        sys.stderr.write(f"pretrain_mini: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
