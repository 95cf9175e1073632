"""What is seen of translated cells, measured once: `polyalign.corpus.verdicts` judges by it, again and again."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from polyalign.corpus.checking import CONTROL_PATTERN, INVALID_PATTERN
from polyalign.identification import identify
from polyalign.languages import script

FEATURES: dict[str, type[pl.DataType]] = {
    "english_characters": pl.UInt32,
    "length_ratio": pl.Float32,
    "english_words": pl.UInt32,
    "copied": pl.Float32,
    "own_script": pl.Float32,
    "identified": pl.String,
    "identified_probability": pl.Float32,
    "expected_probability": pl.Float32,
    "repetitions": pl.Int32,
    "numbers_lost": pl.UInt32,
    "urls_lost": pl.UInt32,
    "placeholders_lost": pl.UInt32,
    "mojibake": pl.Boolean,
    "control_characters": pl.Boolean,
    "invalid_utf8": pl.Boolean,
}
"""The columns that `measure` gives.

- ``english_characters``; ``length_ratio``: the text's characters over those of the English, null where either has none.
- ``english_words``: distinct words of the English, in small letters and outside of markup, which are what there is to
  translate; ``copied``: the share of them that stand in the text, null where there are none.
- ``own_script``: the share of the text's letters in a script of its language, null without letters; words of the
  English and markup do not count.
- ``identified``, ``identified_probability``, ``expected_probability``: ``language``, ``probability`` and
  ``expected_probability`` of `polyalign.identification.identify`.
- ``repetitions``: how often more than in the English a phrase of at most 20 words (in scripts without spaces:
  characters) comes at once again: 2 for "no no no" where the English repeats nothing.
- ``numbers_lost``, ``urls_lost``, ``placeholders_lost``: how many of the English the text lacks.
- ``mojibake``: UTF-8 read as Windows-1252 or Latin-1. ``control_characters`` and ``invalid_utf8``: as for `import`.

