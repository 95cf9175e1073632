"""Engines at work: chunks of texts in, translations out, on the threads of this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event
from typing import Protocol

from polyalign.translation.engines.choosing import EngineChoice
from polyalign.translation.engines.contract import Engine, Translation

Results = dict[str, dict[str, Translation]]
"""Language -> English text -> translation."""

Sink = Callable[[str, list[tuple[str, Translation]]], None]
"""Takes a language and finished (English text, translation) pairs, as soon as they are there."""


@dataclass(frozen=True)
class Task:
    """What is to be translated of one chunk of rows.

    Attributes:
        number: of the chunk.
        texts: language -> distinct English texts.
        engines: language -> position of the engine among the choices.
    """

    number: int
    texts: Mapping[str, Sequence[str]]
    engines: Mapping[str, int]


class Pool(Protocol):
    """Translates tasks at the same time."""

    def run(self, tasks: Iterator[Task], sink: Sink) -> Iterator[tuple[Task, Results]]:
        """Yield every task with its results, in any order; a few tasks are taken ahead."""
        ...


def translate_task(engines: Sequence[Engine], task: Task, sink: Sink) -> Results:
    """Translate a task with the engines that it names, handing on each batch as it comes."""
    results: Results = {}
    for language, texts in task.texts.items():
        results[language] = {}
        for batch in engines[task.engines[language]].translate(texts, language):
            pairs = [(texts[index], translation) for index, translation in batch]
            sink(language, pairs)
            results[language].update(pairs)
    return results


class _StoppedError(Exception):
    """Another worker failed, or the user wants to stop."""


class ThreadPool:
    """Workers in this process, each with engines of its own: they wait for programs, servers and compiled code.

    Args:
        choices: the engines.
        workers: how many; worker i uses GPU i where the engine knows GPUs and there is more than one worker.
    """

    def __init__(self, choices: Sequence[EngineChoice], workers: int) -> None:
        self._choices = choices
        self._workers = workers

    def run(self, tasks: Iterator[Task], sink: Sink) -> Iterator[tuple[Task, Results]]:
        """See `Pool`; the first failure ends all workers."""
        idle: SimpleQueue[list[Engine]] = SimpleQueue()
        opened = []
        for worker in range(self._workers):
            device_index = worker if self._workers > 1 else None
            opened.append([choice.open(device_index=device_index) for choice in self._choices])
            idle.put(opened[-1])
        stopping = Event()

        def guarded(language: str, pairs: list[tuple[str, Translation]]) -> None:
            sink(language, pairs)
            if stopping.is_set():
                raise _StoppedError

        def work(task: Task) -> Results:
            engines = idle.get()
            try:
                return translate_task(engines, task, guarded)
            finally:
                idle.put(engines)

        futures: dict[Future[Results], Task] = {}
        executor = ThreadPoolExecutor(self._workers, initializer=_prefer_throughput)
        try:
            for task in tasks:
                futures[executor.submit(work, task)] = task
                # One task more than there are workers, so that none waits while results are taken care of.
                if len(futures) > self._workers:
                    yield from _finished(futures)
            while futures:
                yield from _finished(futures)
        finally:
            stopping.set()
            executor.shutdown(wait=False, cancel_futures=True)  # first, or a task begins with engines that are closed
            for engines in opened:
                for engine in engines:
                    engine.close()
            executor.shutdown()


def _prefer_throughput() -> None:
    """Have Linux give long turns to this thread and to all that it starts.

    Of programs joined by pipes one would else be interrupted by the next at every text.
    """
    if sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_OTHER:
        with suppress(OSError):  # not allowed here: slower, no more
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _finished(futures: dict[Future[Results], Task]) -> Iterator[tuple[Task, Results]]:
    """Wait until some task is finished, take it out and yield it; a failed one raises what it failed of."""
    for future in wait(futures, return_when=FIRST_COMPLETED).done:
        yield futures.pop(future), future.result()


def default_workers(choices: Sequence[EngineChoice]) -> int:
    """Return how many workers use this machine: one a core for engines that are programs, else one a GPU or one."""
    if all(choice.is_memory or choice.spec.startswith("apertium") for choice in choices):
        return os.cpu_count() or 1
    import torch

    return max(1, torch.cuda.device_count())
