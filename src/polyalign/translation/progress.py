"""What a build shows while it works: a bar a language on a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Mapping
from threading import Lock
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from polyalign.corpus.verdicts import OK

log = logging.getLogger(__name__)
_SECONDS_BETWEEN_LINES = 15.0


class BuildProgress:
    """Counts finished cells by language, and verdicts so far.

    The verdicts shown are provisional: the usual length ratio is known only when all is translated.

    Args:
        cells: of each language in all.
        remembered: of each language, those that an earlier call finished.
    """

    def __init__(self, cells: Mapping[str, int], remembered: Mapping[str, int]) -> None:
        self._cells = dict(cells)
        self._done = Counter({language: remembered.get(language, 0) for language in cells})
        self._fresh: Counter[str] = Counter()
        self._verdicts: dict[str, Counter[str]] = {language: Counter() for language in cells}
        self._lock = Lock()
        self._started = self._last_line = time.monotonic()
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        """Show the bars, on a terminal."""
        if sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[speed]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[verdicts]}"),
            )
            self._bars = Progress(*columns, console=Console(stderr=True))
            for language, total in self._cells.items():
                self._tasks[language] = self._bars.add_task(
                    language, total=total, completed=self._done[language], speed="", verdicts=""
                )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the bars as they are."""
        if self._bars is not None:
            self._bars.stop()

    def advance(self, language: str, cells: int, *, fresh: bool) -> None:
        """Count finished cells; ``fresh`` ones were translated now and make the speed."""
        with self._lock:
            self._done[language] += cells
            self._fresh[language] += cells if fresh else 0
            if self._bars is not None:
                self._bars.update(self._tasks[language], completed=self._done[language], speed=self._speed(language))
            elif time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
                self._last_line = time.monotonic()
                log.info("%s", self._line())

    def judged(self, language: str, verdicts: Mapping[str, int]) -> None:
        """Count provisional verdicts."""
        with self._lock:
            self._verdicts[language].update(verdicts)
            if self._bars is not None:
                self._bars.update(self._tasks[language], verdicts=_told(self._verdicts[language]))

    @property
    def fresh(self) -> int:
        """Cells that were translated, not remembered."""
        return self._fresh.total()

    def _speed(self, language: str) -> str:
        return f"{self._fresh[language] / max(time.monotonic() - self._started, 1e-9):,.0f} sentences/s"

    def _line(self) -> str:
        done, total = self._done.total(), sum(self._cells.values())
        speed = self._fresh.total() / (time.monotonic() - self._started)
        left = f", {(total - done) / speed / 60:,.1f} min left" if speed else ""
        verdicts: Counter[str] = Counter()
        for counts in self._verdicts.values():
            verdicts.update(counts)
        languages = ", ".join(f"{language} {self._done[language]:,}" for language in self._cells)
        return f"{done:,} of {total:,} cells ({languages}), {speed:,.0f} sentences/s{left}; {_told(verdicts)}"


def _told(verdicts: Counter[str]) -> str:
    total = verdicts.total()
    if not total:
        return ""
    reasons = "".join(f", {reason} {count:,}" for reason, count in verdicts.most_common() if reason != OK)
    return f"{100 * verdicts[OK] / total:.1f}% ok{reasons}"
