"""The frozen teacher's embeddings of the English side: computed once, and memory-mapped."""

from __future__ import annotations

import logging
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from polyalign.corpus.columns import ENGLISH, ROW_ID
from polyalign.corpus.fingerprint import RowsFingerprint
from polyalign.encoder import encoder_fingerprint
from polyalign.errors import UserError
from polyalign.storage import fingerprint, user_cache
from polyalign.training.arrays import ArrayWriter, made_once
from polyalign.training.batches import keys

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

    from polyalign.corpus import Corpus

log = logging.getLogger(__name__)

ROWS_PER_BLOCK = 8192


def teacher_vectors(
    teacher: SentenceTransformer, corpus: Corpus, *, cache: Path | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the teacher's embeddings of the English side: int64 [R] row keys, ascending, and float32 [R, D].

    They are kept in a folder that is named by the teacher, the rows and their English; a second call opens it.

    Args:
        teacher: the frozen encoder.
        corpus: the rows; those without English are left out.
        cache: where the folder is; None for ``teacher`` in the user's cache.

    Returns:
        Tensors on memory-mapped files, for reading only.

    Raises:
        UserError: when the corpus has no English.
    """
    import torch

    if not corpus.counts().get(ENGLISH):
        raise UserError("a keep term holds the English side, and the corpus has no English; set keep to 'none'")
    rows = corpus.rows.select(ROW_ID, ENGLISH).drop_nulls()
    digest = RowsFingerprint([ENGLISH])
    digest.update(rows)
    name = fingerprint([encoder_fingerprint(teacher), digest.hexdigest()])
    folder = (user_cache("teacher") if cache is None else cache) / name
    _, arrays = made_once(folder, partial(_embed, teacher, rows), {"keys": np.int64, "vectors": np.float32})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(arrays["keys"]), torch.from_numpy(arrays["vectors"])


def in_dimensions(vectors: torch.Tensor, dimensions: int) -> torch.Tensor:
    """Return embeddings in another number of dimensions: padded with zeros, or in those that hold most of them.

    Fewer dimensions are the principal directions (not centred, so that dot products change least); each embedding
    keeps its length.

    Args:
        vectors: float32 [R, D].
        dimensions: of the result.

    Returns:
        float32 [R, ``dimensions``].
    """
    import torch

    present = vectors.shape[1]
    if dimensions >= present:
        return torch.nn.functional.pad(vectors, (0, dimensions - present))
    moment = torch.zeros(present, present, dtype=torch.float64)
    for start in range(0, len(vectors), ROWS_PER_BLOCK):
        block = vectors[start : start + ROWS_PER_BLOCK].double()
        moment += block.T @ block
    sizes, directions = torch.linalg.eigh(moment)
    kept = 100 * float(sizes[-dimensions:].sum() / sizes.sum())
    log.info("%d of the teacher's %d dimensions hold %.1f%% of its embeddings", dimensions, present, kept)
    projected = vectors @ directions[:, -dimensions:].float()
    lengths: torch.Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return lengths * torch.nn.functional.normalize(projected, dim=1)


def _embed(teacher: SentenceTransformer, rows: pl.DataFrame, writer: ArrayWriter) -> dict[str, Any]:
    """Append the row keys and the embeddings, block by block."""
    row_keys = keys(rows[ROW_ID])
    order = row_keys.argsort()
    for start in range(0, len(order), ROWS_PER_BLOCK):
        block = order[start : start + ROWS_PER_BLOCK]
        texts = rows[ENGLISH][block].to_list()
        vectors = teacher.encode(texts, batch_size=64, show_progress_bar=False, convert_to_numpy=True)
        writer.append(keys=row_keys[block], vectors=vectors)
    log.info("the teacher embedded %d English texts", len(rows))
    return {}
