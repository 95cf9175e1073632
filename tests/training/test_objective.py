"""The objective against a naive double loop in float64: value and gradient, every preset, gaps, duplicates."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity

from polyalign.errors import UserError
from polyalign.training.objective import (
    ENGLISH,
    PRESETS,
    MultiwayLoss,
    Objective,
    contrastive_terms,
    keep_term,
    negative_mask,
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


def naive(embeddings, cells, objective):
    """Every anchor, every positive, every negative, one at a time, from the formula."""
    total, count, skipped = embeddings.new_zeros(()), 0, 0
    for t, (row, a, _) in enumerate(cells):
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
                    sums.append(
                        torch.exp(cosine_similarity(embeddings[t], embeddings[n], dim=0) / objective.temperature)
                    )
            if not sums:
                skipped += 1
                continue
            s = cosine_similarity(embeddings[t], embeddings[p], dim=0)
            positive = torch.exp((s - objective.margin) / objective.temperature)
            below = sum(sums) + (positive if objective.denominator == "with-positive" else 0)
            weight = 1 + objective.hard_positives * (1 - s.detach())
            total = total - weight * torch.log(positive / below)
            count += 1
    return total / max(count, 1), skipped


OBJECTIVES = {
    **PRESETS,
    "paper": Objective.named("paper", keep="none", keep_weight=0.0),
    "other": Objective(negatives="other", margin=0.3),
    "english, negatives only": Objective(anchors="english", denominator="negatives-only", negatives="all", margin=0.1),
    "hard": Objective(negatives="side", hard_positives=2.0, temperature=0.2),
}


def compare_with_naive(cells, objective, seed=0):
    fast = torch.randn(len(cells), 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    slow = fast.clone().requires_grad_()
    fast.requires_grad_()
    expected, expected_skipped = naive(slow, cells, objective)
    terms, skipped = contrastive_terms(fast, *tensors(cells), objective)
    loss = terms.mean() if len(terms) else fast.sum() * 0
    assert skipped == expected_skipped
    torch.testing.assert_close(loss, expected + 0 * slow.sum(), rtol=1e-10, atol=1e-10)
    (loss * 3).backward()
    (expected * 3 + 0 * slow.sum()).backward()
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_value_and_gradient_equal_the_double_loop(name):
    compare_with_naive(GAPPY, OBJECTIVES[name])


@settings(max_examples=40)
@given(
    cells=st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 3), st.sampled_from("abcdefgh")),
        min_size=1,
        max_size=14,
        unique_by=lambda cell: cell[:2],
    ),
    name=st.sampled_from(sorted(OBJECTIVES)),
)
def test_any_shape_of_batch_equals_the_double_loop(cells, name):
    compare_with_naive(cells, OBJECTIVES[name])


def test_by_hand():
    """Two rows, two languages, unit vectors at right angles: each term is -log(e^(1/t) / (e^(1/t) + e^0))."""
    embeddings = torch.tensor([[1.0, 0], [2.0, 0], [0, 3.0], [0, 1.0]])
    row, language, text_id = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1, 2, 3])
    terms, skipped = contrastive_terms(embeddings, row, language, text_id, Objective(temperature=0.5))
    assert skipped == 0
    torch.testing.assert_close(terms, torch.full((4,), math.log(1 + math.exp(-2))))


def test_same_row_and_equal_strings_are_never_negatives():
    row, _, text_id = tensors(GAPPY)
    mask = negative_mask(row, text_id)
    text = [c[2] for c in GAPPY]
    assert not mask[0, :3].any(), "texts of the anchor's own row"
    assert not mask[0, text.index("b0", 3)], "row 4 holds row 0's Spanish text"
    assert not mask[text.index("a4")][1], "and the other way round"
    assert mask[0, 3]


def test_multi_way_gives_every_ordered_pair_of_a_row():
    cells = [(row, language, f"{row} {language}") for row in range(3) for language in range(7)]
    terms, _ = contrastive_terms(torch.randn(21, 4), *tensors(cells), PRESETS["multi-way"])
    assert len(terms) == 3 * 7 * 6
    terms, _ = contrastive_terms(torch.randn(21, 4), *tensors(cells), PRESETS["english-anchor"])
    assert len(terms) == 3 * 6


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


@pytest.mark.parametrize("keep", ["l2", "cosine"])
def test_keep_looks_at_english_alone(keep):
    embeddings = torch.randn(len(GAPPY), 5, dtype=torch.float64)
    teacher = teacher_of(GAPPY, 5)
    objective = Objective(keep=keep, keep_weight=1.0)
    english = [i for i, cell in enumerate(GAPPY) if cell[1] == ENGLISH]
    distances = {
        "l2": [((embeddings[i] - teacher[i]) ** 2).sum() for i in english],
        "cosine": [1 - cosine_similarity(embeddings[i], teacher[i], dim=0) for i in english],
    }[keep]
    torch.testing.assert_close(
        keep_term(embeddings, *tensors(GAPPY), teacher, objective), sum(distances) / len(english)
    )


def test_soft_labels_equal_the_double_loop():
    embeddings, teacher = torch.randn(len(GAPPY), 5, dtype=torch.float64), teacher_of(GAPPY, 3)
    objective = Objective(keep="soft-labels", keep_weight=1.0, temperature=0.3)
    known = [i for i in range(len(GAPPY)) if not teacher[i].isnan().any()]
    terms = []
    for t in known:
        for b in {GAPPY[i][1] for i in known} - {GAPPY[t][1]}:
            column = [n for n in known if GAPPY[n][1] == b]
            target = torch.stack([cosine_similarity(teacher[t], teacher[n], dim=0) for n in column]) / 0.3
            student = torch.stack([cosine_similarity(embeddings[t], embeddings[n], dim=0) for n in column]) / 0.3
            terms.append(-(target.softmax(0) * (student.exp() / student.exp().sum()).log()).sum())
    torch.testing.assert_close(
        keep_term(embeddings, *tensors(GAPPY), teacher, objective), torch.stack(terms).mean(), rtol=1e-9, atol=1e-10
    )


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


def test_bfloat16_embeddings_are_compared_in_float32():
    embeddings = torch.randn(len(GAPPY), 5).bfloat16()
    expected, _ = contrastive_terms(embeddings.float(), *tensors(GAPPY), Objective())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms, _ = contrastive_terms(embeddings, *tensors(GAPPY), Objective())
    assert terms.dtype == torch.float32
    torch.testing.assert_close(terms, expected)


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
    with pytest.raises(UserError, match="needs a teacher"):
        MultiwayLoss(torch.nn.Identity(), "paper")
