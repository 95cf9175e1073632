"""The model card of a trained encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml


def model_card(record: dict[str, Any], scores: Sequence[tuple[str, str, float]] = ()) -> str:
    """Return the README of an encoder folder: Hugging Face front matter and Markdown.

    Args:
        record: as in ``polyalign.json``.
        scores: (task, what was averaged, score in 0 to 1), from `evaluate`.
    """
    base = record["base"]
    front = {
        "language": record["languages"],
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "sentence-similarity", "multilingual", "polyalign"],
    }
    if base != "static":
        front["base_model"] = base
    lines = [
        "---",
        yaml.safe_dump(front, allow_unicode=True, sort_keys=False).strip(),
        "---",
        "",
        f"# {record['arm']}: a multilingual sentence encoder aligned with polyalign",
        "",
        "```python",
        "from sentence_transformers import SentenceTransformer",
        "",
        'model = SentenceTransformer("path/to/this/folder")',
        'embeddings = model.encode(["Good morning.", "Guten Morgen."])',
        "```",
        "",
        "| | |",
        "|---|---|",
        f"| Base | {'made on the spot: mean of subword embeddings' if base == 'static' else base} |",
        f"| Languages seen in alignment | {', '.join(record['languages']) or 'none'} |",
    ]
    if "objective" in record:
        lines += _training(record)
    if share := record.get("base_share"):
        lines.append(f"| Weights | {share:.0%} of the base, {1 - share:.0%} as trained |")
    if lexical := record.get("lexical"):
        lines.append(
            f"| Lexical half | a vector for each subword, trained on {lexical['rows']:,} rows "
            f"({lexical['texts_encoded']:,} encoded texts), weight {lexical['settings']['weight']:g} to 1 |"
        )
    if lsar := record.get("lsar"):
        lines.append(
            f"| Language bias | LSAR: {lsar['rank']} directions projected out, with {lsar['explained']:.1%} of what "
            f"differs between the mean embeddings of {len(lsar['texts'])} languages |"
        )
    if wccn := record.get("wccn"):
        lines.append(
            f"| Translations | WCCN to the power of {wccn['power']:g}: the scatter within {wccn['rows']:,} rows evened "
            "out |"
        )
    if scores:
        lines += ["", "## Scores", "", "| Task | Mean over | Score |", "|---|---|---|"]
        lines += [f"| {task} | {over} | {100 * value:.1f} |" for task, over, value in scores]
    lines += ["", "Everything that made this encoder stands in `polyalign.json`.", ""]
    return "\n".join(lines)


def _training(record: dict[str, Any]) -> list[str]:
    """Return the lines of the table that say how the encoder was trained."""
    corpus, cost, best = record["corpus"], record["cost"], record["best"]
    objective = ", ".join(
        f"{name} {value}" for name, value in record["objective"].items() if value not in (None, False)
    )
    texts = ", ".join(f"{language} {count:,}" for language, count in corpus["texts"].items())
    lines = [
        f"| Corpus | {corpus['rows']:,} rows (texts: {texts}), fingerprint `{corpus['fingerprint']}` |",
        f"| Objective | {record['objective_name']}: {objective} |",
        f"| Budget | {cost['steps']:,} steps, {cost['rows_seen']:,} rows, {cost['texts_encoded']:,} encoded texts, "
        f"{cost['pairs']:,} anchor-positive pairs |",
        f"| Cost | {cost['seconds']:,.0f} seconds |",
        f"| Seed | {record['seed']} |",
    ]
    if best:
        lines.append(
            f"| Best checkpoint | step {best['step']}: bitext accuracy {best['dev_accuracy']:.3f} between the seen "
            f"languages, on {corpus['dev_rows']} dev rows |"
        )
    return lines
