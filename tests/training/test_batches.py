"""Batches: every present text once, chunks under a budget, sampling that depends on nothing but the row."""

from collections import Counter

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polyalign.corpus import Corpus
from polyalign.encoder import load_encoder
from polyalign.training.batches import (
    MultiwayCollator,
    RowBatches,
    batches_of_epoch,
    chunks_of_lengths,
    key,
    padding,
    sampled_languages,
    to_dataset,
)
from polyalign.training.loss import MultiwayLoss
from polyalign.training.objective import ENGLISH, PRESETS

LANGUAGES = ("en", "de", "es", "fr", "ru", "zh", "hi")


@pytest.fixture(scope="module")
def xlmr(tiny_xlmr):
    return load_encoder(tiny_xlmr, device="cpu").eval()


def chunks_of(batch):
    names = sorted({name.split("_")[0] for name in batch if name.startswith("chunk")}, key=lambda name: int(name[5:]))
    return [{k.removeprefix(f"{name}_"): v for k, v in batch.items() if k.startswith(f"{name}_")} for name in names]


def test_gaps_need_no_filler(gappy_file):
    corpus = Corpus.open(gappy_file)
    rows = to_dataset(corpus)
    assert rows.column_names == ["row_id", "languages", "texts"]
    for row, *cells in zip(rows, *(corpus.rows[language] for language in corpus.languages), strict=True):
        present = {language: text for language, text in zip(corpus.languages, cells, strict=True) if text is not None}
        assert dict(zip(row["languages"], row["texts"], strict=True)) == present


def test_seven_languages_cost_seven_encodings_a_row(xlmr, sample_rows):
    """Counted where it is paid: in the forward passes of the encoder."""
    corpus = Corpus.open(sample_rows_file(sample_rows, 5))
    batch = MultiwayCollator(xlmr, corpus.languages, tokens_per_chunk=200)(list(to_dataset(corpus)))
    encoded = []
    handle = xlmr.register_forward_hook(lambda module, args, output: encoded.append(len(output["sentence_embedding"])))
    MultiwayLoss(xlmr, "multi-way")(chunks_of(batch), batch["label"])
    handle.remove()
    assert len(encoded) > 1
    assert sum(encoded) == 5 * 7
    assert len(batch["label"]) == 5 * 7


def sample_rows_file(sample_rows, rows):
    import tempfile

    path = f"{tempfile.mkdtemp()}/rows.parquet"
    sample_rows.head(rows).write_parquet(path)
    return path


def test_chunks_hold_the_embeddings_encode_gives(xlmr, sample_rows):
    corpus = Corpus.open(sample_rows_file(sample_rows, 9))
    collator = MultiwayCollator(xlmr, corpus.languages, tokens_per_chunk=150)
    batch = collator(list(to_dataset(corpus)))
    chunks = chunks_of(batch)
    with torch.no_grad():
        embeddings = torch.cat([xlmr(dict(chunk))["sentence_embedding"] for chunk in chunks])
    text_of = {key(text): text for row in to_dataset(corpus) for text in row["texts"]}
    expected = xlmr.encode([text_of[int(text_key)] for text_key in batch["label"][:, 2]])
    np.testing.assert_allclose(embeddings.numpy(), expected, atol=1e-5)
    lengths = torch.cat([chunk["attention_mask"].sum(1) for chunk in chunks])
    assert (lengths.diff() <= 0).all(), "longest first"
    for chunk in chunks:
        assert chunk["input_ids"].numel() <= 150
        assert chunk["attention_mask"].any(0).all(), "no column is padding alone"


@pytest.mark.parametrize(
    ("lengths", "tokens_per_chunk", "sizes"),
    [
        ([10, 10, 9, 9], 40, [4]),  # 2 of 40 tokens are padding, which saves a pass
        ([10, 10, 9, 9], 39, [3, 1]),
        ([100, 100, 10, 10], 1000, [2, 2]),  # together, 180 of 400 would be
        ([50, 50, 50], 20, [1, 1, 1]),
        ([], 20, []),
    ],
)
def test_a_chunk_ends_where_padding_costs_more_than_a_pass(lengths, tokens_per_chunk, sizes):
    chunks = list(chunks_of_lengths(np.array(lengths, dtype=np.int64), tokens_per_chunk))
    assert [chunk.stop - chunk.start for chunk in chunks] == sizes


@given(
    lengths=st.lists(st.integers(0, 60), max_size=80).map(lambda lengths: sorted(lengths, reverse=True)),
    tokens_per_chunk=st.integers(1, 500),
    padded=st.booleans(),
)
def test_chunks_hold_every_text_once_under_the_budget(lengths, tokens_per_chunk, padded):
    chunks = list(chunks_of_lengths(np.array(lengths, dtype=np.int64), tokens_per_chunk, padded=padded))
    assert [text for chunk in chunks for text in range(len(lengths))[chunk]] == list(range(len(lengths)))
    for chunk in chunks:
        texts = lengths[chunk]
        tokens = texts[0] * len(texts) if padded else sum(texts)
        assert texts
        assert tokens <= tokens_per_chunk or len(texts) == 1


