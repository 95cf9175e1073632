"""The objective against a naive double loop in float64: value and gradient, every preset, gaps, duplicates."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity

from polyalign.errors import UserError
from polyalign.training import MultiwayLoss
from polyalign.training.objective import (
    ENGLISH,
    PRESETS,
    Objective,
    contrastive_terms,
    keep_terms,
)

GAPPY = [  # (row, language, text): row 3 has one language, row 4 repeats a text of row 0, row 5 one of its own
    (0, 0, "a0"), (0, 1, "b0"), (0, 2, "c0"),
    (1, 0, "a1"), (1, 2, "c1"),
    (2, 1, "b2"), (2, 2, "c2"), (2, 3, "d2"),
    (3, 0, "a3"),
    (4, 0, "a4"), (4, 1, "b0"), (4, 3, "d4"),
    (5, 0, "e5"), (5, 1, "e5"), (5, 2, "c5"),
]  # fmt: skip


def tensors(cells):
    row, language = torch.tensor([c[0] for c in cells]) * 1000, torch.tensor([c[1] for c in cells])
    texts = sorted({c[2] for c in cells})
    return row, language, torch.tensor([7 * texts.index(c[2]) for c in cells])


def naive(embeddings, cells, objective, temperature, anchors=slice(None)):
    """Every anchor, every positive, every negative, one at a time, from the formula: sum, terms, skipped."""
    total, count, skipped = 0 * embeddings.sum() + 0 * temperature, 0, 0
    for t in range(len(cells))[anchors]:
        row, a, _ = cells[t]
        own = {text for r, _, text in cells if r == row}
        for p, (row_p, b, _) in enumerate(cells):
            if row_p != row or a == b or (objective.anchors == "english" and a != ENGLISH):
                continue
            sums = []
            for n, (row_n, c, text_n) in enumerate(cells):
                wanted = {
                    "language": c == b,
                    "side": (c == ENGLISH) == (b == ENGLISH),
                    "other": c != a,
                    "all": True,
                }[objective.negatives]
                if wanted and row_n != row and text_n not in own:
                    sums.append(torch.exp(cosine_similarity(embeddings[t], embeddings[n], dim=0) / temperature))
            if not sums:
                skipped += 1
                continue
            s = cosine_similarity(embeddings[t], embeddings[p], dim=0)
            positive = torch.exp((s - objective.margin) / temperature)
            below = sum(sums) + (positive if objective.denominator == "with-positive" else 0)
            weight = 1 + objective.hard_positives * (1 - s.detach())
            total = total - weight * torch.log(positive / below)
            count += 1
    return total, count, skipped


OBJECTIVES = {
    **PRESETS,
    "paper": Objective.named("paper", keep="none", keep_weight=0.0),
    "other": Objective(negatives="other", margin=0.3),
    "english, negatives only": Objective(anchors="english", denominator="negatives-only", negatives="all", margin=0.1),
    "hard": Objective(negatives="side", hard_positives=2.0, temperature=0.2),
}


ONE_PAIR_MIB = 1e-6
"""Memory for tiles of a single similarity."""


def compare_with_naive(cells, objective, *, tile_mib=256.0, anchors=None):
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(len(cells), 5, dtype=torch.float64, generator=generator, requires_grad=True)
    temperature = torch.tensor(objective.temperature, dtype=torch.float64, requires_grad=True)
    found = contrastive_terms(
        embeddings, *tensors(cells), objective, temperature=temperature, anchors=anchors, tile_mib=tile_mib
    )
    expected, count, skipped = naive(embeddings, cells, objective, temperature, anchors or slice(None))
    assert (found.count, found.skipped) == (count, skipped)
    torch.testing.assert_close(found.total, expected, rtol=1e-10, atol=1e-10)
    ours, theirs = (torch.autograd.grad(total * 3, (embeddings, temperature)) for total in (found.total, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("tile_mib", [256, 0.001, ONE_PAIR_MIB])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_value_and_gradient_equal_the_double_loop(name, tile_mib):
    """0.001 MiB make tiles of some similarities each, with an uneven last one."""
    compare_with_naive(GAPPY, OBJECTIVES[name], tile_mib=tile_mib)


@pytest.mark.parametrize(
    "cells",
    [
        [(row, language, "same") for row in range(3) for language in range(3)],
        [(row, 0, f"alone {row}") for row in range(4)],
        [(0, language, f"one row {language}") for language in range(4)],
        [(0, 2, "one text")],
        [(row, 1 + language, f"{row} {language}") for row in range(3) for language in range(2)],
        [(0, 0, "a"), (0, 0, "b"), (0, 1, "c"), (1, 0, "d"), (1, 1, "e"), (1, 1, "e")],
    ],
    ids=["all equal", "one language", "one row", "one text", "no English", "two texts of a language in a row"],
)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_odd_batches_equal_the_double_loop(cells, name):
    compare_with_naive(cells, OBJECTIVES[name], tile_mib=0.001)


@settings(max_examples=40)
@given(
    cells=st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 3), st.sampled_from("abcdefgh")),
        min_size=1,
        max_size=14,
        unique_by=lambda cell: cell[:2],
    ),
    name=st.sampled_from(sorted(OBJECTIVES)),
    tile_mib=st.sampled_from([256, 0.002, 0.0005, ONE_PAIR_MIB]),
)
def test_any_shape_of_batch_equals_the_double_loop(cells, name, tile_mib):
    compare_with_naive(cells, OBJECTIVES[name], tile_mib=tile_mib)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_ranges_of_anchors_equal_the_double_loop_and_sum_to_the_whole(name):
    cuts = [slice(0, 4), slice(4, 5), slice(5, 5), slice(5, 15)]
    for anchors in cuts:
        compare_with_naive(GAPPY, OBJECTIVES[name], anchors=anchors, tile_mib=0.001)
    embeddings = torch.randn(len(GAPPY), 5, dtype=torch.float64, requires_grad=True)
    whole = contrastive_terms(embeddings, *tensors(GAPPY), OBJECTIVES[name])
    parts = [contrastive_terms(embeddings, *tensors(GAPPY), OBJECTIVES[name], anchors=anchors) for anchors in cuts]
    assert (whole.count, whole.skipped) == (sum(p.count for p in parts), sum(p.skipped for p in parts))
    total = sum(part.total for part in parts)
    torch.testing.assert_close(total, whole.total)
    torch.testing.assert_close(torch.autograd.grad(total, embeddings), torch.autograd.grad(whole.total, embeddings))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_batch_without_texts_has_zero_loss(name):
    embeddings, nothing = torch.zeros(0, 5, requires_grad=True), torch.zeros(0, dtype=torch.int64)
    found = contrastive_terms(embeddings, nothing, nothing, nothing, OBJECTIVES[name])
    found.mean().backward()
    assert (found.mean().item(), found.count, found.skipped, embeddings.grad.shape) == (0, 0, 0, (0, 5))


def test_by_hand():
    """Two rows, two languages, unit vectors at right angles: each term is -log(e^(1/t) / (e^(1/t) + e^0))."""
    embeddings = torch.tensor([[1.0, 0], [2.0, 0], [0, 3.0], [0, 1.0]])
    row, language, text_id = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1, 2, 3])
    found = contrastive_terms(embeddings, row, language, text_id, Objective(temperature=0.5))
    assert (found.count, found.skipped) == (4, 0)
    torch.testing.assert_close(found.total, torch.tensor(4 * math.log(1 + math.exp(-2))))


def test_same_row_and_equal_strings_are_never_negatives():
    """What row 0's English text repels is every text that equals none of row 0's.

    All texts are orthogonal, so that the gradient of a negative points along the anchor.
    """
    row, language, text_id = tensors(GAPPY)
    embeddings = torch.eye(len(GAPPY), requires_grad=True)
    objective = Objective(negatives="all", anchors="english")
    contrastive_terms(embeddings, row, language, text_id, objective, anchors=slice(0, 1)).total.backward()
    repelled = embeddings.grad[:, 0] > 0
    own = {"a0", "b0", "c0"}
    assert repelled.tolist() == [text not in own for _, _, text in GAPPY]


def test_multi_way_gives_every_ordered_pair_of_a_row():
    cells = [(row, language, f"{row} {language}") for row in range(3) for language in range(7)]
    assert contrastive_terms(torch.randn(21, 4), *tensors(cells), PRESETS["multi-way"]).count == 3 * 7 * 6
    assert contrastive_terms(torch.randn(21, 4), *tensors(cells), PRESETS["english-anchor"]).count == 3 * 6


@pytest.mark.parametrize("x_language", [[1, 1, 1, 1], [1, 2, 1, 3]])
def test_en_x_is_the_symmetric_loss_of_sentence_transformers(x_language):
    """MultipleNegativesRankingLoss with both directions, on the same embeddings."""
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    english, other = torch.randn(4, 6), torch.randn(4, 6)

    class Fixed(torch.nn.Module):
        def forward(self, features):
            return {"sentence_embedding": features}

    theirs = MultipleNegativesRankingLoss(
        Fixed(), scale=20.0, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"
    )
    row = torch.arange(4)
    ours = MultiwayLoss(Fixed(), PRESETS["en-x"]).from_embeddings(
        torch.cat([english, other]),
        torch.cat([row, row]),
        torch.tensor([0] * 4 + x_language),
        torch.arange(8),
    )
    torch.testing.assert_close(ours, theirs([english, other], None))


def test_a_batch_without_any_negative_has_zero_loss_and_a_gradient():
    embeddings = torch.randn(2, 3, requires_grad=True)
    loss_module = MultiwayLoss(torch.nn.Identity(), "multi-way")
    loss = loss_module.from_embeddings(embeddings, torch.tensor([5, 5]), torch.tensor([0, 1]), torch.tensor([0, 1]))
    loss.backward()
    assert loss.item() == 0
    assert loss_module.skipped_terms == 2
    assert embeddings.grad.abs().sum() == 0


def test_terms_without_a_negative_leave_no_gradient_that_is_no_number():
    """Not even one that is multiplied by 0 later on, which anomaly detection would report."""
    cells = [(0, 0, "a"), (0, 1, "b"), (1, 0, "c")]  # for the English anchor there is no Spanish negative
    embeddings = torch.randn(len(cells), 5, requires_grad=True)
    with torch.autograd.set_detect_anomaly(True):
        found = contrastive_terms(embeddings, *tensors(cells), PRESETS["en-x"])
        found.total.backward()
    assert (found.count, found.skipped) == (1, 1)


def teacher_of(cells, dimensions):
    """One vector per row that has English; NaN elsewhere."""
    generator = torch.Generator().manual_seed(1)
    vectors = {row: torch.randn(dimensions, dtype=torch.float64, generator=generator) for row in range(6)}
    english_rows = {row for row, language, _ in cells if language == ENGLISH}
    return torch.stack(
        [
            vectors[r] if r in english_rows else torch.full((dimensions,), math.nan, dtype=torch.float64)
            for r, _, _ in cells
        ]
    )


@pytest.mark.parametrize("anchors", [None, slice(2, 10), slice(1, 3)])
@pytest.mark.parametrize("texts", ["english", "all"])
@pytest.mark.parametrize("keep", ["l2", "cosine"])
def test_keep_looks_at_english_or_at_all_texts_of_a_known_row(keep, texts, anchors):
    embeddings = torch.randn(len(GAPPY), 5, dtype=torch.float64)
    teacher = teacher_of(GAPPY, 5)
    objective = Objective(keep=keep, keep_texts=texts, keep_weight=1.0)
    rows_with_english = {row for row, language, _ in GAPPY if language == ENGLISH}
    held = [
        i
        for i in range(len(GAPPY))[anchors or slice(None)]
        if GAPPY[i][0] in rows_with_english and (texts == "all" or GAPPY[i][1] == ENGLISH)
    ]
    distances = {
        "l2": [((embeddings[i] - teacher[i]) ** 2).sum() for i in held],
        "cosine": [1 - cosine_similarity(embeddings[i], teacher[i], dim=0) for i in held],
    }[keep]
    found = keep_terms(embeddings, tensors(GAPPY)[1], teacher, objective, anchors=anchors)
    assert found.count == len(held)
    torch.testing.assert_close(found.total, sum(distances, torch.zeros((), dtype=torch.float64)))


def naive_soft_labels(embeddings, teacher, cells, objective, temperature, anchors):
    """Every anchor and every other language, one at a time."""
    known = [i for i in range(len(cells)) if not teacher[i].isnan().any()]
    terms = []
    for t in known:
        if t not in range(len(cells))[anchors] or (objective.anchors == "english" and cells[t][1] != ENGLISH):
            continue
        for b in {cells[i][1] for i in known} - {cells[t][1]}:
            column = [n for n in known if cells[n][1] == b]
            target = torch.stack([cosine_similarity(teacher[t], teacher[n], dim=0) for n in column])
            student = torch.stack([cosine_similarity(embeddings[t], embeddings[n], dim=0) for n in column])
            probability = (student / temperature).exp() / (student / temperature).exp().sum()
            terms.append(-((target / objective.temperature).softmax(0) * probability.log()).sum())
    return sum(terms), len(terms)


@pytest.mark.parametrize("tile_mib", [256, 0.001, ONE_PAIR_MIB])
@pytest.mark.parametrize("anchors", [None, slice(2, 10)])
@pytest.mark.parametrize("which", ["all", "english"])
def test_soft_labels_equal_the_double_loop(which, anchors, tile_mib):
    """The temperature in training has left the start value, which the teacher keeps."""
    teacher = teacher_of(GAPPY, 3)
    objective = Objective(keep="soft-labels", keep_weight=1.0, temperature=0.3, anchors=which)
    embeddings = torch.randn(len(GAPPY), 5, dtype=torch.float64, requires_grad=True)
    temperature = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    found = keep_terms(
        embeddings,
        tensors(GAPPY)[1],
        teacher,
        objective,
        temperature=temperature,
        anchors=anchors,
        tile_mib=tile_mib,
    )
    expected, count = naive_soft_labels(embeddings, teacher, GAPPY, objective, temperature, anchors or slice(None))
    assert found.count == count
    torch.testing.assert_close(found.total, expected, rtol=1e-9, atol=1e-10)
    ours, theirs = (torch.autograd.grad(total, (embeddings, temperature)) for total in (found.total, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_distillation_is_the_mean_squared_distance_to_the_teacher_s_english():
    """Rows 0 and 1 are known, with three and two texts; sentence-transformers' MSELoss is this by the dimensions."""
    row, language, text_id = tensors(GAPPY)
    embeddings = torch.randn(len(GAPPY), 5, requires_grad=True)
    vectors = torch.randn(2, 5)
    loss = MultiwayLoss(torch.nn.Identity(), "distill", teacher=(torch.tensor([0, 1000]), vectors))
    value = loss.from_embeddings(embeddings, row, language, text_id)
    expected = 5 * torch.nn.functional.mse_loss(embeddings[:5], vectors[[0, 0, 0, 1, 1]])
    torch.testing.assert_close(value, expected)
    ours, theirs = (torch.autograd.grad(each, embeddings) for each in (value, expected))
    torch.testing.assert_close(ours, theirs)
    assert loss.skipped_terms == 0


