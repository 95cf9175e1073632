"""The verb `build`: English in, an N-way corpus out, by whatever engines there are."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import polars as pl

from polyalign.corpus.columns import ENGLISH, ROW_ID
from polyalign.corpus.decontamination import Decontaminator
from polyalign.encoder import load_encoder
from polyalign.errors import UserError
from polyalign.languages import name
from polyalign.storage import fingerprint, keep_existing, read_manifest, user_cache, write_json
from polyalign.translation.cells import Answered, judge_cells, make_cells, usual_length, write_parquet
from polyalign.translation.engines.choosing import Route, find_routes
from polyalign.translation.engines.contract import Engine, Provenance, Translation
from polyalign.translation.english import prepare_english
from polyalign.translation.memory import Memory
from polyalign.translation.pool import Pool, Task, ThreadPool, default_workers
from polyalign.translation.progress import BuildProgress
from polyalign.translation.publishing import publish
from polyalign.translation.settings import BuildSettings
from polyalign.translation.similarity import score_cells
from polyalign.translation.workplace import ENGLISH_REPORT, claim, clear, full_disk_told, locked, source_identity

log = logging.getLogger(__name__)


def build(
    request: BuildSettings | Mapping[str, Any],
    out: str | Path,
    *,
    memory: str | Path | None = None,
    workers: int | None = None,
    ray: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Translate English into several languages, judge every cell, write the corpus and return its manifest.

    A killed build goes on where it stopped when it is called again. What an engine has once translated is remembered:
    another build over the same text, with other thresholds or one language more, does not translate it again.

    Args:
        request: a `BuildSettings` or its values, such as
            ``{"english": "captions.txt", "to": ["es", "fr"], "engines": ["apertium"]}``.
        out: the corpus folder to make. Beside it lies ``.OUT.build`` while it is made.
        memory: folder of what was translated; None for the user's own (`polyalign.storage.user_cache`).
        workers: engines of each kind that work at the same time; None for as many as use the machine.
        ray: address of a Ray cluster, or ``local``, to translate on; None for this process.
        force: replace a complete corpus, or an interrupted build of another request, at ``out``.

    Raises:
        UserError: for a mistake in the request, a missing engine, another build at work in the same place, a full disk.
    """
    settings = request if isinstance(request, BuildSettings) else BuildSettings.checked(dict(request), "build")
    out = Path(out)
    work = out.with_name(f".{out.name}.build")
    sources = {source: source_identity(source) for source in settings.english}
    if (complete := _complete(out, settings, sources, force=force)) is not None:
        return complete
    started = time.monotonic()
    with full_disk_told(out), locked(work, out), ExitStack() as open_things:
        engines = [choice.open() for choice in settings.engines]
        for engine in engines:
            open_things.callback(engine.close)
        remembered = Memory(Path(memory) if memory is not None else user_cache("translations"))
        open_things.callback(remembered.close)
        routes = find_routes(settings.engines, engines, settings.to)
        request_of_work = {
            "english": sources,
            "source": settings.source.model_dump(mode="json"),
            "decontaminate": settings.decontaminate and settings.decontaminate.model_dump(mode="json"),
            "engines": {language: [one.key for one in _of_route(route)] for language, route in routes.items()},
        }
        claim(work, out, request_of_work, force=force)
        decontaminator = Decontaminator(settings.decontaminate) if settings.decontaminate else None
        encoder = load_encoder(settings.similarity.encoder) if settings.similarity else None
        english = _prepare(work, settings, decontaminator)
        translating = _Translating(work, settings, engines, routes, remembered)
        translating.run(_pool(settings, workers, ray))
        manifest = publish(
            work,
            out,
            settings,
            sources=sources,
            english=english,
            engines=_about_engines(routes),
            decontaminator=decontaminator,
            similarity=score_cells(work, settings.similarity, encoder) if settings.similarity and encoder else None,
            cost={"seconds": time.monotonic() - started, "translated": translating.translated},
        )
        clear(work)
    return manifest


