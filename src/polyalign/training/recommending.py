"""What to train when nothing else is asked for: what won our measurements (docs/results.md), by the kind of base."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import polars as pl
from tokenizers import Tokenizer

from polyalign.corpus.columns import ENGLISH
from polyalign.encoder import fast_tokenizer, load_encoder, read_record
from polyalign.training.bases import STATIC, is_static
from polyalign.training.distributed import world_size
from polyalign.training.extension import is_extensible
from polyalign.training.objective import Objective
from polyalign.training.settings import TrainingSettings

if TYPE_CHECKING:
    from polyalign.corpus import Corpus

log = logging.getLogger(__name__)

RECOMMENDED = "recommended"
"""The name that stands for the preset and the settings of `recommended`."""

CRUMBS = 1.35
"""Tokens that a translation has for each of its English, from which on we say that a tokenizer cannot read it. On six
languages all-MiniLM has 1.8."""
_PARTS = ("lexical", "wccn")
_ROWS = 200
_STEPS = 8
"""The fewest steps of an epoch: so small batches as that takes suit a few hundred rows, large ones thousands."""


def recommended(
    corpus: Corpus,
    base: str,
    settings: TrainingSettings,
    *,
    teacher: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[Objective, TrainingSettings]:
    """Return the objective and the settings that suit a base best, as far as we have measured.

    Whatever it is, it ends in WCCN, which helped every arm and base. Beyond that:

    - A sentence encoder: `x-y-distill`, half of the base's weights kept. Plain contrast finds as many translations, and
      forgets similarity and topics.
    - One that cannot read the corpus's languages, as it was made for English: the same in four passes at 2e-4, up to 64
      rows a step; and where its tokenizer can have them, new subwords, and of them a lexical half.
    - A pretrained encoder that makes no sentence embeddings yet: `multi-way`; `multi-way-distill` with a teacher.
    - ``static``: `multi-way-distill` with a teacher, else `multi-way` at a temperature of 0.1 and a rate of 0.05; up to
      256 rows a step.

    Args:
        corpus: the rows to train on.
        base: see `polyalign.training.bases.load_base`.
        settings: those that are set in it stay.
        teacher: of a ``keep`` term, if one is given.
        trust_remote_code: whether code that comes with the base may run.

    Returns:
        A preset, of which the temperature may be another, and the settings.

    Raises:
        UserError: when the base is missing or unreachable.
    """
    kind, objective, suggested = _suited(corpus, base, teacher, trust_remote_code=trust_remote_code)
    suggested = {"wccn": 0.5} | suggested
    ends_in = read_record(base) or {}
    suggested = {name: value for name, value in suggested.items() if name not in _PARTS or not ends_in.get(name)}
    given = settings.model_dump(exclude_unset=True)
    if given.keys() & {"epochs", "steps", "texts"}:
        suggested.pop("epochs", None)
    shown = ", ".join(f"{name} {value}" for name, value in sorted((suggested | given).items()) if value is not None)
    log.info("recommended for %s: %s at temperature %g, %s", kind, objective.preset, objective.temperature, shown)
    return objective, TrainingSettings(**(suggested | given))


def _suited(
    corpus: Corpus, base: str, teacher: str | None, *, trust_remote_code: bool
) -> tuple[str, Objective, dict[str, Any]]:
    """Return what kind of base it is, its objective, and the settings that are not the usual ones."""
    from sentence_transformers.util import is_sentence_transformer_model

    contrast = Objective.named("multi-way-distill" if teacher else "multi-way")
    if base != STATIC and not is_sentence_transformer_model(base):
        return "a pretrained encoder", contrast, {"bf16": "auto"}
    model = None if base == STATIC else load_encoder(base, trust_remote_code=trust_remote_code)
    if model is None or is_static(model):
        batch = {"batch_rows": _batch(256, corpus)}
        if teacher:
            return "a static encoder", contrast, batch
        return "a static encoder", contrast.model_copy(update={"temperature": 0.1}), batch | {"learning_rate": 0.05}
    objective = Objective.named("x-y-distill")
    suggested: dict[str, Any] = {"bf16": "auto", "base_share": 0.5}
    tokenizer = fast_tokenizer(model)
    if tokenizer is None or not tokens_per_english(tokenizer, corpus) >= CRUMBS:
        return "a sentence encoder", objective, suggested
    suggested |= {"epochs": 4, "learning_rate": 2e-4, "batch_rows": _batch(64, corpus)}
    if is_extensible(model):  # crumbs have no meaning of their own that a lexical half could learn
        suggested["extension"] = {}
        if world_size() == 1:
            suggested["lexical"] = {}
        else:  # one process makes it, and WCCN comes after it: `project` adds both later
            suggested["wccn"] = None
    return "a sentence encoder that cuts these languages into crumbs", objective, suggested


def _batch(most: int, corpus: Corpus) -> int:
    """Return the largest power of two up to ``most`` with which an epoch has `_STEPS` steps; at least 2."""
    return min(most, 1 << (max(2, len(corpus) // _STEPS).bit_length() - 1))


def tokens_per_english(tokenizer: Tokenizer, corpus: Corpus) -> float:
    """Return how many tokens a translation has for each token of its English, the mean over languages; NaN for none.

    Args:
        tokenizer: any.
        corpus: rows; of each language the first 200 that have English are looked at.
    """

    def tokens(texts: pl.Series) -> int:
        encodings = tokenizer.encode_batch_fast(texts.to_list(), add_special_tokens=False)
        return sum(len(encoding.ids) for encoding in encodings)

    ratios = []
    for language in corpus.languages:
        if ENGLISH not in corpus.languages or language == ENGLISH:
            continue
        pairs = corpus.rows.select(ENGLISH, language).drop_nulls().head(_ROWS)
        if len(pairs):
            ratios.append(tokens(pairs[language]) / max(tokens(pairs[ENGLISH]), 1))
    return sum(ratios) / len(ratios) if ratios else float("nan")
