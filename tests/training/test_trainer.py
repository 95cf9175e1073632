"""Training end to end on tiny encoders: what is written, what it costs, what survives kill -9."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from sentence_transformers import SentenceTransformer

from polyalign.corpus import Corpus
from polyalign.encoder import load_encoder, read_record
from polyalign.errors import UserError
from polyalign.training import (
    MultiwayCollator,
    MultiwayLoss,
    Objective,
    StaticSettings,
    TrainingSettings,
    to_dataset,
    train,
)
from polyalign.training.callbacks import last_checkpoint
from polyalign.training.plan import make_plan, split_dev, usable_rows

QUICK = {"batch_rows": 8, "dev_rows": 12, "evaluations": 2}


@pytest.fixture(scope="module")
def sample_file(sample_rows, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "rows.parquet"
    sample_rows.head(120).write_parquet(path)
    return path


@pytest.fixture(scope="module")
def static(sample_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("static") / "encoder"
    settings = TrainingSettings(epochs=8, batch_rows=32, dev_rows=30)
    return out, train(sample_file, out, settings=settings, seed=1, objective="multi-way")


def test_the_record_says_what_was_done(static, sample_file):
    out, record = static
    assert read_record(out) == json.loads(json.dumps(record))
    assert record["arm"] == record["objective_name"] == "multi-way"
    assert record["languages"] == sorted(["en", "de", "es", "fr", "ru", "zh", "hi"])
    assert record["corpus"]["rows"] == 90
    assert record["corpus"]["dev_rows"] == 30
    assert record["corpus"]["fingerprint"] == Corpus.open(sample_file).fingerprint
    assert record["cost"]["texts_encoded"] == 8 * 90 * 7
    assert record["cost"]["pairs"] == 8 * 90 * 7 * 6
    assert record["cost"]["steps"] == 8 * 3
    dev = [point["dev_accuracy"] for point in record["history"] if "dev_accuracy" in point]
    assert record["history"][0]["step"] == 0
    assert record["best"]["dev_accuracy"] == pytest.approx(max(dev[1:]), abs=1e-5)
    assert record["best"]["dev_accuracy"] > dev[0] + 0.1, "it learns"
    assert not list(out.parent.glob(".*")), "nothing is left beside the encoder"
    card = (out / "README.md").read_text()
    assert "- uk" not in card
    assert "| Seed | 1 |" in card
    assert "5,040 encoded texts" in card


def test_plain_sentence_transformers_loads_it_with_nothing_of_ours(static):
    """In a process that cannot import polyalign."""
    out, _ = static
    script = (
        "import sys; sys.modules['polyalign'] = None\n"
        "from sentence_transformers import SentenceTransformer\n"
        f"print(SentenceTransformer({str(out)!r}, device='cpu').encode(['Guten Morgen.', '早上好。']).tolist())"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    theirs = np.array(json.loads(printed.splitlines()[-1]))
    ours = load_encoder(out, device="cpu").encode(["Guten Morgen.", "早上好。"])
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_a_complete_encoder_is_left_alone(static, sample_file, caplog):
    caplog.set_level("INFO", "polyalign")
    out, record = static
    before = (out / "model.safetensors").stat().st_mtime_ns if (out / "model.safetensors").exists() else None
    assert train(sample_file, out, objective="en-x")["fingerprint"] == record["fingerprint"]
    assert "is complete and left alone" in caplog.text
    assert before == ((out / "model.safetensors").stat().st_mtime_ns if before else None)


@pytest.mark.parametrize("objective", ["multi-way", "english-anchor", "en-x", "paper"])
@pytest.mark.parametrize("base", ["tiny_xlmr", "tiny_bert"])
def test_every_objective_trains_a_bare_encoder_on_rows_with_gaps(base, objective, gappy_file, tmp_path, request):
    folder = request.getfixturevalue(base)
    settings = TrainingSettings(steps=3, **QUICK)
    record = train(gappy_file, tmp_path / "out", base=folder, objective=objective, settings=settings)
    assert record["cost"]["steps"] == 3
    before, after = load_encoder(folder, device="cpu"), load_encoder(tmp_path / "out", device="cpu")
    assert np.abs(before.encode(["Das Brot."]) - after.encode(["Das Brot."])).max() > 1e-4
    assert [type(module).__name__ for module in after] == ["Transformer", "Pooling"]


def test_cls_pooling_and_bf16(tiny_bert, gappy_file, tmp_path):
    settings = TrainingSettings(steps=2, bf16=True, pooling="cls", **QUICK)
    train(gappy_file, tmp_path / "out", base=tiny_bert, settings=settings, objective="multi-way")
    model = load_encoder(tmp_path / "out", device="cpu")
    assert model[1].pooling_mode == "cls"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_e5_gets_its_prefix_in_the_saved_encoder(tiny_xlmr, gappy_file, tmp_path):
    folder = tmp_path / "multilingual-e5-base"
    folder.symlink_to(tiny_xlmr)
    train(
        gappy_file,
        tmp_path / "out",
        base=str(folder),
        settings=TrainingSettings(steps=1, **QUICK),
        objective="multi-way",
    )
    plain = load_encoder(tmp_path / "out", device="cpu")
    np.testing.assert_allclose(plain.encode(["Brot"]), plain.encode(["query: Brot"], prompt=""), atol=1e-6)


KILLED = """
import os, sys
from polyalign.training import Objective, TrainingSettings, callbacks, train
saves = 0
plain = callbacks.Checkpoints.on_save
def on_save(self, *args, **kwargs):
    global saves
    saves += 1
    {death}
    plain(self, *args, **kwargs)
    {late_death}
