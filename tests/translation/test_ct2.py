"""CTranslate2: every sentence word for word, whatever stands beside it; every cut told; nothing converted twice."""

import json
import pickle
import random
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyalign.errors import UserError
from polyalign.translation.engines import models
from polyalign.translation.engines.ct2 import Ct2Engine, Ct2Settings
from polyalign.translation.engines.models import Serving, TranslationModel
from polyalign.translation.engines.neural import _cuts

from .conftest import FEW, MADLAD_LANGUAGES, MARIAN_LANGUAGE, NLLB_LANGUAGES, OPUS_LANGUAGES, SENTENCES
from .test_models import copied

ENGLISH = [row["en"] for row in SENTENCES]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def engine(tiny_nllb, cache):
    """Makes an engine over ``tiny_nllb``, in float32 unless told otherwise."""

    def make(folder=tiny_nllb, **settings):
        chosen = {"cache": cache, "compute_type": "float32", "threads": 1} | settings
        return Ct2Engine(str(folder), Ct2Settings(**chosen))

    return make


def translated(engine, texts, language):
    """Return the translations in the order of the texts, each given exactly once."""
    found = {}
    for batch in engine.translate(texts, language):
        assert batch
        for index, translation in batch:
            assert index not in found
            found[index] = translation
    assert sorted(found) == list(range(len(texts)))
    return [found[index] for index in range(len(texts))]


class TestWordForWord:
    @pytest.mark.parametrize("language", NLLB_LANGUAGES)
    def test_nllb(self, engine, language):
        found = translated(engine(), ENGLISH, language)
        assert [translation.text for translation in found] == [row[language] for row in SENTENCES]
        assert all(-1 < translation.score < 0 for translation in found)
        assert not any(translation.truncated or translation.unknown or translation.error for translation in found)

    def test_marian(self, engine, tiny_marian):
        found = translated(engine(tiny_marian), ENGLISH, MARIAN_LANGUAGE)
        assert [translation.text for translation in found] == [row[MARIAN_LANGUAGE] for row in SENTENCES]

    @pytest.mark.parametrize(
        ("fixture", "language"), [*(("tiny_nllb", language) for language in NLLB_LANGUAGES), ("tiny_marian", "de")]
    )
    def test_in_8_bits_nearly_so(self, engine, fixture, language, request):
        """Rounding to 8 bits may change a word in so small a model; a wrong language or row would change all."""
        found = translated(engine(request.getfixturevalue(fixture), compute_type="auto"), ENGLISH, language)
        exact = [translation.text == row[language] for translation, row in zip(found, SENTENCES, strict=True)]
        assert sum(exact) >= 8

    @pytest.mark.parametrize("language", OPUS_LANGUAGES)
    def test_opus_with_several_targets(self, engine, tiny_opus, language):
        found = translated(engine(tiny_opus), ENGLISH[: len(FEW)], language)
        assert [translation.text for translation in found] == [row[language] for row in FEW]

    @pytest.mark.parametrize("language", MADLAD_LANGUAGES)
    def test_madlad(self, engine, tiny_madlad, language):
        found = translated(engine(tiny_madlad, beam_size=1), ENGLISH[: len(FEW)], language)
        assert [translation.text for translation in found] == [row[language] for row in FEW]

    @pytest.mark.parametrize("batch_tokens", [1, 40, 64, 100])
    def test_shuffled_repeated_and_in_uneven_batches(self, engine, batch_tokens):
        rows = random.Random(batch_tokens).choices(SENTENCES, k=23)
        found = translated(engine(batch_tokens=batch_tokens, threads=2), [row["en"] for row in rows], "fr")
        assert [translation.text for translation in found] == [row["fr"] for row in rows]

    def test_batches_are_given_as_they_are_done(self, engine):
        batches = list(engine(batch_tokens=40).translate(ENGLISH, "de"))
        assert len(batches) > 3
        assert sum(map(len, batches)) == len(ENGLISH)

    def test_nothing_in_nothing_out(self, engine):
        assert list(engine().translate([], "de")) == []

    def test_several_targets_share_one_loaded_model(self, engine):
        shared = engine()
        for language in NLLB_LANGUAGES:
            translated(shared, ENGLISH[:2], language)
        assert len(shared._translators) == len(shared._models) == 1

    def test_the_list_of_opus_models_gives_each_language_its_own(self, engine, tiny_marian, tiny_opus, monkeypatch):
        listed = {"de": Serving(str(tiny_marian)), "fr": Serving(str(tiny_opus), ">>fra<<")}
        monkeypatch.setattr(models, "opus_models", lambda: listed)
        several = engine("opus-mt")
        assert several.provenance("de").engine == "ctranslate2:opus-mt-en-de"
        assert several.provenance("fr").settings["token"] == ">>fra<<"
        assert several.provenance("es") is None
        for language in listed:
            found = translated(several, ENGLISH[: len(FEW)], language)
            assert [translation.text for translation in found] == [row[language] for row in FEW]

    def test_a_listed_model_without_the_language_is_told(self, engine, tiny_opus, monkeypatch):
        monkeypatch.setattr(models, "opus_models", lambda: {"es": Serving(str(tiny_opus))})
        with pytest.raises(UserError, match=r"opus-mt-en-mul, listed for 'es', does not know it"):
            engine("opus-mt").provenance("es")


