"""Verdicts on translated cells, from what `polyalign.corpus.measuring` saw of them.

A cell gets `OK` or the first of `REASONS` that applies. The order puts causes before symptoms: garbled Russian has no
Cyrillic letters, and a loop is too long.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import polars as pl
from pydantic import Field

from polyalign.corpus.checking import CONTROL, EMPTY, INVALID
from polyalign.settings import Settings

Reason = Literal[
    "truncated",
    "mojibake",
    "repetition",
    "copy of the source",
    "wrong script",
    "wrong language",
    "length ratio",
    "URLs lost",
    "placeholders lost",
    "numbers lost",
]
TRUNCATED, MOJIBAKE, REPETITION, COPY, SCRIPT, LANGUAGE, LENGTH, URLS, PLACEHOLDERS, NUMBERS = get_args(Reason)
OK = "ok"
ENGINE_ERROR = "engine error"
REASONS = (ENGINE_ERROR, EMPTY, INVALID, TRUNCATED, MOJIBAKE, CONTROL, *get_args(Reason)[2:])
"""All reasons, in the order in which they are looked for."""

_WIDE = 0.5
_NARROW = 0.05


class VerdictSettings(Settings):
    """Thresholds of the verdicts on translated cells.

    Attributes:
        ignored: reasons that are not looked for; errors, empty texts, control characters and invalid UTF-8 always are.
        copied: share of the English's words, 0 to 1, from which on a text that has them is a copy.
        copied_words: the fewest words to be translated, in the English, of which a copy can be told.
        own_script: the least share of letters, 0 to 1, in the language's script.
        language_probability: the least probability, 0 to 1, with which another language is identified.
        language_odds: how many times as probable as the right language the other one must be.
        language_characters: the shortest English, in characters, whose translation is judged by its language.
        length_deviations: how many standard deviations the logarithm of the length ratio may lie off its centre.
        length_slack: how much shorter texts vary more: the variance grows by this over the English's characters.
        repetitions: how often a phrase must come at once again, beyond what it does in the English.
        numbers_lost: how many numbers a text may lack.
    """

    ignored: tuple[Reason, ...] = ()
    copied: float = Field(0.8, gt=0, le=1)
    copied_words: int = Field(3, ge=1)
    own_script: float = Field(0.5, ge=0, le=1)
    language_probability: float = Field(0.2, ge=0, le=1)
    language_odds: float = Field(6.0, ge=1)
    language_characters: int = Field(20, ge=0)
    length_deviations: float = Field(3.0, gt=0)
    length_slack: float = Field(0.5, ge=0)
    repetitions: int = Field(2, ge=1)
    numbers_lost: int = Field(0, ge=0)


class LengthRange(Settings):
    """What is usual of the logarithm of the length ratio in one language.

    Attributes:
        centre: the median.
        spread: standard deviation, estimated from the median absolute deviation.
    """

    centre: float
    spread: float = Field(gt=0)


def length_range(ratios: pl.Series) -> LengthRange:
    """Return the usual range of the length ratio, from the ``length_ratio`` of a sample of one language's cells.

    Outliers up to half of the sample do no harm. Below 100 cells the spread is drawn to a wide 0.5, and without any the
    centre is 0: equal lengths.
    """
    logarithms = ratios.drop_nulls().cast(pl.Float64).log()
    if logarithms.is_empty():
        return LengthRange(centre=0.0, spread=_WIDE)
    centre = float(np.median(logarithms))
    known = min(1.0, len(logarithms) / 100)
    spread = known * 1.4826 * float(np.median(abs(logarithms - centre))) + (1 - known) * _WIDE
    return LengthRange(centre=centre, spread=max(_NARROW, spread))


def judge(cells: pl.DataFrame, settings: VerdictSettings, range_: LengthRange) -> pl.Series:
    """Give each cell its verdict: `OK` or the first of `REASONS` that applies.

    Args:
        cells: ``text`` (null or empty where there is none), ``truncated`` (boolean), ``error`` (null where there is
            none) and the columns of `polyalign.corpus.measuring.FEATURES`.
        settings: the thresholds.
        range_: the usual length ratio of the language.

    Returns:
        A string a cell; it depends on nothing but the row, ``settings`` and ``range_``.
    """
    odds = pl.col("identified_probability") / pl.col("expected_probability")
    deviation = (pl.col("length_ratio").log() - range_.centre).abs()
    tolerated = (range_.spread**2 + settings.length_slack / pl.col("english_characters")).sqrt()
    tests = {
        ENGINE_ERROR: pl.col("error").is_not_null(),
        EMPTY: pl.col("text").fill_null("").str.strip_chars() == "",
        INVALID: pl.col("invalid_utf8"),
        TRUNCATED: pl.col("truncated"),
        MOJIBAKE: pl.col("mojibake"),
        CONTROL: pl.col("control_characters"),
        REPETITION: pl.col("repetitions") >= settings.repetitions,
        COPY: (pl.col("copied") >= settings.copied) & (pl.col("english_words") >= settings.copied_words),
        SCRIPT: pl.col("own_script") < settings.own_script,
        LANGUAGE: pl.col("identified").is_not_null()
        & (pl.col("identified_probability") >= settings.language_probability)
        & (odds >= settings.language_odds)
        & (pl.col("english_characters") >= settings.language_characters),
        LENGTH: deviation > settings.length_deviations * tolerated,
        URLS: pl.col("urls_lost") > 0,
        PLACEHOLDERS: pl.col("placeholders_lost") > 0,
        NUMBERS: pl.col("numbers_lost") > settings.numbers_lost,
    }
    looked_for = [reason for reason in REASONS if reason not in settings.ignored]
    # A null says that there is nothing to judge by.
    verdicts = [pl.when(tests[reason].fill_null(False)).then(pl.lit(reason)) for reason in looked_for]
    return cells.select(pl.coalesce(*verdicts, pl.lit(OK)).alias("verdict")).to_series()
