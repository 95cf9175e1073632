"""Neural translation with CTranslate2: quantised weights, many times as fast as the framework they were trained in.

CTranslate2 is not safe to fork: make engines in processes that are spawned, or in threads.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from polyalign.errors import UserError
from polyalign.storage import new_folder, user_cache
from polyalign.translation.engines.models import (
    CT2_WEIGHTS,
    FAMILIES,
    TranslationModel,
    read_vocabulary,
    without_remarks,
)
from polyalign.translation.engines.neural import NeuralEngine, NeuralSettings, Output, needs, out_of_memory

log = logging.getLogger(__name__)


class Ct2Settings(NeuralSettings):
    """How CTranslate2 translates."""

    compute_type: Literal["auto", "int8", "int8_float16", "int8_bfloat16", "float16", "bfloat16", "float32"] = "auto"
    """Numbers to compute with; ``auto`` is int8 on a CPU, int8_float16 on a GPU (int8 where that is not supported)."""
    cache: Path | None = None
    """Where converted models are kept; None is ``ctranslate2`` in ``$POLYALIGN_CACHE`` or ``~/.cache/polyalign``."""
    threads_per_batch: int = Field(default=1, ge=1)
    """CPU threads that work on one batch; as many batches run at once as `threads` allow."""


class Ct2Engine(NeuralEngine):
    """NLLB-200, M2M-100, MADLAD-400 and OPUS-MT models in CTranslate2; see `NeuralEngine`.

    The model is a CTranslate2 folder with the tokenizer's files beside the weights, or a transformers folder or Hub id,
    which is converted on first use and kept in a cache. Languages that one model knows share it.
    """

    kind = "ctranslate2"
    settings: Ct2Settings

    def __init__(self, model: str, settings: Ct2Settings) -> None:
        super().__init__(model, settings)
        self._translators: dict[Path, Any] = {}

    def close(self) -> None:
        """Free the models."""
        self._translators.clear()
        super().close()

    @property
    def _weights(self) -> str:
        """Quantisation of the weights: what is computed beside them differs between devices by rounding only."""
        compute = self.settings.compute_type
        return "int8" if compute == "auto" or compute.startswith("int8") else compute

    @property
    def _batches_at_once(self) -> int:
        if self.device == "cuda":
            return 1
        return max(1, (self.settings.threads or _cores()) // self.settings.threads_per_batch)

    def _has_gpu(self) -> bool:
        return bool(_ctranslate2().get_cuda_device_count())

    def _run(self, model: TranslationModel, token: str, batches: list[list[list[int]]]) -> Iterator[list[Output]]:
        translator = self._translator(model)
        running: deque[tuple[list[Any], int]] = deque()
        for batch in batches:
            running.append(self._start(translator, model, token, batch))
            if len(running) > 2 * translator.num_translators:
                yield self._outputs(model, *running.popleft())
        while running:
            yield self._outputs(model, *running.popleft())

    def _start(
        self, translator: Any, model: TranslationModel, token: str, batch: list[list[int]]
    ) -> tuple[list[Any], int]:
        """Hand a batch to the translator; return its future results and the number of forced tokens in each."""
        forced = FAMILIES[model.family].forced
        results = translator.translate_batch(
            [model.tokenizer.convert_ids_to_tokens(ids) for ids in batch],
            target_prefix=[[token]] * len(batch) if forced else None,
            asynchronous=True,
            beam_size=self.settings.beam_size,
            length_penalty=1,
            disable_unk=True,
            max_input_length=0,  # no cutting in silence: the inputs are cut, and marked, before
            max_decoding_length=self._max_output(model),
            min_decoding_length=0,  # an empty output is told as one
            return_end_token=True,  # its absence is the sign of a cut output
            return_scores=True,
        )
        return results, int(forced)

    def _outputs(self, model: TranslationModel, results: list[Any], forced: int) -> list[Output]:
        end = model.tokenizer.eos_token
        outputs = []
        try:
            for result in (future.result() for future in results):
                tokens = result.hypotheses[0]
                # The score is the sum of the log-probabilities over the number of tokens, the forced one included.
                outputs.append(
                    Output(
                        ids=model.tokenizer.convert_tokens_to_ids(tokens[forced:]),
                        log_probability=min(0.0, result.scores[0] * len(tokens)),
                        finished=tokens[-1:] == [end],
                    )
                )
        except RuntimeError as error:
            out_of_memory(error, self.settings)
        return outputs

    def _translator(self, model: TranslationModel) -> Any:
        """Return the loaded weights of a model, converted before if need be."""
        if model.folder not in self._translators:
            folder = model.folder if model.is_ctranslate2 else self._converted(model)
            _check_tokenizer(model, folder)
            self._translators[model.folder] = self._load(folder)
        return self._translators[model.folder]

    def _load(self, folder: Path) -> Any:
        ctranslate2 = _ctranslate2()
        options: dict[str, Any] = {"compute_type": self._compute_type(ctranslate2), "device": self.device}
        if self.device == "cpu":
            options |= {"inter_threads": self._batches_at_once, "intra_threads": self.settings.threads_per_batch}
        else:
            options["device_index"] = self.settings.device_index
        try:
            return ctranslate2.Translator(str(folder), **options)
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"CTranslate2 cannot load {folder} on {self.device} with {options['compute_type']}: "
                f"{str(error).splitlines()[0]}; another device or compute_type may do"
            ) from error

    def _compute_type(self, ctranslate2: Any) -> str:
        if self.settings.compute_type != "auto":
            return self.settings.compute_type
        if self.device == "cpu":
            return "int8"
        supported = ctranslate2.get_supported_compute_types("cuda", self.settings.device_index)
        return "int8_float16" if "int8_float16" in supported else "int8"

    def _converted(self, model: TranslationModel) -> Path:
        """Return the model's folder in the cache, after converting it there if it is not there yet."""
        from filelock import FileLock

        cache = (self.settings.cache or user_cache("ctranslate2")).expanduser()
        out = cache / f"{model.name.replace('/', '--')}-{model.revision[:16]}-{self._weights}"
        if (out / CT2_WEIGHTS).is_file():
            return out
        cache.mkdir(parents=True, exist_ok=True)
        _ctranslate2()
        with FileLock(cache / f".{out.name}.lock"):
            if not (out / CT2_WEIGHTS).is_file():  # another process may have made it meanwhile
                log.info("converting %s for CTranslate2, once, into %s", model.name, out)
                with new_folder(out, CT2_WEIGHTS) as partial:
                    _convert(model, partial, self._weights)
        return out


