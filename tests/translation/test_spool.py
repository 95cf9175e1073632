from contextlib import closing

import numpy as np
import polars as pl
import pytest

from polyalign.translation import spool
from polyalign.translation.spool import TextFile, grouped, read_keys


def test_texts_come_back_in_order_whatever_the_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "ROWS_AT_ONCE", 2)
    with closing(TextFile(tmp_path / "texts")) as texts:
        texts.append(pl.Series(["one", "", "drei €"]))
        texts.append(pl.Series([], dtype=pl.String))
        texts.append(pl.Series(["四", "five"]))
        assert len(texts) == 5
        assert texts[2] == "drei €".encode()
        assert [(first, block.to_list()) for first, block in texts.blocks()] == [
            (0, ["one", ""]),
            (2, ["drei €", "四"]),
            (4, ["five"]),
        ]
        assert texts[0] == b"one"


def test_an_empty_file_has_no_blocks(tmp_path):
    with closing(TextFile(tmp_path / "texts")) as texts:
        assert list(texts.blocks()) == []


@pytest.mark.parametrize("rows_per_part", [2, 3, 100])
def test_rows_of_equal_keys_come_together(tmp_path, monkeypatch, rows_per_part):
    monkeypatch.setattr(spool, "_ROWS_PER_PART", rows_per_part)
    monkeypatch.setattr(spool, "ROWS_AT_ONCE", 3)
    keys = np.array([[7, 1], [7, 2], [5, 1], [7, 1], [5, 1], [9, 9], [7, 1], [5, 1]], "<u8")
    (tmp_path / "keys").write_bytes(keys.tobytes())
    assert np.concatenate([block for _, block in read_keys(tmp_path / "keys", ("<u8", 2))]).tolist() == keys.tolist()
    wanted = np.array([True] * 7 + [False])
    found = [
        (row, bool(first))
        for rows, firsts in grouped(tmp_path / "keys", ("<u8", 2), wanted)
        for row, first in zip(rows, firsts, strict=True)
    ]
    sevens, fives = [(0, True), (3, False), (6, False)], [(2, True), (4, False)]
    assert found in (sevens + fives, fives + sevens)  # rows 1 and 5 share no key, row 7 is not wanted


def test_random_keys_against_a_dictionary(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "_ROWS_PER_PART", 64)
    keys = np.random.default_rng(0).integers(300, size=1000, dtype=np.uint32)
    (tmp_path / "keys").write_bytes(keys.tobytes())
    parts = list(grouped(tmp_path / "keys", "<u4", np.ones(1000, bool)))
    expected: dict[int, list[int]] = {}
    for row, key in enumerate(keys.tolist()):
        expected.setdefault(key, []).append(row)
    groups = []
    for rows, firsts in parts:
        assert len(rows) <= 300
        groups += [group.tolist() for group in np.split(rows, np.flatnonzero(firsts)[1:])]
    assert sorted(groups) == sorted(group for group in expected.values() if len(group) > 1)
