"""Which subsets of official tasks run for which languages, and where their data comes from."""

from pathlib import Path

import polars as pl
import pytest

from polyalign.errors import UserError
from polyalign.tasks import Subset, load_evaluation_task, load_tasks


def only(name, languages, **kwargs):
    (selected,) = load_tasks([name], languages, **kwargs)
    return selected


def test_english_joins_bitext_as_the_pivot():
    selected = only("Tatoeba", ["de", "fr"])
    assert set(selected.subsets) == {"deu-eng", "fra-eng"} == set(selected.task.hf_subsets)
    assert selected.subsets["deu-eng"].languages == ["en", "de"]
    assert (selected.family, selected.split, selected.missing) == ("bitext", "test", ())


def test_bitext_pairs_two_of_the_languages():
    assert set(only("NTREXBitextMining", ["de", "nl"]).subsets) == {
        f"{a}_Latn-{b}_Latn" for a in ("deu", "eng", "nld") for b in ("deu", "eng", "nld") if a != b
    }


def test_other_families_take_english_only_when_asked():
    assert set(only("STSBenchmarkMultilingualSTS", ["de"]).subsets) == {"de"}
    assert set(only("STS17", ["en", "de"]).subsets) == {"en-en", "en-de"}
    assert set(only("SIB200Classification", ["en", "de"]).subsets) == {"eng_Latn", "deu_Latn"}


def test_all_takes_every_subset():
    assert len(only("Tatoeba", ["all"]).subsets) == 112
    bible = only("BibleNLPBitextMining", ["all"]).subsets  # many of its languages are in no table
    assert len(bible) == 1656
    assert bible["eng_Latn-aai_Latn"].languages == ["en", "aai"]


def test_chinese_has_another_code_in_every_task():
    assert set(only("Tatoeba", ["zh"]).subsets) == {"cmn-eng"}
    assert set(only("STSBenchmarkMultilingualSTS", ["zh"]).subsets) == {"zh"}
    sib = only("SIB200Classification", ["zh"])
    assert sib.subsets["zho_Hant"].languages == ["zh"]
    assert sib.subsets["zho_Hant"].script == "Hant"


def test_lacking_languages_are_named():
    assert only("STSBenchmarkMultilingualSTS", ["de", "cs", "sv"]).missing == ("cs", "sv")
    with pytest.raises(
        UserError, match=r"none of the languages cs, sv .* it has de, en, es, fr, it, nl, pl, pt, ru, zh"
    ):
        only("STSBenchmarkMultilingualSTS", ["cs", "sv"])


def test_a_split_is_the_tasks_own():
    assert only("STSBenchmarkMultilingualSTS", ["de"], split="dev").task.eval_splits == ["dev"]
    assert only("FloresBitextMining", ["de"]).split == "devtest"
    with pytest.raises(UserError, match=r"'STSBenchmarkMultilingualSTS' has no split 'train'; allowed: dev, test"):
        only("STSBenchmarkMultilingualSTS", ["de"], split="train")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Tatoebo", r"unknown MTEB task 'Tatoebo' \(did you mean 'Tatoeba'\?\); allowed: .* BitextMining \(bitext\)"),
        ("SciFact", r"'SciFact' is of MTEB's type Retrieval; allowed: single tasks of type BitextMining"),
        ("NusaParagraphTopicClassification", r"is scored by 'f1'; allowed: Classification tasks scored by 'accuracy'"),
    ],
)
def test_unsupported_tasks_are_refused(name, message):
    with pytest.raises(UserError, match=message):
        load_tasks([name], ["en"])


@pytest.fixture
def _datasets_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.usefixtures("_datasets_cache")
def test_local_data_is_set_on_the_instance_alone(tmp_path):
    with pytest.raises(UserError, match=r"not in .*mteb/tatoeba-bitext-mining; copy the Hub dataset"):
        load_tasks(["Tatoeba"], ["de"], mteb_data=tmp_path)
    (tmp_path / "mteb" / "tatoeba-bitext-mining").mkdir(parents=True)
    local = only("Tatoeba", ["de"], mteb_data=tmp_path)
    assert Path(local.task.metadata.dataset["path"]).resolve() == tmp_path / "mteb" / "tatoeba-bitext-mining"
    assert local.task.metadata.dataset["revision"]
    assert only("Tatoeba", ["de"]).task.metadata.dataset["path"] == "mteb/tatoeba-bitext-mining"


@pytest.mark.usefixtures("_datasets_cache")
def test_local_data_is_never_that_of_another_folder_or_time(tmp_path):
    def loaded(root, text):
        folder = root / "mteb" / "banking77"
        folder.mkdir(parents=True, exist_ok=True)
        pl.DataFrame({"text": [text], "label": [0]}).write_parquet(folder / "test.parquet")
        splits = "[{split: train, path: test.parquet}, {split: test, path: test.parquet}]"
        (folder / "README.md").write_text(f"---\nconfigs:\n- {{config_name: default, data_files: {splits}}}\n---\n")
        return load_evaluation_task("Banking77Classification", root).dataset["test"]["text"][0]

    assert [loaded(tmp_path / root, text) for root, text in ("a1", "b2", "a3")] == ["1", "2", "3"]


@pytest.mark.usefixtures("_datasets_cache")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "Scifact",
            r"^unknown MTEB task 'Scifact' \(did you mean 'SciFact'\?\); allowed: MTEB tasks with text; SIB200Bitext, ",
        ),
        ("CQADupstackRetrieval", r"is an aggregate; name its parts instead: CQADupstackAndroidRetrieval, "),
        (
            "CIFAR10",
            r"^task 'CIFAR10' is of image; allowed: MTEB tasks with text; SIB200Bitext, SIB200Pool, .*$",
        ),
        ("SciFact", r"^the data of task 'SciFact' is not in .*mteb/scifact; copy the Hub dataset 'mteb/scifact' there"),
        (
            "NTREXBitextMining",
            r"^cannot load the data of task 'NTREXBitextMining' \(\w+: .*; give --mteb-data FOLDER with",
        ),
    ],
)
def test_evaluation_data_that_cannot_be_had_is_refused(tmp_path, name, message):
    (tmp_path / "mteb" / "NTREXBitextMining").mkdir(parents=True)
    with pytest.raises(UserError, match=message) as caught:
        load_evaluation_task(name, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("codes", "tags", "exposure", "script"),
    [
        (("deu-Latn", "eng-Latn"), ("de", "en"), "seen", "Latn"),
        (("rus-Cyrl", "eng-Latn"), ("ru", "en"), "unseen", "Cyrl"),
        (("deu-Latn", "rus-Cyrl"), ("de", "ru"), "unseen", "Latn+Cyrl"),
        (("deu-Latn", "zho-Hant"), ("de", "zh-Hant"), "seen", "Latn+Hant"),
        (("eng-Latn",), ("en",), "english", "Latn"),
    ],
)
def test_exposure_and_script_are_of_the_languages_other_than_english(codes, tags, exposure, script):
    subset = Subset(codes, tags)
    assert (subset.exposure({"de", "zh"}), subset.script) == (exposure, script)
