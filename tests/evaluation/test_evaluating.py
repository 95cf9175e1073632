"""An encoder on official tasks, unmodified, from local data: scores, predictions, resumption."""

import json
import subprocess
import sys
from collections import Counter

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from polyalign.errors import UserError
from polyalign.evaluation import evaluate
from polyalign.metrics import prepare

pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{category}:mteb")
    for category in ("UserWarning", "FutureWarning", "DeprecationWarning")
]

THREE = ["Tatoeba", "STSBenchmarkMultilingualSTS", "SIB200Classification"]


@pytest.fixture
def run(tmp_path, mteb_data):
    """Call `evaluate` on the local data; without other wishes on Tatoeba in German."""

    def call(encoder, out="scores", **kwargs):
        options = {"tasks": ["Tatoeba"], "languages": ["de"], "mteb_data": mteb_data} | kwargs
        return evaluate(encoder, out=tmp_path / out, **options)

    return call


def main_scores(scores):
    return {
        (task, subset): v for task, subset, v in scores.filter("main").select("task", "subset", "value").iter_rows()
    }


def test_scores_predictions_and_manifest(run, make_encoder, tmp_path, caplog):
    record = {"arm": "multi-way", "seed": 3, "budgets": ["equal rows"], "languages": ["en", "de"], "format": 1}
    scores = run(make_encoder(record=record), tasks=THREE, languages=["en", "de", "zh", "haw"])
    out = tmp_path / "scores"
    assert_frame_equal(pl.read_parquet(out / "scores.parquet"), scores)

    labels = {row["subset"]: row for row in scores.filter("main").iter_rows(named=True) if row["task"] != THREE[1]}
    assert {name: (row["languages"], row["exposure"], row["script"]) for name, row in labels.items()} == {
        "deu-eng": (["en", "de"], "seen", "Latn"),
        "cmn-eng": (["en", "zh"], "unseen", "Hans"),
        "eng_Latn": (["en"], "english", "Latn"),
        "deu_Latn": (["de"], "seen", "Latn"),
        "zho_Hant": (["zh"], "unseen", "Hant"),
    }
    assert set(scores["arm"]) == {"multi-way"}
    assert set(scores["seed"]) == {3}
    assert {(row["task"], row["metric"]) for row in scores.filter("main").iter_rows(named=True)} == {
        ("Tatoeba", "f1"),
        ("STSBenchmarkMultilingualSTS", "cosine_spearman"),
        ("SIB200Classification", "accuracy"),
    }
    assert dict(scores.select("task", "n").unique().iter_rows()) == {THREE[0]: 8, THREE[1]: 8, THREE[2]: 10}

    predictions = pl.read_parquet(out / "predictions.parquet")
    assert predictions.filter(task=THREE[2], subset="deu_Latn")["experiment"].unique().sort().to_list() == list(
        range(10)
    )
    for (task, subset), value in main_scores(scores).items():
        kept = predictions.filter(task=task, subset=subset)
        assert prepare(kept["family"][0], kept).score() == pytest.approx(value, abs=1e-9)
        official = json.loads((out / "mteb" / f"{task}.json").read_text())
        (entry,) = [entry for entry in official["scores"]["test"] if entry["hf_subset"] == subset]
        assert entry["main_score"] == pytest.approx(value, abs=1e-6)

    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["encoder"] == record
    assert (manifest["arm"], manifest["seed"], manifest["budgets"]) == ("multi-way", 3, ["equal rows"])
    assert manifest["missing"] == {task: ["haw"] for task in THREE}
    assert "task Tatoeba has no data for haw" in caplog.text
    assert (manifest["kind"], manifest["data_source"]) == ("scores", "local")


def test_predictions_that_do_not_give_mtebs_score_are_an_internal_error(run, make_encoder, monkeypatch, tmp_path):
    from polyalign.evaluation import evaluating

    def shifted(*args):
        return join_gold(*args).with_columns(predicted=pl.lit("0"))

    join_gold = evaluating.join_gold
    monkeypatch.setattr(evaluating, "join_gold", shifted)
    with pytest.raises(RuntimeError, match=r"Tatoeba deu-eng: MTEB scored 1.0, its predictions give 0.02"):
        run(make_encoder())
    assert not (tmp_path / "scores").exists()


def test_two_encoders_never_share_a_score(run, make_encoder, tmp_path):
    good = run(make_encoder("same-name"), "good", tasks=THREE)
    bad = run(make_encoder("same-name", swapped=["mond", "stern", "regen", "baum"]), "bad", tasks=THREE)
    assert main_scores(good)["Tatoeba", "deu-eng"] == 1.0
    assert main_scores(bad)["Tatoeba", "deu-eng"] < 0.8
    fingerprints = {
        json.loads((tmp_path / out / "manifest.json").read_text())["encoder_fingerprint"] for out in ("good", "bad")
    }
    assert len(fingerprints) == 2


