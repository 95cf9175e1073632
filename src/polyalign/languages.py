"""Language tags: BCP-47 inside, the codes of FLORES/NLLB, M2M-100, OPUS-MT, MADLAD-400 and MTEB at the edges.

A tag is ``language[-Script][-REGION]`` in the shortest form: the ISO 639-1 code where there is one, the macrolanguage
for its standard member ("zh" for Mandarin, "no" for Bokmål), and a script only where it is not the language's usual one
("zh-Hant", but "zh" for Simplified Chinese). Dialects ("arz", "yue") are languages of their own.

`langcodes` knows which codes are synonyms; ``languages.tsv`` beside this module holds what it cannot derive. A row
without a hyphen is a known language: all those of NLLB-200, M2M-100, MADLAD-400, ISO 639-1 and MTEB 2.26 (but for those
that BibleNLPBitextMining alone names), and some of OPUS-MT and Common Voice. Its script is that of FLORES where FLORES
has the language in one script, else the likely one of Unicode CLDR or, failing that, of the texts. The other rows are
scripts and regions for which a translator has a code of its own.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

from langcodes import Language, standardize_tag

from polyalign.errors import UserError, nearest

_SHAPE = re.compile(r"([a-z]{2,3})(?:[-_]([a-z]{4}))?(?:[-_]([a-z]{2}|[0-9]{3}))?", re.ASCII | re.IGNORECASE)
_SCHEMES = {"flores": "FLORES/NLLB", "m2m": "M2M-100", "madlad": "MADLAD-400"}

# Synonyms that langcodes keeps apart: FLORES's Pashto is "pbt" and its Norwegian "nob", M2M-100's are "ps" and "no".
_SYNONYMS = {"pbt": "ps", "nb": "no", "nob": "no"}

# OPUS-MT model names that use neither ISO 639-1 nor our tag.
_TO_OPUS = {"bik": "bcl", "fil": "tl"}
_FROM_OPUS = {"jap": "ja"}

# Codes of MTEB tasks that name a script in which the texts are not (checked against the data), or a synonym of one.
_FROM_MTEB = {
    "ber-Tfng": "ber",  # Tatoeba's Berber is Latin
    "kor-Kore": "ko",  # Hangul with or without Hanja
    "max-Deva": "max",  # Tatoeba's North Moluccan Malay is Latin
    "mon-Mong": "mn",  # NTREX's Mongolian is Cyrillic
    "orm-Ethi": "om",  # NTREX's Oromo is Latin
}


def canonical(tag: str) -> str:
    """Return the canonical tag of a language code.

    Case and the separator ("-" or "_") do not matter; ISO 639-1, 639-2 and 639-3 codes, FLORES codes and deprecated
    codes are understood: ``canonical("deu_Latn")`` is "de", ``canonical("zh-hans")`` is "zh", ``canonical("iw")`` "he".

    Raises:
        UserError: when the language is not in the table, or the script or region does not exist.
    """
    language, script, region = _subtags(tag)
    if script == _usual_script(language, region):
        script = ""
    return _join(language, script, region)


def is_known(tag: str) -> bool:
    """Return whether `canonical` accepts the code."""
    return _parse(tag) is not None


def name(tag: str) -> str:
    """Return the English name, with any script and region in brackets: "Chinese (Hant)", "Portuguese (BR)"."""
    language, *rest = canonical(tag).split("-")
    english = _table()[language]["name"]
    return f"{english} ({', '.join(rest)})" if rest else english


def script(tag: str) -> str:
    """Return the ISO 15924 code of the script: "Latn" for "de", "Hant" for "zh-TW"."""
    language, written, region = _subtags(tag)
    return written or _usual_script(language, region)


def to_flores(tag: str) -> str:
    """Return the FLORES-200 code as NLLB's vocabulary has it ("deu_Latn"); a region is dropped.

    Raises:
        UserError: when NLLB lacks the language in this script.
    """
    return _encode("flores", tag)


def from_flores(code: str) -> str:
    """Return the tag of a code of NLLB's vocabulary."""
    return _decode("flores", code)


def to_m2m(tag: str) -> str:
    """Return the M2M-100 code ("de"); a region is dropped.

    Raises:
        UserError: when M2M-100 lacks the language in this script.
    """
    return _encode("m2m", tag)


def from_m2m(code: str) -> str:
    """Return the tag of an M2M-100 code."""
    return _decode("m2m", code)


def to_madlad(tag: str) -> str:
    """Return the MADLAD-400 code ("de"), whose token is ``<2de>``; a region that MADLAD has no code for is dropped.

    Raises:
        UserError: when MADLAD-400 lacks the language in this script.
    """
    return _encode("madlad", tag)


def from_madlad(code: str) -> str:
    """Return the tag of a MADLAD-400 code (without ``<2`` and ``>``)."""
    return _decode("madlad", code)