Words and letters are those of the first 20,000 characters.
"""

_CHARACTERS_AT_ONCE = 2_000_000  # bounds the memory: about 100 bytes a character
_CHARACTERS_OF_WORDS = 20_000
_LONGEST_PHRASE = 20
_HAN_WITHOUT_KANA = 12  # a longer Japanese text has kana

# What could start at every character of a long text has a limit: time grows with the text alone.
_URL = r"https?://[^\s<>\"`]+|www\.[^\s<>\"`]+|[A-Za-z0-9_.+-]{1,64}@[A-Za-z0-9-]+\.[A-Za-z0-9.-]+"
_ROLE = r":[a-z][a-z:+-]{0,40}:"
_PLACEHOLDER = (
    r"\{[A-Za-z0-9_.!:-]*\}|%\([A-Za-z0-9_]+\)[#0+-]?[0-9.]*[a-zA-Z]|%(?:[0-9]+\$)?[#0+-]?[0-9.]*[sdifgxr]"
    r"|\$\{[^}\s]{1,80}\}|\$[A-Z_]{3,}|</?[A-Za-z][^<>]*>"
    f"|{_ROLE}`"
)
_MARKUP = "|".join([_URL, f"{_ROLE}`[^`]*`", "``[^`]*``", "`[^`]*`", _PLACEHOLDER])

# How Windows-1252 and Latin-1 show bytes from 0x80; below 0xc0 they continue a character of UTF-8.
_UNDEFINED = (0x81, 0x8D, 0x8F, 0x90, 0x9D)
_BYTES = {chr(byte): byte for byte in range(0x80, 0x100)}
_BYTES |= {bytes([byte]).decode("cp1252"): byte for byte in range(0x80, 0xA0) if byte not in _UNDEFINED}
_CONTINUATION = "".join(character for character, byte in _BYTES.items() if byte < 0xC0)
_SEQUENCE = f"[Â-Þ][{_CONTINUATION}]|[à-ï][{_CONTINUATION}]{{2}}|[ð-ô][{_CONTINUATION}]{{3}}"
# Of those, what follows a capital letter in good text too: "É…", "CAFÉ®", "Úžas"; after the small, "kéž…".
_QUOTES = frozenset("“”‘’‚„‹›«»…–—\u00a0")
_SIGNS = frozenset("™®©°ºª·•†‡¹²³´¨¸")
_LETTERS = frozenset("šžŠŽœŒŸƒ")


def measure(english: pl.Series, texts: pl.Series, language: str) -> pl.DataFrame:
    """Measure translated cells.

    Args:
        english: n texts without nulls.
        texts: their translations; null or empty where there is none.
        language: canonical tag of the language of ``texts``.

    Returns:
        n rows with the columns of `FEATURES`; a row depends on its two texts and the language alone.

    Raises:
        UserError: when the language identifier is not installed.
    """
    cells = pl.DataFrame([english.alias("english"), texts.fill_null("").alias("text")])
    part = pl.sum_horizontal(pl.all().str.len_chars()).cum_sum() // _CHARACTERS_AT_ONCE
    some = cells.with_columns(part=part).partition_by("part", maintain_order=True, include_key=False)
    parts = [_measure_some(cells, language) for cells in some]
    return pl.concat(parts) if parts else pl.DataFrame(schema=FEATURES)


def _measure_some(cells: pl.DataFrame, language: str) -> pl.DataFrame:
    english, text = cells
    bare = cells.select(pl.all().str.replace_all(_MARKUP, " ").str.strip_chars())
    characters = bare.select(pl.all().str.len_chars())
    written = script(language)
    source, target = (_words(column.str.slice(0, _CHARACTERS_OF_WORDS), written) for column in bare)
    to_translate, copied = _copied(source, target)
    identified = identify(bare["text"], language)
    columns: dict[str, Any] = {
        "english_characters": characters["english"],
        "length_ratio": _ratio(characters["text"], characters["english"]).replace(0.0, None),
        "english_words": to_translate,
        "copied": copied,
        "own_script": _own_script(source, target, written),
        "identified": identified["language"],
        "identified_probability": identified["probability"],
        "expected_probability": identified["expected_probability"],
        "repetitions": _repetitions(target) - _repetitions(source),
        "numbers_lost": _where(r"[0-9][.,]?[0-9]", _numbers_lost, bare["english"], bare["text"]),
        "urls_lost": _where(_URL, _urls_lost, english, text),
        "placeholders_lost": _where(_PLACEHOLDER, _placeholders_lost, english, text),
        "mojibake": _where(_SEQUENCE, _is_mojibake, text) > 0,
        "control_characters": text.str.contains(CONTROL_PATTERN),
        "invalid_utf8": text.str.contains(INVALID_PATTERN),
    }
    return pl.DataFrame(columns, FEATURES)


def _ratio(part: Any, whole: Any) -> pl.Series:
    """Return part / whole, null where the whole is 0."""
    both = pl.DataFrame({"part": part, "whole": whole})
    return both.select(pl.when(pl.col("whole") > 0).then(pl.col("part") / pl.col("whole"))).to_series()


def _where(pattern: str, value: Callable[..., int], texts: pl.Series, *others: pl.Series) -> NDArray[np.int64]:
    """Return ``value(text, ...)`` for the few texts that have the pattern, 0 for the others."""
    hits = texts.str.contains(pattern)
    rows = zip(*(column.filter(hits) for column in (texts, *others)), strict=True)
    values = np.zeros(len(texts), np.int64)
    values[hits.to_numpy()] = [value(*row) for row in rows]
    return values


@dataclass(frozen=True)
class _Words:
    """The words of n texts: runs of letters, marks and digits; in scripts without spaces each character is one.

    Attributes:
        texts: n.
        text: [words], the number of the text, ascending.
        key: [words], a hash, equal for equal words of the same text, whatever their case.
        small: [words], whether the word is of two or more letters, all of them small.
        letters: [words], letters, but for those that every script uses.
        own: [words], those of them in a script of the language.
        forms: [3, n], a text's characters that only simplified Chinese has, only traditional Chinese, and kana.
    """

    texts: int
    text: NDArray[np.int64]
    key: NDArray[np.uint64]
    small: NDArray[np.bool_]
    letters: NDArray[np.int64]
    own: NDArray[np.int64]
    forms: NDArray[np.int64]


_SPACELESS = r"\p{scx=Hani}\p{scx=Hira}\p{scx=Kana}\p{Thai}\p{Laoo}\p{Khmr}\p{Mymr}\p{Tibt}"
_SCRIPTS = {
    "Hans": r"\p{Hani}",
    "Hant": r"\p{Hani}",
    "Jpan": r"\p{Hani}\p{Hira}\p{Kana}",
    "Hang": r"\p{Hang}\p{Hani}",
    "Kore": r"\p{Hang}\p{Hani}",
}
_WORD, _ALONE, _SMALL, _LETTER, _OWN, _SIMPLIFIED, _TRADITIONAL, _KANA = (1 << bit for bit in range(8))
_CODE_POINTS = 0x40000  # beyond there are only tags and private use


def _words(texts: pl.Series, written: str) -> _Words:
    """Find the words; ``written`` is the ISO 15924 code of the language's script."""
    # A line feed ends each text and with it its last word.
    points = np.frombuffer((texts.str.join("\n").item() + "\n").encode("utf-32-le"), np.uint32)
    points = np.minimum(points, _CODE_POINTS - 1)
    text = np.repeat(np.arange(len(texts)), texts.str.len_chars() + 1)
    kind = _kinds(written)[points]
    forms = np.zeros((3, len(texts)), np.int64)
    if written in ("Hans", "Hant", "Jpan"):
        bits = (_SIMPLIFIED, _TRADITIONAL, _KANA)
        forms[:] = [np.bincount(text[(kind & bit) > 0], minlength=len(texts)) for bit in bits]
    inside = np.flatnonzero(kind & _WORD)
    text, kind, points = text[inside], kind[inside], points[inside]
    follows = (np.diff(inside, prepend=-2) == 1) & (kind & _ALONE == 0)
    follows[1:] &= kind[:-1] & _ALONE == 0
    begins = np.flatnonzero(~follows)
    sizes = np.diff(begins, append=len(inside))
    place = np.arange(len(inside)) - np.repeat(begins, sizes)
    hashes, by_place = _hashes()

    def count(bit: int) -> NDArray[np.int64]:
        return np.add.reduceat((kind & bit) > 0, begins, dtype=np.int64)

    words = np.add.reduceat(hashes[points] * by_place[place % 64], begins)
    text = text[begins]
    return _Words(
        texts=len(texts),
        text=text,
        key=words + text.astype(np.uint64) * by_place[0],
        small=(count(_SMALL) == sizes) & (sizes > 1),
        letters=count(_LETTER),
        own=count(_OWN),
        forms=forms,
    )