callbacks.Checkpoints.on_save = on_save
settings = TrainingSettings({settings})
objective = Objective.named("en-x", learn_temperature=True)
train({corpus!r}, {out!r}, base={base!r}, objective=objective, settings=settings)
"""
NOW = "if saves == 3: os.kill(os.getpid(), 9)"
PLAIN = {"steps": 12, "batch_rows": 8, "dev_rows": 12, "evaluations": 4}
AVERAGED = PLAIN | {"embedding_learning_rate": 1e-3, "base_share": 0.5}


@pytest.mark.parametrize(
    ("death", "late_death", "values"), [(NOW, "pass", PLAIN), ("pass", NOW, PLAIN), (NOW, "pass", AVERAGED)]
)
def test_kill_9_then_again_ends_in_the_same_weights(
    death, late_death, values, tiny_xlmr, gappy_file, tmp_path, monkeypatch
):
    """Killed before and after a checkpoint is complete, with dropout, sampled languages and a learnt temperature."""
    call = {"corpus": str(gappy_file), "base": tiny_xlmr, "settings": f"**{values}"}
    script = KILLED.format(out=str(tmp_path / "killed"), death=death, late_death=late_death, **call)
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == -signal.SIGKILL
    assert not (tmp_path / "killed").exists()
    settings = TrainingSettings(**values)
    with pytest.raises(
        UserError, match=r"an interrupted training of .*killed used another objective and seed; repeat it"
    ):
        train(gappy_file, tmp_path / "killed", base=tiny_xlmr, objective="multi-way", settings=settings, seed=7)

    objective = Objective.named("en-x", learn_temperature=True)
    with monkeypatch.context() as changed:
        changed.setattr("polyalign.training.trainer.world_size", lambda: 2)
        with pytest.raises(UserError, match="used another processes; repeat it"):
            train(gappy_file, tmp_path / "killed", base=tiny_xlmr, objective=objective, settings=settings)
    resumed = train(gappy_file, tmp_path / "killed", base=tiny_xlmr, objective=objective, settings=settings)
    undisturbed = train(gappy_file, tmp_path / "whole", base=tiny_xlmr, objective=objective, settings=settings)
    assert resumed["temperature"] == undisturbed["temperature"] != 0.05
    assert resumed["cost"]["tokens"] == undisturbed["cost"]["tokens"]
    assert resumed["fingerprint"] == undisturbed["fingerprint"]
    assert resumed["history"] == undisturbed["history"]
    assert resumed["best"] == undisturbed["best"]


def test_early_stopping_records_what_was_done_not_what_was_planned(sample_file, tmp_path):
    budget = {"epochs": 30, "batch_rows": 40, "dev_rows": 40, "evaluations": 60}
    settings = TrainingSettings(**budget, learning_rate=1e-9, early_stopping=2)
    cost = train(sample_file, tmp_path / "out", settings=settings, objective="multi-way")["cost"]
    assert (cost["steps"], cost["rows_seen"], cost["texts_encoded"], cost["pairs"]) == (3, 120, 120 * 7, 120 * 42)


def test_interrupted_checkpoints_do_not_count(tmp_path):
    for step, files in ((5, ["complete.json"]), (10, ["complete.json"]), (15, ["model.safetensors"])):
        (tmp_path / f"checkpoint-{step}").mkdir()
        for file in files:
            (tmp_path / f"checkpoint-{step}" / file).write_text("{}")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert not (tmp_path / "checkpoint-15").exists()


def test_the_plan_by_hand():
    """Five rows of 2, 3, 3, 2 and 2 texts, two a step; the last step of an epoch has one."""
    rows = pl.DataFrame(
        {"row_id": list("abcde"), "en": ["1"] * 5, "de": ["2", "2", "2", "2", None], "fr": [None, "3", "3", None, "3"]}
    )
    corpus = Corpus(rows=rows, languages=("en", "de", "fr"), report={})
    plan = make_plan(corpus, Objective(), 2, seed=0, epochs=2)
    assert plan.steps == 6
    assert (plan.rows.sum(), plan.texts.sum(), plan.pairs.sum()) == (10, 2 * 12, 2 * (2 + 6 + 6 + 2 + 2))
    assert make_plan(corpus, Objective.named("en-x"), 2, seed=0, epochs=1).texts.sum() == 10
    assert make_plan(corpus, Objective.named("english-anchor"), 2, seed=0, epochs=1).pairs.sum() == 1 + 2 + 2 + 1 + 1
    assert make_plan(corpus, Objective(), 2, seed=0, steps=4).steps == 4
    assert make_plan(corpus, Objective(), 2, seed=0, rows=7).rows.sum() == 7
    texts = make_plan(corpus, Objective(), 2, seed=0, texts=12)
    assert texts.texts[:-1].sum() < 12 <= texts.texts.sum()


def test_rows_without_english_are_left_out_where_it_is_about_english(gappy_file, caplog):
    corpus = Corpus.open(gappy_file)
    holed = corpus.rows.with_columns(
        en=pl.when(pl.col("row_id").is_in(corpus.rows.drop_nulls()["row_id"].head(10).to_list()))
        .then(None)
        .otherwise("en")
    )
    corpus = Corpus(rows=holed, languages=corpus.languages, report={})
    assert len(usable_rows(corpus, Objective())) == 60
    assert len(usable_rows(corpus, Objective.named("en-x"))) == 50
    assert "10 of 60 rows have no English" in caplog.text


def test_the_dev_rows_are_the_same_for_every_arm_and_not_trained_on(gappy_file):
    corpus = Corpus.open(gappy_file)
    training, dev = split_dev(corpus, TrainingSettings(dev_rows=20))
    assert len(training) == 40
    assert not set(training.rows["row_id"]) & set(dev.rows["row_id"])
    assert split_dev(corpus, TrainingSettings(dev_rows=0)) == (corpus, None)


def test_fewer_rows_are_a_part_of_more_beside_the_same_dev_rows(gappy_file):
    corpus = Corpus.open(gappy_file)
    parts = [split_dev(corpus, TrainingSettings(dev_rows=20, rows=rows)) for rows in (10, 25, 40)]
    assert [len(training) for training, _ in parts] == [10, 25, 40]
    few, more, every = (set(training.rows["row_id"]) for training, _ in parts)
    assert few < more < every
    whole = split_dev(corpus, TrainingSettings(dev_rows=20))[1]
    assert all(dev.rows.equals(whole.rows) for _, dev in parts)
    assert len(split_dev(corpus, TrainingSettings(dev_rows=0, rows=7))[0]) == 7
    with pytest.raises(UserError, match="rows is 41, and 40 of 60 rows are there to train on"):
        split_dev(corpus, TrainingSettings(dev_rows=20, rows=41))


def test_the_plain_trainer_of_the_readme(sample_file, tmp_path, tiny_xlmr, monkeypatch):
    """The README's code as it stands, on a tiny base, our rows and three steps."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "MultiwayCollator" in block]
    assert len(code.strip().splitlines()) <= 13
    for readers, tests in (
        ("sentence-transformers/all-MiniLM-L6-v2", tiny_xlmr),
        ("rows.csv", str(sample_file)),
        ("max_steps=300", 'max_steps=3, report_to="none", save_strategy="no", use_cpu=True'),
    ):
        assert readers in code
        code = code.replace(readers, tests)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    before = load_encoder(tiny_xlmr, device="cpu").encode(["Guten Morgen."])
    assert np.abs(names["model"].encode(["Guten Morgen."]) - before).max() > 1e-5


