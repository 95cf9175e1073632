"""A run from recipe to report: equal budgets, going on after kill -9, refusing another recipe."""

import json
import shutil
import signal

import numpy as np
import polars as pl
import pytest
import yaml

from polyalign.corpus import Corpus
from polyalign.encoder import read_record
from polyalign.errors import UserError
from polyalign.planning import outline, plan_cells, recipe_in
from polyalign.recipe import Recipe, load_recipe
from polyalign.running import run


@pytest.fixture(scope="module")
def files(sample_rows, tmp_path_factory):
    """90 rows to train on and 30 held-out ones in two languages fewer."""
    folder = tmp_path_factory.mktemp("files")
    sample_rows.head(90).write_ndjson(folder / "rows.jsonl")
    sample_rows.tail(30).select("en", "de", "ru").write_ndjson(folder / "held.jsonl")
    return folder


def recipe_of(files, **changes):
    values = {
        "corpus": str(files / "rows.jsonl"),
        "base": "static",
        "languages": ["en", "de", "fr"],
        "arms": ["multi-way", "en-x"],
        "equal": ["rows", "texts"],
        "training": {"epochs": 2, "batch_rows": 16, "dev_rows": 20, "evaluations": 2},
        "evaluation": {"own_rows": str(files / "held.jsonl"), "languages": ["de", "ru"]},
        "report": {"resamples": 100},
    }
    return Recipe.checked(values | changes, "recipe")


def test_budgets_are_equal_as_the_recipe_says(files):
    """70 training rows of 3 texts: 10 steps and 420 texts; en-x reads 2 texts a row, so 15 steps for as many texts."""
    corpus = Corpus.open(files / "rows.jsonl").select(["en", "de", "fr"])
    cells = {cell.name: cell for cell in plan_cells(recipe_of(files), corpus)}
    assert {name: (cell.steps, cell.texts, cell.budgets) for name, cell in cells.items()} == {
        "multi-way": (10, 420, ("equal rows", "equal texts")),
        "en-x-equal-rows": (10, 280, ("equal rows",)),
        "en-x-equal-texts": (15, 420, ("equal texts",)),
    }


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    return out, run(recipe_of(files), out)


def test_a_run_leaves_everything_where_it_belongs(whole):
    out, result = whole
    assert sorted(path.name for path in out.iterdir()) == [
        "corpus", "encoders", "manifest.json", "recipe.json", "report", "scores",
    ]  # fmt: skip
    names = ["en-x-equal-rows-seed0", "en-x-equal-texts-seed0", "multi-way-seed0"]
    assert sorted(path.name for path in (out / "encoders").iterdir()) == names
    assert [one["budget"] for one in result["comparisons"]] == ["equal rows", "equal texts"]
    assert "OwnRowsBitext" in (out / "encoders" / "multi-way-seed0" / "README.md").read_text()
    record = read_record(out / "encoders" / "en-x-equal-texts-seed0")
    assert (record["arm"], record["objective_name"], record["cost"]["texts_encoded"]) == ("en-x", "en-x", 420)
    scores = pl.read_parquet(out / "scores" / "multi-way-seed0" / "scores.parquet").filter("main")
    assert dict(scores.select("subset", "exposure").iter_rows()) == {
        "de-en": "seen", "ru-en": "unseen", "de-ru": "unseen",
    }  # fmt: skip


def test_a_second_call_redoes_nothing(whole, files):
    out, result = whole
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    assert run(recipe_of(files), out) == result
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}


def test_jobs_change_nothing_but_the_order(whole, files, tmp_path):
    """The same trainings, each in one of two processes."""
    result = run(recipe_of(files), tmp_path / "jobs", jobs=2)
    assert [one["arms"] for one in result["comparisons"]] == [one["arms"] for one in whole[1]["comparisons"]]
    for scores in (whole[0] / "scores").iterdir():
        mine, expected = (
            pl.read_parquet(folder / "scores.parquet") for folder in (tmp_path / "jobs/scores" / scores.name, scores)
        )
        assert mine.drop("value").equals(expected.drop("value"))
        np.testing.assert_allclose(mine["value"], expected["value"], atol=0.1)  # other threads, other rounding


