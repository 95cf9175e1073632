"""What is trained when nothing is asked for, by the kind of base, and that it can be trained."""

import logging
import math

import polars as pl
import pytest
from sentence_transformers.sentence_transformer.modules import Normalize
from tokenizers import Tokenizer, models, pre_tokenizers

from polyalign.corpus import Corpus
from polyalign.encoder import load_encoder
from polyalign.training import Objective, ProjectionSettings, TrainingSettings, project, recommended, train
from polyalign.training.recommending import tokens_per_english
from polyalign.training.settings import ExtensionSettings, LexicalSettings

WORDS = Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))
WORDS.pre_tokenizer = pre_tokenizers.Whitespace()

READS = {"base_share": 0.5, "bf16": "auto", "wccn": 0.5}
CRUMBS = READS | {
    "batch_rows": 16,
    "epochs": 4,
    "extension": ExtensionSettings(),
    "learning_rate": 2e-4,
    "lexical": LexicalSettings(),
}


@pytest.fixture(scope="module")
def corpus(sample_rows):
    """200 rows: in an epoch of at least 8 steps a batch has up to 25, and as a power of two 16."""
    return Corpus.from_texts(sample_rows.head(200).select("en", "de", "ru"), "sample")


@pytest.fixture(scope="module")
def bases(make_bert, sample_rows, tiny_xlmr, corpus, tmp_path_factory):
    """Folders: an English sentence encoder that spells other languages, one that reads them, a bare one, a bag."""
    folder = tmp_path_factory.mktemp("bases")
    letters = {letter for column in ("de", "ru") for text in sample_rows[column] for letter in text.lower()}
    alphabet = sorted(letters | {f"##{letter}" for letter in letters})
    bert = make_bert(sample_rows["en"].to_list(), subwords=900, lowercase=True, alphabet=alphabet)
    for name, bare in (("english", bert), ("reads", tiny_xlmr)):
        model = load_encoder(bare, device="cpu")
        model.append(Normalize())
        model.save(str(folder / name))
    train(corpus, folder / "bag", settings=TrainingSettings(steps=1, dev_rows=0))
    return {"static": "static", "bare": tiny_xlmr} | {n: str(folder / n) for n in ("english", "reads", "bag")}


def settings_of(chosen):
    return {name: getattr(chosen, name) for name in chosen.model_dump(exclude_defaults=True)}


@pytest.mark.parametrize(
    ("base", "teacher", "preset", "temperature", "settings"),
    [
        ("static", None, "multi-way", 0.1, {"batch_rows": 16, "learning_rate": 0.05, "wccn": 0.5}),
        ("static", "org/model", "multi-way-distill", 0.2, {"batch_rows": 16, "wccn": 0.5}),
        ("bag", None, "multi-way", 0.1, {"batch_rows": 16, "learning_rate": 0.05}),
        ("bare", None, "multi-way", 0.05, {"bf16": "auto", "wccn": 0.5}),
        ("bare", "org/model", "multi-way-distill", 0.2, {"bf16": "auto", "wccn": 0.5}),
        ("reads", None, "x-y-distill", 0.05, READS),
        ("english", None, "x-y-distill", 0.05, CRUMBS),
        ("english", "org/model", "x-y-distill", 0.05, CRUMBS),
    ],
)
def test_what_suits_a_base(base, teacher, preset, temperature, settings, bases, corpus):
    objective, chosen = recommended(corpus, bases[base], TrainingSettings(), teacher=teacher)
    assert objective == Objective.named(preset, temperature=temperature)
    assert settings_of(chosen) == settings


def test_what_is_set_stays(bases, corpus, caplog):
    caplog.set_level(logging.INFO)
    given = TrainingSettings(texts=900, wccn=None, batch_rows=8, extension={"epochs": 2})
    _, chosen = recommended(corpus, bases["english"], given)
    kept = {"texts": 900, "batch_rows": 8, "extension": ExtensionSettings(epochs=2)}
    assert settings_of(chosen) == {k: v for k, v in CRUMBS.items() if k not in ("epochs", "wccn")} | kept
    assert (
        "cuts these languages into crumbs: x-y-distill at temperature 0.05, base_share 0.5, batch_rows 8" in caplog.text
    )


def test_without_english_nothing_is_borrowed_from_it(bases, corpus):
    objective, chosen = recommended(corpus.select(["de", "ru"]), bases["english"], TrainingSettings())
    assert (objective.preset, settings_of(chosen)) == ("x-y-distill", READS)


def test_crumbs_that_stay_have_no_lexical_half(bases, corpus, monkeypatch):
    monkeypatch.setattr("polyalign.training.recommending.is_extensible", lambda model: False)
    _, chosen = recommended(corpus, bases["english"], TrainingSettings())
    assert settings_of(chosen) == {k: v for k, v in CRUMBS.items() if k not in ("extension", "lexical")}


def test_several_processes_leave_the_end_to_project(bases, corpus, monkeypatch):
    monkeypatch.setattr("polyalign.training.recommending.world_size", lambda: 2)
    _, chosen = recommended(corpus, bases["english"], TrainingSettings())
    assert settings_of(chosen) == {name: value for name, value in CRUMBS.items() if name not in ("lexical", "wccn")}


def test_an_encoder_does_not_end_twice_in_the_same(bases, corpus, tmp_path):
    parts = ProjectionSettings(lexical=LexicalSettings(epochs=1), wccn=0.5)
    project(bases["english"], corpus, tmp_path / "projected", parts)
    _, chosen = recommended(corpus, str(tmp_path / "projected"), TrainingSettings())
    assert settings_of(chosen) == {name: value for name, value in CRUMBS.items() if name not in ("lexical", "wccn")}


@pytest.mark.parametrize("rows", [4, 40, 500, 5000, 100_000])
def test_batches_leave_eight_steps_an_epoch(rows):
    texts = pl.DataFrame({"en": [f"one {number}" for number in range(rows)], "de": [str(n) for n in range(rows)]})
    _, chosen = recommended(Corpus.from_texts(texts, "numbers"), "static", TrainingSettings())
    assert chosen.batch_rows == {4: 2, 40: 4, 500: 32, 5000: 256, 100_000: 256}[rows]


def test_tokens_of_a_translation_for_each_of_its_english():
    frame = pl.DataFrame(
        {"en": ["a b", "a b c d", None], "de": ["c d e", "c d e f g h", "c"], "fr": [None, "g", "h i"]}
    )
    assert tokens_per_english(WORDS, Corpus.from_texts(frame, "x")) == (9 / 6 + 1 / 4) / 2
    assert math.isnan(tokens_per_english(WORDS, Corpus.from_texts(frame.drop("en"), "x")))


@pytest.mark.parametrize(
    ("base", "more"),
    [
        ("static", {}),
        ("english", {}),
        ("reads", {}),
        ("bare", {}),
        ("english", {"lora": {"rank": 2}}),
        ("reads", {"rows": 50}),
    ],
)
def test_it_can_be_trained(base, more, bases, corpus, tmp_path):
    record = train(corpus, tmp_path / "out", base=bases[base], settings=TrainingSettings(steps=2, dev_rows=20, **more))
    again = train(
        corpus,
        tmp_path / "again",
        base=bases[base],
        objective=Objective(**record["objective"]),
        settings=TrainingSettings(**record["training"]),
    )
    assert record["fingerprint"] == again["fingerprint"]
    assert record["objective_name"] == record["arm"] == again["objective_name"] != "custom"
    assert record["wccn"]["power"] == 0.5
    assert bool(record["lexical"]) == bool(record["extension"]) == (base == "english")
