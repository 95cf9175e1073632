"""Apertium, the rule-based engine: offline, one long-lived pipeline a mode, pivots where there is no direct mode."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from importlib import resources
from itertools import combinations, count
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import RLock, Thread
from typing import IO, NamedTuple

from pydantic import Field

from polyalign.errors import UserError
from polyalign.languages import canonical, is_known
from polyalign.settings import Settings
from polyalign.storage import fingerprint, fingerprint_files
from polyalign.translation.engines.contract import Batch, Provenance, Translation

ENGLISH = "en"
_TEXTS_PER_BATCH = 256

# Apertium's stream format: these are escaped by a backslash; blanks in brackets pass through untouched.
_ESCAPES = str.maketrans(
    {character: f"\\{character}" for character in r"[]{}^$/\@<>"}
    | {mark: f"[{mark}]" for mark in "*#~"}  # ~ marks where the post-generator works, which swallows it, escaped or not
)
# What comes back: an escaped character, our number, the full stop that was lent to a text without one, a blank that
# carried a literal *, # or ~, or the mark before a word that the analyser (*), dictionary (@) or generator (#) lacks.
_OUTPUT = re.compile(r"\\(.)|\[=\d+\]|(?:\.)?\[\]|\[([*#~])\]|([*@#])", re.DOTALL)
_MARKED = re.compile(r"[\\\[*@#]")  # how whatever is found by _OUTPUT begins, but for a full stop before [
_CONDITIONING = RLock()
_SAMPLES: dict[tuple[Path, tuple[str, ...]], tuple[str, ...]] = {}
"""Data folder, modes in a row -> what they make of the sample; all engines of a process need the same, at one time."""

_LICENCES = {
    "GPL-2": "GPL-2.0-only",
    "GPL-2+": "GPL-2.0-or-later",
    "GPL-3": "GPL-3.0-only",
    "GPL-3+": "GPL-3.0-or-later",
}


class ApertiumSettings(Settings):
    """How Apertium is run.

    Attributes:
        command: the ``apertium`` program.
        pivots: most modes in a row to reach a language, at least 1.
    """

    command: str = "apertium"
    pivots: int = Field(3, ge=1)


class ApertiumEngine:
    """Translates through the shortest path of installed modes from English to the target.

    Args:
        model: the folder with Apertium's data, ``…/share/apertium``; empty for the one that the program belongs to.
        settings: how it is run.

    Raises:
        UserError: when the program or its modes are not there.
    """

    settings_type = ApertiumSettings

    def __init__(self, model: str, settings: ApertiumSettings) -> None:
        program = shutil.which(settings.command)
        if program is None:
            raise UserError(
                f"no program {settings.command!r}; install Apertium and its language pairs "
                "(Debian: apt-get install apertium apertium-eng-spa apertium-eng-cat apertium-fr-es …)"
            )
        self._data = Path(model) if model else Path(program).resolve().parents[1] / "share" / "apertium"
        if not (self._data / "modes").is_dir():
            raise UserError(f"{self._data} holds no Apertium modes; install a language pair, such as apertium-eng-spa")
        self._settings = settings
        self._pipelines: dict[str, _Pipeline] = {}
        self._finished: dict[str, dict[str, _Result]] = {}
        self._folder = TemporaryDirectory(prefix="polyalign-")

    @cached_property
    def paths(self) -> dict[str, tuple[str, ...]]:
        """Target language -> the modes that lead there from English, fewest first, then by name."""
        edges: dict[str, list[tuple[str, str]]] = {}
        for mode in sorted(path.stem for path in (self._data / "modes").glob("*.mode")):
            source, separator, target = mode.partition("-")
            if separator and is_known(source) and is_known(target) and canonical(target).split("-")[0] != ENGLISH:
                edges.setdefault(canonical(source), []).append((canonical(target), mode))
        paths: dict[str, tuple[str, ...]] = {ENGLISH: ()}
        frontier = [ENGLISH]
        for _ in range(self._settings.pivots):
            reached = []
            for language in frontier:
                for target, mode in edges.get(language, []):
                    if target not in paths:
                        paths[target] = (*paths[language], mode)
                        reached.append(target)
            frontier = reached
        return {language: path for language, path in paths.items() if path}

    def provenance(self, language: str) -> Provenance | None:
        """See `Engine`; the revision is a hash of all data files of the modes on the path."""
        path = self.paths.get(language)
        if path is None:
            return None
        files = {file for mode in path for file in self._files(mode)}
        return Provenance(
            engine=f"apertium:{'+'.join(path)}",
            revision=_hash_of(tuple(sorted(files))),
            licence=" AND ".join(sorted({_licence(file.parent.name) for file in files if file.suffix == ".bin"})),
            settings={"tagger": fingerprint(_sample())},
        )

    def _files(self, mode: str) -> list[Path]:
        """Return a mode's own file and the data files that it names."""
        file = self._data / "modes" / f"{mode}.mode"
        named = [Path(name) for name in re.findall(r"'([^']+)'", file.read_text(encoding="utf-8"))]
        return [file, *(path for path in named if path.is_file())]

    def translate(self, texts: Sequence[str], language: str) -> Iterator[Batch]:
        """See `Engine`. The translations on the way to a pivoted language are kept for the next call."""
        *pivots, last = self.paths[language]
        sources = [_Result(text, 0) for text in texts]
        for mode in pivots:
            known = self._all(mode, [source.text for source in sources])
            sources = [_worst(source, known[source.text]) for source in sources]
        done = self._finished.get(last, {})
        fresh = self._pipeline(last).translate([source.text for source in sources if source.text not in done])
        finished: dict[str, _Result] = {}
        for start in range(0, len(sources), _TEXTS_PER_BATCH):
            batch = []
            for index, source in enumerate(sources[start : start + _TEXTS_PER_BATCH], start):
                finished[source.text] = result = done[source.text] if source.text in done else next(fresh)
                worst = _worst(source, result)
                error = f"{'+'.join(self.paths[language])} broke on this text" if worst.broken else None
                text = "" if worst.broken else worst.text
                batch.append((index, Translation(text=text, unknown=worst.unknown, error=error)))
            yield batch
        self._finished[last] = finished

    def _all(self, mode: str, texts: list[str]) -> dict[str, _Result]:
        done = self._finished.get(mode, {})
        missing = [text for text in dict.fromkeys(texts) if text not in done]
        fresh = dict(zip(missing, self._pipeline(mode).translate(missing), strict=True))
        self._finished[mode] = {text: done[text] if text in done else fresh[text] for text in texts}
        return self._finished[mode]

    def _pipeline(self, mode: str) -> _Pipeline:
        if mode not in self._pipelines:
            path = next(path for path in self.paths.values() if mode in path)
            with _CONDITIONING:
                texts = self._sample_after(path[: path.index(mode)])
                self._pipelines[mode] = _Pipeline(self._command(mode, texts))
        return self._pipelines[mode]

    def _sample_after(self, modes: tuple[str, ...]) -> tuple[str, ...]:
        """Return what the modes, one after the other, make of the sample."""
        if not modes:
            return _sample()
        key = self._data, modes
        if key not in _SAMPLES:
            texts = self._sample_after(modes[:-1])
            _SAMPLES[key] = tuple(result.text for result in self._pipeline(modes[-1]).translate(texts))
        return _SAMPLES[key]

    def _command(self, mode: str, texts: tuple[str, ...]) -> list[str]:
        """Return a mode's programs joined by pipes, each told to flush at NUL, words marked where unknown.

        A hidden Markov tagger that meets a word with a combination of classes that it was not trained on changes, for
        good, what it takes unknown words for; so what a text becomes would depend on the texts before it. These changes
        come to an end, since each leaves fewer classes. So it is first given a word with every pair of the analyses
        that occur in ``texts``, and what it says of these words is dropped.
        """
        line = (self._data / "modes" / f"{mode}.mode").read_text(encoding="utf-8").strip()
        programs = [re.sub(r"^\s*(\S+)", r"\1 -z", program) for program in line.split("|")]
        words = Path(self._folder.name) / mode
        for position, program in enumerate(programs):
            if program.startswith("apertium-tagger -z -g "):  # not -gx, the perceptron, which does not change
                words.write_text(_ambiguous_words(" | ".join(programs[:position]), texts), encoding="utf-8")
                programs[position - 1] = f'{{ cat "$3"; exec {programs[position - 1]}; }}'
                programs[position + 1] = f'{{ read -r -d ""; exec {programs[position + 1]}; }}'
        return ["bash", "-c", " | ".join(programs), mode, "-g", "", str(words)]

    def close(self) -> None:
        """End all pipelines."""
        for pipeline in self._pipelines.values():
            pipeline.closed = True
            pipeline.stop()
        self._pipelines.clear()
        self._folder.cleanup()


