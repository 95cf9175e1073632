"""The multi-way contrastive objective over rows with gaps, and its presets.

Legend of shapes: T texts in the batch, D embedding dimensions, L languages, A anchors, P anchor-positive pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import normalize

from polyalign.errors import UserError, nearest
from polyalign.settings import Settings
from polyalign.training.tiles import (
    TILE_MIB,
    Layout,
    expand_ranges,
    log_sum_exp,
    neighbour_dots,
    soft_label_cross_entropy,
    unit_vectors,
)

ENGLISH = 0
"""The number of English in the `language` tensor; the collator gives it to English whether present or not."""

MIN_LEARNT_TEMPERATURE = 0.01
"""What a learnt temperature is kept above, as in CLIP."""


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
        learn_temperature: whether tau is only the start value, learnt with the encoder as log(1/tau) and kept at 0.01
            or above, as in CLIP.
        margin: subtracted from the positive's cosine, 0 to 2.
        contrast: weight of these terms; 0 leaves the ``keep`` term alone.
        languages_per_row: how many of a row's languages one step encodes, at least 2; None for all of them.
        english_always: whether English, where a row has it, is always among the sampled languages.
        in_turn: whether a row's languages come in turn, epoch by epoch, instead of by chance: so few epochs hold each.
        hard_positives: gamma >= 0; a term's weight is ``1 + gamma * (1 - s(t, p))``, without gradient.
        keep: what holds the encoder near its teacher: ``l2`` or ``cosine`` distance to the teacher's embedding of the
            row's English, or ``soft-labels``, where the teacher's English-English similarities are targets for the
            student's similarities across languages.
        keep_texts: which texts that distance is taken of: the ``english`` ones, or ``all`` of a row, which teaches
            every language the teacher's English (Reimers and Gurevych 2020, equation 1).
        keep_weight: the weight of that term, above 0 with any ``keep`` but ``none``.
    """

    anchors: Literal["all", "english"] = "all"
    negatives: Literal["language", "side", "other", "all"] = "language"
    denominator: Literal["with-positive", "negatives-only"] = "with-positive"
    temperature: float = Field(0.05, gt=0)
    learn_temperature: bool = False
    margin: float = Field(0.0, ge=0, le=2)
    contrast: float = Field(1.0, ge=0)
    languages_per_row: int | None = Field(None, ge=2)
    english_always: bool = False
    in_turn: bool = False
    hard_positives: float = Field(0.0, ge=0)
    keep: Literal["none", "l2", "cosine", "soft-labels"] = "none"
    keep_texts: Literal["english", "all"] = "english"
    keep_weight: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _keep_has_weight(self) -> Self:
        if (self.keep != "none") != (self.keep_weight > 0):
            raise ValueError(f"keep is {self.keep!r} and keep_weight {self.keep_weight}; set both or neither")
        if self.contrast == 0 and self.keep == "none":
            raise ValueError("contrast is 0 and keep 'none'; nothing is left to train for, set one of them")
        if self.keep_texts == "all" and self.keep not in ("l2", "cosine"):
            raise ValueError(f"keep_texts is 'all' and keep {self.keep!r}; set keep to l2 or cosine")
        if self.in_turn and self.languages_per_row is None:
            raise ValueError("in_turn takes turns among sampled languages; set languages_per_row")
        return self

    @model_validator(mode="after")
    def _learnt_temperature_starts_in_range(self) -> Self:
        if self.learn_temperature and self.temperature < MIN_LEARNT_TEMPERATURE:
            raise ValueError(
                f"temperature is {self.temperature} and learnt, must be at least {MIN_LEARNT_TEMPERATURE}; "
                "start higher, or set learn_temperature to false"
            )
        return self

    @property
    def needs_english(self) -> bool:
        """Whether a row without English has nothing to learn from, so that English is always among its languages."""
        return self.english_always or self.anchors == "english" or self.contrast == 0

    @property
    def preset(self) -> str:
        """The name of the preset from which it differs in temperature at most; ``custom`` where there is none."""
        fields = self.model_dump(exclude={"temperature", "learn_temperature"})
        return next((name for name, one in PRESETS.items() if fields.items() <= one.model_dump().items()), "custom")

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
    # The same, each row with all of its translations, one an epoch.
    "en-x-all": Objective(negatives="side", languages_per_row=2, english_always=True, in_turn=True),
    # One pair of languages a row, whichever they are.
    "x-y": Objective(negatives="all", languages_per_row=2),
    # No contrast: every language is taught the English embeddings of a frozen teacher.
    "distill": Objective(contrast=0, keep="l2", keep_texts="all", keep_weight=1.0),
    # Every language anchors every other, and each is held to the frozen teacher's English: contrast alone pushes near
    # paraphrases apart and forgets what the teacher knows; distillation alone leaves translations less close.
    "multi-way-distill": Objective(temperature=0.2, keep="l2", keep_texts="all", keep_weight=1.0),
    # For a base that knows its English well, with itself as teacher: two languages a row, any two, against all other
    # texts, held a little to the teacher's English, which keeps topics together that contrast pushes apart.
    "x-y-distill": Objective(negatives="all", languages_per_row=2, keep="l2", keep_texts="all", keep_weight=0.2),
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