def _complete(out: Path, settings: BuildSettings, sources: Mapping[str, str], *, force: bool) -> dict[str, Any] | None:
    """Return the manifest of a complete corpus of the same request, which is left alone."""
    if not keep_existing(out, force=force):
        return None
    manifest = read_manifest(out)
    assert manifest is not None
    before = manifest.get("provenance", {})
    now = {**settings.model_dump(mode="json"), "sources": dict(sources)}
    then = {**before.get("request", {}), "sources": before.get("sources")}
    if changed := [key for key in now if fingerprint(then.get(key)) != fingerprint(now[key])]:
        raise UserError(
            f"{out} is a corpus of another request (changed: {', '.join(changed)}); choose another --out, or replace "
            "it with --force (what was translated is remembered)"
        )
    log.info("%s is complete and was left alone; --force replaces it", out)
    return manifest


def _prepare(work: Path, settings: BuildSettings, decontaminator: Decontaminator | None) -> dict[str, Any]:
    """Write ``english/*.parquet``, without texts that stand in evaluation data, and then their report; return it."""
    if (report := read_manifest(work, ENGLISH_REPORT)) is not None:
        return report
    partial = work / ".english.partial"
    for folder in (partial, work / "english"):
        shutil.rmtree(folder, ignore_errors=True)
    partial.mkdir()
    log.info("reading English from %s", ", ".join(settings.english))
    report = prepare_english(settings.english, settings.source, partial)
    report["removed"] = []
    if decontaminator is not None:
        for path in sorted(partial.glob("*.parquet")):
            rows = pl.read_parquet(path)
            removed = decontaminator.removed(rows)
            report["removed"] += removed.to_dicts()
            write_parquet(rows.join(removed, on=ROW_ID, how="anti", maintain_order="left"), path)
    partial.rename(work / "english")
    write_json(work / ENGLISH_REPORT, report)
    return report


def _of_route(route: Route) -> list[Provenance]:
    own = [] if route.engine is None else [route.engine[1]]
    return [provenance for _, provenance in route.memories] + own


def _provenances(routes: Mapping[str, Route]) -> dict[str, tuple[Provenance, list[str]]]:
    found: dict[str, tuple[Provenance, list[str]]] = {}
    for language, route in routes.items():
        for provenance in _of_route(route):
            found.setdefault(provenance.key, (provenance, []))[1].append(language)
    return found


def _about_engines(routes: Mapping[str, Route]) -> dict[str, dict[str, Any]]:
    """Return, by key of provenance, what the manifest says of an engine and its languages."""
    return {
        key: {
            "engine": provenance.engine,
            "revision": provenance.revision,
            "licence": provenance.licence,
            "settings": provenance.settings,
            "languages": languages,
        }
        for key, (provenance, languages) in _provenances(routes).items()
    }


def _pool(settings: BuildSettings, workers: int | None, ray: str | None) -> Pool:
    if ray is not None:
        from polyalign.translation.ray_pool import RayPool

        return RayPool(settings.engines, ray, workers)
    return ThreadPool(settings.engines, workers or default_workers(settings.engines))


