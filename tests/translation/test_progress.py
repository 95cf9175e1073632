"""What a build shows: right numbers, as lines in a log and as bars on a terminal."""

import io
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from polyalign.translation import progress
from polyalign.translation.progress import BuildProgress


@pytest.fixture
def clock(monkeypatch):
    """The time that the progress sees; it goes on only when a test says so."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


@pytest.fixture
def lines(caplog):
    caplog.set_level("INFO", logger="polyalign")
    return lambda: [record.message for record in caplog.records]


def test_a_line_in_the_log_now_and_then(clock, lines):
    """1,000 cells of two languages, 100 of them done before; after 20 s another 100, 80 of them fresh: 4 a second.

    So the 800 that are left take 200 s.
    """
    with BuildProgress({"de": 500, "fr": 500}, {"de": 100}) as shown:
        shown.advance("de", 20, fresh=False)
        shown.advance("de", 30, fresh=True)
        shown.judged("de", {"ok": 45, "wrong language": 5})
        shown.judged("fr", {"ok": 45, "wrong language": 1, "copy of the source": 4})
        assert lines() == []
        clock.seconds += 20
        shown.advance("fr", 50, fresh=True)
        clock.seconds += 10
        shown.advance("fr", 1, fresh=True)
        assert lines() == [
            "200 of 1,000 cells (de 150, fr 50), 4 sentences/s, 3.3 min left; "
            "90.0% ok, wrong language 6, copy of the source 4"
        ]
        clock.seconds += 6
        shown.advance("fr", 1, fresh=True)
        assert len(lines()) == 2
    assert shown.fresh == 82


def test_without_fresh_cells_there_is_no_time_left_to_tell(clock, lines):
    with BuildProgress({"de": 500}, {}) as shown:
        clock.seconds += 20
        shown.advance("de", 50, fresh=False)
    assert lines() == ["50 of 500 cells (de 50), 0 sentences/s; "]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_bars_on_a_terminal(clock, lines, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with BuildProgress({"de": 400, "pt-BR": 400}, {"de": 100}) as shown:
        clock.seconds += 20
        shown.advance("de", 200, fresh=True)
        shown.judged("de", {"ok": 150, "numbers lost": 50})
        shown.advance("pt-BR", 400, fresh=True)
    last = terminal.getvalue().split("\x1b[1A")[-1]
    for part in ("300/400", "10 sentences/s", "75.0% ok, numbers lost 50", "pt-BR", "400/400", "20 sentences/s"):
        assert part in last
    assert lines() == []


def test_nothing_is_lost_when_many_workers_count(clock):
    with BuildProgress({"de": 8000}, {}) as shown, ThreadPoolExecutor(8) as threads:
        for _ in range(8000):
            threads.submit(shown.advance, "de", 1, fresh=True)
    assert shown.fresh == 8000
