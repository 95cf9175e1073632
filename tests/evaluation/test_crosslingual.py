"""The tasks across languages that MTEB lacks: which subsets run, and their numbers against plain loops."""

import json
from collections import Counter

import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr

from polyalign.errors import UserError
from polyalign.evaluation import evaluate
from polyalign.evaluation.crosslingual import TASKS, crosslingual_task
from polyalign.metrics import prepare

pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{category}:mteb")
    for category in ("UserWarning", "FutureWarning", "DeprecationWarning")
]

CONFIGS = {"en": "eng_Latn", "de": "deu_Latn", "fr": "fra_Latn", "zh": "zho_Hans"}


@pytest.fixture
def run(tmp_path, mteb_data):
    """Call `evaluate` on the local data and return scores and predictions."""

    def call(encoder, *tasks, languages=("de", "fr"), out="scores", data=mteb_data, **options):
        scores = evaluate(encoder, tasks=tasks, languages=languages, out=tmp_path / out, mteb_data=data, **options)
        return scores, pl.read_parquet(tmp_path / out / "predictions.parquet")

    return call


@pytest.fixture(scope="session")
def noisy(make_encoder):
    """An encoder that mistakes something in every task."""
    return make_encoder("noisy", noise=0.3)


def embeddings(encoder, texts):
    from sentence_transformers import SentenceTransformer

    vectors = SentenceTransformer(str(encoder), device="cpu").encode(list(texts)).astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def sib(mteb_data, tag, splits=("train", "validation", "test")):
    return pl.concat(
        pl.read_parquet(mteb_data / "mteb" / "sib200" / CONFIGS[tag] / f"{split}.parquet") for split in splits
    )


def values(scores, metric):
    return dict(scores.filter(metric=metric).select("subset", "value").iter_rows())


def subsets(name, languages):
    return {subset: found.languages for subset, found in crosslingual_task(name, languages).subsets.items()}


def test_which_subsets_run():
    assert subsets("SIB200Bitext", ["de", "zh"]) == {
        "deu_Latn-eng_Latn": ["en", "de"],
        "zho_Hans-eng_Latn": ["en", "zh"],
        "deu_Latn-zho_Hans": ["de", "zh"],
    }
    assert subsets("SIB200Pool", ["de", "ar"]) == {"arb_Arab": ["ar"], "deu_Latn": ["de"]}
    assert subsets("SIB200Pool", ["de", "en"]) == {"deu_Latn": ["de"], "eng_Latn": ["en"]}
    assert subsets("SIB200ZeroShot", ["zh-Hant", "en"]) == {"eng_Latn-zho_Hant": ["en", "zh-Hant"]}
    pairs = ["en-de", "en-zh", "de-en", "de-zh", "zh-en", "zh-de"]
    assert list(subsets("STSBenchmarkCrosslingual", ["zh", "de"])) == pairs


def test_all_languages():
    """All pairs of 205 languages would be 20,910."""
    assert {name: len(subsets(name, ["all"])) for name in TASKS} == {
        "SIB200Bitext": 204,
        "SIB200Pool": 205,
        "SIB200ZeroShot": 204,
        "STSBenchmarkCrosslingual": 90,
    }


def test_splits_and_lacking_languages():
    assert [crosslingual_task(name, ["de"]).split for name in TASKS] == ["all", "all", "test", "test"]
    assert crosslingual_task("SIB200Bitext", ["de"], "test").task.eval_splits == ["test"]
    assert crosslingual_task("SIB200Pool", ["de", "haw"]).missing == ("haw",)
    with pytest.raises(UserError, match=r"'SIB200ZeroShot' has no split 'train'; allowed: test, validation"):
        crosslingual_task("SIB200ZeroShot", ["de"], "train")
    with pytest.raises(UserError, match=r"'SIB200Bitext' has none of the languages en, haw beside English; it has ace"):
        crosslingual_task("SIB200Bitext", ["en", "haw"])


def test_mistakes_are_named(run, noisy, mteb_data, write_dataset, tmp_path):
    with pytest.raises(UserError, match=r"unknown MTEB task 'SIB200Bitxt' \(did you mean 'SIB200Bitext'\?\).*; SIB200"):
        run(noisy, "SIB200Bitxt")
    with pytest.raises(UserError, match=r"the data of task 'SIB200Pool' is not in .*mteb/sib200; copy the Hub dataset"):
        run(noisy, "SIB200Pool", data=tmp_path)
    with pytest.raises(UserError, match=r"cannot load the data of task 'SIB200Bitext' .*nld_Latn.*; mend that folder"):
        run(noisy, "SIB200Bitext", languages=["de", "nl"])
    with pytest.raises(UserError, match=r"'STSBenchmarkCrosslingual' in .* lacks en-nl, de-nl, nl-en, nl-de of split"):
        run(noisy, "STSBenchmarkCrosslingual", languages=["de", "nl"])
    rows = pl.read_parquet(mteb_data / "mteb" / "stsb_multi_mt" / "test.parquet")
    raised = rows.with_columns(pl.col("similarity_score") + (pl.col("lang") == "de"))
    write_dataset(tmp_path, "mteb/stsb_multi_mt", {"default": {"test": raised}})
    with pytest.raises(UserError, match=r"has other scores in 'de' than in 'en', so its pairs are not the same"):
        run(noisy, "STSBenchmarkCrosslingual", languages=["de"], data=tmp_path)


