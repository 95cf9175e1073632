"""XLIFF 1.2, 2.0 and 2.1, read unit by unit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from polyalign.corpus.units import ONE_LANGUAGE, Markup, Read, Units
from polyalign.corpus.xml_pieces import DAMAGED, DamagedUnitError, Inline, attributes, decoded, parse, pieces

UNTRANSLATED = "unit without a translation"
UNFINISHED = "translation in state {!r}"
NOT_APPROVED = "translation not approved"
NOT_FOR_TRANSLATION = "unit not to be translated"
NO_COUNTERPART = "segment without its counterpart"
NO_LANGUAGE = "translation whose language is not stated"

_KEPT = ("g", "mrk", "pc")
_CODES = ("x", "bx", "ex", "bpt", "ept", "ph", "it", "sub", "sc", "ec", "sm", "em", "cp")

_UNFINISHED_STATES = {
    "new",
    "initial",
    *(f"needs-{what}" for what in ("translation", "adaptation", "l10n")),
    *(f"needs-review-{what}" for what in ("translation", "adaptation", "l10n")),
}

_Pair = tuple[ElementTree.Element, ElementTree.Element]


def read_xliff(path: Path, languages: Sequence[str] | None = None, markup: Markup | None = None) -> Read:
    """Read an XLIFF file: a row per segment, else per unit, of its source and its translation.

    Left out and counted are, beside damaged units: what has no translation; what is not to be translated; a translation
    whose state is "new", "initial" or "needs-..." (as fuzzy ones of PO are); and one with ``approved="no"``, unless its
    state says "translated", "final" or "signed-off". What states neither is kept. ``alt-trans`` is passed over.

    Args:
        path: the file.
        languages: codes of the languages to keep, or None for all. Regions are dropped ("en" for "en-US") unless named.
        markup: as for `polyalign.corpus.tmx.read_tmx`; ``g``, ``pc`` and ``mrk`` mark text that is kept.

    Raises:
        UserError: when the file cannot be opened, decompressed or decoded.
    """
    units = Units(path, languages, regions=False)
    inline = Inline(_KEPT, _CODES, markup or "strip")
    root: Mapping[str, str] = {}
    file: Mapping[str, str] = {}
    whole = False
    for name, text in pieces(decoded(path), units=("trans-unit", "unit"), around=("xliff", "file")):
        if name == DAMAGED:
            units.damaged(text)
        elif name in ("trans-unit", "unit"):
            try:
                _add(parse(text, units), _codes({**root, **file}), inline, units)
            except DamagedUnitError as error:
                units.damaged(str(error))
        else:
            whole = not text
            stated = attributes(text)
            if name == "xliff" and "version" in stated:
                root, file = stated, {}
            elif "source-language" in stated:
                file = stated
    if not whole:
        units.cut_short("</xliff>")
    return units.read()


def _codes(around: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return the codes of source and target: 1.2 states them per file, 2.0 in the root."""
    source = around.get("source-language") or around.get("srcLang")
    return source, around.get("target-language") or around.get("trgLang")


def _add(unit: ElementTree.Element, codes: tuple[str | None, str | None], inline: Inline, units: Units) -> None:
    for source, target in _translations(unit, units):
        source_code, target_code = codes[0] or source.get("xml:lang"), codes[1] or target.get("xml:lang")
        if source_code is None or target_code is None:
            units.left_out[NO_LANGUAGE] += 1
            continue
        source_tag, target_tag = units.tag(source_code), units.tag(target_code)
        if source_tag is not None and source_tag == target_tag:
            units.left_out[ONE_LANGUAGE] += 1
            continue
        pair = ((source_tag, source), (target_tag, target))
        units.add({tag: inline.text(element, units) for tag, element in pair if tag is not None})


def _translations(unit: ElementTree.Element, units: Units) -> Iterator[_Pair]:
    """Yield the sources and translations of a unit that are fit for use."""
    if unit.get("translate") == "no":
        units.left_out[NOT_FOR_TRANSLATION] += 1
        return
    for segment in unit.findall("segment") if unit.tag == "unit" else [unit]:
        source, target = segment.find("source"), segment.find("target")
        if source is None or target is None or not "".join(target.itertext()).strip():
            units.left_out[UNTRANSLATED] += 1
            continue
        state = target.get("state") or segment.get("state")
        if state in _UNFINISHED_STATES:
            units.left_out[UNFINISHED.format(state)] += 1
        elif state is None and segment.get("approved") == "no":
            units.left_out[NOT_APPROVED] += 1
        else:
            yield from _segments(segment, source, target, units)


def _segments(
    unit: ElementTree.Element, source: ElementTree.Element, target: ElementTree.Element, units: Units
) -> Iterator[_Pair]:
    """Yield the segments that XLIFF 1.2 marks in ``seg-source`` and ``target``, or the texts as they are."""
    marked = unit.find("seg-source")
    parts, translations = ({} if side is None else _marked(side) for side in (marked, target))
    if not parts or not translations:
        yield source, target
        return
    for number in {**parts, **translations}:
        if number in parts and number in translations:
            yield parts[number], translations[number]
        else:
            units.left_out[NO_COUNTERPART] += 1


def _marked(side: ElementTree.Element) -> dict[str, ElementTree.Element]:
    return {mark.get("mid", ""): mark for mark in side.iter("mrk") if mark.get("mtype") == "seg"}
