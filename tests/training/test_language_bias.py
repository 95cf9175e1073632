"""LSAR against the paper's algorithm in full, on offsets known by hand, and through training and reloading."""

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, StaticEmbedding

from polyalign.encoder import load_encoder
from polyalign.errors import UserError
from polyalign.training import ProjectionSettings, TrainingSettings, center_by_language, project, train
from polyalign.training.language_bias import TEXTS_PER_LANGUAGE, language_subspace, project_out

QUICK = {"steps": 3, "batch_rows": 8, "dev_rows": 12, "evaluations": 1}
MEANINGS = {"cat": [3.0, 1.0, 0.0, 0.0], "bread": [-1.0, 2.0, 0.0, 0.0], "snow": [0.0, -4.0, 0.0, 0.0]}
OFFSETS = {"en": [0.0, 0.0, 5.0, 0.0], "de": [0.0, 0.0, -1.0, 2.0], "fr": [0.0, 0.0, 1.0, 7.0]}
WORDS = {"en": ["cat", "bread", "snow"], "de": ["Katze", "Brot", "Schnee"], "fr": ["chat", "pain", "neige"]}


def papers_projection(means, rank):
    """Algorithm 1 of the paper, line by line, and the map that its rectification applies."""
    m = means.T
    ones = np.ones(m.shape[1])
    mu = m @ ones / len(ones)
    u, s, vt = np.linalg.svd(m - np.outer(mu, ones))
    m = np.outer(mu, ones) + u[:, :rank] @ np.diag(s[:rank]) @ vt[:rank]
    inverse = np.linalg.pinv(m).T @ ones
    mu = inverse / (inverse @ inverse)
    u, _, _ = np.linalg.svd(m - np.outer(mu, ones))
    specific = u[:, :rank]
    assert np.abs(specific.T @ mu).max() < 1e-9, "orthogonal, as the paper wants it"
    return np.eye(len(m)) - specific @ specific.T


