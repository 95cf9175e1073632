"""A vector for each subword of a tokenizer, trained on the rows of a corpus: a text is the mean of its subwords'."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Tokenizer

from polyalign.training.settings import TrainingSettings

if TYPE_CHECKING:
    from polyalign.corpus import Corpus

FEWEST_WITH_DEV_ROWS = 100
"""Of fewer rows a tenth would be too few to choose a checkpoint by."""


def subword_vectors(
    tokenizer: Tokenizer,
    corpus: Corpus,
    *,
    dimensions: int,
    epochs: int,
    batch_rows: int,
    seed: int,
    prompt: str | None = None,
    objective: str = "multi-way",
    **more: Any,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Train a ``static`` encoder over the subwords of a tokenizer, and return their vectors.

    Args:
        tokenizer: whose subwords; the special tokens that it puts at the ends of a text are left out.
        corpus: the rows.
        dimensions: of the vectors.
        epochs: passes over the rows.
        batch_rows: rows a step; at most half of the corpus is taken.
        seed: of everything random.
        prompt: prefix put before every text.
        objective: the preset that trains them.
        more: of `polyalign.training.trainer.train`: ``teacher`` and ``trust_remote_code``.

    Returns:
        float32 [V, ``dimensions``], a row for each id, those that the corpus lacks as they began; and the record of the
        training.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    from polyalign.training.trainer import train

    plain = Tokenizer.from_str(json.dumps(json.loads(tokenizer.to_str()) | {"post_processor": None}))
    generator = torch.Generator().manual_seed(seed)
    size = max(plain.get_vocab().values()) + 1
    weights = torch.randn(size, dimensions, generator=generator) * 0.1
    module = StaticEmbedding(plain, embedding_weights=weights)
    with tempfile.TemporaryDirectory() as temporary:
        base, out = Path(temporary) / "base", Path(temporary) / "static"
        SentenceTransformer(modules=[module], device="cpu").save(str(base), create_model_card=False)
        training = TrainingSettings(
            epochs=epochs,
            batch_rows=max(2, min(batch_rows, len(corpus) // 2)),
            dev_rows=None if len(corpus) >= FEWEST_WITH_DEV_ROWS else 0,
            prompt=prompt,
        )
        record = train(corpus, out, base=str(base), objective=objective, settings=training, seed=seed, **more)
        trained = SentenceTransformer(str(out), device="cpu")
    vectors: np.ndarray = trained[0].embedding.weight.detach().numpy()
    return vectors, record
