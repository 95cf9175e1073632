"""Log-sum-exps over similarity matrices that are never held: computed tile by tile, and again in the backward pass.

Every function is exact, differentiates once, computes in the precision of its vectors whatever autocast says, and adds
in a fixed order: the same input gives the same bits (on a CPU: with the same number of threads).

Legend of shapes: T texts, D dimensions, A anchors, G groups of texts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import normalize

TILE_MIB = 256.0
"""Default memory of one tile with all its temporaries, in MiB.

Beside it, there are only tensors of the size of the embeddings. More memory hardly makes a CPU faster.
"""


def unit_vectors(vectors: Tensor) -> Tensor:
    """Return float [T, D] at length 1, in float32 or better."""
    return normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=-1)


def expand_ranges(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return the members of the ranges [low_i, high_i), one range after the other: which i, and the member.

    Args:
        low: int64 [number of ranges].
        high: int64 [number of ranges], at least ``low``.
    """
    sizes = high - low
    owner = torch.repeat_interleave(sizes)
    return owner, torch.arange(len(owner), device=low.device).add_((low - sizes.cumsum(0) + sizes)[owner])


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which similarities to sum: those of ``anchor[i]`` with the texts of group g, where ``wanted[i, g]``.

    Attributes:
        anchor: int64 [A], the texts that are anchors.
        group: int64 [T], the group of each text, below G; negative for a text that is in none.
        wanted: bool [A, G].
        text: int64 [T], equal for equal texts. Looked at only together with ``excluded``.
        excluded: int64 [E], ascending: ``text * A + i`` leaves the texts equal to ``text`` out of the sums of
            ``anchor[i]``. So E grows with T, not with the pairs of texts, however many texts are equal.
    """

    anchor: Tensor
    group: Tensor
    wanted: Tensor
    text: Tensor | None = None
    excluded: Tensor | None = None

    def tiles(self, floats_per_text: int, itemsize: int, tile_mib: float) -> Iterator[Tile]:
        """Yield the tiles that cover every wanted pair of an anchor and a group, in a fixed order.

        Args:
            floats_per_text: of the vectors that are compared: D, or the sum of several D.
            itemsize: bytes of a float.
            tile_mib: memory of a tile with all its temporaries, in MiB; a tile has at least one similarity.
        """
        for group in range(self.wanted.shape[1]):
            position = self.wanted[:, group].nonzero().squeeze(1)
            column = (self.group == group).nonzero().squeeze(1)
            excluded = None if self.excluded is None else self._excluded_of(group, column)
            height, width = _tile_shape(len(column), floats_per_text, itemsize, tile_mib)
            for left in range(0, len(column), width):
                for top in range(0, len(position), height):
                    at, columns = position[top : top + height], column[left : left + width]
                    masked = None if excluded is None else self._masked(excluded, columns, top, top + len(at))
                    yield Tile(group, at, self.anchor[at], columns, masked)

    def _excluded_of(self, group: int, column: Tensor) -> Tensor:
        """Return ``excluded`` for the texts of a group, the anchors numbered among those that want the group."""
        assert self.text is not None
        assert self.excluded is not None
        stride = len(self.anchor)
        start = torch.unique(self.text[column]) * stride
        _, at = expand_ranges(
            torch.searchsorted(self.excluded, start), torch.searchsorted(self.excluded, start + stride)
        )
        key = self.excluded[at]
        key = key[self.wanted[key % stride, group]]
        rank = self.wanted[:, group].cumsum(0) - 1
        return key - key % stride + rank[key % stride]

    def _masked(self, excluded: Tensor, column: Tensor, top: int, bottom: int) -> Tensor:
        """Return the excluded places of a tile as flat indices, int64; they may be all of the tile."""
        assert self.text is not None
        start = self.text[column] * len(self.anchor)
        owner, at = expand_ranges(
            torch.searchsorted(excluded, start + top), torch.searchsorted(excluded, start + bottom)
        )
        return excluded[at].sub_((start + top)[owner]).mul_(len(column)).add_(owner)


class Tile(NamedTuple):
    """A block of a similarity matrix: a anchors of the layout and n texts of one group.

    Attributes:
        group: the number of the group.
        position: int64 [a], the anchors as positions in `Layout.anchor`.
        anchor: int64 [a], the anchors as texts.
        column: int64 [n], texts.
        masked: int64, flat indices into [a, n] of similarities that do not count; None for none.
    """

    group: int
    position: Tensor
    anchor: Tensor
    column: Tensor
    masked: Tensor | None

    def logits(self, unit: Tensor, scale: Tensor) -> Tensor:
        """Return the scaled similarities, float [a, n], -inf where masked."""
        logits = (unit[self.anchor] * scale) @ unit[self.column].T
        if self.masked is not None:
            logits.view(-1).index_fill_(0, self.masked, -math.inf)
        return logits


def _tile_shape(columns: int, floats_per_text: int, itemsize: int, tile_mib: float) -> tuple[int, int]:
    """Return how many anchors and how many of a group's columns a tile has: square, or higher where columns are few."""
    budget = int(tile_mib * 2**20)
    # Where all of a tile is masked, four int64 tensors of its size make the indices, beside the last tile's indices and
    # similarities. For anchors and columns there are gathered vectors, scaled ones, and those of the gradient.
    per_pair, per_text = 5 * 8 + 2 * itemsize, 3 * floats_per_text * itemsize
    side = int((math.sqrt(per_text**2 + per_pair * budget) - per_text) / per_pair)
    width = max(1, min(side, columns))
    return max(1, (budget - width * per_text) // (width * per_pair + per_text)), width


def _log_sum_exp_(logits: Tensor) -> Tensor:
    """Return the log-sum-exp of each row of float [a, n]; a row of -inf gives -inf. Overwrites ``logits``."""
    top = logits.amax(1, keepdim=True).clamp_(min=torch.finfo(logits.dtype).min)
    return logits.sub_(top).exp_().sum(1).log_().add_(top.squeeze(1))


class _Target(NamedTuple):
    """The softmax of another encoder's similarities: unit vectors [T, D'], 0-dim scale, log-sum-exps [A, G]."""

    unit: Tensor
    scale: Tensor
    log_sum_exp: Tensor

    def of(self, tile: Tile) -> Tensor:
        """Return the probabilities, float [a, n]."""
        logits = tile.logits(self.unit, self.scale)
        return logits.sub_(self.log_sum_exp[tile.position, tile.group, None]).exp_()


class _LogSumExp(torch.autograd.Function):
    """lse[i, g] = log sum_n e^(scale * s(i, n)), less sum_n target(i, n) * scale * s(i, n) where there is a target."""

    @staticmethod
    def forward(
        ctx: Any, unit: Tensor, scale: Tensor, layout: Layout, target: _Target | None, tile_mib: float
    ) -> Tensor:
        ctx.layout, ctx.target, ctx.tile_mib = layout, target, tile_mib
        log_sum_exp = unit.new_full(layout.wanted.shape, -math.inf)
        expected = unit.new_zeros(layout.wanted.shape)
        with torch.autocast(unit.device.type, enabled=False):
            for tile in _LogSumExp._tiles(ctx, unit):
                logits = tile.logits(unit, scale)
                at = (tile.position, tile.group)
                if target is not None:
                    expected[at] += target.of(tile).mul_(logits).sum(1)
                log_sum_exp[at] = torch.logaddexp(log_sum_exp[at], _log_sum_exp_(logits))
        ctx.save_for_backward(unit, scale, log_sum_exp)
        return log_sum_exp.clone() if target is None else log_sum_exp - expected

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        unit, scale, log_sum_exp = ctx.saved_tensors
        # A sum of nothing has no gradient, whatever comes in: e^(-inf - inf) is 0, where e^(-inf + inf) is no number.
        nothing = log_sum_exp == -math.inf
        log_sum_exp = log_sum_exp.masked_fill(nothing, math.inf)
        grad = grad.masked_fill(nothing, 0) * scale
        grad_unit = torch.zeros_like(unit)
        with torch.autocast(unit.device.type, enabled=False):
            for tile in _LogSumExp._tiles(ctx, unit):
                weight = tile.logits(unit, scale).sub_(log_sum_exp[tile.position, tile.group, None]).exp_()
                if ctx.target is not None:
                    weight.sub_(ctx.target.of(tile))
                weight.mul_(grad[tile.position, tile.group, None])
                grad_unit.index_add_(0, tile.anchor, weight @ unit[tile.column])
                grad_unit.index_add_(0, tile.column, weight.T @ unit[tile.anchor])
            # Similarities are quadratic in the vectors and linear in the scale: no second look at the tiles is needed.
            grad_scale = grad_unit.flatten().dot(unit.flatten()) / (2 * scale)
        return grad_unit, grad_scale, None, None, None

    @staticmethod
    def _tiles(ctx: Any, unit: Tensor) -> Iterator[Tile]:
        floats = unit.shape[1] + (0 if ctx.target is None else ctx.target.unit.shape[1])
        return ctx.layout.tiles(floats, unit.itemsize, ctx.tile_mib)  # type: ignore[no-any-return]


def log_sum_exp(unit: Tensor, scale: Tensor, layout: Layout, *, tile_mib: float = TILE_MIB) -> Tensor:
    """Return the log-sum-exp of each anchor's scaled similarities to each group.

    Args:
        unit: float [T, D], of length 1.
        scale: 0-dim, 1 / temperature; its gradient is computed too.
        layout: which similarities to sum.
        tile_mib: memory of a tile with all its temporaries, in MiB.

    Returns:
        float [A, G]: -inf where there is nothing to sum, or nothing is wanted.
    """
    result: Tensor = _LogSumExp.apply(unit, scale, layout, None, tile_mib)  # type: ignore[no-untyped-call]
    return result


def soft_label_cross_entropy(
    unit: Tensor, scale: Tensor, target: Tensor, target_scale: Tensor, layout: Layout, *, tile_mib: float = TILE_MIB
) -> Tensor:
    """Return the cross-entropy of each anchor's softmax over each group under the softmax of a frozen teacher.

    Args:
        unit: float [T, D], of length 1.
        scale: 0-dim, 1 / temperature; its gradient is computed too.
        target: float [T, D'], the teacher's vectors, of length 1; no gradient. D' may differ from D.
        target_scale: 0-dim.
        layout: anchors and groups, without ``excluded``.
        tile_mib: memory of a tile with all its temporaries, in MiB.

    Returns:
        float [A, G]: -inf where nothing is wanted.
    """
    with torch.no_grad():
        target_log_sum_exp = log_sum_exp(target, target_scale, layout, tile_mib=tile_mib)
    frozen = _Target(target.detach(), target_scale.detach(), target_log_sum_exp)
    result: Tensor = _LogSumExp.apply(unit, scale, layout, frozen, tile_mib)  # type: ignore[no-untyped-call]
    return result


class _NeighbourDots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, order: Tensor, reach: int, tile_mib: float) -> Tensor:
        ctx.save_for_backward(vectors, order)
        ctx.tile_mib = tile_mib
        dots = vectors.new_zeros(len(order), reach)
        for window, pairs in _windows(order, reach, vectors, tile_mib):
            near = vectors[window]
            for here, there, at in pairs:
                dots[at] = (near[here] * near[there]).sum(1)
        return dots

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        vectors, order = ctx.saved_tensors
        grad_vectors = torch.zeros_like(vectors)
        for window, pairs in _windows(order, grad.shape[1], vectors, ctx.tile_mib):
            near = vectors[window]
            grad_near = torch.zeros_like(near)
            for here, there, at in pairs:
                grad_near[here].addcmul_(grad[at].unsqueeze(1), near[there])
                grad_near[there].addcmul_(grad[at].unsqueeze(1), near[here])
            grad_vectors.index_add_(0, window, grad_near)
        return grad_vectors, None, None, None


