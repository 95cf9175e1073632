"""The verb `build`: real models word for word, the memory, resuming, refusing, verdicts, similarity, a full disk."""

import json
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import polars as pl
import pytest

from polyalign import Corpus, UserError, build
from polyalign.corpus import inspect_cells
from polyalign.translation.english import ROWS_PER_CHUNK
from polyalign.translation.workplace import locked

from .conftest import SENTENCES

EXACT = {"compute_type": "float32", "beam_size": 1}


@pytest.fixture
def english(tmp_path) -> Path:
    """The sentences that the tiny models know, in an order of their own."""
    path = tmp_path / "english.txt"
    path.write_text("".join(f"{row['en']}\n" for row in random.Random(0).sample(SENTENCES, len(SENTENCES))))
    return path


@pytest.fixture
def memory(tmp_path) -> Path:
    return tmp_path / "memory"


def engine(model, languages=None):
    return {"spec": f"ctranslate2:{model}", "languages": languages, "settings": EXACT}


def by_english(corpus: Path) -> dict[str, dict[str, str | None]]:
    return {row["en"]: row for row in Corpus.open(corpus).rows.drop("row_id").to_dicts()}


def test_real_models_fill_every_cell_word_for_word(english, memory, tiny_nllb, tiny_marian, tmp_path):
    out = tmp_path / "corpus"
    request = {
        "english": str(english),
        "to": ["fr", "de", "zh"],
        "engines": [engine(tiny_marian, ["de"]), engine(tiny_nllb)],
        "verdicts": {"ignored": ["wrong language", "length ratio"]},
    }
    manifest = build(request, out, memory=memory)
    assert by_english(out) == {row["en"]: row for row in SENTENCES}
    assert Corpus.open(out).languages == ("en", "fr", "de", "zh")
    cells = pl.read_parquet(out / "cells" / "*.parquet")
    assert set(cells.filter(lang="de")["engine"]) == {"ctranslate2:opus-mt-en-de"}
    assert set(cells.filter(lang="zh")["engine"]) == {"ctranslate2:tiny-nllb"}
    assert set(cells["verdict"]) == {"ok"}
    assert manifest["provenance"]["cost"]["translated"] == 30
    assert not list(tmp_path.glob(".*.build"))


# An engine with an answer for everything, which writes down what it is asked. The job is tested with it where a model
# would only cost time; what it says is right or wrong as a test needs.
COUNTING = """
import json, sys, time
from types import ModuleType
from polyalign.settings import Settings
from polyalign.translation.engines import choosing
from polyalign.translation.engines.contract import Provenance, Translation

class CountingSettings(Settings):
    log: str
    seconds: float = 0.0
    batch: int = 4
    failing: str = "\\0"

class CountingEngine:
    def __init__(self, model, settings):
        self.settings = settings
    def provenance(self, language):
        return Provenance(engine="counting", revision="1", licence="CC-BY-NC-4.0", settings={"language": language})
    def translate(self, texts, language):
        for start in range(0, len(texts), self.settings.batch):
            batch = []
            for index, text in enumerate(texts[start : start + self.settings.batch], start):
                time.sleep(self.settings.seconds)
                error = "broke" if self.settings.failing in text else None
                said = Translation(text="" if error else f"{text} ({language})", error=error, score=-0.5)
                batch.append((index, said))
            with open(self.settings.log, "a") as log:
                log.write("".join(f"{json.dumps([language, texts[index]])}\\n" for index, _ in batch))
            yield batch
    def close(self):
        pass

module = ModuleType("polyalign.translation.engines.counting")
module.CountingEngine, module.CountingSettings = CountingEngine, CountingSettings
sys.modules[module.__name__] = module
choosing._HOMES["counting"] = ("counting", "CountingEngine", "CountingSettings")
"""
ALL_OFF = {"ignored": ["wrong language", "copy of the source", "length ratio", "wrong script"]}