class _Result(NamedTuple):
    """What a mode made of a text; its unknown words; whether its programs ended on it."""

    text: str
    unknown: int
    broken: bool = False


def _worst(before: _Result, after: _Result) -> _Result:
    """Join two modes in a row: what the first did not know the second mostly does not know either."""
    return _Result(after.text, max(before.unknown, after.unknown), before.broken or after.broken)


class _Pipeline:
    """One mode's programs, kept running: a text and NUL in, its translation and NUL out."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count()
        self.closed = False

    def translate(self, texts: Sequence[str]) -> Iterator[_Result]:
        """Yield what becomes of each text, in order; programs that break on one are started again for the next."""
        waiting = list(texts)
        while waiting:
            if self.closed:
                raise RuntimeError("the engine was closed while it translated")
            if self._process is None:
                self._start()
            done = 0
            for result in self._exchange(waiting):
                yield result
                done += 1
            if done < len(waiting):  # the programs ended early: on this text, since all before it came through
                yield _Result("", 0, broken=True)
            waiting = waiting[done + 1 :]

    def _start(self) -> None:
        environment = os.environ | {"LC_ALL": "C.UTF-8"}
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # so that all of the pipe's programs can be ended together
        )
        if not list(self._exchange(["Yes"])):
            raise UserError(
                f"the Apertium mode {self._command[3]!r} does not work; try `echo Yes | apertium {self._command[3]}`"
            )

    def _exchange(self, texts: Sequence[str]) -> Iterator[_Result]:
        """Yield results until all texts came through, or the programs ended or got out of step, and are stopped."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        numbers = [next(self._numbers) for _ in texts]
        framed = b"".join(map(_frame, texts, numbers))
        feeder = Thread(target=_feed, args=(process.stdin, framed), daemon=True)
        feeder.start()
        rest, position = b"", 0
        try:
            while position < len(texts):
                block = process.stdout.read1(1 << 16)  # type: ignore[attr-defined]
                *whole, rest = (rest + block).split(b"\0")
                for output in whole:
                    text = output.decode("utf-8", "replace")
                    if f"[={numbers[position]}]" not in text:
                        return
                    position += 1  # before the yield: whoever takes the last result does not come back
                    yield _unframe(text, numbers[position - 1])
                if not block:
                    return
        finally:
            if position < len(texts):
                self.stop()
            feeder.join()

    def stop(self) -> None:
        """End the programs."""
        process, self._process = self._process, None  # one of two threads ends them: who translates, or who closes
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _feed(stream: IO[bytes], framed: bytes) -> None:
    with contextlib.suppress(OSError):  # the programs ended: whoever reads from them notices
        stream.write(framed)
        stream.flush()


