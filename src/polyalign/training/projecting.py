"""The verb `project`: what is fitted on a corpus and put at the end of an encoder, which stays as it is otherwise."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyalign.corpus import Corpus
from polyalign.encoder import RECORD, encoder_fingerprint, load_encoder, read_record
from polyalign.errors import UserError
from polyalign.storage import keep_existing, versions
from polyalign.training.language_bias import project_out, texts_by_language
from polyalign.training.lexical import add_lexical
from polyalign.training.publishing import publish
from polyalign.training.settings import ProjectionSettings, TrainingSettings
from polyalign.training.wccn import normalize_within_rows

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

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
    """Write a copy of an encoder that ends in a lexical half, LSAR, WCCN, or several of them. Its own weights stay.

    Args:
        encoder: a folder or Hub id; a trained one keeps its record, extended by ``lexical``, ``lsar`` and ``wccn``.
        corpus: a `Corpus` or anything `Corpus.open` takes; for LSAR alone also the texts of each language.
        out: the folder to write; a complete encoder there is left alone.
        projection: which of them.
        arm: the name under which `compare` shows it; None for that of the encoder, else its folder, with what is
            added, as ``+lexical+wccn``.
        trust_remote_code: whether code that comes with the encoder may run.
        force: replace a complete encoder at ``out``.

    Returns:
        The record, as in ``polyalign.json``. The languages of parallel rows count as seen, those of texts alone do not.

    Raises:
        UserError: when one of them cannot be made, or is there already, or the encoder cannot be had.
    """
    out = Path(out)
    if keep_existing(out, force=force, manifest=RECORD):
        log.info("%s is complete and left alone", out)
        return read_record(out) or {}
    if not isinstance(corpus, Mapping | Corpus):
        corpus = Corpus.open(corpus)
    if isinstance(corpus, Mapping) and (needing := [part for part in projection.parts if part != "lsar"]):
        raise UserError(f"{' and '.join(needing)} needs parallel rows, and got texts by language; give a corpus")
    known = read_record(encoder) or {"format": 1, "kind": "encoder", "base": str(encoder), "languages": []}
    if twice := [name for name in projection.parts if known.get(name)]:
        raise UserError(f"{encoder} ends in {' and '.join(twice)} already; give the encoder that it was made from")
    model = load_encoder(encoder, trust_remote_code=trust_remote_code)
    record = {
        **known,
        "arm": arm or f"{known.get('arm', Path(encoder).resolve().name)}{projection.suffix}",
        "projected_from": encoder_fingerprint(model),
    }
    made = add_parts(model, corpus, projection, seed=known.get("seed", 0), trust_remote_code=trust_remote_code)
    record |= {part: made[part] for part in projection.parts}
    if isinstance(corpus, Corpus) and projection.parts != ["lsar"]:
        record["languages"] = sorted({*known["languages"], *(tag for tag, count in corpus.counts().items() if count)})
    record |= {"versions": versions(), "fingerprint": encoder_fingerprint(model)}
    publish(model, record, out)
    return record


def add_parts(
    model: SentenceTransformer,
    corpus: Corpus | Mapping[str, Sequence[str]],
    wanted: ProjectionSettings | TrainingSettings,
    *,
    seed: int,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Put a lexical half, LSAR and WCCN at the end of an encoder in place, each if it is asked for.

    Args:
        model: the encoder.
        corpus: the rows; for LSAR alone also the texts of each language.
        wanted: which of them.
        seed: of the lexical half.
        trust_remote_code: whether code that comes with a teacher may run.

    Returns:
        What a record keeps of each, or None.
    """
    made: dict[str, Any] = {"lexical": None, "lsar": None, "wccn": None}
    if wanted.lexical is not None:
        assert isinstance(corpus, Corpus)
        made["lexical"] = add_lexical(model, corpus, wanted.lexical, seed=seed, trust_remote_code=trust_remote_code)
    if wanted.lsar is not None:
        texts = texts_by_language(corpus) if isinstance(corpus, Corpus) else corpus
        made["lsar"] = project_out(model, texts, wanted.lsar)
    if wanted.wccn is not None:
        assert isinstance(corpus, Corpus)
        made["wccn"] = normalize_within_rows(model, corpus, wanted.wccn)
    return made
