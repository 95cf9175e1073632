"""What else may suit a user's rows and budget, as far as our own measurements go (docs/results.md)."""

from __future__ import annotations

from typing import Any

from polyalign.training.bases import STATIC

CROSSING = 2.1
"""Times that all texts of the corpus are encoded, up to which `multi-way` finds more translations with English than
`en-x` does at as many encoded texts: the recipe ``curves``, from scratch, seven languages. With WCCN at the end of both
they are level after five, and `multi-way` is ahead between other languages and in STS: the recipe ``study``."""
ROWS_FOR_TEACHER = 4000
"""Rows from which on a teacher for English helps in everything that was seen: the same recipe."""


def advice(record: dict[str, Any]) -> list[str]:
    """Return what is worth trying beside a training, each a sentence; nothing where we have measured nothing.

    Args:
        record: of `polyalign.training.trainer.train`.
    """
    corpus, objective = record["corpus"], record["objective_name"]
    languages = sum(count > 0 for count in corpus["texts"].values())
    said = []
    if record["base"] == STATIC and objective in ("multi-way", "en-x"):
        passes = record["cost"]["texts_encoded"] / sum(corpus["texts"].values())
        if objective == "multi-way" and passes > CROSSING and languages > 2 and not record.get("wccn"):
            said.append(
                f"--objective en-x --texts {record['cost']['texts_encoded']}: over {passes:.1f} passes it finds more "
                "translations with English, though fewer between other languages, and STS is lower"
            )
        if objective == "en-x" and passes < CROSSING and languages > 2:
            said.append(
                f"--objective multi-way --texts {record['cost']['texts_encoded']}: within {CROSSING:g} passes over all "
                "texts it finds more translations"
            )
        if corpus["rows"] >= ROWS_FOR_TEACHER:
            said.append("--objective multi-way-distill with an English sentence encoder as --teacher: ahead of both")
    if record["base"] != STATIC and not (record.get("lexical") or record.get("wccn")):
        said.append("`polyalign project` with --lexical 0.8 --wccn 0.5: many more translations, in minutes")
    elif not record.get("wccn"):
        said.append("`polyalign project` with --wccn 0.5: more translations, in seconds")
    return said
