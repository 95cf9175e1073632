"""Language identification: the batch agrees with py3langid itself, text by text, and knows what it does not know."""

import builtins
import socket

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyalign import identification
from polyalign.errors import UserError
from polyalign.identification import identifier_version, identify
from polyalign.languages import canonical, is_known

SENTENCES = {
    "de": "Der Hund läuft über die Straße und bellt.",
    "en": "The dog runs across the street and barks.",
    "es": "El perro cruza la calle corriendo y ladra.",
    "fr": "Le chien traverse la rue en courant et aboie.",
    "gl": "O can cruza a rúa correndo e ladra ás persoas.",
    "ja": "犬が通りを走って渡り、吠えている。",
    "ru": "Собака бежит через улицу и лает.",
    "zh": "那只狗跑过街道，一边跑一边叫。",
}


@pytest.fixture(scope="module")
def library():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def strings(texts):
    return pl.Series(texts, dtype=pl.String)


def test_sentences_are_identified():
    found = identify(strings(SENTENCES.values()), "de")
    assert found["language"].to_list() == list(SENTENCES)
    assert found["probability"].min() > 0.3
    assert found["expected_probability"][0] == found["probability"][0]
    assert found["expected_probability"][1:].max() < 0.01
    assert found.schema == {"language": pl.String, "probability": pl.Float32, "expected_probability": pl.Float32}


@given(st.lists(st.text(max_size=60) | st.sampled_from(list(SENTENCES.values())), max_size=8))
def test_agrees_with_the_library(library, texts):
    found = identify(strings(texts), "fr")
    assert len(found) == len(texts)
    for text, (language, probability, of_french) in zip(texts, found.iter_rows(), strict=True):
        ranked = dict(library.rank(text))
        label, expected = max(ranked.items(), key=lambda pair: pair[1])
        assert (probability, of_french) == pytest.approx((expected, ranked["fr"]), abs=1e-4)
        close = sorted(ranked.values())[-2] > expected - 1e-4
        assert language in (None, canonical(label) if is_known(label) else None) or close


def test_a_text_does_not_depend_on_those_beside_it():
    texts = strings(list(SENTENCES.values()) * 3)
    together = identify(texts, "ru")
    apart = pl.concat([identify(strings([text]), "ru") for text in texts])
    assert together.equals(apart)


def test_nothing_is_no_language():
    assert identify(strings(["", "123", "?!", "\n"]), "de")["language"].to_list() == [None] * 4
    assert identify(strings([]), "de").shape == (0, 3)


def test_gigantic_texts_are_judged_by_their_start():
    long = SENTENCES["de"] * 100_000 + SENTENCES["fr"]
    assert identify(strings([long]), "de")["language"].item() == "de"


@pytest.mark.parametrize(
    ("tag", "known"),
    [("de", True), ("pt-BR", True), ("zh-Hant", True), ("sr-Latn", True), ("ast", False), ("uz-Arab", False)],
)
def test_unknown_languages_and_scripts_have_no_probability(tag, known):
    assert identify(strings(["abc"]), tag)["expected_probability"].is_not_null().item() == known


def test_never_touches_the_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a socket was opened")

    identification._model.cache_clear()
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert identify(strings([SENTENCES["es"]]), "es")["language"].item() == "es"


def test_a_missing_package_names_the_install_line(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("py3langid"):
            raise ImportError(name)
        return real(name, *rest)

    identification._model.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"needs py3langid; pip install 'polyalign\[translate\]'"):
        identify(strings(["abc"]), "de")


def test_version():
    assert identifier_version().startswith("py3langid 0.4")
