"""Low-rank adapters: the base's own weights stay, and what is saved is a plain encoder."""

import numpy as np
import pytest
import torch

from polyalign.encoder import encoder_fingerprint, load_encoder
from polyalign.errors import UserError
from polyalign.training import TrainingSettings, train
from polyalign.training.adapting import adapt, restore

QUICK = {"steps": 4, "batch_rows": 8, "dev_rows": 12, "evaluations": 2}


def test_adapters_are_merged_into_the_saved_encoder(tiny_xlmr, gappy_file, tmp_path, caplog):
    caplog.set_level("INFO", "polyalign")
    settings = TrainingSettings(**QUICK, lora={"rank": 4, "targets": ["query", "value"]}, learning_rate=0.01)
    record = train(gappy_file, tmp_path / "out", base=tiny_xlmr, settings=settings, objective="multi-way")
    assert "training 1,024 adapter weights of rank 4" in caplog.text  # 2 layers x 2 targets x 2 matrices of 32 x 4
    before, after = (load_encoder(path, device="cpu").state_dict() for path in (tiny_xlmr, tmp_path / "out"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith(("query.weight", "value.weight"))}
    difference = after[min(changed)] - before[min(changed)]
    assert np.linalg.matrix_rank(difference.numpy(), tol=1e-5) == 4

    again = train(gappy_file, tmp_path / "again", base=tiny_xlmr, settings=settings, objective="multi-way")
    assert again["fingerprint"] == record["fingerprint"], "the seed decides the adapters' first weights"


def test_merging_keeps_the_embeddings(tiny_bert):
    model = load_encoder(tiny_bert, device="cpu")
    adapt(model, None, TrainingSettings(lora={"rank": 2}), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    adapted = model.encode(["Guten Morgen."])
    restore(model)
    np.testing.assert_allclose(model.encode(["Guten Morgen."]), adapted, atol=1e-5)
    assert not any("lora" in name for name in model.state_dict())


@pytest.mark.parametrize(("bf16", "attention"), [(False, "sdpa"), (True, "eager")])
def test_attention_in_training_is_the_same_and_not_saved(tiny_xlmr, tmp_path, bf16, attention):
    model = load_encoder(tiny_xlmr, device="cpu")
    texts = ["Guten Morgen.", "a much longer text than the other"]
    before, name = model.encode(texts), encoder_fingerprint(model)
    adapt(model, None, TrainingSettings(bf16=bf16, weight_decay=0.1), seed=0)
    assert model[0].model.config._attn_implementation == attention
    np.testing.assert_allclose(model.encode(texts), before, atol=1e-6)
    restore(model)
    assert encoder_fingerprint(model) == name
    model.save(str(tmp_path))
    assert load_encoder(tmp_path, device="cpu")[0].model.config._attn_implementation == "sdpa"


def test_mistakes_of_the_user(gappy_file, tiny_bert, tmp_path):
    settings = TrainingSettings(**QUICK, lora={"targets": ["no_such_layer"]})
    with pytest.raises(UserError, match=r"lora: Target modules .*no_such_layer.* not found"):
        train(gappy_file, tmp_path / "out", base=tiny_bert, settings=settings, objective="multi-way")
    with pytest.raises(UserError, match="a static encoder has no linear layers for adapters; leave lora out"):
        train(gappy_file, tmp_path / "out", settings=TrainingSettings(**QUICK, lora={}), objective="multi-way")
    with pytest.raises(UserError, match=r"lora\.rank is 0, must be greater than or equal to 1"):
        TrainingSettings.checked({"lora": {"rank": 0}}, "train")
