"""The tiled functions against whole similarity matrices, in value and gradient; what they allocate; the same bits."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from polyalign.training.objective import PRESETS, Objective, contrastive_terms, keep_terms
from polyalign.training.tiles import (
    Layout,
    expand_ranges,
    log_sum_exp,
    neighbour_dots,
    soft_label_cross_entropy,
    unit_vectors,
)

BUDGETS_MIB = [256, 0.01, 0.003, 1e-6]
"""From all at once over uneven tiles to tiles of a single similarity."""


def random_layout(*, texts, groups, distinct, seed):
    """Return a layout with gaps, anchors that are some of the texts, and the dense mask that it stands for."""
    generator = torch.Generator().manual_seed(seed)

    def draw(high, *shape):
        return torch.randint(high, shape, generator=generator)

    anchor = draw(3, texts).bool().nonzero().squeeze(1)
    group, text, wanted = draw(groups + 1, texts) - 1, draw(distinct, texts), draw(3, len(anchor), groups).bool()
    excluded = torch.unique(draw(distinct * len(anchor), 2 * texts))
    out = torch.zeros(distinct, len(anchor), dtype=torch.bool)
    out.view(-1)[excluded] = True
    allowed = torch.stack([(group == g) & wanted[:, g, None] for g in range(groups)], dim=1)
    layout = Layout(anchor=anchor, group=group, wanted=wanted, text=text, excluded=excluded)
    return layout, allowed & ~out[text].T.unsqueeze(1), allowed  # [A, G, T]


def dense_log_sum_exp(unit, scale, layout, allowed):
    """One similarity matrix, [A, 1, T]; the rows without anything give -inf without gradients that are no numbers."""
    logits = (unit[layout.anchor] @ unit.T * scale).unsqueeze(1)
    some = allowed.any(2)
    finite = logits.masked_fill(~allowed, -1e300).logsumexp(2)
    return finite.masked_fill(~some, 0), some


def vectors(texts, dimensions, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return unit_vectors(torch.randn(texts, dimensions, dtype=torch.float64, generator=generator))


@pytest.mark.parametrize("tile_mib", BUDGETS_MIB)
@pytest.mark.parametrize("distinct", [1, 5, 40], ids=["all texts equal", "five texts", "few equal"])
def test_log_sum_exp_equals_the_whole_matrix(distinct, tile_mib):
    layout, allowed, _ = random_layout(texts=23, groups=3, distinct=distinct, seed=distinct)
    unit = vectors(23, 4).requires_grad_()
    scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    found = log_sum_exp(unit, scale, layout, tile_mib=tile_mib)
    expected, some = dense_log_sum_exp(unit, scale, layout, allowed)
    assert torch.equal(found > -math.inf, some)
    torch.testing.assert_close(found[some], expected[some], rtol=1e-12, atol=1e-12)
    weights = torch.randn(found.shape, dtype=torch.float64)
    # What comes back for a sum of nothing is not looked at.
    ours = torch.autograd.grad(found, (unit, scale), weights.masked_fill(~some, math.nan))
    theirs = torch.autograd.grad((expected * weights).sum(), (unit, scale))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("tile_mib", BUDGETS_MIB)
def test_soft_labels_equal_the_whole_matrix(tile_mib):
    layout, _, allowed = random_layout(texts=23, groups=3, distinct=1, seed=0)
    layout = Layout(anchor=layout.anchor, group=layout.group, wanted=layout.wanted)
    unit, teacher = vectors(23, 4).requires_grad_(), vectors(23, 2, seed=1)
    scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    found = soft_label_cross_entropy(unit, scale, teacher, torch.tensor(3.0), layout, tile_mib=tile_mib)[layout.wanted]
    student, target = (
        (v[layout.anchor] @ v.T * by).unsqueeze(1).masked_fill(~allowed, -1e300)[layout.wanted]
        for v, by in ((unit, scale), (teacher, 3.0))
    )
    expected = -(target.softmax(1) * student.log_softmax(1).masked_fill(~allowed[layout.wanted], 0)).sum(1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    ours, theirs = (torch.autograd.grad(terms.square().sum(), (unit, scale)) for terms in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("tile_mib", BUDGETS_MIB)
@pytest.mark.parametrize("reach", [1, 3, 12])
def test_neighbour_dots_equal_the_whole_matrix(reach, tile_mib):
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    unit = vectors(11, 4).requires_grad_()
    found = neighbour_dots(unit, order, reach, tile_mib=tile_mib)
    dots = unit[order] @ torch.cat([unit[order], unit.new_zeros(reach, 4)]).T
    expected = torch.stack([dots.diagonal(k + 1) for k in range(reach)], dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    ours, theirs = (torch.autograd.grad(out.square().sum(), unit) for out in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_gradients_equal_finite_differences():
    layout, _, _ = random_layout(texts=9, groups=2, distinct=5, seed=3)
    plain = Layout(anchor=layout.anchor, group=layout.group, wanted=layout.wanted)
    free, scale = vectors(9, 3).requires_grad_(), torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    def sums(free, scale):
        found = log_sum_exp(free, scale, layout, tile_mib=0.001)
        return found[found > -math.inf]

    def soft(free, scale):
        found = soft_label_cross_entropy(free, scale, vectors(9, 2), torch.tensor(3.0), plain, tile_mib=0.001)
        return found[found > -math.inf]

    assert torch.autograd.gradcheck(sums, (free, scale))
    assert torch.autograd.gradcheck(soft, (free, scale))
    assert torch.autograd.gradcheck(lambda v: neighbour_dots(v, torch.arange(9).flip(0), 2, tile_mib=1e-6), (free,))


def test_expand_ranges_by_hand():
    owner, member = expand_ranges(torch.tensor([5, 2, 9]), torch.tensor([7, 2, 10]))
    assert owner.tolist() == [0, 0, 2]
    assert member.tolist() == [5, 6, 9]


def test_large_scales_neither_overflow_nor_vanish():
    """At a temperature of 0.001 the logits reach 1,000: e^1000 is no float32, and e^-1000 is 0."""
    unit = torch.tensor([[1.0, 0], [-1, 0], [1, 0], [-1, 0]])
    layout = Layout(
        anchor=torch.tensor([0, 1]), group=torch.tensor([-1, -1, 0, 1]), wanted=torch.ones(2, 2, dtype=torch.bool)
    )
    found = log_sum_exp(unit, torch.tensor(1000.0), layout)
    assert found.tolist() == [[1000, -1000], [-1000, 1000]]


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return out


def batch(rows, languages, dimensions, *, equal=False):
    """A batch with every cell, all strings equal or none, float32."""
    texts = rows * languages
    generator = torch.Generator().manual_seed(0)
    text_id = torch.zeros(texts, dtype=torch.int64) if equal else torch.arange(texts)
    row, language = torch.arange(rows).repeat_interleave(languages), torch.arange(languages).repeat(rows)
    return torch.randn(texts, dimensions, generator=generator, requires_grad=True), row, language, text_id


@pytest.mark.parametrize("equal", [False, True], ids=["no texts equal", "all texts equal"])
@pytest.mark.parametrize("objective", [*PRESETS.values(), Objective(negatives="other")], ids=[*PRESETS, "other"])
def test_no_tensor_grows_with_the_square_of_the_texts(objective, equal):
    """The largest is that of the embeddings, or of a row's pairs; a similarity matrix would be 25 times that."""
    embeddings, row, language, text_id = batch(100, 4, 16, equal=equal)
    with Largest() as largest:
        found = contrastive_terms(embeddings, row, language, text_id, objective, tile_mib=0.1)
        (found.total if found.count else found.mean()).backward()
    assert largest.elements <= 400 * 16
    assert equal == (found.count == 0)


