"""The lexical half against sums by hand, through an encoder, its folder, training and further training."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, WordEmbeddings

from polyalign.corpus import Corpus
from polyalign.encoder import load_encoder, read_record, set_default_prompt
from polyalign.errors import UserError
from polyalign.training import LexicalSettings, ProjectionSettings, TrainingSettings, lexical, project, train
from polyalign.training.lexical import add_lexical, append_half

QUICK = {"steps": 3, "batch_rows": 8, "dev_rows": 0, "evaluations": 1}
TEXTS = ["Das Brot.", "The cat sleeps on the chair near the window.", "早上好。", "", "x"]
SMALL = LexicalSettings(weight=0.7, epochs=1, batch_rows=16)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def half_of(model, folder):
    """Return the vectors of the subwords, as they lie in the folder."""
    place = [type(module) for module in model].index(WordEmbeddings)
    return load_file(folder / f"{place}_WordEmbeddings" / "model.safetensors")["emb_layer.weight"]


def naive(plain, vectors, texts):
    """Text by text, without padding: the encoder's embedding and the subwords' sum over the root of their number."""
    prompt = plain.prompts.get(plain.default_prompt_name or "", "")
    found = []
    for text in texts:
        ids = plain.tokenizer(prompt + text)["input_ids"]
        words = sum(vectors[one] for one in ids) / len(ids) ** 0.5
        found.append(unit(np.concatenate([unit(plain.encode(text)), words])))
    return np.array(found)


@pytest.mark.parametrize("base", ["tiny_bert", "tiny_xlmr"])
@pytest.mark.parametrize("prompt", [None, "query: "])
@pytest.mark.parametrize("normalized", [True, False])
def test_it_is_the_sum_of_two_similarities(base, prompt, normalized, tmp_path, request):
    model, plain = (load_encoder(request.getfixturevalue(base), device="cpu") for _ in range(2))
    for one in (model, plain):
        if normalized:
            one.append(Normalize())
        if prompt:
            set_default_prompt(one, prompt)
    vectors = np.random.default_rng(0).normal(size=(len(plain.tokenizer), 32)).astype(np.float32)
    vectors[plain.tokenizer.all_special_ids] = 0
    append_half(model, torch.from_numpy(vectors.copy()))
    np.testing.assert_allclose(model.encode(TEXTS), naive(plain, vectors, TEXTS), atol=1e-5)
    assert model.get_embedding_dimension() == 64
    model.save(str(tmp_path / "saved"))
    reloaded = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_array_equal(reloaded.encode(TEXTS), model.encode(TEXTS))


def test_what_is_learnt(tiny_bert, gappy_file, tmp_path):
    """Beside its own embedding, a text has its words; of the weight that was asked for, root mean square."""
    record = project(tiny_bert, gappy_file, tmp_path / "out", ProjectionSettings(lexical=SMALL))
    assert record == read_record(tmp_path / "out")
    corpus = Corpus.open(gappy_file)
    assert record["lexical"]["settings"] == SMALL.model_dump()
    assert (record["lexical"]["rows"], record["lexical"]["fingerprint"]) == (len(corpus), corpus.fingerprint)
    assert record["lexical"]["texts_encoded"] > 0
    assert record["languages"] == ["de", "en", "ru", "zh"]
    assert record["arm"].endswith("+lexical")
    assert "| Lexical half | a vector for each subword, trained on 60 rows" in (tmp_path / "out/README.md").read_text()
    plain, model = load_encoder(tiny_bert, device="cpu"), load_encoder(tmp_path / "out", device="cpu")
    vectors = half_of(model, tmp_path / "out")
    np.testing.assert_allclose(model.encode(TEXTS), naive(plain, vectors, TEXTS), atol=1e-5)
    special = [plain.tokenizer.cls_token_id, plain.tokenizer.sep_token_id, plain.tokenizer.pad_token_id]
    assert not vectors[special].any()
    squares = []
    for text in (text for tag in corpus.languages for text in corpus.rows[tag].drop_nulls()):
        ids = plain.tokenizer(text)["input_ids"]
        squares.append((vectors[ids].sum(0) ** 2).sum() / len(ids))
    assert np.sqrt(np.mean(squares)) == pytest.approx(0.7, rel=1e-4)


def test_translations_come_nearer(tiny_bert, gappy_file, tmp_path):
    rows = Corpus.open(gappy_file).rows.drop_nulls()
    learnt = LexicalSettings(weight=9, epochs=30, batch_rows=16)
    project(tiny_bert, gappy_file, tmp_path / "out", ProjectionSettings(lexical=learnt))

    def found(folder):
        english, german = (
            load_encoder(folder, device="cpu").encode(rows[tag].to_list(), normalize_embeddings=True)
            for tag in ("en", "de")
        )
        return ((german @ english.T).argmax(1) == np.arange(len(rows))).mean()

    assert found(tmp_path / "out") > 3 * found(tiny_bert)


def test_the_teacher_may_be_another(tiny_bert, tiny_xlmr, gappy_file):
    model, other = (load_encoder(tiny_bert, device="cpu") for _ in range(2))
    corpus = Corpus.open(gappy_file)
    add_lexical(model, corpus, SMALL, seed=0)
    add_lexical(other, corpus, SMALL.model_copy(update={"teacher": tiny_xlmr}), seed=0)
    one, two = (half.state_dict()["3.emb_layer.weight"] for half in (model, other))
    assert one.shape == two.shape
    assert not torch.equal(one, two)


@pytest.mark.parametrize("base", ["tiny_bert", "tiny_xlmr"])
def test_training_ends_with_it_as_project_adds_it(base, gappy_file, tmp_path, request):
    """And training may go on from there, the subwords' vectors staying as they are."""
    base = request.getfixturevalue(base)
    train(gappy_file, tmp_path / "plain", base=base, settings=TrainingSettings(**QUICK), seed=1, objective="multi-way")
    whole = TrainingSettings(**QUICK, lexical=SMALL, wccn=0.5)
    record = train(gappy_file, tmp_path / "at-once", base=base, settings=whole, seed=1, objective="multi-way")
    later = project(tmp_path / "plain", gappy_file, tmp_path / "later", ProjectionSettings(lexical=SMALL, wccn=0.5))
    assert later["arm"] == "multi-way+lexical+wccn"
    assert {**later["lexical"], "seconds": 0} == {**record["lexical"], "seconds": 0}
    vectors = [load_encoder(tmp_path / name, device="cpu").encode(TEXTS) for name in ("at-once", "later")]
    np.testing.assert_allclose(*vectors, atol=1e-4)
    assert vectors[0].shape == (len(TEXTS), 64)
    train(
        gappy_file,
        tmp_path / "on",
        base=str(tmp_path / "later"),
        settings=TrainingSettings(**QUICK),
        objective="multi-way",
    )
    further = load_encoder(tmp_path / "on", device="cpu")
    np.testing.assert_array_equal(half_of(further, tmp_path / "on"), half_of(further, tmp_path / "later"))
    assert np.abs(further.encode(TEXTS) - vectors[1]).max() > 1e-5
    with pytest.raises(UserError, match="later ends in lexical and wccn already; give the encoder that it was made"):
        project(tmp_path / "later", gappy_file, tmp_path / "again", ProjectionSettings(lexical=SMALL, wccn=1))


