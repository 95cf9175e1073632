"""A look at the cells of a built corpus: how many of each verdict, and samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from polyalign.corpus.columns import ENGLISH, ROW_ID


def inspect_cells(folder: Path, *, samples: int = 2) -> list[dict[str, Any]]:
    """Describe the cells of a corpus folder by language and verdict, ready for JSON; nothing where it has none.

    Args:
        folder: a corpus folder.
        samples: cells to show of each, those with the smallest row ids.

    Returns:
        ``language``, ``verdict``, ``cells`` (their number) and ``samples``, each with ``english`` (null where the row
        was dropped) and ``text``; languages in the order of the corpus, their commonest verdicts first.
    """
    files = sorted((folder / "cells").glob("*.parquet"))
    if not files:
        return []
    cells = pl.scan_parquet(files, glob=False).select(ROW_ID, "lang", "text", "verdict")
    english = pl.scan_parquet(sorted((folder / "rows").glob("*.parquet")), glob=False).select(ROW_ID, ENGLISH)
    counts = cells.group_by("lang", "verdict", maintain_order=True).len().collect()
    order = {language: place for place, language in enumerate(counts["lang"].unique(maintain_order=True))}
    found = []
    for language, verdict, count in sorted(counts.rows(), key=lambda row: (order[row[0]], -row[2])):
        chosen = cells.filter(lang=language, verdict=verdict).sort(ROW_ID).head(samples)
        shown = chosen.join(english, on=ROW_ID, how="left", maintain_order="left").select(
            pl.col(ENGLISH).alias("english"), "text"
        )
        found.append({"language": language, "verdict": verdict, "cells": count, "samples": shown.collect().to_dicts()})
    return found
