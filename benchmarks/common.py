"""What the benchmarks of training share: encoders with random weights, a corpus, and the measuring of a Trainer."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np
import polars as pl
import torch
from datasets import Dataset, disable_progress_bars
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import PrinterCallback
from transformers.utils.logging import disable_progress_bar

from polyalign.corpus import Corpus
from polyalign.training.adapting import adapt
from polyalign.training.batches import EpochOfLanguages, TokenCollator
from polyalign.training.engine import MultiwayTrainer
from polyalign.training.fitting import fitted, uses_bf16
from polyalign.training.loss import MultiwayLoss
from polyalign.training.objective import Objective
from polyalign.training.settings import StaticSettings, TrainingSettings
from polyalign.training.tokens import tokens_of

disable_progress_bar()
disable_progress_bars()

SAMPLE = Path(__file__).parents[1] / "src" / "polyalign" / "sample" / "train.jsonl"
GIB = 2**30
BOTH_WAYS: dict[str, Any] = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
"""Options of sentence-transformers' ranking losses that give a pair two terms, one for each direction."""

_MORE_TAGS = ("it", "nl", "pl", "pt", "ja", "ar", "tr", "ko", "sv")
"""Beyond the sample's seven languages, texts of these are its texts in one of those, in other rows."""
_SENTENCES, _SIGMA, _MOST_SENTENCES = 1.5, 0.55, 6
"""Of the lengths of texts: the mean in sentences, the standard deviation of the logarithm, what they are cut at."""


@dataclass(frozen=True)
class Shape:
    """The sizes of an encoder: layers, embedding dimensions, attention heads, inner dimensions, subwords."""

    layers: int
    hidden: int
    heads: int
    inner: int
    vocabulary: int
    max_seq_length: int = 256


SHAPES = {
    "minilm": Shape(6, 384, 12, 1536, 30_522),
    "two-layer": Shape(2, 384, 12, 1536, 30_522),
    "xlm-r-base": Shape(12, 768, 12, 3072, 250_002, max_seq_length=64),
    "tiny": Shape(2, 64, 4, 128, 9000, max_seq_length=64),
}


