"""How names and numbers are written in tables, figures and sentences."""

from __future__ import annotations

import unicodedata

from polyalign import languages
from polyalign.reporting.significance import Difference
from polyalign.storage import fingerprint

_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
_LONGEST = 100  # characters of a name
_EXPOSURES = {
    "seen": "seen languages",
    "unseen": "unseen languages",
    "mixed": "languages seen by some arms only",
    "english": "English",
}
_PAIRED = ("bitext X-X", "STS cross-lingual")
_PAIR_EXPOSURES = {
    "seen": "pairs of seen languages",
    "unseen": "pairs with an unseen language",
    "mixed": "pairs seen by some arms only",
}


def printable(text: str) -> str:
    """Return ``text`` with control and direction-changing characters shown as escapes, so that it cannot hide them.

    A text too long for a table is cut and ends in a hash, so that two of them stay apart.
    """
    shown = "".join(f"\\u{ord(char):04x}" if unicodedata.category(char) in _HIDDEN else char for char in text)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 10]}…{fingerprint(shown)[:8]}"


def language_label(tag: str) -> str:
    """Return "German (de)"."""
    return f"{languages.name(tag)} ({tag})" if languages.is_known(tag) else printable(tag)


def exposure_label(family: str, exposure: str) -> str:
    """Return "seen languages", or "pairs of seen languages" where subsets pair other languages than English."""
    return (_PAIR_EXPOSURES if family in _PAIRED else _EXPOSURES)[exposure]


def points(value: float) -> str:
    """Return a score in [-1, 1] in points, with one decimal."""
    return _unsigned_zero(f"{100 * value:.1f}")


def signed(value: float) -> str:
    """Return a number of points or percent with its sign and one decimal; what rounds to zero has no sign."""
    return _unsigned_zero(f"{value:+.1f}")


def interval(change: Difference) -> str:
    """Return "+5.2 [3.1, 7.4]", in points."""
    return f"{signed(100 * change.value)} [{points(change.low)}, {points(change.high)}]"


def _unsigned_zero(text: str) -> str:
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")