def test_a_peft_adapter_trains_through_the_plain_trainer(sample_file, tmp_path, tiny_xlmr):
    from peft import LoraConfig, TaskType
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

    model = load_encoder(tiny_xlmr, device="cpu")
    model.add_adapter(LoraConfig(task_type=TaskType.FEATURE_EXTRACTION, r=4, target_modules=["query", "value"]))
    frozen = {name: value.clone() for name, value in model.state_dict().items() if "lora" not in name}
    corpus = Corpus.open(sample_file)
    SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=8, max_steps=2, report_to="none", save_strategy="no"
        ),
        train_dataset=to_dataset(corpus),
        loss=MultiwayLoss(model),
        data_collator=MultiwayCollator(model, corpus.languages),
    ).train()
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in frozen.items())
    assert any(value.abs().sum() > 0 for name, value in state.items() if "lora_B" in name)


def test_without_a_budget_a_static_base_makes_five_passes_and_another_one(gappy_file, tiny_bert, tmp_path):
    """60 rows are 2 steps a pass."""
    for base, epochs in (("static", 5), (tiny_bert, 1)):
        record = train(
            gappy_file, tmp_path / str(epochs), base=base, settings=TrainingSettings(dev_rows=0), objective="multi-way"
        )
        assert (record["budget"], record["cost"]["steps"]) == ({"epochs": epochs}, 2 * epochs)
    assert TrainingSettings(texts=7).budget(static=True) == {"texts": 7}