def test_mistakes_of_the_user(tiny_bert, gappy_file, tmp_path, monkeypatch):
    """All of them before anything is trained."""
    wanted, foreign = TrainingSettings(**QUICK, lexical=SMALL), tmp_path / "foreign.parquet"
    Corpus.open(gappy_file).rows.drop("en", "row_id").write_parquet(foreign)
    with pytest.raises(UserError, match="a static encoder is lexical as a whole; leave lexical out"):
        train(gappy_file, tmp_path / "out", settings=wanted, objective="multi-way")
    with pytest.raises(UserError, match="learn from English, and the corpus has none; leave lexical out"):
        train(foreign, tmp_path / "out", base=tiny_bert, settings=wanted, objective="multi-way")
    lost = TrainingSettings(**QUICK, lexical=SMALL.model_copy(update={"teacher": str(tmp_path / "nowhere")}))
    with pytest.raises(UserError, match=r"cannot load the model '.*nowhere': no such folder"):
        train(gappy_file, tmp_path / "out", base=tiny_bert, settings=lost, objective="multi-way")
    monkeypatch.setattr(lexical, "world_size", lambda: 2)
    with pytest.raises(UserError, match="made by one process; leave it out, and run `polyalign project` afterwards"):
        train(gappy_file, tmp_path / "out", base=tiny_bert, settings=wanted, objective="multi-way")
    with pytest.raises(UserError, match="lexical needs parallel rows, and got texts by language; give a corpus"):
        project(tiny_bert, {"en": ["Bread."]}, tmp_path / "out", ProjectionSettings(lexical=SMALL))
    with pytest.raises(UserError, match=r"lexical\.weight is 0, must be"):
        TrainingSettings.checked({"lexical": {"weight": 0}}, "train")
    assert list(tmp_path.iterdir()) == [foreign]