def _windows(
    order: Tensor, reach: int, vectors: Tensor, tile_mib: float
) -> Iterator[tuple[Tensor, list[tuple[slice, slice, tuple[slice, int]]]]]:
    """Yield pieces of ``order``; of each, the pairs of slices that face each other, and where their dots belong."""
    floats_per_mib = 2**20 // vectors.itemsize
    # Three copies of the piece: the vectors, their gradient, one product.
    size = max(1, int(tile_mib * floats_per_mib) // (3 * vectors.shape[1]) - reach)
    for start in range(0, len(order), size):
        window = order[start : start + size + reach]
        pairs = []
        for distance in range(1, reach + 1):
            count = max(0, min(size, len(window) - distance))
            pairs.append(
                (slice(0, count), slice(distance, distance + count), (slice(start, start + count), distance - 1))
            )
        yield window, pairs


def neighbour_dots(vectors: Tensor, order: Tensor, reach: int, *, tile_mib: float = TILE_MIB) -> Tensor:
    """Return the dot product of each vector with those that follow it closely.

    Args:
        vectors: float [T, D].
        order: int64 [T], a permutation.
        reach: how many followers.
        tile_mib: memory of the temporaries, in MiB.

    Returns:
        float [T, reach]: entry (i, k) is of ``vectors[order[i]]`` and ``vectors[order[i + k + 1]]``; 0 past the end.
    """
    result: Tensor = _NeighbourDots.apply(vectors, order, reach, tile_mib)  # type: ignore[no-untyped-call]
    return result
