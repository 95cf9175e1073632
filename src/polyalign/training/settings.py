"""How long, how fast and on what a training runs."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from polyalign.settings import Settings


class StaticSettings(Settings):
    """The shape of a ``static`` base, made on the spot from the corpus.

    Attributes:
        dimensions: of the embeddings.
        vocabulary: the most subwords of its tokenizer; every character of the corpus is kept, even beyond that.
    """

    dimensions: int = Field(256, ge=8)
    vocabulary: int = Field(32_000, ge=256)


class TrainingSettings(Settings):
    """Hyper-parameters of one training run.

    Attributes:
        epochs: passes over the rows; at most one of ``epochs``, ``steps`` and ``texts``; one epoch when none is given.
        steps: optimizer steps.
        texts: encoded texts; training ends with the step that reaches them.
        batch_rows: rows a step.
        learning_rate: the peak; None for 0.02 with a ``static`` base and 5e-5 with any other.
        warmup: share of the steps, 0 to 1, in which the learning rate rises to its peak.
        schedule: of the learning rate after that.
        weight_decay: of AdamW.
        max_grad_norm: gradients are clipped to this norm.
        bf16: whether the forward pass runs in bfloat16 (autocast); ``auto`` where the device has instructions for it.
            A CPU without them computes it a hundred times slower than float32.
        tokens_per_chunk: the most tokens of one forward pass, padding included.
        max_seq_length: tokens a text is cut to; None for the base's own.
        dev_rows: rows held out of training to choose the best checkpoint; None for a tenth, at most 200; 0 for none,
            which keeps the last weights.
        evaluations: how often the dev set is looked at, evenly spaced.
        early_stopping: stop after so many evaluations without a better one; None trains the whole budget.
        pooling: of a base that brings none.
        prompt: prefix put before every text, in training and in the saved encoder; None for the base's own.
        static: the shape of a ``static`` base.
    """

    epochs: int | None = Field(None, ge=1)
    steps: int | None = Field(None, ge=1)
    texts: int | None = Field(None, ge=1)
    batch_rows: int = Field(32, ge=2)
    learning_rate: float | None = Field(None, gt=0)
    warmup: float = Field(0.1, ge=0, le=1)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    bf16: bool | Literal["auto"] = False
    tokens_per_chunk: int = Field(2048, ge=1)
    max_seq_length: int | None = Field(None, ge=2)
    dev_rows: int | None = Field(None, ge=0)
    evaluations: int = Field(10, ge=1)
    early_stopping: int | None = Field(None, ge=1)
    pooling: Literal["mean", "cls"] = "mean"
    prompt: str | None = None
    static: StaticSettings = StaticSettings()

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if len(self._given_budgets()) > 1:
            raise ValueError(
                f"{' and '.join(self._given_budgets())} are given; a budget is one of epochs, steps and texts"
            )
        return self

    @property
    def budget(self) -> dict[str, int]:
        """The one budget that is given, by its name; one epoch when none is."""
        return self._given_budgets() or {"epochs": 1}

    def _given_budgets(self) -> dict[str, int]:
        budgets = {name: getattr(self, name) for name in ("epochs", "steps", "texts")}
        return {name: value for name, value in budgets.items() if value is not None}