@pytest.fixture
def counting(tmp_path, monkeypatch):
    """Return a function that makes requests to the counting engine; ``counting.asked()`` is what it was asked."""
    from polyalign.translation.engines import choosing

    monkeypatch.setattr(choosing, "_HOMES", dict(choosing._HOMES))
    exec(COUNTING, {})
    log = tmp_path / "asked.jsonl"

    def request(texts, to=("de", "fr"), **more):
        path = tmp_path / f"english-{len(texts)}.txt"
        path.write_text("".join(f"{text}\n" for text in texts))
        settings = {"log": str(log), **more.pop("settings", {})}
        engines = [{"spec": "counting", "settings": settings}]
        return {"english": str(path), "to": list(to), "engines": engines, "verdicts": ALL_OFF, **more}

    def asked():
        found = [tuple(json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []
        log.unlink(missing_ok=True)
        return found

    request.asked = asked
    request.finished = lambda: log.read_bytes().count(b"\n") if log.exists() else 0
    return request


TEXTS = [f"The {animal} number {n} is here." for n in range(10) for animal in ("cat", "dog", "cow")]
PLAIN = {"near_duplicates": None, "other_language": None}


def test_nothing_is_translated_twice(counting, memory, tmp_path):
    def cells_asked_for(request, out, **more):
        build({**request, "source": PLAIN}, tmp_path / out, memory=memory, **more)
        return len(counting.asked())

    assert cells_asked_for(counting(TEXTS), "first") == 60
    assert cells_asked_for(counting(TEXTS), "second") == 0
    assert cells_asked_for(counting(TEXTS, to=("de", "fr", "es")), "a language more") == 30
    assert cells_asked_for(counting([*TEXTS[5:], "A new text."]), "overlapping text") == 2
    assert cells_asked_for(counting(TEXTS, min_languages=2), "another threshold") == 0
    assert cells_asked_for(counting(TEXTS, to=("de",)), "first", force=True) == 0


def test_what_failed_is_asked_for_again(counting, memory, tmp_path):
    request = counting(TEXTS, to=("de",), source=PLAIN, settings={"failing": "cat"})
    manifest = build(request, tmp_path / "out", memory=memory)
    assert manifest["provenance"]["verdicts"] == {"de": {"ok": 20, "engine error": 10}}
    assert manifest["report"] == {
        "rows_read": 30, "rows_kept": 20, "merged_duplicates": 0,
        "dropped": {"too few good translations": 10}, "cells": {"engine error": 10}, "normalised": 0,
    }  # fmt: skip
    counting.asked()
    manifest = build(counting(TEXTS, to=("de",), source=PLAIN), tmp_path / "out", memory=memory, force=True)
    assert sorted(counting.asked()) == sorted(("de", text) for text in TEXTS if "cat" in text)
    assert manifest["provenance"]["verdicts"] == {"de": {"ok": 30}}


def test_a_complete_corpus_is_left_alone_and_another_request_refused(counting, memory, tmp_path, caplog):
    request = counting(TEXTS, source=PLAIN)
    first = build(request, tmp_path / "out", memory=memory)
    shutil.rmtree(memory)
    counting.asked()
    assert build(request, tmp_path / "out", memory=memory) == first
    assert counting.asked() == []
    other = {**request, "to": ["de", "fr", "es"], "min_languages": 2}
    with pytest.raises(UserError, match=r"a corpus of another request \(changed: to, min_languages\); choose another"):
        build(other, tmp_path / "out", memory=memory)
    Path(request["english"]).write_text("Other words.\n")
    with pytest.raises(UserError, match=r"changed: sources"):
        build(request, tmp_path / "out", memory=memory)


def test_a_licence_that_forbids_commercial_use_is_said_once(counting, memory, tmp_path, caplog):
    caplog.set_level("INFO", logger="polyalign")
    build(counting(TEXTS, source=PLAIN), tmp_path / "out", memory=memory)
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert said == [
        "counting is under CC-BY-NC-4.0: do not use its translations, or what is trained on them, commercially"
    ]


def test_two_builds_in_one_place_are_refused(counting, memory, tmp_path):
    with locked(tmp_path / ".out.build", tmp_path / "out"), pytest.raises(UserError, match="another build is at work"):
        build(counting(TEXTS, source=PLAIN), tmp_path / "out", memory=memory)
    assert not (tmp_path / ".out.build").exists()


KILLED = (
    COUNTING
    + """
import polyalign.translation.english as prepared
from polyalign.translation import build
prepared.ROWS_PER_CHUNK = 16
build(json.loads(REQUEST), OUT, memory=MEMORY, workers=1)
"""
)


@pytest.fixture
def start(start_process):
    """Return a function that starts a build in a process of its own."""

    def start_build(request, out, memory):
        return start_process(KILLED, REQUEST=json.dumps(request), OUT=str(out), MEMORY=str(memory))

    return start_build


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}


def test_kill_9_at_any_moment_loses_the_batch_in_flight_at_most(counting, start, tmp_path, monkeypatch):
    """20 builds, each killed at a random moment and called again; batches are of 4 texts."""
    monkeypatch.setattr("polyalign.translation.english.ROWS_PER_CHUNK", 16)
    texts = [*TEXTS, *(f"Sheep {n} sleeps." for n in range(30))]
    request = counting(texts, source=PLAIN, settings={"seconds": 0.0005})
    build(request, tmp_path / "whole", memory=tmp_path / "memory-whole")
    assert len(counting.asked()) == 2 * 60
    expected = files_of(tmp_path / "whole")
    killed = 0
    moments = random.Random(0)
    for number in range(20):
        out, memory = tmp_path / f"out-{number}", tmp_path / f"memory-{number}"
        process = start(request, out, memory)
        finished = moments.randrange(0, 2 * 60 + 1)
        while counting.finished() < finished and process.is_alive():
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.02))
        process.kill()
        process.join()
        killed += not (out / "manifest.json").exists()
        build(request, out, memory=memory)
        assert files_of(out) == expected
        asked = counting.asked()
        assert set(asked) == {(tag, text) for tag in ("de", "fr") for text in texts}
        assert len(asked) - len(set(asked)) <= 4
    assert killed >= 10


