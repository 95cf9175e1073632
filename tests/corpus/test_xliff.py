"""XLIFF 1.2 and 2: segments, states, tags, languages from wherever the version puts them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyalign.corpus import Corpus
from polyalign.corpus.xliff import read_xliff

OLD = '<?xml version="1.0"?>\n<xliff xmlns="urn:oasis:names:tc:xliff:document:1.2" version="1.2">\n{}</xliff>\n'
NEW = (
    '<xliff xmlns="urn:oasis:names:tc:xliff:document:2.0" version="2.0" srcLang="en-US"{}><file id="f">'
    "{}</file></xliff>"
)


def old(*units, source="en", target="de"):
    """An XLIFF 1.2 file of one ``file`` element."""
    language = f' target-language="{target}"' if target else ""
    return OLD.format(f'<file source-language="{source}"{language}><body>\n{"".join(units)}</body></file>\n')


def new(*units, target="fr-FR"):
    return NEW.format(f' trgLang="{target}"' if target else "", "".join(units))


def pair(source, target, attributes="", state=""):
    """A unit of version 1.2."""
    return f"<trans-unit id='1'{attributes}><source>{source}</source><target{state}>{target}</target></trans-unit>\n"


def segments(*pairs, attributes=""):
    """A unit of version 2."""
    inner = (f"<segment{more}><source>{a}</source><target>{b}</target></segment>" for a, b, more in pairs)
    return f"<unit id='1'{attributes}><notes/>{'<ignorable><source> </source></ignorable>'.join(inner)}</unit>"


@pytest.fixture
def read(write):
    """A function that writes an XLIFF file and reads it: rows, what was left out, what was changed."""

    def read(content, **options):
        found = read_xliff(write("x.xlf", content), **options)
        return found.table.rows(), dict(found.left_out), dict(found.changed)

    return read


def test_version_1_states_languages_for_each_file(write):
    first, second = old(pair("a", "b")), old(pair("c", "d"), source="fr-CA", target="pt-BR")
    both = OLD.format("".join(content.split('1.2">\n')[1].removesuffix("</xliff>\n") for content in (first, second)))
    assert read_xliff(write("x.xliff", both)).table.to_dicts() == [
        {"en": "a", "de": "b", "fr": None, "pt": None},
        {"en": None, "de": None, "fr": "c", "pt": "d"},
    ]
    assert read_xliff(write("x.xliff", both), languages=["fr", "pt-BR"]).table["pt-BR"].to_list() == [None, "d"]


def test_version_2_states_them_once(write):
    content = new(segments(("a", "b", ""), ("c", "d", "")), segments(("e", "f", "")))
    table = read_xliff(write("x.xlf", content)).table
    assert (table.columns, table.rows()) == (["en", "fr"], [("a", "b"), ("c", "d"), ("e", "f")])


def test_segments_of_version_1_are_rows(read):
    marked = (
        '<trans-unit id="1"><source>A. B. C.</source>'
        '<seg-source><mrk mtype="seg" mid="1">A.</mrk> <g id="1"><mrk mtype="seg" mid="2">B.</mrk></g> '
        '<mrk mtype="seg" mid="3">C.</mrk></seg-source>'
        '<target><mrk mtype="seg" mid="2">b.</mrk> <mrk mtype="seg" mid="1">a.</mrk></target></trans-unit>'
    )
    unmarked = marked.replace("<seg-source>", "<note>").replace("</seg-source>", "</note>")
    found, left_out, _ = read(old(marked, unmarked))
    assert found == [("A.", "a."), ("B.", "b."), ("A. B. C.", "b. a.")]
    assert left_out == {"segment without its counterpart": 1}


def test_what_is_no_finished_translation_is_counted(read):
    units = [
        pair("a", "b"),
        pair("c", "d", state=' state="needs-review-translation"'),
        pair("e", "f", state=' state="new"'),
        pair("g", "h", ' approved="no"'),
        pair("i", "j", ' approved="no"', ' state="translated"'),
        pair("k", "l", ' approved="yes"'),
        pair("m", "m", ' translate="no"'),
        pair("n", " "),
        '<trans-unit id="2"><source>o</source><alt-trans><target>p</target></alt-trans></trans-unit>',
    ]
    found, left_out, _ = read(old(*units))
    assert found == [("a", "b"), ("i", "j"), ("k", "l")]
    assert left_out == {
        "translation in state 'needs-review-translation'": 1,
        "translation in state 'new'": 1,
        "translation not approved": 1,
        "unit not to be translated": 1,
        "unit without a translation": 2,
    }
    found, left_out, _ = read(new(segments(("a", "b", ' state="initial"'), ("c", "d", ' state="reviewed"'))))
    assert (found, left_out) == ([("c", "d")], {"translation in state 'initial'": 1})


TAGS = [
    (old, pair, '<g id="1">Hello</g> <x id="2"/>you<x id="3" ctype="lb"/>there<ph id="4">%s</ph>', "Hello you\nthere"),
    (old, pair, '<bpt id="1">&lt;b></bpt>A<ept id="1">&lt;/b></ept> <mrk mtype="term">b</mrk><it id="2">[</it>', "A b"),
    (
        new,
        None,
        'A <pc id="1">b <mrk id="m" type="term">c</mrk></pc><ph id="2"/><sc id="3"/>d<ec startRef="3"/>',
        "A b cd",
    ),
]


@pytest.mark.parametrize(("file", "unit", "inner", "text"), TAGS)
def test_inline_tags(read, file, unit, inner, text):
    content = file(unit(inner, "b") if unit else segments((inner, "b", "")))
    assert read(content) == ([(text, "b")], {}, {"texts without their inline tags": 1})
    kept = inner.replace("&lt;b>", "&lt;b&gt;").replace("&lt;/b>", "&lt;/b&gt;").replace('"/>', '" />')
    assert read(content, markup="keep") == ([(kept, "b")], {}, {})


def test_a_control_character_costs_its_cell(write):
    content = new(segments(('a<cp hex="0001"/>', "b", ""), ("c", "d", "")))
    corpus = Corpus.open(write("x.xlf", content))
    assert corpus.rows["en"].to_list() == ["c"]
    assert corpus.report["cells"] == {"control characters": 1}


def test_languages_that_are_not_stated(read, refused, write):
    own = '<trans-unit id="1"><source xml:lang="en">a</source><target xml:lang="it">b</target></trans-unit>'
    found, left_out, _ = read(old(own, pair("c", "d"), target=""))
    assert (found, left_out) == ([("a", "b")], {"translation whose language is not stated": 1})
    message = refused(Corpus.open, write("x.xlf", new(segments(("a", "b", "")), target="")))
    assert message.endswith("x.xlf: no rows (translation whose language is not stated: 1)")
    found, left_out, _ = read(old(pair("color", "colour"), source="en-US", target="en-GB"))
    assert (found, left_out) == ([], {"translation within one language": 1})
    found, _, _ = read(old(pair("color", "colour"), source="en-US", target="en-GB"), languages=["en-US", "en-GB"])
    assert found == [("color", "colour")]
    _, left_out, _ = read(old(pair("a", "b"), target="klingon"))
    assert left_out == {"text in an unknown language code": 1}


def test_a_file_does_not_inherit_the_language_of_the_one_before(read):
    second = old(pair("c", "d"), target="").split('1.2">\n')[1]
    found, left_out, _ = read(old(pair("a", "b")).replace("</xliff>\n", second))
    assert (found, left_out) == ([("a", "b")], {"translation whose language is not stated": 1})


def test_a_file_cut_short_says_so(write, caplog):
    content = old(pair("a", "b"), pair("c", "d"))
    found = read_xliff(write("x.xlf", content[: content.index("d</target>")]))
    assert found.table.rows() == [("a", "b")]
    assert found.left_out == {"damaged unit: its end is missing": 1, "end of the file (it is cut short)": 1}
    assert "x.xlf has no end (</xliff>)" in caplog.text


NOISE = st.lists(
    st.sampled_from(
        ["<!--", "-->", "<![CDATA[", "]]>", "<trans-unit", "</trans-unit>", "<unit>", "</unit>", "<source>"]
    )
    | st.sampled_from(
        ['"', "<", ">", "&", "</xliff>", "<file ", "</file>", "<target>", "</target>", "\x00", "é", "<x/>"]
    )
).map("".join)


@settings(max_examples=100)
@given(NOISE, st.integers(0, 80), st.integers(0, 20))
def test_damage_in_one_unit_spares_the_others(tmp_path_factory, noise, place, removed):
    good = [pair(f"source {number}", f"target {number}") for number in range(4)]
    damaged = good[1][:place] + noise + good[1][place + removed :]
    path = tmp_path_factory.mktemp("xliff") / "x.xlf"
    path.write_text(old(good[0], damaged, *good[2:]), encoding="utf-8", newline="")
    found = read_xliff(path).table.rows()
    assert found[:1] == [("source 0", "target 0")]
    assert found[-2:] == [("source 2", "target 2"), ("source 3", "target 3")]
