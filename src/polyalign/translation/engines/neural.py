"""The part of a neural engine that does not depend on the library: split, batch, join, and say where it came from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, NoReturn

from pydantic import Field, field_validator

from polyalign.errors import UserError
from polyalign.languages import canonical, script
from polyalign.settings import Settings
from polyalign.translation.engines.contract import Batch, Provenance, Translation
from polyalign.translation.engines.models import FAMILIES, OPUS, TranslationModel, serving

_WITHOUT_SPACES = {"Hans", "Hant", "Jpan"}
_BATCH_TOKENS = {"cpu": 512, "cuda": 8192}


class NeuralSettings(Settings):
    """How a neural model translates."""

    beam_size: int = Field(default=4, ge=1, le=32)
    """Hypotheses kept at each step; 4 is what NLLB and OPUS-MT were evaluated with, 1 is about twice as fast."""
    max_input_tokens: int = Field(default=256, ge=8)
    """A longer text is translated sentence by sentence; one sentence may go up to the model's own limit."""
    max_output_tokens: int = Field(default=512, ge=1)
    """Longest output of a sentence, in tokens, its end included; a longer one is cut and marked."""
    language: str | None = None
    """Target of a bilingual model whose files do not tell it, a BCP-47 tag."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; ``auto`` takes a GPU that the library can use."""
    device_index: int = Field(default=0, ge=0)
    """Which GPU."""
    threads: int = Field(default=0, ge=0)
    """CPU threads of this engine; 0 takes one per available core."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens of a batch, padding included, before beam search; None is 512 on a CPU, or less where
    too few texts would leave cores idle, and 8,192 on a GPU."""

    @field_validator("language")
    @classmethod
    def _canonical(cls, value: str | None) -> str | None:
        try:
            return canonical(value) if value else None
        except UserError as error:
            raise ValueError(str(error)) from error


@dataclass(frozen=True, slots=True)
class Output:
    """What the model gave for one input: its ids, the sum of their log-probabilities, whether it came to an end.

    ``ids`` hold the end of sentence where it was reached, and not the forced language token.
    """

    ids: list[int]
    log_probability: float
    finished: bool


@dataclass(frozen=True, slots=True)
class _Part:
    """A text, or one sentence of a long one, ready for the model."""

    text: int
    sentence: int
    ids: list[int]
    cut: bool
    unknown: int


