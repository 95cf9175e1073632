"""TMX as tools write it, and as mishaps leave it: a damaged unit costs itself alone."""

import gzip
import itertools
import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from polyalign.corpus import Corpus
from polyalign.corpus.tmx import read_tmx
from polyalign.corpus.xml_pieces import pieces

HEAD = '<?xml version="1.0"?>\n<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n<tmx version="1.4"><header srclang="en"/><body>\n'
TAIL = "</body></tmx>\n"


def unit(*texts, attributes=""):
    """A unit of (language code, inner XML) pairs."""
    variants = (f'<tuv xml:lang="{code}"><seg>{text}</seg></tuv>' for code, text in texts)
    return f"<tu{attributes}>\n{''.join(variants)}\n</tu>\n"


def tmx(*units):
    return HEAD + "".join(units) + TAIL


def numbered(number):
    return unit(("en", f"text {number}"), ("de", f"Text {number} &amp; mehr"))


def rows(*numbers):
    return [(f"text {number}", f"Text {number} & mehr") for number in numbers]


@pytest.fixture
def read(write):
    """A function that writes a TMX file and reads it: rows, what was left out, what was changed."""

    def read(content, **options):
        found = read_tmx(write("x.tmx", content), **options)
        return found.table.rows(), dict(found.left_out), dict(found.changed)

    return read


def test_a_unit_is_a_row_of_all_its_languages(write):
    content = tmx(unit(("EN-US", "a"), ("de", "b"), ("zh-TW", "c")), unit(("en-GB", "d"), ("fr-CA", "e &lt; f")))
    assert read_tmx(write("x.tmx", content)).table.to_dicts() == [
        {"en": "a", "de": "b", "zh-Hant": "c", "fr": None},
        {"en": "d", "de": None, "zh-Hant": None, "fr": "e < f"},
    ]


def test_a_region_is_kept_where_it_is_asked_for(write):
    path = write("x.tmx", tmx(unit(("en-US", "a"), ("pt-BR", "b"), ("pt-PT", "c"))))
    assert read_tmx(path).table.to_dicts() == [{"en": "a", "pt": "b"}]
    assert read_tmx(path).left_out == {"further text of a unit in another region's form of the language": 1}
    found = read_tmx(path, languages=["en", "pt_BR", "pt-PT"])
    assert (found.table.to_dicts(), found.left_out) == ([{"en": "a", "pt-BR": "b", "pt-PT": "c"}], {})


def test_what_is_no_single_text_of_a_known_language_is_counted(read):
    odd = (
        '<tu><tuv xml:lang="en"><seg>a</seg></tuv><tuv lang="de"><seg>b</seg></tuv>'
        '<tuv xml:lang="de"><seg>c</seg></tuv><tuv><seg>d</seg></tuv><tuv xml:lang="fr"/>'
        '<tuv xml:lang="german"><seg>e</seg></tuv></tu>'
    )
    found, left_out, _ = read(tmx(odd, "<tu/>", "<tu tuid='7'> </tu>"))
    assert found == [("a", "b")]
    assert left_out == {
        "further text of a unit in the same language": 1,
        "text without a language code": 1,
        "text without <seg>": 1,
        "text in an unknown language code": 1,
        "damaged unit: nothing in it": 1,
        "unit without text": 1,
    }


INLINE = (
    '<bpt i="1">&lt;b&gt;</bpt>Press<ept i="1">&lt;/b&gt;</ept> <hi type="x">Enter &amp; go</hi><ph x="1" type="lb"/>'
    'now<it pos="end">&lt;/i&gt;</it><ut>{cs1}</ut><ph x="2">&lt;a title="<sub>help</sub>"/&gt;</ph> <b>x</b>'
)


def test_inline_tags_are_stripped_and_counted(read):
    found, left_out, changed = read(tmx(unit(("en", INLINE), ("de", "Eingabe"))))
    assert found == [("Press Enter & go\nnow x", "Eingabe")]
    assert left_out == {"text inside inline tags": 1}
    assert changed == {"texts without their inline tags": 1, "unknown inline tags, whose text was kept": 1}


def test_inline_tags_can_be_kept(read):
    found, _, changed = read(tmx(unit(("en", "A &amp; " + INLINE), ("de", "A &amp; B"))), markup="keep")
    assert found == [("A &amp; " + INLINE.replace('"lb"/>', '"lb" />').replace('"/&gt;', '"/&gt;'), "A &amp; B")]
    assert changed == {}


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [
        ("utf-8", "UTF-8"),
        ("utf-8-sig", "utf-8"),
        ("utf-16", "UTF-16"),  # with a byte order mark
        ("utf-16-le", "utf-16"),
        ("utf-16-be", "utf-16"),
        ("utf-8", "utf-16"),  # saved anew by a program that left the declaration
        ("latin-1", "iso-8859-1"),
        ("cp1252", "windows-1252"),
    ],
)
def test_encodings(write, encoding, declared):
    content = tmx(unit(("en", "naïve"), ("de", "Öl"))).replace('"1.0"', f'"1.0" encoding="{declared}"')
    assert read_tmx(write("x.tmx", content.encode(encoding))).table.rows() == [("naïve", "Öl")]


