"""The command line: parse, call, print."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from polyalign.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="English text in, an N-way corpus, an aligned multilingual encoder, and the evidence that it is better.",
)

Languages = Annotated[str | None, typer.Option(help="Comma-separated BCP-47 codes, as en,de,fr.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a complete output.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Decontaminate = Annotated[
    str | None, typer.Option(help="Comma-separated MTEB tasks; rows that stand in their evaluation data are left out.")
]
MtebData = Annotated[Path | None, typer.Option(help="Folder with the tasks' data, laid out as on the Hub.")]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")]


INTERRUPTED = 130
"""The exit code that typer gives Ctrl-C."""


def main() -> None:
    """Run the command line: exit 0 with a whole output, 2 after a user's mistake, 130 after Ctrl-C."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    first = int(os.environ.get("RANK", "0")) == 0  # under torchrun one process speaks for all
    logging.getLogger("polyalign").setLevel(logging.INFO if first else logging.ERROR)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # else every retry is told before our one line
    os.environ.setdefault("TQDM_DISABLE", "1")  # the libraries' bars: one for every subset of every task
    warnings.filterwarnings("ignore", category=UserWarning, module=r"mteb\.")
    try:
        app()
    except UserError as error:
        sys.stderr.write(f"polyalign: {error}\n")
        sys.exit(2)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            sys.stderr.write("polyalign: interrupted; the same command goes on where it stopped\n")
        raise


def _codes(languages: str | None) -> list[str] | None:
    return [code.strip() for code in languages.split(",") if code.strip()] if languages else None


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _quiet() -> None:
    """Keep the libraries' own bars and remarks out of ours."""
    from datasets.utils.logging import disable_progress_bar
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    disable_progress_bar()


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="The folder of the run.")] = Path("runs/quickstart"), as_json: AsJson = False
) -> None:
    """The whole of it, offline, on the packaged sample: under three minutes on two cores."""
    _run("quickstart", out, [], as_json)


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="The corpus folder to write.")],
    english: Annotated[
        list[str] | None, typer.Argument(help="English text: files, folders, a datasets id, or sample.")
    ] = None,
    to: Annotated[str | None, typer.Option(help="Comma-separated target languages, as de,es,fr.")] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            help="[LANG,…=]SPEC; may be repeated. SPEC: ctranslate2:PATH_OR_ID, ctranslate2:opus-mt, transformers:ID, "
            "openai:MODEL@URL, apertium, memory:FILE."
        ),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="YAML file with any of a build's settings.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, as verdicts.copied=0.9; may be repeated.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="lines or sentences.")] = None,
    column: Annotated[str | None, typer.Option(help="That holds the English.")] = None,
    rows: Annotated[int | None, typer.Option(help="Sample so many texts, in equal shares of the sources.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the sample.")] = None,
    min_languages: Annotated[int | None, typer.Option(help="Good translations that a row needs.")] = None,
    score: Annotated[str | None, typer.Option(help="An encoder that scores every cell.")] = None,
    decontaminate: Decontaminate = None,
    mteb_data: MtebData = None,
    memory: Annotated[Path | None, typer.Option(help="Folder that remembers translations.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Engines of each kind at work, as one a GPU.")] = None,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster, or local.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Translate English into many languages: a corpus, with a verdict on every cell."""
    from polyalign.terminal import show_build
    from polyalign.translation import build as build_corpus
    from polyalign.translation.settings import load_build

    given = {
        "english": english or None,
        "to": _codes(to),
        "engines": engine,
        "min_languages": min_languages,
        "source.split": split,
        "source.column": column,
        "source.rows": rows,
        "source.seed": seed,
        "similarity.encoder": score,
        "decontaminate.tasks": _codes(decontaminate),
        "decontaminate.mteb_data": str(mteb_data) if mteb_data else None,
    }
    settings = load_build(recipe, {key: value for key, value in given.items() if value is not None}, changes or [])
    manifest = build_corpus(settings, out, memory=memory, workers=workers, ray=ray, force=force)
    _print_json(manifest) if as_json else show_build(manifest, str(out))


@app.command("import")
def import_(
    files: Annotated[
        list[str],
        typer.Argument(help="Parquet, CSV, TSV, JSONL, TMX, PO, XLIFF, Moses line pairs, folders, a datasets id."),
    ],
    out: Annotated[Path, typer.Option(help="The corpus folder to write.")],
    languages: Languages = None,
    markup: Annotated[
        Literal["strip", "keep"] | None, typer.Option(help="Of TMX and XLIFF (stripped if not said) and PO (kept).")
    ] = None,
    decontaminate: Decontaminate = None,
    mteb_data: MtebData = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Make a corpus folder of parallel text you already have."""
    from polyalign.corpus import import_corpus, inspect_corpus
    from polyalign.corpus.decontamination import DecontaminationSettings
    from polyalign.terminal import show_corpus

    tasks = _codes(decontaminate)
    keep_out = DecontaminationSettings(tasks=tasks, mteb_data=mteb_data) if tasks else None
    corpus = import_corpus(files, out, languages=_codes(languages), markup=markup, decontaminate=keep_out, force=force)
    description = inspect_corpus(corpus)
    _print_json(description) if as_json else show_corpus(description, str(out))


