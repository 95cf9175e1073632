"""XML of translation units, read piece by piece: a damaged unit costs itself, and no file is held in memory.

The stream of characters is cut into units, and each is parsed by itself. So the parser cannot lose its place, and no
unit can refer to an entity: there is no document type in it.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html.entities import html5
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat
from xml.sax.saxutils import escape

from polyalign.corpus.opening import LOST, open_binary, text_encoding
from polyalign.corpus.units import Markup, Units

DAMAGED = ""
"""Name of a piece that is no unit; its text is the reason."""

STRIPPED = "texts without their inline tags"
UNKNOWN_TAG = "unknown inline tags, whose text was kept"
SUBFLOW = "text inside inline tags"

_BLOCK_BYTES = 1 << 20
_LONGEST_TAG = 1 << 16  # in characters, as the two below
_LONGEST_SECTION = 1 << 23
_LONGEST_UNIT = 1 << 24
_DEEPEST = 100
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_BARE_UTF16 = {b"<\0": "utf-16-le", b"\0<": "utf-16-be"}
_DECLARED = re.compile(rb"""\s*<\?xml\s[^>]*?encoding\s*=\s*["']([\w.:-]+)["']""")
_START_TAG = re.compile(r"""<[\w.:-]+(?:[^<>"']|"[^"<]*"|'[^'<]*')*>""")
_EMPTY_ELEMENT = re.compile(r"<[\w.:-]+(?:\s[^<>]*)?/>")
_COMMENT = re.compile("<!--")
_CDATA = re.compile(r"<!\[CDATA\[")
_SECTION_ENDS = {"<!--": "-->", "<![CDATA[": "]]>"}

# A character that XML allows and that nobody uses (a noncharacter) stands for one that XML does not allow while a piece
# is parsed. Afterwards it becomes a control character, for which `polyalign.corpus.checking` rejects the cell.
_STAND_IN, _ILLEGAL = "\U0010fffe", "\x1a"
_ILLEGAL_CHARACTER = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_SECTION = re.compile(r"(<!--(?:(?!<!--).)*?-->|<!\[CDATA\[(?:(?!<!\[CDATA\[).)*?\]\]>)", re.DOTALL)
_REFERENCE = re.compile(
    r"&(?:#(?:x([0-9a-f]{1,8})|([0-9]{1,8}))|([a-z_:][\w.:-]*));|&|<(?![^\W\d]|[:/!?])", re.IGNORECASE
)
_SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_PREDEFINED = ("amp", "lt", "gt", "quot", "apos")


class DamagedUnitError(Exception):
    """A unit cannot be read; the message is the reason."""


def decoded(path: Path) -> Iterator[str]:
    """Yield the characters of an XML file block by block; bytes that mean none are marked (`LOST`).

    The encoding is that of the byte order mark, else of the XML declaration, else UTF-8.

    Raises:
        UserError: when the file cannot be read, or declares an unknown encoding.
    """
    with open_binary(path) as stream:
        block = stream.read(_BLOCK_BYTES)
        decoder = codecs.getincrementaldecoder(_encoding(block, path))(LOST)
        while block:
            yield decoder.decode(block)
            block = stream.read(_BLOCK_BYTES)
        yield decoder.decode(b"", final=True)


def _encoding(start: bytes, path: Path) -> str:
    for mark, encoding in (_BOMS | _BARE_UTF16).items():
        if start.startswith(mark):
            return encoding
    match = _DECLARED.match(start)
    name = match[1].decode() if match else "utf-8"
    if name.lower().startswith(("utf-16", "utf16", "ucs-2", "iso-10646-ucs-2")):
        return "utf-8"  # the declaration was read as ASCII, so it is wrong: what wrote UTF-16 was saved as UTF-8 since
    return text_encoding(name, path)


def pieces(blocks: Iterator[str], units: Sequence[str], around: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Cut a stream of XML into units.

    Comments are passed over, whatever they hold; so is what looks like a tag in a CDATA section. A comment or section
    that does not end before the next begins is damage, and taken for text.

    Args:
        blocks: the characters, in blocks of any size.
        units: names of the elements that are units; none stands inside another.
        around: names of elements around the units, the root first.

    Yields:
        The name and whole text of every unit; the name and start tag of the elements around; ``DAMAGED`` and the reason
        for what is not a whole unit; at the end the root's name and an empty text if its end tag was there.
    """
    return _Cutter(blocks, units, around).cut()


class _Cutter:
    """The part of the stream that is in sight, and the place in it."""

    def __init__(self, blocks: Iterator[str], units: Sequence[str], around: Sequence[str]) -> None:
        names = "|".join(map(re.escape, units))
        others = "|".join(map(re.escape, around))
        self._token = re.compile(
            rf"<!--|<!\[CDATA\[|<(?P<unit>{names})(?=[\s/>])|</(?P<end>{names})\s*>"
            rf"|<(?P<around>{others})(?=[\s/>])|</(?P<root>{re.escape(around[0])})\s*>"
        )
        self._unit_start = re.compile(rf"<!--|<(?:{names})(?=[\s/>])")
        self._root = around[0]
        self._blocks = blocks
        self._text = ""
        self._at = 0  # all before it was looked at
        self._start: int | None = None  # of the unit that is open
        self._ended = False
        self._whole = False

    def cut(self) -> Iterator[tuple[str, str]]:
        while True:
            match = self._token.search(self._text, self._at)
            if match is not None:
                yield from self._take(match)
            elif self._ended:
                break
            else:
                # A token may be cut by the end of the block.
                tail = self._text.rfind("<", max(self._at, len(self._text) - _LONGEST_TAG))
                self._at = self._more(len(self._text) if tail < 0 else tail)
            if self._start is not None and self._at - self._start > _LONGEST_UNIT:
                yield DAMAGED, "too long"
                self._start = None
        yield from self._abandon()
        if self._whole:
            yield self._root, ""

    def _take(self, match: re.Match[str]) -> Iterator[tuple[str, str]]:
        if match[0] in _SECTION_ENDS:
            self._pass_section(match)
        elif match["unit"]:
            yield from self._abandon()
            self._start, self._at = match.start(), match.end()
        elif match["end"]:
            self._at = match.end()
            if self._start is None:
                yield DAMAGED, "its start is missing"
            else:
                yield match["end"], self._text[self._start : self._at]
            self._start = None
        else:
            yield from self._abandon()
            yield from self._take_around(match)

    def _take_around(self, match: re.Match[str]) -> Iterator[tuple[str, str]]:
        self._at = match.end()
        if match["root"]:
            self._whole = True
            return
        self._whole = False
        start = match.start()
        while (tag := _START_TAG.match(self._text, start)) is None and self._can_reach(start, _LONGEST_TAG):
            start = self._more(start)
        self._at = start + len(match[0])
        if tag is not None:
            self._at = tag.end()
            yield match["around"], tag[0]

    def _pass_section(self, match: re.Match[str]) -> None:
        """Go on behind a comment or CDATA section, or behind its first characters if it does not end as it should."""
        begin, start = match[0], match.start()
        self._at = match.end()
        if begin != "<!--" and self._start is None:
            return
        end = _SECTION_ENDS[begin]
        # A comment in a unit does not hold another unit's start: then its end was lost.
        comment_rival = _COMMENT if self._start is None else self._unit_start
        rival = comment_rival if begin == "<!--" else _CDATA
        while True:
            first = start + len(begin)
            found = self._text.find(end, first)
            other = rival.search(self._text, first, found if found >= 0 else len(self._text))
            if other is not None:
                self._at = first
                return
            if found >= 0:
                self._at = found + len(end)
                return
            if not self._can_reach(start, _LONGEST_SECTION):
                self._at = first
                return
            start = self._more(start)

    def _can_reach(self, start: int, longest: int) -> bool:
        return not self._ended and len(self._text) - start < longest

    def _more(self, mark: int) -> int:
        """Read on, and forget what lies before ``mark`` and the open unit; return where ``mark`` now is."""
        seen = mark if self._start is None else min(mark, self._start)
        block = next(self._blocks, None)
        self._ended = block is None
        self._text = self._text[seen:] + (block or "")
        self._start = None if self._start is None else self._start - seen
        return mark - seen

    def _abandon(self) -> Iterator[tuple[str, str]]:
        """Give up the open unit: another one begins, or its surroundings end."""
        if self._start is not None:
            empty = _EMPTY_ELEMENT.match(self._text, self._start)
            yield DAMAGED, "nothing in it" if empty else "its end is missing"
        self._start = None


def parse(piece: str, units: Units) -> ElementTree.Element:
    """Parse a unit; prefixes are part of the names. What can be mended with certainty is, and counted.

    Those are ampersands and "<" that stand for themselves, HTML's entities, and characters written as two halves of a
    surrogate pair. A text with characters that XML does not allow gets a control character in their place.

    Raises:
        DamagedUnitError: when it cannot be parsed.
    """
    try:
        return _tree(piece)
    except expat.ExpatError:
        mended: Counter[str] = Counter()
        parts = _SECTION.split(_ILLEGAL_CHARACTER.sub(_STAND_IN, piece))
        parts[::2] = [_mend(part, mended) for part in parts[::2]]
    try:
        tree = _tree("".join(parts))
    except expat.ExpatError as error:
        raise DamagedUnitError(expat.errors.messages[error.code]) from error
    for element in tree.iter():
        element.text = element.text and element.text.replace(_STAND_IN, _ILLEGAL)
        element.tail = element.tail and element.tail.replace(_STAND_IN, _ILLEGAL)
    units.changed.update(mended)
    return tree


def attributes(start_tag: str) -> Mapping[str, str]:
    """Return the attributes of a start tag, or none where it is damaged."""
    try:
        return _tree(start_tag.rstrip("/>") + "/>").attrib
    except expat.ExpatError:
        return {}


def _tree(text: str) -> ElementTree.Element:
    builder = ElementTree.TreeBuilder()
    depth = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise DamagedUnitError("nested too deeply")
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    parser.Parse(text, True)
    return builder.close()


def _mend(text: str, mended: Counter[str]) -> str:
    def reference(match: re.Match[str]) -> str:
        hexadecimal, decimal, name = match.groups()
        if hexadecimal or decimal:
            return _character(int(hexadecimal, 16) if hexadecimal else int(decimal))
        if name is None:
            mended["bare ampersands" if match[0] == "&" else "bare < signs"] += 1
            return escape(match[0])
        if name in _PREDEFINED or f"{name};" not in html5:
            return match[0]
        mended["HTML entities"] += 1
        return escape(html5[f"{name};"])

    text = _REFERENCE.sub(reference, text)
    if pairs := len(_SURROGATE_PAIR.findall(text)):
        mended["characters written as surrogate pairs"] += pairs
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", LOST)


def _character(code: int) -> str:
    """Return a reference to a character, half a surrogate pair as it is, or what stands for an illegal character."""
    if 0xD800 <= code < 0xE000:
        return chr(code)
    legal = code < 0x110000 and (code in (9, 10, 13) or code >= 32) and code not in (0xFFFE, 0xFFFF)
    return f"&#{code};" if legal else _STAND_IN


class Inline:
    """What becomes of the tags inside a text.

    Args:
        kept: names of elements whose text belongs to the sentence.
        codes: names of elements that stand for a tag or placeholder of another format.
        markup: "strip" takes the tags out, and what ``codes`` hold; "keep" keeps the XML inside the text as it is,
            "&amp;" and the like included.
    """

    def __init__(self, kept: Sequence[str], codes: Sequence[str], markup: Markup) -> None:
        self._kept = frozenset(kept)
        self._codes = frozenset(codes)
        self._markup = markup

    def text(self, element: ElementTree.Element, units: Units) -> str:
        """Return the text of an element; counts go to ``units``."""
        if not len(element):
            return escape(element.text or "") if self._markup == "keep" else element.text or ""
        if self._markup == "keep":
            inner = (ElementTree.tostring(child, encoding="unicode") for child in element)
            return escape(element.text or "") + "".join(inner)
        units.changed[STRIPPED] += 1
        return self._plain(element, units)

    def _plain(self, element: ElementTree.Element, units: Units) -> str:
        parts = [element.text or ""]
        for child in element:
            parts += self._inside(child, units), child.tail or ""
        return "".join(parts)

    def _inside(self, child: ElementTree.Element, units: Units) -> str:
        name = child.tag.rpartition(":")[2]
        if name not in self._kept and _is_line_break(child):
            return "\n"
        if name == "cp":  # XLIFF 2's way to write a character that XML does not allow
            return _ILLEGAL
        if name in self._codes:
            if subflows := sum(1 for _ in child.iter("sub")):
                units.left_out[SUBFLOW] += subflows
            return ""
        if name not in self._kept:
            units.changed[UNKNOWN_TAG] += 1
        return self._plain(child, units)


def _is_line_break(element: ElementTree.Element) -> bool:
    """Whether a tag says that it stands for a line break: without one the words beside it would grow together."""
    kinds = (element.get("type"), element.get("ctype"), element.get("subType"))
    return "lb" in kinds or "xlf:lb" in kinds or (element.text or "").lstrip().lower().startswith("<br")
