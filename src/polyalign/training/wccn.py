"""Even out, in embeddings, what differs between translations: one linear map for all texts, fitted on parallel rows.

Some directions of an embedding tell translations of one sentence apart more than others do, and add noise to every
similarity across languages. Here each direction is divided by how far the texts of a row scatter in it.

WCCN: Hatch, Kajarekar and Stolcke (2006), Within-class covariance normalization for SVM-based speaker recognition,
https://www.isca-archive.org/interspeech_2006/hatch06_interspeech.html. A class there is a speaker, here it is a row.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from polyalign.corpus import Corpus
from polyalign.errors import UserError
from polyalign.training import distributed
from polyalign.training.language_bias import less_group_mean
from polyalign.training.linear_map import append_map

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

log = logging.getLogger(__name__)

ROWS = 2000
"""The most rows behind a covariance: in seven languages 12,000 degrees of freedom."""


def within_row_covariance(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the covariance of texts around the mean of their row, all rows together.

    It is shrunk towards a multiple of the identity as far as few texts in many dimensions need it (Ledoit and Wolf
    2004, A well-conditioned estimator for large-dimensional covariance matrices).

    Args:
        vectors: float [n, D].
        rows: [n], which row each is of; one that is alone in its row adds nothing.

    Returns:
        float64 [D, D], positive definite unless the texts of every row are the same, or there is a single row.
    """
    from sklearn.covariance import ledoit_wolf

    covariance: np.ndarray = ledoit_wolf(less_group_mean(vectors.astype(np.float64), rows), assume_centered=True)[0]
    return covariance


def normalization(covariance: np.ndarray, power: float) -> np.ndarray:
    """Return W^(-power/2), with W the covariance within rows: float64 [D, D], symmetric.

    Args:
        covariance: float [D, D], positive definite.
        power: 0 to 1; 1 is WCCN as published, after which texts of a row scatter alike in all directions; less of it
            keeps more of the encoder's own geometry.
    """
    variances, directions = np.linalg.eigh(covariance)
    matrix: np.ndarray = (directions * variances ** (-power / 2)) @ directions.T
    return matrix


def normalize_within_rows(model: SentenceTransformer, corpus: Corpus, power: float) -> dict[str, Any]:
    """Fit WCCN, and append it to an encoder in place.

    Args:
        model: the encoder; it encodes as `encode` does, with its default prompt.
        corpus: rows, with gaps; at most `ROWS`, evenly spaced, are encoded.
        power: see `normalization`.

    Returns:
        What a record keeps of it: ``power``, how many ``rows`` and ``texts`` there were, and their ``fingerprint``.

    Raises:
        UserError: when translations differ in too few directions.
    """
    places = np.linspace(0, len(corpus) - 1, min(len(corpus), ROWS)).round().astype(int)
    chosen = Corpus(rows=corpus.rows[places], languages=corpus.languages, report=corpus.report)
    matrix = _fit(model, chosen, power) if distributed.rank() == 0 else None
    matrix = distributed.from_first(matrix)  # the same in every process, to the last bit
    if matrix is None:
        raise UserError(
            f"texts of a row differ in too few directions (rows: {len(chosen)}); wccn needs more rows of translations"
        )
    append_map(model, matrix)
    texts = sum(chosen.counts().values())
    log.info("wccn: the covariance within %d rows, %d texts, to the power of -%g", len(chosen), texts, power / 2)
    return {"power": power, "rows": len(chosen), "texts": texts, "fingerprint": chosen.fingerprint}


def _fit(model: SentenceTransformer, corpus: Corpus, power: float) -> np.ndarray | None:
    """Return the map, which leaves the mean squared length of the texts as it is; None where W has no inverse."""
    rows, texts = [], []
    for language in corpus.languages:
        for row, text in enumerate(corpus.rows[language]):
            if text is not None:
                rows.append(row)
                texts.append(text)
    vectors = model.encode(texts, batch_size=64, show_progress_bar=False, convert_to_numpy=True).astype(np.float64)
    covariance = within_row_covariance(vectors, np.array(rows))
    if np.linalg.matrix_rank(covariance, hermitian=True) < len(covariance):
        return None
    matrix = normalization(covariance, power)
    scaled: np.ndarray = matrix * np.sqrt((vectors**2).sum() / ((vectors @ matrix) ** 2).sum())
    return scaled