class TestAlone:
    @pytest.mark.parametrize("compute_type", ["float32", "int8"])
    def test_a_text_becomes_the_same_alone_and_among_others(self, engine, compute_type):
        texts = [*ENGLISH, "The soup.", "bread " * 40, "My brother and his soup bake every Saturday 15 minutes."]
        used = engine(compute_type=compute_type)
        together = translated(used, texts, "de")
        for text, among in zip(texts, together, strict=True):
            (alone,) = translated(used, [text], "de")
            assert alone.text == among.text
            assert alone.score == pytest.approx(among.score, abs=1e-5)
            assert (alone.truncated, alone.unknown) == (among.truncated, among.unknown)


class TestScore:
    @pytest.mark.parametrize("beam_size", [1, 4])
    def test_it_is_the_mean_log_probability_of_a_token(self, engine, tiny_nllb, beam_size):
        """Compared with transformers, whose mean counts the language token too, to which it gives probability 1."""
        import torch
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(tiny_nllb, src_lang="eng_Latn")
        network = AutoModelForSeq2SeqLM.from_pretrained(tiny_nllb)
        found = translated(engine(beam_size=beam_size), ENGLISH, "de")
        for text, translation in zip(ENGLISH, found, strict=True):
            generated = network.generate(
                **tokenizer(text, return_tensors="pt"), num_beams=max(2, beam_size), max_new_tokens=100,
                forced_bos_token_id=tokenizer.convert_tokens_to_ids("deu_Latn"), length_penalty=1.0,
                return_dict_in_generate=True, output_scores=True,
            )  # fmt: skip
            counted = len(generated.sequences[0]) - 1  # without the decoder's start
            with torch.no_grad():
                expected = generated.sequences_scores[0].item() * counted / (counted - 1)
            assert translation.score == pytest.approx(expected, abs=1e-4)


class TestLongText:
    def test_it_is_split_into_sentences_and_joined(self, engine):
        used = engine(max_input_tokens=40)
        text = " ".join(ENGLISH[:4])
        (joined,) = translated(used, [text], "de")
        assert joined.text == " ".join(row["de"] for row in SENTENCES[:4])
        assert not joined.truncated

    def test_chinese_is_joined_without_a_space(self, engine):
        (joined,) = translated(engine(max_input_tokens=40), [" ".join(ENGLISH[:4])], "zh")
        assert joined.text == "".join(row["zh"] for row in SENTENCES[:4])

    def test_the_score_is_the_mean_over_all_tokens(self, engine, tiny_nllb):
        used = engine(max_input_tokens=40)
        model = TranslationModel(str(tiny_nllb))
        (joined,) = translated(used, [" ".join(ENGLISH[:3])], "fr")
        single = translated(used, ENGLISH[:3], "fr")
        tokens = [len(model.tokenizer(row["fr"], add_special_tokens=False)["input_ids"]) + 1 for row in SENTENCES[:3]]
        mean = sum(part.score * count for part, count in zip(single, tokens, strict=True)) / sum(tokens)
        assert joined.score == pytest.approx(mean, abs=1e-6)

    def test_short_and_long_texts_keep_their_places(self, engine):
        texts = [ENGLISH[0], " ".join(ENGLISH[1:4]), ENGLISH[4], " ".join(ENGLISH[5:9])]
        found = translated(engine(max_input_tokens=40, batch_tokens=64), texts, "de")
        wanted = [SENTENCES[:1], SENTENCES[1:4], SENTENCES[4:5], SENTENCES[5:9]]
        assert [translation.text for translation in found] == [" ".join(row["de"] for row in rows) for rows in wanted]

    def test_a_text_at_the_border_is_not_split(self, engine, tiny_nllb):
        """Two sentences that fit stay one input, which this model has not learnt; one token less and they are split."""
        text = " ".join(ENGLISH[:2])
        length = len(TranslationModel(str(tiny_nllb)).encode([text], "deu_Latn")[0])
        split = " ".join(row["de"] for row in SENTENCES[:2])
        assert translated(engine(max_input_tokens=length), [text], "de")[0].text != split
        assert translated(engine(max_input_tokens=length - 1), [text], "de")[0].text == split


