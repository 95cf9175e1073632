"""Neural translation with transformers: any sequence-to-sequence model, and the reference for the faster engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from polyalign.errors import UserError
from polyalign.translation.engines.models import FAMILIES, TranslationModel
from polyalign.translation.engines.neural import NeuralEngine, NeuralSettings, Output, out_of_memory

_LOGITS = 1 << 26
"""Logits held at once while scoring: 256 MiB in float32."""


class Seq2SeqSettings(NeuralSettings):
    """How transformers translates."""

    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Numbers of the weights and to compute with."""


class Seq2SeqEngine(NeuralEngine):
    """Any model that ``AutoModelForSeq2SeqLM`` loads and whose way to name languages is known; see `NeuralEngine`."""

    kind = "transformers"
    settings: Seq2SeqSettings

    def __init__(self, model: str, settings: Seq2SeqSettings) -> None:
        super().__init__(model, settings)
        self._networks: dict[Path, Any] = {}

    def close(self) -> None:
        """Free the models."""
        self._networks.clear()
        super().close()

    @property
    def _weights(self) -> str:
        return self.settings.dtype

    def _has_gpu(self) -> bool:
        import torch

        return bool(torch.cuda.is_available())

    def _run(self, model: TranslationModel, token: str, batches: list[list[list[int]]]) -> Iterator[list[Output]]:
        network = self._network(model)
        for batch in batches:
            try:
                yield self._generate(network, model, token, batch)
            except RuntimeError as error:
                out_of_memory(error, self.settings)

    def _generate(self, network: Any, model: TranslationModel, token: str, batch: list[list[int]]) -> list[Output]:
        import torch

        tokenizer = model.tokenizer
        inputs = _padded(batch, tokenizer.pad_token_id, network.device)
        mask = _padded([[1] * len(ids) for ids in batch], 0, network.device)
        forced = [tokenizer.convert_tokens_to_ids(token)] if FAMILIES[model.family].forced else []
        with torch.inference_mode():
            found = network.generate(
                input_ids=inputs,
                attention_mask=mask,
                max_new_tokens=self._max_output(model),
                forced_bos_token_id=forced[0] if forced else None,
            )
            outputs = [_ended(row, tokenizer.eos_token_id) for row in found[:, 1 + len(forced) :].tolist()]
            sums = self._log_probabilities(network, inputs, mask, forced, outputs)
        return [
            Output(ids, log_probability, ids[-1:] == [tokenizer.eos_token_id])
            for ids, log_probability in zip(outputs, sums, strict=True)
        ]

    def _log_probabilities(
        self, network: Any, inputs: Any, mask: Any, forced: list[int], outputs: list[list[int]]
    ) -> list[float]:
        """Return the sum of the log-probabilities of each output's tokens, forced ones not counted.

        They are computed again from the finished outputs: generation would have to keep the logits of every step.
        """
        import torch

        configured = network.generation_config
        start = [configured.decoder_start_token_id, *forced]
        longest = max(map(len, outputs))
        rows = max(1, _LOGITS // (network.config.vocab_size * (len(start) + longest)))
        sums = []
        for first in range(0, len(outputs), rows):
            part = outputs[first : first + rows]
            decoded = _padded([start + ids[:-1] for ids in part], configured.pad_token_id, network.device)
            logits = network(
                input_ids=inputs[first : first + rows],
                attention_mask=mask[first : first + rows],
                decoder_input_ids=decoded,
                use_cache=False,
            ).logits[:, len(start) - 1 :]
            logits[..., configured.suppress_tokens] = -torch.inf
            log_probabilities = logits.float().log_softmax(-1)
            for ids, scores in zip(part, log_probabilities, strict=True):
                chosen = scores[torch.arange(len(ids)), torch.tensor(ids, device=scores.device)]
                sums.append(float(chosen.sum()))
        return sums

    def _network(self, model: TranslationModel) -> Any:
        if model.folder not in self._networks:
            self._networks[model.folder] = self._load(model)
        return self._networks[model.folder]

    def _load(self, model: TranslationModel) -> Any:
        import torch
        from transformers import AutoModelForSeq2SeqLM, GenerationConfig

        if model.is_ctranslate2:
            raise UserError(f"{model.folder} is a CTranslate2 model; use the engine ctranslate2, or the original model")
        if self.settings.threads:
            torch.set_num_threads(self.settings.threads)
        try:
            network = AutoModelForSeq2SeqLM.from_pretrained(model.folder, dtype=getattr(torch, self.settings.dtype))
        except Exception as error:  # whatever transformers and safetensors raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"cannot load a translation model from {model.folder}: {reason}") from error
        own, beams = network.generation_config, self.settings.beam_size
        # The model's own configuration may force an end where the output is cut, which would hide the cut.
        network.generation_config = GenerationConfig(
            **({"num_beams": beams, "early_stopping": True, "length_penalty": 1.0} if beams > 1 else {}),
            do_sample=False,
            suppress_tokens=_suppressed(model),
            decoder_start_token_id=own.decoder_start_token_id,
            bos_token_id=own.bos_token_id,
            eos_token_id=model.tokenizer.eos_token_id,
            pad_token_id=model.tokenizer.pad_token_id,
        )
        device = f"cuda:{self.settings.device_index}" if self.device == "cuda" else "cpu"
        return network.to(device).eval()


def _suppressed(model: TranslationModel) -> list[int]:
    """Return the tokens that must not be written: the unknown one, and Marian's padding, which starts the output."""
    tokenizer = model.tokenizer
    return [tokenizer.unk_token_id, *([tokenizer.pad_token_id] if model.family == "marian" else [])]


def _ended(ids: list[int], end: int) -> list[int]:
    """Return the ids up to and with the end of sentence; all of them where there is none."""
    return ids[: ids.index(end) + 1] if end in ids else ids


def _padded(rows: list[list[int]], filler: int, device: Any) -> Any:
    """Return the rows as one integer tensor, [rows, longest], filled on the right."""
    import torch

    longest = max(map(len, rows))
    return torch.tensor([row + [filler] * (longest - len(row)) for row in rows], device=device)
