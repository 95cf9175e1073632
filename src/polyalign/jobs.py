"""Independent parts of a run, one after the other or in several processes at once."""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any

from polyalign.errors import UserError

Objects = Mapping[str | None, Any]
"""What is called, by name."""
Each = Callable[[str | None, str, Sequence[tuple[Any, ...]]], list[Any]]
"""Calls a method of the object of that name, once for each of several arguments; the results keep their order."""

log = logging.getLogger(__name__)
_objects: Objects = {}


@contextmanager
def calls_in(jobs: int, objects: Objects, make: Callable[[], Objects]) -> Iterator[Each]:
    """Yield what carries out calls in so many processes, which share the cores.

    Args:
        jobs: 1 for this process.
        objects: what is called in this process.
        make: returns the same in another process; it, the arguments and the results must be picklable.

    Raises:
        UserError: what a call raised, or when a process was killed. Calls that have begun come to their end before.
    """
    if jobs == 1:
        yield lambda name, method, calls: [getattr(objects[name], method)(*arguments) for arguments in calls]
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(
        jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(make, threads, logging.getLogger("polyalign").level),
    ) as pool:

        def each(name: str | None, method: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
            with _without_interrupts():
                pending = [pool.submit(partial(_call, name, method), *arguments) for arguments in calls]
            try:
                return [one.result() for one in pending]
            except BrokenProcessPool as error:
                raise UserError(
                    f"one of {jobs} jobs was killed, most likely for want of memory; run again with fewer --jobs, what "
                    "is finished stays"
                ) from error
            except UserError as error:
                log.error("%s (the jobs that have begun come to their end first)", error)
                pool.shutdown(cancel_futures=True)
                raise

        yield each


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back in processes that start meanwhile, until they let it in, past the imports."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Lines(io.TextIOBase):
    """Stderr that does not pass for a terminal: the bars of several processes would overwrite each other."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return int(self._stream.write(text))

    def flush(self) -> None:
        self._stream.flush()


def _begin(make: Callable[[], Objects], threads: int, level: int) -> None:
    """Prepare a process: its share of the cores, its log, an end with the process that began it."""
    global _objects
    import torch

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    sys.stderr = _Lines(sys.stderr)
    number = multiprocessing.current_process().name.rpartition("-")[2]
    logging.basicConfig(level=logging.WARNING, format=f"[{number}] %(message)s", stream=sys.stderr)
    logging.getLogger("polyalign").setLevel(level)
    torch.set_num_threads(threads)
    _objects = make()


def _call(name: str | None, method: str, *arguments: Any) -> Any:
    return getattr(_objects[name], method)(*arguments)
