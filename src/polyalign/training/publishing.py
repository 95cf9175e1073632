"""An encoder folder: what sentence-transformers writes, a model card and the record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyalign.encoder import RECORD
from polyalign.storage import new_folder, write_json, write_text
from polyalign.training.card import model_card

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def publish(model: SentenceTransformer, record: dict[str, Any], out: Path) -> None:
    """Write an encoder as a folder that appears whole or not at all, its record last; it replaces one at ``out``."""
    with new_folder(out, RECORD) as folder:
        model.save(str(folder), create_model_card=False)
        write_text(folder / "README.md", model_card(record))
        write_json(folder / RECORD, record)
