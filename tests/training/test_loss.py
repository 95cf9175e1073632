"""The loss in training: cached gradients against the plain graph, and what it counts."""

import pytest
import torch

from polyalign.corpus import Corpus
from polyalign.encoder import load_encoder
from polyalign.training import MultiwayCollator, MultiwayLoss, Objective, to_dataset


def batch_of(model, file, objective, tokens_per_chunk):
    corpus = Corpus.open(file)
    collator = MultiwayCollator(model, corpus.languages, objective, tokens_per_chunk=tokens_per_chunk)
    batch = collator([row for row in to_dataset(corpus)][:11])
    count = sum(name.endswith("_input_ids") for name in batch)
    chunks = [
        {name.removeprefix(f"chunk{k}_"): value for name, value in batch.items() if name.startswith(f"chunk{k}_")}
        for k in range(count)
    ]
    return chunks, batch["label"]


def value_and_gradients(loss, chunks, labels, *, scale=1.0, seed=3):
    loss.zero_grad()
    torch.manual_seed(seed)
    value = loss(chunks, labels)
    (value * scale).backward()
    return value.detach(), {name: p.grad.clone() for name, p in loss.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("base", ["tiny_xlmr", "tiny_bert"])
@pytest.mark.parametrize(
    "objective",
    [
        Objective(),
        Objective.named("en-x"),
        Objective(learn_temperature=True, anchors="english", negatives="all", hard_positives=0.5),
    ],
    ids=["multi-way", "en-x", "learnt temperature"],
)
def test_cached_gradients_are_the_plain_ones(base, objective, gappy_file, request):
    """With dropout, in uneven chunks, and scaled as an outer loss would."""
    model = load_encoder(request.getfixturevalue(base), device="cpu").train()
    chunks, labels = batch_of(model, gappy_file, objective, 64)
    assert len(chunks) > 3
    plain = MultiwayLoss(model, objective)
    cached = MultiwayLoss(model, objective, cache_gradients=True)
    value, gradients = value_and_gradients(plain, chunks, labels, scale=0.5)
    cached_value, cached_gradients = value_and_gradients(cached, chunks, labels, scale=0.5)
    assert cached_value == pytest.approx(value.item(), rel=1e-6)
    assert gradients.keys() == cached_gradients.keys()
    assert ("log_scale" in gradients) == objective.learn_temperature
    for name, gradient in gradients.items():
        torch.testing.assert_close(cached_gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    assert cached.counts == plain.counts
    other, _ = value_and_gradients(plain, chunks, labels, seed=4)
    assert other != value, "dropout is at work"


def test_cached_gradients_with_a_teacher(tiny_xlmr, gappy_file):
    model = load_encoder(tiny_xlmr, device="cpu").train()
    objective = Objective(keep="l2", keep_weight=0.5)
    chunks, labels = batch_of(model, gappy_file, objective, 64)
    keys = labels[:, 0].unique()[1:]  # one row has none
    teacher = (keys, torch.randn(len(keys), 32, generator=torch.Generator().manual_seed(0)))
    value, gradients = value_and_gradients(MultiwayLoss(model, objective, teacher), chunks, labels)
    found, cached = value_and_gradients(MultiwayLoss(model, objective, teacher, cache_gradients=True), chunks, labels)
    assert found == pytest.approx(value.item(), rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(cached[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_cached_gradients_in_bfloat16(tiny_xlmr, gappy_file):
    """The casts of weights that the first pass leaves in autocast's cache know no gradient."""
    model = load_encoder(tiny_xlmr, device="cpu").eval()
    chunks, labels = batch_of(model, gappy_file, Objective(), 64)
    found = []
    for cache in (False, True):
        loss = MultiwayLoss(model, cache_gradients=cache)
        loss.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(chunks, labels)
        value.backward()
        found.append({name: p.grad.clone() for name, p in loss.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    largest = max(gradient.norm() for gradient in found[0].values())
    for name, gradient in found[0].items():  # the plain graph adds the chunks' parts up in bfloat16
        assert (found[1][name] - gradient).norm() < 0.05 * gradient.norm() + 1e-4 * largest, name
        assert gradient.dtype == torch.float32


def test_an_evaluation_needs_no_second_pass(tiny_xlmr, gappy_file):
    model = load_encoder(tiny_xlmr, device="cpu").eval()
    chunks, labels = batch_of(model, gappy_file, Objective(), 64)
    with torch.no_grad():
        values = [MultiwayLoss(model, cache_gradients=cache)(chunks, labels) for cache in (False, True)]
    assert values[0] == values[1]
    assert not values[1].requires_grad


def test_the_tokens_are_counted(tiny_xlmr, gappy_file):
    model = load_encoder(tiny_xlmr, device="cpu")
    chunks, labels = batch_of(model, gappy_file, Objective(), 64)
    loss = MultiwayLoss(model)
    loss(chunks, labels)
    real = sum(int(chunk["attention_mask"].sum()) for chunk in chunks)
    computed = sum(chunk["input_ids"].numel() for chunk in chunks)
    assert loss.counts == {"skipped_terms": 0, "real": real, "computed": computed}
    assert real < computed < 1.5 * real
    loss.counts = {"skipped_terms": 5, "real": 10, "computed": 20}
    loss(chunks, labels)
    assert loss.counts == {"skipped_terms": 5, "real": 10 + real, "computed": 20 + computed}
    assert all("token_embeddings" not in chunk for chunk in chunks), "the features stay as they were"