def test_bitext_between_any_two_languages(run, noisy, mteb_data):
    scores, predictions = run(noisy, "SIB200Bitext")
    assert set(scores["family"]) == {"bitext"}
    assert set(scores["n"]) == {34}
    for subset, (first, second) in {"deu_Latn-eng_Latn": ("de", "en"), "deu_Latn-fra_Latn": ("de", "fr")}.items():
        one, other = (embeddings(noisy, sib(mteb_data, tag)["text"]) for tag in (first, second))
        cosines = one @ other.T
        right = np.arange(34)
        expected = {
            "accuracy": np.mean(cosines.argmax(1) == right),
            "accuracy_backward": np.mean(cosines.argmax(0) == right),
            "accuracy_csls": np.mean([csls(cosines).argmax(1) == right, csls(cosines).argmax(0) == right]),
            "alignment": np.mean(((one - other) ** 2).sum(1)),
            "uniformity": np.mean([uniformity(one), uniformity(other)]),
        }
        assert expected["accuracy"] not in (expected["accuracy_backward"], expected["accuracy_csls"], 1)
        for metric, value in expected.items():
            assert values(scores, metric)[subset] == pytest.approx(value, abs=1e-6), metric
    groups = predictions.partition_by("subset")
    assert [rows["group"].to_list() for rows in groups] == [[str(row) for row in range(34)]] * 3
    assert values(scores.filter("main"), "f1").keys() == {"deu_Latn-eng_Latn", "fra_Latn-eng_Latn", "deu_Latn-fra_Latn"}


def csls(cosines):
    """Equation 3 of Conneau et al. (2018)."""
    of_rows, of_columns = (np.sort(side, axis=1)[:, -10:].mean(1) for side in (cosines, cosines.T))
    return 2 * cosines - of_rows[:, None] - of_columns


def uniformity(vectors):
    distances = [((x - y) ** 2).sum() for i, x in enumerate(vectors) for y in vectors[:i]]
    return np.log(np.mean(np.exp(-2 * np.array(distances))))


def test_own_rows_have_the_further_metrics_too(make_encoder, tmp_path):
    """German vectors are the English ones, but for "mond", which is "sonne"."""
    rows = tmp_path / "rows.jsonl"
    pairs = [("sun", "sonne"), ("moon", "mond"), ("star", "stern"), ("rain", "regen")]
    rows.write_text("\n".join(json.dumps({"en": en, "de": de}) for en, de in pairs))
    scores = evaluate(
        make_encoder(swapped=["mond"]), tasks=[], languages=["de"], own_rows=rows, out=tmp_path / "scores"
    )
    found = {metric: value for metric, value in scores.select("metric", "value").iter_rows()}
    # "sonne" and "mond" find "sun", "sun" finds "sonne"; "moon" is at right angles to all.
    assert (found["accuracy"], found["accuracy_backward"]) == (0.75, 0.75)
    assert found["alignment"] == pytest.approx((0 + 2 + 0 + 0) / 4)
    # Squared distances of 2 in all 6 pairs of English; in German, 0 between "sonne" and "mond".
    assert found["uniformity"] == pytest.approx((-4 + np.log((5 * np.exp(-4) + 1) / 6)) / 2)


def test_similarity_of_sentences_in_two_languages(run, noisy, mteb_data):
    scores, predictions = run(noisy, "STSBenchmarkCrosslingual", languages=["de"])
    rows = pl.read_parquet(mteb_data / "mteb" / "stsb_multi_mt" / "test.parquet").partition_by("lang", as_dict=True)
    for first, second in [("en", "de"), ("de", "en")]:
        sides = embeddings(noisy, rows[first,]["sentence1"]), embeddings(noisy, rows[second,]["sentence2"])
        expected = spearmanr(rows["en",]["similarity_score"], (sides[0] * sides[1]).sum(1))[0]
        assert values(scores, "cosine_spearman")[f"{first}-{second}"] == pytest.approx(expected)
    assert len(set(values(scores, "cosine_spearman").values())) == 2
    assert predictions["group"].to_list() == [str(row) for row in range(8)] * 2
    assert set(scores["family"]) == {"sts"}


