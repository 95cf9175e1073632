"""PO catalogues as translators leave them; each of the two columns is checked against what polib itself reads."""

import os
from pathlib import Path

import polib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyalign.corpus import Corpus, import_corpus
from polyalign.corpus.po import read_po

DATA = Path(os.environ.get("POLYALIGN_DATA", Path(__file__).parents[3] / "shared" / "data"))

HEADER = '# Translators\nmsgid ""\nmsgstr ""\n"Language: {}\\n"\n"Content-Type: text/plain; charset={}\\n"\n"{}\\n"\n\n'


def po(*entries, language="de", charset="UTF-8", plural="X-Y: Z"):
    return HEADER.format(language, charset, plural) + "\n".join(entries)


def entry(english, translation, comment="#: a.c:1"):
    return f'{comment}\nmsgid "{english}"\nmsgstr "{translation}"\n'


@pytest.fixture
def read(write):
    """A function that writes a PO file and reads it: rows, what was left out, what was changed."""

    def read(content, name="x.po", **options):
        found = read_po(write(name, content), **options)
        return found.table.rows(), dict(found.left_out), dict(found.changed)

    return read


def test_an_entry_is_a_row(read):
    long = 'msgctxt "menu"\nmsgid ""\n"a \\"b\\"\\n"\n"c"\nmsgstr "ä\\t"\n"\\\\"\n'
    found, left_out, changed = read(po(entry("a", "b"), long, "# the end"))
    assert found == [("a", "b"), ('a "b"\nc', "ä\t\\")]
    assert (left_out, changed) == ({}, {})


def test_what_is_no_finished_translation_is_counted(read):
    entries = [
        entry("a", "b", "#, c-format"),
        entry("c", "d", "#, c-format, fuzzy"),
        entry("c", "d", "#,fuzzy"),
        entry("e", ""),
        '#~ msgid "g"\n#~ msgstr "h"\n',
        '#, fuzzy\n#| msgid "old"\n#~| msgid "older"\n#~ msgid "i"\n#~ msgstr "j"\n',
        entry("k", "l", "#no space\n#| msgid garbage"),
    ]
    found, left_out, _ = read(po(*entries))
    assert found == [("a", "b"), ("k", "l")]
    assert left_out == {"fuzzy entry": 2, "obsolete entry": 2, "entry without a translation": 1}


TWO = "Plural-Forms: nplurals=2; plural=(n != 1);"
RUSSIAN = (
    "Plural-Forms: nplurals=3; plural=(n%10==1 && n%100!=11 ? 0 : n%10>=2 && n%10<=4 && "
    "(n%100<10 || n%100>=20) ? 1 : 2);"
)
SLOVENIAN = "Plural-Forms: nplurals=4; plural=(n%100==1 ? 1 : n%100==2 ? 2 : n%100==3 || n%100==4 ? 3 : 0);"
LATVIAN = "Plural-Forms: nplurals=3; plural=(n%10==1 && n%100!=11 ? 0 : n != 0 ? 1 : 2);"
ONE = "Plural-Forms: nplurals=1; plural=0;"
SINGULAR, PLURAL = "singular without a form of its own", "plural with several forms"


@pytest.mark.parametrize(
    ("rule", "forms", "rows", "left_out"),
    [
        (TWO, 2, [("file", "0"), ("files", "1")], {}),
        ("Plural-Forms: nplurals=2; plural=n>1;", 2, [("file", "0"), ("files", "1")], {}),
        (RUSSIAN, 3, [("file", "0")], {PLURAL: 1}),
        (SLOVENIAN, 4, [("file", "1")], {PLURAL: 1}),
        (LATVIAN, 3, [("file", "0"), ("files", "1")], {}),
        (ONE, 1, [("files", "0")], {SINGULAR: 1}),
        ("X: Y", 2, [("file", "0"), ("files", "1")], {}),
        ("X: Y", 1, [("files", "0")], {SINGULAR: 1}),
        ("X: Y", 3, [], {SINGULAR: 1, PLURAL: 1}),
        ("Plural-Forms: nplurals=2; plural=import os;", 2, [("file", "0"), ("files", "1")], {}),
        ("Plural-Forms: nplurals=2; plural=1/0;", 2, [("file", "0"), ("files", "1")], {}),
        (TWO, 1, [("file", "0")], {"entry without a translation": 1}),
    ],
)
def test_plural_forms_are_paired_where_they_are_certain(read, rule, forms, rows, left_out):
    translations = "".join(f'msgstr[{form}] "{form}"\n' for form in range(forms))
    plural = f'msgid "file"\nmsgid_plural "files"\n{translations}'
    assert read(po(plural, plural=rule))[:2] == (rows, left_out)


