"""The command line as a user meets it: exit codes, one line for a mistake, results on stdout."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from polyalign.cli import main


@pytest.fixture
def polyalign(monkeypatch, capfd):
    """Call the command line in this process: loading torch anew for each call would take most of the time."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["polyalign", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return SimpleNamespace(returncode=ended.value.code or 0, stdout=out, stderr=err)

    return call


def test_importing_polyalign_loads_nothing_heavy():
    script = (
        "import sys, polyalign, polyalign.cli\n"
        "print([name for name in ('torch', 'polars', 'mteb', 'datasets', 'pydantic') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.fixture(scope="module")
def rows(tmp_path_factory, sample_rows):
    folder = tmp_path_factory.mktemp("cli")
    sample_rows.head(60).select("en", "de", "ru").write_csv(folder / "rows.csv")
    return folder / "rows.csv"


def test_import_inspect_train_project_evaluate_compare(polyalign, rows, tmp_path):
    done = polyalign("import", rows, "--out", tmp_path / "corpus", "--json")
    assert json.loads(done.stdout)["rows"] == 60
    shown = polyalign("inspect", tmp_path / "corpus", "--rows", 1)
    assert (shown.returncode, "60 rows" in shown.stdout, "German" in shown.stdout) == (0, True, True)
    for objective in ("multi-way", "en-x"):
        trained = polyalign(
            "train", tmp_path / "corpus", "--out", tmp_path / objective, "--objective", objective, "--epochs", 2,
            "--batch-rows", 16, "--dev-rows", 10,
        )  # fmt: skip
        assert trained.returncode == 0, trained.stderr
        assert "bitext accuracy" in trained.stdout
        assert "Worth trying: `polyalign project` with --wccn 0.5: more translations, in seconds" in trained.stdout
        scored = polyalign(
            "evaluate", tmp_path / objective, "--own-rows", rows, "--languages", "de,ru",
            "--out", tmp_path / f"scores-{objective}", "--json",
        )  # fmt: skip
        assert scored.returncode == 0, scored.stderr
        assert {score["subset"] for score in json.loads(scored.stdout)} == {"de-en", "ru-en", "de-ru"}
    projected = polyalign(
        "project", tmp_path / "en-x", rows, "--wccn", 0.5, "--lsar", 1, "--out", tmp_path / "projected"
    )
    assert projected.returncode == 0, projected.stderr
    assert "WCCN to the power of 0.5, 60 rows, 180 texts" in " ".join(projected.stdout.split())
    refused = polyalign("project", tmp_path / "en-x", rows, "--lexical", 0.8, "--out", tmp_path / "lexical")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "polyalign: a static encoder is lexical as a whole; leave lexical out\n"
    compared = polyalign(
        "compare", tmp_path / "scores-multi-way", tmp_path / "scores-en-x", "--out", tmp_path / "report",
        "--resamples", 100,
    )  # fmt: skip
    assert compared.returncode == 0, compared.stderr
    assert "Difference to en-x [95%]" in compared.stdout
    assert (tmp_path / "report" / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "nowhere.csv"], "nowhere.csv"),
        (["train", "{rows}", "--out", "x", "--objective", "multi"], "unknown objective 'multi'"),
        (["train", "{rows}", "--out", "x", "--languages", "en,xx"], "'xx'"),
        (
            ["train", "{rows}", "--out", "x", "--temperature", "1"],
            "a temperature belongs to an objective; name one with",
        ),
        (["train", "{rows}", "--out", "x", "--epochs", "0"], "train: epochs is 0, must be greater than or equal to 1"),
        (["train", "{rows}", "--out", "x", "--dev-rows", "9", "--lsar", "9"], "bias of rank 9 cannot be removed"),
        (["project", "e5", "{rows}", "--out", "x"], "neither lexical, lsar nor wccn is given; give at least one"),
        (["project", "e5", "{rows}", "--out", "x", "--wccn", "2"], "wccn is 2.0, must be less than or equal to 1"),
        (["run", "nothing", "--out", "x"], "no recipe 'nothing'"),
        (["run", "xlmr", "--out", "x"], "xlmr: corpus is missing"),
        (["compare", "{rows}", "--out", "x"], "rows.csv"),
        (["train", "{rows}", "--out", "x", "--base", "{rows}"], "is not a model folder"),
        (["build", "--out", "x"], "build: english is missing; to is missing; engines is missing"),
        (["build", "sample", "--to", "de,xx", "--engine", "apertum", "--out", "x"], "(did you mean 'apertium'?)"),
        (["build", "sample", "--to", "cs", "--engine", "memory:sample", "--out", "x"], "into cs (Czech); add one that"),
        (["build", "no.txt", "--to", "de", "--engine", "memory:sample", "--out", "x"], "no.txt"),
        (["build", "--recipe", "no.yaml", "--out", "x"], "no such file: no.yaml; give a YAML file with the keys"),
        (["evaluate", "no/model", "--own-rows", "{rows}", "--out", "x"], "cannot load the model 'no/model'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(arguments, message, polyalign, rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = polyalign(*(argument.format(rows=rows) for argument in arguments))
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("polyalign: "), done.stderr
    assert message in last
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists() or not any((tmp_path / "x").iterdir())


def test_build_and_inspect(polyalign, rows, tmp_path, monkeypatch, caplog):
    """60 rows: one has no Russian in the memory, one a German copy of the English; a text stands twice, one is dots."""
    monkeypatch.chdir(tmp_path)
    known = [json.loads(line) for line in pl.read_csv(rows).write_ndjson().splitlines()]
    del known[0]["ru"]
    known[1]["de"] = known[1]["en"]
    Path("known.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in known))
    texts = [row["en"] for row in known] + [known[5]["en"], "..........."]
    Path("english.txt").write_text("".join(f"{text}\n" for text in texts))
    Path("recipe.yaml").write_text("to: [de]\nmin_languages: 1\nverdicts: {language_probability: 0.9}\n")
    call = [
        "build", "english.txt", "--recipe", "recipe.yaml", "--to", "de,ru",
        "--engine", "memory:known.jsonl", "--min-languages", 1, "--set", "min_languages=2",
        "--set", "verdicts.length_deviations=9", "--set", "source.near_duplicates=null",
        "--memory", "memory", "--workers", 1, "--out", "corpus",
    ]  # fmt: skip
    shown = polyalign(*call)
    assert shown.returncode == 0, shown.stderr
    for part in (
        "corpus: 58 rows", "German", "98.3%", "copy of the source 1", "Russian", "not translated 1",
        "62 lines read, 60 English texts kept", "1 English texts left out: duplicate",
        "1 English texts left out: no letters", "2 rows dropped: too few good translations",
        "Licences of the engines: unknown", "0 cells translated, the others remembered",
    ):  # fmt: skip
        assert part in shown.stdout
    again = polyalign(*call, "--json")
    assert again.returncode == 0
    assert "corpus is complete and was left alone; --force replaces it" in caplog.text
    manifest = json.loads(again.stdout)
    assert manifest["provenance"]["verdicts"] == {
        "de": {"ok": 59, "copy of the source": 1},
        "ru": {"ok": 59, "not translated": 1},
    }
    inspected = polyalign("inspect", "corpus", "--rows", 1)
    assert "de: 1 cells copy of the source\n  (row dropped)\n  → " + known[1]["en"] in inspected.stdout
    assert "ru: 1 cells not translated\n  (row dropped)\n  → \n" in inspected.stdout
    described = json.loads(polyalign("inspect", "corpus", "--json").stdout)
    assert [one["verdict"] for one in described["verdicts"]] == ["ok", "copy of the source", "ok", "not translated"]
    refused = polyalign(*call, "--set", "to=[de]", "--set", "min_languages=1")
    assert refused.returncode == 2
    assert "corpus is a corpus of another request (changed: to, min_languages)" in refused.stderr


@pytest.mark.parametrize("arguments", [["train"], ["frobnicate"], ["inspect", "x", "--rows", "many"]])
def test_a_wrong_call_says_how_to_call(arguments, polyalign):
    done = polyalign(*arguments)
    assert done.returncode == 2
    assert "Usage: " in done.stderr


def test_ctrl_c_says_how_to_go_on(rows, polyalign, tmp_path, monkeypatch):
    monkeypatch.setattr("polyalign.training.trainer.load_base", interrupt)
    done = polyalign("train", rows, "--out", tmp_path / "x", "--batch-rows", 16, "--dev-rows", 10)
    assert done.returncode == 130
    assert done.stderr.endswith("polyalign: interrupted; the same command goes on where it stopped\n")
    assert not any(tmp_path.iterdir())


def interrupt(*arguments, **options):
    raise KeyboardInterrupt


def test_as_a_module_in_a_process_of_its_own(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "polyalign", "inspect", "nowhere.csv"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.startswith("polyalign: ")
    assert done.stdout == ""
