"""The teacher's vectors: those of `encode`, in the order of the keys, computed once."""

import warnings

import numpy as np
import polars as pl
import pytest
import torch

from polyalign.corpus import Corpus
from polyalign.encoder import load_encoder, set_default_prompt
from polyalign.errors import UserError
from polyalign.training.batches import key
from polyalign.training.teacher import in_dimensions, teacher_vectors


@pytest.fixture(scope="module")
def corpus(gappy_file):
    return Corpus.open(gappy_file)


@pytest.fixture
def teacher(tiny_bert):
    return load_encoder(tiny_bert, device="cpu")


@pytest.fixture
def encoded(monkeypatch):
    """The texts that were encoded."""
    from sentence_transformers import SentenceTransformer

    texts, plain = [], SentenceTransformer.encode

    def encode(self, inputs, *args, **kwargs):
        texts.extend(inputs)
        return plain(self, inputs, *args, **kwargs)

    monkeypatch.setattr(SentenceTransformer, "encode", encode)
    return texts


@pytest.mark.parametrize("prompt", [None, "query: "])
def test_vectors_are_those_of_encode(prompt, corpus, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr("polyalign.training.teacher.ROWS_PER_BLOCK", 25)
    if prompt:
        set_default_prompt(teacher, prompt)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        keys, vectors = teacher_vectors(teacher, corpus, cache=tmp_path)
    assert keys.dtype == torch.int64
    assert vectors.dtype == torch.float32
    assert (keys.diff() > 0).all()
    english = dict(corpus.rows.select(pl.col("row_id").map_elements(key, pl.Int64), "en").iter_rows())
    assert set(keys.tolist()) == set(english)
    expected = teacher.encode([english[row] for row in keys.tolist()])
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_other_dimensions_keep_lengths_and_most_of_the_dot_products(monkeypatch):
    """Rank 3 in 8 dimensions fits into 3; what does not fit is what matters least, as in a truncated SVD."""
    monkeypatch.setattr("polyalign.training.teacher.ROWS_PER_BLOCK", 7)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(20, 3, generator=generator) @ torch.randn(3, 8, generator=generator)
    for dimensions in (3, 5, 11):
        moved = in_dimensions(vectors, dimensions)
        assert moved.shape == (20, dimensions)
        torch.testing.assert_close(moved @ moved.T, vectors @ vectors.T, atol=1e-4, rtol=1e-4)
    two = in_dimensions(vectors, 2)
    torch.testing.assert_close(two.norm(dim=1), vectors.norm(dim=1))
    _, _, directions = torch.linalg.svd(vectors, full_matrices=False)
    best = torch.nn.functional.normalize(vectors @ directions[:2].T)
    torch.testing.assert_close(
        torch.nn.functional.normalize(two) @ torch.nn.functional.normalize(two).T, best @ best.T, atol=1e-4, rtol=1e-4
    )


def test_they_are_computed_once(corpus, teacher, tiny_xlmr, tmp_path, encoded):
    first = teacher_vectors(teacher, corpus, cache=tmp_path)
    assert sorted(encoded) == sorted(corpus.rows["en"])
    encoded.clear()
    backwards = Corpus(corpus.rows.reverse(), corpus.languages, corpus.report)
    for same in (corpus, backwards, corpus.select(["en", "ru"])):
        again = teacher_vectors(teacher, same, cache=tmp_path)
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])
    assert not encoded
    teacher_vectors(load_encoder(tiny_xlmr, device="cpu"), corpus, cache=tmp_path)
    assert len(encoded) == len(corpus)
    teacher_vectors(teacher, corpus.split(10)[0], cache=tmp_path)
    assert len(encoded) == 2 * len(corpus) - 10


def test_a_damaged_folder_is_made_again(corpus, teacher, tmp_path, caplog):
    before = teacher_vectors(teacher, corpus, cache=tmp_path)[1].clone()
    (path,) = tmp_path.glob("*/vectors.bin")
    path.write_bytes(path.read_bytes()[:-1])
    assert torch.equal(teacher_vectors(teacher, corpus, cache=tmp_path)[1], before)
    assert f"{path.parent} is damaged and is made again" in caplog.text


def test_rows_without_english_are_left_out(teacher, tmp_path):
    rows = pl.DataFrame({"row_id": ["a", "b"], "en": [None, "Bread."], "de": ["Brot.", "Brot."], "fr": ["Pain.", None]})
    corpus = Corpus.from_texts(rows, "rows")
    keys, vectors = teacher_vectors(teacher, corpus, cache=tmp_path)
    assert keys.tolist() == [key("b")]
    assert vectors.shape == (1, 32)
    with pytest.raises(UserError, match="has no English"):
        teacher_vectors(teacher, corpus.select(["de", "fr"]), cache=tmp_path)
