"""WCCN against a double loop, on numbers by hand, and through an encoder, its folder and training."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, StaticEmbedding

from polyalign.corpus import Corpus
from polyalign.encoder import load_encoder
from polyalign.errors import UserError
from polyalign.training import TrainingSettings, train, wccn
from polyalign.training.wccn import normalization, normalize_within_rows, within_row_covariance

QUICK = {"steps": 3, "batch_rows": 8, "dev_rows": 12, "evaluations": 1}
SPREAD = np.geomspace(3, 0.3, 12)
"""How far the translations of a word lie apart in each direction of `noisy`."""


def naive(vectors, rows):
    """Sum of the outer products of each text's distance to the mean of its row, by loops."""
    total = np.zeros((vectors.shape[1], vectors.shape[1]))
    for row in set(rows.tolist()):
        texts = [vector for vector, its in zip(vectors, rows, strict=True) if its == row]
        mean = sum(texts) / len(texts)
        for text in texts:
            total += np.outer(text - mean, text - mean)
    return total / len(vectors)


@given(seed=st.integers(0, 2**32 - 1), sizes=st.lists(st.integers(1, 5), min_size=2, max_size=12))
def test_the_covariance_is_that_around_the_means_of_uneven_rows(seed, sizes):
    """Shrunk: the trace stays, and all else comes nearer to the identity by the same share."""
    rows = np.repeat(np.arange(len(sizes)), sizes)
    vectors = np.random.default_rng(seed).normal(size=(len(rows), 3)) + 7
    found, expected = within_row_covariance(vectors, rows), naive(vectors, rows)
    np.testing.assert_allclose(np.trace(found), np.trace(expected), atol=1e-12)
    level = np.eye(3) * np.trace(expected) / 3
    share = np.sum((found - level) * (expected - level)) / max(np.sum((expected - level) ** 2), 1e-300)
    assert -1e-9 <= share <= 1 + 1e-9
    np.testing.assert_allclose(found - level, share * (expected - level), atol=1e-9)


def test_numbers_by_hand():
    """Standard deviations of 2, 1 and 1/2 are divided out, or at half the power their roots."""
    np.testing.assert_allclose(normalization(np.diag([4.0, 1.0, 0.25]), 1.0), np.diag([0.5, 1.0, 2.0]), atol=1e-12)
    half = np.diag([2**-0.5, 1.0, 2**0.5])
    np.testing.assert_allclose(normalization(np.diag([4.0, 1.0, 0.25]), 0.5), half, atol=1e-12)
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    covariance = turned @ np.diag([4.0, 1.0, 0.25]) @ turned.T
    np.testing.assert_allclose(normalization(covariance, 0.5), turned @ half @ turned.T, atol=1e-12)


