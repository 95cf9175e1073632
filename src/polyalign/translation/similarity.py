"""Scores of cells by an encoder: cosine similarity to the English, and its margin over the neighbours."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from polyalign.corpus.columns import ENGLISH, ROW_ID
from polyalign.encoder import encoder_fingerprint
from polyalign.similarity import margins
from polyalign.translation.cells import write_parquet
from polyalign.translation.settings import SimilaritySettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

log = logging.getLogger(__name__)

LOW_SIMILARITY = "low similarity"


def score_cells(work: Path, settings: SimilaritySettings, model: SentenceTransformer) -> dict[str, Any]:
    """Write ``similarity/*.parquet`` beside ``cells/*.parquet``: ``row_id``, ``lang``, ``similarity``, ``margin``.

    A text's neighbours are sought among the texts of the other side in its chunk of rows, of the same language.

    Args:
        work: the folder of the build.
        settings: whose encoder ``model`` is.
        model: loaded before anything is translated, so that a missing one is told at once.

    Returns:
        What the manifest says of the encoder.
    """
    out = work / "similarity"
    out.mkdir(exist_ok=True)
    missing = [path for path in sorted((work / "cells").glob("*.parquet")) if not (out / path.name).is_file()]
    for done, path in enumerate(missing):
        log.info("scoring with %s: chunk %d of %d", settings.encoder, done + 1, len(missing))
        english = pl.read_parquet(work / "english" / path.name)
        cells = pl.read_parquet(path, columns=[ROW_ID, "lang", "text"]).drop_nulls("text")
        sources = np.asarray(model.encode(english[ENGLISH].to_list(), show_progress_bar=False), dtype=np.float32)
        position = dict(zip(english[ROW_ID], range(len(english)), strict=True))
        scored = []
        for part in cells.partition_by("lang", maintain_order=True):
            texts = np.asarray(model.encode(part["text"].to_list(), show_progress_bar=False), dtype=np.float32)
            own = sources[[position[row_id] for row_id in part[ROW_ID]]]
            similarity, margin = margins(own, texts, settings.neighbours)
            scored.append(
                part.select(ROW_ID, "lang").with_columns(
                    pl.Series("similarity", similarity, dtype=pl.Float32), pl.Series("margin", margin, dtype=pl.Float32)
                )
            )
        empty = pl.DataFrame(
            schema={ROW_ID: pl.String, "lang": pl.String, "similarity": pl.Float32, "margin": pl.Float32}
        )
        write_parquet(pl.concat([empty, *scored]), out / path.name)
    return {"encoder": settings.encoder, "fingerprint": encoder_fingerprint(model), "neighbours": settings.neighbours}
