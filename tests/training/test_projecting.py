"""Linear maps at the end of an encoder that is not trained again."""

import numpy as np
import pytest
from sentence_transformers.sentence_transformer.modules import Dense

from polyalign.encoder import load_encoder, read_record
from polyalign.errors import UserError
from polyalign.training import ProjectionSettings, TrainingSettings, project, train

QUICK = {"steps": 3, "batch_rows": 8, "dev_rows": 12, "evaluations": 1}


@pytest.fixture(scope="module")
def trained(gappy_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "plain"
    return folder, train(gappy_file, folder, settings=TrainingSettings(**QUICK), objective="multi-way")


def test_a_trained_encoder_keeps_its_record(trained, gappy_file, tmp_path):
    folder, plain = trained
    after = project(folder, gappy_file, tmp_path / "out", ProjectionSettings(lsar=1, wccn=0.5))
    assert after == read_record(tmp_path / "out")
    assert after["arm"] == "multi-way+lsar+wccn"
    assert after["cost"] == plain["cost"]
    assert after["projected_from"] == plain["fingerprint"] != after["fingerprint"]
    assert (after["lsar"]["rank"], after["wccn"]["power"], after["wccn"]["rows"]) == (1, 0.5, 60)
    layers = [module for module in load_encoder(tmp_path / "out") if isinstance(module, Dense)]
    assert [layer.linear.weight.shape for layer in layers] == [(256, 256), (256, 256)]
    with pytest.raises(UserError, match="out ends in wccn already; give the encoder that it was made from"):
        project(tmp_path / "out", gappy_file, tmp_path / "again", ProjectionSettings(wccn=1))


def test_it_is_the_map_of_training(trained, gappy_file, tmp_path):
    """Without dev rows, training fits on the same rows."""
    settings = QUICK | {"dev_rows": 0}
    train(gappy_file, tmp_path / "plain", settings=TrainingSettings(**settings), objective="multi-way")
    train(gappy_file, tmp_path / "at-once", settings=TrainingSettings(**settings, wccn=0.5), objective="multi-way")
    project(tmp_path / "plain", gappy_file, tmp_path / "later", ProjectionSettings(wccn=0.5))
    texts = ["Das Brot.", "The cat sleeps.", "早上好。"]
    at_once, later = (load_encoder(tmp_path / name, device="cpu").encode(texts) for name in ("at-once", "later"))
    np.testing.assert_allclose(at_once, later, atol=1e-5)


def test_an_encoder_without_a_record(tiny_bert, gappy_file, tmp_path, caplog):
    caplog.set_level("INFO", "polyalign")
    texts = {"en": ["Bread.", "Snow falls."], "de": ["Brot.", "Es schneit."]}
    record = project(tiny_bert, texts, tmp_path / "out", ProjectionSettings(lsar=1))
    assert record == read_record(tmp_path / "out")
    assert record["languages"] == [], "language labels alone are no alignment"
    assert "| Languages seen in alignment | none |" in (tmp_path / "out" / "README.md").read_text()
    assert project(tiny_bert, texts, tmp_path / "out", ProjectionSettings(wccn=1)) == record
    assert "is complete and left alone" in caplog.text
    record = project(tiny_bert, gappy_file, tmp_path / "aligned", ProjectionSettings(wccn=1), arm="ours")
    assert (record["arm"], record["languages"]) == ("ours", ["de", "en", "ru", "zh"])


def test_mistakes_of_the_user(trained, tmp_path):
    with pytest.raises(UserError, match="neither lexical, lsar nor wccn is given; give at least one"):
        ProjectionSettings.checked({}, "project")
    with pytest.raises(UserError, match="wccn needs parallel rows, and got texts by language; give a corpus"):
        project(trained[0], {"en": ["Bread."]}, tmp_path / "out", ProjectionSettings(wccn=0.5))
    assert not list(tmp_path.iterdir())