@pytest.fixture
def noisy():
    """A bag of words, 300 meanings in four languages, whose translations lie apart by `SPREAD`; and its rows."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    random = np.random.default_rng(0)
    meanings = random.normal(size=(300, 12))
    languages = ["en", "de", "fr", "ru"]
    words = {tag: [f"{tag}{number}" for number in range(300)] for tag in languages}
    vectors = np.concatenate([meanings + random.normal(size=(300, 12)) * SPREAD for _ in languages])
    vocabulary = [word for tag in languages for word in words[tag]]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="en0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    bag = StaticEmbedding(tokenizer, embedding_weights=vectors.astype(np.float32))
    return SentenceTransformer(modules=[bag], device="cpu"), words


def corpus_of(words):
    return Corpus.from_texts(pl.DataFrame(words), "words")


def test_translations_scatter_alike_afterwards_and_lengths_stay(noisy):
    model, words = noisy
    texts = [word for column in words.values() for word in column]
    rows = np.tile(np.arange(300), 4)
    before = model.encode(texts)
    record = normalize_within_rows(model, corpus_of(words), 1.0)
    assert (record["power"], record["rows"], record["texts"]) == (1.0, 300, 1200)
    after = model.encode(texts)
    scatter = np.diag(naive(after.astype(np.float64), rows))
    np.testing.assert_allclose(scatter / scatter.mean(), 1, atol=0.2)  # shrunk a little
    assert np.linalg.norm(after) == pytest.approx(np.linalg.norm(before), rel=1e-5)

    def found(vectors):
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return ((unit[:300] @ unit[300:600].T).argmax(1) == np.arange(300)).mean()

    assert found(after) > 1.5 * found(before)


def test_gaps_are_left_out_and_rows_are_evenly_spaced(noisy, monkeypatch):
    model, words = noisy
    gappy = (
        pl.DataFrame(words)
        .with_row_index()
        .with_columns(
            pl.when(pl.col("index") % 3 > 0).then("de").alias("de"),
            pl.when(pl.col("index") % 3 > 0).then("fr").alias("fr"),
            pl.when(pl.col("index") % 3 == 1).then("ru").alias("ru"),
        )
    )
    record = normalize_within_rows(model, Corpus.from_texts(gappy.drop("index"), "words"), 0.5)
    assert (record["rows"], record["texts"]) == (200, 100 * 4 + 100 * 3)
    monkeypatch.setattr(wccn, "ROWS", 30)
    assert normalize_within_rows(model, corpus_of(words), 0.5)["texts"] == 120


def test_sentence_transformers_reloads_it_and_normalises_last(noisy, tmp_path):
    model, words = noisy
    model.append(Normalize())
    normalize_within_rows(model, corpus_of(words), 0.5)
    assert [type(module).__name__ for module in model] == ["StaticEmbedding", "Normalize", "Dense", "Normalize"]
    model.save(str(tmp_path / "saved"))
    vectors = SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode(["de7", "ru9"])
    np.testing.assert_array_equal(vectors, model.encode(["de7", "ru9"]))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("base", ["static", "tiny_bert"])
def test_training_ends_with_it(base, gappy_file, tmp_path, request):
    base = base if base == "static" else request.getfixturevalue(base)
    plain = train(gappy_file, tmp_path / "plain", base=base, settings=TrainingSettings(**QUICK), objective="multi-way")
    record = train(
        gappy_file,
        tmp_path / "out",
        base=base,
        settings=TrainingSettings(**QUICK, lsar=2, wccn=0.5),
        objective="multi-way",
    )
    assert plain["wccn"] is None
    assert record["wccn"]["rows"] == record["corpus"]["rows"] == 48
    assert record["wccn"]["texts"] == sum(record["corpus"]["texts"].values())
    assert (
        "| Translations | WCCN to the power of 0.5: the scatter within 48 rows"
        in (tmp_path / "out" / "README.md").read_text()
    )
    before, encoder = (load_encoder(tmp_path / name, device="cpu") for name in ("plain", "out"))
    texts = ["Das Brot.", "The cat sleeps.", "早上好。"]
    vectors = before.encode(texts, normalize_embeddings=True)
    for layer in (module for module in encoder if isinstance(module, Dense)):
        vectors = vectors @ layer.linear.weight.numpy(force=True).T
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode(texts, normalize_embeddings=True), vectors, atol=1e-4)


def test_mistakes_of_the_user(noisy):
    model, words = noisy
    with pytest.raises(
        UserError, match=r"texts of a row differ in too few directions \(rows: 300\); wccn needs more rows of"
    ):
        normalize_within_rows(model, corpus_of({"en": words["en"], "de": words["en"]}), 1.0)
    one_row = corpus_of({tag: column[:1] for tag, column in words.items() if tag in ("en", "de")})
    with pytest.raises(UserError, match=r"texts of a row differ in too few directions \(rows: 1\)"):
        normalize_within_rows(model, one_row, 0.5)
    for wrong in (0, 1.5):
        with pytest.raises(UserError, match=f"wccn is {wrong}, must be"):
            TrainingSettings.checked({"wccn": wrong}, "train")