def length_and_output(folder, row, language="zh"):
    """Return the numbers of input and of output tokens of a sentence and its translation, ends included."""
    model = TranslationModel(str(folder))
    output = model.tokenizer(row[language], add_special_tokens=False)["input_ids"]
    return len(model.encode([row["en"]], model.token(language))[0]), len(output) + 1


class TestCuts:
    def test_an_input_of_exactly_the_limit_is_whole(self, engine, tiny_nllb, tmp_path):
        lengths = [length_and_output(tiny_nllb, row) for row in SENTENCES]
        length, output = max(lengths, key=lambda pair: pair[0] - pair[1])
        row = SENTENCES[lengths.index((length, output))]
        assert output + 1 < length  # so that only the input can be cut
        whole = engine(copied(tiny_nllb, tmp_path / "whole", max_position_embeddings=length))
        (translation,) = translated(whole, [row["en"]], "zh")
        assert (translation.text, translation.truncated) == (row["zh"], False)
        short = engine(copied(tiny_nllb, tmp_path / "short", max_position_embeddings=length - 1))
        (translation,) = translated(short, [row["en"]], "zh")
        assert translation.truncated

    @pytest.mark.parametrize("beam_size", [1, 4])
    def test_an_output_of_exactly_the_limit_is_whole(self, engine, tiny_nllb, beam_size):
        for row in SENTENCES[:4]:
            output = length_and_output(tiny_nllb, row, "de")[1]
            (whole,) = translated(engine(max_output_tokens=output, beam_size=beam_size), [row["en"]], "de")
            (cut,) = translated(engine(max_output_tokens=output - 1, beam_size=beam_size), [row["en"]], "de")
            assert (whole.text, whole.truncated) == (row["de"], False)
            assert cut.truncated
            assert len(cut.text) <= len(row["de"])

    def test_so_it_is_for_marian(self, engine, tiny_marian):
        row = SENTENCES[0]
        model = TranslationModel(str(tiny_marian))
        output = len(model.tokenizer(text_target=row["de"])["input_ids"])
        (whole,) = translated(engine(tiny_marian, max_output_tokens=output), [row["en"]], "de")
        (cut,) = translated(engine(tiny_marian, max_output_tokens=output - 1), [row["en"]], "de")
        assert (whole.text, whole.truncated, cut.truncated) == (row["de"], False, True)

    @pytest.mark.parametrize("fixture", ["tiny_nllb", "tiny_marian"])
    def test_output_stops_at_the_models_own_limit(self, engine, fixture, request, tmp_path):
        folder = copied(request.getfixturevalue(fixture), tmp_path / "opus-mt-en-de", max_position_embeddings=8)
        assert all(translation.truncated for translation in translated(engine(folder), ENGLISH, "de"))

    def test_one_cut_sentence_marks_the_joined_text(self, engine, tiny_nllb, tmp_path):
        lengths = [length_and_output(tiny_nllb, row)[0] for row in SENTENCES]
        longest = lengths.index(max(lengths))
        limit = sorted(lengths)[-2]
        short = engine(copied(tiny_nllb, tmp_path / "short", max_position_embeddings=limit))
        others = [text for index, text in enumerate(ENGLISH) if index != longest]
        assert not translated(short, [" ".join(others)], "zh")[0].truncated
        assert translated(short, [" ".join(ENGLISH)], "zh")[0].truncated

    def test_unknown_pieces_are_counted(self, engine):
        known, unknown = translated(engine(), [ENGLISH[0], f"{ENGLISH[0]} Ω"], "de")
        assert (known.unknown, unknown.unknown) == (0, 1)

    @given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
    def test_batches_cover_everything_once_within_the_budget(self, lengths, budget):
        lengths = sorted(lengths, reverse=True)
        cuts = list(_cuts(lengths, budget))
        assert [index for start, end in cuts for index in range(start, end)] == list(range(len(lengths)))
        for start, end in cuts:
            assert (end - start) * lengths[start] <= budget or end - start == 1
            assert end == len(lengths) or (end - start + 1) * lengths[start] > budget  # as full as may be


