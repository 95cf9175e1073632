"""Files as users have them: every format gives the same rows, every fault one clear line."""

import csv
import io
import json
import re

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyalign.corpus import Corpus
from polyalign.corpus.readers import read_moses, read_texts

TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs"), include_characters="\n\t", exclude_characters="\ufffd"))
CELL = (
    st.none() | TEXT | st.sampled_from(['"', "a,b", 'say "x"', "a\tb", "a\nb", "''", "\u2028", "\ufeffx", "#", "null"])
)
ROWS = st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=8)
TAGS = ("en", "de", "zh")


@settings(max_examples=50)
@given(ROWS)
def test_every_format_reads_the_same_rows(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("formats")
    rows = [("hello", "hallo", None), *rows]
    pl.DataFrame(rows, schema=dict.fromkeys(TAGS, pl.String), orient="row").write_parquet(folder / "x.parquet")
    stream = io.StringIO()
    csv.writer(stream).writerows([TAGS, *rows])
    (folder / "x.csv").write_bytes(stream.getvalue().encode())
    records = ({tag: text for tag, text in zip(TAGS, row, strict=True) if text is not None} for row in rows)
    (folder / "x.jsonl").write_bytes("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records).encode())
    expected = Corpus.open(folder / "x.parquet")
    for name in ("x.csv", "x.jsonl"):
        found = Corpus.open(folder / name)
        # A language that no JSON object names is no column; its texts are missing all the same.
        assert found.rows.to_dicts() == expected.rows.select("row_id", *found.languages).to_dicts()
        assert expected.select(found.languages).fingerprint == found.fingerprint
    expected.write(folder / "corpus")
    assert Corpus.open(folder / "corpus").rows.equals(expected.rows)
    assert Corpus.open(folder / "corpus").fingerprint == expected.fingerprint


def test_tsv_has_no_quotes(write):
    assert read_texts(write("x.tsv", 'en\tde\n"a\tb"\n')).rows() == [('"a', 'b"')]


def test_moses_lines_end_at_line_feeds_alone(write):
    sides = [write("x.en", "a\u2028b\r\nc\n"), write("x.de", "A\n\n")]
    assert read_moses(sides).rows() == [("a\u2028b", "A"), ("c", "")]


def test_a_byte_order_mark_is_no_part_of_the_first_column(write):
    assert read_texts(write("x.csv", b"\xef\xbb\xbfen,de\r\na,b\r\n")).rows() == [("a", "b")]


def test_blank_lines_are_rows_without_text(write):
    report = Corpus.open(write("x.csv", "en,de\n\na,b\n\n")).report
    assert (report["rows_read"], report["dropped"]) == (3, {"no text": 2})
    report = Corpus.open(write("x.jsonl", '{"en":"a","de":"b"}\n\n{}\n')).report
    assert (report["rows_read"], report["dropped"]) == (3, {"no text": 2})


def test_codes_become_canonical_and_row_id_is_no_language(write):
    path = write("x.csv", "row_id, EN,deu,zh_Hans\n7,a,b,c\n")
    assert read_texts(path).columns == ["en", "de", "zh"]


def test_a_translation_column_stands_for_its_fields(write, tmp_path):
    record = {"id": "7", "translation": {"en": "a", "de": "b"}}
    pl.DataFrame([record]).write_parquet(tmp_path / "x.parquet")
    for path in (tmp_path / "x.parquet", write("x.jsonl", json.dumps(record))):
        assert read_texts(path).to_dicts() == [{"en": "a", "de": "b"}]


def test_half_a_surrogate_pair_is_rejected_and_counted(write):
    corpus = Corpus.open(write("x.jsonl", '{"en":"a","de":"b\\ud800","fr":"c"}\n'))
    assert corpus.rows["de"].to_list() == [None]
    assert corpus.report["cells"] == {"invalid utf-8": 1}


def test_columns_that_nobody_asked_for_do_no_harm(write, jsonl):
    path = write("x.csv", "en,label,de,ger,fr\na,1,b,c,d\n")
    assert Corpus.open(path, languages=["fr", "en"]).languages == ("en", "fr")
    path = jsonl({"id": 4, "en": "a", "de": "b"})
    assert Corpus.open(path, languages=["en", "de"]).rows.select("en", "de").rows() == [("a", "b")]


FAULTS = [
    ("x.csv", "en,german\na,b\n", r"x.csv: column 'german': unknown language code 'german' \(did you mean 'de'\?\)"),
    (
        "x.csv",
        "en,de,label,text\na,b,c,d\n",
        "'label'.*; no language codes either: 'text'; --languages en,de,... reads",
    ),
    ("x.csv", "en,de,ger\na,b,c\n", "columns 'de' and 'ger' both mean 'de'"),
    ("x.csv", "en,de,en\na,b,c\n", "column 'en' stands twice in the header"),
    ("x.csv", "en\na\n", r"only 'en' among its columns \('en'\); a corpus needs two languages"),
    ("x.csv", "", "no language among its columns"),
    ("x.csv", "en,de\n", "x.csv: no rows"),
    ("x.csv", 'en,de\n"a\nb",c\nd\n', "x.csv, line 4: 1 field where the header has 2"),
    ("x.csv", "en,de\na,b,c\n", "x.csv, line 2: 3 fields where the header has 2"),
    ("x.csv", 'en,de\na,b\nc,"d\ne', "x.csv, row at line 3: unexpected end of data"),
    ("x.csv", 'en,"de', "x.csv, row at line 1: unexpected end of data"),
    ("x.csv", 'en,de\n"a" b,c\n', "x.csv, row at line 2: ',' expected after '\"'"),
    ("x.csv", b"en,de\na,b\n\xe4,c\n", r"x.csv, line 3: not UTF-8 \(byte 0xe4, invalid continuation byte\)"),
    ("x.csv", "en,de\na\x12,b\nc, \n", "none of its 2 rows has .* only: 2, control characters: 1, empty: 1"),
    ("x.tsv", "en\tde\na\n", "x.tsv, line 2: 1 field where the header has 2"),
    ("x.jsonl", '{"en":"a","de":"b"}\n{"en":"a","de', "x.jsonl, line 2: not JSON .*; is the file cut short?"),
    ("x.jsonl", '["a", "b"]\n', "x.jsonl, line 1: a list, not an object"),
    ("x.jsonl", '{"en":"a","de":"b"}\n{"en":"c","de":3}\n', r"'de' \(German\) holds int, not text, in row 2"),
    ("x.jsonl", b'{"en":"a","de":"\xff"}\n', "x.jsonl, line 1: not UTF-8"),
    ("x.jsonl", '{"\\ud800":"a","de":"b"}\n', r"x.jsonl, line 1: the key '\\ud800' is no language code"),
    ("x.jsonl", "[" * 9999 + "\n", "x.jsonl, line 1: not JSON"),
    ("x.parquet", "en,de\na,b\n", "x.parquet is not a whole Parquet file"),
    ("x.xlsx", "", "x.xlsx has an unknown format; allowed are .parquet, .csv, .tsv, .jsonl, .tmx, .po, .pot, .xlf"),
    ("x.en", "a\n", "or all sides of Moses line pairs together"),
]


@pytest.mark.parametrize(("name", "content", "message"), FAULTS)
def test_a_faulty_file_is_refused(write, refused, name, content, message):
    assert re.search(message, refused(Corpus.open, write(name, content)))


def test_a_column_of_numbers_is_refused(tmp_path, refused):
    pl.DataFrame({"en": ["a"], "id": [3], "de": ["b"]}).write_parquet(tmp_path / "x.parquet")
    message = refused(Corpus.open, tmp_path / "x.parquet")
    assert "column 'id' (Indonesian) holds Int64, not text; mend the file, or name the languages" in message
    assert Corpus.open(tmp_path / "x.parquet", languages=["en", "de"]).languages == ("en", "de")


def test_categories_and_a_column_of_nothing_are_text(tmp_path):
    table = pl.DataFrame({"en": ["a", "a"], "de": ["b", "b"], "fr": [None, None]})
    table.with_columns(pl.col("de").cast(pl.Categorical)).write_parquet(tmp_path / "x.parquet")
    assert read_texts(tmp_path / "x.parquet").rows() == [("a", "b", None)] * 2


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_parquet_file_cut_short_is_refused(tmp_path, refused, part):
    path = tmp_path / "x.parquet"
    pl.DataFrame({"en": [f"text {i}" for i in range(200)], "de": [f"Text {i}" for i in range(200)]}).write_parquet(path)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    assert "is it cut short?" in refused(Corpus.open, path)


def test_unequal_moses_files_name_both_counts(write, refused):
    message = refused(read_moses, [write("x.en", "a\nb\n"), write("x.de", "c\n")])
    assert "x.en has 2" in message
    assert "x.de has 1" in message


def test_a_missing_file_is_refused(tmp_path, refused):
    assert refused(Corpus.open, tmp_path / "gone.csv") == f"no such file: {tmp_path / 'gone.csv'}"
    assert "No such file" in refused(read_moses, [tmp_path / "x.en", tmp_path / "x.de"])


@pytest.fixture
def dataset_folder(tmp_path, monkeypatch):
    """A folder that `datasets.load_dataset` reads, with a translation column and two splits."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features({"translation": datasets.Translation(languages=["en", "de"])})
    for split, text in (("train", "a"), ("test", "b")):
        rows = datasets.Dataset.from_dict({"translation": [{"en": text, "de": text.upper()}]}, features=features)
        rows.to_parquet(tmp_path / "data" / f"{split}.parquet")
    return tmp_path / "data"


def test_a_dataset_is_read_by_id_configuration_and_split(dataset_folder, refused):
    assert read_texts(f"datasets:{dataset_folder}").to_dicts() == [{"de": "A", "en": "a"}]
    assert read_texts(f"datasets:{dataset_folder}:default:test").to_dicts() == [{"de": "B", "en": "b"}]
    assert 'Unknown split "dev"' in refused(read_texts, f"datasets:{dataset_folder}::dev")
    assert f"give datasets:{dataset_folder}" in refused(Corpus.open, dataset_folder)


def test_an_unreachable_dataset_says_how_to_get_it(monkeypatch, refused):
    import datasets

    def offline(path, name, split):
        raise ConnectionError(f"cannot reach {path}, {name}, {split}\nfor some reason")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    message = refused(read_texts, "some-org/some_set:de-en:dev")
    assert "no file or folder 'some-org/some_set'" in message
    assert "ConnectionError: cannot reach some-org/some_set, de-en, dev)" in message
    assert "download it elsewhere and give the folder as datasets:FOLDER" in message


def test_a_misspelt_path_is_no_dataset(write, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert refused(Corpus.open, "runs/corpsu") == "no such file: runs/corpsu"
    assert refused(Corpus.open, "gone/corpus.csv") == "no such file: gone/corpus.csv"
