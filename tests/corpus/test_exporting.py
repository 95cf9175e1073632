"""A corpus that leaves and comes back is the same corpus."""

import json
from xml.etree import ElementTree

import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from polyalign.corpus import Corpus, export_corpus, import_corpus
from polyalign.corpus.lines import BREAKS, escape_line, unescape_line

ROWS = [
    ("a < b & c", 'Ä "q"', None),
    ("one\ntwo\u2028three", "\ufeffeins", "un\\ndeux"),
    ("]]> &amp; <seg>", None, "é\tè"),
]


def corpus_of(*rows, tags=("en", "de", "pt-BR")):
    return Corpus.from_texts(pl.DataFrame(rows, schema=dict.fromkeys(tags, pl.String), orient="row"), "rows")


def texts(corpus):
    return corpus.rows.drop("row_id").rows()


@pytest.fixture
def there_and_back(tmp_path):
    """A function that exports a corpus and imports the result."""

    def there_and_back(corpus, name, **options):
        export_corpus(corpus, tmp_path / name, **options)
        return import_corpus([tmp_path / name], tmp_path / f"{name}-again")

    return there_and_back


def test_tmx(there_and_back, tmp_path):
    corpus = corpus_of(*ROWS)
    again = there_and_back(corpus, "x.tmx", to="tmx")
    assert texts(again) == ROWS
    assert again.languages == ("en", "de", "pt-BR")
    assert again.fingerprint == corpus.fingerprint
    tree = ElementTree.parse(tmp_path / "x.tmx").getroot()
    assert (tree.tag, tree.attrib, tree.find("header").attrib["srclang"]) == ("tmx", {"version": "1.4"}, "en")
    first = tree.find("body/tu")
    assert first.attrib == {"tuid": corpus.rows["row_id"][0]}
    codes = [variant.get("{http://www.w3.org/XML/1998/namespace}lang") for variant in first]
    assert codes == ["en", "de"]


def test_tmx_without_english_has_no_source_language(tmp_path):
    export_corpus(corpus_of(("a", "b"), tags=("de", "fr")), tmp_path / "x.tmx", to="tmx")
    assert 'srclang="*all*"' in (tmp_path / "x.tmx").read_text()


def test_tmx_leaves_out_what_xml_forbids(tmp_path, refused):
    corpus = corpus_of(("a\ufffe", "b", "c"), ("d\uffff", "e", None), ("f", "g", None))
    manifest = export_corpus(corpus, tmp_path / "x.tmx", to="tmx")
    assert (manifest["rows"], manifest["left_out"]) == (
        2,
        {"characters that XML does not allow": 2, "one language only": 1},
    )
    assert texts(Corpus.open(tmp_path / "x.tmx")) == [
        (None, "b", "c"),
        ("f", "g", None),
    ]
    with_none = corpus_of(("d\uffff", "e", None))
    assert "no row is left to export" in refused(export_corpus, with_none, tmp_path / "y.tmx", to="tmx")
    assert not (tmp_path / "y.tmx").exists()


def test_moses_has_one_line_a_text(there_and_back, tmp_path):
    corpus = corpus_of(*ROWS)
    assert texts(there_and_back(corpus, "lines", to="moses")) == [ROWS[1]]
    english, german, portuguese = (tmp_path / "lines" / f"corpus.{tag}" for tag in corpus.languages)
    assert english.read_text() == "one\\ntwo\\u2028three\n"
    assert german.read_text() == "\\ufeffeins\n"
    assert portuguese.read_text() == "un\\\\ndeux\n"
    manifest = json.loads((tmp_path / "lines" / "manifest.json").read_text())
    assert (manifest["kind"], manifest["rows"], manifest["line_breaks"]) == ("moses", 1, "escape")
    assert manifest["left_out"] == {"text missing in one of the languages": 2}


def test_moses_may_refuse_line_breaks(there_and_back, tmp_path, refused):
    corpus = corpus_of(("a\\n", "b", None), ("c", "d\ne", None), ("f", "g", None))
    pair = {"to": "moses", "languages": ["de", "en"], "line_breaks": "refuse"}
    message = refused(export_corpus, corpus, tmp_path / "lines", **pair)
    assert message == "1 texts in 'de' hold line breaks; write them as \\n with line breaks 'escape'"
    assert not list(tmp_path.iterdir())
    sound = corpus_of(("a\\n", "b"), ("f", "g"), tags=("en", "de"))
    assert texts(there_and_back(sound, "lines", to="moses", line_breaks="refuse")) == [("a\\n", "b"), ("f", "g")]
    assert (tmp_path / "lines" / "corpus.en").read_text() == "a\\n\nf\n"


