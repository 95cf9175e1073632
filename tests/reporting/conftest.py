"""Scores folders as evaluation writes them, small enough to check by hand."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from polyalign.metrics import MAIN_METRICS, prepare


@dataclass
class Fake:
    """One subset of a task with its predictions; classification has one experiment here."""

    task: str
    family: str
    subset: str
    languages: Sequence[str]
    exposure: str
    predicted: Sequence[str]
    gold: Sequence[str]
    groups: Sequence[str] | None = None
    similarity: Sequence[float] | None = None
    value: float | None = None  # what the scores claim; computed from the predictions when None
    further: dict[str, float] | None = None  # metrics that are not main

    def rows(self) -> pl.DataFrame:
        n = len(self.gold)
        return pl.DataFrame(
            {
                "task": [self.task] * n,
                "family": [self.family] * n,
                "subset": [self.subset] * n,
                "group": list(self.groups or map(str, range(n))),
                "experiment": [0] * n,
                "gold": list(self.gold),
                "predicted": list(self.predicted),
                "similarity": list(self.similarity) if self.similarity is not None else [None] * n,
            },
            schema_overrides={"similarity": pl.Float64},
        )

    def score(self) -> float:
        return prepare(self.family, self.rows()).score() if self.value is None else self.value


def _hits(language: str, right: str, exposure: str = "seen", *, task: str = "Topics") -> Fake:
    predicted = ["a" if hit == "1" else "b" for hit in right]
    return Fake(task, "classification", language, [language], exposure, predicted, ["a"] * len(right))


def _bitext(subset: str, languages: Sequence[str], right: int, exposure: str = "seen", *, task: str = "Pairs") -> Fake:
    predicted = [str(row if row < right else "none") for row in range(20)]
    return Fake(task, "bitext", subset, languages, exposure, predicted, list(map(str, range(20))))


def _pool(language: str, right: int, same_language: float, *, task: str = "Pool") -> Fake:
    exposure = "english" if language == "en" else "seen"
    gold = [f"{row}@0" for row in range(20)]
    predicted = [f"{row if row < right else 'none'}@{language}" for row in range(20)]
    further = {"same_language": same_language}
    return Fake(task, "retrieval", language, [language], exposure, predicted, gold, further=further)


def _sts(
    language: str, gold: Sequence[float], similarity: Sequence[float], groups: Sequence[str] | None = None
) -> Fake:
    empty = [""] * len(gold)
    return Fake("Sts", "sts", language, [language], "seen", empty, list(map(str, gold)), groups, similarity)


@pytest.fixture(scope="session")
def hits() -> Callable[..., Fake]:
    """Return a maker of classification subsets: one character an item, "1" where the prediction is right.

    The accuracy is the share of ones, and every item stands in every language under the same group.
    """
    return _hits


@pytest.fixture(scope="session")
def bitext() -> Callable[..., Fake]:
    """Return a maker of bitext subsets of 20 items, the first ``right`` of them found."""
    return _bitext


@pytest.fixture(scope="session")
def pool() -> Callable[..., Fake]:
    """Return a maker of mixed-pool subsets of 20 items, the first ``right`` of them found, and their language bias."""
    return _pool


@pytest.fixture
def sts() -> Callable[..., Fake]:
    """Return a maker of STS subsets from gold scores and similarities."""
    return _sts


def _write_scores(
    folder: Path,
    arm: str,
    seed: int,
    subsets: Sequence[Fake],
    *,
    budgets: Sequence[str] = (),
    encoder: dict | None = None,
    **manifest: object,
) -> Path:
    """Write a scores folder in the format of the contract."""
    folder.mkdir()
    pl.DataFrame(
        [
            {
                "arm": arm,
                "seed": seed,
                "task": one.task,
                "family": one.family,
                "subset": one.subset,
                "languages": list(one.languages),
                "exposure": one.exposure,
                "split": "test",
                "script": "Latn",
                "metric": metric,
                "value": value,
                "n": len(one.gold),
                "main": metric == MAIN_METRICS[one.family],
            }
            for one in subsets
            for metric, value in {MAIN_METRICS[one.family]: one.score(), **(one.further or {"another": 0.123})}.items()
        ]
    ).write_parquet(folder / "scores.parquet")
    pl.concat([one.rows() for one in subsets]).write_parquet(folder / "predictions.parquet")
    content = {
        "format": 1,
        "kind": "scores",
        "arm": arm,
        "seed": seed,
        "budgets": list(budgets),
        "model": f"encoders/{arm}-{seed}",
        "encoder_fingerprint": f"{arm}-{seed}-fingerprint",
        "encoder": None if arm == "base" else (encoder or {"languages": ["en", "de"]}),
        "tasks": sorted({one.task for one in subsets}),
        "languages": sorted({tag for one in subsets for tag in one.languages}),
        "missing": {},
        "data_source": "local",
        "split": "test",
        "cost": {"seconds": 12.5, "texts_encoded": 900, "texts_asked": 1000},
        "versions": {"mteb": "2.26.24"},
    } | manifest
    (folder / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a writer of scores folders, each in a temporary folder of its own."""

    def write(arm: str, seed: int, subsets: Sequence[Fake], **rest: object) -> Path:
        return _write_scores(tmp_path_factory.mktemp("scores") / "scores", arm, seed, subsets, **rest)

    return write
