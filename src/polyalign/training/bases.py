"""The encoder that training starts from: loaded, or made on the spot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from polyalign.encoder import load_encoder, set_default_prompt

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

    from polyalign.corpus import Corpus
    from polyalign.training.settings import StaticSettings, TrainingSettings

STATIC = "static"
DIMENSIONS = 256
MIN_MERGE_FREQUENCY = 5
"""Subwords rarer than this are left in pieces: whole rare words would have embeddings that nothing has trained."""


def load_base(
    base: str, corpus: Corpus, settings: TrainingSettings, *, seed: int, trust_remote_code: bool = False
) -> SentenceTransformer:
    """Return the encoder to train, in float32, with its prompt set.

    Args:
        base: ``static``, or a folder or Hub id for `load_encoder`.
        corpus: the training rows; a ``static`` base learns its subwords from them.
        settings: ``static``, ``pooling``, ``prompt`` and ``max_seq_length`` are used.
        seed: of a ``static`` base's initial embeddings.
        trust_remote_code: whether code that comes with the base may run.

    Raises:
        UserError: when the base is missing or unreachable.
    """
    if base == STATIC:
        model = static_base(corpus, settings.static, seed=seed)
    else:
        model = load_encoder(base, trust_remote_code=trust_remote_code, pooling=settings.pooling).float()
    if settings.prompt is not None:
        set_default_prompt(model, settings.prompt)
    if settings.max_seq_length is not None and base != STATIC:
        model.max_seq_length = settings.max_seq_length
    return model


def static_base(corpus: Corpus, settings: StaticSettings, *, seed: int) -> SentenceTransformer:
    """Return an untrained encoder whose sentence embedding is the mean of its subwords' embeddings.

    They start small, at a standard deviation of 0.1: from PyTorch's default of 1 most of the accuracy is lost.

    Args:
        corpus: the rows to learn the subwords from.
        settings: dimensions and vocabulary.
        seed: of the initial embeddings.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    texts = (text for language in corpus.languages for text in corpus.rows[language].drop_nulls())
    tokenizer = byte_pairs(texts, settings.vocabulary, special=["[UNK]"], unknown="[UNK]", lowercase=True)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(tokenizer.get_vocab_size(), settings.dimensions or DIMENSIONS, generator=generator) * 0.1
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device="cpu")


def byte_pairs(
    texts: Iterable[str],
    vocabulary: int,
    *,
    special: Sequence[str],
    unknown: str,
    lowercase: bool,
    alphabet: Iterable[str] | None = None,
) -> Tokenizer:
    """Return a tokenizer whose subwords are learnt by byte-pair encoding, the same on every run (unigram's are not).

    Args:
        texts: to learn from.
        vocabulary: the most subwords, special tokens and characters included; characters are kept even beyond that.
        special: tokens with the first ids.
        unknown: the one of them that stands for a character without a subword.
        lowercase: whether case is ignored.
        alphabet: the only characters that are kept, in the form NFKC gives them; None for all that occur.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=unknown))
    steps = [normalizers.NFKC(), normalizers.Lowercase()] if lowercase else [normalizers.NFKC()]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(),
            pre_tokenizers.Split(Regex(r"[^\p{L}\p{M}\p{N}▁]"), "isolated"),
        ]
    )
    limit: dict[str, Any] = {}
    if alphabet is not None:  # by its own limit alone, the trainer chooses at random between equally frequent ones
        characters = sorted({"▁", *alphabet})
        limit = {"initial_alphabet": characters, "limit_alphabet": len(characters)}
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=MIN_MERGE_FREQUENCY,
        special_tokens=list(special),
        show_progress=False,
        **limit,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def is_static(model: SentenceTransformer) -> bool:
    """Return whether the encoder is a bag of embeddings: it has no layers, no padding and no dropout."""
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    return isinstance(model[0], StaticEmbedding)