def test_an_unfinished_build_of_another_request_is_refused(counting, start, memory, tmp_path):
    request = counting(TEXTS, source=PLAIN, settings={"seconds": 0.02})
    process = start(request, tmp_path / "out", memory)
    while not (tmp_path / ".out.build" / "cells").is_dir():
        time.sleep(0.01)
    process.kill()
    process.join()
    other = {**request, "to": ["de", "fr", "es"]}
    with pytest.raises(UserError, match=r"holds an unfinished build of another request \(changed: engines\); give the"):
        build(other, tmp_path / "out", memory=memory)
    assert set(build(other, tmp_path / "out", memory=memory, force=True)["counts"]) == {"en", "de", "fr", "es"}


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system, which only root may")
def test_a_full_disk_is_one_line_and_the_build_goes_on_when_there_is_room(counting, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        request = counting([f"Text number {n} of quite some length, so that it takes room." for n in range(2000)],
                           source=PLAIN, settings={"batch": 100})  # fmt: skip
        with pytest.raises(UserError, match=r"no space left on the disk of .*; make room and give the same command"):
            build(request, disk / "out", memory=disk / "memory")
        first = counting.asked()
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        manifest = build(request, disk / "out", memory=disk / "memory")
        assert manifest["rows"] == 2000
        asked = [*first, *counting.asked()]
        assert len(set(asked)) == 4000
        assert len(asked) <= 4000 + 2 * 100
    finally:
        subprocess.run(["umount", disk], check=True)


def memory_of(tmp_path, rows) -> str:
    path = tmp_path / "known.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"memory:{path}"


def test_bad_cells_keep_their_reason_and_rows_their_good_cells(tmp_path, memory):
    """Four rows; French is bad in three ways, German is missing once."""
    rows = [
        {"en": "The children are playing in the garden.", "de": "Die Kinder spielen im Garten.",
         "fr": "The children are playing in the garden."},
        {"en": "We will meet at 10:45 in front of the station.", "de": "Wir treffen uns um 10:45 vor dem Bahnhof.",
         "fr": "Nous nous retrouverons devant la gare."},
        {"en": "My brother has bought a new car.", "de": "Mein Bruder hat ein neues Auto gekauft.",
         "fr": "Mon frère a acheté une nouvelle voiture."},
        {"en": "The soup is cold.", "fr": "La soupe est froide."},
    ]  # fmt: skip
    path = tmp_path / "english.txt"
    path.write_text("".join(f"{row['en']}\n" for row in rows))
    request = {"english": str(path), "to": ["de", "fr"], "engines": [memory_of(tmp_path, rows)]}
    manifest = build(request, tmp_path / "out", memory=memory)
    made = by_english(tmp_path / "out")
    assert made["The children are playing in the garden."] == {**rows[0], "fr": None}
    assert made["We will meet at 10:45 in front of the station."]["fr"] is None
    assert made["My brother has bought a new car."] == rows[2]
    assert made["The soup is cold."] == {"en": "The soup is cold.", "de": None, "fr": "La soupe est froide."}
    assert manifest["provenance"]["verdicts"] == {
        "de": {"ok": 3, "not translated": 1},
        "fr": {"ok": 2, "copy of the source": 1, "numbers lost": 1},
    }
    found = {(one["language"], one["verdict"]): one for one in inspect_cells(tmp_path / "out")}
    assert found["fr", "numbers lost"]["samples"] == [{"english": rows[1]["en"], "text": rows[1]["fr"]}]
    strict = build({**request, "min_languages": 2}, tmp_path / "strict", memory=memory)
    assert (strict["rows"], strict["report"]["dropped"]) == (1, {"too few good translations": 3})


def test_cells_are_scored_by_an_encoder(tmp_path, memory, tiny_xlmr):
    """The wrong translation stands between good copies of names, so that the margin tells it."""
    request = {
        "english": "sample", "to": ["de"], "engines": ["memory:sample"], "min_languages": 1,
        "similarity": {"encoder": tiny_xlmr, "neighbours": 2},
    }  # fmt: skip
    out = tmp_path / "out"
    manifest = build(request, out, memory=memory)
    cells = pl.read_parquet(out / "cells" / "*.parquet").filter(verdict="ok")
    assert cells["similarity"].is_between(-1, 1.0001).all()
    assert (cells["margin"] > 0).all()
    assert manifest["provenance"]["similarity"]["encoder"] == tiny_xlmr
    least = cells["similarity"].median()
    request["similarity"]["min_similarity"] = least
    verdicts = build(request, out, memory=memory, force=True)["provenance"]["verdicts"]["de"]
    assert verdicts["low similarity"] == (cells["similarity"] < least).sum()


def test_a_language_that_no_engine_serves_is_named(counting, tmp_path, memory):
    with pytest.raises(UserError, match=r"none of the engines memory:sample translates English into cs \(Czech\)"):
        build({"english": "sample", "to": ["de", "cs"], "engines": ["memory:sample"]}, tmp_path / "out", memory=memory)
    assert not list(tmp_path.glob(".*.build"))


def test_all_problems_of_a_request_are_told_at_once(tmp_path):
    with pytest.raises(UserError) as error:
        build({"english": [], "to": ["en", "xx"], "engines": ["apertum"], "min_langages": 2}, tmp_path / "out")
    for part in ("english", "unknown language code 'xx'", "English is the source", "did you mean 'apertium'",
                 "did you mean 'min_languages'"):  # fmt: skip
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_chunks_do_not_show_in_the_rows(counting, memory, tmp_path):
    texts = [f"Line {n} says something of its own." for n in range(ROWS_PER_CHUNK + 5)]
    manifest = build(counting(texts, to=("de",), source=PLAIN), tmp_path / "out", memory=memory, workers=2)
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.rows["en"].to_list() == texts
    assert corpus.rows["de"].to_list() == [f"{text} (de)" for text in texts]
    assert manifest["fingerprint"] == corpus.fingerprint


def test_a_mistake_in_a_request_leaves_nothing_that_refuses_its_correction(counting, memory, tmp_path):
    request = counting(TEXTS, source={**PLAIN, "min_characters": 500})
    with pytest.raises(UserError):  # no text is so long
        build(request, tmp_path / "out", memory=memory)
    assert not list(tmp_path.glob(".*.build"))
    assert build({**request, "source": PLAIN}, tmp_path / "out", memory=memory)["rows"] == 30


def test_a_missing_encoder_is_told_before_anything_is_translated(counting, memory, tmp_path):
    (tmp_path / "no-model").mkdir()
    request = counting(TEXTS, source=PLAIN, similarity={"encoder": str(tmp_path / "no-model")})
    with pytest.raises(UserError, match="is not a model folder"):
        build(request, tmp_path / "out", memory=memory)
    assert counting.asked() == []
