"""Files of every format, damaged in every way: what comes out is a corpus or one clear line."""

import gzip
import json

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from polyalign.corpus import Corpus, import_corpus
from polyalign.corpus.readers import read_source
from polyalign.errors import UserError

PAIRS = [("first text", "erster Text"), ("second & <text>", 'zweiter "Text"'), ("third", "dritter")]
ESCAPED = [tuple(text.replace("&", "&amp;").replace("<", "&lt;") for text in pair) for pair in PAIRS]

FILES = {
    "x.csv": "en,de\n" + "".join('"{}","{}"\n'.format(*(t.replace('"', '""') for t in pair)) for pair in PAIRS),
    "x.tsv": "en\tde\n" + "".join("\t".join(pair) + "\n" for pair in PAIRS),
    "x.jsonl": "".join(json.dumps(dict(zip(("en", "de"), pair, strict=True))) + "\n" for pair in PAIRS),
    "x.tmx": '<?xml version="1.0" encoding="utf-8"?><tmx version="1.4"><body>'
    + "".join(
        f'<tu><tuv xml:lang="en"><seg>{a}</seg></tuv><tuv lang="de"><seg>{b}</seg></tuv></tu>' for a, b in ESCAPED
    )
    + "</body></tmx>",
    "x.xlf": '<xliff version="1.2"><file source-language="en" target-language="de"><body>'
    + "".join(f"<trans-unit><source>{a}</source><target>{b}</target></trans-unit>" for a, b in ESCAPED)
    + "</body></file></xliff>",
    "de.po": 'msgid ""\nmsgstr "Language: de\\nContent-Type: text/plain; charset=UTF-8\\n"\n\n'
    + "".join(f"msgid {json.dumps(a)}\nmsgstr {json.dumps(b)}\n\n" for a, b in PAIRS),
}

NOISE = (
    st.binary(max_size=8)
    | st.sampled_from(
        [b"\x00", b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", "\u202e\u2066".encode(), b"\r", b'"', b"\\u", b"\\ud800"]
    )
    | st.sampled_from(
        [
            b"<!--",
            b"<![CDATA[",
            b"]]>",
            b"<tu>",
            b"</tu>",
            b"&#0;",
            b"[" * 3000,
            b"a" * 200_000,
            b"&x;" * 50,
            b"\n\n",
            b"{",
            b",",
        ]
    )
)


@st.composite
def damaged(draw, content):
    """The content cut short, or with bytes removed and others put in at some places."""
    for _ in range(draw(st.integers(1, 3))):
        place, removed = draw(st.integers(0, len(content))), draw(st.integers(0, 12))
        content = content[:place] + draw(NOISE) + content[place + removed :]
    return content[: draw(st.none() | st.integers(0, len(content)))]


def outcome(call, *args, **options):
    """What the call returns, or the text of the user's error."""
    try:
        return call(*args, **options)
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_sound(write, name):
    assert Corpus.open(write(name, FILES[name])).rows.select("en", "de").rows() == PAIRS


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=80)
@given(data=st.data())
def test_damage_gives_a_corpus_or_a_clear_line(tmp_path_factory, name, data):
    path = tmp_path_factory.mktemp("damage") / name
    path.write_bytes(data.draw(damaged(FILES[name].encode())))
    found = outcome(Corpus.open, path)
    if isinstance(found, str):
        assert "\n" not in found
    else:
        report = found.report
        assert report["rows_read"] == len(found) + report["merged_duplicates"] + sum(report["dropped"].values())


@settings(max_examples=40)
@given(st.data())
def test_damaged_line_pairs_and_packed_files(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damage")
    for tag, side in zip(("en", "de"), zip(*PAIRS, strict=True), strict=True):
        (folder / f"x.{tag}").write_bytes(data.draw(damaged("".join(f"{text}\n" for text in side).encode())))
    packed = data.draw(damaged(data.draw(st.sampled_from([gzip.compress, zstandard.compress]))(b"en,de\na,b\n")))
    (folder / "y.csv.gz").write_bytes(packed)
    (folder / "y.csv.zst").write_bytes(packed)
    for group in (["x.en", "x.de"], ["y.csv.gz"], ["y.csv.zst"]):
        found = outcome(import_corpus, [folder / name for name in group], folder / "out", force=True)
        assert isinstance(found, Corpus) or "\n" not in found


@pytest.mark.parametrize("name", FILES)
def test_a_gigantic_text_is_a_text_like_others(write, name):
    gigantic = "long " * 400_000 + "end"
    content = FILES[name].replace("first text", gigantic)
    assert read_source(write(name, content)).table["en"].to_list() == [gigantic, *(a for a, _ in PAIRS[1:])]


@pytest.mark.parametrize("name", FILES)
def test_bidi_controls_are_text_and_a_null_costs_its_cell(write, name):
    marked = "\u202eabc\u202c \u2066x\u2069"
    null = "\\u0000" if name == "x.jsonl" else "\x00"
    content = FILES[name].replace("first text", marked).replace("third", f"th{null}ird")
    corpus = Corpus.open(write(name, content))
    assert corpus.rows["en"].to_list() == [marked, PAIRS[1][0]]
    assert (corpus.report["cells"], corpus.report["dropped"]) == ({"control characters": 1}, {"one language only": 1})
