"""PO and POT, the catalogues of GNU gettext: English in ``msgid``, one other language in ``msgstr``."""

from __future__ import annotations

import gettext
import logging
import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from polyalign.corpus.columns import ENGLISH
from polyalign.corpus.opening import LOST, open_binary, plain_path, text_encoding
from polyalign.corpus.units import ONE_LANGUAGE, Markup, Read, Units
from polyalign.errors import UserError
from polyalign.languages import is_known

logger = logging.getLogger(__name__)

FUZZY = "fuzzy entry"
OBSOLETE = "obsolete entry"
UNTRANSLATED = "entry without a translation"
SINGULAR = "singular without a form of its own"
PLURAL = "plural with several forms"
STRIPPED = "texts without their markup"

_CHARSET = re.compile(rb'"Content-Type:[^"\n]*charset=([\w.:-]+)')
_COMMENT = re.compile(r"\s*#(?!~)|\s*#~(?:\||\s*$)")
_FLAGS = re.compile(r"\s*#,")
_KEYWORD = re.compile(r"\s*(?:#~\s*)?(msgctxt\b|msgid_plural\b|msgid\b|msgstr\[|msgstr\b)")
_TEXT = re.compile(r'\s*(?:#~\s*)?"')
_SOUND = re.compile(r'\s*(?:#~\s+)?(?:(?:msgctxt|msgid_plural|msgid|msgstr(?:\[\d\])?)\s+)?"(?:[^"\\]|\\.)*"\s*')
_ORDER = re.compile(r"(msgctxt )?msgid (msgstr |msgid_plural (msgstr\[ )+)")
_PLURAL_FORMS = re.compile(r"nplurals\s*=\s*\d+\s*;\s*plural\s*=\s*([^;]+)")
_NUMBERS = range(2, 201)  # no language's rule looks at more
_MODIFIERS = {"latin": "Latn", "cyrillic": "Cyrl", "arabic": "Arab", "devanagari": "Deva"}

_POLIB_LINE_BREAKS = "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_PRIVATE_USE = range(0xE000, 0xF900)

# Inline markup of reStructuredText as docutils recognises it, and HTML's. A backslash and a space end markup too.
_BEFORE = r"(?:(?<=[\s'\"(\[{<\-/:\u2018-\u201f\u00ab\u00a1\u00bf])|(?<![\s\S])|(?<=[^\x00-\x7f])|\\ )"
_AFTER = r"(?:\\ |(?=[\s'\")\]}>\-/:.,;!?\u2018-\u201f\u00bb]|[^\x00-\x7f]|$))"
_LONGEST = 2000  # characters of marked text: an opening mark without its end is no reason to search all of a huge text
_HTML = "a|abbr|b|big|cite|code|del|em|i|ins|kbd|mark|q|s|samp|small|span|strong|sub|sup|tt|u|var"
_MARKUP = re.compile(
    rf"{_BEFORE}(?:``(?P<literal>\S|\S.{{0,{_LONGEST}}}?\S)``"
    rf"|(?P<role>:[\w.+-]+(?::[\w.+-]+)*:)?`(?P<text>[^`\s]|[^`\s][^`]{{0,{_LONGEST}}}[^`\s])`_{{0,2}}"
    rf"|\*\*(?P<strong>[^\s*]|[^\s*].{{0,{_LONGEST}}}?\S)\*\*"
    rf"|\*(?P<emphasis>[^\s*]|[^\s*][^*]{{0,{_LONGEST}}}[^\s*])\*){_AFTER}"
    rf"|(?P<block>\s?::)\s*\Z|(?P<break><br\s*/?>)|</?(?:{_HTML})(?:\s[^<>]{{0,{_LONGEST}}})?>",
    re.DOTALL | re.IGNORECASE,
)
_ROLES = {":pep:": "PEP ", ":rfc:": "RFC "}
_TARGET = re.compile(r"\s*<[^<>]*>$", re.DOTALL)