@pytest.mark.parametrize("keep", ["l2", "cosine", "soft-labels"])
def test_a_batch_that_the_teacher_does_not_know_keeps_nothing(keep):
    embeddings = torch.randn(len(GAPPY), 5, requires_grad=True)
    unknown = torch.full((len(GAPPY), 5), math.nan)
    found = keep_terms(embeddings, tensors(GAPPY)[1], unknown, Objective(keep=keep, keep_weight=1.0))
    found.mean().backward()
    assert (found.mean().item(), found.count) == (0, 0)
    assert embeddings.grad.abs().sum() == 0


def test_the_keep_term_is_added_with_its_weight_by_row_key():
    row, language, text_id = tensors(GAPPY)
    embeddings = torch.randn(len(GAPPY), 5)
    keys = torch.tensor([0, 1000, 4000])
    vectors = torch.randn(3, 5)
    plain = MultiwayLoss(torch.nn.Identity(), Objective()).from_embeddings(embeddings, row, language, text_id)
    kept = MultiwayLoss(torch.nn.Identity(), Objective(keep="l2", keep_weight=0.5), teacher=(keys, vectors))
    english = [i for i, cell in enumerate(GAPPY) if cell[1] == ENGLISH and cell[0] in (0, 1, 4)]
    distance = sum(((embeddings[i] - vectors[[0, 1, 4].index(GAPPY[i][0])]) ** 2).sum() for i in english) / 3
    torch.testing.assert_close(kept.from_embeddings(embeddings, row, language, text_id), plain + 0.5 * distance)