def _ctranslate2() -> Any:
    try:
        import ctranslate2
    except ImportError as error:
        raise needs("ctranslate2", error) from error
    return ctranslate2


def _convert(model: TranslationModel, out: Path, weights: str) -> None:
    from ctranslate2.converters import TransformersConverter

    if getattr(model.tokenizer, "separate_vocabs", False):
        raise UserError(
            f"CTranslate2 cannot convert {model.name}: its source and target vocabularies differ; "
            "use the engine transformers"
        )

    class Converter(TransformersConverter):
        def load_model(self, *args: Any, **kwargs: Any) -> Any:
            network = super().load_model(*args, **kwargs)
            # The converter scales the outputs of a T5 model with tied embeddings. transformers 5 calls all of them tied
            # and says elsewhere which to scale: not those of T5 1.1, such as MADLAD-400.
            if hasattr(network.config, "scale_decoder_outputs"):
                network.config.tie_word_embeddings = network.config.scale_decoder_outputs
            return network

    try:
        with without_remarks():
            Converter(str(model.folder), low_cpu_mem_usage=True).convert(str(out), quantization=weights, force=True)
    except Exception as error:  # whatever transformers and the converter raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"CTranslate2 cannot convert {model.folder}: {reason}") from error


def _check_tokenizer(model: TranslationModel, folder: Path) -> None:
    """Check that the weights know every token that the tokenizer can make: others would become unknown in silence."""
    known = set(read_vocabulary(folder))
    special = set(model.tokenizer.all_special_tokens) | {model.tokenizer.pad_token}
    strange = [token for token in model.tokenizer.get_vocab() if token not in known and token not in special]
    if strange:
        raise UserError(
            f"the tokenizer in {model.folder} does not belong to the weights in {folder}: they lack {len(strange)} of "
            f"its tokens, such as {strange[0]!r}; put the right tokenizer there or convert again"
        )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
