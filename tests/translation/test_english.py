import logging
import os
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest, xxh3_128_hexdigest

from polyalign.corpus.checking import check
from polyalign.errors import UserError
from polyalign.translation import english as module
from polyalign.translation import spool
from polyalign.translation.english import ROWS_PER_CHUNK, EnglishSettings, normalise, prepare_english

ALL = EnglishSettings(other_language=None, near_duplicates=None, min_characters=1)


@pytest.fixture
def prepare(tmp_path_factory):
    """Prepare texts, or named files, and return the rows and the report."""

    def prepare(*sources, settings=ALL):
        folder = tmp_path_factory.mktemp("english")
        names = []
        for number, source in enumerate(sources):
            if isinstance(source, Path):
                names.append(str(source))
                continue
            names.append(str(folder / f"{number}.txt"))
            content = source if isinstance(source, bytes) else "".join(f"{text}\n" for text in source).encode()
            Path(names[-1]).write_bytes(content)
        out = folder / "out"
        out.mkdir()
        report = prepare_english(names, settings, out)
        files = sorted(out.iterdir())
        assert [file.name for file in files] == [f"{number:05d}.parquet" for number in range(len(files))]
        rows = pl.concat([pl.read_parquet(file) for file in files])
        assert_adds_up(report, rows)
        return rows, report

    return prepare


def assert_adds_up(report, rows):
    assert report["kept"] == len(rows)
    for one in (report, *report["sources"]):
        assert one["texts"] == one["kept"] + sum(one["left_out"].values())
    for key in ("lines_read", "texts", "kept", "normalised"):
        assert report[key] == sum(source[key] for source in report["sources"])


def settings(**values):
    return EnglishSettings(**{"other_language": None, "near_duplicates": None, "min_characters": 1, **values})


def test_rows_are_what_the_corpus_makes_of_them(prepare):
    texts = ["  A  cat\tsleeps. ", "Zoe\u0301 drinks tea.", "A cat sleeps.", "tab\u00a0here", "one\u200b more\u0000"]
    rows, report = prepare(texts)
    assert rows["en"].to_list() == ["A cat sleeps.", "Zoé drinks tea.", "tab here", "one more"]
    assert rows["row_id"].to_list() == [xxh3_128_hexdigest(text.encode()) for text in rows["en"]]
    assert rows.schema == {"row_id": pl.String, "en": pl.String}
    checked, checks = check(rows.select("en", de="en"))
    assert checked.select("row_id", "en").equals(rows)
    assert (checks["normalised"], checks["cells"], checks["dropped"]) == (0, {}, {})
    assert (report["normalised"], report["left_out"]) == (4, {"duplicate": 1})


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ("a\u00a0 \u2003b\u2028c\u3000", "a b c"),
        ("\ufeffa\u00adb\u200bc\u2060", "abc"),
        ("e\u200b\u0301", "é"),
        ("\u0000\u0001a \u0007b\u001f", "a b"),
        ("a\u0000 \u0000b", "a b"),
        ("a\u0012s", "a\u0012s"),  # a lost apostrophe
        ("\u0093a\u0094 \u001b[1m", "\u0093a\u0094 \u001b[1m"),
        ("wait\u0085", "wait\u0085"),
        ("\u202aa\u202c\u200f", "a"),
        ("a \u200fא\u200f", "a \u200fא\u200f"),
        ("👩\u200d👧 ok", "👩\u200d👧 ok"),
        ("", ""),
    ],
)
def test_normalising(found, text):
    assert normalise(pl.Series([found])).to_list() == [text]


@given(st.text())
def test_normalising_twice_changes_nothing_more(text):
    once = normalise(pl.Series([text], dtype=pl.String))
    assert normalise(once).to_list() == once.to_list()


