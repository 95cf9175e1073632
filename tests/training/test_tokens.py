"""Tokens are made once, and batches of them are those that the encoder's own preprocessing gives."""

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from transformers import DataCollatorWithFlattening

from polyalign.corpus import Corpus
from polyalign.encoder import load_encoder, set_default_prompt
from polyalign.errors import UserError
from polyalign.training import MultiwayLoss
from polyalign.training.bases import static_base
from polyalign.training.batches import MultiwayCollator, RowBatches, TokenCollator, key, padding, to_dataset
from polyalign.training.settings import StaticSettings
from polyalign.training.tokens import tokens_of

ALIKE = ["xlmr", "bert", "static", "prompt", "truncated", "left"]


@pytest.fixture(scope="module")
def corpus(gappy_file):
    return Corpus.open(gappy_file)


@pytest.fixture
def encoder(tiny_xlmr, tiny_bert, corpus):
    def make(name):
        if name == "static":
            return static_base(corpus, StaticSettings(dimensions=8, vocabulary=256), seed=0)
        model = load_encoder(tiny_bert if name in ("bert", "left") else tiny_xlmr, device="cpu").eval()
        if name == "prompt":
            set_default_prompt(model, "query: ")
        if name == "truncated":
            model.max_seq_length = 9
        if name == "left":
            model.tokenizer.padding_side = "left"
        return model

    return make


@pytest.fixture
def calls(monkeypatch):
    """The numbers of texts that were preprocessed, call by call."""
    from sentence_transformers import SentenceTransformer

    made, plain = [], SentenceTransformer.preprocess

    def preprocess(self, inputs, *args, **kwargs):
        made.append(len(inputs))
        return plain(self, inputs, *args, **kwargs)

    monkeypatch.setattr(SentenceTransformer, "preprocess", preprocess)
    return made


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert found[name].dtype == value.dtype, name
            assert torch.equal(found[name], value), name
        else:
            assert found[name] == value, name


@pytest.mark.parametrize("name", ALIKE)
@pytest.mark.parametrize("objective", ["multi-way", "english-anchor", "en-x"])
def test_batches_are_those_that_preprocessing_gives(name, objective, encoder, corpus, tmp_path):
    model = encoder(name)
    tokens = tokens_of(corpus, model, cache=tmp_path)
    settings = {"seed": 3, "tokens_per_chunk": 100}
    ours = TokenCollator(tokens, model, objective, **settings)
    theirs = MultiwayCollator(model, corpus.languages, objective, **settings)
    ours.epoch = theirs.epoch = 2
    rows = [41, 3, 0, 59, 17, 30, 8]
    dataset = to_dataset(corpus)
    batch = ours([{"row": row} for row in rows])
    assert_equal(batch, theirs([dataset[row] for row in rows]))
    if name == "bert":
        assert "chunk0_token_type_ids" in batch
    if name == "prompt":
        assert batch["chunk0_prompt_length"] > 1
    if name == "truncated":
        assert batch["chunk0_input_ids"].shape[1] == 9
    assert "chunk1_input_ids" in batch or name == "static", "several chunks"


def test_a_row_that_the_objective_cannot_use_gives_nothing(encoder, tmp_path):
    rows = pl.DataFrame({"row_id": ["a", "b"], "en": [None, "Bread."], "de": ["Brot.", "Brot."], "fr": ["Pain.", None]})
    corpus, model = Corpus.from_texts(rows, "rows"), encoder("xlmr")
    tokens = tokens_of(corpus, model, cache=tmp_path)
    assert_equal(
        TokenCollator(tokens, model, "en-x")([{"row": 0}]),
        MultiwayCollator(model, corpus.languages, "en-x")([to_dataset(corpus)[0]]),
    )


@pytest.mark.parametrize("name", ALIKE)
def test_each_text_has_the_ids_that_it_has_alone(name, encoder, corpus, tmp_path, monkeypatch):
    """With blocks and calls of uneven sizes."""
    monkeypatch.setattr("polyalign.training.tokens.ROWS_PER_BLOCK", 25)
    monkeypatch.setattr("polyalign.training.tokens.TEXTS_PER_CALL", 7)
    model = encoder(name)
    tokens = tokens_of(corpus, model, cache=tmp_path)
    assert len(tokens) == 60
    used = set()
    for number, row in enumerate(to_dataset(corpus)):
        assert tokens.row_id(number) == row["row_id"]
        assert tokens.row_keys[number] == key(row["row_id"])
        cells = range(*tokens.first_cell[number : number + 2])
        assert [["en", "de", "ru", "zh"][tokens.numbers[cell]] for cell in cells] == row["languages"]
        assert tokens.text_keys[cells].tolist() == [key(text) for text in row["texts"]]
        for cell, text in zip(cells, row["texts"], strict=True):
            alone = model.preprocess([text], prompt="query: " if name == "prompt" else None)
            ids = tokens.ids[slice(*tokens.first_token[cell : cell + 2])].tolist()
            assert ids == alone["input_ids"].flatten().tolist()
            used |= set(ids)
    assert tokens.used.tolist() == sorted(used)