class NeuralEngine(ABC):
    """Translates with a sequence-to-sequence model; the two libraries differ in `_run` alone.

    Args:
        model: a folder, a Hub id, or ``opus-mt`` for one OPUS-MT model per language.
        settings: see the class; an engine is made in each worker from these two.
    """

    kind: ClassVar[str]

    def __init__(self, model: str, settings: NeuralSettings) -> None:
        self.model = model
        self.settings = settings
        self._models: dict[str, TranslationModel] = {}

    def provenance(self, language: str) -> Provenance | None:
        """Return where translations into ``language`` come from; None where the model lacks the language.

        Raises:
            UserError: when the model is missing, or does not know the token of a language that its family has.
        """
        found = self._served(language)
        if found is None:
            return None
        model, token = found
        return Provenance(
            engine=f"{self.kind}:{model.name}",
            revision=model.revision,
            licence=model.licence,
            settings={
                "token": token,
                "weights": self._weights,
                "beam_size": self.settings.beam_size,
                "max_input_tokens": self.settings.max_input_tokens,
                "max_output_tokens": self.settings.max_output_tokens,
            },
        )

    def translate(self, texts: Sequence[str], language: str) -> Iterator[Batch]:
        """Yield the translations, those of each batch as soon as it is done, the longest texts first.

        ``truncated`` says that a sentence was longer than the model's input, or its output did not come to an end
        within ``max_output_tokens``. ``unknown`` counts the input tokens that the model has no piece for.

        Raises:
            UserError: when the model is missing or cannot be loaded, or the device has too little memory.
        """
        found = self._served(language)
        if found is None:
            raise UserError(f"{self.kind}:{self.model} does not translate into {language!r}")
        model, token = found
        parts = sorted(self._parts(model, token, texts), key=lambda part: -len(part.ids))
        missing = Counter(part.text for part in parts)
        done: dict[int, list[tuple[_Part, Output]]] = defaultdict(list)
        lengths = [len(part.ids) for part in parts]
        batches = [parts[start:end] for start, end in _cuts(lengths, self._batch_tokens(sum(lengths)))]
        results = self._run(model, token, [[part.ids for part in batch] for batch in batches])
        for batch, outputs in zip(batches, results, strict=True):
            finished: Batch = []
            for part, output in zip(batch, outputs, strict=True):
                done[part.text].append((part, output))
                missing[part.text] -= 1
                if not missing[part.text]:
                    finished.append((part.text, _joined(model, done.pop(part.text), language)))
            if finished:
                yield finished

    def close(self) -> None:
        """Free the models."""
        self._models.clear()

    @cached_property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where the engine computes."""
        if self.settings.device == "auto":
            return "cuda" if self._has_gpu() else "cpu"
        return self.settings.device

    def _batch_tokens(self, all_tokens: int) -> int:
        """Return the budget of a batch: by default small enough that all batches that run at once have work."""
        share = -(-all_tokens // self._batches_at_once)
        return self.settings.batch_tokens or min(_BATCH_TOKENS[self.device], max(1, share))

    @property
    def _batches_at_once(self) -> int:
        return 1

    @property
    @abstractmethod
    def _weights(self) -> str:
        """The number format of the weights, as far as it decides the output."""

    @abstractmethod
    def _has_gpu(self) -> bool: ...

    @abstractmethod
    def _run(self, model: TranslationModel, token: str, batches: list[list[list[int]]]) -> Iterator[list[Output]]:
        """Yield the outputs of each batch of input ids, in order."""

    def _max_output(self, model: TranslationModel) -> int:
        """Return the longest output in tokens, the forced language token included, that settings and model allow."""
        forced = int(FAMILIES[model.family].forced)
        return min(self.settings.max_output_tokens + forced, model.positions)

    def _served(self, language: str) -> tuple[TranslationModel, str] | None:
        """Return the model and the token for the language, or None where there is none."""
        asked = serving(self.model, language)
        if asked is None:
            return None
        if asked.model not in self._models:
            target = language if self.model == OPUS else self.settings.language
            self._models[asked.model] = TranslationModel(asked.model, target)
        model = self._models[asked.model]
        if asked.token:
            model.require(asked.token)
            return model, asked.token
        token = model.token(language)
        if token is None and self.model == OPUS:
            raise UserError(f"{asked.model}, listed for {language!r}, does not know it; choose another engine for it")
        return None if token is None else (model, token)

    def _parts(self, model: TranslationModel, token: str, texts: Sequence[str]) -> Iterator[_Part]:
        unknown = model.tokenizer.unk_token_id
        limit = min(self.settings.max_input_tokens, model.positions)
        for text, whole in enumerate(model.encode(texts, token)):
            rows = [whole] if len(whole) <= limit else model.encode(_sentences(texts[text]), token)
            for sentence, ids in enumerate(rows):
                kept = model.cut(ids)
                yield _Part(text, sentence, kept, len(kept) < len(ids), ids.count(unknown))


def _sentences(text: str) -> list[str]:
    try:
        from sentencex import segment
    except ImportError as error:
        raise UserError("splitting long text needs a package: pip install 'polyalign[translate]'") from error
    return [stripped for sentence in segment("en", text) if (stripped := sentence.strip())]


def _cuts(lengths: list[int], budget: int) -> Iterator[tuple[int, int]]:
    """Yield the bounds of batches of descending ``lengths`` that hold at most ``budget`` tokens, padding included."""
    start = 0
    while start < len(lengths):
        end = min(start + max(1, budget // lengths[start]), len(lengths))
        yield start, end
        start = end


def _joined(model: TranslationModel, parts: list[tuple[_Part, Output]], language: str) -> Translation:
    """Return one translation from those of the sentences; the score is the mean over all their tokens."""
    parts = sorted(parts, key=lambda pair: pair[0].sentence)
    space = "" if script(language) in _WITHOUT_SPACES else " "
    tokens = sum(len(output.ids) for _, output in parts)
    return Translation(
        text=space.join(filter(None, (model.decode(output.ids) for _, output in parts))),
        score=sum(output.log_probability for _, output in parts) / tokens if tokens else None,
        truncated=any(part.cut or not output.finished for part, output in parts),
        unknown=sum(part.unknown for part, _ in parts),
    )


def needs(kind: str, error: ImportError) -> UserError:
    """Return the error for a missing package of an engine."""
    return UserError(f"the engine {kind} needs a package ({error.name}): pip install 'polyalign[translate]'")


def out_of_memory(error: RuntimeError, settings: NeuralSettings) -> NoReturn:
    """Raise what the user can do about too little memory; raise any other error as it is."""
    if "out of memory" in str(error).lower():
        raise UserError(
            f"the device has too little memory: lower batch_tokens (now {settings.batch_tokens or 'the default'}) or "
            f"beam_size (now {settings.beam_size}), or take a smaller model"
        ) from error
    raise error
