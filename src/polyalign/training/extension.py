"""New subwords for languages that a base cuts into crumbs, with embeddings that mean something from the start.

An English tokenizer spells other languages letter by letter: sentences become long, and their pieces say nothing. Here
whole subwords of the corpus join the vocabulary. What they mean is read off the rows themselves: a `static` encoder is
trained on them, in which subwords of all languages share one space, and each new subword begins as the weighted mean of
the base's embeddings of the English subwords that lie nearest to it. So "собака" begins as "dog", and the base reads a
language it has never seen before a single step of its training.

The weighted mean is that of WECHSEL (Minixhofer, Paischer and Rekabsaz 2022, "WECHSEL: Effective initialization of
subword embeddings for cross-lingual transfer of monolingual language models"), which takes its space from bilingual
dictionaries; rows of N languages make them unnecessary.
"""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, trainers
from torch import Tensor

from polyalign.encoder import encoder_fingerprint, fast_tokenizer
from polyalign.errors import UserError
from polyalign.similarity import unit
from polyalign.storage import fingerprint, user_cache
from polyalign.training.arrays import ArrayWriter, made_once
from polyalign.training.bases import is_static
from polyalign.training.distributed import world_size
from polyalign.training.settings import ExtensionSettings
from polyalign.training.subword_vectors import subword_vectors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from polyalign.corpus import Corpus

log = logging.getLogger(__name__)

MIN_PIVOT_COUNT = 5
"""English subwords rarer than this in the corpus have no reliable place in the shared space, and lend no embedding."""
_METHOD = 3
"""Of what is made here; raised whenever the same settings come to other subwords or embeddings than before."""
_BLOCK = 4096


def extend_vocabulary(
    model: SentenceTransformer, corpus: Corpus, settings: ExtensionSettings, *, seed: int, cache: Path | None = None
) -> dict[str, Any]:
    """Give an encoder new subwords, in place; the embeddings of the old ones stay as they are.

    Made once for a base, a corpus, settings and a seed, and kept.

    Args:
        model: an encoder with a WordPiece tokenizer (BERT's and its descendants').
        corpus: the training rows, with English.
        settings: how many subwords, and how their meaning is found.
        seed: of the static encoder.
        cache: where the embeddings are kept; None for ``extensions`` in the user's cache.

    Returns:
        ``subwords``, how many are new; ``dev_accuracy`` of the static encoder; ``texts_encoded`` by it, in training.

    Raises:
        UserError: when the tokenizer is of another kind, the corpus lacks English, or several processes train.
    """
    backend = _wordpiece(model)
    if "en" not in corpus.languages:
        spoken = ", ".join(corpus.languages)
        raise UserError(f"new subwords borrow their embeddings from English, and the corpus has {spoken}")
    name = fingerprint([_METHOD, encoder_fingerprint(model), corpus.fingerprint, settings.model_dump(), seed])
    folder = (user_cache("extensions") if cache is None else cache) / name
    make = partial(_make, model, backend, corpus, settings, seed)
    about, arrays = made_once(folder, make, {"embeddings": np.float32})
    _install(model, backend, about["pieces"], torch.from_numpy(arrays["embeddings"].copy()))
    return {key: about[key] for key in ("subwords", "dev_accuracy", "texts_encoded")}


def is_extensible(model: SentenceTransformer) -> bool:
    """Return whether the encoder is a transformer with a WordPiece tokenizer, which new subwords can join."""
    tokenizer = fast_tokenizer(model)
    return tokenizer is not None and isinstance(tokenizer.model, models.WordPiece) and not is_static(model)


def _wordpiece(model: SentenceTransformer) -> Tokenizer:
    tokenizer = fast_tokenizer(model)
    if tokenizer is None or not is_extensible(model):
        kind = type(getattr(tokenizer, "model", None)).__name__
        raise UserError(
            "new subwords can join the WordPiece tokenizer of a transformer (BERT, MiniLM, LaBSE), and this base has "
            f"{'no layers' if is_static(model) else f'one of kind {kind}'}; leave the extension out"
        )
    return tokenizer


def wordpieces(like: Tokenizer, texts: list[str], vocabulary: int, *, min_frequency: int) -> dict[str, int]:
    """Return the subwords, with ids, of a WordPiece tokenizer learnt from texts; the same on every run.

    Args:
        like: a tokenizer that splits text into words in the same way.
        texts: to learn from.
        vocabulary: the most subwords; characters are kept even beyond that.
        min_frequency: of a word or a part of words to become a subword.
    """

    def learnt(vocabulary: int, first: list[str]) -> dict[str, int]:
        learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        learner.normalizer, learner.pre_tokenizer = like.normalizer, like.pre_tokenizer
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocabulary, min_frequency=min_frequency, special_tokens=["[UNK]", *first], show_progress=False
        )
        learner.train_from_iterator(texts, trainer)
        vocab: dict[str, int] = learner.get_vocab()
        return vocab

    # The trainer breaks ties by ids, and numbers characters within words in the order of a hash table, which is another
    # on every run, unless they are given to it.
    return learnt(vocabulary, sorted(piece for piece in learnt(0, []) if piece.startswith("##")))


