"""A linear map of embeddings as the last part of an encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def append_map(model: SentenceTransformer, matrix: np.ndarray) -> None:
    """Append x ↦ ``matrix`` x to an encoder in place, and `Normalize` if the encoder ended in it.

    Args:
        model: the encoder.
        matrix: float [D, D].
    """
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize

    weight = torch.from_numpy(matrix)
    layer = Dense(*reversed(weight.shape), bias=False, activation_function=None, init_weight=weight)
    appended = [layer, Normalize()] if isinstance(model[-1], Normalize) else [layer]
    for module in appended:
        model.append(module.to(next(model.parameters())))
    model.eval()