def arguments_parser(about: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks of training have."""
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller sizes, under two minutes on two idle cores")
    parser.add_argument("--base", help="a sentence-transformers folder to take instead of random weights")
    parser.add_argument("--corpus", help="a corpus folder or a file of rows to take instead of the sample's sentences")
    parser.add_argument("--languages", default="en,de,es,fr,pl,ru,zh", help="columns of --corpus to take")
    return parser


def prepared(options: argparse.Namespace, folder: Path, *, rows: int, shape: str = "minilm") -> tuple[Path, Corpus]:
    """Return the encoder and the corpus that the options ask for, and say what they are and on which machine.

    Args:
        options: of `arguments_parser`.
        folder: for the encoder, if it is made here.
        rows: of the corpus, if it is made here.
        shape: the encoder's, if it is made here.
    """
    base = Path(options.base) if options.base else make_base(shape, folder / shape)
    corpus = (
        Corpus.open(options.corpus, languages=options.languages.split(",")) if options.corpus else make_corpus(rows)
    )
    print(machine())
    print(
        f"base {options.base or f'of shape {shape}, random weights'}; trained in {'bfloat16' if bf16() else 'float32'}"
    )
    print(f"corpus {options.corpus or 'from the sample'}: {len(corpus):,} rows in {', '.join(corpus.languages)}")
    return base, corpus


def machine() -> str:
    """Return the processor, the GPU if there is one, the threads and the versions that decide the numbers."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    gpu = f"; {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    names = ("polyalign", "sentence-transformers", "transformers", "torch")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    load = os.getloadavg()[0]
    return (
        f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, load {load:.1f}{gpu}; "
        f"Python {platform.python_version()}, {versions}"
    )


def conclude(name: str, value: float | None, unit: str, goal: str | None, met: bool | None, **beside: Any) -> None:
    """Print the last line, one JSON object; floats are rounded to three digits."""
    result = {"name": name, "value": value, "unit": unit, "goal": goal, "met": met, **beside}
    print(json.dumps({key: round(each, 3) if isinstance(each, float) else each for key, each in result.items()}))


def bf16() -> bool:
    """Return whether both sides compute in bfloat16: where the device has instructions for it."""
    return uses_bf16(TrainingSettings(bf16="auto"), device())


def device() -> torch.device:
    """Return the device on which sentence-transformers trains."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make_corpus(rows: int, languages: int = 7) -> Corpus:
    """Return distinct rows without gaps, whose texts are sentences of the packaged sample joined, the last one cut.

    Lengths are log-normal: the longest of 128 texts has 3.4 times the tokens of their mean. With the same tokenizer it
    is 3.7 in STS-B's sentences in seven languages.

    Args:
        rows: how many; of a million, fewer are short, since the sample has 500 sentences.
        languages: 2 to 16.
    """
    sample = pl.read_ndjson(SAMPLE)
    generator = np.random.default_rng(0)
    sixteenths = np.empty(0, dtype=np.int64)  # of sentences, in a text
    picked = np.empty((0, _MOST_SENTENCES), dtype=np.int64)
    while len(picked) < rows:
        sizes = generator.lognormal(np.log(_SENTENCES) - _SIGMA**2 / 2, _SIGMA, rows)
        sixteenths = np.append(sixteenths, (16 * sizes).round().clip(4, 16 * _MOST_SENTENCES).astype(np.int64))
        picked = np.append(picked, generator.integers(len(sample), size=(rows, _MOST_SENTENCES)), axis=0)
        picked *= 16 * np.arange(_MOST_SENTENCES) < sixteenths[:, None]  # what is not read is alike
        distinct = np.unique(np.column_stack([sixteenths, picked]), axis=0, return_index=True)[1]
        sixteenths, picked = sixteenths[np.sort(distinct)], picked[np.sort(distinct)]
    sixteenths, picked = sixteenths[:rows], picked[:rows]
    texts = {}
    for place, tag in enumerate([*sample.columns, *_MORE_TAGS][:languages]):
        turn, column = divmod(place, len(sample.columns))
        parts = []
        for part in range(_MOST_SENTENCES):
            share = pl.Series((sixteenths / 16 - part).clip(0, 1))
            sentence = sample.to_series(column).gather((picked[:, part] + 71 * turn) % len(sample))
            cut = sentence.str.head((sentence.str.len_chars() * share).ceil().cast(pl.Int64))
            parts.append(cut.set(share == 0, None).alias(str(part)))
        texts[tag] = pl.select(pl.concat_str(parts, separator=" ", ignore_nulls=True)).to_series()
    return Corpus.from_texts(pl.DataFrame(texts), "the sample")


def make_base(shape: str, folder: Path) -> Path:
    """Write an encoder with random weights, mean pooling and a tokenizer learnt from the packaged sample.

    Args:
        shape: one of `SHAPES`, or ``static`` for embeddings of subwords alone.
        folder: to write.
    """
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, XLMRobertaConfig, XLMRobertaModel, set_seed

    from polyalign.training.bases import static_base

    if shape == "static":
        static_base(make_corpus(500), StaticSettings(), seed=0).save(str(folder), create_model_card=False)
        return folder
    sizes = SHAPES[shape]
    made, config = (XLMRobertaModel, XLMRobertaConfig) if shape == "xlm-r-base" else (BertModel, BertConfig)
    set_seed(0)
    parts = folder.with_name(f"{folder.name}-parts")
    made(
        config(
            vocab_size=sizes.vocabulary, num_hidden_layers=sizes.layers, hidden_size=sizes.hidden,
            num_attention_heads=sizes.heads, intermediate_size=sizes.inner, pad_token_id=1, bos_token_id=0,
            eos_token_id=2, max_position_embeddings=514,
        )
    ).save_pretrained(parts)  # fmt: skip
    _tokenizer(sizes).save_pretrained(parts)
    transformer = Transformer(str(parts))
    model = SentenceTransformer(modules=[transformer, Pooling(sizes.hidden, pooling_mode="mean")], device="cpu")
    model.save(str(folder), create_model_card=False)
    return folder


def _tokenizer(sizes: Shape) -> Any:
    """Return a tokenizer of byte pairs, with names for as many more subwords as the shape has embeddings."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.normalizer = normalizers.NFKC()
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    rows = [json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines()]
    trainer = trainers.BpeTrainer(vocab_size=8000, special_tokens=special, show_progress=False)
    learner.train_from_iterator([text for row in rows for text in row.values()], trainer)
    learner.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 2)])
    state = json.loads(learner.to_str())
    pieces = state["model"]["vocab"]
    pieces |= {f"▁{number}": number for number in range(len(pieces), sizes.vocabulary)}  # never read
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        model_max_length=sizes.max_seq_length,
        model_input_names=["input_ids", "attention_mask"],
        **names,
    )


