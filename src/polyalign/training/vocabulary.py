"""Train the embeddings of the token ids that occur, and no others.

Of XLM-R's 250,002 embeddings a corpus uses a few ten thousand. AdamW without weight decay leaves a row alone that never
had a gradient; so the others need neither gradients nor moments, and the result is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    import numpy as np
    from sentence_transformers import SentenceTransformer

MOST_OF_THE_ROWS = 0.9


class CompactEmbedding(nn.Module):
    """Stands for an embedding of V ids in D dimensions of which only some rows are trained.

    Args:
        table: the embedding, `nn.Embedding` or an `nn.EmbeddingBag` of means.
        ids: int64 [n], distinct; the rows to train.

    Attributes:
        weight: float [n, D], in training.
        frozen: float [V, D], all rows as they were; no part of the state dict.
        place: int64 [V], the row of each id in ``weight``; -1 where there is none.
    """

    def __init__(self, table: nn.Embedding | nn.EmbeddingBag, ids: Tensor) -> None:
        super().__init__()
        frozen = table.weight.detach()
        ids = ids.to(frozen.device)
        self.weight = nn.Parameter(frozen[ids])
        self.frozen: Tensor
        self.place: Tensor
        self.register_buffer("frozen", frozen, persistent=False)
        place = torch.full((len(frozen),), -1, device=frozen.device)
        place[ids] = torch.arange(len(ids), device=frozen.device)
        self.register_buffer("place", place, persistent=False)
        self.padding_idx = table.padding_idx
        padding = -1 if table.padding_idx is None else int(place[table.padding_idx])
        self._padding = None if padding == -1 else padding
        self._table = (table,)  # in a tuple, lest it be a submodule

    def forward(self, input_ids: Tensor, offsets: Tensor | None = None) -> Tensor:
        """Return what the whole embedding would.

        Args:
            input_ids: int64, of any shape; [N] for a bag.
            offsets: int64 [B], where each bag starts; None for an `nn.Embedding`.

        Returns:
            float [*input_ids.shape, D], or [B, D] for bags.
        """
        place = self.place[input_ids]
        frozen = place < 0
        if offsets is not None and not frozen.any():
            return functional.embedding_bag(place, self.weight, offsets)
        trained = functional.embedding(place.clamp(min=0), self.weight, self._padding)
        rows = torch.where(frozen.unsqueeze(-1), functional.embedding(input_ids, self.frozen), trained)
        if offsets is None:
            return rows
        return functional.embedding_bag(torch.arange(len(rows), device=rows.device), rows, offsets)

    def expanded(self) -> nn.Embedding | nn.EmbeddingBag:
        """Return the embedding that this stands for, with the rows as trained."""
        (table,) = self._table
        ids = (self.place >= 0).nonzero().squeeze(1)
        table.weight.data = self.frozen
        table.weight.data[ids] = self.weight.data[self.place[ids]]
        return table


def compact_embeddings(model: SentenceTransformer, ids: np.ndarray) -> bool:
    """Let ``model`` train the embeddings of ``ids`` alone; it encodes any text as before.

    With AdamW, without weight decay, the training gives what it gives without this. `expand_embeddings` undoes it;
    until then, the saved model has too few embeddings to be loaded.

    Args:
        model: an encoder with an embedding of token ids.
        ids: int64 [n], distinct; all that the texts of the training have. Padding need not be among them.

    Returns:
        Whether there was something to gain: not where the embedding is not trained (LoRA), serves elsewhere too (an
        output layer), is no plain embedding, or has few rows without a text.
    """
    table = _input_embedding(model)
    if table is None or not table.weight.requires_grad or len(ids) > MOST_OF_THE_ROWS * len(table.weight):
        return False
    if sum(parameter is table.weight for _, parameter in model.named_parameters(remove_duplicate=False)) > 1:
        return False
    _replace(model, table, CompactEmbedding(table, torch.tensor(ids)))
    return True


def expand_embeddings(model: SentenceTransformer) -> None:
    """Undo `compact_embeddings`: the trained rows are put back, the others are as they were, to the last bit."""
    for module in list(model.modules()):
        if isinstance(module, CompactEmbedding):
            _replace(model, module, module.expanded())


def token_embeddings(model: SentenceTransformer) -> nn.Module | None:
    """Return the embedding of token ids, whole or compact; None where the encoder has none that is known here."""
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding, Transformer

    if isinstance(model[0], Transformer):
        table: nn.Module = model[0].model.get_input_embeddings()
        return table
    return model[0].embedding if isinstance(model[0], StaticEmbedding) else None


def _input_embedding(model: SentenceTransformer) -> nn.Embedding | nn.EmbeddingBag | None:
    """Return the embedding of token ids if its rows are independent of each other in value and gradient."""
    table = token_embeddings(model)
    if isinstance(table, nn.EmbeddingBag):
        plain = table.mode == "mean" and table.padding_idx is None
    elif type(table) is nn.Embedding:
        plain = True
    else:
        return None
    plain = plain and table.max_norm is None and not table.scale_grad_by_freq and not table.sparse
    return table if plain else None


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if child is old:
                setattr(module, name, new)
