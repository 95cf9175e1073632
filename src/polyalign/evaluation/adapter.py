"""An encoder as MTEB wants it: with a name of its own, and each distinct text encoded once whatever task asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder

from polyalign.encoder import CachedEncoder

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import PromptType


class MtebEncoder(AbsEncoder):
    """A `CachedEncoder` behind MTEB's encoder protocol.

    Prompts are chosen as MTEB's own sentence-transformers wrapper chooses them: the model's prompt for the task or
    the task's type, else its default prompt. Similarities are the model's own (``AbsEncoder`` asks ``self.model``).

    Args:
        encoder: the encoder and its cache, shared by all tasks.
        name: MTEB's ``organization/model`` name.
        fingerprint: the revision under which MTEB files results; what keeps two local encoders apart.
    """

    def __init__(self, encoder: CachedEncoder, *, name: str, fingerprint: str) -> None:
        self.encoder = encoder
        self.model = encoder.model
        self.model_prompts = encoder.model.prompts
        self.mteb_model_meta = ModelMeta.create_empty(overwrites={"name": name, "revision": fingerprint})

    def encode(
        self, inputs: Any, *, task_metadata: TaskMetadata, prompt_type: PromptType | None = None, **_: Any
    ) -> np.ndarray:
        """Return the embeddings of a data loader's texts, float32 [n, D]."""
        texts = [text for batch in inputs for text in batch["text"]]
        prompt_name = self.get_prompt_name(task_metadata, prompt_type)
        return self.encoder.encode(texts, prompt=self.model_prompts[prompt_name] if prompt_name else None)
