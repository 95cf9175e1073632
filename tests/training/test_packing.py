"""Texts one after the other give the embeddings that padded texts give, if attention stays within each text.

Flash attention keeps to the texts by ``cu_seq_lens``. Here, where it cannot run, a mask does the same.
"""

import pytest
import torch

LENGTHS = [7, 3, 12, 1, 5]


def tiny(name):
    from transformers import (
        BertConfig,
        BertModel,
        ModernBertConfig,
        ModernBertModel,
        XLMRobertaConfig,
        XLMRobertaModel,
        set_seed,
    )

    set_seed(0)
    shape = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    if name == "xlmr":
        config = XLMRobertaConfig(**shape, intermediate_size=64, pad_token_id=1, max_position_embeddings=40)
        return XLMRobertaModel(config).eval(), 2  # positions count from the padding id on
    if name == "bert":
        return BertModel(BertConfig(**shape, intermediate_size=64, max_position_embeddings=40)).eval(), 0
    config = ModernBertConfig(
        **shape, intermediate_size=64, pad_token_id=0, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3,
        local_attention=4, global_attn_every_n_layers=2,
    )  # fmt: skip
    return ModernBertModel(config).eval(), 0


def as_the_model_takes(model, within):
    """The bool [L, L] mask as float [1, 1, L, L]; one for ModernBERT's local layers, too, whose window it replaces."""

    def as_float(allowed):
        return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)[None, None]

    if model.config.model_type != "modernbert":
        return as_float(within)
    place = torch.arange(len(within))
    near = (place[:, None] - place).abs() <= model.config.sliding_window
    return {"full_attention": as_float(within), "sliding_attention": as_float(within & near)}


@pytest.mark.parametrize("name", ["xlmr", "bert", "modernbert"])
def test_a_mask_and_positions_are_needed(name):
    model, first = tiny(name)
    texts = [torch.randint(4, 50, (length,), generator=torch.Generator().manual_seed(length)) for length in LENGTHS]
    padding = model.config.pad_token_id
    padded = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=padding)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    with torch.no_grad():
        expected = model(input_ids=padded, attention_mask=mask.long()).last_hidden_state[mask]

        text = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
        within = text[:, None] == text
        packed = {
            "input_ids": torch.cat(texts)[None],
            "position_ids": torch.cat([torch.arange(length) for length in LENGTHS])[None] + first,
        }
        found = model(**packed, attention_mask=as_the_model_takes(model, within)).last_hidden_state[0]
        without = model(**packed).last_hidden_state[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (without - expected).abs().max() > 1e-2, "position ids alone let the texts mix"