@dataclass(frozen=True)
class Terms:
    """Terms of a loss, added up: a mean over several processes is the sum of their totals by the sum of their counts.

    Attributes:
        total: 0-dim, the sum of the weighted terms.
        count: how many terms there are.
        skipped: how many more were left out for want of a negative.
    """

    total: Tensor
    count: int
    skipped: int = 0

    def mean(self) -> Tensor:
        """Return the mean of the terms; 0 where there are none."""
        return self.total / max(self.count, 1)


def contrastive_terms(
    embeddings: Tensor,
    row: Tensor,
    language: Tensor,
    text_id: Tensor,
    objective: Objective,
    *,
    temperature: Tensor | None = None,
    anchors: slice | None = None,
    tile_mib: float = TILE_MIB,
) -> Terms:
    """Return the sum of the anchor-positive terms, without ever holding a similarity matrix.

    Args:
        embeddings: float [T, D], any scale; cosine similarity is taken, in float32 or better.
        row: int64 [T], equal for texts of the same row.
        language: int64 [T]; English is `ENGLISH`.
        text_id: int64 [T], equal for equal strings.
        objective: its ``keep`` fields are not looked at.
        temperature: 0-dim, may require a gradient; None for the objective's.
        anchors: the range of texts that are anchors, where other processes have the others; None for all. Positives
            and negatives are among all texts, and all texts get a gradient.
        tile_mib: memory of the largest temporaries, in MiB.
    """
    unit, scale = unit_vectors(embeddings), _scale(embeddings, objective, temperature)
    anchor = _anchors(language, objective, anchors)
    rows = _Rows.of(row)
    owner, mate = rows.mates(anchor)
    paired = language[mate] != language[anchor[owner]]
    if not paired.any():
        return Terms((unit.sum() + scale) * 0, 0)
    text = torch.unique(text_id, return_inverse=True)[1]
    # Whatever equals a text of the anchor's row is no negative, the row's own texts among it.
    excluded = torch.unique(text[mate] * len(anchor) + owner)
    owner, positive = owner[paired], mate[paired]

    # The negatives of a term are the texts of a pool of languages, one and the same for every positive in that pool. So
    # the log-sum-exps by language hold all there is to know.
    languages, group = torch.unique(language, return_inverse=True)
    pools, pool = torch.unique(_pool_key(languages, objective), return_inverse=True)
    wanted = torch.zeros(len(anchor), len(pools), dtype=torch.bool, device=unit.device)
    wanted[owner, pool[group[positive]]] = True
    wanted = wanted[:, pool]
    if objective.negatives == "other":
        wanted &= language[anchor].unsqueeze(1) != languages
    layout = Layout(anchor=anchor, group=group, wanted=wanted, text=text, excluded=excluded)
    # Not -inf, which has gradients that are no numbers.
    nothing = torch.finfo(unit.dtype).min
    by_language = log_sum_exp(unit, scale, layout, tile_mib=tile_mib).clamp(min=nothing)
    by_pool = torch.stack([by_language[:, pool == k].logsumexp(1) for k in range(len(pools))], dim=1)
    negatives = _pick(by_pool, owner, pool[group[positive]], rows.slot[positive])
    usable = negatives > nothing
    owner, positive, negatives = owner[usable], positive[usable], negatives[usable]

    cosine = rows.dots(unit, anchor[owner], positive, tile_mib)
    logit = (cosine - objective.margin) * scale
    if objective.denominator == "with-positive":
        negatives = torch.logaddexp(negatives, logit)
    terms = negatives - logit
    if objective.hard_positives:
        terms = terms * (1 + objective.hard_positives * (1 - cosine.detach()))
    return Terms(terms.sum(), len(terms), len(usable) - len(terms))


def keep_terms(
    embeddings: Tensor,
    language: Tensor,
    teacher: Tensor,
    objective: Objective,
    *,
    temperature: Tensor | None = None,
    anchors: slice | None = None,
    tile_mib: float = TILE_MIB,
) -> Terms:
    """Return the sum of the distances to the frozen teacher, before their weight.

    Args:
        embeddings: float [T, D].
        language: int64 [T].
        teacher: float [T, D'], the teacher's embedding of the English text of each text's row; NaN where there is none.
            D' equals D for ``l2`` and ``cosine``; ``soft-labels`` takes any D'.
        objective: its ``keep``, ``anchors`` and ``temperature`` are used; the latter is the teacher's in any case.
        temperature: 0-dim, the student's, may require a gradient; None for the objective's.
        anchors: the range of texts that have terms; None for all.
        tile_mib: memory of the largest temporaries, in MiB.
    """
    known = ~teacher.isnan().any(1)
    if objective.keep == "soft-labels":
        return _soft_label_terms(embeddings, language, teacher, known, objective, temperature, anchors, tile_mib)
    here = slice(None) if anchors is None else anchors
    held = known[here]
    if objective.keep_texts == "english":
        held = held & (language[here] == ENGLISH)
    ours, theirs = _wide(embeddings[here][held]), _wide(teacher[here][held])
    if objective.keep == "l2":
        distances = (ours - theirs).pow(2).sum(1)
    else:
        distances = 1 - (normalize(ours, dim=-1) * normalize(theirs, dim=-1)).sum(1)
    return Terms(distances.sum(), len(distances))


