"""The verb `project`: linear maps, fitted on a corpus, at the end of an encoder that stays as it is otherwise."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polyalign.corpus import Corpus
from polyalign.encoder import RECORD, encoder_fingerprint, load_encoder, read_record
from polyalign.errors import UserError
from polyalign.storage import keep_existing, versions
from polyalign.training.language_bias import project_out, texts_by_language
from polyalign.training.publishing import publish
from polyalign.training.settings import ProjectionSettings
from polyalign.training.wccn import normalize_within_rows

log = logging.getLogger(__name__)


def project(
    encoder: str | Path,
    corpus: Corpus | str | Path | Mapping[str, Sequence[str]],
    out: str | Path,
    projection: ProjectionSettings,
    *,
    arm: str | None = None,
    trust_remote_code: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Write a copy of an encoder that ends in linear maps: LSAR, WCCN, or one after the other. Nothing is trained.

    Args:
        encoder: a folder or Hub id; a trained one keeps its record, extended by ``lsar`` and ``wccn``.
        corpus: a `Corpus` or anything `Corpus.open` takes; for LSAR alone also the texts of each language.
        out: the folder to write; a complete encoder there is left alone.
        projection: which maps.
        arm: the name under which `compare` shows it; None for that of the encoder, else its folder, with ``+wccn``.
        trust_remote_code: whether code that comes with the encoder may run.
        force: replace a complete encoder at ``out``.

    Returns:
        The record, as in ``polyalign.json``. The languages of parallel rows count as seen, those of texts alone do not.

    Raises:
        UserError: when a map cannot be fitted, or is there already, or the encoder cannot be had.
    """
    out = Path(out)
    if keep_existing(out, force=force, manifest=RECORD):
        log.info("%s is complete and left alone", out)
        return read_record(out) or {}
    rows = None
    if not isinstance(corpus, Mapping):
        rows = corpus if isinstance(corpus, Corpus) else Corpus.open(corpus)
        corpus = texts_by_language(rows)
    if projection.wccn is not None and rows is None:
        raise UserError("wccn needs parallel rows, and got texts by language; give a corpus")
    known = read_record(encoder) or {"format": 1, "kind": "encoder", "base": str(encoder), "languages": []}
    if twice := [name for name in ("lsar", "wccn") if getattr(projection, name) is not None and known.get(name)]:
        raise UserError(f"{encoder} ends in {' and '.join(twice)} already; give the encoder that it was made from")
    model = load_encoder(encoder, trust_remote_code=trust_remote_code)
    record = {
        **known,
        "arm": arm or f"{known.get('arm', Path(encoder).resolve().name)}{projection.suffix}",
        "projected_from": encoder_fingerprint(model),
    }
    if projection.lsar is not None:
        record["lsar"] = project_out(model, corpus, projection.lsar)
    if projection.wccn is not None:
        assert rows is not None
        record["wccn"] = normalize_within_rows(model, rows, projection.wccn)
        record["languages"] = sorted({*known["languages"], *(tag for tag, count in rows.counts().items() if count)})
    record |= {"versions": versions(), "fingerprint": encoder_fingerprint(model)}
    publish(model, record, out)
    return record