def read_po(path: Path, languages: Sequence[str] | None = None, markup: Markup | None = None) -> Read:
    """Read a PO or POT file: a row per entry, of its English ``msgid`` and its translation.

    Left out and counted are fuzzy, obsolete, untranslated and damaged entries. Of an entry with plural forms, the form
    for the number 1 is the translation of ``msgid``; that of ``msgid_plural`` is the form for all other numbers, where
    there is one for them all. A form that serves every number translates ``msgid_plural`` alone, since ``msgid`` may
    say "one".

    The language is that of the header, region included ("pt_BR" stands beside "pt" in many projects) unless
    ``languages`` has it without; else that of the path: ``es.po``, ``x.es.po``, ``es/LC_MESSAGES/x.po``, ``es/a/x.po``.

    Args:
        path: the file.
        languages: codes of the languages to keep, or None for all.
        markup: "keep" (the default) leaves texts as they are; "strip" takes out inline markup of reStructuredText and
            HTML, of which the text that a reader would see stays.

    Raises:
        UserError: when the file cannot be opened, decompressed or decoded, or its language is unknown.
    """
    units = Units(path, languages, regions=True)
    entries, metadata = _entries(path, units)
    forms = _plural_forms(metadata)
    pairs = [pair for entry in entries for pair in _pairs(entry, forms, units)]
    if not pairs:
        return units.read()
    tag = units.tag(_language(path, metadata))
    if tag == ENGLISH:
        units.left_out[ONE_LANGUAGE] += len(pairs)
        return units.read()
    shown = partial(_without_markup, units=units) if markup == "strip" else str
    for english, translation in pairs:
        units.add({ENGLISH: shown(english)} | ({tag: shown(translation)} if tag else {}))
    return units.read()


def _entries(path: Path, units: Units) -> tuple[list[Any], dict[str, str]]:
    """Return the sound entries as polib has them, and the header's fields."""
    try:
        import polib  # type: ignore[import-untyped]
    except ImportError as error:
        raise UserError(f"reading {path} needs polib; pip install 'polyalign[po]'") from error
    entries: list[Any] = []
    metadata: dict[str, str] = {}
    text = _decoded(path)
    unused = (code for code in _PRIVATE_USE if chr(code) not in text)
    # polib breaks lines at these too, but in a string they are text; unused characters stand for them meanwhile.
    stand_ins = {ord(break_): next(unused) for break_ in _POLIB_LINE_BREAKS if break_ in text}
    for number, lines in _blocks(text):
        try:
            catalogue = polib.pofile(_sound(lines).translate(stand_ins))
        except (ValueError, OSError):
            units.damaged("not the syntax of PO")
            logger.warning("%s, line %d: a damaged entry is left out", path, number)
            continue
        metadata |= catalogue.metadata
        entries += catalogue
    back = {stand_in: break_ for break_, stand_in in stand_ins.items()}
    for entry in entries if back else []:
        entry.msgid, entry.msgid_plural = entry.msgid.translate(back), entry.msgid_plural.translate(back)
        entry.msgstr = entry.msgstr.translate(back)
        entry.msgstr_plural = {form: text.translate(back) for form, text in entry.msgstr_plural.items()}
    return entries, metadata


def _decoded(path: Path) -> str:
    with open_binary(path) as stream:
        content = stream.read().removeprefix(BOM_UTF8)
    declared = _CHARSET.search(content)
    charset = declared[1].decode() if declared else "CHARSET"
    encoding = "utf-8" if charset == "CHARSET" else text_encoding(charset, path)  # CHARSET is what templates have
    return content.decode(encoding, LOST).replace("\r\n", "\n")


def _blocks(text: str) -> list[tuple[int, list[str]]]:
    """Cut a catalogue into entries, each with the number of the line where it begins.

    polib reads none of a file that has an error, and does not see some errors, such as a missing quote.
    """
    blocks: list[tuple[int, list[str]]] = [(1, [])]
    content: set[str | None] = set()  # of the last block: its keywords, and None for lines without one
    after_blank = apart = False
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            after_blank = True
            continue
        comment = _COMMENT.match(line)
        keyword = None if comment else _keyword(line)
        starts = content if comment or keyword == "msgctxt" else keyword == "msgid" and content - {"msgctxt"}
        # A text may go on after a blank line. Anything else after it is not of the same entry.
        stray = after_blank and (keyword == "msgstr" if keyword else not _SOUND.fullmatch(line))
        if starts or (stray and content & {"msgstr", "msgstr["}):
            blocks.append((number, []))
            content, apart = set(), after_blank
        elif _TEXT.match(line) and not content and len(blocks) > 1 and not apart:
            _, lines = blocks.pop()  # what began as another entry is a comment in the midst of a text
            blocks[-1][1].extend(lines)
            content = {"msgid", "msgstr"}
        if not comment:
            content.add(keyword)
        blocks[-1][1].append(line)
        after_blank = False
    return blocks


def _keyword(line: str) -> str | None:
    match = _KEYWORD.match(line)
    return match[1] if match else None