def test_a_recipe_may_grow_and_scores_alone_count_as_done(whole, files, tmp_path):
    """One more arm; of the first run only the recipe and the scores are left."""
    out = tmp_path / "grown"
    shutil.copytree(whole[0] / "scores", out / "scores")
    shutil.copy2(whole[0] / "recipe.json", out)
    grown = recipe_of(files, arms=["multi-way", "en-x", {"name": "x-y", "objective": "x-y", "equal": ["rows"]}])
    result = run(grown, out)
    assert [set(one["arms"]) for one in result["comparisons"]] == [{"en-x", "multi-way", "x-y"}, {"en-x", "multi-way"}]
    assert [path.name for path in (out / "encoders").iterdir()] == ["x-y-seed0"]
    assert run(grown, out) == result
    other = recipe_of(files, training={"epochs": 2, "batch_rows": 8, "dev_rows": 20})
    shutil.rmtree(out / "encoders")
    (out / "recipe.json").write_text(other.model_dump_json())
    with pytest.raises(UserError, match="holds scores made with another training; choose another --out"):
        run(other, out)


def test_every_arm_projected_without_training_again(whole, files, tmp_path):
    """A finished run grows by linear maps at the end of its encoders; of the scores alone nothing is done again."""
    out = tmp_path / "out"
    shutil.copytree(whole[0], out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    grown = recipe_of(files, projected=[{"wccn": 0.5}])
    assert [(line.what, line.done, line.texts) for line in outline(grown, out)][:2] == [
        ("multi-way", 1, 420), ("multi-way+wccn", 0, 0),
    ]  # fmt: skip
    result = run(grown, out)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    arms = {"en-x", "multi-way", "en-x+wccn", "multi-way+wccn"}
    assert [(one["control"], set(one["arms"])) for one in result["comparisons"]] == [("en-x", arms)] * 2
    record = read_record(out / "encoders" / "multi-way-seed0+wccn")
    assert (record["arm"], record["budgets"]) == ("multi-way+wccn", ["equal rows", "equal texts"])
    assert record["wccn"]["rows"] == 70, "not the dev rows"
    shutil.rmtree(out / "encoders")
    assert run(grown, out) == result
    assert not (out / "encoders").exists()
    shutil.rmtree(out / "scores" / "multi-way-seed0+wccn")
    for path in (out / "scores").glob("*/manifest.json"):  # as scores that were kept from another machine
        manifest = json.loads(path.read_text())
        manifest["settings"]["encoder"] = manifest["encoder_fingerprint"] = "elsewhere"
        path.write_text(json.dumps(manifest))
    shutil.rmtree(out / "report")
    run(grown, out)
    assert sorted(path.name for path in (out / "encoders").iterdir()) == ["multi-way-seed0", "multi-way-seed0+wccn"]
    shutil.rmtree(out / "encoders")
    (out / "recipe.json").unlink()
    (out / "manifest.json").unlink()
    (out / "recipe.json").write_text((changed := recipe_of(files, projected=[{"wccn": 1}])).model_dump_json())
    with pytest.raises(UserError, match="seed0\\+wccn holds scores made with another projection; choose another --out"):
        run(changed, out)


def test_records_older_than_a_setting_count_as_of_its_default(whole, files, tmp_path):
    out = tmp_path / "older"
    shutil.copytree(whole[0] / "scores", out / "scores")
    recipe = json.loads((whole[0] / "recipe.json").read_text())
    del recipe["training"]["lora"], recipe["trust_remote_code"]
    (out / "recipe.json").write_text(json.dumps(recipe))
    for path in (out / "scores").glob("*/manifest.json"):
        manifest = json.loads(path.read_text())
        del manifest["encoder"]["training"]["lora"], manifest["encoder"]["objective"]["margin"]
        path.write_text(json.dumps(manifest))
    run(recipe_of(files), out)
    assert not (out / "encoders").exists()


def test_equal_pairs_and_all_translations(files):
    """70 rows of 6 terms, 10 steps, 840 terms: en-x has 2 a row, so 420 rows in 30 steps of 14. In turn: twice 140."""
    corpus = Corpus.open(files / "rows.jsonl").select(["en", "de", "fr"])
    recipe = recipe_of(files, arms=["multi-way", "en-x", "en-x-all"], equal=["pairs", "rows"])
    cells = {cell.name: cell for cell in plan_cells(recipe, corpus)}
    assert {name: (cell.steps, cell.budgets) for name, cell in cells.items()} == {
        "multi-way": (10, ("equal pairs", "equal rows")),
        "en-x-equal-pairs": (30, ("equal pairs",)),
        "en-x-equal-rows": (10, ("equal rows",)),
        "en-x-all-equal-pairs": (30, ("equal pairs",)),
        "en-x-all-equal-rows": (20, ("equal rows",)),
    }


def test_multiples_of_the_budget(files):
    """420 texts are 10 steps of two epochs; half of them are 4 steps of 48 and one of 18; twice as many, 20 steps."""
    corpus = Corpus.open(files / "rows.jsonl").select(["en", "de", "fr"])
    cells = {cell.name: cell for cell in plan_cells(recipe_of(files, equal=["texts"], scale=[1, 0.5, 2]), corpus)}
    assert {name: (cell.steps, cell.texts, cell.budgets) for name, cell in cells.items()} == {
        "multi-way": (10, 420, ("equal texts",)),
        "en-x": (15, 420, ("equal texts",)),
        "multi-way-x0.5": (5, 210, ("equal texts × 0.5",)),
        "en-x-x0.5": (8, 236, ("equal texts × 0.5",)),
        "multi-way-x2": (20, 840, ("equal texts × 2",)),
        "en-x-x2": (30, 840, ("equal texts × 2",)),
    }


def test_each_multiple_is_tuned_by_itself_and_told_where_curves_cross(files, tmp_path):
    tuning = {"learning_rate": [0.02], "share": 1}
    training = {"epochs": 2, "batch_rows": 4, "dev_rows": 20, "evaluations": 2}
    recipe = recipe_of(files, equal=["texts"], scale=[0.5, 1], tuning=tuning, training=training)
    out = tmp_path / "curves"
    result = run(recipe, out)
    trials = {path.name: len(list(path.glob("*.json"))) for path in (out / "tuning").iterdir()}
    assert trials == dict.fromkeys(["multi-way", "en-x", "multi-way-x0.5", "en-x-x0.5"], 1)
    assert [one["budget"] for one in result["comparisons"]] == ["equal texts × 0.5", "equal texts"]
    report = (out / "report" / "report.md").read_text()
    assert "**Where the curves cross**" in report
    assert result["crossings"]
    for one in result["crossings"]:
        assert one["arm"] == "multi-way"
        assert one["better"] + one["worse"] + one["unclear"] == 2
        assert f"{one['told']} ({one['better']} better, {one['worse']} worse, {one['unclear']} unclear)" in report
    assert "| multi-way × 0.5 | 0.02 |" in report
    assert sum(line.done for line in outline(recipe, out)) == 8  # 4 encoders and 4 trials
    grown = recipe_of(files, equal=["texts"], scale=[0.5, 1, 2], tuning=tuning, training=training)
    assert {line.what: line.times - line.done for line in outline(grown, out) if line.done < line.times} == {
        "tuning of multi-way-x2": 1, "tuning of en-x-x2": 1, "multi-way-x2": 1, "en-x-x2": 1,
    }  # fmt: skip


def test_two_bases_each_arm_tuned(files, tmp_path):
    """A run in a folder for each base, budgets called after them; the trials leave their result alone."""
    recipe = recipe_of(
        files,
        base=None,
        bases={
            "wide": {"base": "static"},
            "narrow": {
                "base": "static",
                "languages": ["en", "de"],
                "training": {"static": {"dimensions": 16}, "rows": 40},
                "arms": ["multi-way", "x-y"],
            },
        },
        arms=["multi-way", "en-x"],
        equal=["rows"],
        tuning={"learning_rate": [0.0001, 0.02], "temperature": [0.05], "share": 0.5},
    )
    out = tmp_path / "run"
    plan = {(line.base, line.what): line for line in outline(recipe, out)}
    assert not out.exists()
    assert [line.times for line in plan.values()] == [2, 2, 1, 1] * 2
    assert all(line.done == 0 and line.hours > 0 for line in plan.values())
    result = run(recipe, out)
    assert [one["budget"] for one in result["comparisons"]] == ["wide, equal rows", "narrow, equal rows"]
    assert [sorted(one["arms"]) for one in result["comparisons"]] == [["en-x", "multi-way"], ["multi-way", "x-y"]]
    trials = sorted(path.name for path in (out / "wide/tuning/multi-way").iterdir())
    assert trials == ["learning-rate-0.0001-temperature-0.05.json", "learning-rate-0.02-temperature-0.05.json"]
    accuracy = [json.loads((out / "wide/tuning/multi-way" / name).read_text())["dev_accuracy"] for name in trials]
    assert accuracy[1] > accuracy[0]
    assert read_record(out / "wide/encoders/multi-way-seed0")["training"]["learning_rate"] == 0.02
    narrow = read_record(out / "narrow/encoders/multi-way-seed0")
    assert (narrow["languages"], narrow["corpus"]["rows"], narrow["corpus"]["dev_rows"]) == (["de", "en"], 40, 20)
    page = (out / "report" / "report.md").read_text()
    assert "Tuning: the trials of each arm on the dev rows" in page
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json") if "report" not in path.parts}
    assert run(recipe, out) == result
    assert all(path.stat().st_mtime_ns == then for path, then in before.items() if path.parent != out)
    assert all((line.done, line.hours) == (line.times, 0) for line in outline(recipe, out))
    assert {line.base for line in outline(recipe, out, only=["narrow"])} == {"narrow"}
    narrow = run(recipe, out, only=["narrow"])
    assert [one["budget"] for one in narrow["comparisons"]] == ["narrow, equal rows"]
    with pytest.raises(UserError, match="no base tiny in the recipe; it has wide, narrow"):
        run(recipe, out, only=["tiny"])
    with pytest.raises(UserError, match="no base tiny in the recipe; it has "):
        outline(recipe, out, only=["tiny"])
    trial = out / "wide/tuning/multi-way" / trials[0]
    recorded = json.loads(trial.read_text())
    del recorded["request"]["training"]["lora"]
    trial.write_text(json.dumps(recorded))
    assert run(recipe, out) == result
    recorded["request"]["training"]["batch_rows"] = 8
    trial.write_text(json.dumps(recorded))
    with pytest.raises(UserError, match="is a trial under another training; delete it, or choose another --out"):
        run(recipe, out)


def test_another_recipe_is_refused_in_the_same_folder(whole, files, tmp_path):
    out, _ = whole
    for do in (run, outline):
        with pytest.raises(UserError, match=r"holds a run of another recipe \(changed: seeds\); choose another --out"):
            do(recipe_of(files, seeds=[5]), out)
    (tmp_path / "other").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no run; choose another --out"):
        run(recipe_of(files), tmp_path)


def test_a_folder_whose_corpus_could_not_be_made_takes_another_recipe(files, tmp_path):
    with pytest.raises(UserError, match=r"mistyped.jsonl"):
        run(recipe_of(files, corpus=str(files / "mistyped.jsonl")), tmp_path / "out")
    assert recipe_in(tmp_path / "out", recipe_of(files)) is None


KILLED = """
import os, sys
from polyalign import running
from polyalign.evaluation import evaluating
from polyalign.training import callbacks
from polyalign.recipe import load_recipe
if WHERE == "training":
    plain = callbacks.Checkpoints.on_save
    def on_save(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        os.kill(os.getpid(), 9)
    callbacks.Checkpoints.on_save = on_save
else:
    evaluating._tidy = lambda *args: os.kill(os.getpid(), 9)
running.run(load_recipe(RECIPE), OUT)
"""


@pytest.mark.parametrize("where", ["training", "evaluation"])
def test_kill_9_then_again_gives_the_scores_of_an_undisturbed_run(where, whole, files, start_process, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(json.loads(recipe_of(files).model_dump_json())))
    out = tmp_path / "run"
    process = start_process(KILLED, WHERE=where, RECIPE=str(recipe), OUT=str(out))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (out / "manifest.json").exists()
    result = run(recipe_of(files), out)
    undisturbed = whole[0]
    for name in ("multi-way-seed0", "en-x-equal-rows-seed0", "en-x-equal-texts-seed0"):
        for file in ("scores.parquet", "predictions.parquet"):
            resumed = pl.read_parquet(out / "scores" / name / file)
            assert resumed.equals(pl.read_parquet(undisturbed / "scores" / name / file)), (name, file)
    assert {k: v for k, v in result.items() if k != "report"} == {k: v for k, v in whole[1].items() if k != "report"}


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("xlmr", "tiny_xlmr"),
        ("mbert", "tiny_bert"),
        ("me5", "tiny_xlmr"),
        ("minilm", "tiny_bert"),
        ("lexical", "tiny_bert"),
    ],
)
def test_packaged_recipes_run_on_their_architecture(name, architecture, files, tmp_path, request):
    """The recipe as it stands, but for its size and its tests."""
    changes = [
        f"corpus={files / 'rows.jsonl'}",
        f"base={request.getfixturevalue(architecture)}",
        "languages=[en, de, fr]",
        "seeds=[0]",
        "training={steps: 2, batch_rows: 16, dev_rows: 20, evaluations: 1, bf16: auto, max_seq_length: 32}",
        f"evaluation={{own_rows: {files / 'held.jsonl'}, languages: [de]}}",
        "report.resamples=100",
    ]
    recipe = load_recipe(name, [*changes, *(["training.prompt='query: '"] if name == "me5" else [])])
    result = run(recipe, tmp_path / "run")
    everywhere = {"x-y-distill", "en-x-extended"} if name == "lexical" else {"base", "multi-way", "en-x"}
    if name == "minilm":
        everywhere |= {"x-y-distill", "en-x-extended", "multi-way-extended", "distill-contrast"}
    with_texts = everywhere | ({"x-y-distill"} if name == "me5" else set())
    if recipe.projected:
        suffix = "+lexical+wccn" if name == "lexical" else "+wccn"
        everywhere, with_texts = ({*arms, *(f"{arm}{suffix}" for arm in arms)} for arms in (everywhere, with_texts))
    found = {one["budget"]: set(one["arms"]) for one in result["comparisons"]}
    assert found == {f"equal {kind}": with_texts if kind == "texts" else everywhere for kind in recipe.equal}
    assert {one["control"] for one in result["comparisons"]} == {recipe.report.control}
    first = recipe.trained_arms[0].name
    config = json.loads((tmp_path / f"run/encoders/{first}-seed0/config_sentence_transformers.json").read_text())
    assert (config["default_prompt_name"] is not None) == (name == "me5")


