"""How much fits: bytes counted at the tensors that autograd keeps, and the batch and the caching that follow."""

import gc

import pytest
import torch

from polyalign.corpus import Corpus
from polyalign.encoder import load_encoder
from polyalign.training import Objective, TrainingSettings
from polyalign.training.fitting import activation_bytes, fitted, largest_batch, memory_for_activations, peak_memory
from polyalign.training.tokens import tokens_of


class Layers(torch.nn.Module):
    """Keeps the input of each linear layer, and for the ReLU its own output, which is the input of the second."""

    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(8, 16), torch.nn.Linear(16, 4)

    def forward(self, features):
        return {"sentence_embedding": self.second(torch.relu(self.first(features["input_ids"])))}


def test_what_autograd_keeps_by_hand():
    features = {"input_ids": torch.randn(10, 8)}
    assert activation_bytes(Layers(), features, bf16=False) == 4 * (10 * 8 + 10 * 16)


def test_no_graph_outlives_the_count():
    """A ReLU's own output is among what is kept; a graph that held it would never be freed."""

    def of_graphs():
        gc.collect()
        return sum(isinstance(one, torch.Tensor) and one.grad_fn is not None for one in gc.get_objects())

    before = of_graphs()
    activation_bytes(Layers(), {"input_ids": torch.randn(10, 8)}, bf16=False)
    assert of_graphs() == before


def test_twice_the_texts_keep_twice_as_much_and_nothing_is_left_behind(tiny_xlmr):
    model = load_encoder(tiny_xlmr, device="cpu").train()
    ids = torch.randint(5, 100, (8, 12))
    state = torch.get_rng_state()
    features = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    once = activation_bytes(model, features, bf16=False)
    twice = activation_bytes(model, {name: value.repeat(2, 1) for name, value in features.items()}, bf16=False)
    assert twice == pytest.approx(2 * once, rel=0.05)
    assert torch.equal(state, torch.get_rng_state())
    assert set(features) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize(
    ("bytes_per_row", "available", "rows", "batch"),
    [(10, 1000, 10_000, 64), (10, 1279, 10_000, 64), (10, 1280, 10_000, 128), (10, 10**9, 100, 32), (10, 1, 100, 2)],
)
def test_the_largest_batch_by_hand(bytes_per_row, available, rows, batch):
    assert largest_batch(bytes_per_row, available, rows) == batch


def test_gradients_are_cached_where_the_activations_do_not_fit(tiny_xlmr, gappy_file, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "polyalign")
    model = load_encoder(tiny_xlmr, device="cpu")
    tokens = tokens_of(Corpus.open(gappy_file), model, cache=tmp_path)

    def fit(**settings):
        return fitted(model, tokens, Objective(), TrainingSettings(**settings), seed=0)

    assert not fit(batch_rows=32).cache_gradients
    assert fit(batch_rows="auto").batch_rows == 16, "half of the rows at most"
    assert fit().tokens_per_chunk == 512
    monkeypatch.setattr("polyalign.training.fitting.memory_for_activations", lambda device: 6 * 2**20)
    assert fit(batch_rows=32).cache_gradients
    assert not fit(batch_rows=32, gradient_cache=False).cache_gradients
    small = fit(batch_rows="auto")
    assert small.batch_rows in (4, 8)
    assert not small.cache_gradients
    assert f"batch: {small.batch_rows} rows, whose activations take" in caplog.text


def test_memory_is_that_of_the_machine():
    assert 2**28 < memory_for_activations(torch.device("cpu")) < 2**50
    assert 2**24 < peak_memory(torch.device("cpu")) < 2**50