def test_an_unknown_encoding_is_refused(write, refused):
    for name in ("klingon", "hex", "idna", "unicode_escape", "utf-7"):
        content = tmx(numbered(1)).replace('"1.0"', f'"1.0" encoding="{name}"')
        assert f"declares the encoding '{name}', which cannot" in refused(Corpus.open, write("x.tmx", content))


def test_lost_bytes_cost_their_cell(write):
    content = tmx(unit(("en", "a"), ("de", "(ö)"), ("fr", "c")), numbered(2)).encode("latin-1")
    corpus = Corpus.open(write("x.tmx", content))
    assert corpus.rows.select("en", "de", "fr").rows() == [("a", None, "c"), (*rows(2)[0], None)]
    assert corpus.report["cells"] == {"invalid utf-8": 1}


MENDED = [
    ("AT&T &amp; R&D", "AT&T & R&D", {"bare ampersands": 2}),
    ("a&nbsp;b&eacute;&lt;", "a\xa0bé<", {"HTML entities": 2}),
    ("1 < 2 <3 <= 4", "1 < 2 <3 <= 4", {"bare < signs": 3}),
    ("&#xD83D;&#56832;", "😀", {"characters written as surrogate pairs": 1}),
    ("<![CDATA[&nbsp; <b> & ]]>& &#233;", "&nbsp; <b> & & é", {"bare ampersands": 1}),
]


@pytest.mark.parametrize(("inner", "text", "changed"), MENDED)
def test_what_is_certain_is_mended_and_counted(read, inner, text, changed):
    assert read(tmx(numbered(1), unit(("en", inner), ("de", "x")))) == ([*rows(1), (text, "x")], {}, changed)


@pytest.mark.parametrize("inner", ["a\x02b", "a&#2;b", "a\uffffb", "a&#xFFFE;b"])
def test_a_character_that_xml_forbids_costs_its_cell(write, inner):
    corpus = Corpus.open(write("x.tmx", tmx(unit(("en", inner), ("de", "b"), ("fr", "c")))))
    assert corpus.rows.select("de", "fr").rows() == [("b", "c")]
    assert corpus.report["cells"] == {"control characters": 1}


def test_half_a_surrogate_pair_costs_its_cell(write):
    corpus = Corpus.open(write("x.tmx", tmx(unit(("en", "a&#xD83D;"), ("de", "b"), ("fr", "c")))))
    assert corpus.report["cells"] == {"invalid utf-8": 1}


DAMAGED = [
    (unit(("en", "a <b> c"), ("de", "d")), {"mismatched tag": 1}),
    (unit(("en", "&company;"), ("de", "d")), {"undefined entity": 1}),
    (unit(("en", "a"), ("de", "d")).replace("</tu>", ""), {"its end is missing": 1}),
    (unit(("en", "a"), ("de", "d")).replace("<tu>", ""), {"its start is missing": 1}),
    (unit(("en", "a"), ("en", "b")).replace('"en"', '"en" xml:lang="de"'), {"duplicate attribute": 1}),
    (unit(("en", "<hi>" * 200 + "</hi>" * 200), ("de", "d")), {"nested too deeply": 1}),
    (unit(("en", "a <!-- b"), ("de", "d")), {"unclosed token": 1}),
    (unit(("en", "a <![CDATA[ b"), ("de", "d")), {"unclosed CDATA section": 1}),
]


@pytest.mark.parametrize(("damaged", "reasons"), DAMAGED)
def test_a_damaged_unit_costs_itself(read, damaged, reasons):
    left_out = {f"damaged unit: {reason}": count for reason, count in reasons.items()}
    assert read(tmx(numbered(1), damaged, numbered(3), numbered(4))) == (rows(1, 3, 4), left_out, {})


def test_comments_are_passed_over_and_cdata_is_text(read):
    sample = '<tu><tuv xml:lang="en"><seg>no unit</seg></tuv></tu>'
    texts = unit(("en", f"<![CDATA[{sample}]]>"), ("de", "b<!-- c </seg> -->"))
    found, left_out, _ = read(tmx(f"<!-- {numbered(1)} -->", numbered(2), texts, numbered(3)))
    assert (found, left_out) == ([*rows(2), (sample, "b"), *rows(3)], {})