@pytest.fixture
def words():
    """A bag of nine words, three meanings in three languages, each the sum of its meaning and its language's offset."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = [word for language in WORDS.values() for word in language]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="cat"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    weights = np.array([np.add(meaning, offset) for offset in OFFSETS.values() for meaning in MEANINGS.values()])
    bag = StaticEmbedding(tokenizer, embedding_weights=weights.astype(np.float32))
    return SentenceTransformer(modules=[bag], device="cpu")


@pytest.mark.parametrize("rank", [1, 2, 4, 6])
def test_the_map_is_the_papers(rank):
    means = np.random.default_rng(rank).normal(size=(7, 12)) + 1
    directions, explained = language_subspace(means, rank)
    np.testing.assert_allclose(np.eye(12) - directions.T @ directions, papers_projection(means, rank), atol=1e-9)
    rest = (means - means.mean(0)) @ (np.eye(12) - directions.T @ directions)
    assert 1 - explained == pytest.approx((rest**2).sum() / ((means - means.mean(0)) ** 2).sum(), abs=1e-12)


def test_numbers_by_hand():
    """Means at x = -3, 0, 3 and y = 1, -2, 1: x holds 18 of the 24 squared units, and goes first."""
    means = np.array([[-3.0, 1.0, 9.0], [0.0, -2.0, 9.0], [3.0, 1.0, 9.0]])
    directions, explained = language_subspace(means, 1)
    np.testing.assert_allclose(np.abs(directions), [[1, 0, 0]], atol=1e-12)
    assert explained == pytest.approx(18 / 24)


def test_offsets_go_and_meanings_stay(words):
    record = project_out(words, WORDS, rank=2)
    assert record["rank"] == 2
    assert record["explained"] == 1
    assert record["texts"] == {"en": 3, "de": 3, "fr": 3}
    for language in WORDS.values():
        np.testing.assert_allclose(words.encode(language), list(MEANINGS.values()), atol=1e-5)


def test_sentence_transformers_reloads_it_and_normalises_last(words, tmp_path):
    words.append(Normalize())
    project_out(words, WORDS, rank=1)
    assert [type(module).__name__ for module in words] == ["StaticEmbedding", "Normalize", "Dense", "Normalize"]
    words.save(str(tmp_path / "saved"))
    vectors = SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode(["Brot", "neige"])
    np.testing.assert_array_equal(vectors, words.encode(["Brot", "neige"]))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_the_mean_is_over_texts_evenly_spaced(words):
    many = {language: [texts[0]] * 3000 + [texts[1]] * 3000 for language, texts in WORDS.items()}
    assert project_out(words, many, rank=2)["texts"] == dict.fromkeys(WORDS, TEXTS_PER_LANGUAGE)
    np.testing.assert_allclose(words.encode(["chat"]), [MEANINGS["cat"]], atol=1e-5)


@pytest.mark.parametrize(
    ("base", "more"),
    [("static", {}), ("tiny_xlmr", {}), ("tiny_bert", {"lora": {"rank": 2}}), ("tiny_bert", {"weight_decay": 0.1})],
)
def test_training_ends_with_it(base, more, gappy_file, tmp_path, request):
    base = base if base == "static" else request.getfixturevalue(base)
    plain = train(
        gappy_file, tmp_path / "plain", base=base, settings=TrainingSettings(**QUICK, **more), objective="multi-way"
    )
    record = train(
        gappy_file,
        tmp_path / "out",
        base=base,
        settings=TrainingSettings(**QUICK, **more, lsar=3),
        objective="multi-way",
    )
    assert plain["lsar"] is None
    assert record["lsar"]["texts"] == record["corpus"]["texts"]
    assert "LSAR: 3 directions projected out, with 100.0% of" in (tmp_path / "out" / "README.md").read_text()

    project(tmp_path / "plain", gappy_file, tmp_path / "later", ProjectionSettings(lsar=1))
    before, encoder, later = (load_encoder(tmp_path / name, device="cpu") for name in ("plain", "out", "later"))
    texts = ["Das Brot.", "The cat sleeps.", "早上好。"]
    for model, rank in ((encoder, 3), (later, 1)):
        projection = next(module for module in model if isinstance(module, Dense)).linear.weight.numpy(force=True)
        assert np.linalg.matrix_rank(np.eye(len(projection)) - projection, tol=1e-3) == rank
        expected = before.encode(texts, normalize_embeddings=True) @ projection.T
        lengths = np.linalg.norm(expected, axis=1, keepdims=True)  # untrained encoders leave little
        np.testing.assert_allclose(
            model.encode(texts, normalize_embeddings=True) * lengths,
            expected,
            atol=1e-6,
            err_msg="the same weights before the map",
        )


def test_a_run_killed_after_its_last_step_ends_in_the_same_encoder(gappy_file, tiny_bert, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    settings = TrainingSettings(**QUICK, lsar=2)
    whole = train(gappy_file, tmp_path / "whole", base=tiny_bert, settings=settings, objective="multi-way")
    with monkeypatch.context() as changed:
        changed.setattr("polyalign.training.trainer.publish", killed)
        with pytest.raises(KeyboardInterrupt):
            train(gappy_file, tmp_path / "out", base=tiny_bert, settings=settings, objective="multi-way")
    assert not (tmp_path / "out").exists()
    resumed = train(gappy_file, tmp_path / "out", base=tiny_bert, settings=settings, objective="multi-way")
    assert resumed["fingerprint"] == whole["fingerprint"]
    assert resumed["cost"]["steps"] == 3


def test_centring_takes_each_language_to_the_origin():
    """en lies around (2, 0), de around (0, 5); a single fr goes to the origin."""
    vectors = np.array([[1.0, 0.0], [0.0, 4.0], [3.0, 0.0], [0.0, 6.0], [7.0, 7.0]], dtype=np.float32)
    centred = center_by_language(vectors, np.array(["en", "de", "en", "de", "fr"]))
    assert centred.tolist() == [[-1, 0], [0, -1], [1, 0], [0, 1], [0, 0]]
    assert centred.dtype == np.float32
    assert center_by_language(vectors[:0], np.array([])).shape == (0, 2)


def test_mistakes_of_the_user(words, gappy_file, tiny_bert, tmp_path):
    with pytest.raises(
        UserError, match="rank 3 cannot be removed from 4 dimensions with 3 languages; allowed are 1 to"
    ):
        project_out(words, WORDS, rank=3)
    with pytest.raises(UserError, match="no text in de to find the language bias in; leave these languages out"):
        project_out(words, WORDS | {"de": []}, rank=1)
    with pytest.raises(UserError, match="differ in 0 directions only; lower the rank from 1"):
        project_out(words, {"en": ["cat"], "de": ["cat"]}, rank=1)
    with pytest.raises(UserError, match="rank 4 cannot be removed from 32 dimensions with 4 languages"):
        train(
            gappy_file,
            tmp_path / "out",
            base=tiny_bert,
            settings=TrainingSettings(**QUICK, lsar=4),
            objective="multi-way",
        )
    assert not list(tmp_path.iterdir()), "told before anything is trained"
    with pytest.raises(UserError, match=r"lsar is 0, must be greater than or equal to 1"):
        TrainingSettings.checked({"lsar": 0}, "train")