def test_the_untouched_base_is_measured_with_its_prompt(files, tmp_path, tiny_xlmr):
    training = {"steps": 2, "batch_rows": 16, "dev_rows": 20, "evaluations": 1, "prompt": "query: "}
    recipe = recipe_of(
        files, base=tiny_xlmr, arms=["multi-way", "base"], equal=["rows"], training=training, projected=[{"lsar": 1}]
    )
    result = run(recipe, tmp_path / "run")
    arms = ("base", "base+lsar", "multi-way", "multi-way+lsar")
    assert result["comparisons"][0]["arms"] == {arm: [0] for arm in arms}
    assert result["comparisons"][0]["control"] == "base"
    for base in ("base", "base+lsar"):
        config = json.loads((tmp_path / f"run/encoders/{base}/config_sentence_transformers.json").read_text())
        assert config["prompts"][config["default_prompt_name"]] == "query: "
        exposures = pl.read_parquet(tmp_path / f"run/scores/{base}/scores.parquet")["exposure"].unique().to_list()
        assert sorted(exposures) == ["seen", "unseen"], "the base is measured on the languages the arms have seen"


def test_a_run_may_begin_with_english_only(files, tmp_path, monkeypatch):
    """The packaged memory knows all 90 texts; Russian is built but not trained on. A second call redoes nothing."""
    monkeypatch.setenv("POLYALIGN_CACHE", str(tmp_path / "cache"))
    recipe = recipe_of(
        files,
        corpus={"english": str(files / "rows.jsonl"), "to": ["de", "fr", "ru"], "engines": ["memory:sample"]},
        equal=["rows"],
        training={"steps": 3, "batch_rows": 16, "dev_rows": 20, "evaluations": 1},
    )
    out = tmp_path / "run"
    result = run(recipe, out)
    corpus = Corpus.open(out / "corpus")
    assert corpus.languages == ("en", "de", "fr", "ru")
    assert (out / "corpus" / "cells").is_dir()
    assert len(corpus) == 90
    known = {row["en"]: row for row in pl.read_ndjson(files / "rows.jsonl").to_dicts()}
    for row in corpus.rows.drop("row_id").to_dicts():
        assert all(text in (None, known[row["en"]][tag]) for tag, text in row.items())
    assert read_record(out / "encoders" / "multi-way-seed0")["languages"] == ["de", "en", "fr"]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    again = Recipe.checked(json.loads(recipe.model_dump_json()), "recipe")
    assert run(again, out) == result
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    other = recipe.model_copy(update={"corpus": recipe.corpus.model_copy(update={"min_languages": 2})})
    with pytest.raises(UserError, match=r"holds a run of another recipe \(changed: corpus\)"):
        run(other, out)