def test_zero_shot_is_the_official_protocol_trained_on_english(
    run, noisy, make_encoder, mteb_data, write_dataset, tmp_path
):
    configs = {}
    for code in ("eng_Latn", "deu_Latn"):  # "German" whose test data is the English one, and other training data
        tags = {"train": "en" if code == "eng_Latn" else "fr", "test": "en"}
        configs[code] = {split: sib(mteb_data, tag, [split]) for split, tag in tags.items()}
    write_dataset(tmp_path, "mteb/sib200", configs)
    official, kept = run(noisy, "SIB200Classification", languages=["en"], out="official", data=tmp_path)
    scores, predictions = run(noisy, "SIB200ZeroShot", languages=["de"], data=tmp_path)
    for metric in ("accuracy", "f1"):
        assert values(scores, metric) == {"eng_Latn-deu_Latn": values(official, metric)["eng_Latn"]}
    assert 0 < values(scores, "accuracy")["eng_Latn-deu_Latn"] < 1
    columns = ["group", "experiment", "gold", "predicted"]
    assert predictions.select(columns).equals(kept.select(columns))
    assert scores.filter("main")["languages"].to_list() == [["en", "de"]]

    scores, _ = run(make_encoder(), "SIB200ZeroShot", out="aligned")
    assert len(set(values(scores, "accuracy").values())) == 1  # the same vectors in every language


def test_the_pool_holds_all_languages_and_english(run, noisy, mteb_data):
    scores, predictions = run(noisy, "SIB200Pool")
    rows = {tag: sib(mteb_data, tag) for tag in ("de", "fr", "en")}
    vectors = embeddings(noisy, pl.concat(rows.values())["text"])
    places = [(row, tag) for tag, own in rows.items() for row in own["index_id"]]
    for tag in ("de", "fr"):
        nearest = {
            row: max((vectors[one] @ vectors[other], places[other]) for other in range(len(places)) if other != one)[1]
            for one, (row, own) in enumerate(places)
            if own == tag
        }
        kept = predictions.filter(subset=CONFIGS[tag])
        assert kept["predicted"].to_list() == [f"{row}@{CONFIGS[own]}" for row, own in nearest.values()]
        accuracy = np.mean([found == row for row, (found, _) in nearest.items()])
        at_home = np.mean([own == tag for _, own in nearest.values()])
        assert values(scores, "accuracy")[CONFIGS[tag]] == pytest.approx(accuracy)
        assert values(scores, "same_language")[CONFIGS[tag]] == pytest.approx(at_home)
        assert 0 < at_home < 1 - accuracy
    assert scores.filter("main").select("family", "metric").unique().rows() == [("retrieval", "accuracy")]
    assert scores.filter("main")["languages"].to_list() == [["de"], ["fr"]]
    assert predictions["group"].to_list() == [str(row) for row in range(34)] * 2
    assert predictions["similarity"].is_between(-1, 1 + 1e-6).all()


def test_examples_of_the_pool_are_what_its_predictions_say(run, noisy, mteb_data, tmp_path):
    _, predictions = run(noisy, "SIB200Pool")
    examples = pl.read_parquet(tmp_path / "scores" / "examples.parquet")
    assert examples["language"].to_list() == ["de"] * 3 + ["fr"] * 3
    text_of = {(str(row), tag): text for tag in CONFIGS for row, text in sib(mteb_data, tag)["index_id", "text"].rows()}
    order = [str(row) for row in sib(mteb_data, "de")["index_id"]]
    for one in examples.iter_rows(named=True):
        asked = predictions.filter(subset=CONFIGS[one["language"]])[order.index(one["row"])]
        row, found = asked["predicted"].item().split("@")
        assert CONFIGS[one["found_language"]] == found
        assert one["found_text"] == text_of[row, one["found_language"]]
        assert one["text"] == text_of[one["row"], one["language"]]
        assert one["hit"] == (row == one["row"])
        assert one["similarity"] == pytest.approx(asked["similarity"].item())
    assert 0 < examples["hit"].sum() < 6


def test_other_pools_are_other_gold(run, noisy):
    """So `compare` does not take accuracies among different pools for comparable ones."""
    gold = [
        run(noisy, "SIB200Pool", languages=languages, split="test", out="".join(languages))[1].filter(
            subset="deu_Latn"
        )["gold"]
        for languages in (["de", "fr"], ["de", "en", "fr"], ["de"])
    ]
    assert gold[0].equals(gold[1])
    assert (gold[0] != gold[2]).all()


def test_scores_follow_from_the_predictions_and_each_text_is_encoded_once(run, noisy, encoded):
    scores, predictions = run(noisy, *TASKS, languages=["de", "fr", "zh"])
    kept = predictions.partition_by("task", "subset", as_dict=True)
    for task, family, subset, value in scores.filter("main").select("task", "family", "subset", "value").iter_rows():
        assert prepare(family, kept[task, subset]).score() == pytest.approx(value, abs=1e-9)
    assert max(Counter(encoded).values()) == 1