def test_mistakes_of_the_user(sample_file, tmp_path, tiny_xlmr):
    with pytest.raises(
        UserError, match=r"cannot load the model 'no/such-model': no such folder.*hf download no/such-model"
    ):
        train(sample_file, tmp_path / "x", base="no/such-model", objective="multi-way")
    with pytest.raises(UserError, match="a static base has nothing to keep; give --teacher"):
        train(sample_file, tmp_path / "x", objective="paper")
    with pytest.raises(UserError, match="dev_rows is 100 of 120 rows; at most half can be held out"):
        train(sample_file, tmp_path / "x", settings=TrainingSettings(dev_rows=100), objective="multi-way")
    with pytest.raises(UserError, match=r"of 5 dev rows no two languages share 10; raise dev_rows, or set it to 0"):
        train(sample_file, tmp_path / "x", settings=TrainingSettings(dev_rows=5), objective="multi-way")
    with pytest.raises(UserError, match="108 training rows are fewer than a batch of 500; lower batch_rows"):
        train(sample_file, tmp_path / "x", settings=TrainingSettings(batch_rows=500), objective="multi-way")
    with pytest.raises(UserError, match="epochs and texts are given; a budget is one of epochs, steps and texts"):
        TrainingSettings.checked({"epochs": 1, "texts": 5}, "train")
    settings = TrainingSettings(steps=30, learning_rate=1e30, max_grad_norm=1e30, **QUICK)
    told = r"the (loss|norm of the gradient) is (nan|inf) at step \d+, rows \w{32}, .* and 3 more; last good "
    with pytest.raises(UserError, match=told + "checkpoint: none; lower the learning rate or raise the temperature"):
        train(sample_file, tmp_path / "x", base=tiny_xlmr, settings=settings, objective="multi-way")


def test_a_static_student_has_its_teacher_s_dimensions(sample_file, tiny_bert, tmp_path):
    """32, and comes nearer to the teacher's English; soft labels compare no embeddings, and it keeps its own size."""
    settings = TrainingSettings(epochs=20, batch_rows=16, dev_rows=0, evaluations=1)
    train(sample_file, tmp_path / "taught", objective="multi-way-distill", teacher=tiny_bert, settings=settings)
    taught, teacher = SentenceTransformer(str(tmp_path / "taught"), device="cpu"), load_encoder(tiny_bert)
    assert taught.get_embedding_dimension() == teacher.get_embedding_dimension() == 32
    english = pl.read_parquet(sample_file)["en"].to_list()
    distance = np.square(taught.encode(english) - teacher.encode(english)).sum(1).mean()
    assert distance < 0.8 * np.square(teacher.encode(english)).sum(1).mean(), "an untrained one is at 1"
    softly = Objective(keep="soft-labels", keep_weight=1.0)
    train(sample_file, tmp_path / "soft", objective=softly, teacher=tiny_bert, settings=settings)
    assert SentenceTransformer(str(tmp_path / "soft"), device="cpu").get_embedding_dimension() == 256
    for dimensions in (16, 64):  # the teacher is projected, or padded
        fixed = settings.model_copy(update={"static": StaticSettings(dimensions=dimensions)})
        train(sample_file, tmp_path / f"{dimensions}", objective="distill", teacher=tiny_bert, settings=fixed)
        own, wanted = (
            model.encode(english) for model in (SentenceTransformer(str(tmp_path / f"{dimensions}")), teacher)
        )
        off = np.abs(own @ own.T - wanted @ wanted.T).mean()
        assert off < 0.9 * np.abs(wanted @ wanted.T).mean(), "zeros are at 1"
