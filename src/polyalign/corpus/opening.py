"""Opening of files that may be compressed."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from polyalign.errors import UserError

LOST = "polyalign.lost"
"""Name of the decoders' error handler that marks lost bytes such that `polyalign.corpus.checking` rejects the cell."""

_BLOCK_BYTES = 1 << 16
# Codecs for literals do not read the last as it is.
_ASCII = bytes(code for code in range(128) if chr(code) != "\\") + rb"\x41\u0041"
# What programs write under these names; a superset of what the names say.
_MEANT = {"ascii": "utf-8", "iso8859-1": "cp1252"}

codecs.register_error(LOST, lambda error: ("\ufffd\ufffd", error.end))  # type: ignore[attr-defined]


def plain_path(path: Path) -> Path:
    """Return the path without the suffix of its compression: "x.csv" for "x.csv.gz"."""
    return path.with_suffix("") if path.suffix.lower() in _DECOMPRESSORS else path


def plain_suffix(path: Path) -> str:
    """Return the suffix of the format in lower case: ".csv" for "x.csv" and "x.CSV.gz"."""
    return plain_path(path).suffix.lower()


def open_binary(path: Path) -> BinaryIO:
    """Open a file for reading; one whose name ends in ``.gz`` or ``.zst`` is decompressed as it is read.

    Raises:
        UserError: when the file cannot be opened. Reading raises it when compressed data are damaged or cut short.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    decompress = _DECOMPRESSORS.get(path.suffix.lower())
    if decompress is None:
        return stream
    return io.BufferedReader(_Blocks(decompress(stream, path), stream))


def text_encoding(name: str, path: Path) -> str:
    """Return the encoding that a file means by the name it declares; it has to be one that writes ASCII as itself.

    Raises:
        UserError: when it is not, or unknown.
    """
    try:
        if _ASCII.decode(name, LOST) == _ASCII.decode("ascii"):
            return _MEANT.get(codecs.lookup(name).name, name)
    except (LookupError, UnicodeError):
        pass
    raise UserError(f"{path} declares the encoding {name!r}, which cannot be read; save it as UTF-8")


class _Blocks(io.RawIOBase):
    """The blocks of an iterator as one stream."""

    def __init__(self, blocks: Iterator[bytes], source: BinaryIO) -> None:
        self._blocks = blocks
        self._source = source
        self._unread = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._unread:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._unread = memoryview(block)
        size = min(len(buffer), len(self._unread))
        buffer[:size], self._unread = self._unread[:size], self._unread[size:]
        return size

    def close(self) -> None:
        self._source.close()
        super().close()


def _gunzip(stream: BinaryIO, path: Path) -> Iterator[bytes]:
    if not stream.peek(1):  # type: ignore[attr-defined]  # gzip takes a file of no bytes for one of no text
        raise _damaged(path, "no data")
    try:
        with gzip.GzipFile(fileobj=stream) as blocks:
            while block := blocks.read(_BLOCK_BYTES):
                yield block
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, str(error)) from error


def _unzstd(stream: BinaryIO, path: Path) -> Iterator[bytes]:
    """Decompress frame by frame: the library's own stream ends without an error where the data end too early."""
    try:
        import zstandard
    except ImportError as error:
        raise UserError(f"reading {path} needs zstandard; pip install zstandard") from error
    frame = None
    try:
        while block := stream.read(_BLOCK_BYTES):
            while block:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                if text := frame.decompress(block):
                    yield text
                block, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    except zstandard.ZstdError as error:
        raise _damaged(path, str(error)) from error
    if frame is not None or not stream.tell():
        raise _damaged(path, "the data end too early")


def _damaged(path: Path, fault: str) -> UserError:
    return UserError(f"{path} is damaged ({fault}); is it cut short?")


_DECOMPRESSORS: dict[str, Callable[[BinaryIO, Path], Iterator[bytes]]] = {".gz": _gunzip, ".zst": _unzstd}