def exploded(corpus: Corpus, *, english_only: bool = False) -> Dataset:
    """Return every pair of a row's texts as ``anchor`` and ``positive``, or only those with English."""
    pairs = [pair for pair in combinations(corpus.languages, 2) if not english_only or pair[0] == "en"]
    both = [corpus.rows.select(pl.col(a).alias("anchor"), pl.col(b).alias("positive")).drop_nulls() for a, b in pairs]
    return Dataset.from_dict(pl.concat(both).to_dict(as_series=False))


def arguments(folder: Path, *, batch: int) -> SentenceTransformerTrainingArguments:
    """Return what both sides are trained with: AdamW, the same rate, the same precision; stopped by a `Meter`."""
    on_gpu = device().type == "cuda"
    return SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        max_steps=1_000_000,
        learning_rate=5e-5,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=20,
        bf16=bf16(),
        use_cpu=not on_gpu,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=2 if on_gpu else 0,
        dataloader_pin_memory=on_gpu,
    )


def peer_trainer(
    model: SentenceTransformer, pairs: Dataset, folder: Path, *, batch: int, cached: dict[str, Any] | None = None
) -> SentenceTransformerTrainer:
    """Return sentence-transformers' Trainer with its ranking loss over pairs, in both directions.

    Args:
        model: the encoder to train.
        pairs: ``anchor`` and ``positive``.
        folder: of the Trainer.
        batch: pairs a step.
        cached: options of the loss with cached gradients; None for the plain one.
    """
    loss = (
        MultipleNegativesRankingLoss(model, **BOTH_WAYS)
        if cached is None
        else CachedMultipleNegativesRankingLoss(model, **BOTH_WAYS, **cached)
    )
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments(folder, batch=batch), train_dataset=pairs, loss=loss
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def our_trainer(
    model: SentenceTransformer,
    corpus: Corpus,
    folder: Path,
    *,
    batch: int,
    objective: str = "multi-way",
    gradient_cache: bool | str = "auto",
) -> MultiwayTrainer:
    """Return polyalign's Trainer over rows, put together as `polyalign.train` does it.

    Args:
        model: the encoder to train; changed in place, see `polyalign.training.adapting.restore`.
        corpus: the rows.
        folder: of the Trainer and of the tokens.
        batch: rows a step.
        objective: the name of a preset.
        gradient_cache: as in `TrainingSettings`.
    """
    settings = TrainingSettings(batch_rows=batch, gradient_cache=gradient_cache, bf16="auto")
    chosen = Objective.named(objective)
    tokens = tokens_of(corpus, model, cache=folder / "tokens")
    adapt(model, tokens, settings, seed=0)
    fit = fitted(model, tokens, chosen, settings, seed=0)
    collator = TokenCollator(tokens, model, chosen, seed=0, tokens_per_chunk=fit.tokens_per_chunk)
    trainer = MultiwayTrainer(
        model=model,
        args=arguments(folder, batch=batch),
        train_dataset=Dataset.from_dict({"row": np.arange(len(tokens))}),
        loss=MultiwayLoss(model, chosen, cache_gradients=fit.cache_gradients),
        batch_rows=fit.batch_rows,
        data_collator=collator,
        callbacks=[EpochOfLanguages(collator)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


@dataclass(frozen=True)
class Work:
    """What a training has computed in some time.

    Attributes:
        seconds: wall-clock time.
        cpu_seconds: processor time, of all threads together.
        steps: optimizer steps.
        texts: encoded, a text counted as often as it is.
        tokens: of these texts.
        computed: tokens with padding.
        attended: the sum of the squared lengths in tokens, which attention costs.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    steps: int = 0
    texts: int = 0
    tokens: int = 0
    computed: int = 0
    attended: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    @property
    def texts_per_sec(self) -> float:
        """Texts a second."""
        return self.texts / self.seconds

    @property
    def texts_per_cpu_sec(self) -> float:
        """Texts a second of processor time."""
        return self.texts / self.cpu_seconds

    @property
    def padding(self) -> float:
        """The share of the computed tokens that is padding, 0 to 1."""
        return 1 - self.tokens / self.computed

    def useful_gflops(self, model: SentenceTransformer) -> float:
        """Return the GFLOP a second that one forward and one backward pass need, padding and embeddings left out."""
        encoder, config = model[0].model.encoder, model[0].model.config
        weights = sum(parameter.numel() for parameter in encoder.parameters())
        attention = 12 * config.num_hidden_layers * config.hidden_size * self.attended
        return (6 * weights * self.tokens + attention) / self.seconds / 1e9


class Meter(TrainerCallback):
    """Counts and times what a Trainer does after its first steps, and stops it.

    Of an encoder that embeds a text twice in a step (cached gradients), the pass with a graph counts alone.

    Args:
        model: the encoder in training.
        warm_up: steps that do not count.
        seconds: to stop after, with the step that reaches them.
        steps: to stop after, if that comes first; None for the seconds alone.
    """

    def __init__(self, model: SentenceTransformer, *, warm_up: int, seconds: float, steps: int | None = None) -> None:
        self._model = model
        self._warm_up, self._seconds, self._steps = warm_up, seconds, steps
        self._lengths: list[Tensor] = []
        self._computed = 0
        self._start = (0.0, 0.0)
        self.work = Work()

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Watch the encoder."""
        self._hook = self._model.register_forward_pre_hook(self._count)
        if self._warm_up == 0:
            self._begin()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Begin after the last step of the warm-up; end when it is time."""
        steps = state.global_step - self._warm_up
        if steps == 0:
            self._begin()
        if steps <= 0:
            return
        seconds, cpu_seconds = (now - start for now, start in zip(self._now(), self._start, strict=True))
        if seconds >= self._seconds or steps == self._steps:
            lengths = torch.cat(self._lengths).double()
            tokens, attended = int(lengths.sum()), int(lengths.square().sum())
            self.work = Work(seconds, cpu_seconds, steps, len(lengths), tokens, self._computed, attended)
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Leave the encoder as it was."""
        self._hook.remove()

    def _begin(self) -> None:
        self._lengths, self._computed = [], 0
        self._start = self._now()

    def _now(self) -> tuple[float, float]:
        if self._model.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    def _count(self, module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if torch.is_grad_enabled():
            self._lengths.append(lengths_of(inputs[0]))
            self._computed += inputs[0]["input_ids"].numel()


def lengths_of(features: dict[str, Any]) -> Tensor:
    """Return the lengths in tokens of the texts of a forward pass, int64 [n]; padded, packed or a bag."""
    if "attention_mask" in features:
        return features["attention_mask"].sum(1)
    if "cu_seq_lens_q" in features:
        return features["cu_seq_lens_q"].diff()
    ids, offsets = features["input_ids"], features["offsets"]
    return offsets.diff(append=offsets.new_tensor([len(ids)]))


def measured(
    trainer: SentenceTransformerTrainer, *, seconds: float, warm_up: int = 2, steps: int | None = None
) -> Work:
    """Train, and return what was computed after the warm-up; see `Meter`."""
    meter = Meter(trainer.model, warm_up=warm_up, seconds=seconds, steps=steps)
    trainer.add_callback(meter)
    trainer.train()
    return meter.work


def matrix_gflops(size: int = 2048) -> float:
    """Return the GFLOP a second of a product of two square matrices in the precision of training, the best of ten."""
    dtype = torch.bfloat16 if bf16() else torch.float32
    left, right = (torch.randn(size, size, device=device()).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        product = left @ right
        if product.is_cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best / 1e9


def memory_bytes(name: str) -> int:
    """Return the memory of this process that Linux calls by this name: ``VmRSS`` now, ``VmHWM`` at most so far."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows of text under their heads, right-aligned."""
    lines = [list(heads), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)), flush=True)
