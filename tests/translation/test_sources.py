import codecs
import csv
import gzip
import io
import json
import logging

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from polyalign.errors import UserError
from polyalign.translation import sources as module
from polyalign.translation.sources import DAMAGED, LONG_LINE, LONGEST_LINE, open_sources

TEXTS = ["A cat sleeps.", 'He said "no",\nthen yes.', "", "Ein Café für Zoë"]


def read(*names, column=None):
    """Texts and counts of all sources together."""
    texts, left_out = [], {}
    for source in open_sources([str(name) for name in names], column):
        for block in source.blocks():
            texts += block.texts.to_list()
            for reason, count in block.left_out.items():
                left_out[reason] = left_out.get(reason, 0) + count
    return texts, left_out


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def as_csv(rows, **dialect):
    stream = io.StringIO()
    csv.writer(stream, **dialect).writerows(rows)
    return stream.getvalue()


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
def test_every_format_and_compression(tmp_path, compression):
    compress = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[compression]
    one_line = [text.replace("\n", " ") for text in TEXTS]
    contents = {
        "plain.txt": "\n".join(one_line),
        "unknown.suffix": "\n".join(one_line) + "\n",
        "windows.TXT": "\r\n".join(one_line),
        "tabs.tsv": "id\ttext\n" + "".join(f"{number}\t{text}\n" for number, text in enumerate(one_line)),
        "commas.csv": as_csv([("id", "text"), *enumerate(TEXTS)]),
        "objects.jsonl": "".join(json.dumps({"id": number, "text": text}) + "\n" for number, text in enumerate(TEXTS)),
    }
    for name, content in contents.items():
        path = written(tmp_path / (name + compression), compress(content.encode()))
        expected = TEXTS if name.startswith(("commas", "objects")) else one_line
        assert read(path) == (expected, {}), name


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_parquet_of_every_type_of_string_block_by_block(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 3)
    texts = [*TEXTS, None, *TEXTS]
    column = pa.array(texts).cast(kind)
    pq.write_table(pa.table({"n": list(range(9)), "text": column}), tmp_path / "x.parquet", row_group_size=4)
    (source,) = open_sources([str(tmp_path / "x.parquet")], None)
    blocks = list(source.blocks())
    assert [text for block in blocks for text in block.texts] == texts
    assert max(len(block.texts) for block in blocks) <= 3


def test_a_dataset_in_a_folder(tmp_path):
    written(tmp_path / "data" / "train.jsonl", "".join(json.dumps({"s": text}) + "\n" for text in TEXTS))
    written(tmp_path / "data" / "test.jsonl", '{"s": "of the test split"}\n')
    assert read(f"datasets:{tmp_path}/data") == (TEXTS, {})
    assert read(f"datasets:{tmp_path}/data::test", column="s") == (["of the test split"], {})
    with pytest.raises(UserError, match=r"no text in a column 'x'; its columns of text are 's'"):
        read(f"datasets:{tmp_path}/data", column="x")
    with pytest.raises(UserError, match=r"cannot read the dataset .*check datasets:ID:CONFIG:SPLIT"):
        read(f"datasets:{tmp_path}/data::nosplit")


def test_an_id_on_the_hub_is_told_from_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"no file or folder 'org/name', and cannot read the dataset 'org/name'"):
        open_sources(["org/name"], None)
    with pytest.raises(UserError, match=r"^no such file: english/captions\.txt\.gz$"):
        open_sources(["english/captions.txt.gz"], None)


def test_a_folder_stands_for_its_files_by_path(tmp_path):
    written(tmp_path / "b.txt", "second\n")
    written(tmp_path / "a" / "z.csv", "text\nfirst\n")
    written(tmp_path / "c.jsonl.gz", gzip.compress(b'{"en": "third"}\n'))
    written(tmp_path / "empty.txt", "")
    written(tmp_path / "manifest.json", "{}")
    written(tmp_path / ".cache" / "x.txt", "hidden\n")
    written(tmp_path / ".hidden.txt", "hidden\n")
    (source,) = open_sources([str(tmp_path)], None)
    assert [text for block in source.blocks() for text in block.texts] == ["first", "second", "third"]


def test_the_packaged_sample(sample_rows):
    texts, _ = read("sample")
    known = set(sample_rows["en"])
    assert len(texts) == len(set(texts)) == 220
    assert sum(text in known for text in texts) == 20


@pytest.mark.parametrize(
    ("columns", "wanted", "chosen"),
    [
        ({"en": "E", "text": "T"}, None, "T"),
        ({"en": "E", "de": "D"}, None, "E"),
        ({"id": 7, "sentence": "S"}, None, "S"),
        ({"en": "E", "text": "T"}, "en", "E"),
        ({"text": 5, "en": "E"}, None, "E"),
    ],
)
def test_the_column(tmp_path, columns, wanted, chosen):
    written(tmp_path / "x.jsonl", json.dumps(columns))
    pl.DataFrame([columns]).write_parquet(tmp_path / "x.parquet")
    assert read(tmp_path / "x.jsonl", column=wanted) == ([chosen], {})
    assert read(tmp_path / "x.parquet", column=wanted) == ([chosen], {})


