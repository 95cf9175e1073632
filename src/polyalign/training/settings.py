"""How long, how fast and on what a training runs."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from polyalign.settings import Settings


class StaticSettings(Settings):
    """The shape of a ``static`` base, made on the spot from the corpus.

    Attributes:
        dimensions: of the embeddings; None for a teacher's, where they are compared with its, else 256.
        vocabulary: the most subwords of its tokenizer; every character of the corpus is kept, even beyond that.
    """

    dimensions: int | None = Field(None, ge=8)
    vocabulary: int = Field(32_000, ge=256)


class LoraSettings(Settings):
    """Low-rank adapters (Hu et al. 2021) in place of the encoder's own weights, merged into them before it is saved.

    Attributes:
        rank: of the adapters.
        alpha: their scale is ``alpha / rank``.
        dropout: before each adapter, 0 to 1.
        targets: names of the linear layers that get one; ``all-linear`` for all of them.
    """

    rank: int = Field(16, ge=1)
    alpha: float = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: list[str] | Literal["all-linear"] = "all-linear"


class ExtensionSettings(Settings):
    """New subwords for a base whose tokenizer cuts the corpus's languages into crumbs; see `extend_vocabulary`.

    Attributes:
        vocabulary: the most subwords of the tokenizer learnt from the corpus; those that the base lacks are new.
        min_count: how often a new subword occurs in the corpus at least; rarer ones have nothing to learn from.
        dimensions: of the static encoder that puts the subwords of all languages into one space.
        epochs: its passes over the rows.
        batch_rows: its rows a step.
        neighbours: how many English subwords a new one borrows its embedding from.
        temperature: of the softmax over their similarities, above 0.
    """

    vocabulary: int = Field(40_000, ge=256)
    min_count: int = Field(5, ge=1)
    dimensions: int = Field(256, ge=8)
    epochs: int = Field(8, ge=1)
    batch_rows: int = Field(256, ge=2)
    neighbours: int = Field(10, ge=1)
    temperature: float = Field(0.1, gt=0)


class LexicalSettings(Settings):
    """A lexical half: beside what the layers make of a text, what its subwords say by themselves; see `add_lexical`.

    Attributes:
        weight: length of the lexical half of a text of the corpus, root mean square, above 0; that of the encoder's own
            half is 1.
        teacher: a folder or Hub id, whose English embeddings the subwords learn; None for the encoder itself.
        epochs: passes over the rows in which they learn.
        batch_rows: rows a step.
    """

    weight: float = Field(0.8, gt=0)
    teacher: str | None = None
    epochs: int = Field(8, ge=1)
    batch_rows: int = Field(256, ge=2)


class ProjectionSettings(Settings):
    """What is put at the end of an encoder that is not trained further, fitted on a corpus, in this order.

    Attributes:
        lexical: a lexical half, for which a vector of each subword is learnt; None for none.
        lsar: directions of language identity to project out, at most the number of languages less one; see
            `polyalign.training.language_bias`. None for none.
        wccn: power to which the scatter of a row's translations is evened out, above 0, at most 1; see
            `polyalign.training.wccn`. None for not at all.
    """

    lexical: LexicalSettings | None = None
    lsar: int | None = Field(None, ge=1)
    wccn: float | None = Field(None, gt=0, le=1)

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not self.parts:
            raise ValueError("neither lexical, lsar nor wccn is given; give at least one")
        return self

    @property
    def parts(self) -> list[str]:
        """The names of what is asked for, in the order in which it is put there."""
        return [name for name in ("lexical", "lsar", "wccn") if getattr(self, name) is not None]

    @property
    def suffix(self) -> str:
        """What is put after the name of an arm."""
        return "".join(f"+{name}" for name in self.parts)


class TrainingSettings(Settings):
    """Hyper-parameters of one training run.

    Attributes:
        epochs: passes over the rows; at most one of ``epochs``, ``steps`` and ``texts``. When none is given, five with
            a ``static`` base, which begins with nothing, and one with any other.
        steps: optimizer steps.
        texts: encoded texts; training ends with the step that reaches them.
        rows: train on so many of the rows, chosen by a hash: fewer rows are a part of more, and the dev rows stay the
            same; None for all.
        batch_rows: rows a step, of all processes together; ``auto`` for the largest power of two whose activations fit
            into half of the device's memory.
        learning_rate: the peak; None for 0.02 with a ``static`` base and 5e-5 with any other.
        embedding_learning_rate: of the token embeddings; None for ``learning_rate``, with an ``extension`` ten times
            that: each new subword is in few batches, and learns little at the rate that suits the layers.
        warmup: share of the steps, 0 to 1, in which the learning rate rises to its peak.
        schedule: of the learning rate after that.
        weight_decay: of AdamW.
        max_grad_norm: gradients are clipped to this norm.
        bf16: whether the forward pass runs in bfloat16 (autocast); ``auto`` where the device has instructions for it.
            A CPU without them computes it a hundred times slower than float32.
        tokens_per_chunk: the most tokens of one forward pass, padding included; None for 512 on a CPU, where short
            chunks have the least padding and the warmest caches, and 16,384 on a GPU.
        gradient_cache: whether to keep one chunk's activations at a time, for a second forward pass; ``auto`` where a
            batch's activations would not fit into half of the device's memory.
        max_seq_length: tokens a text is cut to; None for the base's own.
        dev_rows: rows held out of training to choose the best checkpoint; None for a tenth, at most 200; 0 for none,
            which keeps the last weights.
        evaluations: how often the dev set is looked at, evenly spaced.
        keep_checkpoints: how many of the newest checkpoints are kept while training, beside the best one.
        early_stopping: stop after so many evaluations without a better one; None trains the whole budget.
        pooling: of a base that brings none.
        prompt: prefix put before every text, in training and in the saved encoder; None for the base's own.
        static: the shape of a ``static`` base.
        extension: new subwords for the base's vocabulary; None for none.
        lora: train adapters instead of the whole encoder; None for the whole.
        base_share: share of the base's weights in the mean with the trained ones that is saved, 0 to below 1; new
            subwords stay as trained. See `polyalign.training.averaging`.
        lexical: of the trained encoder, as in `ProjectionSettings`, on the training rows.
        lsar: likewise.
        wccn: likewise.
    """

    epochs: int | None = Field(None, ge=1)
    steps: int | None = Field(None, ge=1)
    texts: int | None = Field(None, ge=1)
    rows: int | None = Field(None, ge=2)
    batch_rows: Annotated[int, Field(ge=2)] | Literal["auto"] = 32
    learning_rate: float | None = Field(None, gt=0)
    embedding_learning_rate: float | None = Field(None, gt=0)
    warmup: float = Field(0.1, ge=0, le=1)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    bf16: bool | Literal["auto"] = False
    tokens_per_chunk: int | None = Field(None, ge=1)
    gradient_cache: bool | Literal["auto"] = "auto"
    max_seq_length: int | None = Field(None, ge=2)
    dev_rows: int | None = Field(None, ge=0)
    evaluations: int = Field(10, ge=1)
    keep_checkpoints: int = Field(1, ge=1)
    early_stopping: int | None = Field(None, ge=1)
    pooling: Literal["mean", "cls"] = "mean"
    prompt: str | None = None
    static: StaticSettings = StaticSettings()
    extension: ExtensionSettings | None = None
    lora: LoraSettings | None = None
    base_share: float = Field(0.0, ge=0, lt=1)
    lexical: LexicalSettings | None = None
    lsar: int | None = Field(None, ge=1)
    wccn: float | None = Field(None, gt=0, le=1)

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if len(self._given_budgets()) > 1:
            raise ValueError(
                f"{' and '.join(self._given_budgets())} are given; a budget is one of epochs, steps and texts"
            )
        return self

    def budget(self, *, static: bool) -> dict[str, int]:
        """Return the one budget that is given, by its name; when none is, the epochs that suit the base."""
        return self._given_budgets() or {"epochs": 5 if static else 1}

    def _given_budgets(self) -> dict[str, int]:
        budgets = {name: getattr(self, name) for name in ("epochs", "steps", "texts")}
        return {name: value for name, value in budgets.items() if value is not None}