class _Translating:
    """Fills the cells of chunk after chunk; ``cells/NNNNN.parquet`` is there when those of a chunk are."""

    def __init__(
        self,
        work: Path,
        settings: BuildSettings,
        engines: Sequence[Engine],
        routes: Mapping[str, Route],
        memory: Memory,
    ) -> None:
        self._cells = work / "cells"
        self._settings = settings
        self._engines = engines
        self._routes = routes
        self._memory = memory
        self._chunks = sorted((work / "english").glob("*.parquet"))
        self._answered: dict[int, dict[str, dict[str, tuple[str, Translation]]]] = {}
        self.translated = 0

    def run(self, pool: Pool) -> None:
        """Translate what is not there yet."""
        self._cells.mkdir(exist_ok=True)
        _tell_licences(self._routes)
        rows = [pl.scan_parquet(path).select(pl.len()).collect().item() for path in self._chunks]
        there = [(self._cells / path.name).is_file() for path in self._chunks]
        finished = sum(number for number, done in zip(rows, there, strict=True) if done)
        languages = self._settings.to
        with BuildProgress(dict.fromkeys(languages, sum(rows)), dict.fromkeys(languages, finished)) as progress:

            def sink(language: str, pairs: list[tuple[str, Translation]]) -> None:
                engine = self._routes[language].engine
                assert engine is not None
                self._memory.add(engine[1], language, pairs)
                progress.advance(language, len(pairs), fresh=True)

            missing = [number for number, done in enumerate(there) if not done]
            for task, results in pool.run(self._tasks(missing, progress), sink):
                answered = self._answered.pop(task.number)
                for language, translations in results.items():
                    engine = self._routes[language].engine
                    assert engine is not None
                    key = engine[1].key
                    answered[language].update({text: (key, done) for text, done in translations.items()})
                self._finish(task.number, answered, progress)
        self.translated = progress.fresh
        log.info("translated %s cells; the others were remembered", f"{progress.fresh:,}")

    def _tasks(self, chunks: Sequence[int], progress: BuildProgress) -> Iterator[Task]:
        for number in chunks:
            texts = pl.read_parquet(self._chunks[number])[ENGLISH].to_list()
            answered = {language: self._known(language, texts) for language in self._settings.to}
            self._answered[number] = answered
            pending: dict[str, list[str]] = {}
            engines: dict[str, int] = {}
            for language, known in answered.items():
                progress.advance(language, len(known), fresh=False)
                engine = self._routes[language].engine
                left = [text for text in texts if text not in known]
                if left and engine is not None:
                    pending[language], engines[language] = left, engine[0]
            yield Task(number, pending, engines)

    def _known(self, language: str, texts: Sequence[str]) -> dict[str, tuple[str, Translation]]:
        """Return what the translation memories of the request, then the one on disk, know of the texts."""
        route = self._routes[language]
        known: dict[str, tuple[str, Translation]] = {}
        for position, provenance in route.memories:
            left = [text for text in texts if text not in known]
            for batch in self._engines[position].translate(left, language):
                known.update({left[index]: (provenance.key, translation) for index, translation in batch})
        if route.engine is not None:
            provenance = route.engine[1]
            left = [text for text in texts if text not in known]
            found = self._memory.known(provenance, language, left)
            known.update({text: (provenance.key, translation) for text, translation in found.items()})
        return known

    def _finish(self, number: int, answered: Mapping[str, Answered], progress: BuildProgress) -> None:
        english = pl.read_parquet(self._chunks[number])
        made = []
        for language in self._settings.to:
            cells = make_cells(english, language, answered[language])
            verdicts = judge_cells(cells, self._settings.verdicts, usual_length(cells, self._settings.verdicts))
            progress.judged(language, dict(verdicts.value_counts().iter_rows()))
            made.append(cells)
        write_parquet(pl.concat(made), self._cells / self._chunks[number].name)


def _tell_licences(routes: Mapping[str, Route]) -> None:
    """Say once what each engine's licence is, and clearly where it forbids commercial use."""
    found: dict[tuple[str, str], list[str]] = {}
    for provenance, languages in _provenances(routes).values():
        found.setdefault((provenance.engine, provenance.licence), []).extend(languages)
    for (engine, licence), languages in found.items():
        into = ", ".join(f"{language} ({name(language)})" for language in languages)
        log.info("%s translates into %s; licence: %s", engine, into, licence)
        if "NC" in licence.upper().split("-"):
            log.warning(
                "%s is under %s: do not use its translations, or what is trained on them, commercially", engine, licence
            )
