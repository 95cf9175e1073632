"""New subwords: borrowed embeddings against a loop, on an English BERT that learns to read other languages."""

import math

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from polyalign.corpus import Corpus
from polyalign.encoder import load_encoder, read_record
from polyalign.errors import UserError
from polyalign.training import Objective, TrainingSettings, extension, train
from polyalign.training.dev import BitextAccuracy
from polyalign.training.extension import borrowed_embeddings, extend_vocabulary, new_pieces, with_pieces, wordpieces
from polyalign.training.settings import ExtensionSettings
from polyalign.training.subword_vectors import subword_vectors

SMALL = ExtensionSettings(dimensions=64, epochs=6, batch_rows=32)


@pytest.fixture(scope="module")
def rows(sample_rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    sample_rows.select("en", "de", "ru").write_parquet(path)
    return Corpus.open(path)


@pytest.fixture(scope="module")
def english_bert(make_bert, sample_rows):
    """A transformers folder whose subwords are learnt from English alone; of Russian it knows the first letters."""
    letters = "abcdefghijklmnopqrstuvwxyzабвгдежзийклмнопрстуфхцчшщъыьэюя"
    return make_bert(sample_rows["en"], subwords=1500, lowercase=True, alphabet=letters, layers=1, hidden=64)


@pytest.fixture(scope="module")
def extended(english_bert, rows, tmp_path_factory):
    """The base with new subwords, what is told of them, and where they are kept."""
    cache = tmp_path_factory.mktemp("cache")
    model = load_encoder(english_bert)
    return model, extend_vocabulary(model, rows, SMALL, seed=0, cache=cache), cache


def test_subwords_find_their_place_by_plain_contrast(rows, english_bert):
    """Nothing that `train` recommends to users is among what the published numbers of new subwords rest on."""
    tokenizer = load_encoder(english_bert).tokenizer.backend_tokenizer
    vectors, record = subword_vectors(tokenizer, rows, dimensions=16, epochs=1, batch_rows=32, seed=0)
    assert vectors.shape == (tokenizer.get_vocab_size(), 16)
    assert record["objective"] == Objective.named("multi-way").model_dump()
    plain = {"epochs": 1, "batch_rows": 32, "dev_rows": None, "prompt": None}
    assert record["training"] == TrainingSettings(**plain).model_dump()


def bag_of_embeddings(model):
    """The means of a model's token embeddings: what it reads, before layers that have learnt nothing."""
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    table = model[0].model.get_input_embeddings().weight.detach()
    module = StaticEmbedding(model.tokenizer.backend_tokenizer, embedding_weights=table)
    return SentenceTransformer(modules=[module], device="cpu")


def test_borrowed_embeddings_by_hand():
    """Cosines 1 and 0, temperature 1 / ln 3: weights 3/4 and 1/4. The third pivot is too far off to be asked."""
    pivots = np.array([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], dtype=np.float32)
    table = np.array([[4.0], [8.0], [1000.0]], dtype=np.float32)
    found = borrowed_embeddings(
        np.array([[5.0, 0.0]], dtype=np.float32), pivots, table, neighbours=2, temperature=1 / math.log(3)
    )
    np.testing.assert_allclose(found, [[5.0]], rtol=1e-6)


def test_borrowed_embeddings_equal_the_loop(monkeypatch):
    monkeypatch.setattr(extension, "_BLOCK", 3)
    generator = np.random.default_rng(0)
    vectors, pivots, table = (generator.normal(size=shape).astype(np.float32) for shape in ((7, 4), (5, 4), (5, 6)))
    for neighbours in (1, 3, 9):
        expected = []
        for vector in vectors:
            cosines = [vector @ pivot / np.linalg.norm(vector) / np.linalg.norm(pivot) for pivot in pivots]
            nearest = sorted(range(5), key=lambda at: -cosines[at])[:neighbours]
            weights = [math.exp(cosines[at] / 0.2) for at in nearest]
            expected.append(sum(w * table[at] for w, at in zip(weights, nearest, strict=True)) / sum(weights))
        found = borrowed_embeddings(vectors, pivots, table, neighbours=neighbours, temperature=0.2)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_an_english_base_reads_other_languages_before_it_is_trained(english_bert, extended, rows):
    """Its texts are shorter and its words known, more translations find each other; old subwords are as they were."""
    before, (after, about, _) = load_encoder(english_bert), extended
    held_out = rows.split(100)[1]
    scores = [BitextAccuracy(held_out)(bag_of_embeddings(model))["dev_accuracy"] for model in (before, after)]
    assert scores[1] > 3 * scores[0], scores
    texts = rows.rows["de"].to_list()
    tokens = [sum(map(len, model.tokenizer(texts)["input_ids"])) for model in (before, after)]
    assert tokens[1] < 0.75 * tokens[0]
    texts = " ".join(rows.rows["ru"].to_list()).split()
    unknown = [sum(1 in ids for ids in model.tokenizer(texts)["input_ids"]) for model in (before, after)]
    assert unknown[0] > 0.5 * len(texts), "it knows Russian letters at the beginning of a word alone"
    assert unknown[1] < 0.01 * len(texts)
    tables = [model[0].model.get_input_embeddings().weight for model in (before, after)]
    assert len(tables[1]) - len(tables[0]) == about["subwords"] == len(after.tokenizer) - len(before.tokenizer)
    assert torch.equal(tables[1][: len(tables[0])], tables[0])
    assert about["dev_accuracy"] > scores[1]
    assert about["texts_encoded"] > 0


def test_familiar_letters_get_whole_words_alone(extended, english_bert, rows):
    """No new continuation in Latin letters, which would cut languages not in the corpus anew; in Cyrillic there are."""
    backend = load_encoder(english_bert).tokenizer.backend_tokenizer
    pieces = new_pieces(backend, rows, SMALL)
    continuations = {piece for piece in pieces if piece.startswith("##")}
    assert continuations
    assert not [piece for piece in continuations if piece[2:].isascii()]
    assert any("а" <= piece[2] <= "я" for piece in continuations)
    counts = dict.fromkeys(pieces, 0)
    longer = with_pieces(backend, pieces)
    for language in rows.languages:
        for encoding in longer.encode_batch(rows.rows[language].drop_nulls().to_list()):
            for token in encoding.tokens:
                if token in counts:
                    counts[token] += 1
    assert min(counts.values()) >= SMALL.min_count - 2, "left out ones leave some of the others a little rarer or not"


def test_the_same_subwords_every_time(extended, texts):
    backend = extended[0].tokenizer.backend_tokenizer
    first, *others = (wordpieces(backend, texts, 900, min_frequency=0) for _ in range(4))
    assert len(first) == 900
    assert others == [first] * 3


def test_it_is_made_once_and_loads_elsewhere(extended, english_bert, rows, monkeypatch, tmp_path):
    after, about, cache = extended
    monkeypatch.setattr(extension, "_make", lambda *_: pytest.fail("made again"))
    again = load_encoder(english_bert)
    assert extend_vocabulary(again, rows, SMALL, seed=0, cache=cache) == about
    texts = ["Der Hund schläft.", "The dog sleeps.", "Собака спит."]
    again.save(str(tmp_path / "saved"), create_model_card=False)
    plain = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    expected = after.encode(texts)
    np.testing.assert_array_equal(again.encode(texts), expected)
    np.testing.assert_allclose(plain.encode(texts), expected, atol=1e-6)


def test_training_extends_the_base_and_the_teacher_stays_as_it_was(english_bert, rows, tmp_path, monkeypatch):
    """The teacher's embedding is the base's own, with its own subwords; the record tells what joined."""
    monkeypatch.setenv("POLYALIGN_CACHE", str(tmp_path / "cache"))
    settings = TrainingSettings(steps=2, batch_rows=8, dev_rows=20, evaluations=1, extension=SMALL)
    record = train(rows, tmp_path / "encoder", base=english_bert, objective="distill", settings=settings)
    assert record["extension"]["subwords"] > 100
    assert read_record(tmp_path / "encoder")["training"]["extension"] == SMALL.model_dump()
    trained = SentenceTransformer(str(tmp_path / "encoder"), device="cpu")
    base = load_encoder(english_bert)
    assert len(trained.tokenizer) == len(base.tokenizer) + record["extension"]["subwords"]
    (vectors,) = (tmp_path / "cache" / "teacher").glob("*/vectors.bin")
    kept = np.fromfile(vectors, dtype=np.float32).reshape(-1, 64)
    english = base.encode(rows.split(20)[0].rows["en"].to_list())
    assert all(np.abs(kept - vector).max(axis=1).min() < 1e-5 for vector in english[:5])


def test_what_cannot_be_extended(tiny_xlmr, english_bert, rows, tmp_path):
    with pytest.raises(
        UserError, match=r"WordPiece tokenizer of a transformer .*, and this base has one of kind \w+; "
    ):
        extend_vocabulary(load_encoder(tiny_xlmr), rows, SMALL, seed=0)
    with pytest.raises(UserError, match="new subwords borrow their embeddings from English, and the corpus has de, ru"):
        extend_vocabulary(load_encoder(english_bert), rows.select(["de", "ru"]), SMALL, seed=0)
    settings = TrainingSettings(steps=2, batch_rows=8, dev_rows=20, extension=SMALL)
    with pytest.raises(UserError, match="and this base has no layers; leave the extension out"):
        train(rows, tmp_path / "nowhere", base="static", settings=settings, objective="multi-way")