def test_entities_are_not_expanded(read, tmp_path):
    (tmp_path / "secret").write_text("secret")
    doctype = '<!DOCTYPE tmx [<!ENTITY a "ha"><!ENTITY b "&a;&a;"><!ENTITY c SYSTEM "secret">]>'
    content = tmx(unit(("en", "&b;"), ("de", "x")), unit(("en", "&c;"), ("de", "x")), numbered(3))
    content = content.replace('<!DOCTYPE tmx SYSTEM "tmx14.dtd">', doctype)
    assert read(content) == (rows(3), {"damaged unit: undefined entity": 2}, {})


def test_two_files_in_one_are_read_to_the_end(read):
    assert read(tmx(numbered(1)) + tmx(numbered(2))) == (rows(1, 2), {}, {})


def test_a_file_cut_short_says_so(write, caplog):
    found = read_tmx(write("x.tmx", tmx(numbered(1), numbered(2))[: -len(TAIL) - 10]))
    assert found.table.rows() == rows(1)
    assert found.left_out == {"damaged unit: its end is missing": 1, "end of the file (it is cut short)": 1}
    assert "x.tmx has no end (</tmx>): it is cut short" in caplog.text


def test_a_file_without_units_is_refused(write, refused):
    assert refused(Corpus.open, write("x.tmx", tmx())).endswith("x.tmx: no rows")
    message = refused(Corpus.open, write("x.tmx", HEAD[:-20]))
    assert message.endswith("x.tmx: no rows (end of the file (it is cut short): 1)")
    assert "no rows" in refused(Corpus.open, write("x.tmx", ""))


def test_a_compressed_file(write, refused):
    content = gzip.compress(tmx(numbered(1)).encode())
    assert read_tmx(write("x.tmx.gz", content)).table.rows() == rows(1)
    assert "x.tmx.gz is damaged" in refused(Corpus.open, write("x.tmx.gz", content[:-9]))


def test_reading_does_not_wait_for_the_end():
    endless = itertools.chain([HEAD], map(numbered, itertools.count()))
    found = itertools.islice(pieces(endless, units=("tu",), around=("tmx",)), 4)
    assert [name for name, _ in found] == ["tmx", "tu", "tu", "tu"]


CONTENT = tmx(
    numbered(1), "<!-- <tu> -->", unit(("en", "<![CDATA[</tu>]]>")), "<tu/>", numbered(3), "</tu>", numbered(4)[:-5]
)


@given(st.lists(st.integers(0, len(CONTENT)), max_size=40).map(sorted))
def test_block_boundaries_do_not_matter(cuts):
    blocks = [CONTENT[start:end] for start, end in itertools.pairwise([0, *cuts, len(CONTENT)])]
    options = {"units": ("tu",), "around": ("tmx",)}
    assert list(pieces(iter(blocks), **options)) == list(pieces(iter([CONTENT]), **options))
    each = list(pieces(iter(CONTENT), **options))
    assert each == list(pieces(iter([CONTENT]), **options))


GOOD = [numbered(number) for number in range(5)]


@settings(max_examples=60)
@given(st.data())
def test_a_cut_anywhere_keeps_the_whole_units(tmp_path_factory, data):
    content = tmx(*GOOD).encode()
    cut = data.draw(st.integers(len(HEAD), len(content)))
    path = tmp_path_factory.mktemp("tmx") / "x.tmx"
    path.write_bytes(content[:cut])
    ends = itertools.accumulate((len(good) for good in GOOD), initial=len(HEAD))
    whole = sum(end - len("\n") <= cut for end in ends) - 1
    found = read_tmx(path)
    assert found.table.rows() == rows(*range(whole))
    assert found.left_out.get("end of the file (it is cut short)", 0) == (cut < len(content) - len("\n"))


NOISE = st.text(st.sampled_from(string.printable + "\x00\x85\u2028\u202e\uffff")) | st.lists(
    st.sampled_from(["<!--", "-->", "<![CDATA[", "]]>", "<tu", "<tu>", "</tu>", "<tuv", '"', "<", ">", "&", "</tmx>"])
    | st.sampled_from(["<tmx ", "</seg>", "<seg>", "<?", "<!DOCTYPE x [", "&#0;", "é", " x='", "/>"])
).map("".join)


@settings(max_examples=150)
@given(NOISE, st.integers(0, len(GOOD[2])), st.integers(0, 30))
@example("<!--", 30, 0)
@example("<![CDATA[", 30, 0)
def test_damage_in_one_unit_spares_the_others(tmp_path_factory, noise, place, removed):
    damaged = GOOD[2][:place] + noise + GOOD[2][place + removed :]
    path = tmp_path_factory.mktemp("tmx") / "x.tmx"
    path.write_text(tmx(*GOOD[:2], damaged, *GOOD[3:]), encoding="utf-8", newline="")
    table = read_tmx(path).table
    found = table.select("en", "de").rows()
    assert found[:2] == rows(0, 1)
    assert found[-2:] == rows(3, 4)
