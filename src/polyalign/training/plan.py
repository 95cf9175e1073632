"""What a training will see and cost, known before anything is computed."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import polars as pl

from polyalign.corpus import Corpus
from polyalign.errors import UserError
from polyalign.training.objective import Objective
from polyalign.training.settings import TrainingSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a training will cost, known before it starts.

    Attributes:
        rows: int64 [steps], rows of each optimizer step.
        texts: int64 [steps], texts it encodes.
        pairs: int64 [steps], its anchor-positive terms.
    """

    rows: np.ndarray
    texts: np.ndarray
    pairs: np.ndarray

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return len(self.rows)


def usable_rows(corpus: Corpus, objective: Objective) -> Corpus:
    """Return the rows an objective can learn from: all, or those with English where it is about English.

    Raises:
        UserError: when none is left.
    """
    if not objective.needs_english:
        return corpus
    if "en" not in corpus.languages:
        raise UserError(
            f"this objective pairs English with other languages, and the corpus has {', '.join(corpus.languages)}; "
            "choose the multi-way objective, or add English"
        )
    without = corpus.rows["en"].null_count()
    if without:
        log.warning("%d of %d rows have no English and are left out of this objective", without, len(corpus))
    rows = corpus.rows.filter(pl.col("en").is_not_null())
    return Corpus(rows=rows, languages=corpus.languages, report=corpus.report)


def make_plan(
    corpus: Corpus,
    objective: Objective,
    batch_rows: int,
    *,
    seed: int,
    epochs: int | None = None,
    steps: int | None = None,
    rows: int | None = None,
    texts: int | None = None,
    pairs: int | None = None,
) -> Plan:
    """Return the steps of a training and what each encodes, before anything is computed.

    Exactly one of the budgets is given; the training ends with the step that reaches it.

    Args:
        corpus: the training rows, after `usable_rows`.
        objective: decides how many of a row's languages a step encodes.
        batch_rows: rows a step; the last step of an epoch may have fewer.
        seed: of the order of rows.
        epochs: passes over the rows.
        steps: optimizer steps.
        rows: rows seen, a row counted each time.
        texts: encoded texts.
        pairs: anchor-positive terms; where there is no contrast, texts held to the teacher.
    """
    from polyalign.training.batches import batches_of_epoch

    present = corpus.rows.select(pl.sum_horizontal(pl.col(corpus.languages).is_not_null())).to_series().to_numpy()
    texts_of_row = np.minimum(present, objective.languages_per_row or present.max()).astype(np.int64)
    if objective.contrast == 0:
        pairs_of_row = texts_of_row
    else:
        pairs_of_row = texts_of_row * (texts_of_row - 1) if objective.anchors == "all" else texts_of_row - 1
    rows = epochs * len(corpus) if epochs is not None else rows
    per_step: list[tuple[int, int, int]] = []
    seen = np.zeros(3, dtype=np.int64)
    epoch = 0
    while True:
        for batch in batches_of_epoch(len(corpus), batch_rows, seed=seed, epoch=epoch):
            per_step.append((len(batch), int(texts_of_row[batch].sum()), int(pairs_of_row[batch].sum())))
            seen += per_step[-1]
            reached = ((steps, len(per_step)), (rows, seen[0]), (texts, seen[1]), (pairs, seen[2]))
            if any(budget is not None and so_far >= budget for budget, so_far in reached):
                rows_of_step, texts_of_step, pairs_of_step = np.array(per_step).T
                return Plan(rows=rows_of_step, texts=texts_of_step, pairs=pairs_of_step)
        epoch += 1


def split_dev(corpus: Corpus, settings: TrainingSettings) -> tuple[Corpus, Corpus | None]:
    """Return the training rows and the dev rows, by a hash of the row: the same for every arm and seed.

    Raises:
        UserError: when more dev rows are asked for than half of the corpus, or more training rows than are left.
    """
    dev_rows = min(200, len(corpus) // 10) if settings.dev_rows is None else settings.dev_rows
    if dev_rows > len(corpus) // 2:
        raise UserError(f"dev_rows is {dev_rows} of {len(corpus)} rows; at most half can be held out")
    rows = len(corpus) - dev_rows if settings.rows is None else settings.rows
    if rows > len(corpus) - dev_rows:
        raise UserError(f"rows is {rows}, and {len(corpus) - dev_rows} of {len(corpus)} rows are there to train on")
    if rows + dev_rows < len(corpus):
        _, corpus = corpus.split(rows + dev_rows)
    return corpus.split(dev_rows) if dev_rows else (corpus, None)