def test_cut_texts_are_counted_and_those_that_just_fit_are_not(encoder, tmp_path, caplog):
    caplog.set_level(logging.INFO, "polyalign")
    model = encoder("bert")
    length = len(model.tokenizer("The bread is warm.")["input_ids"])
    model.max_seq_length = length
    rows = pl.DataFrame({"row_id": ["a", "b"], "en": ["The bread is warm.", "x"], "de": ["The bread is warm. So."] * 2})
    tokens = tokens_of(Corpus.from_texts(rows, "rows"), model, cache=tmp_path)
    assert f"tokenized 4 texts into {3 * length + 3} tokens; 2 texts were cut" in caplog.text
    assert tokens.first_token.tolist() == [0, length, 2 * length, 2 * length + 3, 3 * length + 3]


def test_the_second_time_nothing_is_tokenized(encoder, corpus, tmp_path, calls, caplog):
    caplog.set_level(logging.INFO, "polyalign")
    first = tokens_of(corpus, encoder("xlmr"), cache=tmp_path)
    assert calls
    assert "tokenized" in caplog.text
    calls.clear()
    caplog.clear()
    used = encoder("xlmr")
    used.encode(["A tokenizer that was used before."])
    calls.clear()
    again = tokens_of(corpus, used, cache=tmp_path)
    assert not calls
    assert "tokenized" not in caplog.text
    np.testing.assert_array_equal(again.ids, first.ids)
    assert again.constants == first.constants == {"modality": "text"}
    assert not again.ids.flags.writeable


def test_the_users_cache_is_the_place(encoder, corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("POLYALIGN_CACHE", str(tmp_path / "chosen"))
    tokens_of(corpus, encoder("bert"))
    assert list((tmp_path / "chosen" / "tokens").glob("*/manifest.json"))
    monkeypatch.delenv("POLYALIGN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tokens_of(corpus, encoder("bert"))
    assert list((tmp_path / "polyalign" / "tokens").glob("*/manifest.json"))


def test_whatever_tokens_depend_on_gets_its_own(encoder, corpus, tmp_path, calls):
    def made_anew(corpus, model):
        calls.clear()
        tokens_of(corpus, model, cache=tmp_path)
        return bool(calls)

    models = [encoder(name) for name in ("xlmr", "bert", "static", "prompt", "truncated")]
    assert all(made_anew(corpus, model) for model in models)
    assert not any(made_anew(corpus, model) for model in models)
    models[1].tokenizer.truncation_side = "left"
    assert made_anew(corpus, models[1])
    models[0].tokenizer.add_tokens(["Brot"])
    assert made_anew(corpus, models[0])
    model = encoder("xlmr")
    assert made_anew(corpus.select(["en", "de"]), model)
    backwards = Corpus(corpus.rows.reverse(), corpus.languages, corpus.report)
    assert backwards.fingerprint == corpus.fingerprint
    assert made_anew(backwards, model)
    assert tokens_of(backwards, model, cache=tmp_path).row_id(0) == corpus.rows["row_id"][-1]


@pytest.mark.parametrize("damage", ["shortened", "changed", "lost", "manifest", "no manifest"])
def test_a_damaged_folder_is_made_again(damage, encoder, corpus, tmp_path, caplog):
    before = tokens_of(corpus, encoder("xlmr"), cache=tmp_path).ids.tolist()
    (folder,) = [path.parent for path in tmp_path.glob("*/manifest.json")]
    ids = folder / "ids.bin"
    if damage == "shortened":
        ids.write_bytes(ids.read_bytes()[:-4])
    elif damage == "changed":
        ids.write_bytes(bytes([ids.read_bytes()[0] ^ 1]) + ids.read_bytes()[1:])
    elif damage == "lost":
        ids.unlink()
    elif damage == "manifest":
        (folder / "manifest.json").write_text("{")
    else:
        (folder / "manifest.json").unlink()
    assert tokens_of(corpus, encoder("xlmr"), cache=tmp_path).ids.tolist() == before
    assert f"{folder} is damaged and is made again" in caplog.text


def test_an_interrupted_call_leaves_nothing(encoder, corpus, tmp_path, monkeypatch):
    model = encoder("xlmr")
    monkeypatch.setattr(type(model), "preprocess", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tokens_of(corpus, model, cache=tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_two_that_want_it_at_once_share_one(encoder, corpus, tmp_path, calls):
    models = [encoder("bert"), encoder("bert")]
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(lambda model: tokens_of(corpus, model, cache=tmp_path), models)
    np.testing.assert_array_equal(first.ids, second.ids)
    assert calls.count(len({text for row in to_dataset(corpus) for text in row["texts"]})) == 1


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"token_type_ids": torch.ones(1, 2, dtype=torch.long)}, "makes token_type_ids of a text"),
        ({"pixel_values": torch.zeros(1, 3, 4, 4)}, "makes pixel_values of a text"),
        ({"attention_mask": None}, "makes input_ids of a text, and not"),
    ],
)
def test_an_encoder_that_needs_more_than_ids_is_refused(features, message, encoder, corpus, tmp_path, monkeypatch):
    made = {"input_ids": torch.ones(1, 2, dtype=torch.long), "attention_mask": torch.ones(1, 2)} | features
    made = {name: value for name, value in made.items() if value is not None}
    model = encoder("xlmr")
    monkeypatch.setattr(type(model), "preprocess", lambda *args, **kwargs: dict(made))
    with pytest.raises(UserError, match=message):
        tokens_of(corpus, model, cache=tmp_path)