@pytest.mark.parametrize(
    ("name", "header", "tag"),
    [
        ("x.po", "de", "de"),
        ("x.po", "pt_BR", "pt-BR"),
        ("x.po", "sr@latin", "sr-Latn"),
        ("x.po", "de_DE.UTF-8", "de-DE"),
        ("fr/x.po", "de", "de"),
        ("es/LC_MESSAGES/x.po", "", "es"),
        ("ceb/LC_MESSAGES/x.po", "", "ceb"),
        ("es/bin/x.po", "", "es"),
        ("bin/es/war.po", "", "es"),
        ("es.po", "", "es"),
        ("po/ceb.po", "", "ceb"),
        ("django.zh_TW.po", "", "zh-TW"),
        ("django.es.po.gz", "", "es"),
    ],
)
def test_the_language_is_that_of_the_header_else_of_the_path(write, tmp_path, name, header, tag):
    import gzip

    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    content = po(entry("a", "b"), language=header).encode()
    path = write(name, gzip.compress(content) if name.endswith(".gz") else content)
    path = Path(os.path.relpath(path, tmp_path))
    os.chdir(tmp_path)
    assert read_po(path).table.columns == ["en", tag]


@pytest.fixture(autouse=True)
def _back(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_an_unknown_language_says_how_to_give_it(write, refused):
    write("x.po", po(entry("a", "b"), language=""))
    message = refused(Corpus.open, "x.po")
    assert message == (
        "x.po does not say its language; add 'Language: es' (its code) to the header, or name the file or its folder "
        "after it, as es.po or es/x.po"
    )


def test_a_region_is_dropped_where_the_language_is_asked_for_without_it(write):
    path = write("x.po", po(entry("a", "b"), language="de_AT"))
    assert read_po(path, ["en", "de"]).table.columns == ["en", "de"]
    assert read_po(path, ["en", "de-AT"]).table.columns == ["en", "de-AT"]
    assert read_po(path, ["en", "fr"]).table.columns == ["en"]


def test_english_is_not_translated_into_itself(read):
    content = po(entry("colour", "color"), language="en")
    assert read(content) == ([], {"translation within one language": 1}, {})
    assert read(content.replace("Language: en", "Language: en_US"))[0] == [("colour", "color")]


def test_a_template_needs_no_language(read, refused, write):
    template = po(entry("a", ""), entry("b", ""), language="", charset="CHARSET")
    assert read(template, "x.pot") == ([], {"entry without a translation": 2}, {})
    assert "x.pot: no rows (entry without a translation: 2)" in refused(Corpus.open, write("x.pot", template))


@pytest.mark.parametrize("charset", ["ISO-8859-15", "utf-8", "CHARSET"])
def test_encodings(read, charset):
    content = po(entry("a", "für 5 €"), charset=charset)
    assert read(content.encode("utf-8" if charset == "CHARSET" else charset))[0] == [("a", "für 5 €")]


def test_odd_bytes_and_line_breaks_cost_nothing_else(write):
    content = po(entry("a", "(\xe4)"), entry("b\u2028c", "d\u2028e"), entry("f", "x\x0c\x85\ry"), entry("h", "i\ue000"))
    content = content.replace("\n", "\r\n").encode().replace("\xe4".encode(), b"\xe4")
    corpus = Corpus.open(write("x.po", b"\xef\xbb\xbf" + content))
    assert corpus.rows.select("en", "de").rows() == [("b\u2028c", "d\u2028e"), ("h", "i\ue000")]
    assert corpus.report["cells"] == {"invalid utf-8": 1, "control characters": 1}


DAMAGED = [
    'msgid "x"\nmsgstr "y\n',
    'msgid "x"\nmsgstr y"\n',
    'msgid "x"\n',
    'msgstr "y"\n',
    'msgid "x"\nmsgstr "a "b" c"\n',
    'msgid "x"\nmsgstr "y"\nmsgstr "z"\n',
    'msgid "x"\nmsgstr "y"\ngarbage\n"z"\n',
    "<<<<<<< HEAD\n",
    'msgid "x"\n<<<<<<< HEAD\nmsgstr "y"\n',
    '#: b.c\n\n"y"\n',
    'msgid "x"\nmsgstr[0] "y"\n',
    'msgid "x\\"\nmsgstr "y"\n',
]


@pytest.mark.parametrize("damaged", DAMAGED)
def test_a_damaged_entry_costs_itself(read, caplog, damaged):
    found, left_out, _ = read(po(entry("a", "b"), damaged, entry("c", "d")))
    assert (found, left_out) == ([("a", "b"), ("c", "d")], {"damaged unit: not the syntax of PO": 1})
    assert "x.po, line " in caplog.text


def test_strings_go_on_after_comments_and_blank_lines(read):
    assert read(po('msgid "a"\n\nmsgstr "b"\n\n"c"\n# d\n"e"\n', entry("f", "g")))[0] == [("a", "bce"), ("f", "g")]


MARKUP = [
    ("Use :func:`~os.path.join` or :meth:`!x.y`", "Use join or x.y"),
    ("See :ref:`the list <faq-index>` and `Python <https://a.b>`_, `x`__", "See the list and Python, x"),
    ("``*args`` is *not* **bold**, 2 * 3 * 4", "*args is not bold, 2 * 3 * 4"),
    ("see :pep:`8`; :kbd:`Ctrl`\\ s", "see PEP 8; Ctrls"),
    ("例えば\\ ``print``\\ を *使う* 。``a``と", "例えばprintを 使う 。aと"),
    ("as follows::", "as follows:"),
    ("as follows: ::", "as follows:"),
    ("<b>Bold</b> <a href='x'>link</a><br/>x < y", "Bold link\nx < y"),
    ("*args and **kwargs, a_ and `unclosed", "*args and **kwargs, a_ and `unclosed"),
    ("`<https://a.b>`_", "<https://a.b>"),
]


@pytest.mark.parametrize(("text", "plain"), MARKUP)
def test_markup_is_kept_unless_asked_otherwise(read, text, plain):
    content = po(entry("a", text.replace("\\", "\\\\")))
    assert read(content) == ([("a", text)], {}, {})
    changed = {"texts without their markup": 1} if text != plain else {}
    assert read(content, markup="strip") == ([("a", plain)], {}, changed)


def test_polib_is_asked_for(write, refused, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "polib", None)
    assert "pip install 'polyalign[po]'" in refused(Corpus.open, write("x.po", po(entry("a", "b"))))


def test_catalogues_are_joined_on_the_english(write, tmp_path):
    paths = [
        write("es.po", po(entry("Open", "Abrir"), entry("Save", "Guardar"), entry("Quit", ""), language="es")),
        write("ja.po", po(entry("Open", "開く"), entry("Quit", "終了"), language="ja")),
    ]
    corpus = import_corpus(paths, tmp_path / "out")
    assert corpus.rows.drop("row_id").rows() == [
        ("Open", "Abrir", "開く"),
        ("Save", "Guardar", None),
        ("Quit", None, "終了"),
    ]
    assert corpus.report["left_out"] == {"entry without a translation": 1}
    assert Corpus.open(tmp_path / "out").report == corpus.report


STRINGS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\ufffd\r"), min_size=1).filter(
    str.strip
)


