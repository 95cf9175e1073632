"""transformers as the reference: the same words, scores and marks as CTranslate2."""

import shutil

import pytest

from polyalign.errors import UserError
from polyalign.translation.engines.ct2 import Ct2Engine, Ct2Settings
from polyalign.translation.engines.models import TranslationModel
from polyalign.translation.engines.seq2seq import Seq2SeqEngine, Seq2SeqSettings

from .conftest import FEW, MADLAD_LANGUAGES, NLLB_LANGUAGES, OPUS_LANGUAGES, SENTENCES
from .test_ct2 import ENGLISH, length_and_output, translated
from .test_models import copied


def reference(folder, **settings):
    return Seq2SeqEngine(str(folder), Seq2SeqSettings(**settings))


@pytest.mark.parametrize("beam_size", [1, 4])
@pytest.mark.parametrize("language", NLLB_LANGUAGES)
def test_nllb_word_for_word(tiny_nllb, language, beam_size):
    found = translated(reference(tiny_nllb, beam_size=beam_size, batch_tokens=100), ENGLISH, language)
    assert [translation.text for translation in found] == [row[language] for row in SENTENCES]


@pytest.mark.parametrize(
    ("fixture", "languages", "rows"),
    [("tiny_marian", ["de"], SENTENCES), ("tiny_opus", OPUS_LANGUAGES, FEW), ("tiny_madlad", MADLAD_LANGUAGES, FEW)],
)
def test_the_other_families_word_for_word(fixture, languages, rows, request):
    engine = reference(request.getfixturevalue(fixture), beam_size=1)
    for language in languages:
        found = translated(engine, [row["en"] for row in rows], language)
        assert [translation.text for translation in found] == [row[language] for row in rows]


@pytest.mark.parametrize("fixture", ["tiny_nllb", "tiny_marian", "tiny_opus", "tiny_madlad"])
@pytest.mark.parametrize("beam_size", [1, 2])
def test_both_libraries_agree_on_what_they_know_and_on_what_they_do_not(fixture, beam_size, request, tmp_path):
    folder = request.getfixturevalue(fixture)
    texts = [*ENGLISH, "The soup and the bread.", "Every morning 15 minutes Ω"]
    settings = {"beam_size": beam_size, "max_output_tokens": 40, "threads": 1}
    fast = Ct2Engine(str(folder), Ct2Settings(cache=tmp_path, compute_type="float32", **settings))
    slow = translated(reference(folder, **settings), texts, "de")
    for theirs, ours in zip(slow, translated(fast, texts, "de"), strict=True):
        assert (theirs.text, theirs.truncated, theirs.unknown) == (ours.text, ours.truncated, ours.unknown)
        assert theirs.score == pytest.approx(ours.score, abs=1e-4)


@pytest.mark.parametrize("fixture", ["tiny_nllb", "tiny_marian"])
@pytest.mark.parametrize("beam_size", [1, 4])
def test_an_output_of_exactly_the_limit_is_whole(fixture, beam_size, request):
    """Marian's own configuration forces an end where the output is cut, which would hide the cut."""
    folder = request.getfixturevalue(fixture)
    row = SENTENCES[2]
    output = TranslationModel(str(folder)).tokenizer(text_target=row["de"], add_special_tokens=False)["input_ids"]
    limit = len(output) + 1
    (whole,) = translated(reference(folder, max_output_tokens=limit, beam_size=beam_size), [row["en"]], "de")
    (cut,) = translated(reference(folder, max_output_tokens=limit - 1, beam_size=beam_size), [row["en"]], "de")
    assert (whole.text, whole.truncated, cut.truncated) == (row["de"], False, True)