def test_little_of_a_large_batch_is_padding(xlmr, sample_rows):
    corpus = Corpus.open(sample_rows_file(sample_rows, 256))
    batch = MultiwayCollator(xlmr, corpus.languages)(list(to_dataset(corpus)))
    masks = [chunk["attention_mask"] for chunk in chunks_of(batch)]
    real, computed = padding(batch)
    assert real == sum(int(mask.sum()) for mask in masks)
    assert computed == sum(mask.numel() for mask in masks)
    assert real < computed < real / 0.97


def test_left_padding_is_cut_on_the_left(tiny_bert):
    model = load_encoder(tiny_bert, device="cpu").eval()
    model.tokenizer.padding_side = "left"
    rows = [{"row_id": "a", "languages": ["en", "de"], "texts": ["The bread is warm.", "Brot"]}]
    for chunk in chunks_of(MultiwayCollator(model, ["en", "de"], tokens_per_chunk=1)(rows)):
        assert chunk["attention_mask"].all()


def test_the_default_prompt_is_applied_in_training(tiny_xlmr):
    model = load_encoder(tiny_xlmr, device="cpu").eval()
    model.prompts["query"], model.default_prompt_name = "query: ", "query"
    rows = [{"row_id": "a", "languages": ["en", "de"], "texts": ["The bread is warm.", "Das Brot ist warm."]}]
    batch = MultiwayCollator(model, ["en", "de"])(rows)
    with torch.no_grad():
        embeddings = model(chunks_of(batch)[0])["sentence_embedding"]
    texts = {key("The bread is warm."): "The bread is warm.", key("Das Brot ist warm."): "Das Brot ist warm."}
    in_order = [texts[int(text_key)] for text_key in batch["label"][:, 2]]
    np.testing.assert_allclose(embeddings, model.encode(in_order), atol=1e-6)
    np.testing.assert_allclose(embeddings, model.encode([f"query: {text}" for text in in_order], prompt=""), atol=1e-6)


def test_labels_name_row_language_and_text(xlmr):
    rows = [
        {"row_id": "a", "languages": ["de", "en"], "texts": ["x", "y"]},
        {"row_id": "b", "languages": ["fr", "de"], "texts": ["z", "x"]},
    ]
    label = MultiwayCollator(xlmr, ["de", "en", "fr"])(rows)["label"]
    assert label.dtype == torch.long
    assert sorted(label.tolist()) == sorted(
        [[key("a"), 1, key("x")], [key("a"), ENGLISH, key("y")], [key("b"), 2, key("z")], [key("b"), 1, key("x")]]
    )


@given(
    languages=st.lists(st.sampled_from(LANGUAGES), min_size=1, unique=True),
    row_id=st.text(max_size=5),
    seed=st.integers(0, 9),
    epoch=st.integers(0, 9),
    preset=st.sampled_from(sorted(PRESETS)),
)
def test_sampling_is_a_pure_function_of_seed_epoch_and_row(languages, row_id, seed, epoch, preset):
    objective = PRESETS[preset]
    chosen = sampled_languages(row_id, languages, objective, seed=seed, epoch=epoch)
    again = sampled_languages(row_id, list(reversed(languages)), objective, seed=seed, epoch=epoch)
    assert sorted(chosen) == sorted(again)
    about_english = preset in ("en-x", "en-x-all", "english-anchor", "distill")
    if about_english and "en" not in languages:
        assert chosen == []
        return
    assert len(chosen) == min(len(languages), objective.languages_per_row or 99)
    assert not about_english or "en" in chosen


def test_every_language_gets_its_share():
    """1,000 rows, one of six languages beside English each: about 167 times each."""
    counts = Counter(
        language
        for row in range(1000)
        for language in sampled_languages(str(row), LANGUAGES, PRESETS["en-x"], seed=0, epoch=0)
    )
    assert counts.pop("en") == 1000
    assert all(120 < count < 215 for count in counts.values()), counts


def test_in_turn_every_translation_comes_once_in_as_many_epochs_as_there_are():
    """Six languages beside English, one an epoch; with two an epoch, three epochs."""
    for per_row, epochs in ((2, 6), (3, 3)):
        objective = PRESETS["en-x-all"].model_copy(update={"languages_per_row": per_row})
        for row in range(20):
            chosen = [
                sampled_languages(str(row), LANGUAGES, objective, seed=0, epoch=epoch) for epoch in range(2 * epochs)
            ]
            assert all(len(set(each)) == per_row and "en" in each for each in chosen)
            for half in (chosen[:epochs], chosen[epochs:]):
                assert sorted(tag for each in half for tag in each if tag != "en") == sorted({*LANGUAGES} - {"en"})


def test_epochs_differ_in_order_and_cover_every_row():
    epochs = [list(batches_of_epoch(10, 4, seed=3, epoch=epoch)) for epoch in (0, 1, 0)]
    assert [len(batch) for batch in epochs[0]] == [4, 4, 2]
    assert sorted(row for batch in epochs[0] for row in batch) == list(range(10))
    assert epochs[0] == epochs[2] != epochs[1]


def test_the_sampler_gives_the_batches_of_its_epoch():
    sampler = RowBatches(pl.Series(range(7)), batch_size=3, drop_last=False, seed=5)
    sampler.set_epoch(2)
    assert list(sampler) == list(batches_of_epoch(7, 3, seed=5, epoch=2))
    assert len(sampler) == 3