class TestConversion:
    def test_it_happens_once(self, engine, tmp_path):
        translated(engine(cache=tmp_path), ENGLISH[:1], "de")
        (made,) = [path for path in tmp_path.iterdir() if path.is_dir()]
        stamp = (made / "model.bin").stat().st_mtime_ns
        translated(engine(cache=tmp_path), ENGLISH[:1], "de")
        assert (made / "model.bin").stat().st_mtime_ns == stamp
        translated(engine(cache=tmp_path, compute_type="int8"), ENGLISH[:1], "de")
        names = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
        assert [name.split("-")[-1] for name in names] == ["float32", "int8"]

    def test_several_at_once_make_one(self, engine, tmp_path, caplog):
        with caplog.at_level("INFO", logger="polyalign"), ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: translated(engine(cache=tmp_path), ENGLISH[:2], "de"), range(4)))
        assert [[translation.text for translation in each] for each in found] == [[r["de"] for r in SENTENCES[:2]]] * 4
        assert sum("converting tiny-nllb for CTranslate2" in record.message for record in caplog.records) == 1

    def test_the_cache_stands_where_the_environment_says(self, engine, tmp_path, monkeypatch):
        monkeypatch.setenv("POLYALIGN_CACHE", str(tmp_path / "here"))
        translated(engine(cache=None), ENGLISH[:1], "de")
        assert list((tmp_path / "here" / "ctranslate2").glob("tiny-nllb-*-float32/model.bin"))

    def test_a_failed_one_leaves_nothing(self, engine, tiny_nllb, tmp_path):
        broken = copied(tiny_nllb, tmp_path / "broken")
        (broken / "model.safetensors").write_bytes(b"not weights")
        with pytest.raises(UserError, match=r"CTranslate2 cannot convert .*broken") as caught:
            translated(engine(broken, cache=tmp_path / "cache"), ENGLISH[:1], "de")
        assert "\n" not in str(caught.value)
        assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]

    def test_separate_vocabularies_are_refused(self, engine, tiny_marian, tmp_path):
        used = engine(tiny_marian, cache=tmp_path)
        used.provenance("de")
        used._models[str(tiny_marian)].tokenizer.separate_vocabs = True
        with pytest.raises(UserError, match="source and target vocabularies differ; use the engine transformers"):
            translated(used, ENGLISH[:1], "de")


def renamed(vocabulary, token, other):
    """Let a token of a CTranslate2 vocabulary be called otherwise."""
    tokens = json.loads(vocabulary.read_text(encoding="utf-8"))
    tokens[tokens.index(token)] = other
    vocabulary.write_text(json.dumps(tokens), encoding="utf-8")