@settings(max_examples=60)
@given(st.lists(st.tuples(STRINGS, STRINGS), min_size=1, max_size=4))
def test_what_polib_writes_is_read_as_it_was(tmp_path_factory, pairs):
    catalogue = polib.POFile()
    catalogue.metadata = {"Language": "de", "Content-Type": "text/plain; charset=utf-8"}
    for english, translation in pairs:
        catalogue.append(polib.POEntry(msgid=english, msgstr=translation))
    path = tmp_path_factory.mktemp("po") / "x.po"
    path.write_text(str(catalogue), encoding="utf-8", newline="")
    found = read_po(path)
    assert found.table.rows() == pairs


GOOD = [entry(f"text {number}", f"Text {number}") for number in range(4)]
NOISE = st.lists(
    st.sampled_from(["msgid ", "msgstr ", "msgctxt ", '"', '"x"', "\n", "\n\n", "#", "#~ ", "#,", "\\", "garbage", "é"])
    | st.sampled_from(["\x00", "\u2028", "msgid_plural ", "msgstr[0] ", "<<<<<<<", "=======", " ", "\u202e", '\n"'])
).map("".join)


@settings(max_examples=200)
@given(NOISE, st.integers(1, len(GOOD[1]) - 1), st.integers(0, 20))
def test_damage_in_one_entry_spares_the_others(tmp_path_factory, noise, place, removed):
    damaged = GOOD[1][:place] + noise + GOOD[1][place + removed : -1] + "\n"
    path = tmp_path_factory.mktemp("po") / "x.po"
    path.write_text(po(GOOD[0], damaged, *GOOD[2:]), encoding="utf-8", newline="")
    found = read_po(path).table.rows()
    assert found[:1] == [("text 0", "Text 0")]
    assert found[-2:] == [("text 2", "Text 2"), ("text 3", "Text 3")]


def test_the_real_catalogues_give_the_rows_of_the_real_corpus(tmp_path):
    if not (DATA / "po").is_dir():
        pytest.skip(f"{DATA / 'po'} is not there; set POLYALIGN_DATA to the folder of the real data")
    paths = sorted((DATA / "po").glob("*/tutorial/*.po"))
    corpus = import_corpus(paths, tmp_path / "out")
    assert sorted(corpus.languages) == ["en", "es", "ja", "pl", "tr"]
    english = {entry.msgid.strip() for path in paths for entry in polib.pofile(str(path)) if not entry.obsolete}
    expected = Corpus.open(DATA / "multiway" / "python-docs.parquet").rows.drop("row_id")
    length = expected["en"].str.len_chars()
    expected = expected.filter((length >= 20) & (length <= 400), expected["en"].is_in(list(english)))
    found = expected.select("en").join(corpus.rows, on="en", how="left", maintain_order="left")
    cells = [
        (tag, theirs, ours)
        for tag in ("es", "ja", "pl", "tr")
        for theirs, ours in zip(expected[tag], found[tag], strict=True)
        if theirs is not None
    ]
    different = [tag for tag, theirs, ours in cells if theirs != ours]
    assert (len(expected), len(cells), different) == (1042, 3058, ["es", "es"])
