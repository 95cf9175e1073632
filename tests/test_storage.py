"""Outputs appear whole or not at all."""

from pathlib import Path

import pytest

from polyalign.errors import UserError
from polyalign.storage import (
    fingerprint,
    fingerprint_files,
    keep_existing,
    new_folder,
    read_manifest,
    user_cache,
    write_json,
)


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path):
    out = tmp_path / "out"
    for number in (1, 2):
        with new_folder(out) as folder:
            (folder / f"file{number}").write_text("x")
            assert not (out / f"file{number}").exists()
            write_json(folder / "manifest.json", {"number": number})
        assert read_manifest(out) == {"number": number}
    assert sorted(path.name for path in out.iterdir()) == ["file2", "manifest.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ValueError])
def test_an_interruption_leaves_the_old_one_and_nothing_else(tmp_path, interruption):
    out = tmp_path / "out"
    with new_folder(out) as folder:
        write_json(folder / "manifest.json", {"old": True})
    with pytest.raises(interruption), new_folder(out) as folder:  # noqa: PT012
        (folder / "half").write_text("x")
        raise interruption
    assert read_manifest(out) == {"old": True}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_without_a_manifest_is_never_published(tmp_path):
    with pytest.raises(RuntimeError, match="without a manifest"), new_folder(tmp_path / "out"):
        pass
    assert not (tmp_path / "out").exists()


def test_what_is_not_ours_is_not_touched(tmp_path):
    out = tmp_path / "out"
    assert not keep_existing(out, force=False)
    out.mkdir()
    assert not keep_existing(out, force=False)
    (out / "thesis.doc").write_text("x")
    for force in (False, True):
        with pytest.raises(UserError, match="exists and is not a complete polyalign output; choose another --out or"):
            keep_existing(out, force=force)
    write_json(out / "manifest.json", {})
    assert keep_existing(out, force=False)
    assert not keep_existing(out, force=True)
    (out / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        keep_existing(out, force=False)


def test_fingerprints(tmp_path):
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1}) != fingerprint({"a": 1, "b": [3]})
    files = [tmp_path / "x", tmp_path / "y"]
    for file in files:
        file.write_text(file.name)
    assert fingerprint_files(files, tmp_path) == fingerprint_files(files[::-1], tmp_path)
    before = fingerprint_files(files, tmp_path)
    files[0].rename(tmp_path / "z")
    assert fingerprint_files([tmp_path / "z", files[1]], tmp_path) != before


def test_the_users_own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("POLYALIGN_CACHE", str(tmp_path / "a"))
    assert user_cache("tokens") == tmp_path / "a" / "tokens"
    monkeypatch.delenv("POLYALIGN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert user_cache("tokens") == tmp_path / "b" / "polyalign" / "tokens"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert user_cache("tokens") == Path.home() / ".cache" / "polyalign" / "tokens"
