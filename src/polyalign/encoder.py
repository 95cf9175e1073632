"""Load an encoder with its prefix and its record, and encode each distinct text once."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from polyalign.errors import UserError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

RECORD = "polyalign.json"
_E5 = re.compile(r"(^|[/_-])e5-(small|base|large)")
log = logging.getLogger(__name__)


def load_encoder(
    source: str | Path, *, trust_remote_code: bool = False, device: str | None = None, pooling: str = "mean"
) -> SentenceTransformer:
    """Load a sentence-transformers folder or Hub id, or any encoder that transformers loads, given pooling.

    E5 models are trained to see a prefix that their folders do not set: those that set no default prompt get it here.

    Args:
        source: a folder or a Hub id.
        trust_remote_code: whether code that comes with the model may run.
        device: a torch device; None lets sentence-transformers choose.
        pooling: ``mean`` or ``cls``; used only when the source is a bare transformers encoder.

    Raises:
        UserError: when the model is missing, unreachable or not an encoder; the message says how to get it.
    """
    if Path(source).exists() and not (Path(source).is_dir() and any(Path(source).iterdir())):
        raise UserError(f"{source} is not a model folder; give a sentence-transformers or transformers folder")
    try:
        model = _load(str(source), trust_remote_code=trust_remote_code, device=device, pooling=pooling)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(_cannot_load(source, error)) from error
    if _E5.search(str(source).lower()) and model.default_prompt_name is None:
        log.info("%s is an E5 model: every text is encoded after the prefix 'query: '", source)
        set_default_prompt(model, "query: ")
    return model


def _load(source: str, *, trust_remote_code: bool, device: str | None, pooling: str) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from sentence_transformers.util import is_sentence_transformer_model

    if is_sentence_transformer_model(source):
        return SentenceTransformer(source, device=device, trust_remote_code=trust_remote_code)
    log.info("%s is a bare transformers encoder: adding %s pooling", source, pooling)
    remote = {"trust_remote_code": trust_remote_code}
    transformer = Transformer(source, model_kwargs=remote, config_kwargs=remote, processor_kwargs=remote)
    pooled = Pooling(transformer.get_embedding_dimension(), pooling_mode=pooling)
    return SentenceTransformer(modules=[transformer, pooled], device=device)


def _cannot_load(source: str | Path, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if Path(source).exists():
        return f"cannot load an encoder from {source}: {reason}"
    return (
        f"cannot load the model {str(source)!r}: no such folder, and it cannot be had from the Hub ({reason}); "
        f"on a machine with network run `hf download {source} --local-dir DIR` and give DIR"
    )


def read_record(source: str | Path) -> dict[str, Any] | None:
    """Return the ``polyalign.json`` of a local encoder folder, or None when it has none."""
    path = Path(source) / RECORD
    if not path.is_file():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); train the encoder again or delete that file") from error
    return record


def encoder_fingerprint(model: SentenceTransformer) -> str:
    """Return a 32-hex-digit hash of the weights and of what else decides the embeddings of ``model``."""
    import torch

    digest = xxhash.xxh3_128()
    settings = {
        "modules": [type(module).__name__ for module in model],
        "configs": [getattr(module, "get_config_dict", dict)() for module in model],
        "prompts": model.prompts,
        "default_prompt_name": model.default_prompt_name,
        "max_seq_length": str(model.max_seq_length),
        "vocabulary": sorted(getattr(model.tokenizer, "get_vocab", dict)().items()),
    }
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def set_default_prompt(model: SentenceTransformer, prompt: str) -> None:
    """Let ``model.encode``, here and wherever the saved model is loaded, put ``prompt`` before every text."""
    model.prompts["polyalign"] = prompt
    model.default_prompt_name = "polyalign"


def default_prompt(model: SentenceTransformer) -> str | None:
    """Return the prefix that ``model.encode`` puts before every text by itself, such as E5's ``"query: "``."""
    if model.default_prompt_name is None:
        return None
    prompts: dict[str, str] = model.prompts
    return prompts.get(model.default_prompt_name)


def fast_tokenizer(model: SentenceTransformer) -> Tokenizer | None:
    """Return a copy of the encoder's fast tokenizer that neither pads nor truncates; None where it has none."""
    from tokenizers import Tokenizer

    backend = getattr(model.tokenizer, "backend_tokenizer", model.tokenizer)
    if not isinstance(backend, Tokenizer):
        return None
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy


class CachedEncoder:
    """An encoder that computes each distinct (prompt, text) once, whoever asks and however often.

    Args:
        model: the encoder.
        batch_size: texts per forward pass.

    Attributes:
        texts_asked: texts passed to `encode` so far.
    """

    def __init__(self, model: SentenceTransformer, *, batch_size: int = 64) -> None:
        self.model = model
        self.batch_size = batch_size
        self.texts_asked = 0
        self._position: dict[tuple[str | None, str], int] = {}
        self._vectors: list[np.ndarray] = []

    @property
    def texts_encoded(self) -> int:
        """Distinct (prompt, text) pairs encoded so far."""
        return len(self._position)

    def encode(self, texts: Sequence[str], *, prompt: str | None = None) -> np.ndarray:
        """Return the embeddings of ``texts``, float32 [n, D].

        Args:
            texts: n texts.
            prompt: the prefix; None for the model's default one, an empty string for none at all.
        """
        prompt = default_prompt(self.model) if prompt is None else prompt
        self.texts_asked += len(texts)
        new = [text for text in dict.fromkeys(texts) if (prompt, text) not in self._position]
        if new:
            vectors = self.model.encode(
                new, prompt=prompt or "", batch_size=self.batch_size, show_progress_bar=False, convert_to_numpy=True
            )
            for text, vector in zip(new, vectors.astype(np.float32), strict=True):
                self._position[prompt, text] = len(self._vectors)
                self._vectors.append(vector)
        if not texts:
            return np.empty((0, self.model.get_embedding_dimension() or 0), dtype=np.float32)
        return np.stack([self._vectors[self._position[prompt, text]] for text in texts])