def test_moses_needs_a_complete_row(tmp_path, refused):
    corpus = corpus_of(ROWS[0], ROWS[2])
    message = refused(export_corpus, corpus, tmp_path / "lines", to="moses")
    assert message == "no row has text in all of en, de, pt-BR; choose fewer languages"


def test_a_datasets_folder(there_and_back, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    corpus = corpus_of(*ROWS)
    assert there_and_back(corpus, "set", to="datasets").fingerprint == corpus.fingerprint
    loaded = datasets.load_dataset(str(tmp_path / "set"))
    assert loaded["train"].to_polars().equals(corpus.rows)
    assert texts(Corpus.open(f"datasets:{tmp_path / 'set'}")) == ROWS
    card = (tmp_path / "set" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["language"] == ["de", "en", "pt"]
    assert "| `pt-BR` | Portuguese (BR) | 2 |" in card
    assert corpus.fingerprint in card


def test_languages_are_chosen_and_the_rest_is_counted(tmp_path):
    manifest = export_corpus(corpus_of(*ROWS), tmp_path / "x.tmx", to="tmx", languages=["de", "pt-BR"])
    assert (manifest["languages"], manifest["rows"], manifest["left_out"]) == (
        ("de", "pt-BR"),
        1,
        {"one language only": 2},
    )


def test_what_stands_there_is_not_replaced_unasked(tmp_path, refused, caplog):
    caplog.set_level("INFO")
    one, two = corpus_of(("a", "b"), tags=("en", "de")), corpus_of(("c", "d"), tags=("en", "de"))
    export_corpus(one, tmp_path / "x.tmx", to="tmx")
    assert "x.tmx exists; choose another --out, or replace" in refused(export_corpus, two, tmp_path / "x.tmx", to="tmx")
    export_corpus(two, tmp_path / "x.tmx", to="tmx", force=True)
    assert texts(Corpus.open(tmp_path / "x.tmx")) == [("c", "d")]
    first = export_corpus(one, tmp_path / "lines", to="moses")
    assert export_corpus(two, tmp_path / "lines", to="moses")["fingerprint"] == first["fingerprint"]
    assert "is complete and was left alone" in caplog.text
    export_corpus(two, tmp_path / "lines", to="moses", force=True)
    assert (tmp_path / "lines" / "corpus.en").read_text() == "c\n"
    one.write(tmp_path / "corpus")
    message = refused(export_corpus, one, tmp_path / "corpus", to="datasets", force=True)
    assert message.endswith("corpus holds something else (kind 'corpus'); choose another --out")
    assert "exists; choose another --out" in refused(export_corpus, one, tmp_path, to="tmx", force=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    assert "is not a complete polyalign output" in refused(
        export_corpus, one, tmp_path / "mine", to="moses", force=True
    )


def test_an_unknown_format_is_refused(tmp_path, refused):
    message = refused(export_corpus, corpus_of(*ROWS), tmp_path / "x", to="tmxx")
    assert message == "cannot export to 'tmxx' (did you mean 'tmx'?); allowed are tmx, moses, datasets"


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    import polyalign.corpus.exporting as exporting

    def fails(text, *_):
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "escape", fails)
    monkeypatch.setattr(exporting, "escape_line", fails)
    for to in ("tmx", "moses"):
        with pytest.raises(KeyboardInterrupt):
            export_corpus(corpus_of(*ROWS), tmp_path / to, to=to)
    assert not list(tmp_path.iterdir())


TEXT = st.text(st.characters(exclude_categories=("Cs",)) | st.sampled_from("\\nu0a" + BREAKS))


@given(TEXT)
def test_an_escaped_line_is_one_line_and_comes_back(text):
    line = escape_line(text)
    assert line.splitlines() in ([], [line])
    assert unescape_line(line) == text


CLEAN = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), include_characters="\n\t", exclude_characters="\ufffd\ufffe\uffff")
    | st.sampled_from('<>&"\n\u2028\\n]')
)


@settings(max_examples=40)
@given(st.lists(st.tuples(CLEAN, CLEAN), min_size=1, max_size=5))
def test_every_format_gives_the_rows_back(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("exports")
    corpus = corpus_of(("hello", "hallo"), *rows, tags=("en", "de"))
    for to, name in (("tmx", "x.tmx"), ("moses", "lines"), ("datasets", "set")):
        manifest = export_corpus(corpus, folder / name, to=to)
        assert (manifest["rows"], manifest["left_out"]) == (len(corpus), {})
        assert import_corpus([folder / name], folder / f"{to}-again").fingerprint == corpus.fingerprint