def test_every_reason(prepare, tmp_path):
    texts = ["", " \u0000 ", "lost \ufffd here", "Treasury\u0012s plan", "Hi!", "x" * 41, "12,345.67", "fine text"]
    texts += ["fine text", "Fine, text", "Der Zug nach Hamburg fährt heute später ab."]
    (tmp_path / "x.jsonl").write_bytes("\n".join(f'{{"text": "{text}"}}' for text in texts).encode("utf-8", "replace"))
    with (tmp_path / "x.jsonl").open("a") as stream:
        stream.write('\nno json\n{"text": null}\n' + "x" * 1_000_001)
    # A raw control character is no JSON.
    rows, report = prepare(
        tmp_path / "x.jsonl", settings=EnglishSettings(max_characters=40, min_characters=4, other_language=None)
    )
    assert rows["en"].to_list() == ["fine text"]
    assert report["left_out"] == {
        "damaged row": 3,
        "duplicate": 1,
        "empty": 2,
        "invalid utf-8": 1,
        "line over 1,000,000 characters": 1,
        "near-duplicate": 1,
        "no letters": 1,
        "too long": 2,
        "too short": 1,
    }
    assert report["near_duplicates"] == [{"text": "Fine, text", "kept": "fine text"}]
    _, report = prepare([*texts[:4], *texts[7:]], settings=EnglishSettings())
    assert report["left_out"] == {
        "control characters": 1,
        "duplicate": 1,
        "empty": 2,
        "invalid utf-8": 1,
        "near-duplicate": 1,
        "other language": 1,
    }


def test_only_strong_evidence_of_another_language_counts(prepare):
    german = "Der Zug nach Hamburg fährt heute leider später ab."
    english = ["Is Madeleine still in Nigeria?", "Syntax: Lorem Ipsum", "NEGATIVE REQUIREMENTS", "Guten Tag!"]
    rows, _ = prepare([german, *english], settings=EnglishSettings())
    assert rows["en"].to_list() == english
    rows, _ = prepare([german], settings=EnglishSettings(other_language=None))
    assert len(rows) == 1


def test_sentences_of_documents(prepare, tmp_path):
    documents = ['"Dr. Smith left at 5 p.m. He came back\\nlate.\\n\\n  A new paragraph."', '""', '"\\n \\n"', '"One."']
    (tmp_path / "x.jsonl").write_text("\n".join(f'{{"text": {document}}}' for document in documents))
    rows, report = prepare(tmp_path / "x.jsonl", settings=settings(split="sentences"))
    assert rows["en"].to_list() == ["Dr. Smith left at 5 p.m.", "He came back late.", "A new paragraph.", "One."]
    assert (report["lines_read"], report["texts"], report["kept"], report["normalised"]) == (4, 6, 4, 1)
    assert report["left_out"] == {"empty": 2}
    rows, _ = prepare(tmp_path / "x.jsonl")
    assert rows["en"].to_list() == ["Dr. Smith left at 5 p.m. He came back late. A new paragraph.", "One."]


def test_chunks_and_order(prepare):
    texts = [f"Sentence number {number}." for number in range(2 * ROWS_PER_CHUNK + 5)]
    rows, _ = prepare(texts)
    assert rows["en"].to_list() == texts
    rows, _ = prepare(texts[:ROWS_PER_CHUNK])
    assert len(rows) == ROWS_PER_CHUNK


def test_sizes_of_chunks(tmp_path):
    texts = [f"Sentence number {number}." for number in range(2 * ROWS_PER_CHUNK + 5)]
    (tmp_path / "x.txt").write_text("\n".join(texts))
    (tmp_path / "out").mkdir()
    prepare_english([str(tmp_path / "x.txt")], ALL, tmp_path / "out")
    sizes = [len(pl.read_parquet(file)) for file in sorted((tmp_path / "out").iterdir())]
    assert sizes == [ROWS_PER_CHUNK, ROWS_PER_CHUNK, 5]


def test_the_first_of_equal_texts_stays_across_sources(prepare):
    rows, report = prepare(["a", "b", "a"], ["c", "b", " a", "d"])
    assert rows["en"].to_list() == ["a", "b", "c", "d"]
    assert [source["left_out"] for source in report["sources"]] == [{"duplicate": 1}, {"duplicate": 2}]
    assert [source["kept"] for source in report["sources"]] == [2, 2]


def test_the_sample_is_a_function_of_seed_and_text(prepare):
    texts = [f"Sentence number {number}." for number in range(300)]

    def hashed(text, seed):
        return xxh3_64_intdigest(bytes.fromhex(xxh3_128_hexdigest(text.encode())), seed)

    expected = sorted(texts, key=lambda text: hashed(text, 7))[:40]
    for order in (texts, texts[::-1], [*texts, *texts]):
        rows, report = prepare(order, settings=settings(rows=40, seed=7))
        assert rows["en"].to_list() == [text for text in order[:300] if text in set(expected)]
        assert report["left_out"]["not sampled"] == 260
    other, _ = prepare(texts, settings=settings(rows=40, seed=8))
    assert set(other["en"]) != set(expected)