def test_no_soft_label_tensor_grows_with_the_square_of_the_texts():
    embeddings, _, language, _ = batch(100, 4, 16)
    objective = Objective(keep="soft-labels", keep_weight=1.0)
    with Largest() as largest:
        keep_terms(embeddings, language, torch.randn(400, 8), objective, tile_mib=0.1).total.backward()
    assert largest.elements <= 400 * 16


@pytest.mark.parametrize("negatives", ["language", "all"])
def test_the_same_batch_gives_the_same_bits(negatives):
    """42,000 pairs: enough for the operations to be shared among threads."""
    results = []
    for _ in range(2):
        embeddings, row, language, text_id = batch(1000, 7, 8)
        temperature = torch.tensor(0.05, requires_grad=True)
        loss = contrastive_terms(
            embeddings, row, language, text_id, Objective(negatives=negatives), temperature=temperature
        ).mean()
        loss.backward()
        results.append((loss, embeddings.grad, temperature.grad))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_the_same_soft_labels_give_the_same_bits():
    results = []
    for _ in range(2):
        embeddings, row, language, _ = batch(1000, 5, 8)
        teacher = torch.randn(1000, 8, generator=torch.Generator().manual_seed(1))[row]
        loss = keep_terms(embeddings, language, teacher, Objective(keep="soft-labels", keep_weight=1.0)).mean()
        loss.backward()
        results.append((loss, embeddings.grad))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
