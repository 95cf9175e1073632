"""Loading encoders of every kind, and encoding each distinct text once."""

import numpy as np
import pytest

from polyalign.encoder import CachedEncoder, encoder_fingerprint, load_encoder, read_record
from polyalign.errors import UserError


@pytest.mark.parametrize("fixture", ["tiny_xlmr", "tiny_bert"])
def test_a_bare_encoder_gets_pooling_and_survives_saving(fixture, request, tmp_path):
    model = load_encoder(request.getfixturevalue(fixture), device="cpu")
    assert [type(module).__name__ for module in model] == ["Transformer", "Pooling"]
    model.save(str(tmp_path))
    texts = ["Good morning.", "Доброе утро.", "x" * 500]
    np.testing.assert_allclose(load_encoder(tmp_path, device="cpu").encode(texts), model.encode(texts), atol=1e-6)


def test_mean_pooling_is_the_mean_and_cls_the_first_token(tiny_bert):
    """Against the hidden states themselves, with padding beside a longer text."""
    texts = ["Brot", "The bread on the table is still warm."]
    for pooling in ("mean", "cls"):
        model = load_encoder(tiny_bert, device="cpu", pooling=pooling)
        tokens = model.encode(texts, output_value="token_embeddings")
        for text, vector, hidden in zip(texts, model.encode(texts), tokens, strict=True):
            used = hidden[: len(model.tokenizer(text)["input_ids"])]
            expected = used.mean(0) if pooling == "mean" else used[0]
            np.testing.assert_allclose(vector, expected.numpy(), atol=1e-5)


def test_the_fingerprint_follows_the_weights_and_the_prompt(tiny_bert):
    first, second = load_encoder(tiny_bert, device="cpu"), load_encoder(tiny_bert, device="cpu")
    before = encoder_fingerprint(first)
    first.encode(["using it changes nothing"])
    assert encoder_fingerprint(first) == encoder_fingerprint(second) == before
    second.default_prompt_name, second.prompts["query"] = "query", "query: "
    assert encoder_fingerprint(second) != before
    next(first.parameters()).data[0, 0] += 1e-3
    assert encoder_fingerprint(first) != before


def test_each_distinct_text_is_encoded_once(tiny_xlmr):
    model = load_encoder(tiny_xlmr, device="cpu")
    cached = CachedEncoder(model, batch_size=2)
    computed = []
    handle = model.register_forward_hook(
        lambda module, args, output: computed.append(len(output["sentence_embedding"]))
    )
    first = cached.encode(["a", "b", "a", "c"])
    again = cached.encode(["c", "a"])
    prompted = cached.encode(["a"], prompt="query: ")
    handle.remove()
    assert sum(computed) == cached.texts_encoded == 4
    assert cached.texts_asked == 7
    np.testing.assert_allclose(first, model.encode(["a", "b", "a", "c"]), atol=1e-6)
    np.testing.assert_array_equal(again, first[[3, 0]])
    np.testing.assert_allclose(prompted, model.encode(["query: a"]), atol=1e-6)
    assert cached.encode([]).shape == (0, 32)


def test_the_default_prompt_is_applied_and_can_be_left_out(tiny_xlmr):
    model = load_encoder(tiny_xlmr, device="cpu")
    model.default_prompt_name, model.prompts["query"] = "query", "query: "
    cached = CachedEncoder(model)
    np.testing.assert_allclose(cached.encode(["a"]), model.encode(["a"]), atol=1e-6)
    np.testing.assert_allclose(cached.encode(["a"], prompt=""), model.encode(["a"], prompt=""), atol=1e-6)
    assert cached.texts_encoded == 2


def test_e5_gets_its_prefix_wherever_it_is_loaded_from(tiny_xlmr, tmp_path):
    (tmp_path / "multilingual-e5-small").symlink_to(tiny_xlmr)
    model = load_encoder(tmp_path / "multilingual-e5-small", device="cpu")
    np.testing.assert_allclose(model.encode(["Brot"]), model.encode(["query: Brot"], prompt=""), atol=1e-6)
    model.save(str(tmp_path / "elsewhere"))
    again = load_encoder(tmp_path / "elsewhere", device="cpu")
    np.testing.assert_allclose(again.encode(["Brot"]), model.encode(["Brot"]), atol=1e-6)


def test_what_cannot_be_loaded_says_how_to_get_it(tmp_path):
    with pytest.raises(
        UserError, match=r"'org/model': no such folder.* `hf download org/model --local-dir DIR` and give DIR"
    ):
        load_encoder("org/model")
    with pytest.raises(UserError, match="is not a model folder; give a sentence-transformers or transformers folder"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=f"cannot load an encoder from {tmp_path}: "):
        load_encoder(tmp_path)
    (tmp_path / "polyalign.json").write_text("{")
    with pytest.raises(UserError, match=r"polyalign\.json is damaged .* train the encoder again or delete that file"):
        read_record(tmp_path)
