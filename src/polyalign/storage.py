"""Outputs that appear whole or not at all, and the fingerprints that tie them together.

Every output of polyalign is a folder whose manifest (``manifest.json``; an encoder's is ``polyalign.json``) is written
last, inside a temporary folder that is renamed into place. A folder with a manifest is complete; one without it is not
ours to touch.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import xxhash

from polyalign.errors import UserError

MANIFEST = "manifest.json"


def user_cache(name: str) -> Path:
    """Return ``$POLYALIGN_CACHE/name``, else ``polyalign/name`` in the user's cache folder."""
    chosen = os.environ.get("POLYALIGN_CACHE")
    shared = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(chosen) if chosen else shared / "polyalign") / name


def fingerprint(value: Any) -> str:
    """Return the 32-hex-digit xxh3-128 hash of a JSON-serialisable value; the order of keys does not matter."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return xxhash.xxh3_128_hexdigest(canonical.encode())


def fingerprint_files(paths: list[Path], root: Path) -> str:
    """Return the xxh3-128 hash of the files' contents and their paths below ``root``, whatever the order given."""
    digest = xxhash.xxh3_128()
    for path in sorted(paths):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically: a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented UTF-8 JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_manifest(folder: Path, name: str = MANIFEST) -> dict[str, Any] | None:
    """Return the manifest of a complete output folder, or None when there is none.

    Raises:
        UserError: when the manifest is there but is not JSON.
    """
    path = folder / name
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); delete {folder} and make it again") from error
    if not isinstance(manifest, dict):
        raise UserError(f"{path} is not a manifest; delete {folder} and make it again")
    return manifest


def keep_existing(out: Path, *, force: bool, manifest: str = MANIFEST) -> bool:
    """Return whether a complete output at ``out`` is to be left alone.

    Raises:
        UserError: when something that is not a complete output of ours stands at ``out``; it is never deleted.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if out.is_dir() and read_manifest(out, manifest) is not None:
        return not force
    raise UserError(f"{out} exists and is not a complete polyalign output; choose another --out or delete it yourself")


@contextmanager
def new_folder(out: Path, manifest: str = MANIFEST) -> Iterator[Path]:
    """Yield an empty temporary folder beside ``out`` that replaces ``out`` when the block ends without an exception.

    The caller writes its manifest last, with `write_json`. After an exception (Ctrl-C
    included) the temporary folder is deleted and ``out`` is as it was.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if not (partial / manifest).is_file():
            raise RuntimeError(f"{out} was about to be published without a manifest")
        if out.exists():
            replaced = out.with_name(f".{out.name}.{os.getpid()}.replaced")
            out.rename(replaced)
            partial.rename(out)
            shutil.rmtree(replaced)
        else:
            partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


_installed = cache(version)  # each look parses the whole metadata file


def versions() -> dict[str, str]:
    """Return the versions of polyalign and of the libraries that decide its numbers."""
    names = ("polyalign", "torch", "sentence-transformers", "transformers", "tokenizers", "mteb", "datasets", "numpy")
    found = {}
    for name in names:
        try:
            found[name] = _installed(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
