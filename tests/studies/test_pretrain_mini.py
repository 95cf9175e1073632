"""The stand-in for XLM-R: batches against naive ones, masks that resume, and a pretraining killed midway."""

import signal
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import pretrain_mini
from polyalign.encoder import encoder_fingerprint, load_encoder
from polyalign.errors import UserError
from polyalign.training import TrainingSettings, train
from pretrain_mini import (
    BEGIN,
    END,
    PAD,
    RECORD,
    Batches,
    Masks,
    MiniSettings,
    MuonAndAdam,
    by_length,
    made,
    prepared,
    pretrain,
)

TINY = {
    "vocabulary": 500, "layers": 1, "hidden": 32, "heads": 2, "inner": 32, "length": 16, "batch": 1024,
    "save_steps": 10, "other_learning_rate": 0.03, "dropout": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def text(sample_rows, tmp_path_factory) -> Path:
    """400 English, 200 German and 50 Russian sentences."""
    folder = tmp_path_factory.mktemp("text")
    for language, count in {"en": 400, "de": 200, "ru": 50}.items():
        pl.DataFrame({"text": sample_rows[language].head(count)}).write_parquet(folder / f"{language}.parquet")
    return folder


@pytest.fixture(scope="module")
def tokens(text, tmp_path_factory):
    return prepared(sorted(text.glob("*.parquet")), tmp_path_factory.mktemp("work"), MiniSettings(**TINY))


def naive_batches(sentences, lengths, batch):
    batches = []
    for sentence in sorted(sentences, key=lambda sentence: lengths[sentence]):
        if batches and (len(batches[-1]) + 1) * lengths[sentence] <= batch:
            batches[-1].append(sentence)
        else:
            batches.append([sentence])
    return batches


def test_sentences_of_similar_length_share_a_batch():
    """12 tokens a batch: 2, 3, 3 are padded to 9, and 4 would make 16; 4 and 5 are padded to 10; 12 is alone."""
    lengths = np.array([12, 3, 5, 2, 3, 4])
    found = [batch.tolist() for batch in by_length(np.arange(6), lengths, 12)]
    assert found == naive_batches(range(6), lengths, 12) == [[3, 1, 4], [5, 2], [0]]
    for seed in range(20):
        generator = np.random.default_rng(seed)
        lengths, sentences = generator.integers(1, 20, 200), generator.permutation(200)[:150]
        found = [batch.tolist() for batch in by_length(sentences, lengths, 40)]
        assert found == naive_batches(sentences, lengths, 40)


def test_batches_are_of_whole_sentences_and_the_same_again(tokens):
    settings = MiniSettings(**TINY)
    batches, again = Batches(tokens, settings, 300), Batches(tokens, settings, 300)
    assert len(batches) == len(again) == 300
    for place in (299, 0, 150):
        number, rows = batches[place]
        assert number == place
        assert rows.size <= 1024
        np.testing.assert_array_equal(rows, again[place][1])
        for row, sentence in zip(rows, batches.sentences[place], strict=True):
            whole = tokens.ids[tokens.starts[sentence] : tokens.starts[sentence + 1]]
            np.testing.assert_array_equal(row[row != PAD], whole[:16])
            assert row[0] == BEGIN
    other = Batches(tokens, MiniSettings(**TINY, seed=1), 300)
    assert other.sentences[0].tolist() != batches.sentences[0].tolist()


def test_small_languages_are_drawn_more_often_than_they_occur(tokens):
    amounts = np.array([len(trained) for trained in tokens.trained])
    for alpha in (1.0, 0.5):
        drawn = np.concatenate(Batches(tokens, MiniSettings(**TINY, alpha=alpha), 300).sentences)
        shares = [np.isin(drawn, trained).mean() for trained in tokens.trained]
        np.testing.assert_allclose(shares, amounts**alpha / (amounts**alpha).sum(), atol=0.01)


def test_a_language_is_read_in_full_before_it_is_read_again(tokens, monkeypatch):
    monkeypatch.setattr(pretrain_mini, "SORTED_BATCHES", 1)
    drawn = np.concatenate(Batches(tokens, MiniSettings(**TINY), 200).sentences)
    for trained in tokens.trained:
        times = np.bincount(drawn, minlength=trained.max() + 1)[trained]
        assert times.max() - times.min() <= 2, "once for the pass that goes on, once for the batches that were left out"
        assert times.min() >= 1


def test_nothing_held_out_is_trained_on(tokens):
    assert [len(held) for held in tokens.held_out] == [20, 40, 5], "a tenth; de, en, ru"
    for trained, held in zip(tokens.trained, tokens.held_out, strict=True):
        assert not set(trained) & set(held)
    assert tokens.ids[tokens.starts[1:] - 1].tolist() == [END] * 650


def test_masks_depend_on_the_place_alone(tokens):
    masks = Masks(tokens.tokenizer, mlm_probability=0.15, seed=0)
    batches = Batches(tokens, MiniSettings(**TINY), 100)
    first = [masks([batches[place]]) for place in range(50)]
    masks([batches[70]])
    share, count = 0, 0
    for place in range(50):
        again = masks([batches[place]])
        assert torch.equal(first[place]["input_ids"], again["input_ids"])
        masked = again["labels"] != -100
        original = torch.from_numpy(batches[place][1])
        assert torch.equal(again["labels"][masked], original[masked])
        assert torch.equal(again["input_ids"][~masked], original[~masked])
        assert not (original[masked] < 5).any(), "no special token is to be found"
        share, count = share + int(masked.sum()), count + int((original >= 5).sum())
    assert share / count == pytest.approx(0.15, abs=0.01)


def test_the_loss_is_that_of_all_logits(tokens):
    settings = MiniSettings(**TINY | {"dropout": 0.0})
    batch = Masks(tokens.tokenizer, mlm_probability=0.15, seed=0)([Batches(tokens, settings, 8)[7]])
    ours = made(tokens, settings).eval()
    theirs = super(type(ours), ours)
    mine = ours(**batch)
    full = theirs.forward(**batch, attention_mask=(batch["input_ids"] != PAD).long())
    torch.testing.assert_close(mine["loss"], full.loss)
    masked = batch["labels"] != -100
    assert mine["right"] == (full.logits.argmax(-1) == batch["labels"])[masked].sum()
    weights = list(ours.parameters())
    for one, other in zip(
        torch.autograd.grad(mine["loss"], weights), torch.autograd.grad(full.loss, weights), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_muon_moves_matrices_of_the_layers_and_adam_the_rest(tokens):
    settings = MiniSettings(**TINY | {"dropout": 0.0}, learning_rate=0.01)
    model = made(tokens, settings)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = MuonAndAdam(model, settings)
    batch = Masks(tokens.tokenizer, mlm_probability=0.15, seed=0)([Batches(tokens, settings, 1)[0]])
    model(**batch)["loss"].backward()
    optimizer.step()
    moved = {name: (weight - before[name]).detach() for name, weight in model.named_parameters()}
    matrix = moved["roberta.encoder.layer.0.attention.self.value.weight"]
    singular = torch.linalg.svdvals(matrix)
    assert singular[24] > singular[0] / 2, "three quarters of 32 directions alike; a random matrix has 0.2"
    assert matrix.square().mean().sqrt() == pytest.approx(0.2 * 0.01, rel=0.25)
    np.testing.assert_allclose(moved["lm_head.bias"].abs(), 0.03, rtol=1e-3)  # the first step of Adam
    assert len(optimizer.param_groups) == 2
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(before)


KILLED = """
import os, sys
sys.path.insert(0, studies)
import pretrain_mini
plain = pretrain_mini.Progress.on_save
def on_save(self, args, state, control, **kwargs):
    if state.global_step == 20:
        os.kill(os.getpid(), 9)
    plain(self, args, state, control, **kwargs)
pretrain_mini.Progress.on_save = on_save
pretrain_mini.pretrain(text, out, pretrain_mini.MiniSettings(**settings))
"""


def test_kill_9_then_again_ends_in_the_same_encoder(text, gappy_file, tmp_path, capsys, start_process):
    """Killed while its second checkpoint is not marked yet; with dropout."""
    settings = TINY | {"steps": 40}
    studies = str(Path(pretrain_mini.__file__).parent)
    killed = start_process(KILLED, studies=studies, text=text, out=tmp_path / "mini", settings=settings)
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert not (tmp_path / "mini").exists()
    with pytest.raises(UserError, match="holds an interrupted pretraining with other settings or text; repeat it or"):
        pretrain(text, tmp_path / "mini", MiniSettings(**settings, seed=3))
    record = pretrain(text, tmp_path / "mini", MiniSettings(**settings))
    printed = capsys.readouterr().out
    assert "going on from checkpoint-10" in printed
    assert "after 20 steps:" in printed
    assert "tokens/s" in printed
    whole = pretrain(text, tmp_path / "whole", MiniSettings(**settings))
    assert record["held_out"] == whole["held_out"]
    losses = [entry["held_out"]["most text"]["loss"] for entry in record["history"] if "held_out" in entry]
    assert len(losses) == 4, "at every checkpoint, of both calls"
    assert losses[-1] < losses[0] - 0.1, "it learns"
    assert record["groups"] == {"most text": ["en"], "medium": ["de"], "least text": ["ru"]}
    assert 40 * 1024 * 0.9 < record["tokens"] <= 40 * 1024
    drawn = [language["drawn"] for language in record["languages"].values()]
    assert drawn[1] > drawn[0] > drawn[2] > 0, "en, de, ru"
    model = load_encoder(tmp_path / "mini", device="cpu")
    assert encoder_fingerprint(model) == encoder_fingerprint(load_encoder(tmp_path / "whole", device="cpu"))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert "| least text: ru |" in (tmp_path / "mini" / "README.md").read_text()
    assert pretrain(text, tmp_path / "mini", MiniSettings(**settings)) == record, "complete, and left alone"

    assert model.max_seq_length == 16
    assert model.tokenizer("a b")["input_ids"][0] == BEGIN
    quick = TrainingSettings(steps=1, batch_rows=8, dev_rows=12, evaluations=1)
    trained = train(gappy_file, tmp_path / "out", base=str(tmp_path / "mini"), settings=quick, objective="multi-way")
    assert trained["languages"] == ["de", "en", "ru", "zh"]


def test_a_budget_in_hours_is_measured_once(text, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(pretrain_mini.Progress, "steps_per_sec", lambda self, step: seen.append(step) or 1.0)
    record = pretrain(text, tmp_path / "mini", MiniSettings(**TINY, hours=2 / 3600))
    assert record["steps"] == 2, "a second for each"
    assert (tmp_path / "mini" / RECORD).is_file()
    assert seen[0] == 20


def test_mistakes_of_the_user(text, tmp_path):
    with pytest.raises(UserError, match="holds no Parquet files; give a folder with one per language"):
        pretrain(tmp_path, tmp_path / "mini", MiniSettings())
    with pytest.raises(UserError, match="mini: hours and steps are given; a budget is one of them"):
        MiniSettings.checked({"hours": 1, "steps": 2}, "mini")
    with pytest.raises(UserError, match="mini: a sentence of 128 tokens does not fit into a batch of 64"):
        MiniSettings.checked({"batch": 64}, "mini")
    with pytest.raises(UserError, match="mini: 10 dimensions do not divide into 4 heads"):
        MiniSettings.checked({"hidden": 10}, "mini")
    pl.DataFrame({"text": ["one", None]}).write_parquet(tmp_path / "eo.parquet")
    with pytest.raises(UserError, match="eo: fewer than two sentences; leave these files out"):
        pretrain(tmp_path, tmp_path / "mini", MiniSettings(**TINY))