@pytest.mark.parametrize("term", ["contrastive", "l2", "cosine", "soft-labels"])
def test_bfloat16_embeddings_are_compared_in_float32_under_autocast_too(term):
    row, language, text_id = tensors(GAPPY)
    teacher, rounded = teacher_of(GAPPY, 5).float(), torch.randn(len(GAPPY), 5).bfloat16()

    def value_and_gradient(embeddings):
        embeddings.requires_grad_()
        if term == "contrastive":
            total = contrastive_terms(embeddings, row, language, text_id, Objective()).total
        else:
            total = keep_terms(embeddings, language, teacher, Objective(keep=term, keep_weight=1.0)).total
        total.backward()
        return total.detach(), embeddings.grad

    expected, gradient = value_and_gradient(rounded.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, found_gradient = value_and_gradient(rounded)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found_gradient, gradient.bfloat16())


def test_a_learnt_temperature_starts_at_the_objective_s_and_stays_above_a_hundredth():
    embeddings = torch.randn(len(GAPPY), 5)
    fixed = MultiwayLoss(torch.nn.Identity(), Objective(temperature=0.2))
    learnt = MultiwayLoss(torch.nn.Identity(), Objective(temperature=0.2, learn_temperature=True))
    assert not list(fixed.parameters())
    assert [name for name, _ in learnt.named_parameters()] == ["log_scale"]
    loss = learnt.from_embeddings(embeddings, *tensors(GAPPY))
    torch.testing.assert_close(loss, fixed.from_embeddings(embeddings, *tensors(GAPPY)))
    loss.backward()
    step = 1e-3
    with torch.no_grad():
        learnt.log_scale += step
        higher = learnt.from_embeddings(embeddings, *tensors(GAPPY))
    assert (higher - loss).item() / step == pytest.approx(learnt.log_scale.grad.item(), rel=0.05)
    with torch.no_grad():
        learnt.log_scale += 100
    assert learnt.temperature().item() == pytest.approx(0.01)
    learnt.temperature().backward()
    assert learnt.log_scale.grad != 0


