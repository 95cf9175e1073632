import json
import logging
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyalign.corpus import Corpus
from polyalign.errors import UserError
from polyalign.translation.engines.translation_memory import MemoryEngine, MemorySettings

ROWS = [
    {"en": "Good morning.", "de": "Guten Morgen.", "ja": "おはよう。"},
    {"en": "Café  au\nlait", "de": "Milchkaffee"},
    {"en": "Good  morning.", "de": "Moin.", "ja": "おはよう。"},
    {"en": "Thank you.", "ja": "ありがとう。"},
    {"de": "Danke.", "ja": "ありがとう。"},
    {"en": "Thank you.", "de": "Danke."},
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def memory(tmp_path):
    return MemoryEngine(write(tmp_path / "ours.jsonl", ROWS), MemorySettings(licence="MIT"))


def look_up(engine, texts, language="de"):
    return {index: found.text for batch in engine.translate(texts, language) for index, found in batch}


def test_known_texts_are_answered_and_the_others_left_out(memory):
    assert look_up(memory, ["Good evening.", "Good morning.", "good morning.", "Thank you."]) == {
        1: "Guten Morgen.",
        3: "Danke.",
    }
    assert look_up(memory, ["Thank you.", "Thank you."], "ja") == {0: "ありがとう。", 1: "ありがとう。"}
    assert list(memory.translate(["Good evening."], "de")) == []
    assert list(memory.translate([], "de")) == []
    ((_, translation),) = next(memory.translate(["Thank you."], "de"))
    assert (translation.score, translation.truncated, translation.error) == (None, False, None)
    memory.close()


def test_white_space_and_unicode_form_do_not_matter(memory):
    for english in ("Café au lait", "Café  au\nlait", " Cafe\u0301\u00a0au\tlait\n"):
        assert look_up(memory, [english]) == {0: "Milchkaffee"}


def test_of_several_translations_the_first_counts_and_the_log_tells(memory, caplog):
    caplog.set_level(logging.INFO)
    look_up(memory, ["Good morning."])
    assert "ours.jsonl: 1 of 3 English texts have several de translations; the first counts" in caplog.text
    caplog.clear()
    assert look_up(memory, ["Good  morning."], "ja") == {0: "おはよう。"}
    assert "several" not in caplog.text


@given(st.lists(st.tuples(st.text("ab \u0301\u00e9\n", min_size=1), st.sampled_from("xyz")), min_size=1))
def test_it_answers_as_a_plain_search_does(tmp_path_factory, pairs):
    def plain(text):
        return " ".join(unicodedata.normalize("NFC", text).split())

    rows = [{"en": english, "de": german} for english, german in pairs] + [{"en": "known", "de": "bekannt"}]
    engine = MemoryEngine(write(tmp_path_factory.mktemp("memory") / "m.jsonl", rows), MemorySettings())
    asked = [english for english, _ in pairs] + ["", "b a", "known"]
    expected = {}
    for index, text in enumerate(asked):
        found = [row["de"] for row in rows if plain(row["en"]) == plain(text) and plain(text)]
        expected |= {index: found[0]} if found else {}
    assert look_up(engine, asked) == expected


def test_provenance(memory, tmp_path):
    found = memory.provenance("de")
    assert (found.engine, found.licence, found.settings) == ("memory:ours.jsonl", "MIT", {})
    assert memory.provenance("fr") is None
    assert memory.provenance("en") is None
    (tmp_path / "moved").mkdir()
    moved = MemoryEngine(write(tmp_path / "moved" / "ours.jsonl", ROWS), MemorySettings())
    assert moved.provenance("ja").key == found.key
    changed = MemoryEngine(write(tmp_path / "ours.jsonl", ROWS[1:]), MemorySettings())
    assert changed.provenance("de").key != found.key
    assert changed.provenance("de").licence == "unknown"


def test_a_corpus_folder_is_a_memory(tmp_path, gappy_file, sample_rows):
    Corpus.open(gappy_file).write(tmp_path / "corpus")
    engine = MemoryEngine(str(tmp_path / "corpus"), MemorySettings())
    texts = sample_rows["en"].head(4).to_list()
    assert look_up(engine, texts, "de") == {n: sample_rows["de"][n] for n in (1, 2)}
    assert look_up(engine, texts, "zh") == {n: sample_rows["zh"][n] for n in (1, 2, 3)}
    assert engine.provenance("de").revision == Corpus.open(gappy_file).fingerprint


def test_tmx_is_a_memory(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    units = "".join(
        f'<tu><tuv xml:lang="EN-US"><seg>{english}</seg></tuv><tuv xml:lang="de-DE"><seg>{german}</seg></tuv></tu>'
        for english, german in [("Good morning.", "Guten Morgen."), ("Thank <bpt i='1'/>you.", "Danke."), ("Bye.", "")]
    )
    header = '<header creationtool="x" segtype="sentence" adminlang="en" srclang="EN-US" datatype="plaintext"/>'
    (tmp_path / "ours.tmx").write_text(f'<tmx version="1.4">{header}<body>{units}</body></tmx>')
    engine = MemoryEngine(str(tmp_path / "ours.tmx"), MemorySettings())
    assert look_up(engine, ["Good morning.", "Thank you.", "Bye."]) == {0: "Guten Morgen.", 1: "Danke."}
    assert "ours.tmx: left out of this memory are one language only: 1, empty: 1" in caplog.text
    (tmp_path / "empty.tmx").write_text(f'<tmx version="1.4">{header}<body></body></tmx>')
    with pytest.raises(UserError, match=r"empty\.tmx: no rows"):
        MemoryEngine(str(tmp_path / "empty.tmx"), MemorySettings()).provenance("de")


def test_po_and_xliff_are_memories(tmp_path):
    (tmp_path / "de.po").write_text(
        'msgid ""\nmsgstr "Language: de\\nContent-Type: text/plain; charset=UTF-8\\n"\n\n'
        'msgid "Good morning."\nmsgstr "Guten Morgen."\n\n#, fuzzy\nmsgid "Bye."\nmsgstr "Hallo."\n'
    )
    (tmp_path / "de.xlf").write_text(
        '<xliff version="1.2" xmlns="urn:oasis:names:tc:xliff:document:1.2">'
        '<file source-language="en" target-language="de" datatype="plaintext" original="x"><body><trans-unit id="1">'
        "<source>Good morning.</source><target>Guten Morgen.</target></trans-unit></body></file></xliff>"
    )
    for name in ("de.po", "de.xlf"):
        engine = MemoryEngine(str(tmp_path / name), MemorySettings())
        assert look_up(engine, ["Good morning.", "Bye."]) == {0: "Guten Morgen."}


def test_the_packaged_sample_is_a_memory(sample_rows):
    engine = MemoryEngine("sample", MemorySettings())
    assert engine.provenance("fr").engine == "memory:sample"
    assert look_up(engine, sample_rows["en"].to_list(), "hi") == dict(enumerate(sample_rows["hi"]))


def test_a_memory_that_cannot_be_read_is_told(tmp_path):
    for content, error in [('{"en": "a", "de"', "line 1: not JSON"), ('{"fr": "a", "de": "b"}', "has no English")]:
        path = tmp_path / "broken.jsonl"
        path.write_text(content)
        with pytest.raises(UserError, match=error):
            MemoryEngine(str(path), MemorySettings()).provenance("de")
    with pytest.raises(UserError, match="no such file"):
        MemoryEngine(str(tmp_path / "none.tmx"), MemorySettings()).provenance("de")
    with pytest.raises(UserError, match="unknown key 'license'"):
        MemorySettings.checked({"license": "MIT"}, "engine")