def test_each_distinct_text_is_encoded_once(run, make_encoder, encoded, tmp_path, mteb_data):
    run(make_encoder(), tasks=[*THREE, "NTREXBitextMining"], languages=["en", "de", "fr"])
    assert max(Counter(encoded).values()) == 1
    cost = json.loads((tmp_path / "scores" / "manifest.json").read_text())["cost"]
    assert cost["texts_encoded"] == len(encoded)
    assert cost["texts_asked"] > 2 * cost["texts_encoded"]


@pytest.mark.parametrize(
    ("prompts", "default", "prefix"),
    [
        ({"query": "query: ", "passage": "passage: "}, "query", "query: "),
        ({"query": "query: ", "STS": "same? "}, "query", "same? "),
        ({"query": "query: ", "STSBenchmarkMultilingualSTS": "stsb: ", "STS": "same? "}, None, "stsb: "),
        ({"query": "query: "}, None, ""),
    ],
)
def test_prompts_are_those_of_mteb_itself(run, make_encoder, encoded, prompts, default, prefix, mteb_data):
    import mteb
    from sentence_transformers import SentenceTransformer

    from polyalign.tasks import load_tasks

    folder = make_encoder(prompts=prompts, default_prompt=default, noise=0.3)
    ours = main_scores(run(folder, tasks=[THREE[1]]))
    assert encoded
    assert all(text.startswith(prefix) and not text.removeprefix(prefix).startswith("query: ") for text in encoded)
    (selected,) = load_tasks([THREE[1]], ["de"], mteb_data=mteb_data)
    theirs = mteb.evaluate(SentenceTransformer(str(folder)), selected.task, cache=None, co2_tracker=False)
    assert ours[THREE[1], "de"] == pytest.approx(theirs.task_results[0].scores["test"][0]["main_score"], abs=1e-12)


def test_an_interrupted_evaluation_keeps_what_was_finished(run, make_encoder, monkeypatch, encoded, tmp_path):
    from mteb.abstasks import AbsTaskSTS

    encoder = make_encoder(noise=0.5)
    options = {"tasks": THREE, "languages": ["de", "fr"]}
    whole = run(encoder, "whole", **options)

    with monkeypatch.context() as patch:
        original, calls = AbsTaskSTS._calculate_scores, []

        def killed(self, *args):
            calls.append(self)
            if len(calls) == 2:  # in the second language of the second task
                raise KeyboardInterrupt
            return original(self, *args)

        patch.setattr(AbsTaskSTS, "_calculate_scores", killed)
        with pytest.raises(KeyboardInterrupt):
            run(encoder, "resumed", **options)
    assert not (tmp_path / "resumed").exists()

    encoded.clear()
    resumed = run(encoder, "resumed", **options)
    assert_frame_equal(resumed, whole)
    tables = [pl.read_parquet(tmp_path / out / "predictions.parquet") for out in ("whole", "resumed")]
    assert_frame_equal(*tables)
    # English sentences occur only in the finished Tatoeba.
    assert "sun moon" not in encoded
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resumed", "whole"]


def test_complete_scores_are_left_alone_unless_the_settings_differ(run, make_encoder, encoded, tmp_path):
    encoder = make_encoder()
    first = run(encoder)
    encoded.clear()
    assert_frame_equal(run(encoder), first)
    assert not encoded
    with pytest.raises(UserError, match=r"made with another setting \(languages, tasks\); use --force"):
        run(encoder, languages=["fr"])
    with pytest.raises(UserError, match=r"made with another setting \(encoder\)"):
        run(make_encoder(noise=0.1))
    assert main_scores(run(encoder, languages=["fr"], force=True)).keys() == {("Tatoeba", "fra-eng")}
    (tmp_path / "scores" / "manifest.json").write_text('{"kind": "corpus"}')
    with pytest.raises(UserError, match="holds a corpus, not scores"):
        run(encoder, force=True)


def test_bucc_states_its_gold(run, make_encoder, write_dataset, tmp_path_factory):
    # The second French sentence is the first English one, and an English sentence is left over.
    data = tmp_path_factory.mktemp("bucc")
    row = {"sentence1": [["lune", "soleil"]], "sentence2": [["sun", "moon", "star"]], "gold": [[[1, 2], [2, 1]]]}
    write_dataset(data, "mteb/BUCC", {"fr-en": {"test": pl.DataFrame(row)}})
    assert main_scores(run(make_encoder(), tasks=["BUCC"], languages=["fr"], mteb_data=data)) == {
        ("BUCC", "fr-en"): 1.0
    }


def test_a_task_in_one_language_has_one_subset(run, make_encoder, write_dataset, tmp_path_factory):
    data = tmp_path_factory.mktemp("stsb")
    rows = {"sentence1": ["sun", "sun", "sun"], "sentence2": ["sun", "sun star", "moon"], "score": [5.0, 3.0, 1.0]}
    write_dataset(data, "mteb/stsbenchmark-sts", {"default": {"test": pl.DataFrame(rows)}})
    scores = run(make_encoder(), tasks=["STSBenchmark"], languages=["en"], mteb_data=data)
    assert main_scores(scores) == {("STSBenchmark", "default"): pytest.approx(1.0)}
    assert set(scores["exposure"]) == {"english"}


