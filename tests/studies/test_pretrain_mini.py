"""The stand-in for XLM-R: blocks against a naive packing, masks that resume, and a pretraining killed midway."""

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
from pretrain_mini import BEGIN, END, RECORD, Blocks, Masks, MiniSettings, block_starts, made, prepared, pretrain

TINY = {
    "vocabulary": 500, "layers": 1, "hidden": 32, "heads": 2, "inner": 32, "block": 16, "batch": 64, "save_steps": 10,
    "learning_rate": 0.03, "dropout": 0.1,
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


def naive_starts(lengths, room):
    starts, begin = [], 0
    while sum(lengths[begin:]) >= room:
        starts.append(begin)
        filled = 0
        while begin < len(lengths) and filled + lengths[begin] <= room:
            filled += lengths[begin]
            begin += 1
    return starts


def test_a_sentence_that_is_cut_begins_the_next_block():
    """Room for 10: 4 + 4 and half of the next; 4 + 6 to the brim; 10 alone; 3 + 3 are too few."""
    lengths = np.array([4, 4, 4, 6, 10, 3, 3])
    assert block_starts(lengths, 10).tolist() == naive_starts(lengths, 10) == [0, 2, 4]
    for seed in range(20):
        lengths = np.random.default_rng(seed).integers(1, 11, 50)
        assert block_starts(lengths, 10).tolist() == naive_starts(lengths, 10)


def test_blocks_are_whole_and_begin_with_a_sentence(tokens):
    settings = MiniSettings(**TINY)
    blocks = Blocks(tokens, settings, 300)
    again = Blocks(tokens, settings, 300)
    for place in (299, 0, 150):
        number, ids = blocks[place]
        assert number == place
        assert len(ids) == 16
        assert ids[0] == BEGIN
        np.testing.assert_array_equal(ids, again[place][1])
        sentences = tokens.trained[blocks.languages[place]]
        beginnings = {tuple(tokens.ids[tokens.starts[s] : tokens.starts[s] + 3].tolist()) for s in sentences}
        beginnings |= {each[:2] for each in beginnings}
        assert tuple(ids[1:4].tolist()) in beginnings
    assert np.abs(Blocks(tokens, MiniSettings(**TINY, seed=1), 300)[0][1] - blocks[0][1]).any()


def test_small_languages_are_drawn_more_often_than_they_occur(tokens):
    amounts = np.array([np.minimum(tokens.lengths(trained), 15).sum() for trained in tokens.trained])  # as they are cut
    for alpha in (1.0, 0.5):
        drawn = np.bincount(Blocks(tokens, MiniSettings(**TINY, alpha=alpha), 20_000).languages) / 20_000
        np.testing.assert_allclose(drawn, amounts**alpha / (amounts**alpha).sum(), atol=0.01)


def test_nothing_held_out_is_trained_on(tokens):
    assert [len(held) for held in tokens.held_out] == [20, 40, 5], "a tenth; de, en, ru"
    for trained, held in zip(tokens.trained, tokens.held_out, strict=True):
        assert not set(trained) & set(held)
    assert tokens.ids[tokens.starts[1:] - 1].tolist() == [END] * 650


def test_masks_depend_on_the_place_alone(tokens):
    settings = MiniSettings(**TINY)
    masks = Masks(tokens.tokenizer, mlm_probability=0.15, seed=0)
    blocks = Blocks(tokens, settings, 100)
    first = masks([blocks[place] for place in range(50)])
    masks([blocks[place] for place in range(50, 100)])
    second = masks([blocks[place] for place in range(50)])
    assert torch.equal(first["input_ids"], second["input_ids"])
    masked = first["labels"] != -100
    original = torch.tensor(np.stack([blocks[place][1] for place in range(50)]))
    assert torch.equal(first["labels"][masked], original[masked])
    assert torch.equal(first["input_ids"][~masked], original[~masked])
    assert masked.float().mean() == pytest.approx(0.15, abs=0.04)
    assert not (original[masked] < 5).any(), "no special token is to be found"


def test_the_loss_is_that_of_all_logits(tokens):
    settings = MiniSettings(**TINY | {"dropout": 0.0})
    batch = Masks(tokens.tokenizer, mlm_probability=0.15, seed=0)([Blocks(tokens, settings, 8)[i] for i in range(8)])
    ours = made(tokens, settings).eval()
    theirs = super(type(ours), ours)
    mine = ours(**batch)
    full = theirs.forward(**batch)
    torch.testing.assert_close(mine["loss"], full.loss)
    masked = batch["labels"] != -100
    assert mine["right"] == (full.logits.argmax(-1) == batch["labels"])[masked].sum()
    weights = list(ours.parameters())
    for one, other in zip(
        torch.autograd.grad(mine["loss"], weights), torch.autograd.grad(full.loss, weights), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


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
    assert record["tokens"] == 40 * 64 * 16
    model = load_encoder(tmp_path / "mini", device="cpu")
    assert encoder_fingerprint(model) == encoder_fingerprint(load_encoder(tmp_path / "whole", device="cpu"))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert "| least text: ru |" in (tmp_path / "mini" / "README.md").read_text()
    assert pretrain(text, tmp_path / "mini", MiniSettings(**settings)) == record, "complete, and left alone"

    assert model.max_seq_length == 16
    assert model.tokenizer("a b")["input_ids"][0] == BEGIN
    quick = TrainingSettings(steps=1, batch_rows=8, dev_rows=12, evaluations=1)
    trained = train(gappy_file, tmp_path / "out", base=str(tmp_path / "mini"), settings=quick)
    assert trained["languages"] == ["de", "en", "ru", "zh"]


def test_a_budget_in_hours_is_measured_once(text, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(pretrain_mini.Progress, "tokens_per_sec", lambda self, step: seen.append(step) or 1024.0)
    record = pretrain(text, tmp_path / "mini", MiniSettings(**TINY, hours=2 / 3600))
    assert record["steps"] == 2, "of 64 x 16 tokens, for which there is a second"
    assert (tmp_path / "mini" / RECORD).is_file()
    assert seen[0] == 20


def test_mistakes_of_the_user(text, tmp_path):
    with pytest.raises(UserError, match="holds no Parquet files; give a folder with one per language"):
        pretrain(tmp_path, tmp_path / "mini", MiniSettings())
    with pytest.raises(UserError, match="mini: hours and steps are given; a budget is one of them"):
        MiniSettings.checked({"hours": 1, "steps": 2}, "mini")
    with pytest.raises(UserError, match="mini: 10 dimensions do not divide into 4 heads"):
        MiniSettings.checked({"hidden": 10}, "mini")
    pl.DataFrame({"text": ["one", None]}).write_parquet(tmp_path / "eo.parquet")
    with pytest.raises(UserError, match="eo: fewer than two sentences; leave these files out"):
        pretrain(tmp_path, tmp_path / "mini", MiniSettings(**TINY))