@cache
def _kinds(written: str) -> NDArray[np.uint8]:
    """Return what each code point is, as bits."""
    characters = pl.Series(["" if 0xD800 <= point < 0xE000 else chr(point) for point in range(_CODE_POINTS)])
    own = _SCRIPTS.get(written, rf"\p{{{written}}}")
    letter = r"[\p{L}--[\p{Common}\p{Inherited}]]"
    try:
        characters.str.contains(f"[{own}]")
    except pl.exceptions.ComputeError:  # a style of a script, such as Aran, that Unicode does not keep apart
        own = letter
    classes = {
        _WORD: r"[\p{L}\p{M}\p{N}_]",
        _ALONE: rf"[\p{{L}}\p{{M}}&&[{_SPACELESS}]]",
        _SMALL: r"\p{Ll}",
        _LETTER: letter,
        _OWN: rf"[{letter}&&[{own}]]",
        _KANA: r"[\p{Hira}\p{Kana}]",
    }
    kinds = np.zeros(_CODE_POINTS, np.uint8)
    for bit, pattern in classes.items():
        kinds[characters.str.contains(pattern).to_numpy()] |= bit
    if written in ("Hans", "Hant"):
        ideographs = slice(0x4E00, 0xA000)
        simplified, traditional = (
            np.array([bool(character.encode(code, "ignore")) for character in characters[ideographs]])
            for code in ("gb2312", "big5")
        )
        kinds[ideographs][simplified & ~traditional] |= _SIMPLIFIED
        kinds[ideographs][traditional & ~simplified] |= _TRADITIONAL
    return kinds