def test_a_model_without_a_record(run, make_encoder):
    encoder = make_encoder("published")
    scores = run(encoder, languages=["de", "fr"], seen_languages=["fr"])
    assert dict(scores.select("subset", "exposure").unique().iter_rows()) == {"deu-eng": "unseen", "fra-eng": "seen"}
    assert set(scores["arm"]) == {"published"}
    recorded = make_encoder(record={"languages": ["en", "de"], "objective": {}})
    with pytest.raises(UserError, match="records the languages it has seen"):
        run(recorded, "other", seen_languages=["fr"])


def test_items_that_are_the_same_in_several_subsets_share_their_group(run, make_encoder, tmp_path):
    run(make_encoder(), tasks=[*THREE, "NTREXBitextMining"], languages=["de", "fr"])
    predictions = pl.read_parquet(tmp_path / "scores" / "predictions.parquet")
    groups = {
        key: rows["group"].to_list()
        for key, rows in predictions.filter(experiment=0).partition_by("task", "subset", as_dict=True).items()
    }
    index = [str(i) for i in range(8)]
    assert groups["Tatoeba", "deu-eng"] == groups["Tatoeba", "fra-eng"]
    assert len(set(groups["Tatoeba", "deu-eng"])) == 8
    assert groups[THREE[1], "de"] == groups[THREE[1], "fr"] == index
    ntrex = [value for (task, _), value in groups.items() if task == "NTREXBitextMining"]
    assert ntrex == [index] * 6


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "held-out.jsonl"
    lines = [
        {"en": "sun", "de": "sonne", "zh-Hans": "太阳"},
        {"en": "moon", "de": "mond", "zh-Hans": None},
        {"en": None, "de": "stern", "zh-Hans": "星星"},
        {"en": "rain", "de": "regen", "zh-Hans": "雨"},
    ]
    path.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    return path


def test_own_rows_are_a_bitext_task(run, make_encoder, rows, tmp_path):
    scores = run(make_encoder(swapped=["mond"]), tasks=[], languages=["de", "zh", "fr"], own_rows=rows)
    main = {row["subset"]: row for row in scores.filter("main").iter_rows(named=True)}
    assert {name: (row["n"], row["languages"], row["script"]) for name, row in main.items()} == {
        "de-en": (3, ["en", "de"], "Latn"),
        "zh-en": (2, ["en", "zh"], "Hans"),
        "de-zh": (3, ["de", "zh"], "Latn+Hans"),
    }
    # "mond" retrieves "sun" too: F1 2/3 for sun, 0 for moon, 1 for rain.
    assert main["de-en"]["value"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert main["zh-en"]["value"] == main["de-zh"]["value"] == 1.0
    assert set(scores["task"]) == {"OwnRowsBitext"}
    predictions = pl.read_parquet(tmp_path / "scores" / "predictions.parquet")
    groups = {name: set(rows["group"]) for (name,), rows in predictions.partition_by("subset", as_dict=True).items()}
    assert groups["zh-en"] < groups["de-en"]
    assert groups["zh-en"] < groups["de-zh"]
    manifest = json.loads((tmp_path / "scores" / "manifest.json").read_text())
    assert manifest["missing"] == {"OwnRowsBitext": ["fr"]}


def test_own_rows_join_official_tasks(run, make_encoder, rows):
    scores = run(make_encoder(), tasks=["own", "Tatoeba"], own_rows=rows)
    assert main_scores(scores) == {("Tatoeba", "deu-eng"): 1.0, ("OwnRowsBitext", "de-en"): 1.0}


def test_mistakes_are_named(run, make_encoder, rows):
    encoder = make_encoder()
    with pytest.raises(UserError, match="without rows; give them with --own-rows"):
        run(encoder, tasks=["own"])
    with pytest.raises(UserError, match="no task was asked for"):
        run(encoder, tasks=[])
    with pytest.raises(UserError, match="no language was asked for"):
        run(encoder, languages=[])
    with pytest.raises(UserError, match=r"no own row has two of the languages fr .*; the rows have"):
        run(encoder, tasks=[], languages=["fr"], own_rows=rows)
    with pytest.raises(UserError, match=r"the data of task 'Tatoeba' in .* lacks nld-eng of split 'test'"):
        run(encoder, languages=["de", "nl"])
    with pytest.raises(UserError, match=r"cannot load the data of task 'SIB200Classification' .* mend that folder"):
        run(encoder, tasks=["SIB200Classification"], languages=["nl"])


def test_importing_the_verb_is_cheap():
    code = "import sys, polyalign.evaluation; print(*{'mteb', 'torch', 'datasets', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