def test_all_problems_of_all_sources_at_once(tmp_path):
    written(tmp_path / "fine.txt", "fine\n")
    written(tmp_path / "empty.txt", "")
    written(tmp_path / "header.csv", "text\n")
    written(tmp_path / "two.csv", "source,target\na,b\n")
    written(tmp_path / "numbers.jsonl", '{"n": 1}\n')
    written(tmp_path / "twice.csv", "text,text\na,b\n")
    written(tmp_path / "cut.csv", '"text\n')
    written(tmp_path / "cut.parquet", "PAR1")
    written(tmp_path / "x.parquet.gz", gzip.compress(b"PAR1"))
    written(tmp_path / "cut.txt.gz", gzip.compress(b"text\n" * 100)[:20])
    (tmp_path / "folder").mkdir()
    pl.DataFrame({"text": []}, schema={"text": pl.String}).write_parquet(tmp_path / "none.parquet")
    names = ["missing.txt", *sorted(path.name for path in tmp_path.iterdir())]
    with pytest.raises(UserError) as caught:
        open_sources([str(tmp_path / name) for name in names], None)
    assert str(caught.value).replace(f"{tmp_path}/", "").split("; ") == [
        "no such file: missing.txt",
        "cut.csv: the header is damaged (unexpected end of data)", "mend its first line",
        "cut.parquet is not a whole Parquet file (ArrowInvalid: Parquet file size is 4 bytes, smaller than the minimum "
        "file footer (8 bytes))", "is it cut short?",
        "cut.txt.gz is damaged (Compressed file ended before the end-of-stream marker was reached)", "is it cut short?",
        "empty.txt is empty", "leave it out or give another source",
        "folder holds no .txt, .jsonl, .csv, .tsv, .parquet file", "give each file of another name by itself",
        "header.csv is empty", "leave it out or give another source",
        "none.parquet is empty", "leave it out or give another source",
        "numbers.jsonl: cannot tell which column is the English", "it has no column of text",
        "name one (--column NAME)",
        "twice.csv: column 'text' stands twice in the header", "rename or remove one",
        "two.csv: cannot tell which column is the English", "its columns of text are 'source', 'target'",
        "name one (--column NAME)",
        "x.parquet.gz: Parquet is compressed inside", "decompress the file itself",
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"two\.csv: no text in a column 'sorce' \(did you mean 'source'\?\)"):
        open_sources([str(tmp_path / "two.csv")], "sorce")
    with pytest.raises(UserError, match="got no source of English"):
        open_sources([], None)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks(tmp_path, encoding):
    for name, content in {
        "x.txt": "Naïve 😀\n",
        "x.csv": "text\nNaïve 😀\n",
        "x.jsonl": '{"text": "Naïve 😀"}\n',
    }.items():
        assert read(written(tmp_path / name, content.encode(encoding))) == (["Naïve 😀"], {})
    big_endian = codecs.BOM_UTF16_BE + "Naïve\nline".encode("utf-16-be")
    assert read(written(tmp_path / "be.txt", big_endian)) == (["Naïve", "line"], {})


