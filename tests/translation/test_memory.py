"""The memory on disk: what goes in comes out, under its own engine, settings and language, whoever else writes."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyalign.errors import UserError
from polyalign.translation.engines.contract import Provenance, Translation
from polyalign.translation.memory import Memory

ONE = Provenance(engine="ctranslate2:x", revision="1", licence="MIT", settings={"beam_size": 1})


@pytest.fixture
def memory(tmp_path):
    made = Memory(tmp_path / "memory")
    yield made
    made.close()


def test_what_goes_in_comes_out(memory, tmp_path):
    pairs = {
        "Hello.": Translation(text="Hallo.", score=-0.1, truncated=True, unknown=3),
        "Empty.": Translation(text=""),
        "A line\nand \0 more": Translation(text="Ein | '\"; \u2028 Zeile\n\0", score=0.1 + 0.2),
    }
    memory.add(ONE, "de", pairs.items())
    assert memory.known(ONE, "de", ["Hello.", "Empty.", "A line\nand \0 more", "Unknown."]) == pairs
    memory.close()
    assert Memory(tmp_path / "memory").known(ONE, "de", list(pairs)) == pairs


translations = st.builds(
    Translation,
    text=st.text(),
    score=st.none() | st.floats(max_value=0, allow_nan=False, allow_infinity=False),
    truncated=st.booleans(),
    unknown=st.integers(0, 2**32),
)


@given(st.dictionaries(st.text(), translations, max_size=5))
def test_any_text_comes_back_as_it_was(tmp_path_factory, pairs):
    memory = Memory(tmp_path_factory.mktemp("memory"))
    memory.add(ONE, "de", pairs.items())
    assert memory.known(ONE, "de", list(pairs)) == pairs
    memory.close()


def test_errors_are_not_remembered_and_the_first_translation_stays(memory):
    memory.add(ONE, "de", [("a", Translation(text="", error="broke")), ("b", Translation(text="B"))])
    assert memory.known(ONE, "de", ["a", "b"]) == {"b": Translation(text="B")}
    memory.add(ONE, "de", [("a", Translation(text="A")), ("b", Translation(text="another B"))])
    assert memory.known(ONE, "de", ["a", "b"]) == {"a": Translation(text="A"), "b": Translation(text="B")}


def test_engines_revisions_settings_and_languages_stay_apart(memory):
    """The licence is no part of what a translation is."""
    others = [
        Provenance(engine="ctranslate2:y", revision="1", licence="MIT", settings={"beam_size": 1}),
        Provenance(engine="ctranslate2:x", revision="2", licence="MIT", settings={"beam_size": 1}),
        Provenance(engine="ctranslate2:x", revision="1", licence="MIT", settings={"beam_size": 4}),
        Provenance(engine="ctranslate2:x", revision="1", licence="MIT"),
    ]
    memory.add(ONE, "de", [("Hello.", Translation(text="Hallo."))])
    for other in others:
        assert memory.known(other, "de", ["Hello."]) == {}
    assert memory.known(ONE, "nl", ["Hello."]) == {}
    memory.add(ONE, "nl", [("Hello.", Translation(text="Hallo!"))])
    assert memory.known(ONE, "de", ["Hello."])["Hello."].text == "Hallo."
    licensed = Provenance(engine="ctranslate2:x", revision="1", licence="CC0-1.0", settings={"beam_size": 1})
    assert memory.known(licensed, "de", ["Hello."])["Hello."].text == "Hallo."


def test_more_texts_than_one_query_takes(memory):
    """1,201 texts are two queries of 500 and one of 201; every third is known."""
    texts = [f"text {number}" for number in range(1201)]
    known = {text: Translation(text=text.upper()) for text in texts[::3]}
    memory.add(ONE, "de", known.items())
    assert memory.known(ONE, "de", texts) == known
    assert len(known) == 401


def test_looking_up_makes_nothing(memory, tmp_path):
    assert memory.known(ONE, "de", ["Hello."]) == {}
    assert not (tmp_path / "memory").exists()


WRITER = """
from pathlib import Path
from polyalign.translation.engines.contract import Provenance, Translation
from polyalign.translation.memory import Memory
memory = Memory(Path(FOLDER))
one = Provenance(engine="ctranslate2:x", revision="1", licence="MIT", settings={"beam_size": 1})
Path(READY).touch()
while not Path(GO).exists():
    pass
for number in range(FIRST, FIRST + 300):
    memory.add(one, "de", [(f"text {number}", Translation(text=f"{number}"))])
    assert f"text {number}" in memory.known(one, "de", [f"text {number}"])
"""


def test_two_processes_write_at_once(memory, start_process, tmp_path):
    """Each adds 300 texts one by one, 100 of them the same, from the same moment on."""
    processes = [
        start_process(
            WRITER,
            FOLDER=str(tmp_path / "memory"),
            READY=str(tmp_path / f"ready-{first}"),
            GO=str(tmp_path / "go"),
            FIRST=first,
        )
        for first in (0, 200)
    ]
    while len(list(tmp_path.glob("ready-*"))) < 2:
        assert all(process.is_alive() for process in processes)
        time.sleep(0.01)
    (tmp_path / "go").touch()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    known = memory.known(ONE, "de", [f"text {number}" for number in range(600)])
    assert known == {f"text {number}": Translation(text=f"{number}") for number in range(500)}


def test_several_threads_share_a_memory(memory):
    def work(thread):
        for number in range(50):
            text = f"text {thread} {number}"
            memory.add(ONE, "de", [(text, Translation(text=text.upper()))])
            assert text in memory.known(ONE, "de", [text, "unknown"])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert (
        len(memory.known(ONE, "de", [f"text {thread} {number}" for thread in range(4) for number in range(50)])) == 200
    )


@pytest.mark.parametrize("damage", [lambda whole: b"no database " * 999, lambda whole: whole[:5000] + b"\xff" * 9000])
def test_a_damaged_file_is_told_in_one_line(memory, tmp_path, damage):
    memory.add(ONE, "de", [(f"text {number}", Translation(text="t" * 100)) for number in range(300)])
    memory.close()
    (file,) = (tmp_path / "memory").glob("de-*.sqlite")
    file.write_bytes(damage(file.read_bytes()))
    message = r"^the translation memory .*/de-[0-9a-f]{32}\.sqlite cannot be used \(.*\); delete that file, or choose"
    with pytest.raises(UserError, match=message) as caught:
        memory.known(ONE, "de", [f"text {number}" for number in range(300)])
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=message):
        memory.add(ONE, "de", [(f"more {number}", Translation(text="t")) for number in range(300)])