def test_an_input_of_exactly_the_limit_is_whole(tiny_nllb, tmp_path):
    lengths = [length_and_output(tiny_nllb, row) for row in SENTENCES]
    length, output = max(lengths, key=lambda pair: pair[0] - pair[1])
    row = SENTENCES[lengths.index((length, output))]
    whole = reference(copied(tiny_nllb, tmp_path / "whole", max_position_embeddings=length))
    short = reference(copied(tiny_nllb, tmp_path / "short", max_position_embeddings=length - 1))
    assert translated(whole, [row["en"]], "zh")[0].text == row["zh"]
    assert not translated(whole, [row["en"]], "zh")[0].truncated
    assert translated(short, [row["en"]], "zh")[0].truncated


@pytest.mark.parametrize("fixture", ["tiny_nllb", "tiny_marian"])
def test_output_stops_at_the_models_own_limit(fixture, request, tmp_path):
    folder = copied(request.getfixturevalue(fixture), tmp_path / "opus-mt-en-de", max_position_embeddings=8)
    assert all(translation.truncated for translation in translated(reference(folder), ENGLISH, "de"))


def test_long_text_is_split_and_joined(tiny_nllb):
    (joined,) = translated(reference(tiny_nllb, max_input_tokens=40), [" ".join(ENGLISH[:3])], "zh")
    assert joined.text == "".join(row["zh"] for row in SENTENCES[:3])


def test_scores_do_not_depend_on_how_many_are_scored_at_once(tiny_nllb, monkeypatch):
    together = translated(reference(tiny_nllb), ENGLISH, "de")
    monkeypatch.setattr("polyalign.translation.engines.seq2seq._LOGITS", 1)
    singly = translated(reference(tiny_nllb), ENGLISH, "de")
    assert [t.score for t in together] == pytest.approx([t.score for t in singly], abs=1e-6)


def test_provenance_names_the_library_and_the_numbers(tiny_nllb):
    found = reference(tiny_nllb).provenance("fr")
    assert (found.engine, found.settings["weights"], found.settings["token"]) == (
        "transformers:tiny-nllb",
        "float32",
        "fra_Latn",
    )
    assert reference(tiny_nllb, dtype="bfloat16").provenance("fr").key != found.key
    assert reference(tiny_nllb, batch_tokens=3).provenance("fr").key == found.key
    assert reference(tiny_nllb).provenance("aa") is None


def test_a_bilingual_model_of_any_kind_serves_when_it_is_told_its_language(tiny_madlad, tmp_path):
    """A T5 without language tokens, as one trained for a single pair: here they are renamed to ordinary pieces."""
    folder = tmp_path / "mine"
    shutil.copytree(tiny_madlad, folder)
    path = folder / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"<2', '"<x'), encoding="utf-8")
    with pytest.raises(UserError, match="cannot tell which language mine translates into"):
        reference(folder).provenance("fr")
    engine = reference(folder, language="fr", beam_size=1)
    assert engine.provenance("de") is None
    assert engine.provenance("fr").settings["token"] == ""
    found = translated(engine, [f"<xfr> {row['en']}" for row in FEW], "fr")
    assert [translation.text for translation in found] == [row["fr"] for row in FEW]


def test_a_converted_folder_is_for_the_other_engine(tiny_nllb, tmp_path):
    folder = tmp_path / "converted"
    fast = Ct2Engine(str(tiny_nllb), Ct2Settings(cache=tmp_path))
    translated(fast, ENGLISH[:1], "de")
    shutil.copytree(next(tmp_path.glob("tiny-nllb-*-int8")), folder)
    for path in tiny_nllb.glob("tokenizer*.json"):
        shutil.copy(path, folder)
    with pytest.raises(UserError, match="is a CTranslate2 model; use the engine ctranslate2, or the original model"):
        translated(reference(folder), ENGLISH[:1], "de")


def test_broken_weights_are_told_in_one_line(tiny_nllb, tmp_path):
    broken = copied(tiny_nllb, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match=r"cannot load a translation model from .*broken: ") as caught:
        translated(reference(broken), ENGLISH[:1], "de")
    assert "\n" not in str(caught.value)