def test_invalid_bytes_harm_their_own_line_only(tmp_path):
    assert read(written(tmp_path / "x.txt", b"good\nbad \xff\xe2\x82\nfine \xe2\x82\xac\n")) == (
        ["good", "bad ��", "fine €"],
        {},
    )
    assert read(written(tmp_path / "x.csv", b"text,n\ngood,1\nb\xe9d,2\nfine,3\n")) == (["good", "b�d", "fine"], {})
    half = codecs.BOM_UTF16_LE + "good\nb".encode("utf-16-le") + b"\x3d\xd8" + "d\nfine".encode("utf-16-le")
    assert read(written(tmp_path / "16.txt", half)) == (["good", "b�d", "fine"], {})
    assert read(written(tmp_path / "x.jsonl", '{"text": "\\ud83d!"}\n{"text": "fine"}')) == (["�!", "fine"], {})
    texts = pa.array([b"good", b"b\xe9d", None]).view(pa.string())
    pq.write_table(pa.table({"text": texts}), tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet") == (["good", "b�d", None], {})


def test_gigantic_lines_are_counted_and_their_neighbours_kept(tmp_path):
    longest = "€" * LONGEST_LINE
    path = written(tmp_path / "x.txt", f"before\n{longest}x\n{longest}\nafter\n")
    assert read(path) == (["before", longest, "after"], {LONG_LINE: 1})


def test_a_line_is_never_held_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_LINE", 10)
    monkeypatch.setattr(module, "_BYTES_AT_ONCE", 4)
    lines = ["0123456789", "0123456789x", "x" * 100, "", "end"]
    held = []
    monkeypatch.setattr(module, "_line", lambda line, judge=module._line: held.append(len(line)) or judge(line))
    for content in ("\n".join(lines), "\n".join(lines) + "\n"):
        assert read(written(tmp_path / "x.txt", content)) == (["0123456789", "", "end"], {LONG_LINE: 2})
    assert max(held) <= 10 + 4 + 1
    content = "text,n\n0123456789\nab,1\n" + '"' + "x" * 50 + '",2\nok,3\n'
    assert read(written(tmp_path / "x.csv", content)) == (["ab", "ok"], {DAMAGED: 1, LONG_LINE: 1})


def test_a_damaged_row_is_told_and_passed_over(tmp_path, caplog):
    lines = [
        '{"text": "one"}',
        "{broken",
        "[1]",
        "",
        '{"text": 5}',
        '{"other": "x"}',
        '{"text": null}',
        '{"text": "two"}',
    ]
    path = written(tmp_path / "x.jsonl", "\n".join(lines))
    with caplog.at_level(logging.WARNING):
        assert read(path) == (["one", None, None, None, "two"], {DAMAGED: 3})
    assert caplog.messages == [
        f"{path}: left out 3 x damaged row; the first is line 2 (not JSON: Expecting property name enclosed in double "
        "quotes: line 1 column 2 (char 1))"
    ]
    assert read(written(tmp_path / "deep.jsonl", '{"text": "one"}\n' + "[" * 100_000)) == (["one"], {DAMAGED: 1})


@pytest.mark.parametrize(
    ("body", "texts", "damaged"),
    [
        ("one,1\n\ntwo,2\n", ["one", None, "two"], 0),
        ("one,1\ntwo\nthree,3\n", ["one", "three"], 1),
        ("one,1\ntwo,2,2\nthree,3\n", ["one", "three"], 1),
        ('one,1\n"two,2\nthree,3\nfour,4\n', ["one", "three", "four"], 1),
        ('one,1\n"two,2\nthree,"3"\nfour,4\n', ["one", "three", "four"], 1),
        ('one,1\n"two\n2",2\n"three"x,3\nfour,4\n', ["one", "two\n2", "four"], 1),
        ('one,1\n"two\n2"\n"three",3\n', ["one", "three"], 2),
        ('one,1\n"' + "x\n" * 100_000 + "two,2\n", ["one", "two"], 100_000),
    ],
)
def test_rows_behind_a_damaged_one_are_read(tmp_path, body, texts, damaged):
    path = written(tmp_path / "x.csv", "text,n\n" + body)
    assert read(path) == (texts, {DAMAGED: damaged} if damaged else {})


cell = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=8)


@given(st.lists(st.tuples(cell, cell), min_size=1))
def test_whole_csv_as_the_csv_module_reads_it(tmp_path_factory, rows):
    path = written(
        tmp_path_factory.getbasetemp() / "whole.csv", as_csv([("text", "other"), *rows], quoting=csv.QUOTE_ALL)
    )
    assert read(path) == ([text for text, _ in rows], {})


junk = st.one_of(
    st.binary(max_size=60),
    st.text('",\n\r\t x{}[]:\0\ufeff\ud7ff', max_size=40).map(str.encode),
    st.sampled_from([b'"', b'""', b'"a"b', b'{"text": ', b'{"text": "x"', b"\xff\xfe", b"\xe2\x82", b"\x00", b"a,b,c"]),
)


@given(junk)
@example(b'"')
@example(b'x"\n"')
def test_good_lines_around_damage_survive(tmp_path_factory, damage):
    folder = tmp_path_factory.getbasetemp()
    for suffix, header, before, after in [
        (".txt", b"", b"good before", b"good after"),
        (".csv", b"text\n", b"good before", b"good after"),
        (".csv", b"text,n\n", b"good before,1", b'"good after",2'),
        (".tsv", b"n\ttext\n", b"1\tgood before", b"2\tgood after"),
        (".jsonl", b"", b'{"text": "good before"}', b'{"text": "good after"}'),
    ]:
        path = written(folder / f"damage{suffix}", header + before + b"\n" + damage + b"\n" + after + b"\n")
        texts, left_out = read(path)
        assert texts[0] == "good before"
        assert "good after" in texts, (suffix, texts, left_out)


@given(
    st.binary(max_size=80), st.sampled_from([".txt", ".csv", ".tsv", ".jsonl", ".parquet", ".gz", ".zst", ".csv.gz"])
)
def test_arbitrary_bytes_are_read_or_refused_in_one_line(tmp_path_factory, content, suffix):
    path = written(tmp_path_factory.getbasetemp() / f"any{suffix}", content)
    message = ""
    try:
        read(path)
    except UserError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1


@given(st.integers(0, 200), st.sampled_from([".gz", ".zst"]))
def test_cut_compressed_files_are_refused(tmp_path_factory, length, suffix):
    whole = {".gz": gzip.compress, ".zst": zstandard.compress}[suffix](b"".join(b"line %d\n" % n for n in range(100)))
    path = written(tmp_path_factory.getbasetemp() / f"cut.txt{suffix}", whole[:length])
    if length < len(whole):
        with pytest.raises(UserError, match="is it cut short"):
            read(path)
    else:
        assert len(read(path)[0]) == 100
