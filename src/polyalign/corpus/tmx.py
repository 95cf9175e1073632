"""TMX, the exchange format of translation memories (1.1 to 1.4b), read unit by unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from polyalign.corpus.units import Markup, Read, Units
from polyalign.corpus.xml_pieces import DAMAGED, DamagedUnitError, Inline, attributes, decoded, parse, pieces

OUR_TOOL = "polyalign"
"""What the header of an exported file says that made it."""

NO_LANGUAGE = "text without a language code"
NO_SEGMENT = "text without <seg>"


def read_tmx(path: Path, languages: Sequence[str] | None = None, markup: Markup | None = None) -> Read:
    """Read a TMX file: a row per translation unit, with the first text of each language.

    A language code's region is dropped ("en" for "EN-US"), unless ``languages`` names it or the file is an export of
    ours. A damaged unit is left out and counted; of a file cut short, the units before the cut are read.

    Args:
        path: the file.
        languages: codes of the languages to keep, or None for all.
        markup: "strip" (the default) takes out the inline tags and the foreign codes they hold, but keeps what ``hi``
            marks; "keep" gives the XML inside ``seg`` as it is, "&amp;" and the like included.

    Raises:
        UserError: when the file cannot be opened, decompressed or decoded.
    """
    units = Units(path, languages, regions=False)
    inline = Inline(("hi",), ("bpt", "ept", "ph", "it", "ut", "sub"), markup or "strip")
    whole = False
    for name, text in pieces(decoded(path), units=("tu",), around=("tmx", "header")):
        if name == DAMAGED:
            units.damaged(text)
        elif name == "tu":
            try:
                units.add_each(list(_texts(parse(text, units), inline, units)))
            except DamagedUnitError as error:
                units.damaged(str(error))
        elif name == "header":
            units.regions = attributes(text).get("creationtool") == OUR_TOOL
        else:
            whole = not text
    if not whole:
        units.cut_short("</tmx>")
    return units.read()


def _texts(unit: ElementTree.Element, inline: Inline, units: Units) -> Iterator[tuple[str, str]]:
    for variant in unit.iter("tuv"):
        code = variant.get("xml:lang") or variant.get("lang")
        segment = variant.find("seg")
        if code is None:
            units.left_out[NO_LANGUAGE] += 1
        elif segment is None:
            units.left_out[NO_SEGMENT] += 1
        else:
            yield code, inline.text(segment, units)
