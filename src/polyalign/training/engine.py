"""The sentence-transformers Trainer over N-way rows: whole batches over processes, complete checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from sentence_transformers import SentenceTransformerTrainer
from torch import Tensor
from torch.utils.data import DataLoader

from polyalign.errors import UserError
from polyalign.training.batches import batches_of_epoch
from polyalign.training.callbacks import last_checkpoint
from polyalign.training.distributed import add_up_gradients, rank, world_size

if TYPE_CHECKING:
    from torch import nn

    from polyalign.training.loss import MultiwayLoss

WEIGHTS = "training.safetensors"


class RowBatches:
    """This process's rows of each batch, in an order that is a pure function of (seed, epoch).

    A batch is whole over all processes: process r of W takes every W-th row from the r-th on. So the same batches come
    from any number of processes, and none of their rows twice. The last batch of an epoch may be short.

    Args:
        rows: how many there are.
        batch_rows: rows a step, of all processes together.
        seed: of the order.
    """

    def __init__(self, rows: int, batch_rows: int, *, seed: int) -> None:
        self._rows = rows
        self._batch_rows = batch_rows
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        for batch in batches_of_epoch(self._rows, self._batch_rows, seed=self._seed, epoch=self._epoch):
            yield batch[rank() :: world_size()]

    def __len__(self) -> int:
        return -(-self._rows // self._batch_rows)


class _RowLoader(DataLoader[Any]):
    """A loader that hands the epoch on to its `RowBatches`."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


class MultiwayTrainer(SentenceTransformerTrainer):
    """Trains with a `MultiwayLoss` over rows, on one device or, under ``torchrun``, on several.

    Differs from its base in three things. A batch is the same whatever the number of processes (`RowBatches`), and so
    is its gradient: negatives come from all processes, each process adds its share. Checkpoints hold the weights of the
    encoder and of the loss, such as a learnt temperature, as they are in training; one that does not fit raises. A loss
    or gradient that is no number stops the training at that step.

    Args:
        loss: the objective; its parameters are trained with the encoder's.
        batch_rows: rows a step, of all processes together.
        kwargs: of `SentenceTransformerTrainer`; the collator is a `TokenCollator`, and no gradients are accumulated
            over steps: a larger batch with cached gradients takes as little memory.
    """

    def __init__(self, *, loss: MultiwayLoss, batch_rows: int, **kwargs: Any) -> None:
        super().__init__(loss=loss, **kwargs)
        self.batch_rows = batch_rows

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the batches of this process. Accelerate would shard them in its own way."""
        workers = self.args.dataloader_num_workers
        self._train_dataloader = _RowLoader(
            self.train_dataset,
            batch_sampler=RowBatches(len(self.train_dataset), self.batch_rows, seed=self.args.seed),
            collate_fn=self.data_collator,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self._train_dataloader

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Leave a learnt temperature out of weight decay, which would pull it towards 1."""
        names: list[str] = super().get_decay_parameter_names(model)
        return [name for name in names if name != "log_scale"]

    def override_model_in_loss(self, loss: MultiwayLoss, model: nn.Module) -> MultiwayLoss:
        """Leave the encoder in the loss as it is.

        Accelerate's wrapper would exchange gradients in every backward pass, of which each process has as many as it
        has chunks. It exchanges nothing where its own forward is not called.
        """
        return loss

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # Resumed from a checkpoint of the last step, amid an epoch, the base class would train one step too many.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Return the loss of a step, its gradients added up over the processes."""
        self._row_keys = inputs["label"][:, 0]
        self.loss.zero_grad()  # the Trainer itself forgets the gradients of the loss's own parameters
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        self._require_number("loss", loss)
        add_up_gradients(self.loss.parameters())
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)
        self._require_number("norm of the gradient", norm)
        return norm

    def _require_number(self, name: str, value: Any) -> None:
        if torch.isfinite(torch.as_tensor(value)).all():
            return
        tokens = self.data_collator.tokens
        rows = np.flatnonzero(np.isin(tokens.row_keys, self._row_keys.cpu().numpy()))
        named = [tokens.row_id(row) for row in rows[:5]]
        more = f" and {len(rows) - len(named)} more" if len(rows) > len(named) else ""
        checkpoint = last_checkpoint(Path(self.args.output_dir))
        raise UserError(
            f"the {name} is {float(value)} at step {self.state.global_step + 1}, rows {', '.join(named)}{more}; "
            f"last good checkpoint: {checkpoint or 'none'}; lower the learning rate or raise the temperature, and "
            "start over with --force"
        )

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.loss, str(folder / WEIGHTS))

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        load_model(self.loss, str(Path(checkpoint_path) / WEIGHTS))

    def _load_best_model(self) -> None:
        # The base class only logs what goes wrong here.
        self._load_from_checkpoint(self.state.best_model_checkpoint)
