"""The multi-way contrastive objective over rows with gaps, and its presets.

Legend of shapes: T texts in the batch, D embedding dimensions, L languages, U distinct texts, R rows in the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import normalize

from polyalign.errors import UserError, nearest
from polyalign.settings import Settings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

ENGLISH = 0
"""The number of English in the `language` tensor; the collator gives it to English whether present or not."""


class Objective(Settings):
    """What makes two texts attract or repel each other. `PRESETS` holds the named ones.

    For an anchor t of row i in language a, and a positive p, the text of row i in another language b::

        loss(t, p) = -log( e^((s(t,p) - margin) / tau) / ( e^((s(t,p) - margin) / tau) + sum_n e^(s(t,n) / tau) ) )

    with s the cosine similarity and n over the negatives N(t, p): texts of other rows, never one that equals a text of
    row i. A term without a negative is left out. The loss is the mean over the terms.

    Attributes:
        anchors: ``all`` texts, or the ``english`` ones alone.
        negatives: the other rows' texts in the positive's ``language``; on the positive's ``side`` (English, or any
            other language: what a loss over English-X pairs has); in any ``other`` language than the anchor's; ``all``.
        denominator: ``with-positive``, as in InfoNCE, or ``negatives-only`` (decoupled contrastive learning).
        temperature: tau, above 0.
        margin: subtracted from the positive's cosine, 0 to 2.
        languages_per_row: how many of a row's languages one step encodes, at least 2; None for all of them.
        english_always: whether English, where a row has it, is always among the sampled languages.
        hard_positives: gamma >= 0; a term's weight is ``1 + gamma * (1 - s(t, p))``, without gradient.
        keep: what holds the encoder near its teacher: ``l2`` or ``cosine`` distance of the English embeddings, or
            ``soft-labels``, where the teacher's English-English similarities are targets for the student's similarities
            across languages.
        keep_weight: the weight of that term, above 0 with any ``keep`` but ``none``.
    """

    anchors: Literal["all", "english"] = "all"
    negatives: Literal["language", "side", "other", "all"] = "language"
    denominator: Literal["with-positive", "negatives-only"] = "with-positive"
    temperature: float = Field(0.05, gt=0)
    margin: float = Field(0.0, ge=0, le=2)
    languages_per_row: int | None = Field(None, ge=2)
    english_always: bool = False
    hard_positives: float = Field(0.0, ge=0)
    keep: Literal["none", "l2", "cosine", "soft-labels"] = "none"
    keep_weight: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _keep_has_weight(self) -> Self:
        if (self.keep != "none") != (self.keep_weight > 0):
            raise ValueError(f"keep is {self.keep!r} and keep_weight {self.keep_weight}; set both or neither")
        return self

    @classmethod
    def named(cls, preset: str, **overrides: Any) -> Objective:
        """Return a preset, with single fields overridden.

        Raises:
            UserError: for an unknown preset or field, or a value out of range.
        """
        if preset not in PRESETS:
            raise UserError(
                f"unknown objective {preset!r}{nearest(preset, PRESETS)}; choose one of {', '.join(PRESETS)}"
            )
        return cls.checked(PRESETS[preset].model_dump() | overrides, "objective")


PRESETS: dict[str, Objective] = {
    # Every language anchors every other.
    "multi-way": Objective(),
    # English against each other language, the same texts encoded.
    "english-anchor": Objective(anchors="english"),
    # The control: one English-X pair a row, both directions, as MultipleNegativesRankingLoss does it.
    "en-x": Objective(negatives="side", languages_per_row=2, english_always=True),
    # Our reading of "Enhancing Multilingual Embeddings via Multi-Way Parallel Text Alignment" (2026): four languages a
    # row, a denominator of negatives only, low-cosine positives weighted up, an L2 pull to the pretrained embeddings.
    "paper": Objective(
        negatives="all",
        denominator="negatives-only",
        languages_per_row=4,
        hard_positives=1.0,
        keep="l2",
        keep_weight=1.0,
    ),
}


def negative_mask(row: Tensor, text_id: Tensor) -> Tensor:
    """Return which texts may be negatives of which anchors.

    Args:
        row: int64 [T], the row each text belongs to.
        text_id: int64 [T], equal for equal strings.

    Returns:
        bool [T, T]: entry (t, n) is true when n neither belongs to t's row nor equals any text of t's row.
    """
    row_index = torch.unique(row, return_inverse=True)[1]
    text_index = torch.unique(text_id, return_inverse=True)[1]
    holds = torch.zeros(int(row_index.max()) + 1, int(text_index.max()) + 1, dtype=torch.bool, device=row.device)
    holds[row_index, text_index] = True  # [R, U]
    return ~holds[row_index][:, text_index]


def _cosine(vectors: Tensor) -> Tensor:
    """Return the cosine similarities [T, T] of float [T, D], in float32 or better whatever autocast says."""
    with torch.autocast(vectors.device.type, enabled=False):
        unit = normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=-1)
        return unit @ unit.T


def contrastive_terms(
    embeddings: Tensor, row: Tensor, language: Tensor, text_id: Tensor, objective: Objective
) -> tuple[Tensor, int]:
    """Return the weighted loss of every anchor-positive term.

    Args:
        embeddings: float [T, D], any scale; cosine similarity is taken.
        row: int64 [T].
        language: int64 [T]; English is `ENGLISH`.
        text_id: int64 [T].
        objective: its ``keep`` fields are not looked at.

    Returns:
        The terms' losses, float [number of terms], and how many terms were left out for want of a negative.
    """
    cosine = _cosine(embeddings)
    allowed = negative_mask(row, text_id)
    if objective.negatives == "other":
        allowed &= language[:, None] != language[None, :]
    # The negatives of a term depend on its anchor and its positive's group alone: one log-sum-exp serves them all.
    group = {"language": language, "side": (language != ENGLISH).long()}.get(
        objective.negatives, torch.zeros_like(language)
    )
    groups, group_index = torch.unique(group, return_inverse=True)
    lse = torch.stack(
        [
            (cosine / objective.temperature).masked_fill(~(allowed & (group_index == g)), -torch.inf).logsumexp(1)
            for g in range(len(groups))
        ],
        dim=1,
    )  # [T, number of groups]

    positive = (row[:, None] == row[None, :]) & (language[:, None] != language[None, :])
    if objective.anchors == "english":
        positive &= (language == ENGLISH)[:, None]
    anchor_at, positive_at = positive.nonzero(as_tuple=True)
    negatives_lse = lse[anchor_at, group_index[positive_at]]
    usable = negatives_lse > -torch.inf
    anchor_at, positive_at, negatives_lse = anchor_at[usable], positive_at[usable], negatives_lse[usable]

    positive_cosine = cosine[anchor_at, positive_at]
    logit = (positive_cosine - objective.margin) / objective.temperature
    if objective.denominator == "with-positive":
        negatives_lse = torch.logaddexp(negatives_lse, logit)
    terms = negatives_lse - logit
    if objective.hard_positives:
        terms = terms * (1 + objective.hard_positives * (1 - positive_cosine.detach()))
    return terms, int((~usable).sum())


def keep_term(
    embeddings: Tensor, row: Tensor, language: Tensor, text_id: Tensor, teacher: Tensor, objective: Objective
) -> Tensor:
    """Return the scalar distance of the batch to its frozen teacher, before its weight.

    Args:
        embeddings: float [T, D].
        row: int64 [T].
        language: int64 [T].
        text_id: int64 [T].
        teacher: float [T, D'], the teacher's embedding of the English text of each text's row; NaN where there is none.
            D' equals D for ``l2`` and ``cosine``; ``soft-labels`` takes any D'.
        objective: its ``keep``, ``temperature`` and ``anchors`` are used.
    """
    known = ~teacher.isnan().any(1)
    english = known & (language == ENGLISH)
    if objective.keep == "l2":
        distances = (embeddings[english] - teacher[english]).pow(2).sum(1)
    elif objective.keep == "cosine":
        distances = 1 - (normalize(embeddings[english], dim=-1) * normalize(teacher[english], dim=-1)).sum(1)
    else:
        distances = _soft_label_terms(embeddings[known], language[known], teacher[known], objective)
    return distances.mean() if len(distances) else embeddings.sum() * 0


def _soft_label_terms(embeddings: Tensor, language: Tensor, teacher: Tensor, objective: Objective) -> Tensor:
    """Return the cross-entropy of each anchor's similarities to another language under the teacher's, float [terms]."""
    student = _cosine(embeddings) / objective.temperature
    target = _cosine(teacher) / objective.temperature
    terms = []
    for code in set(language.tolist()):
        anchor = language != code
        if objective.anchors == "english":
            anchor &= language == ENGLISH
        column = language == code
        log_student = student[anchor][:, column].log_softmax(1)
        terms.append(-(target[anchor][:, column].softmax(1) * log_student).sum(1))
    return torch.cat(terms) if terms else embeddings.new_zeros(0)


class MultiwayLoss(nn.Module):
    """The multi-way objective as a loss of the sentence-transformers Trainer, fed by `MultiwayCollator`.

    Args:
        model: the encoder in training.
        objective: an `Objective` or the name of a preset.
        teacher: with a ``keep`` term, the teacher's English embeddings: int64 [R] row keys (as the collator makes them)
            in ascending order, and float [R, D].

    Raises:
        UserError: for an unknown preset, or a ``keep`` term without a teacher.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        objective: Objective | str = "multi-way",
        teacher: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = Objective.named(objective) if isinstance(objective, str) else objective
        if self.objective.keep != "none" and teacher is None:
            raise UserError(f"keep {self.objective.keep!r} needs a teacher; give one, or set keep to 'none'")
        self._teacher = teacher
        self.skipped_terms = 0
        """Terms left out so far because their anchor had no negative."""

    def forward(self, sentence_features: list[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """Return the scalar loss of one batch.

        Args:
            sentence_features: the tokenized chunks of the batch, in the order of ``labels``.
            labels: int64 [T, 3], row key, language number and text key of each text.
        """
        embeddings = torch.cat([self.model(features)["sentence_embedding"] for features in sentence_features])
        return self.from_embeddings(embeddings, *labels.unbind(1))

    def from_embeddings(self, embeddings: Tensor, row: Tensor, language: Tensor, text_id: Tensor) -> Tensor:
        """Return the scalar loss of a batch that is already encoded; see `contrastive_terms` for the shapes."""
        terms, skipped = contrastive_terms(embeddings, row, language, text_id, self.objective)
        self.skipped_terms += skipped
        loss = terms.mean() if len(terms) else embeddings.sum() * 0
        if self.objective.keep != "none":
            keep = keep_term(embeddings, row, language, text_id, self._teacher_of(row, embeddings), self.objective)
            loss = loss + self.objective.keep_weight * keep
        return loss

    def get_config_dict(self) -> dict[str, Any]:
        """Return the objective, for the model card."""
        return self.objective.model_dump()

    def _teacher_of(self, row: Tensor, embeddings: Tensor) -> Tensor:
        assert self._teacher is not None
        keys, vectors = (tensor.to(embeddings.device) for tensor in self._teacher)
        at = torch.searchsorted(keys, row.contiguous()).clamp(max=len(keys) - 1)
        found = keys[at] == row
        return vectors[at].to(embeddings.dtype).masked_fill(~found[:, None], torch.nan)