def _frame(text: str, number: int) -> bytes:
    """Escape a text, lend it a full stop (a sentence without an end is tagged worse), number it."""
    end = "" if text.endswith((".", "?", "!", "…")) else ".[]"
    return f"{text.translate(_ESCAPES)}{end}[={number}]\0".encode()


def _unframe(output: str, number: int) -> _Result:
    bare = output.removesuffix(f"[={number}]").removesuffix(".[]")
    if not _MARKED.search(bare):  # most texts; the rest costs ten times as much
        return _Result(bare.strip(), 0)
    unknown = 0

    def plain(match: re.Match[str]) -> str:
        nonlocal unknown
        unknown += match[3] is not None
        return match[1] or match[2] or ""

    return _Result(_OUTPUT.sub(plain, output).strip(), unknown)


@cache
def _ambiguous_words(analyser: str, texts: tuple[str, ...]) -> str:
    """Return words with every pair of the analyses that the texts' words have, as the tagger reads them, and NUL."""
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    text = b"".join(map(_frame, texts, count()))
    analysed = subprocess.run(["bash", "-c", analyser], input=text, capture_output=True, env=environment).stdout
    tags = sorted(set(re.findall(r"/[^/<$^*]+((?:<[^>]+>)+)", analysed.decode("utf-8", "replace"))))
    return "".join(f"^x/x{one}/x{other}$" for one, other in combinations(tags, 2)) + "^./.<sent>$\0"


@cache
def _sample() -> tuple[str, ...]:
    sample = resources.files("polyalign") / "sample" / "train.jsonl"
    return tuple(json.loads(line)["en"] for line in sample.read_text(encoding="utf-8").splitlines())


@cache
def _hash_of(files: tuple[Path, ...]) -> str:
    # A mode may name files anywhere; those of one installation get the same hash wherever it lies.
    return fingerprint_files(list(files), Path(os.path.commonpath(files)))


@cache
def _licence(package: str) -> str:
    """Return the SPDX identifier of a language pair, from the notice that Debian installs with it, or ``unknown``."""
    notice = Path("/usr/share/doc") / package / "copyright"
    if not notice.is_file():
        return "unknown"
    whole = re.search(r"^Files: \*\n(?:.+\n)*?License: (\S+)", notice.read_text("utf-8", "replace"), re.MULTILINE)
    return _LICENCES.get(whole[1], whole[1]) if whole else "unknown"