@pytest.mark.parametrize(
    ("available", "rows", "shares"),
    [
        ([100, 100, 100], 32, [11, 11, 10]),
        ([100, 2, 100], 32, [15, 2, 15]),
        ([1, 2, 100], 32, [1, 2, 29]),
        ([5, 0, 5], 9, [5, 0, 4]),
        ([4, 4], 1, [1, 0]),
        ([3, 3], 9, [3, 3]),
    ],
)
def test_equal_shares(available, rows, shares):
    assert module._shares(available, rows) == shares


def test_every_source_gives_its_share(prepare):
    few = ["One of few.", "Two of few."]
    many = [[f"Text {number} of {source}." for number in range(50)] for source in "ab"]
    _, report = prepare(many[0], [*few, *many[0]], many[1], settings=settings(rows=32))
    assert [source["kept"] for source in report["sources"]] == [15, 2, 15]
    assert [source["left_out"] for source in report["sources"]] == [
        {"not sampled": 35},
        {"duplicate": 50},
        {"not sampled": 35},
    ]


def test_more_rows_asked_for_than_there_are(prepare, caplog):
    with caplog.at_level(logging.WARNING):
        rows, _ = prepare(["one", "two"], settings=settings(rows=3))
    assert len(rows) == 2
    assert caplog.messages == ["2 texts are fewer than the 3 asked for; all are kept"]


def test_sizes_of_blocks_and_parts_do_not_matter(prepare, sample_rows, monkeypatch):
    texts = [*sample_rows["en"], *sample_rows["en"].str.to_uppercase().head(100), *sample_rows["en"].head(50)]
    sources = [texts[:300], texts[300:]]
    expected, report = prepare(*sources, settings=EnglishSettings(rows=333))
    assert (report["left_out"]["duplicate"], report["left_out"]["near-duplicate"]) == (50, 100)
    monkeypatch.setattr(spool, "ROWS_AT_ONCE", 17)
    monkeypatch.setattr(spool, "_ROWS_PER_PART", 50)
    monkeypatch.setattr("polyalign.translation.sources._BYTES_AT_ONCE", 999)
    rows, same = prepare(*sources, settings=EnglishSettings(rows=333))
    assert rows.equals(expected)
    for one in (report, same):
        for source in one["sources"]:
            del source["name"]
    assert same == report


def test_the_packaged_sample(prepare, tmp_path):
    report = prepare_english(["sample"], EnglishSettings(), tmp_path)
    assert (report["lines_read"], report["kept"]) == (220, 220)


def test_nothing_left(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"\n\xff\n12\n")
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=r"no text is left of 3 in .*x\.txt: 1 empty, 1 invalid utf-8, 1 too short$"):
        prepare_english([str(tmp_path / "x.txt")], EnglishSettings(), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"near_duplicates": 0.2}, r"near_duplicates is 0\.2, must be greater than or equal to 0\.5"),
        ({"split": "words"}, r"split is 'words', must be 'lines' or 'sentences'"),
        ({"min_characters": 9, "max_characters": 8}, "min_characters, 9, is above max_characters, 8"),
        ({"row": 5}, r"unknown key 'row' \(did you mean 'rows'\?\)"),
    ],
)
def test_settings(values, message):
    with pytest.raises(UserError, match=message):
        EnglishSettings.checked(values, "recipe")


@given(st.binary(max_size=200), st.sampled_from([".txt", ".csv", ".jsonl"]), st.sampled_from(["lines", "sentences"]))
def test_arbitrary_bytes_add_up(tmp_path_factory, content, suffix, split):
    folder = tmp_path_factory.mktemp("any")
    path = folder / f"x{suffix}"
    path.write_bytes(content)
    (folder / "out").mkdir()
    message = ""
    try:
        report = prepare_english([str(path), "sample"], EnglishSettings(split=split), folder / "out")
    except UserError as error:
        message = str(error)
    if message:
        assert len(message.splitlines()) == 1
        return
    rows = pl.read_parquet(folder / "out" / "*.parquet")
    assert_adds_up(report, rows)
    checked, checks = check(rows.select("en", de="en"))
    assert checked.select("row_id", "en").equals(rows)
    assert checks["normalised"] == 0


DATA = Path(os.environ.get("POLYALIGN_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.skipif(not (DATA / "english").is_dir(), reason="needs english/captions.txt in POLYALIGN_DATA")
def test_real_captions(tmp_path):
    report = prepare_english([str(DATA / "english" / "captions.txt")], EnglishSettings(), tmp_path)
    assert (report["lines_read"], report["left_out"]) == (29_000, {"duplicate": 9, "near-duplicate": 16})
