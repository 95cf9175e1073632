"""Reading the scores folders that `evaluate` writes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from polyalign.errors import UserError
from polyalign.reporting.labels import printable
from polyalign.storage import MANIFEST, fingerprint_files, read_manifest

_FORMAT = 1
_FILES = ("scores.parquet", "predictions.parquet")


@dataclass(frozen=True)
class Scores:
    """One evaluated model, as it lies on disk.

    Attributes:
        path: Its folder.
        manifest: Its manifest.
        main: ``(task, subset) -> row`` of scores.parquet, for each task's main metric.
        others: ``(task, subset) -> metric -> value``, for the metrics that are not main.
        predictions: ``(task, subset) -> rows of predictions.parquet``, in the order of the test items.
        examples: What was nearest to a few texts, as `evaluate` writes it; empty where no task shows any.
        fingerprint: Hash of the folder's tables and manifest.
    """

    path: Path
    manifest: dict[str, Any]
    main: dict[tuple[str, str], dict[str, Any]]
    others: dict[tuple[str, str], dict[str, float]]
    predictions: dict[tuple[str, str], pl.DataFrame]
    examples: tuple[dict[str, Any], ...]
    fingerprint: str

    @classmethod
    def read(cls, folder: str | Path) -> Scores:
        """Read a scores folder.

        Raises:
            UserError: when it is not a complete scores folder of a format known here.
        """
        path = Path(folder)
        manifest = read_manifest(path)
        if manifest is None or manifest.get("kind") != "scores" or not all((path / name).is_file() for name in _FILES):
            raise UserError(
                f"{path} is not a complete scores folder; make it with: polyalign evaluate ... --out {path}"
            )
        if manifest.get("format") != _FORMAT:
            raise UserError(
                f"{path} has scores of format {manifest.get('format')}, this version reads {_FORMAT}; evaluate again"
            )
        rows = pl.read_parquet(path / "scores.parquet")
        others: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
        for task, subset, metric, value in (
            rows.filter(~pl.col("main")).select("task", "subset", "metric", "value").iter_rows()
        ):
            others[task, subset][metric] = value
        predictions = pl.read_parquet(path / "predictions.parquet")
        examples = path / "examples.parquet"
        return cls(
            path=path,
            manifest=manifest,
            main={(row["task"], row["subset"]): row for row in rows.filter("main").iter_rows(named=True)},
            others=dict(others),
            predictions={
                (str(task), str(subset)): rows
                for (task, subset), rows in predictions.partition_by(
                    ["task", "subset"], as_dict=True, maintain_order=True
                ).items()
            },
            examples=tuple(pl.read_parquet(examples).iter_rows(named=True)) if examples.is_file() else (),
            fingerprint=fingerprint_files([path / name for name in (MANIFEST, *_FILES)], path),
        )

    @property
    def arm(self) -> str:
        """Name of the training recipe, safe to print."""
        return printable(str(self.manifest["arm"]))

    @property
    def seed(self) -> int:
        """Training seed; 0 for a model without one."""
        return int(self.manifest["seed"] or 0)

    @property
    def encoder(self) -> dict[str, Any] | None:
        """The encoder's own record, or None for a model that was not trained here."""
        return self.manifest["encoder"]  # type: ignore[no-any-return]

    @property
    def label(self) -> str:
        """Arm and, for a trained one, its seed."""
        return f"{self.arm} (seed {self.seed})" if self.encoder else self.arm
