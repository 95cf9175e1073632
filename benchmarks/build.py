"""`polyalign build` with Apertium against bare `apertium` pipes over the same lines and modes.

The bare side runs `apertium -u MODE` once for each mode that is needed, one after the other, pivots over the output of
the mode before. Our side is the whole command: reading and filtering the English, translating, the memory on disk, a
verdict on every cell, provenance, the corpus folder. Both are run in turns; the ratio is of the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import resources
from importlib.metadata import version
from pathlib import Path

GOAL = 1.15


def bare(modes: dict[str, Path | str], folder: Path) -> float:
    """Run each mode over its input, a file or an earlier mode, and return the seconds."""
    started = time.perf_counter()
    for mode, source in modes.items():
        with (
            (folder / f"{source}.txt" if isinstance(source, str) else source).open("rb") as text,
            (folder / f"{mode}.txt").open("wb") as out,
        ):
            subprocess.run(["apertium", "-u", mode], stdin=text, stdout=out, check=True)
    return time.perf_counter() - started


def without_crashes(texts: list[str], modes: dict[str, Path | str]) -> list[str]:
    """Leave out the lines that a mode crashes on: a bare pipe ends there, and would look fast."""
    from polyalign.translation.engines.apertium import ApertiumEngine, ApertiumSettings

    engine = ApertiumEngine("", ApertiumSettings())
    by_last = {path[-1]: language for language, path in engine.paths.items()}
    crashing: set[str] = set()
    for mode, source in modes.items():
        if not isinstance(source, str):  # pivots come second: only the modes from English can meet an odd line
            for batch in engine.translate(texts, by_last[mode]):
                crashing.update(texts[index] for index, translation in batch if translation.error)
    engine.close()
    return [text for text in texts if text not in crashing]


def ours(lines: Path, languages: list[str], folder: Path) -> tuple[float, dict[str, object]]:
    """Build from nothing remembered and return the seconds and the manifest."""
    command = [sys.executable, "-m", "polyalign", "build", str(lines), "--to", ",".join(languages)]
    command += ["--engine", "apertium", "--out", str(folder / "corpus"), "--memory", str(folder / "memory"), "--json"]
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started, json.loads(done.stdout)


def needed(languages: list[str], lines: Path) -> dict[str, Path | str]:
    """Return the modes on the way to the languages, in order, each with its input: the lines or an earlier mode."""
    from polyalign.translation.engines.apertium import ApertiumEngine, ApertiumSettings

    paths = ApertiumEngine("", ApertiumSettings()).paths
    modes: dict[str, Path | str] = {}
    for language in languages:
        if language not in paths:
            sys.exit(f"no installed mode leads to {language}; there are {', '.join(paths)}")
        before: Path | str = lines
        for mode in paths[language]:
            modes[mode] = before
            before = mode
    return modes


def main() -> None:
    """Measure and print; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=Path, help="English text, a line each; else $POLYALIGN_DATA's, else the sample")
    parser.add_argument("--to", default="es,ca,gl,fr,pt,it")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="2,000 lines, two repeats")
    asked = parser.parse_args()
    if shutil.which("apertium") is None:
        sys.exit("no apertium here (Debian: apt-get install apertium apertium-eng-spa apertium-eng-cat …)")
    given = Path(os.environ.get("POLYALIGN_DATA", "../shared/data")) / "english" / "captions.txt"
    sample = Path(str(resources.files("polyalign") / "sample" / "english.txt"))
    source = asked.lines or (given if given.is_file() else sample)
    texts = list(dict.fromkeys(source.read_text(encoding="utf-8").splitlines()))[: 2000 if asked.quick else None]
    languages = asked.to.split(",")
    times: dict[str, list[float]] = {"bare": [], "ours": []}
    with tempfile.TemporaryDirectory() as name:
        lines = Path(name, "english.txt")
        lines.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        modes = needed(languages, lines)
        sound = without_crashes(texts, modes)
        lines.write_text("".join(f"{text}\n" for text in sound), encoding="utf-8")
        print(
            f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
            f"polyalign {version('polyalign')}"
        )
        print(f"{len(texts) - len(sound)} lines left out, which a mode crashes on")
        print(f"{len(sound):,} lines of {source.name} into {', '.join(languages)} by {', '.join(modes)}")
        for repeat in range(2 if asked.quick else asked.repeats):
            folder = Path(name, str(repeat))
            folder.mkdir()
            times["bare"].append(bare(modes, folder))
            for mode in modes:
                if (written := (folder / f"{mode}.txt").read_bytes().count(b"\n")) != len(sound):
                    print(f"note: the bare {mode} gave {written:,} lines for {len(sound):,}")
            seconds, manifest = ours(lines, languages, folder)
            times["ours"].append(seconds)
            print(f"bare {times['bare'][-1]:.1f} s, build {seconds:.1f} s, {manifest['rows']:,} rows kept")
            shutil.rmtree(folder)
    ratio = statistics.median(times["ours"]) / statistics.median(times["bare"])
    result = {"name": "build", "value": round(ratio, 3), "unit": "times the bare pipes' seconds", "goal": f"<= {GOAL}"}
    print(json.dumps(result | {"met": ratio <= GOAL}))


if __name__ == "__main__":
    main()
