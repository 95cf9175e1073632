"""A compact embedding trains to the weights that the whole one trains to."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from polyalign.encoder import load_encoder
from polyalign.training.bases import static_base
from polyalign.training.settings import StaticSettings
from polyalign.training.vocabulary import CompactEmbedding, compact_embeddings, expand_embeddings

BASES = ["tiny_xlmr", "tiny_bert", "static"]
SEEN = ["The bread is warm.", "Das Brot ist warm.", "Le pain.", "Two more lines, of uneven length.", "a"]
OTHERS = ["Wo ist der Bahnhof?", "The bread is cold 早上好。", "一"]


@pytest.fixture
def base(request, sample_rows):
    from polyalign.corpus import Corpus

    if request.param == "static":
        corpus = Corpus.from_texts(sample_rows.head(50), "rows")
        return static_base(corpus, StaticSettings(dimensions=16, vocabulary=800), seed=0).eval()
    return load_encoder(request.getfixturevalue(request.param), device="cpu").eval()


def ids_of(model, texts=SEEN):
    features = model.preprocess(texts)
    ids = features["input_ids"]
    return np.unique(ids[features["attention_mask"].bool()] if "attention_mask" in features else ids)


def table_of(model):
    return model[0].embedding if hasattr(model[0], "embedding") else model[0].model.get_input_embeddings()


def trained(model, steps=5):
    """Train without dropout, on batches of different sizes, with gradients that are clipped."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    target = torch.linspace(-1, 1, model.get_embedding_dimension())
    norms = []
    for step in range(steps):
        embeddings = model(model.preprocess(SEEN[step % 3 :]))["sentence_embedding"]
        ((embeddings - target) ** 2).sum().backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.5)))
        optimizer.step()
        optimizer.zero_grad()
    assert min(norms) > 0.5, "clipped in every step"
    return model


@pytest.mark.parametrize("base", BASES, indirect=True)
def test_the_weights_after_training_are_equal(base):
    before = table_of(base).weight.detach().clone()
    whole, compact = trained(copy.deepcopy(base)), copy.deepcopy(base)
    ids = ids_of(base)
    assert compact_embeddings(compact, ids)
    expand_embeddings(trained(compact))
    assert whole.state_dict().keys() == compact.state_dict().keys()
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(compact.state_dict()[name], value, rtol=0, atol=1e-7)
    moved = (table_of(compact).weight != before).any(1).nonzero().flatten().tolist()
    assert moved == ids.tolist(), "the others are the same to the last bit"


@pytest.mark.parametrize("base", BASES, indirect=True)
def test_any_text_is_encoded_as_before(base):
    texts = SEEN + OTHERS
    expected = base.encode(texts)
    ids = ids_of(base)
    assert set(ids_of(base, OTHERS)) - set(ids)
    assert compact_embeddings(base, ids)
    np.testing.assert_array_equal(base.encode(texts), expected)
    trained(base)
    now = base.encode(texts)
    assert np.abs(now - expected).max() > 1e-3
    expand_embeddings(base)
    np.testing.assert_array_equal(base.encode(texts), now)


@pytest.mark.parametrize("base", BASES, indirect=True)
def test_only_the_rows_in_use_are_parameters(base):
    ids = ids_of(base)
    shapes = {name: value.shape for name, value in base.state_dict().items()}
    whole = table_of(base)
    assert compact_embeddings(base, ids)
    compact = {name: value.shape for name, value in base.state_dict().items()}
    changed = [name for name in shapes if compact[name] != shapes[name]]
    assert compact.keys() == shapes.keys()
    assert [compact[name] for name in changed] == [(len(ids), whole.embedding_dim)]
    assert base.state_dict()[changed[0]].tolist() == whole.weight[ids].tolist()
    assert not any(parameter is whole.weight for parameter in base.parameters())
    expand_embeddings(base)
    assert table_of(base) is whole
    assert {name: value.shape for name, value in base.state_dict().items()} == shapes
    assert not any(isinstance(module, CompactEmbedding) for module in base.modules())


def test_the_saved_encoder_is_a_plain_one(tiny_bert, tmp_path):
    model = load_encoder(tiny_bert, device="cpu").eval()
    assert compact_embeddings(model, ids_of(model))
    expand_embeddings(trained(model))
    model.save(str(tmp_path))
    np.testing.assert_array_equal(load_encoder(tmp_path, device="cpu").encode(OTHERS), model.encode(OTHERS))


@pytest.mark.parametrize("base", ["tiny_xlmr", "tiny_bert"], indirect=True)
def test_padding_gets_no_gradient_even_where_a_text_has_it(base):
    table = table_of(base)
    ids = np.union1d(ids_of(base), table.padding_idx)
    assert compact_embeddings(base, ids)
    compact = table_of(base)
    assert compact.weight.shape == (len(ids), table.embedding_dim)
    compact(torch.tensor([[table.padding_idx, int(ids[-1])]])).sum().backward()
    got = compact.weight.grad.abs().sum(1)
    assert got[compact.place[table.padding_idx]] == 0
    assert got[-1] == table.embedding_dim
    assert got.sum() == table.embedding_dim


def frozen(model):
    table_of(model).weight.requires_grad_(False)


def tied(model):
    model.append(nn.Linear(32, len(table_of(model).weight), bias=False))
    model[-1].weight = table_of(model).weight


def scaled(model):
    class Scaled(nn.Embedding):
        def forward(self, ids):
            return super().forward(ids) * 2

    model[0].model.set_input_embeddings(Scaled.from_pretrained(table_of(model).weight, freeze=False))


def lora(model):
    from peft import LoraConfig

    model.add_adapter(LoraConfig(r=2, target_modules=["query"]))


def by_frequency(model):
    table_of(model).scale_grad_by_freq = True


@pytest.mark.parametrize("base", ["tiny_xlmr"], indirect=True)
@pytest.mark.parametrize("change", [frozen, tied, scaled, lora, by_frequency])
def test_where_it_does_not_apply_nothing_changes(base, change):
    change(base)
    modules = [id(module) for module in base.modules()]
    assert not compact_embeddings(base, ids_of(base))
    expand_embeddings(base)
    assert [id(module) for module in base.modules()] == modules


@pytest.mark.parametrize("base", ["tiny_xlmr"], indirect=True)
def test_a_tenth_of_the_rows_is_worth_it(base):
    rows = len(table_of(base).weight)
    assert not compact_embeddings(base, np.arange(int(0.9 * rows) + 1))
    assert compact_embeddings(base, np.arange(int(0.9 * rows)))
