"""Checkpoints that count: the newest, the best, and none that was interrupted."""

import json
from types import SimpleNamespace

import pytest
import torch

from polyalign.training import MultiwayLoss, Objective
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
