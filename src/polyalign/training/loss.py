"""The multi-way objective as a loss of the sentence-transformers Trainer: embed, exchange, differentiate."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.base.losses.gradcache import RandContext
from torch import Tensor, nn

from polyalign.errors import UserError
from polyalign.training.distributed import add_up, gather, world_size
from polyalign.training.objective import (
    MIN_LEARNT_TEMPERATURE,
    Objective,
    Terms,
    contrastive_terms,
    keep_terms,
)

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Features = dict[str, Any]


class MultiwayLoss(nn.Module):
    """The multi-way objective as a loss of the sentence-transformers Trainer, fed by `MultiwayCollator`.

    Where several processes train, each encodes its own rows and takes the texts of all as negatives. Then the gradient
    of a process is its share of the whole batch's: `MultiwayTrainer` adds the shares up.

    With cached gradients (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup")
    the chunks of a batch are embedded without a graph; the loss is differentiated at the embeddings; then each chunk
    is embedded once more, from the same random state, and takes its part of that gradient. So one chunk's activations
    are all that memory must hold, for a second forward pass.

    Args:
        model: the encoder in training.
        objective: an `Objective` or the name of a preset.
        teacher: with a ``keep`` term, the teacher's English embeddings: int64 [R] row keys (as the collator makes them)
            in ascending order, and float [R, D].
        cache_gradients: see above; the same value and gradient, dropout included.

    Raises:
        UserError: for an unknown preset, or a ``keep`` term without a teacher.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        objective: Objective | str = "multi-way",
        teacher: tuple[Tensor, Tensor] | None = None,
        *,
        cache_gradients: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = Objective.named(objective) if isinstance(objective, str) else objective
        if self.objective.keep != "none" and teacher is None:
            raise UserError(f"keep {self.objective.keep!r} needs a teacher; give one, or set keep to 'none'")
        self._teacher = teacher
        self.cache_gradients = cache_gradients
        self.log_scale = (
            nn.Parameter(torch.tensor(-math.log(self.objective.temperature)))
            if self.objective.learn_temperature
            else None
        )
        """log(1/tau), 0-dim, where the temperature is learnt."""
        self.skipped_terms = 0
        """Terms left out so far because their anchor had no negative."""
        self._real: Tensor | int = 0
        self._computed = 0

    def forward(self, sentence_features: list[Features], labels: Tensor) -> Tensor:
        """Return the scalar loss of one batch: of all processes' rows together.

        Args:
            sentence_features: the tokenized chunks of the batch, in the order of ``labels``; none where the process
                has no row of a short batch.
            labels: int64 [T, 3], row key, language number and text key of each text.
        """
        for features in sentence_features:
            self._computed += features["input_ids"].numel()
            # Stays on the device: a number here would make the step wait for the one before.
            self._real = self._real + features.get("attention_mask", torch.ones_like(features["input_ids"])).sum()
        if not torch.is_grad_enabled() or (world_size() == 1 and not self.cache_gradients):
            embeddings = self._joined([_embed(self.model, features) for features in sentence_features])
            return self.from_embeddings(embeddings, *labels.unbind(1))
        chunks = [_Chunk(self.model, features) for features in sentence_features]
        with torch.set_grad_enabled(not self.cache_gradients):
            embeddings = self._joined([chunk.embed() for chunk in chunks])
        value, gradient, of_scale = self._differentiated(embeddings.detach(), labels)
        loss = value
        if self.log_scale is not None and of_scale is not None:
            loss = loss + _gradient_only(self.log_scale, of_scale)
        if not self.cache_gradients:
            return loss + _gradient_only(embeddings, gradient)
        anchor = torch.zeros_like(value, requires_grad=True)  # whatever scales the loss reaches its hook
        anchor.register_hook(partial(_replay, chunks, gradient))  # type: ignore[no-untyped-call]
        return loss + anchor

    def from_embeddings(self, embeddings: Tensor, row: Tensor, language: Tensor, text_id: Tensor) -> Tensor:
        """Return the scalar loss of a batch that is already encoded; see `contrastive_terms` for the shapes."""
        weighted = self.terms(embeddings, row, language, text_id)
        return torch.stack([weight * terms.mean() for weight, terms in weighted]).sum()

    def terms(
        self, embeddings: Tensor, row: Tensor, language: Tensor, text_id: Tensor, anchors: slice | None = None
    ) -> list[tuple[float, Terms]]:
        """Return the sums of the contrastive and of the ``keep`` terms of a range of anchors, each with its weight.

        What has no weight is not there. Counts the skipped terms. See `contrastive_terms` for the shapes.
        """
        objective, temperature = self.objective, self.temperature()
        weighted = []
        if objective.contrast:
            contrastive = contrastive_terms(
                embeddings, row, language, text_id, objective, temperature=temperature, anchors=anchors
            )
            self.skipped_terms += contrastive.skipped
            weighted.append((objective.contrast, contrastive))
        if objective.keep != "none":
            teacher = self._teacher_of(row)
            keep = keep_terms(embeddings, language, teacher, objective, temperature=temperature, anchors=anchors)
            weighted.append((objective.keep_weight, keep))
        return weighted

    def temperature(self) -> Tensor:
        """Return the temperature, 0-dim; with its gradient where it is learnt."""
        if self.log_scale is None:
            return torch.tensor(self.objective.temperature, dtype=torch.float64)
        with torch.no_grad():  # a clamp in the graph would leave no gradient to come back by
            self.log_scale.clamp_(max=-math.log(MIN_LEARNT_TEMPERATURE))
        return (-self.log_scale).exp()

    @property
    def counts(self) -> dict[str, int]:
        """What has been counted so far: skipped terms, real tokens and computed ones, with padding."""
        return {"skipped_terms": self.skipped_terms, "real": int(self._real), "computed": self._computed}

    @counts.setter
    def counts(self, counts: dict[str, int]) -> None:
        self.skipped_terms, self._real, self._computed = counts["skipped_terms"], counts["real"], counts["computed"]

    def all_counts(self) -> dict[str, int]:
        """Return the counts of all processes together."""
        device = next(self.model.parameters()).device
        (total,) = add_up(torch.tensor(list(self.counts.values()), device=device))
        return dict(zip(self.counts, total.tolist(), strict=True))

    def get_config_dict(self) -> dict[str, Any]:
        """Return the objective, for the model card."""
        return self.objective.model_dump()

    def _joined(self, parts: list[Tensor]) -> Tensor:
        """Return the chunks' embeddings as one tensor [T, D], in float32 or better; T is 0 where there is no chunk."""
        if parts:
            joined = torch.cat(parts)
            return joined.to(torch.promote_types(joined.dtype, torch.float32))
        nothing = torch.zeros(0, self.model.get_embedding_dimension() or 0, device=next(self.model.parameters()).device)
        return nothing.requires_grad_(torch.is_grad_enabled())

    def _differentiated(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the loss of all processes' texts together and its gradients.

        Args:
            embeddings: float [T, D], this process's, without a graph.
            labels: int64 [T, 3].

        Returns:
            The loss, 0-dim; its gradient at ``embeddings``; the part that this process's anchors have in its gradient
            at ``log_scale``, if that is learnt.
        """
        everything, own = gather(embeddings)
        every_label, _ = gather(labels)
        everything.requires_grad_()
        with torch.enable_grad():
            row, language, text_id = every_label.unbind(1)
            weighted = self.terms(everything, row, language, text_id, own)
            loss = torch.stack([weight * self._share_of_mean(terms) for weight, terms in weighted]).sum()
        inputs = [everything] if self.log_scale is None else [everything, self.log_scale]
        at_embeddings, *at_scale = torch.autograd.grad(loss, inputs)
        value, at_embeddings = add_up(loss.detach(), at_embeddings)
        return value, at_embeddings[own], at_scale[0] if at_scale else None

    @staticmethod
    def _share_of_mean(terms: Terms) -> Tensor:
        """Return what this process's terms add to the mean over those of all processes."""
        (count,) = add_up(torch.tensor(terms.count, device=terms.total.device))
        return terms.total / count.clamp(min=1)

    def _teacher_of(self, row: Tensor) -> Tensor:
        assert self._teacher is not None
        keys, vectors = self._teacher
        wanted = row.cpu().contiguous()  # where the teacher's embeddings lie, which may be more than a GPU holds
        at = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        return vectors[at].masked_fill((keys[at] != wanted)[:, None], torch.nan).to(row.device)


class _Chunk:
    """A part of a batch that can be embedded twice alike: under the same random state and autocast.

    Args:
        model: the encoder in training.
        features: the tokenized texts.
    """

    def __init__(self, model: SentenceTransformer, features: Features) -> None:
        self._model = model
        self._features = features
        self._device = next(model.parameters()).device.type
        self._random: RandContext | None = None

    def embed(self) -> Tensor:
        """Return the embeddings [t, D], remembering what chance and precision they were made with."""
        self._random = RandContext(*(value for value in self._features.values() if isinstance(value, Tensor)))
        self._autocast = torch.is_autocast_enabled(self._device)
        self._dtype = torch.get_autocast_dtype(self._device)
        return _embed(self._model, self._features)

    def embed_again(self) -> Tensor:
        """Return the same embeddings, with a graph."""
        assert self._random is not None
        # An autocast of its own: the casts of weights that the first pass has cached know no gradient.
        autocast = torch.autocast(self._device, self._dtype, enabled=self._autocast)
        with torch.enable_grad(), self._random, autocast:
            return _embed(self._model, self._features)


def _embed(model: SentenceTransformer, features: Features) -> Tensor:
    """Return the embeddings [t, D]; ``features`` stay as they are, where the model would keep all it computes there."""
    embeddings: Tensor = model(dict(features))["sentence_embedding"]
    return embeddings


def _gradient_only(tensor: Tensor, gradient: Tensor) -> Tensor:
    """Return a 0-dim 0 whose gradient at ``tensor`` is ``gradient``."""
    product = (tensor * gradient).sum()
    return product - product.detach()


def _replay(chunks: list[_Chunk], gradient: Tensor, scale: Tensor) -> None:
    """Embed each chunk again and hand it its part of the gradient at the embeddings, times ``scale``."""
    start = 0
    for chunk in chunks:
        embeddings = chunk.embed_again()
        part = gradient[start : start + len(embeddings)] * scale
        start += len(embeddings)
        if embeddings.requires_grad:
            embeddings.backward(part.to(embeddings.dtype))  # type: ignore[no-untyped-call]
