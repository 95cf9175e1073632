"""The memory of what was translated: content-addressed, on disk, shared by all builds of a user."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from xxhash import xxh3_128_digest

from polyalign.errors import UserError
from polyalign.storage import fingerprint
from polyalign.translation.engines.contract import Provenance, Translation

if TYPE_CHECKING:
    from collections.abc import Iterator

_SCHEMA = """
CREATE TABLE IF NOT EXISTS translations (
    source BLOB PRIMARY KEY,  -- xxh3-128 of the English text
    text TEXT NOT NULL, score REAL, truncated INTEGER NOT NULL, unknown INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_TEXTS_PER_QUERY = 500


class Memory:
    """Translations by engine (with revision and settings), language and English text.

    What is added is on disk when `add` returns, so that a killed build asks for nothing again but the batch in flight.
    Several threads and several builds may use one memory at the same time.

    Args:
        folder: made when something is added.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[Path, sqlite3.Connection] = {}
        self._lock = Lock()

    def known(self, provenance: Provenance, language: str, texts: Sequence[str]) -> dict[str, Translation]:
        """Return the translations that are there, by English text."""
        path = self._path(provenance, language)
        found: dict[str, Translation] = {}
        with self._lock, _one_line_errors(path):
            if not path.exists():
                return found
            connection = self._connection(path, provenance, language)
            by_source = {xxh3_128_digest(text.encode()): text for text in texts}
            sources = list(by_source)
            for start in range(0, len(sources), _TEXTS_PER_QUERY):
                block = sources[start : start + _TEXTS_PER_QUERY]
                query = f"SELECT * FROM translations WHERE source IN ({','.join('?' * len(block))})"
                for source, text, score, truncated, unknown in connection.execute(query, block):
                    found[by_source[source]] = Translation(
                        text=text, score=score, truncated=bool(truncated), unknown=unknown
                    )
        return found

    def add(self, provenance: Provenance, language: str, pairs: Iterable[tuple[str, Translation]]) -> None:
        """Remember translations; those with an error are left out, so that they are asked for again."""
        rows = [
            (xxh3_128_digest(text.encode()), done.text, done.score, done.truncated, done.unknown)
            for text, done in pairs
            if done.error is None
        ]
        path = self._path(provenance, language)
        with self._lock, _one_line_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = self._connection(path, provenance, language)
            with connection:
                connection.executemany("INSERT OR IGNORE INTO translations VALUES (?, ?, ?, ?, ?)", sorted(rows))

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            for connection in self._open.values():
                connection.close()
            self._open.clear()

    def _path(self, provenance: Provenance, language: str) -> Path:
        return self._folder / f"{language}-{fingerprint([provenance.key, language])}.sqlite"

    def _connection(self, path: Path, provenance: Provenance, language: str) -> sqlite3.Connection:
        if path not in self._open:
            connection = sqlite3.connect(path, timeout=60, check_same_thread=False)
            connection.execute("PRAGMA synchronous=NORMAL")
            with (self._folder / "lock").open("w") as lock:
                # SQLite does not wait for another process that makes the same file at the same moment.
                fcntl.flock(lock, fcntl.LOCK_EX)
                connection.execute("PRAGMA journal_mode=WAL")
                connection.executescript(_SCHEMA)
            about = {
                "engine": provenance.engine,
                "revision": provenance.revision,
                "licence": provenance.licence,
                "settings": str(provenance.settings),
                "language": language,
            }
            with connection:
                connection.executemany("INSERT OR IGNORE INTO about VALUES (?, ?)", about.items())
            self._open[path] = connection
        return self._open[path]


@contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite says of a full disk into the system's own error, and of a damaged file into a user's."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if "full" in str(error) or "disk I/O" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        if "locked" in str(error):
            raise UserError(
                f"another process has kept the translation memory {path} locked for a minute; give the command again"
            ) from error
        raise UserError(
            f"the translation memory {path} cannot be used ({error}); delete that file, or choose another --memory"
        ) from error
