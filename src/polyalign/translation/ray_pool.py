"""Engines at work on a Ray cluster, by Ray Data; the same results as on the threads of one process."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

from polyalign.errors import UserError
from polyalign.translation.engines.choosing import EngineChoice
from polyalign.translation.engines.contract import Translation
from polyalign.translation.pool import Results, Sink, Task, translate_task

if TYPE_CHECKING:
    import pyarrow as pa

LOCAL = "local"
_TASKS_PER_WORKER = 16


class RayPool:
    """Workers on a cluster. A task whose worker dies is given to another one.

    Models and programs must be there on every node, under the same paths. Results come back a whole task at a time, so
    that a killed build loses the tasks in flight.

    Args:
        choices: the engines.
        address: of the cluster, as ``ray://HOST:10001`` or ``auto``; ``local`` starts one on this machine and ends it.
        workers: how many; None for one a GPU of the cluster, else one a core.

    Raises:
        UserError: when Ray is not installed.
    """

    def __init__(self, choices: Sequence[EngineChoice], address: str, workers: int | None) -> None:
        try:
            import ray.data  # noqa: F401
        except ImportError as error:
            raise UserError("--ray needs Ray; install it with `pip install 'polyalign[ray]'`") from error
        self._choices = choices
        self._address = address
        self._workers = workers

    def run(self, tasks: Iterator[Task], sink: Sink) -> Iterator[tuple[Task, Results]]:
        """See `Pool`; as many tasks as give every worker some are handed to the cluster at a time."""
        import ray

        started = not ray.is_initialized()
        if started:
            self._connect()
        try:
            gpus = int(ray.cluster_resources().get("GPU", 0))
            workers = self._workers or gpus or int(ray.cluster_resources()["CPU"])
            while window := list(islice(tasks, workers * _TASKS_PER_WORKER)):
                yield from self._run_window(window, sink, min(workers, len(window)), 1.0 if gpus else 0.0)
        finally:
            if started:
                ray.shutdown()

    def _connect(self) -> None:
        import ray

        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        try:
            ray.init(address=self._address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(
                f"no Ray cluster at {self._address!r} ({str(error).splitlines()[0]}); start one, or use --ray local"
            ) from error

    def _run_window(
        self, window: Sequence[Task], sink: Sink, workers: int, gpus: float
    ) -> Iterator[tuple[Task, Results]]:
        import ray.data

        rows = [{"number": task.number, "task": json.dumps([task.texts, task.engines])} for task in window]
        results = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Worker,
            fn_constructor_args=([choice.model_dump() for choice in self._choices],),
            batch_format="pyarrow",
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_gpus=gpus,
        )
        by_number = {task.number: task for task in window}
        for row in results.iter_rows():
            found = {
                language: {text: Translation(**values) for text, values in translations}
                for language, translations in json.loads(row["results"]).items()
            }
            for language, translations in found.items():
                sink(language, list(translations.items()))
            yield by_number[row["number"]], found


class _Worker:
    """Holds the engines of one worker process."""

    def __init__(self, choices: list[dict[str, Any]]) -> None:
        self._engines = [EngineChoice.model_validate(choice).open() for choice in choices]

    def __call__(self, batch: pa.Table) -> pa.Table:
        import pyarrow as pa

        results = []
        for row in batch.to_pylist():
            texts, engines = json.loads(row["task"])
            found = translate_task(self._engines, Task(row["number"], texts, engines), _discard)
            as_lists = {
                language: [[text, asdict(translation)] for text, translation in translations.items()]
                for language, translations in found.items()
            }
            results.append(json.dumps(as_lists))
        return pa.table({"number": batch["number"], "results": results})


def _discard(language: str, pairs: list[tuple[str, Translation]]) -> None:
    """Keep nothing: results travel back with their task."""
