"""The folder that a build works in: one build at a time, of one request; and what is said when its disk is full."""

from __future__ import annotations

import errno
import fcntl
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from polyalign.errors import UserError
from polyalign.storage import fingerprint_files, read_manifest, write_json

ENGLISH_REPORT = "english.json"
"""Written when the English is ready: from then on the folder holds work of one request."""

_REQUEST = "request.json"
_LOCK = "lock"


@contextmanager
def locked(work: Path, out: Path) -> Iterator[None]:
    """Hold the working folder against other processes; the system lets go of it however this one ends.

    Raises:
        UserError: when another process holds it.
    """
    work.mkdir(parents=True, exist_ok=True)
    with (work / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"another build is at work on {out}; wait for it, or choose another --out") from error
        try:
            yield
        finally:
            if not (work / ENGLISH_REPORT).is_file():  # nothing to go on from, as after a mistake in the request
                shutil.rmtree(work)


@contextmanager
def full_disk_told(out: Path) -> Iterator[None]:
    """Turn the many ways in which libraries report a full disk into one line.

    Raises:
        UserError: instead of them.
    """
    try:
        yield
    except (OSError, pl.exceptions.PolarsError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        if not full:
            raise
        where = getattr(error, "filename", None) or out
        raise UserError(
            f"no space left on the disk of {where}; make room and give the same command again: it goes on where it "
            "stopped"
        ) from error


def claim(work: Path, out: Path, request: Mapping[str, Any], *, force: bool) -> None:
    """Write what decides the work into its folder, or check that what lies there is of the same request.

    Raises:
        UserError: when it is not, unless ``force`` starts over.
    """
    if not (work / ENGLISH_REPORT).is_file():
        clear(work)
    before = read_manifest(work, _REQUEST)
    changed = [] if before is None else [key for key in request if before.get(key) != request[key]]
    if changed and not force:
        raise UserError(
            f"{work} holds an unfinished build of another request (changed: {', '.join(changed)}); give the first "
            f"request again, choose another --out than {out}, or start over with --force (what was translated is "
            "remembered)"
        )
    if changed:
        clear(work)
    if changed or before is None:
        write_json(work / _REQUEST, request)


def clear(work: Path) -> None:
    """Delete all that lies in the folder but the lock."""
    for entry in work.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != _LOCK:
            entry.unlink()


def source_identity(source: str) -> str:
    """Return a hash of a local source's files; a source from elsewhere is its name."""
    path = Path(source)
    if path.is_dir():
        return fingerprint_files([file for file in path.rglob("*") if file.is_file()], path)
    return fingerprint_files([path], path.parent) if path.is_file() else source
