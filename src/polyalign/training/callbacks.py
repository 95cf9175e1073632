"""What happens beside the steps of a training: checkpoints made to count, and a bar that tells the time left."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import TrainerCallback

from polyalign.storage import read_manifest, write_json
from polyalign.training.distributed import rank, wait_for_all

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from polyalign.training.loss import MultiwayLoss

log = logging.getLogger(__name__)

MARKER = "complete.json"
"""Written last into a checkpoint; one without it was interrupted and does not count."""


def last_checkpoint(work: Path) -> Path | None:
    """Return the complete checkpoint with the most steps, after deleting interrupted ones; None when there is none."""
    complete = {}
    for folder in work.glob("checkpoint-*"):
        if (folder / MARKER).is_file():
            complete[_step(folder)] = folder
        else:
            shutil.rmtree(folder)
    return complete[max(complete)] if complete else None


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


class Checkpoints(TrainerCallback):
    """Marks each checkpoint as complete, with what the Trainer does not keep, and then deletes old ones.

    Args:
        loss: the loss in training; what it has counted is counted over all calls of a resumed run.
        keep: how many of the newest checkpoints stay, beside the best one.
    """

    def __init__(self, loss: MultiwayLoss, *, keep: int) -> None:
        self._loss = loss
        self._keep = keep
        self._before = 0.0
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Wall-clock time of the training so far, over all calls that it took, evaluations on the dev set included."""
        return self._before + time.perf_counter() - self._start

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take up the counts of the checkpoint that training resumes from."""
        self._start = time.perf_counter()
        marker = read_manifest(Path(args.output_dir) / f"checkpoint-{state.global_step}", MARKER)
        if marker is not None:
            self._before = marker["seconds"]
            if rank() == 0:  # what all processes together had counted
                self._loss.counts = marker["counts"]

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Runs after the Trainer has written its last file."""
        marker = {"seconds": self.seconds, "counts": self._loss.all_counts()}
        wait_for_all()  # each process writes its own random state
        if rank() > 0:
            return
        folder = Path(args.output_dir)
        write_json(folder / f"checkpoint-{state.global_step}" / MARKER, marker)
        # Only now: the Trainer itself would delete the last complete checkpoint before this one is marked.
        best = Path(state.best_model_checkpoint or "").name
        old = sorted(folder.glob("checkpoint-*"), key=_step)[: -self._keep]
        for checkpoint in old:
            if checkpoint.name != best:
                shutil.rmtree(checkpoint)


SECONDS_BETWEEN_LINES = 60.0


class Progress(TrainerCallback):
    """A progress bar on stderr with texts per second and time left; where stderr is no terminal, a line a minute.

    Args:
        texts_per_step: int64 [steps], texts each step encodes.
    """

    def __init__(self, texts_per_step: np.ndarray) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._done = np.concatenate([[0], texts_per_step.cumsum()])
        self._bar = Bar(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty() or rank() > 0,
        )
        self._task = self._bar.add_task("training", total=len(texts_per_step), note="")
        self._shown: dict[str, str] = {}
        self._first = 0
        self._start = self._told = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self._first, self._start = state.global_step, time.perf_counter()
        self._told = self._start
        self._bar.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=state.global_step, note=self._note(state.global_step))
        if time.perf_counter() - self._told >= SECONDS_BETWEEN_LINES:
            self._tell(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the loss and the dev accuracy."""
        for name, label in (("loss", "loss"), ("eval_dev_accuracy", "dev")):
            if name in (logs or {}):
                self._shown[label] = f"{label} {logs[name]:.3f}"  # type: ignore[index]
        if "eval_dev_accuracy" in (logs or {}):
            self._tell(state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the bar as it stands."""
        self._bar.stop()

    def _tell(self, step: int) -> None:
        """Log how far it is, where there is no bar."""
        self._told = time.perf_counter()
        if self._bar.disable and rank() == 0:
            log.info("step %d of %d, %s", step, len(self._done) - 1, self._note(step))

    def _note(self, step: int) -> str:
        texts = self._done[step] - self._done[self._first]
        speed = texts / max(time.perf_counter() - self._start, 1e-9)
        return "  ".join([f"{speed:,.0f} texts/s", *self._shown.values()])
