"""Near-duplicates among texts: candidates by MinHash, each verified by its true Jaccard index.

A text stands for the set of its 4-grams of UTF-8 bytes, after lower-casing and with every run of other characters than
letters and digits as one space. On short sentences these tell "Taliban chief killed" and "Taleban chief killed" (alike)
from "a man in a red shirt" and "a man in a blue shirt" (not), where sets of words do not.

Method: Broder, "On the resemblance and containment of documents" (1997), with banding as in Leskovec, Rajaraman and
Ullman, "Mining of Massive Datasets", chapter 3. The hashes lie on disk, band by band; memory holds a few bytes a text.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from polyalign.translation.spool import TextFile, grouped

_GRAM = 4  # bytes, which is a 32-bit number
_HASHES = 128  # the most that a signature has
_RECALL = 0.98  # of pairs exactly at the threshold; more alike ones are missed far more rarely
_ROUNDS = 16  # members of a group that the later ones are compared with, at most, in each band
_TEXTS_AT_ONCE = 2048  # so that their 4-grams stay in the processor's cache
_KEY = "<u4"
_PADDING = b" " * (_GRAM - 1)  # gives every character a 4-gram that starts with it


def near_duplicates(texts: TextFile, wanted: NDArray[np.bool], threshold: float, folder: Path) -> NDArray[np.int32]:
    """Find the texts that nearly repeat an earlier one.

    A text is near another when the Jaccard index of their sets of 4-grams reaches the threshold. What is found depends
    on the texts and their order alone.

    Args:
        texts: the texts.
        wanted: [texts], which of them to look at.
        threshold: from 0.5 to 1.
        folder: where working files may be put.

    Returns:
        [texts]: for a near-duplicate the number of an earlier text that is near it and no near-duplicate itself, else
        -1. A pair exactly at the threshold is overlooked with a chance of at most 2%; and a text stays, rarely, whose
        likeness was found to a text that is left out itself.
    """
    bands, rows = _banding(threshold)
    files = [folder / f"band-{band}" for band in range(bands)]
    with closing(TextFile(folder / "simplified")) as simplified:
        _hash(texts, simplified, files, rows)

        @lru_cache(maxsize=1024)
        def grams(row: int) -> set[bytes]:
            return _grams(simplified[row])

        def near(one: int, other: int) -> bool:
            common = len(grams(one) & grams(other))
            return common >= threshold * (len(grams(one)) + len(grams(other)) - common)

        instead = np.full(len(texts), -1, np.int32)
        for file in files:
            for members, starts in grouped(file, _KEY, wanted & (instead < 0)):
                _compare(members, starts, near, instead)
            file.unlink()
        _settle(near, instead)
    return instead


def _banding(threshold: float) -> tuple[int, int]:
    """Return the number of bands and the hashes in each: the most that still find a pair at the threshold."""
    bands = {rows: _HASHES // rows for rows in range(_HASHES, 0, -1)}
    rows = next(rows for rows in bands if 1 - (1 - threshold**rows) ** bands[rows] >= _RECALL)
    return bands[rows], rows


def simplify(texts: pl.Series) -> pl.Series:
    """Return what of the texts is compared: never empty, unless the text is."""
    simple = texts.str.to_lowercase().str.replace_all(r"[^\p{L}\p{M}\p{N}]+", " ").str.strip_chars()
    return simple.zip_with(simple != "", texts)


def _grams(text: bytes) -> set[bytes]:
    padded = text + _PADDING
    return {padded[start : start + _GRAM] for start in range(len(text))}


def _hash(texts: TextFile, simplified: TextFile, files: list[Path], rows: int) -> None:
    """Write the simplified texts, and a key for each text and band."""
    draw = np.random.Generator(np.random.PCG64(0))
    factors = draw.integers(1 << 63, size=rows * len(files), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    with ExitStack() as stack:
        streams = [stack.enter_context(file.open("wb")) for file in files]
        for _, block in texts.blocks():
            simple = simplify(block)
            simplified.append(simple)
            encoded = list(simple.cast(pl.Binary))
            for start in range(0, len(encoded), _TEXTS_AT_ONCE):
                signatures = _signatures(encoded[start : start + _TEXTS_AT_ONCE], factors)
                for stream, band in zip(streams, np.split(signatures, len(files)), strict=True):
                    stream.write(_keys(band).tobytes())


def _signatures(texts: list[bytes], factors: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the MinHash signatures of texts that are not empty, [factors, texts]."""
    read = np.frombuffer(_PADDING.join([*texts, b""]), np.uint8).astype(np.uint64)
    grams = sum((read[byte : len(read) - len(_PADDING) + byte] << (8 * byte) for byte in range(_GRAM)), np.uint64(0))
    lengths = np.array([len(text) for text in texts])
    starts = np.cumsum(lengths) - lengths
    paddings = np.add.outer(starts[1:] + len(_PADDING) * np.arange(len(texts) - 1), np.arange(len(_PADDING)))
    hashes = _mixed(np.delete(grams, paddings.ravel()))
    # Multiplying by an odd number permutes the 64-bit numbers.
    return np.stack([np.minimum.reduceat(hashes * factor, starts) for factor in factors])


def _keys(band: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """Return one number for each text of a band, [rows, texts]."""
    keys = np.zeros(band.shape[1], np.uint64)
    for row in band:
        keys = _mixed(keys ^ row)
    return (keys >> 32).astype(_KEY)


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return another 64-bit number for each, whose every bit depends on every bit (the finaliser of splitmix64)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _compare(
    members: NDArray[np.int64], starts: NDArray[np.bool], near: Callable[[int, int], bool], instead: NDArray[np.int32]
) -> None:
    """Compare the members of each group with its first; then, without it and those near it, once more."""
    for _ in range(_ROUNDS):
        first = members[starts][np.cumsum(starts) - 1]
        members, first = members[~starts], first[~starts]
        if not len(members):
            return
        alike = np.array([near(*pair) for pair in zip(members.tolist(), first.tolist(), strict=True)])
        instead[members[alike]] = first[alike]
        members, first = members[~alike], first[~alike]
        starts = np.concatenate([[True], first[1:] != first[:-1]])[: len(first)]


def _settle(near: Callable[[int, int], bool], instead: NDArray[np.int32]) -> None:
    """Compare texts that were near a near-duplicate with what stands instead of that one; keep them if they differ."""
    rows = np.flatnonzero(instead >= 0)
    for row in rows[instead[instead[rows]] >= 0].tolist():
        root = int(instead[instead[row]])  # settled before, as it is earlier
        if root >= 0:
            instead[row] = root if near(row, root) else -1
