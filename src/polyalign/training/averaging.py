"""The mean of an encoder's weights before and after training.

Training moves an encoder for the texts that it sees. Languages and domains that it does not see are best served by its
old weights, and the straight line between the two loses little of what was learnt while it keeps most of what was
known (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", section 3). It costs nothing at use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def weights_of(model: SentenceTransformer) -> dict[str, Tensor]:
    """Return a copy of an encoder's parameters by name, on the CPU."""
    return {name: parameter.detach().cpu().clone() for name, parameter in model.named_parameters()}


def average(model: SentenceTransformer, base: dict[str, Tensor], share: float) -> None:
    """Move an encoder's weights towards those of its base, in place.

    Args:
        model: the trained encoder.
        base: `weights_of` the encoder before training. Where a parameter has got more rows since, such as the
            embeddings of new subwords, those stay as they are.
        share: of the base in the mean, 0 to 1.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            before = base[name].to(parameter)
            parameter[: len(before)].lerp_(before, share)
