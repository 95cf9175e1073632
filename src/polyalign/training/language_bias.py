"""Remove what tells languages apart from embeddings: one linear map for all texts, fitted without any translation.

LSAR: Xie, Zhao, Yu and Li (2022), Discovering Low-rank Subspaces for Language-agnostic Multilingual Representations,
https://arxiv.org/abs/2401.05792.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from polyalign.corpus import Corpus
from polyalign.errors import UserError
from polyalign.storage import fingerprint
from polyalign.training import distributed
from polyalign.training.linear_map import append_map

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

log = logging.getLogger(__name__)

TEXTS_PER_LANGUAGE = 2000
"""The most texts behind the mean of a language; its standard error is 2% of the spread of the texts."""


def language_subspace(means: np.ndarray, rank: int) -> tuple[np.ndarray, float]:
    """Return the directions in which the mean embeddings of languages differ most.

    The means M = [m_1 … m_L] are approximated by a vector common to all languages and a low-rank rest,
    M ≈ μ 1ᵀ + M_s Γᵀ, in least squares. The best M_s are the first left singular vectors of M - m̄ 1ᵀ. The paper then
    moves μ, within the affine hull of the approximated means, to where it is orthogonal to M_s. That leaves the span of
    M_s, the directions of the hull, as it is; and only the span is used here.

    Args:
        means: float [L, D], the mean embedding of each language.
        rank: of the rest, 1 to L - 1 and below D.

    Returns:
        float64 [rank, D], orthonormal rows; and the share, 0 to 1, of the squared distances of the languages' means to
        their own mean that lies in these directions.

    Raises:
        UserError: when the rank is out of that range, or the means differ in fewer directions.
    """
    check_rank(rank, languages=means.shape[0], dimensions=means.shape[1])
    centred = means.astype(np.float64) - means.mean(axis=0, dtype=np.float64)
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    if (found := np.linalg.matrix_rank(centred)) < rank:
        raise UserError(f"the means of the languages differ in {found} directions only; lower the rank from {rank}")
    return directions[:rank], float((lengths[:rank] ** 2).sum() / (lengths**2).sum())


def check_rank(rank: int, *, languages: int, dimensions: int) -> None:
    """Check the rank of `language_subspace` before anything is computed.

    Raises:
        UserError: unless 1 ≤ ``rank`` < ``languages`` and ``rank`` < ``dimensions``.
    """
    most = min(languages, dimensions) - 1
    if not 1 <= rank <= most:
        raise UserError(
            f"language bias of rank {rank} cannot be removed from {dimensions} dimensions with {languages} languages; "
            f"allowed are 1 to {most}"
        )


def project_out(model: SentenceTransformer, texts: Mapping[str, Sequence[str]], rank: int) -> dict[str, Any]:
    """Fit LSAR, and append the projection to an encoder in place.

    Args:
        model: the encoder; it encodes as `encode` does, with its default prompt.
        texts: of each language, in any order and number; at most `TEXTS_PER_LANGUAGE`, evenly spaced, are encoded.
        rank: directions to remove, see `language_subspace`.

    Returns:
        What a record keeps of it: ``rank``, ``explained`` (see `language_subspace`), the number of ``texts`` by
        language, and their ``fingerprint``.

    Raises:
        UserError: when the rank is out of range, or a language has no text.
    """
    if empty := [language for language, found in texts.items() if not found]:
        raise UserError(f"no text in {' and '.join(empty)} to find the language bias in; leave these languages out")
    texts = {language: _evenly(found) for language, found in texts.items()}
    fitted = language_subspace(_means(model, texts), rank) if distributed.rank() == 0 else None
    fitted = distributed.from_first(fitted)  # the same in every process, to the last bit
    assert fitted is not None
    directions, explained = fitted
    append_map(model, np.eye(directions.shape[1]) - directions.T @ directions)
    log.info("language bias: %d directions removed, %.1f%% of the languages' differences", rank, 100 * explained)
    counts = {language: len(found) for language, found in texts.items()}
    return {"rank": rank, "explained": round(explained, 4), "texts": counts, "fingerprint": fingerprint(texts)}


def texts_by_language(corpus: Corpus) -> dict[str, list[str]]:
    """Return the texts of each language that has any, for `project_out`; which are parallel is not looked at."""
    return {
        language: corpus.rows[language].drop_nulls().to_list() for language, count in corpus.counts().items() if count
    }


def center_by_language(vectors: np.ndarray, languages: np.ndarray) -> np.ndarray:
    """Return embeddings less the mean of their language: what could be gained if the language of each text were known.

    For diagnosis; no encoder does this, since it does not know the language of a text.

    Args:
        vectors: float [n, D].
        languages: [n], anything that can be compared.

    Returns:
        float [n, D].
    """
    return less_group_mean(vectors, languages)


def less_group_mean(vectors: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return vectors, float [n, D], less the mean of their group, [n] of anything that can be compared."""
    _, number = np.unique(groups, return_inverse=True)
    sums = np.zeros((number.max(initial=-1) + 1, vectors.shape[1]))
    np.add.at(sums, number, vectors)
    means = (sums / np.bincount(number)[:, None]).astype(vectors.dtype)
    centred: np.ndarray = vectors - means[number]
    return centred


def _evenly(texts: Sequence[str]) -> list[str]:
    places = np.linspace(0, len(texts) - 1, min(len(texts), TEXTS_PER_LANGUAGE)).round().astype(int)
    return [texts[place] for place in places]


def _means(model: SentenceTransformer, texts: Mapping[str, Sequence[str]]) -> np.ndarray:
    """Return the mean embedding of each language, float64 [L, D]."""
    return np.stack(
        [
            model.encode(found, batch_size=64, show_progress_bar=False, convert_to_numpy=True).mean(0, dtype=np.float64)
            for found in texts.values()
        ]
    )
