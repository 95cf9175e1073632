"""The command line as a user meets it: exit codes, one line for a mistake, results on stdout."""

import json
import subprocess
import sys
from types import SimpleNamespace

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


def test_import_inspect_train_evaluate_compare(polyalign, rows, tmp_path):
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
        scored = polyalign(
            "evaluate", tmp_path / objective, "--own-rows", rows, "--languages", "de,ru",
            "--out", tmp_path / f"scores-{objective}", "--json",
        )  # fmt: skip
        assert scored.returncode == 0, scored.stderr
        assert {score["subset"] for score in json.loads(scored.stdout)} == {"de-en", "ru-en", "de-ru"}
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
        (["train", "{rows}", "--out", "x", "--epochs", "0"], "train: epochs is 0, must be greater than or equal to 1"),
        (["run", "nothing", "--out", "x"], "no recipe 'nothing'"),
        (["run", "xlmr", "--out", "x"], "xlmr: corpus is missing"),
        (["compare", "{rows}", "--out", "x"], "rows.csv"),
        (["train", "{rows}", "--out", "x", "--base", "{rows}"], "is not a model folder"),
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
