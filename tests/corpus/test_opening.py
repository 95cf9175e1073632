"""Compressed files give what was compressed, or one line that says what is wrong."""

import gzip
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from polyalign.corpus.opening import open_binary, plain_path, plain_suffix
from polyalign.errors import UserError

CONTENT = b"one\ntwo\n" * 50_000  # several blocks
PACK = {".gz": gzip.compress, ".zst": zstandard.compress}


def test_names():
    assert plain_suffix(Path("a/x.CSV.gz")) == ".csv"
    assert plain_suffix(Path("x.en.zst")) == ".en"
    assert plain_suffix(Path("x.tmx")) == ".tmx"
    assert plain_path(Path("a/x.en.GZ")) == Path("a/x.en")


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("content", [b"", b"a", CONTENT])
def test_content_is_read_whatever_the_packing(write, suffix, content):
    with open_binary(write(f"x{suffix}", PACK.get(suffix, bytes)(content))) as stream:
        assert stream.read() == content
    with open_binary(write(f"x{suffix}", PACK.get(suffix, bytes)(content))) as stream:
        assert b"".join(stream) == content


@pytest.mark.parametrize("suffix", PACK)
def test_packed_files_can_be_put_together(write, suffix):
    pack = PACK[suffix]
    with open_binary(write(f"x{suffix}", pack(b"a") + pack(b"") + pack(CONTENT))) as stream:
        assert stream.read() == b"a" + CONTENT


@pytest.mark.parametrize("suffix", PACK)
@settings(max_examples=40)
@given(data=st.data())
def test_damage_is_a_clear_error(tmp_path_factory, suffix, data):
    packed = PACK[suffix](b"some text, some more text")
    cut = data.draw(st.integers(0, len(packed) - 1))
    path = tmp_path_factory.mktemp("packed") / f"x{suffix}"
    for content in (packed[:cut], packed + b"junk"):
        path.write_bytes(content)
        with open_binary(path) as stream, pytest.raises(UserError, match=r"is damaged \(.*\); is it cut short"):
            stream.read()


def test_a_missing_file_and_a_missing_library(tmp_path, write, refused, monkeypatch):
    assert (
        refused(open_binary, tmp_path / "gone.gz") == f"cannot read {tmp_path / 'gone.gz'}: No such file or directory"
    )
    assert "Is a directory" in refused(open_binary, tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with open_binary(write("x.zst", b"a")) as stream, pytest.raises(UserError, match="pip install zstandard"):
        stream.read()