@pytest.fixture
def packing(encoder):
    """An encoder that takes texts without padding, as one with flash attention does."""
    model = encoder("xlmr")
    module = model[0]
    module.can_flatten_inputs = True
    module.data_collator = DataCollatorWithFlattening(
        return_seq_idx=True, return_flash_attn_kwargs=True, return_position_ids=True
    )
    module._flatten_position_offset = module._infer_flatten_position_offset()
    return model


def test_packed_batches_are_those_that_preprocessing_gives(packing, encoder, corpus, tmp_path):
    tokens = tokens_of(corpus, packing, cache=tmp_path)
    assert tokens.layout == "packed"
    np.testing.assert_array_equal(tokens.ids, tokens_of(corpus, encoder("xlmr"), cache=tmp_path).ids)
    batch = TokenCollator(tokens, packing, tokens_per_chunk=10_000)([{"row": row} for row in range(9)])
    text_of = {key(text): text for row in to_dataset(corpus) for text in row["texts"]}
    texts = [text_of[text_key] for text_key in batch.pop("label")[:, 2].tolist()]
    assert_equal({name.removeprefix("chunk0_"): value for name, value in batch.items()}, packing.preprocess(texts))


def test_packed_chunks_keep_to_the_budget_and_restart_positions(packing, corpus, tmp_path):
    tokens = tokens_of(corpus, packing, cache=tmp_path)
    batch = TokenCollator(tokens, packing, tokens_per_chunk=100)([{"row": row} for row in range(60)])
    lengths = [batch[name].diff() for name in batch if name.endswith("cu_seq_lens_q")]
    assert (torch.cat(lengths).diff() <= 0).all(), "longest first"
    assert len(torch.cat(lengths)) == len(batch["label"])
    for chunk, (these, following) in enumerate(zip(lengths, [*lengths[1:], None], strict=True)):
        assert these.sum() <= 100
        assert following is None or these.sum() + following[0] > 100, "one more text would not fit"
        positions = torch.cat([torch.arange(length) for length in these]) + 2  # XLM-R counts from 2
        assert torch.equal(batch[f"chunk{chunk}_position_ids"][0], positions)
        assert batch[f"chunk{chunk}_max_length_k"] == these.max()
    assert padding(batch) == (sum(int(these.sum()) for these in lengths),) * 2


@pytest.mark.parametrize("name", ["static", "bert"])
def test_training_ends_in_the_weights_that_texts_would_give(name, encoder, corpus, tmp_path):
    def trained(model, dataset, collator):
        arguments = SentenceTransformerTrainingArguments(
            str(tmp_path / "out"), max_steps=4, per_device_train_batch_size=16, learning_rate=0.01, use_cpu=True,
            batch_sampler=RowBatches, seed=1, report_to="none", disable_tqdm=True,
        )  # fmt: skip
        SentenceTransformerTrainer(
            model=model, args=arguments, train_dataset=dataset, loss=MultiwayLoss(model), data_collator=collator
        ).train()
        return model.state_dict()

    model = encoder(name)
    tokens = tokens_of(corpus, model, cache=tmp_path)
    rows = Dataset.from_dict({"row": range(len(tokens))})
    found = trained(model, rows, TokenCollator(tokens, model, tokens_per_chunk=200))
    model = encoder(name)
    expected = trained(model, to_dataset(corpus), MultiwayCollator(model, corpus.languages, tokens_per_chunk=200))
    for weights, value in expected.items():
        assert torch.equal(found[weights], value), weights