@app.command()
def export(
    corpus: Annotated[str, typer.Argument(help="A corpus folder or anything `import` takes.")],
    out: Annotated[Path, typer.Option(help="The file (tmx) or folder to write.")],
    to: Annotated[Literal["tmx", "moses", "datasets"], typer.Option(help="The format.")],
    languages: Languages = None,
    line_breaks: Annotated[
        Literal["escape", "refuse"], typer.Option(help="In Moses files, which have a text a line.")
    ] = "escape",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write a corpus for other programs."""
    from polyalign.corpus import Corpus, export_corpus
    from polyalign.terminal import show_export

    result = export_corpus(
        Corpus.open(corpus), out, to=to, languages=_codes(languages), line_breaks=line_breaks, force=force
    )
    _print_json(result) if as_json else show_export(result, str(out))


@app.command()
def inspect(
    corpus: Annotated[str, typer.Argument(help="A corpus folder or anything `import` takes.")],
    rows: Annotated[int, typer.Option(min=0, help="Rows to show.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Count rows, gaps and rejected cells, and show a few rows; of a built corpus, also cells of each verdict."""
    from polyalign.corpus import Corpus, inspect_cells, inspect_corpus
    from polyalign.terminal import show_corpus

    description = inspect_corpus(Corpus.open(corpus), rows=rows)
    description["verdicts"] = inspect_cells(Path(corpus), samples=rows)
    _print_json(description) if as_json else show_corpus(description, corpus)


@app.command()
def train(
    corpus: Annotated[str, typer.Argument(help="A corpus folder or anything `import` takes.")],
    out: Annotated[Path, typer.Option(help="The encoder folder to write.")],
    base: Annotated[str, typer.Option(help="static, or a model folder or Hub id.")] = "static",
    objective: Annotated[
        str, typer.Option(help="A preset, such as multi-way or en-x; or what suits the base, with its settings.")
    ] = "recommended",
    languages: Languages = None,
    epochs: Annotated[int | None, typer.Option(help="Budget: passes over the rows.")] = None,
    steps: Annotated[int | None, typer.Option(help="Budget: optimizer steps.")] = None,
    texts: Annotated[int | None, typer.Option(help="Budget: encoded texts.")] = None,
    rows: Annotated[int | None, typer.Option(help="Train on so many of the rows.")] = None,
    batch: Annotated[
        str | None, typer.Option("--batch", "--batch-rows", help="Rows a step, or auto: as many as memory holds.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The peak learning rate.")] = None,
    embedding_learning_rate: Annotated[
        float | None, typer.Option(help="Of the token embeddings, if it is another.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the objective.")] = None,
    dev_rows: Annotated[int | None, typer.Option(help="Rows held out to choose the best checkpoint.")] = None,
    early_stopping: Annotated[int | None, typer.Option(help="Stop after so many looks without a better one.")] = None,
    keep_checkpoints: Annotated[int | None, typer.Option(help="Newest checkpoints kept beside the best.")] = None,
    gradient_cache: Annotated[
        bool | None, typer.Option(help="One chunk's activations at a time, for a second pass; by default if needed.")
    ] = None,
    lora: Annotated[int | None, typer.Option(help="Train adapters of this rank, merged in the end.")] = None,
    base_share: Annotated[
        float | None, typer.Option(help="Share of the base's weights in what is saved, 0 to below 1.")
    ] = None,
    lexical: Annotated[
        float | None, typer.Option(help="Weight of a lexical half beside the encoder's 1, such as 0.8.")
    ] = None,
    lsar: Annotated[int | None, typer.Option(help="Directions of language identity to project out in the end.")] = None,
    wccn: Annotated[
        float | None, typer.Option(help="How far the scatter of a row's translations is evened out, 0 to 1.")
    ] = None,
    extend_vocabulary: Annotated[
        bool, typer.Option("--extend-vocabulary", help="New subwords for the base, of the corpus's languages.")
    ] = False,
    learn_temperature: Annotated[bool, typer.Option("--learn-temperature", help="From that start.")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Forward pass in bfloat16.")] = False,
    prompt: Annotated[str | None, typer.Option(help="Prefix of every text, as 'query: '.")] = None,
    pooling: Annotated[Literal["mean", "cls"] | None, typer.Option(help="Of a base that brings none.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Frozen encoder of a keep term.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    arm: Annotated[str | None, typer.Option(help="Its name in comparisons; the objective's by default.")] = None,
    trust_remote_code: Trust = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Train an encoder on the rows of a corpus."""
    from polyalign.terminal import show_training
    from polyalign.training import RECOMMENDED, Objective, TrainingSettings, advice
    from polyalign.training import train as train_encoder

    _quiet()
    given = {
        "epochs": epochs,
        "steps": steps,
        "texts": texts,
        "rows": rows,
        "batch_rows": batch,
        "learning_rate": learning_rate,
        "embedding_learning_rate": embedding_learning_rate,
        "dev_rows": dev_rows,
        "early_stopping": early_stopping,
        "keep_checkpoints": keep_checkpoints,
        "gradient_cache": gradient_cache,
        "lora": None if lora is None else {"rank": lora},
        "extension": {} if extend_vocabulary else None,
        "base_share": base_share,
        "lexical": None if lexical is None else {"weight": lexical},
        "lsar": lsar,
        "wccn": wccn,
        "bf16": bf16 or None,
        "prompt": prompt,
        "pooling": pooling,
    }
    settings = TrainingSettings.checked({k: v for k, v in given.items() if v is not None}, "train")
    wanted = {"temperature": temperature, "learn_temperature": learn_temperature or None}
    changes = {key: value for key, value in wanted.items() if value is not None}
    if objective == RECOMMENDED and changes:
        raise UserError("a temperature belongs to an objective; name one with --objective")
    record = train_encoder(
        corpus,
        out,
        base=base,
        objective=Objective.named(objective, **changes) if changes else objective,
        languages=_codes(languages),
        settings=settings,
        seed=seed,
        teacher=teacher,
        arm=arm or (None if objective == RECOMMENDED else objective),
        trust_remote_code=trust_remote_code,
        force=force,
    )
    if int(os.environ.get("RANK", "0")) == 0:
        _print_json(record) if as_json else show_training(record, str(out), advice(record))


@app.command()
def project(
    encoder: Annotated[str, typer.Argument(help="A trained encoder, or any sentence-transformers folder or id.")],
    corpus: Annotated[str, typer.Argument(help="A corpus folder or anything `import` takes.")],
    out: Annotated[Path, typer.Option(help="The encoder folder to write.")],
    lexical: Annotated[
        float | None, typer.Option(help="Weight of a lexical half beside the encoder's 1, such as 0.8.")
    ] = None,
    wccn: Annotated[
        float | None, typer.Option(help="How far the scatter of a row's translations is evened out, 0 to 1.")
    ] = None,
    lsar: Annotated[int | None, typer.Option(help="Directions of language identity to project out.")] = None,
    languages: Languages = None,
    arm: Annotated[str | None, typer.Option(help="Its name in comparisons; by default the encoder's, +wccn.")] = None,
    trust_remote_code: Trust = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Improve an encoder without training its weights: parts at its end, fitted on the rows of a corpus."""
    from polyalign.corpus import Corpus
    from polyalign.terminal import show_projection
    from polyalign.training import ProjectionSettings
    from polyalign.training import project as project_encoder

    _quiet()
    given = {"lexical": None if lexical is None else {"weight": lexical}, "lsar": lsar, "wccn": wccn}
    projection = ProjectionSettings.checked({k: v for k, v in given.items() if v is not None}, "project")
    rows, tags = Corpus.open(corpus), _codes(languages)
    record = project_encoder(
        encoder,
        rows.select(tags) if tags else rows,
        out,
        projection,
        arm=arm,
        trust_remote_code=trust_remote_code,
        force=force,
    )
    _print_json(record) if as_json else show_projection(record, str(out))


@app.command()
def evaluate(
    encoder: Annotated[str, typer.Argument(help="A trained encoder, or any sentence-transformers folder or id.")],
    out: Annotated[Path, typer.Option(help="The scores folder to write.")],
    tasks: Annotated[
        str,
        typer.Option(
            help="Comma-separated MTEB tasks, or SIB200Bitext, SIB200Pool, SIB200ZeroShot, STSBenchmarkCrosslingual."
        ),
    ] = "",
    languages: Annotated[str, typer.Option(help="Comma-separated BCP-47 codes, or all.")] = "all",
    split: Annotated[str | None, typer.Option(help="Of the tasks; by default each task's own.")] = None,
    mteb_data: MtebData = None,
    own_rows: Annotated[str | None, typer.Option(help="Your held-out parallel rows, scored as a bitext task.")] = None,
    arm: Annotated[str | None, typer.Option(help="Its name in comparisons; by default its record's.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts per forward pass.")] = 64,
    trust_remote_code: Trust = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Score an encoder on official MTEB tasks, on further ones across languages and on rows of your own."""
    from polyalign.evaluation import evaluate as evaluate_encoder
    from polyalign.terminal import show_scores

    _quiet()
    scores = evaluate_encoder(
        encoder,
        tasks=_codes(tasks) or [],
        languages=_codes(languages) or ["all"],
        out=out,
        split=split,
        mteb_data=mteb_data,
        own_rows=own_rows,
        arm=arm,
        batch_size=batch_size,
        trust_remote_code=trust_remote_code,
        force=force,
    )
    _print_json(scores.filter("main").to_dicts()) if as_json else show_scores(scores, str(out))


@app.command()
def compare(
    scores: Annotated[list[Path], typer.Argument(help="Scores folders, one for each encoder.")],
    out: Annotated[Path, typer.Option(help="The report folder to write.")],
    control: Annotated[str | None, typer.Option(help="The arm the others are compared with.")] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Of the bootstrap.")] = 1000,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Compare encoders, with intervals, in one report."""
    from polyalign.reporting import compare as compare_scores
    from polyalign.terminal import show_comparison

    result = compare_scores(scores, out, control=control, resamples=resamples, force=force)
    _print_json(result) if as_json else show_comparison(result)


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or a packaged recipe such as minilm.")],
    out: Annotated[Path, typer.Option(help="The folder of the run.")],
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, as training.steps=100; may be repeated.")
    ] = None,
    only: Annotated[str | None, typer.Option(help="Of several bases, comma-separated names of those to run.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Parts of the run at once, in processes that share the cores.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what it would do, with hours, and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Do all that a recipe says: corpus, every arm and seed, scores, report. Goes on where it stopped."""
    if dry_run:
        _outline(recipe, out, changes or [], as_json, only=_codes(only) or [])
    else:
        _run(recipe, out, changes or [], as_json, only=_codes(only) or [], jobs=jobs)


def _outline(recipe: str, out: Path, changes: list[str], as_json: bool, only: Sequence[str]) -> None:
    from polyalign.planning import outline
    from polyalign.recipe import load_recipe
    from polyalign.terminal import show_outline

    _quiet()
    lines = [asdict(line) for line in outline(load_recipe(recipe, changes), out, only=only)]
    _print_json(lines) if as_json else show_outline(lines)


def _run(recipe: str, out: Path, changes: list[str], as_json: bool, only: Sequence[str] = (), jobs: int = 1) -> None:
    from polyalign.recipe import load_recipe
    from polyalign.running import run as run_recipe
    from polyalign.terminal import show_comparison

    _quiet()
    result = run_recipe(load_recipe(recipe, changes), out, only=only, jobs=jobs)
    _print_json(result) if as_json else show_comparison(result)
