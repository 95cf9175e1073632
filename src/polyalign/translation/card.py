"""The dataset card of a built corpus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from polyalign.corpus.columns import ENGLISH
from polyalign.corpus.verdicts import OK
from polyalign.languages import name

_SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
_NAMES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")


def dataset_card(title: str, manifest: Mapping[str, Any]) -> str:
    """Return the card, Markdown with a YAML header that the Hub reads, of a manifest as `publish` makes it."""
    made = manifest["provenance"]
    header = {
        "language": list(dict.fromkeys(tag.split("-")[0] for tag in manifest["languages"])),
        "license": "other",
        "license_name": "see-engines",
        "multilinguality": ["translation"],
        "task_categories": ["translation", "sentence-similarity"],
        "size_categories": [_NAMES[sum(manifest["rows"] >= size for size in _SIZES)]],
        "configs": [
            {"config_name": "default", "data_files": "rows/*.parquet"},
            {"config_name": "cells", "data_files": "cells/*.parquet"},
        ],
    }
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---",
        f"# {title}",
        f"{manifest['rows']:,} rows, each one English text with its machine translations into {len(made['verdicts'])} "
        "languages: parallel in all of them, with gaps where a translation was rejected. Built by polyalign from "
        f"{', '.join(f'`{source}`' for source in made['sources'])}.",
        "## Languages",
        _languages(manifest),
        "## Engines and licences",
        _engines(made["engines"]),
        "Whether the licence of an engine reaches its translations is for you to judge. The English is under that of "
        "its source.",
        "## What was left out",
        _left_out(manifest),
        "## Columns",
        "`rows`: `row_id`, the hash of the English; a column per language, null where there is no good translation. "
        "`cells`: every translation with its verdict (`ok`, or the reason why it is not in `rows`), engine, revision, "
        "licence, score and what was measured of it.",
    ]
    return "\n\n".join(parts) + "\n"


def _languages(manifest: Mapping[str, Any]) -> str:
    lines = ["| language | texts | good of all translations | rejected |", "|---|---|---|---|"]
    verdicts = manifest["provenance"]["verdicts"]
    for tag in manifest["languages"]:
        texts = f"{manifest['counts'][tag]:,}"
        if tag == ENGLISH:
            lines.append(f"| {name(tag)} (`{tag}`) | {texts} | source | |")
            continue
        found = verdicts[tag]
        share = f"{100 * found.get(OK, 0) / max(1, sum(found.values())):.1f}%"
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in found.items() if reason != OK)
        lines.append(f"| {name(tag)} (`{tag}`) | {texts} | {share} | {reasons} |")
    return "\n".join(lines)


def _engines(engines: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["| engine | languages | revision | licence |", "|---|---|---|---|"]
    for engine in engines.values():
        languages = ", ".join(engine["languages"])
        named = {key: _in_table(engine[key]) for key in ("engine", "revision", "licence")}
        lines.append(f"| `{named['engine']}` | {languages} | `{named['revision']}` | {named['licence']} |")
    return "\n".join(lines)


def _in_table(text: str) -> str:
    """Return text from settings or file names so that it stays in its cell."""
    return " ".join(text.split()).replace("|", "\\|")


def _left_out(manifest: Mapping[str, Any]) -> str:
    made = manifest["provenance"]
    english = made["english"]
    lines = [f"- {count:,} English texts: {reason}" for reason, count in english["left_out"].items()]
    lines += [f"- {count:,} rows: {reason}" for reason, count in manifest["report"]["dropped"].items()]
    found = made["decontamination"]
    if found:
        tasks = ", ".join(task["task"] for task in found["tasks"])
        count = f"{len(found['removed']):,}"
        lines.append(f"- {count} rows in all stand in evaluation data of {tasks}; `manifest.json` lists them")
    return "\n".join(lines) or "Nothing."