def test_mistakes_are_told_at_once_with_the_nearest_name():
    with pytest.raises(UserError, match=r"unknown objective 'multiway' \(did you mean 'multi-way'\?\); choose one of"):
        Objective.named("multiway")
    with pytest.raises(
        UserError, match=r"unknown key 'temprature' \(did you mean 'temperature'\?\), allowed are anchors"
    ):
        Objective.named("multi-way", temprature=1)
    with pytest.raises(UserError, match=r"temperature is 0, must be greater than 0; margin is 3, must be less than or"):
        Objective.named("multi-way", temperature=0, margin=3)
    with pytest.raises(UserError, match=r"keep is 'l2' and keep_weight 0.0; set both or neither"):
        Objective.named("multi-way", keep="l2")
    with pytest.raises(UserError, match=r"temperature is 0.005 and learnt, must be at least 0.01; start higher, or"):
        Objective.named("multi-way", temperature=0.005, learn_temperature=True)
    with pytest.raises(UserError, match="contrast is 0 and keep 'none'; nothing is left to train for, set one of them"):
        Objective.named("multi-way", contrast=0)
    with pytest.raises(UserError, match="keep_texts is 'all' and keep 'none'; set keep to l2 or cosine"):
        Objective.named("multi-way", keep_texts="all")
    with pytest.raises(UserError, match="in_turn takes turns among sampled languages; set languages_per_row"):
        Objective.named("multi-way", in_turn=True)
    with pytest.raises(UserError, match="needs a teacher"):
        MultiwayLoss(torch.nn.Identity(), "paper")