def _soft_label_terms(
    embeddings: Tensor,
    language: Tensor,
    teacher: Tensor,
    known: Tensor,
    objective: Objective,
    temperature: Tensor | None,
    anchors: slice | None,
    tile_mib: float,
) -> Terms:
    """Return the cross-entropy of each anchor's similarities to each other language under the teacher's, summed."""
    anchor = _anchors(language, objective, anchors)
    anchor = anchor[known[anchor]]
    languages, known_group = torch.unique(language[known], return_inverse=True)
    group = torch.full_like(language, -1)
    group[known] = known_group
    wanted = language[anchor].unsqueeze(1) != languages
    terms = soft_label_cross_entropy(
        unit_vectors(embeddings),
        _scale(embeddings, objective, temperature),
        unit_vectors(teacher),
        _scale(teacher, objective, None),
        Layout(anchor=anchor, group=group, wanted=wanted),
        tile_mib=tile_mib,
    )[wanted]
    return Terms(terms.sum(), len(terms))


def _wide(vectors: Tensor) -> Tensor:
    return vectors.to(torch.promote_types(vectors.dtype, torch.float32))


def _scale(embeddings: Tensor, objective: Objective, temperature: Tensor | None) -> Tensor:
    """Return 1 / temperature, 0-dim, in the precision of the similarities of ``embeddings``."""
    if temperature is None:
        temperature = torch.tensor(objective.temperature, dtype=torch.float64)
    return (1 / temperature).to(embeddings.device, torch.promote_types(embeddings.dtype, torch.float32))


def _anchors(language: Tensor, objective: Objective, anchors: slice | None) -> Tensor:
    """Return the texts that are anchors, int64 [A], ascending."""
    is_anchor = torch.zeros_like(language, dtype=torch.bool)
    is_anchor[slice(None) if anchors is None else anchors] = True
    if objective.anchors == "english":
        is_anchor &= language == ENGLISH
    return is_anchor.nonzero().squeeze(1)


def _pool_key(languages: Tensor, objective: Objective) -> Tensor:
    """Return a number for each language, equal where a positive's negatives are taken from both, int64 [L]."""
    if objective.negatives == "language":
        return languages
    if objective.negatives == "side":
        return (languages != ENGLISH).long()
    return torch.zeros_like(languages)


def _pick(values: Tensor, line: Tensor, column: Tensor, slot: Tensor) -> Tensor:
    """Return ``values[line, column]``, with a backward pass that adds in a fixed order.

    Args:
        values: float [A, K].
        line: int64 [P].
        column: int64 [P].
        slot: int64 [P], below a small number, and different for equal lines.
    """
    # Were an element picked twice at once, the parallel additions to its gradient would come in any order.
    column_of = line.new_zeros(len(values), int(slot.max()) + 1)
    column_of[line, slot] = column
    return torch.cat([values.gather(1, columns) for columns in torch.split(column_of, 1, dim=1)], dim=1)[line, slot]


@dataclass(frozen=True)
class _Rows:
    """Which texts are of one row.

    Attributes:
        order: int64 [T], the texts sorted by row.
        rank: int64 [T], the place of each text in ``order``.
        start: int64 [T], the first place of its row.
        end: int64 [T], the place behind its row.
    """

    order: Tensor
    rank: Tensor
    start: Tensor
    end: Tensor

    @classmethod
    def of(cls, row: Tensor) -> _Rows:
        """Return the rows of int64 [T] row keys."""
        _, index, sizes = torch.unique(row, return_inverse=True, return_counts=True)
        order = index.argsort(stable=True)
        end = sizes.cumsum(0)
        return cls(order, order.argsort(), (end - sizes)[index], end[index])

    @property
    def slot(self) -> Tensor:
        """The number of each text within its row, int64 [T]."""
        return self.rank - self.start

    def mates(self, anchor: Tensor) -> tuple[Tensor, Tensor]:
        """Return each text of each anchor's row: the anchor's position in ``anchor``, and the text."""
        owner, at = expand_ranges(self.start[anchor], self.end[anchor])
        return owner, self.order[at]

    def dots(self, unit: Tensor, left: Tensor, right: Tensor, tile_mib: float) -> Tensor:
        """Return the dot product of pairs of different texts of a row, float [number of pairs]."""
        reach = int((self.end - self.start).max()) - 1
        near = neighbour_dots(unit, self.order, reach, tile_mib=tile_mib)
        left, right = self.rank[left], self.rank[right]
        return near[torch.minimum(left, right), (left - right).abs() - 1]