def _sound(lines: list[str]) -> str:
    """Return the flags and strings of an entry, without comments, some of which polib refuses.

    Raises:
        ValueError: when it is damaged.
    """
    strings = [line for line in lines if not _COMMENT.match(line)]
    keywords = "".join(f"{keyword} " for line in strings if (keyword := _keyword(line)))
    if strings and not (_ORDER.fullmatch(keywords) and all(_SOUND.fullmatch(line) for line in strings)):
        raise ValueError("damaged entry")
    flags = [_FLAGS.sub("#, ", line) for line in lines if _FLAGS.match(line)]
    return "\n".join([*flags, *strings])


def _language(path: Path, metadata: Mapping[str, str]) -> str:
    """Return the code of the catalogue's language, from its header, else from its path."""
    path = plain_path(path)
    folders = [folder.name for folder in path.parents]
    sure = [metadata.get("Language", ""), *([path.suffixes[-2]] if path.suffixes[1:] else [])]
    sure += [folders[1]] if folders[0] == "LC_MESSAGES" else []
    # Codes of three letters are too often words ("bin", "war") to be looked for in any folder.
    likely = [name for name in (path.stem, *folders) if re.match(r"[A-Za-z]{2}([-_@]|$)", name)]
    for name in (*sure, *likely, path.stem):
        code, _, modifier = name.strip().strip(".").partition("@")
        language, *rest = re.split("[-_]", code.partition(".")[0])  # "de_DE.UTF-8"
        code = "-".join([language, *([_MODIFIERS[modifier]] if modifier in _MODIFIERS else []), *rest])
        if is_known(code) and (not modifier or modifier in _MODIFIERS):
            return code
    raise UserError(
        f"{path} does not say its language; add 'Language: es' (its code) to the header, or name the file or its "
        "folder after it, as es.po or es/x.po"
    )


def _plural_forms(metadata: Mapping[str, str]) -> tuple[int | None, int | None] | None:
    """Return the numbers of the forms for ``msgid`` and ``msgid_plural``, or None where the header does not say."""
    match = _PLURAL_FORMS.search(metadata.get("Plural-Forms", ""))
    if match is None:
        return None
    try:
        form = gettext.c2py(match[1].strip())
        one, others = form(1), {form(number) for number in _NUMBERS}
    except (ValueError, ArithmeticError, RecursionError):
        return None
    if others == {one}:
        return None, one
    others -= {one}  # Russian has the form for 1 again for 21
    return one, (others.pop() if len(others) == 1 else None)


def _pairs(entry: Any, forms: tuple[int | None, int | None] | None, units: Units) -> Iterator[tuple[str, str]]:
    """Yield English and translation of an entry where they are certain."""
    if entry.obsolete:
        units.left_out[OBSOLETE] += 1
    elif "fuzzy" in entry.flags:
        units.left_out[FUZZY] += 1
    elif not entry.msgid_plural:
        yield from _pair(entry.msgid, entry.msgstr, units)
    else:
        # Of catalogues that do not state their rule, those with two forms have one for 1 and one for the others.
        by_number = {1: (None, 0), 2: (0, 1)}.get(len(entry.msgstr_plural), (None, None))
        singular, plural = forms or by_number
        for text, form, reason in ((entry.msgid, singular, SINGULAR), (entry.msgid_plural, plural, PLURAL)):
            if form is None:
                units.left_out[reason] += 1
            else:
                yield from _pair(text, entry.msgstr_plural.get(form, ""), units)


def _pair(english: str, translation: str, units: Units) -> Iterator[tuple[str, str]]:
    if translation.strip():
        yield english, translation
    else:
        units.left_out[UNTRANSLATED] += 1


def _without_markup(text: str, units: Units) -> str:
    plain = _MARKUP.sub(_shown, text)
    if plain != text:
        units.changed[STRIPPED] += 1
    return plain


def _shown(match: re.Match[str]) -> str:
    if match["break"]:
        return "\n"
    if match["block"]:  # two colons announce a literal block; those that touch the text are shown as one
        return "" if match["block"] != "::" else ":"
    text = match["text"]
    if text is None:
        return match["literal"] or match["strong"] or match["emphasis"] or ""
    shown = _TARGET.sub("", text) or text
    if match["role"] and shown.startswith("~"):
        return shown.rpartition(".")[2].removeprefix("~")
    return _ROLES.get(match["role"], "") + shown.removeprefix("!")