@cache
def _hashes() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return random odd numbers: one for each code point, small and capital letters alike, and 64 for its place."""
    odd = np.random.default_rng(0).integers(1 << 64, size=_CODE_POINTS + 64, dtype=np.uint64) | np.uint64(1)
    folded = [ord(chr(point).lower()[0]) for point in range(_CODE_POINTS)]
    return odd[folded], odd[_CODE_POINTS:]


def _copied(source: _Words, target: _Words) -> tuple[NDArray[np.int64], pl.Series]:
    """Return, [n] each, how many distinct words in small letters a text of ``source`` has, and the share in ``target``.

    The share is of whichever of the two has more of them: related languages have words in common.
    """
    key, text = _distinct(source)
    found = np.bincount(text[_among(key, target.key)], minlength=source.texts)
    words = np.bincount(text, minlength=source.texts)
    most = np.maximum(words, np.bincount(_distinct(target)[1], minlength=target.texts))
    return words, _ratio(found, np.where(words > 0, most, 0))


def _distinct(words: _Words) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return key and text of the distinct words in small letters."""
    key, text = words.key[words.small], words.text[words.small]
    first = pl.Series(key).is_first_distinct().to_numpy()
    return key[first], text[first]


def _among(keys: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return which of the keys are among the others."""
    return pl.Series(keys).is_in(pl.Series(others).implode()).to_numpy()


def _own_script(source: _Words, target: _Words, written: str) -> pl.Series:
    """Return the share of letters in the right script, null without letters; words of the source do not count."""
    # Only words in another script can be words kept from the English that matter.
    foreign = np.flatnonzero(target.own < target.letters)
    kept = foreign[_among(target.key[foreign], source.key)]
    letters, own = target.letters.copy(), target.own.copy()
    letters[kept] = own[kept] = 0
    letters = np.bincount(target.text, letters, target.texts)
    own = np.bincount(target.text, own, target.texts)
    simplified, traditional, kana = target.forms
    if written in ("Hans", "Hant"):
        own[simplified < traditional if written == "Hans" else traditional < simplified] = 0
    if written == "Jpan":
        own[(kana == 0) & (own >= _HAN_WITHOUT_KANA)] = 0
    return _ratio(own, letters)


def _repetitions(words: _Words) -> NDArray[np.int64]:
    """Return how often a phrase of each text comes at once again, the most of all its phrases; [n]."""
    times = np.zeros(words.texts, np.int64)
    for length in range(1, _LONGEST_PHRASE + 1):
        again = np.flatnonzero(words.key[length:] == words.key[:-length])
        text = words.text[again]
        begins = np.flatnonzero((np.diff(again, prepend=-2) != 1) | (np.diff(text, prepend=-1) != 0))
        runs = np.diff(begins, append=len(again))
        np.maximum.at(times, text[begins], runs // length)
    return times


_SEPARATORS = frozenset(".,'’٫٬· \u00a0\u202f")
_CLOCK = re.compile(r":[0-9]{2}|\s*[ap]\.?m\b", re.IGNORECASE)
_SCALED = re.compile(
    r"hundred|thousand|million|billion|trillion|[0-9] ?(?:bn|mn|tn|m|k)\b|[百千万萬億亿兆백천만억조]", re.IGNORECASE
)
_MYRIADS = {"万": 4, "萬": 4, "만": 4, "億": 8, "亿": 8, "억": 8, "兆": 12, "조": 12}
_IN_MYRIADS = re.compile(rf"([0-9][0-9,]{{0,15}}(?:\.[0-9]{{1,9}})?)([{''.join(_MYRIADS)}]|(?![0-9]))")


def _numbers_lost(english: str, text: str) -> int:
    """Return how many numbers of two digits or more of the English the text lacks, in whatever way they are written.

    One digit may be spelt out. Separators, leading zeros, zeros after the decimal point and the half of the day do not
    count; a decade may lose its century, and a round number its zeros where a word may stand for them.
    """
    offered, last = _offered(text.translate(_digits()))
    stems = {number.rstrip("0") for number in last}
    scaled = _SCALED.search(english) or _SCALED.search(text)
    lost = 0
    for number, decimal, after in _required(english):
        round_ = scaled or decimal or number.endswith("000")
        lost += not ((round_ and number.rstrip("0") in stems) or _ways(number, after) & offered)
    return lost


@cache
def _digits() -> dict[int, str]:
    """Return the decimal digits of all scripts, for `str.translate`."""
    return {point: str(unicodedata.digit(chr(point))) for point in range(0x80, 0x20000) if chr(point).isdecimal()}


def _required(english: str) -> Iterator[tuple[str, bool, str]]:
    """Yield the digits of each number, whether it has a decimal point, and what follows it."""
    for match in re.finditer(r"[0-9]+(?:[.,][0-9]+)*", english):
        after = english[match.end() : match.end() + 6]
        decimal = re.fullmatch(r"[0-9]+\.[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+\.[0-9]+", match[0]) is not None
        grouped = re.fullmatch(r"[0-9]{1,3}(?:,[0-9]{3})+", match[0]) is not None
        one = (decimal and not _CLOCK.match(after)) or grouped
        parts = re.split("[.,]", match[0])
        for digits in ["".join(parts)] if one else parts:
            if len(number := digits.lstrip("0")) > 1:
                yield number, decimal, after


def _ways(number: str, after: str) -> set[str]:
    """Return the ways to write a number, what follows it in the English being known."""
    if len(number) == 2 and _CLOCK.match(after):
        return {number, str(int(number) + 12), str(int(number) - 12)}
    return {number, number[-2:]} if len(number) == 4 and after.startswith("s") else {number}


def _offered(text: str) -> tuple[set[str], set[str]]:
    """Return the digits of all numbers: of each run of digits, and of up to four that single separators join.

    The second set has those whose last digits no separator joins to more: of "18.100", not 18.
    """
    groups = [(match[0], *match.span()) for match in re.finditer("[0-9]+", text)]
    last = _in_myriads(text) if _MYRIADS.keys() & set(text) else set()
    offered = set(last)
    for first in range(len(groups)):
        joined, _, end = groups[first]
        for digits, start, stop in [*groups[first + 1 : first + 4], ("", -1, -1)]:
            offered.add(joined.lstrip("0"))
            if start - end != 1 or text[end] not in _SEPARATORS:
                last.add(joined.lstrip("0"))
                break
            joined, end = joined + digits, stop
    return offered, last


def _in_myriads(text: str) -> set[str]:
    """Return the values of East Asian numbers: 124000000 for "1億2400万"."""
    values, value, end = set(), Decimal(0), 0
    for match in _IN_MYRIADS.finditer(text):
        value = value if match.start() == end else Decimal(0)
        value += Decimal(match[1].replace(",", "")) * 10 ** _MYRIADS.get(match[2], 0)
        end = match.end()
        values.add(f"{value:f}".replace(".", "").lstrip("0"))
    return values


def _urls_lost(english: str, text: str) -> int:
    """Return how many URLs and e-mail addresses the text lacks; scheme and case do not count."""
    urls = {re.sub("^https?://", "", url.rstrip(".,;:!?)]}'’").lower()) for url in re.findall(_URL, english)}
    return sum(url not in text.lower() for url in urls)


def _placeholders_lost(english: str, text: str) -> int:
    """Return how many placeholders, tags and role marks the text lacks; each counts as often as it stands there."""
    wanted, there = (Counter(re.findall(_PLACEHOLDER, re.sub(_URL, " ", written))) for written in (english, text))
    return (wanted - there).total()


def _is_mojibake(text: str) -> bool:
    """Tell whether some character is a sequence of UTF-8 read as Windows-1252 or Latin-1, beyond doubt."""
    return any(_is_misread(match) for match in re.finditer(_SEQUENCE, text))


def _is_misread(match: re.Match[str]) -> bool:
    try:
        character = bytes(_BYTES[read] for read in match[0]).decode()
    except UnicodeDecodeError:
        return False
    if unicodedata.category(character) in ("Cn", "Co", "Cc"):
        return False
    lead, rest, before = match[0][0], match[0][1:], match.string[max(0, match.start() - 1) : match.start()]
    if lead in "ÂÃ":  # good text has them in words all in capitals only
        return not _QUOTES.issuperset(rest) or not before.isalpha() or before.islower()
    doubtful = _QUOTES | _SIGNS | _LETTERS if lead in "ÉÍÓÚÝ" or len(rest) > 1 else _QUOTES | _SIGNS
    return not doubtful.issuperset(rest) or (lead.isupper() and before.islower())
