"""Weights between the base's and the trained ones, and a learning rate of the token embeddings' own."""

import pytest
import torch

from polyalign.encoder import load_encoder, read_record
from polyalign.errors import UserError
from polyalign.training import TrainingSettings, train
from polyalign.training.averaging import average, weights_of

QUICK = {"steps": 4, "batch_rows": 8, "dev_rows": 12, "evaluations": 2, "learning_rate": 0.001}


def weights(path):
    return weights_of(load_encoder(path, device="cpu"))


def test_the_mean_by_hand():
    """Three quarters of the base: 0.75 * 1 + 0.25 * 5 = 2. A row that the base has not stays."""
    model = torch.nn.Linear(2, 1, bias=False)
    base = {"weight": torch.tensor([[1.0, 1.0]])}
    model.weight = torch.nn.Parameter(torch.tensor([[5.0, 9.0], [7.0, 7.0]]))
    average(model, base, 0.75)
    assert model.weight.tolist() == [[2.0, 3.0], [7.0, 7.0]]


def test_the_saved_encoder_lies_on_the_line(tiny_bert, gappy_file, tmp_path):
    for name, share in (("trained", 0.0), ("half", 0.5)):
        train(
            gappy_file,
            tmp_path / name,
            base=tiny_bert,
            settings=TrainingSettings(**QUICK, base_share=share),
            objective="multi-way",
        )
    before, trained, half = weights(tiny_bert), weights(tmp_path / "trained"), weights(tmp_path / "half")
    moved = [name for name in before if not torch.equal(before[name], trained[name])]
    assert moved
    for name in before:
        torch.testing.assert_close(half[name], (before[name] + trained[name]) / 2, atol=1e-7, rtol=1e-6)
    record = read_record(tmp_path / "half")
    assert record["base_share"] == 0.5
    assert "half" not in (tmp_path / "trained" / "README.md").read_text()
    assert "| Weights | 50% of the base, 50% as trained |" in (tmp_path / "half" / "README.md").read_text()


@pytest.mark.parametrize("compact", [True, False])
def test_token_embeddings_have_a_rate_of_their_own(compact, tiny_bert, gappy_file, tmp_path):
    """Adam moves a weight by about its learning rate a step, so in one step the rate shows; warm-up is off."""
    decay = 0.0 if compact else 1e-12  # with decay the whole table is trained
    settings = QUICK | {"steps": 1, "warmup": 0, "weight_decay": decay, "dev_rows": 0, "schedule": "constant"}
    chosen = TrainingSettings(**settings, embedding_learning_rate=0.02)
    train(gappy_file, tmp_path / "out", base=tiny_bert, settings=chosen, objective="multi-way")
    before, after = weights(tiny_bert), weights(tmp_path / "out")
    step = {name: (after[name] - before[name]).abs().max().item() for name in before}
    tables = [name for name in step if "word_embeddings" in name]
    assert [step[name] for name in tables] == pytest.approx([0.02], rel=0.01)
    assert max(value for name, value in step.items() if name not in tables) == pytest.approx(0.001, rel=0.01)


def test_with_new_subwords_token_embeddings_learn_ten_times_as_fast(tiny_bert, sample_rows, tmp_path, monkeypatch):
    monkeypatch.setenv("POLYALIGN_CACHE", str(tmp_path / "cache"))
    settings = QUICK | {"steps": 1, "warmup": 0, "dev_rows": 0, "schedule": "constant"}
    chosen = TrainingSettings(**settings, extension={"epochs": 1, "dimensions": 16})
    sample_rows.head(100).write_ndjson(tmp_path / "rows.jsonl")
    train(tmp_path / "rows.jsonl", tmp_path / "out", base=tiny_bert, settings=chosen, objective="multi-way")
    before, after = weights(tiny_bert), weights(tmp_path / "out")
    step = {name: (after[name][: len(before[name])] - before[name]).abs().max().item() for name in before}
    tables = [name for name in step if "word_embeddings" in name]
    assert len(after[tables[0]]) > len(before[tables[0]])
    assert [step[name] for name in tables] == pytest.approx([0.01], rel=0.01)
    assert max(value for name, value in step.items() if name not in tables) == pytest.approx(0.001, rel=0.01)


def test_mistakes_of_the_user(tiny_bert, gappy_file, tmp_path):
    with pytest.raises(UserError, match="knows nothing that its weights could keep; leave base_share out"):
        train(gappy_file, tmp_path / "out", settings=TrainingSettings(**QUICK, base_share=0.5), objective="multi-way")
    frozen = TrainingSettings(**QUICK, lora={"rank": 2}, embedding_learning_rate=0.01)
    with pytest.raises(UserError, match="no token embeddings are trained here; leave embedding_learning_rate out"):
        train(gappy_file, tmp_path / "out", base=tiny_bert, settings=frozen, objective="multi-way")
