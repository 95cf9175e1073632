"""Calls in other processes: results in order, mistakes as they are, an end with whoever began them."""

import importlib
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from polyalign.errors import UserError
from polyalign.jobs import _without_interrupts, calls_in

COUNTING = """
import os, signal, time
import torch
from polyalign.errors import UserError

class Counter:
    def __init__(self, start):
        self.start = start

    def add(self, number):
        time.sleep(0.2 / (1 + number))  # the first are the last to end
        return self.start + number, os.getpid(), torch.get_num_threads()

    def refuse(self, number):
        raise UserError(f"{number} is odd")

    def die(self, _):
        os.kill(os.getpid(), signal.SIGKILL)

def counters(*starts):
    return {f"{start}": Counter(start) for start in starts}
"""


@pytest.fixture
def counters(tmp_path, monkeypatch):
    """From a module that other processes can import, as they cannot import tests."""
    (tmp_path / "counting.py").write_text(COUNTING)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("counting").counters
    del sys.modules["counting"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_keep_the_order_of_the_calls(jobs, counters):
    with calls_in(jobs, counters(10, 20), partial(counters, 10, 20)) as each:
        for name in ("10", "20"):
            results = each(name, "add", [(number,) for number in range(6)])
            assert [result for result, _, _ in results] == [int(name) + number for number in range(6)]
            processes = {process for _, process, _ in results}
            assert processes == {os.getpid()} if jobs == 1 else os.getpid() not in processes
            if jobs == 2:
                assert {threads for _, _, threads in results} == {max(1, os.cpu_count() // 2)}


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_mistake_is_told_as_in_one_process(jobs, counters):
    with pytest.raises(UserError, match=r"^3 is odd$"), calls_in(jobs, counters(0), partial(counters, 0)) as each:
        each("0", "refuse", [(3,)])


def test_a_killed_job_ends_the_run_in_one_line(counters):
    told = "one of 2 jobs was killed, most likely for want of memory; run again with fewer --jobs"
    with pytest.raises(UserError, match=told), calls_in(2, {}, partial(counters, 0)) as each:
        each("0", "die", [(1,), (2,)])


ABANDONED = """
import os, sys, time
from polyalign.jobs import _without_interrupts, calls_in

class Sleeper:
    def sleep(self, path):
        open(path, "w").write(str(os.getpid()))
        time.sleep(60)

def make():
    return {None: Sleeper()}

if __name__ == "__main__":
    with calls_in(2, {}, make) as each:
        each(None, "sleep", [(path,) for path in sys.argv[1:]])
"""


def test_no_job_outlives_a_killed_run(tmp_path):
    """Else it would go on writing where the same command, run again, writes."""
    (tmp_path / "abandoned.py").write_text(ABANDONED)
    files = [tmp_path / "a", tmp_path / "b"]
    with subprocess.Popen([sys.executable, tmp_path / "abandoned.py", *files]) as run:
        _wait(lambda: all(path.exists() and path.read_text() for path in files))
        run.kill()
    jobs = [int(path.read_text()) for path in files]
    _wait(lambda: not any(_lives(job) for job in jobs))


def _lives(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{process}/stat")  # one that has ended may wait there for its end to be noticed
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def _wait(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_ctrl_c_waits_while_processes_start():
    code = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    with _without_interrupts():
        started = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert started.stdout == "True\n"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
