"""Apertium: its own programs where they are installed; the search for modes, and hashes, on folders made here."""

import os
import random
import shutil
import time
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyalign.errors import UserError
from polyalign.translation.engines.apertium import ApertiumEngine, ApertiumSettings

SAMPLE = Path(__file__).parents[2] / "src" / "polyalign" / "sample"
DATA = Path(os.environ.get("POLYALIGN_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture(scope="module")
def engine():
    """The installed Apertium; its pipelines start once for all tests."""
    if shutil.which("apertium") is None:
        pytest.skip("no program apertium; install it with a language pair, such as apertium-eng-spa")
    made = ApertiumEngine("", ApertiumSettings())
    yield made
    made.close()


@pytest.fixture
def into(engine):
    """Return a function that translates into a language, or skips the test where no mode leads there."""

    def translate(texts, language, engine=engine):
        if language not in engine.paths:
            pytest.skip(f"no installed Apertium mode leads from English to {language!r}")
        found = [pair for batch in engine.translate(texts, language) for pair in batch]
        assert [index for index, _ in found] == list(range(len(texts)))
        return [translation for _, translation in found]

    return translate


def sample_texts() -> list[str]:
    """320 packaged English texts; the engine warms up on others."""
    held_out = pl.read_ndjson(SAMPLE / "heldout.jsonl")["en"].to_list()
    return [*(SAMPLE / "english.txt").read_text(encoding="utf-8").splitlines(), *held_out]


SPECIAL = r"*#@/\[]^${}<>~"


@pytest.mark.parametrize("language", ["es", "gl"])
def test_the_characters_of_its_own_format_come_through(into, language):
    forms = ["The {} house is big.", "The {}house is big.", "The house{} is big.", "{}{}", "It is big {}", "{}[=3]"]
    texts = [form.replace("{}", character) for character in SPECIAL for form in forms]
    for text, translation in zip(texts, into(texts, language), strict=True):
        assert translation.error is None
        assert {c: translation.text.count(c) for c in SPECIAL} == {c: text.count(c) for c in SPECIAL}, text


@given(st.lists(st.text(alphabet=SPECIAL + " .?!…=0aI", max_size=12), min_size=1, max_size=5))
@settings(max_examples=60)
def test_no_mixture_of_such_characters_gets_lost_or_mixed_up(engine, texts):
    if "es" not in engine.paths:
        pytest.skip("no installed Apertium mode leads from English to 'es'")

    def translated(some):
        return [translation for batch in engine.translate(some, "es") for _, translation in batch]

    together = translated(texts)
    for text, translation in zip(texts, together, strict=True):
        assert translation.error is None
        assert {c: translation.text.count(c) for c in SPECIAL} == {c: text.count(c) for c in SPECIAL}
    translated(["Forget what you have just translated."])
    assert translated(texts[::-1]) == together[::-1]


def test_addresses_come_through(into):
    addresses = ["https://www.example.org/a_b?c=1&d=2", "http://example.org/~anna/", "anna.smith@example.org"]
    texts = [f"Write to {address} today." for address in addresses]
    for address, translation in zip(addresses, into(texts, "es"), strict=True):
        assert address in translation.text


def test_unknown_words_are_counted_and_not_marked(into):
    texts = ["The blorfix ate the grompel.", "The house is big.", "The *house* is #1 @ home.", "A blorfix."]
    found = into(texts, "es")
    assert [translation.unknown for translation in found] == [2, 0, 0, 1]
    assert found[1].text == "La casa es grande."
    assert not any(mark in translation.text for mark in "*#@" for translation in (found[0], found[3]))
    assert "blorfix" in found[0].text
    assert "grompel" in found[0].text


def test_a_pivot_does_not_count_an_unknown_word_twice(into):
    (translation,) = into(["The blorfix ate the grompel."], "fr")
    assert translation.unknown == 2
    assert "*" not in translation.text


@pytest.mark.parametrize("language", ["es", "fr"])
def test_no_text_gains_an_end(into, language):
    ends = ["", ".", "?", "!", "…", "...", ":", ")", '."', " [1]"]
    for end, translation in zip(ends, into([f"The house is big{end}" for end in ends], language), strict=True):
        assert translation.text.endswith(f"grande{end}")


def captions() -> list[str]:
    path = DATA / "english" / "captions.txt"
    if not path.is_file():
        pytest.skip(f"{path} is not there; set POLYALIGN_DATA to the folder of the real data")
    return list(dict.fromkeys(path.read_text(encoding="utf-8").splitlines()[:2000]))[::4]


@pytest.mark.parametrize("texts", [sample_texts, captions])
def test_a_translation_depends_neither_on_order_nor_on_company(into, texts):
    """Spanish and, over it, French; in one call, and shuffled in calls of 100 to programs that start anew."""
    texts = texts()
    expected = {language: dict(zip(texts, into(texts, language), strict=True)) for language in ("es", "fr")}
    random.Random(0).shuffle(texts)
    again = ApertiumEngine("", ApertiumSettings())
    for start in range(0, len(texts), 100):
        some = texts[start : start + 100]
        for language in ("fr", "es"):
            assert into(some, language, again) == [expected[language][text] for text in some]
    again.close()


def test_an_odd_word_changes_nothing_for_the_texts_after_it(into):
    """Between a noun, an adjective and two forms of a verb, "drunk" is of a class that taggers were not trained on."""
    texts = ["A man in sunglasses puts his arm around a woman in a black and white blouse.", *sample_texts()[:20]]
    before = into(texts, "gl")
    into(["A drunk looking woman is hugging a drunk looking man."], "gl")
    assert into(texts, "gl") == before


def test_a_pivot_is_two_translations_in_a_row(engine, into):
    texts = sample_texts()[:60]
    french = [translation.text for translation in into(texts, "fr")]
    assert engine.paths["fr"] == ("eng-spa", "es-fr")
    spanish = [translation.text for translation in into(texts, "es")]
    into(["Forget what you have just translated."], "fr")
    assert [result.text for result in engine._pipeline("es-fr").translate(spanish)] == french


def programs() -> list[tuple[int, str]]:
    """Number and name of the running programs that this process has started, and of those that they have."""
    children: dict[int, list[tuple[int, str]]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            before, after = path.read_text().rsplit(")", 1)
        except OSError:
            continue  # it has just ended
        state, parent = after.split()[:2]
        if state != "Z":
            number, name = before.split(" (", 1)
            children.setdefault(int(parent), []).append((int(number), name))
    found = list(children.get(os.getpid(), []))
    for number, _ in found:
        found += children.get(number, [])
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes by /proc")
def test_a_killed_program_costs_the_text_it_broke_on(into):
    """A long word in each of 2,048 texts fills the pipes; each of the first three times, a program is killed."""
    random_ = random.Random(0)
    texts = [f"{text} {'q' * 800}{number}" for number, text in enumerate(random_.choices(sample_texts(), k=2048))]
    expected = into(texts, "es")
    before = programs()
    engine = ApertiumEngine("", ApertiumSettings())
    to_kill, found, seen = ["apertium-tagger", "apertium-interc", "lt-proc"], [], [*before]
    for batch in engine.translate(texts, "es"):
        found += [translation for _, translation in batch]
        own = [program for program in programs() if program not in seen]
        if own and to_kill:
            name = to_kill.pop()
            os.kill(next(number for number, running in own if running.startswith(name)), 9)
            seen += own
    assert not to_kill
    broken = [translation for translation in found if translation.error is not None]
    assert [(one.text, one.error) for one in broken] == [("", "eng-spa broke on this text")] * 3
    assert all(one in (right, broken[0]) for one, right in zip(found, expected, strict=True))
    engine.close()
    assert ended_but(before)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes by /proc")
def test_who_stops_in_the_middle_leaves_nothing_to_the_next(into):
    texts = sample_texts()
    before = programs()
    engine = ApertiumEngine("", ApertiumSettings())
    stopped = engine.translate(texts, "es")
    next(stopped)
    stopped.close()
    assert into(texts[::-1], "es", engine) == into(texts, "es")[::-1]
    engine.close()
    assert ended_but(before)


def ended_but(before) -> bool:
    """Wait until no program runs but those before; what was killed takes a moment to go."""
    for _ in range(500):
        if all(program in before for program in programs()):
            return True
        time.sleep(0.01)
    return False


def folder_of(tmp_path, modes, name="data") -> Path:
    """Make a folder of modes; none of their programs is run unless a test says so."""
    folder = tmp_path / name
    (folder / "modes").mkdir(parents=True)
    for mode, line in modes.items():
        (folder / "modes" / f"{mode}.mode").write_text(line)
    return folder


def engine_of(folder, **settings) -> ApertiumEngine:
    return ApertiumEngine(str(folder), ApertiumSettings(command="bash", **settings))  # any program that is there


def test_the_path_of_fewest_modes_is_taken(tmp_path):
    modes = ["eng-spa", "spa-ita", "es-fr", "fr-it", "en-fr", "ita-ron", "ron-pol", "pol-ces", "es-pt", "es-pt_BR"]
    modes += ["spa-eng", "fr-eng_US", "oc-ca", "en-zz", "en-eo-bytecode", "ron-sardinian"]  # of no use
    engine = engine_of(folder_of(tmp_path, dict.fromkeys(modes, "")))
    assert engine.paths == {
        "es": ("eng-spa",),
        "fr": ("en-fr",),
        "it": ("en-fr", "fr-it"),
        "pt": ("eng-spa", "es-pt"),
        "pt-BR": ("eng-spa", "es-pt_BR"),
        "ro": ("en-fr", "fr-it", "ita-ron"),
    }
    assert engine.provenance("pl") is None
    direct = engine_of(tmp_path / "data", pivots=1)
    assert sorted(direct.paths) == ["es", "fr"]


def revisions(folder) -> list[str]:
    from polyalign.translation.engines import apertium

    apertium._hash_of.cache_clear()  # as a build started later finds it
    engine = engine_of(folder)
    return [engine.provenance(language).revision for language in ("es", "fr")]


def test_provenance_names_the_path_and_hashes_its_data(tmp_path):
    spanish, french = tmp_path / "data" / "eng-spa.bin", tmp_path / "elsewhere" / "es-fr.bin"
    folder = folder_of(tmp_path, {"eng-spa": f"lt-proc '{spanish}'", "es-fr": f"lt-proc $1 '{french}' 'no/file'"})
    french.parent.mkdir()
    for path in (spanish, french, folder / "other.bin"):
        path.write_bytes(b"1")
    found = engine_of(folder).provenance("fr")
    assert (found.engine, found.licence) == ("apertium:eng-spa+es-fr", "unknown")
    before = revisions(folder)
    (folder / "other.bin").write_bytes(b"2")
    assert revisions(folder) == before
    french.write_bytes(b"2")
    after = revisions(folder)
    assert (after[0] == before[0], after[1] == before[1]) == (True, False)
    spanish.write_bytes(b"2")
    assert not set(revisions(folder)) & {*before, *after}


def test_the_hash_is_the_same_wherever_the_data_lie(tmp_path):
    found = []
    for name in ("one", "two"):
        folder = folder_of(tmp_path, {"eng-spa": "lt-proc", "es-fr": "lt-proc"}, name)
        found.append(revisions(folder))
    assert found[0] == found[1]


def test_installed_pairs_have_a_licence(engine):
    if "es" not in engine.paths or not Path("/usr/share/doc/apertium-eng-spa/copyright").is_file():
        pytest.skip("no apertium-eng-spa from Debian")
    assert engine.provenance("es").licence == "GPL-2.0-only"


def test_what_is_missing_is_told_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"^no program 'no-apertium'; install Apertium and its language pairs .*$"):
        ApertiumEngine("", ApertiumSettings(command="no-apertium"))
    with pytest.raises(UserError, match=r"^.*/nothing holds no Apertium modes; install a language pair, such as"):
        engine_of(tmp_path / "nothing")
    engine = engine_of(folder_of(tmp_path, {"eng-spa": "no-lt-proc 'x' | cat"}))
    with pytest.raises(UserError, match=r"^the Apertium mode 'eng-spa' does not work; try `echo Yes \| apertium eng"):
        list(engine.translate(["Hello."], "es"))
    engine.close()