class TestConvertedFolder:
    @pytest.fixture
    def converted(self, engine, tiny_nllb, cache, tmp_path):
        """A CTranslate2 folder with the tokenizer's files beside the weights."""
        translated(engine(), ENGLISH[:1], "de")
        (made,) = cache.glob("tiny-nllb-*-float32")
        folder = tmp_path / "converted"
        shutil.copytree(made, folder)
        for path in tiny_nllb.glob("tokenizer*.json"):
            shutil.copy(path, folder)
        return folder

    def test_it_serves_as_it_is(self, engine, converted, tmp_path):
        used = engine(converted, cache=tmp_path / "unused")
        found = translated(used, ENGLISH, "fr")
        assert [translation.text for translation in found] == [row["fr"] for row in SENTENCES]
        assert used.provenance("fr").engine == "ctranslate2:converted"
        assert not (tmp_path / "unused").exists()

    def test_a_tokenizer_of_another_model_is_refused(self, engine, converted, tmp_path):
        renamed(converted / "shared_vocabulary.json", "▁every", "▁ever")
        said = r"does not belong to the weights .*they lack 1 of its tokens, such as '▁every'"
        with pytest.raises(UserError, match=said):
            translated(engine(converted), ENGLISH[:1], "fr")

    def test_a_language_that_the_weights_lack_is_refused(self, engine, converted):
        renamed(converted / "shared_vocabulary.json", "fra_Latn", "frx_Latn")
        with pytest.raises(UserError, match=r"the weights in .* do not know the language token 'fra_Latn'"):
            engine(converted).provenance("fr")

    def test_without_a_tokenizer_it_is_refused(self, engine, converted):
        for path in converted.glob("tokenizer*.json"):
            path.unlink()
        with pytest.raises(UserError, match=r"cannot load a tokenizer .* put the tokenizer's files of the original"):
            engine(converted).provenance("fr")

    def test_without_a_vocabulary_it_is_refused(self, engine, converted):
        (converted / "shared_vocabulary.json").unlink()
        with pytest.raises(UserError, match=r"has model.bin but no vocabulary: it is not a whole CTranslate2 model"):
            engine(converted).provenance("fr")


class TestProvenance:
    def test_what_it_says(self, engine, tiny_nllb):
        found = engine().provenance("de")
        assert found.engine == "ctranslate2:tiny-nllb"
        assert found.licence == "CC-BY-NC-4.0"
        assert found.revision == TranslationModel(str(tiny_nllb)).revision
        assert found.settings == {
            "token": "deu_Latn",
            "weights": "float32",
            "beam_size": 4,
            "max_input_tokens": 256,
            "max_output_tokens": 512,
        }

    def test_a_language_that_the_family_lacks_is_passed_on(self, engine):
        assert engine().provenance("aa") is None
        with pytest.raises(UserError, match=r"ctranslate2:.* does not translate into 'aa'"):
            next(engine().translate(ENGLISH, "aa"))

    def test_only_what_decides_the_output_decides_the_key(self, engine, tmp_path):
        key = engine().provenance("de").key
        for same in ({"threads": 2}, {"batch_tokens": 7}, {"cache": tmp_path}, {"threads_per_batch": 2}):
            assert engine(**same).provenance("de").key == key
        for other in ({"beam_size": 1}, {"compute_type": "int8"}, {"max_input_tokens": 9}, {"max_output_tokens": 9}):
            assert engine(**other).provenance("de").key != key
        assert engine().provenance("fr").key != key

    def test_int8_is_int8_on_every_device(self, engine):
        keys = {engine(compute_type=kind).provenance("de").key for kind in ("auto", "int8", "int8_float16")}
        assert len(keys) == 1

    def test_an_engine_is_made_again_from_its_parts(self, engine):
        used = engine()
        model, settings = pickle.loads(pickle.dumps((used.model, used.settings)))
        again = Ct2Engine(model, settings)
        assert again.provenance("de") == used.provenance("de")
        again.close()
        assert translated(again, ENGLISH[:1], "de")[0].text == SENTENCES[0]["de"]  # close frees, it does not forbid

    def test_construction_reads_nothing(self):
        assert Ct2Engine("org/none", Ct2Settings()).model == "org/none"


def test_a_missing_package_is_named(engine, monkeypatch):
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    said = r"the engine ctranslate2 needs a package .*: pip install 'polyalign\[translate\]'"
    with pytest.raises(UserError, match=said):
        translated(engine(), ENGLISH[:1], "de")


def test_a_compute_type_that_the_device_lacks_is_told(engine):
    with pytest.raises(UserError, match=r"CTranslate2 cannot load .* on cpu with float16: .*another device or"):
        translated(engine(compute_type="float16"), ENGLISH[:1], "de")


def test_wrong_settings_are_told():
    with pytest.raises(UserError, match=r"engine: beam_size is 0, .*; language: unknown language code 'xx1'"):
        Ct2Settings.checked({"beam_size": 0, "language": "xx1"}, "engine")
    assert Ct2Settings(language="deu_Latn").language == "de"
