"""Checkpoints that count: the newest, the best, and none that was interrupted."""

import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from polyalign.training import MultiwayLoss, Objective, callbacks
from polyalign.training.callbacks import MARKER, Checkpoints, last_checkpoint
from polyalign.training.engine import MultiwayTrainer


def saved(checkpoints, folder, step, best=None):
    (folder / f"checkpoint-{step}").mkdir()
    state = SimpleNamespace(global_step=step, best_model_checkpoint=best and str(folder / f"checkpoint-{best}"))
    checkpoints.on_save(SimpleNamespace(output_dir=str(folder)), state, None)
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in folder.iterdir())


def test_old_checkpoints_go_when_the_new_one_counts(tmp_path):
    checkpoints = Checkpoints(MultiwayLoss(torch.nn.Linear(2, 2)), keep=2)
    assert saved(checkpoints, tmp_path, 5) == [5]
    assert saved(checkpoints, tmp_path, 10, best=5) == [5, 10]
    assert saved(checkpoints, tmp_path, 15, best=5) == [5, 10, 15], "the best stays"
    assert saved(checkpoints, tmp_path, 100, best=15) == [15, 100]
    (tmp_path / "checkpoint-200").mkdir()
    assert last_checkpoint(tmp_path).name == "checkpoint-100"
    assert not (tmp_path / "checkpoint-200").exists()


def test_the_counts_go_on(tmp_path):
    loss = MultiwayLoss(torch.nn.Linear(2, 2))
    loss.counts = {"skipped_terms": 1, "real": 20, "computed": 30}
    saved(Checkpoints(loss, keep=1), tmp_path, 7)
    marker = json.loads((tmp_path / "checkpoint-7" / MARKER).read_text())
    assert marker["counts"] == {"skipped_terms": 1, "real": 20, "computed": 30}
    resumed = MultiwayLoss(torch.nn.Linear(2, 2))
    state = SimpleNamespace(global_step=7)
    checkpoints = Checkpoints(resumed, keep=1)
    checkpoints.on_train_begin(SimpleNamespace(output_dir=str(tmp_path)), state, None)
    assert resumed.counts == loss.counts
    assert checkpoints.seconds >= marker["seconds"]


def test_a_checkpoint_holds_the_loss_and_one_that_does_not_fit_raises(tmp_path):
    def trainer(size):
        made = MultiwayTrainer.__new__(MultiwayTrainer)  # only its loss is looked at
        made.loss = MultiwayLoss(torch.nn.Linear(size, 2), Objective(learn_temperature=True))
        return made

    one, other = trainer(3), trainer(3)
    one.loss.log_scale.data.fill_(1.5)
    one._save(str(tmp_path))
    other._load_from_checkpoint(str(tmp_path))
    assert other.loss.log_scale.item() == 1.5
    assert torch.equal(other.loss.model.weight, one.loss.model.weight)
    with pytest.raises(RuntimeError, match="size mismatch"):
        trainer(4)._load_from_checkpoint(str(tmp_path))


def test_without_a_terminal_a_line_is_told_now_and_then(monkeypatch, caplog):
    """Every half minute a step, every minute a line, and one at each look at the dev set."""
    caplog.set_level(logging.INFO, logger="polyalign")
    now = [0.0]
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: now[0])
    progress = callbacks.Progress(np.full(6, 100))
    state = SimpleNamespace(global_step=0)
    progress.on_train_begin(None, state, None)
    for step in range(1, 7):
        state.global_step, now[0] = step, now[0] + 30.0
        progress.on_step_end(None, state, None)
        if step == 5:
            progress.on_log(None, state, None, logs={"eval_dev_accuracy": 0.5})
    progress.on_train_end(None, state, None)
    assert [record.getMessage() for record in caplog.records] == [
        "step 2 of 6, 3 texts/s",
        "step 4 of 6, 3 texts/s",
        "step 5 of 6, 3 texts/s  dev 0.500",
    ]