def new_pieces(backend: Tokenizer, corpus: Corpus, settings: ExtensionSettings) -> list[str]:
    """Return the subwords that a WordPiece tokenizer of the corpus has and this one has not, frequent ones first."""
    texts = [text for language in corpus.languages for text in corpus.rows[language].drop_nulls()]
    # Words rarer than that are left in pieces, which other words share.
    found = wordpieces(backend, texts, settings.vocabulary, min_frequency=settings.min_count)
    known = backend.get_vocab()
    # A longer continuation in letters that the base knows would cut words of languages that are not in the corpus anew.
    familiar = {letter for piece in known if piece.startswith("##") and len(piece) > 3 for letter in piece}
    new = [
        piece
        for piece in sorted(found, key=found.__getitem__)
        if piece not in known and not (piece.startswith("##") and familiar.issuperset(piece))
    ]
    # Counted as the extended tokenizer cuts the text: without a rare one its text is cut into others, more often seen.
    counts = _counts(with_pieces(backend, new), texts)[len(known) :]
    return [piece for piece, count in zip(new, counts, strict=True) if count >= settings.min_count]


def with_pieces(backend: Tokenizer, pieces: list[str]) -> Tokenizer:
    """Return the tokenizer with further subwords; the ids of the old ones stay."""
    state = json.loads(backend.to_str())
    vocabulary = state["model"]["vocab"]
    first = max(vocabulary.values()) + 1
    vocabulary |= {piece: first + place for place, piece in enumerate(pieces)}
    return Tokenizer.from_str(json.dumps(state))


def _counts(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """Return how often each subword occurs in the texts, int64 [V]."""
    ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    return np.bincount(np.concatenate(ids), minlength=tokenizer.get_vocab_size())


def borrowed_embeddings(
    vectors: np.ndarray, pivots: np.ndarray, table: np.ndarray, *, neighbours: int, temperature: float
) -> np.ndarray:
    """Return weighted means of the pivots' embeddings, float32 [n, D]: the weights are a softmax over cosines.

    Args:
        vectors: float [n, S], the new subwords in the shared space.
        pivots: float [P, S], the pivots there.
        table: float [P, D], the pivots' embeddings in the base.
        neighbours: how many pivots a new subword borrows from; all where there are fewer.
        temperature: of the softmax, above 0.
    """
    pivots = unit(pivots)
    count = min(neighbours, len(pivots))
    borrowed = np.empty((len(vectors), table.shape[1]), dtype=np.float32)
    for start in range(0, len(vectors), _BLOCK):
        similarity = unit(vectors[start : start + _BLOCK]) @ pivots.T
        nearest = np.argpartition(similarity, len(pivots) - count, axis=1)[:, len(pivots) - count :]
        logits = np.take_along_axis(similarity, nearest, axis=1) / temperature
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        borrowed[start : start + _BLOCK] = np.einsum("nk,nkd->nd", weights, table[nearest])
    return borrowed


def _make(
    model: SentenceTransformer,
    backend: Tokenizer,
    corpus: Corpus,
    settings: ExtensionSettings,
    seed: int,
    writer: ArrayWriter,
) -> dict[str, Any]:
    if world_size() > 1:
        raise UserError("new subwords are made by one process; train a step without torchrun first, which keeps them")
    pieces = new_pieces(backend, corpus, settings)
    extended = with_pieces(backend, pieces)
    static, record = subword_vectors(
        extended, corpus,
        dimensions=settings.dimensions, epochs=settings.epochs, batch_rows=settings.batch_rows, seed=seed,
    )  # fmt: skip
    old = backend.get_vocab_size()
    counts = _counts(extended, corpus.rows["en"].drop_nulls().to_list())
    pivots = np.flatnonzero(counts[:old] >= MIN_PIVOT_COUNT)
    if not len(pivots):
        raise UserError(f"no English subword occurs {MIN_PIVOT_COUNT} times in the corpus; leave the extension out")
    table = model[0].model.get_input_embeddings().weight.detach().cpu().float().numpy()
    writer.append(
        embeddings=borrowed_embeddings(
            static[old:], static[pivots], table[pivots],
            neighbours=settings.neighbours, temperature=settings.temperature,
        )
    )  # fmt: skip
    log.info("%d new subwords, from %d English ones", len(pieces), len(pivots))
    return {
        "pieces": pieces,
        "subwords": len(pieces),
        "dev_accuracy": record["best"]["dev_accuracy"] if record["best"] else None,
        "texts_encoded": record["cost"]["texts_encoded"],
    }


def _install(model: SentenceTransformer, backend: Tokenizer, pieces: list[str], embeddings: Tensor) -> None:
    """Give the encoder and its tokenizer the new subwords."""
    transformer = model[0].model
    old = transformer.get_input_embeddings().weight.detach()
    transformer.resize_token_embeddings(backend.get_vocab_size() + len(pieces), mean_resizing=False)
    with torch.no_grad():
        table = transformer.get_input_embeddings().weight
        table[: len(old)] = old[: len(table)]
        table[backend.get_vocab_size() :] = embeddings.to(table)
    model.tokenizer._tokenizer = with_pieces(backend, pieces)