def to_opus(tag: str) -> str:
    """Return the code that names the language in OPUS-MT models ("de" in ``opus-mt-en-de``); a region is dropped.

    The names are not uniform (``opus-mt-ja-en``, but ``opus-mt-en-jap``) and not every language has a model.

    Raises:
        UserError: when the tag's script is not the language's usual one: a model's name cannot say that.
    """
    plain = _without_region(tag)
    language, *other_script = plain.split("-")
    if other_script:
        raise UserError(
            f"OPUS-MT model names carry no script, so none is for {plain!r}; choose a model for {language!r} yourself"
        )
    return _TO_OPUS.get(language, language)


def from_opus(code: str) -> str:
    """Return the tag of a language in an OPUS-MT model's name; groups of languages ("gmq") are unknown."""
    return canonical(_FROM_OPUS.get(code, code))


def from_mteb(code: str) -> str:
    """Return the tag of an MTEB task's language code, such as "cmn-Hans" or "deu"."""
    return _FROM_MTEB.get(code) or canonical(code)


def mteb_codes(tag: str, available: Iterable[str]) -> set[str]:
    """Return those of a task's language codes that mean this tag; the set is empty when the task lacks the language.

    The script must be the tag's own, or not be named by the code; the region does not matter. "zh" alone also means
    Traditional Chinese where a task has no Simplified Chinese. A dialect is matched by its own tag only.

    Args:
        tag: a language tag.
        available: the codes that the task has, such as ``{"deu-Latn", "cmn-Hans"}``; unknown ones are passed over.
    """
    tags = {code: from_mteb(code) for code in available if is_known(code)}
    plain = _without_region(tag)
    language = plain.split("-")[0]
    codes = {code for code, found in tags.items() if found == plain or (found == language and code.isalpha())}
    return mteb_codes("zh-Hant", tags) if plain == "zh" and not codes else codes


@cache
def _table() -> dict[str, dict[str, str]]:
    with files("polyalign").joinpath("languages.tsv").open(encoding="utf-8") as lines:
        return {row["tag"]: row for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)}


@cache
def _tags_by_code(scheme: str) -> dict[str, str]:
    return {row[scheme]: tag for tag, row in _table().items() if row[scheme]}


@cache
def _parse(tag: str) -> tuple[str, str, str] | None:
    """Return language, script and region in canonical case ("" where not named), or None for an unknown code."""
    match = _SHAPE.fullmatch(tag)
    if match is None:
        return None
    code, written, region = match.groups(default="")
    rest = Language.get(_join("und", written, region))
    if not rest.is_valid():
        return None
    code = code.lower()
    for synonym in (code, _SYNONYMS.get(code, code), standardize_tag(code), standardize_tag(code, macro=True)):
        language = Language.get(synonym, normalize=False)  # "sh" has become "sr-Latn"
        if language.language in _table():
            return language.language, rest.script or language.script or "", rest.territory or ""
    return None


def _subtags(tag: str) -> tuple[str, str, str]:
    subtags = _parse(tag)
    if subtags is None:
        known = {row["name"].casefold(): code for code, row in _table().items() if row["name"]}
        hint = nearest(known.get(tag.casefold(), tag), [*_table(), *_tags_by_code("flores")])
        raise UserError(
            f"unknown language code {tag!r}{hint}; give language[-Script][-REGION] with the ISO 639 code of one of the "
            f"{len(known)} languages in the table, such as 'de', 'ceb', 'zh-Hant' or 'pt-BR'"
        )
    return subtags


def _join(language: str, script: str, region: str) -> str:
    return "-".join(subtag for subtag in (language, script, region) if subtag)


def _usual_script(language: str, region: str) -> str:
    """Return the script of the language, in the region if one is given: "Hans" for "zh", "Hant" for "zh" in "TW"."""
    if region:
        likely = Language.get(f"{language}-{region}", normalize=False).maximize().script
        if likely != Language.get(language, normalize=False).maximize().script:
            return str(likely)
    return _table()[language]["script"]


def _without_region(tag: str) -> str:
    """Return the canonical tag without its region, whose script it keeps: "zh-Hant" for "zh-TW"."""
    return canonical(_join(_subtags(tag)[0], script(tag), ""))


def _encode(scheme: str, tag: str) -> str:
    for candidate in (canonical(tag), _without_region(tag)):
        if code := _table().get(candidate, {}).get(scheme):
            return code
    language = _subtags(tag)[0]
    has = [repr(known) for known in _tags_by_code(scheme).values() if known.split("-")[0] == language]
    instead = f"it has {', '.join(has)}" if has else "leave the language out or choose another translator"
    raise UserError(f"{_SCHEMES[scheme]} has no code for {canonical(tag)!r} ({name(tag)}); {instead}")


def _decode(scheme: str, code: str) -> str:
    tags = _tags_by_code(scheme)
    if code not in tags:
        raise UserError(
            f"unknown {_SCHEMES[scheme]} code {code!r}{nearest(code, tags)}; "
            f"it has {len(tags)} codes, such as {_table()['en'][scheme]!r} for English"
        )
    return tags[code]
