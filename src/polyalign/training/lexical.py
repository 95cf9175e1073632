"""A lexical half for an encoder: beside what its layers make of a text, the sum of what its subwords say by themselves.

Layers that have read little text in a language know few of its words in context. A bag of subwords needs no context: a
minute of training on N-way rows puts the subwords of all languages into one space, far better than the same rows teach
the layers. The two err on different texts. So their embeddings are put side by side, which adds two similarities: of
what the texts mean as a whole, and of their words.

It is made of parts that sentence-transformers has itself, which loads the encoder without any other code:

    ... the encoder's own, ending in Normalize ─▶ Dense (the identity, to where Pooling expects a [CLS] embedding) ─┐
    token ids ─▶ WordEmbeddings ────────────────────────────────────────────────────────────────────────────────────┴▶
    Pooling (that [CLS], and the subwords' sum over the root of their number) ─▶ Normalize
"""

from __future__ import annotations

import logging
import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Tokenizer

from polyalign.corpus.columns import ENGLISH
from polyalign.encoder import default_prompt, fast_tokenizer, load_encoder
from polyalign.errors import UserError
from polyalign.training.bases import is_static
from polyalign.training.distributed import world_size
from polyalign.training.settings import LexicalSettings
from polyalign.training.subword_vectors import subword_vectors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from polyalign.corpus import Corpus

log = logging.getLogger(__name__)

OBJECTIVE = "multi-way-distill"
"""Contrast finds translations, the distance to a teacher keeps what texts have in common within a language."""


def check_lexical(
    model: SentenceTransformer, corpus: Corpus, settings: LexicalSettings, *, trust_remote_code: bool = False
) -> None:
    """Refuse what `add_lexical` cannot do, before anything is trained.

    Raises:
        UserError: when the encoder has no layers or no fast tokenizer, the corpus no English, several processes train,
            or the teacher cannot be had.
    """
    if is_static(model):
        raise UserError("a static encoder is lexical as a whole; leave lexical out")
    if fast_tokenizer(model) is None:
        kind = type(model.tokenizer).__name__
        raise UserError(f"a lexical half needs a fast tokenizer, and this encoder has a {kind}; leave lexical out")
    if not corpus.counts().get(ENGLISH):
        raise UserError("the subwords of a lexical half learn from English, and the corpus has none; leave lexical out")
    if world_size() > 1:
        raise UserError("a lexical half is made by one process; leave it out, and run `polyalign project` afterwards")
    if settings.teacher is not None:
        load_encoder(settings.teacher, trust_remote_code=trust_remote_code)


def add_lexical(
    model: SentenceTransformer,
    corpus: Corpus,
    settings: LexicalSettings,
    *,
    seed: int,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Train a vector for each subword of an encoder's tokenizer, and put their sum beside its embeddings, in place.

    With x the encoder's embedding, of length 1, and y the sum over the root of the number of subwords, similarity is
    that of (x, y). Embeddings have twice the dimensions.

    Args:
        model: the encoder, which stays as it is.
        corpus: the rows, with gaps, with English.
        settings: how much the lexical half weighs, and how it is trained.
        seed: of that training.
        trust_remote_code: whether code that comes with a teacher may run.

    Returns:
        What a record keeps of it: ``settings``; the number of ``rows`` and their ``fingerprint``; of the training
        ``texts_encoded``, ``seconds`` and ``dev_accuracy``.

    Raises:
        UserError: see `check_lexical`.
    """
    check_lexical(model, corpus, settings, trust_remote_code=trust_remote_code)
    backend = fast_tokenizer(model)
    assert backend is not None
    dimensions = model.get_embedding_dimension() or 0
    prompt = default_prompt(model)
    with tempfile.TemporaryDirectory() as folder:
        teacher = settings.teacher
        if teacher is None:
            teacher = folder
            model.save(folder, create_model_card=False)
        vectors, record = subword_vectors(
            backend, corpus, dimensions=dimensions, epochs=settings.epochs, batch_rows=settings.batch_rows, seed=seed,
            prompt=prompt, objective=OBJECTIVE, teacher=teacher, trust_remote_code=trust_remote_code,
        )  # fmt: skip
    special = set(model.tokenizer.all_special_ids) - {model.tokenizer.unk_token_id}
    vectors[sorted(special)] = 0
    vectors *= settings.weight / _length(vectors, backend, corpus, prompt or "")
    append_half(model, torch.from_numpy(vectors))
    log.info("lexical: %d subwords beside the encoder's embeddings", len(vectors))
    return {
        "settings": settings.model_dump(),
        "rows": len(corpus),
        "fingerprint": corpus.fingerprint,
        "texts_encoded": record["cost"]["texts_encoded"],
        "seconds": record["cost"]["seconds"],
        "dev_accuracy": record["best"]["dev_accuracy"] if record["best"] else None,
    }


def _length(vectors: np.ndarray, backend: Tokenizer, corpus: Corpus, prompt: str) -> float:
    """Return the length of the sum over the root of the number of subwords, root mean square over all texts."""
    total, texts = 0.0, 0
    for language in corpus.languages:
        for encoding in backend.encode_batch_fast([prompt + text for text in corpus.rows[language].drop_nulls()]):
            summed = vectors[encoding.ids].sum(axis=0, dtype=np.float64)
            total += summed @ summed / max(len(encoding.ids), 1)
            texts += 1
    return float(np.sqrt(total / texts))


def append_half(model: SentenceTransformer, vectors: torch.Tensor) -> None:
    """Append a lexical half to an encoder in place.

    Args:
        model: an encoder of D dimensions.
        vectors: float [V, D], a row for each id of its tokenizer.
    """
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, WordEmbeddings

    dimensions = vectors.shape[1]
    own = [] if isinstance(model[-1], Normalize) else [Normalize()]
    moved = Dense(
        dimensions,
        dimensions,
        bias=False,
        activation_function=None,
        init_weight=torch.eye(dimensions),
        module_output_name="cls_token_embeddings",
    )
    side_by_side = Pooling(dimensions, pooling_mode=("cls", "mean_sqrt_len_tokens"))
    # WordEmbeddings clears the place of a [CLS] embedding, so it goes before what is put there.
    for module in [*own, WordEmbeddings(model.tokenizer, vectors), moved, side_by_side, Normalize()]:
        model.append(module.to(model.device))
    model.eval()
