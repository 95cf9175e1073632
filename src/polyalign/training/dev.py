"""The dev set that chooses the best checkpoint: bitext accuracy over the seen languages, never English alone."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator

from polyalign.errors import UserError
from polyalign.similarity import nearest_index

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from polyalign.corpus import Corpus

MIN_PAIR_ROWS = 10
"""A language pair counts from so many shared rows on: among fewer, the translation is found by chance."""


class BitextAccuracy(SentenceEvaluator):
    """How often a text's nearest neighbour in another language is its translation.

    The mean over all ordered pairs of languages that share at least `MIN_PAIR_ROWS` rows; each text of a pair's first
    language looks among those rows' texts in the second. In 0 to 1.

    Args:
        corpus: the dev rows; gaps are allowed.
        batch_size: texts per forward pass.

    Raises:
        UserError: when no pair of languages shares enough rows.
    """

    def __init__(self, corpus: Corpus, *, batch_size: int = 128) -> None:
        super().__init__()
        self.primary_metric = "dev_accuracy"
        self.greater_is_better = True
        self.batch_size = batch_size
        cells = [
            (language, row, text)
            for language in corpus.languages
            for row, text in enumerate(corpus.rows[language])
            if text is not None
        ]
        self.texts = [text for _, _, text in cells]
        at = {(language, row): position for position, (language, row, _) in enumerate(cells)}
        self.pairs: list[tuple[list[int], list[int]]] = []
        for a, b in permutations(corpus.languages, 2):
            shared = [row for row in range(len(corpus)) if (a, row) in at and (b, row) in at]
            if len(shared) >= MIN_PAIR_ROWS:
                self.pairs.append(([at[a, row] for row in shared], [at[b, row] for row in shared]))
        if not self.pairs:
            raise UserError(
                f"of {len(corpus)} dev rows no two languages share {MIN_PAIR_ROWS}; raise dev_rows, or set it to 0"
            )

    def __call__(self, model: SentenceTransformer, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Return ``{"dev_accuracy": accuracy}``; the other arguments of the Trainer are not used."""
        vectors = model.encode(self.texts, batch_size=self.batch_size, show_progress_bar=False)
        hits = [
            np.mean(nearest_index(vectors[queries], vectors[candidates]) == np.arange(len(queries)))
            for queries, candidates in self.pairs
        ]
        return {self.primary_metric: float(np.mean(hits))}
