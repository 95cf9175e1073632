"""Which model, which tokens, which licence: what both neural engines take from `TranslationModel`."""

import json
import re
import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest

from polyalign.errors import UserError
from polyalign.languages import canonical
from polyalign.translation.engines import models
from polyalign.translation.engines.models import TranslationModel, find, opus_models, serving

from .conftest import FEW, NLLB_LANGUAGES, SENTENCES, _sentencepiece, _texts

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def copied(folder, target, **config):
    shutil.copytree(folder, target)
    path = target / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return target


@pytest.fixture
def only_sentencepiece(tiny_nllb, tmp_path):
    """NLLB's weights, but of its tokenizer only the file from which transformers 5 cannot tell the languages."""
    folder = tmp_path / "nllb"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_nllb / name, folder)
    (folder / "sentencepiece.bpe.model").write_bytes(_sentencepiece(_texts(SENTENCES, ["en", *NLLB_LANGUAGES])))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "NllbTokenizer"}')
    return folder


@pytest.fixture(scope="module")
def m2m_tokenizer(tmp_path_factory):
    """A folder with a tokenizer of M2M-100's kind and the configuration of a model that it fits."""
    from transformers import M2M100Config, M2M100Tokenizer

    folder = tmp_path_factory.mktemp("m2m")
    written = _sentencepiece(_texts(FEW, ["en", "de"]))
    (folder / "sentencepiece.bpe.model").write_bytes(written)
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁the", "▁a", "▁"]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    tokenizer = M2M100Tokenizer(str(folder / "vocab.json"), str(folder / "sentencepiece.bpe.model"))
    tokenizer.save_pretrained(folder)
    M2M100Config(vocab_size=len(pieces) + 100 + 8, max_position_embeddings=64).save_pretrained(folder)
    return folder


class TestTokens:
    def test_nllb_puts_english_in_front_and_ends_the_sentence(self, tiny_nllb):
        model = TranslationModel(str(tiny_nllb))
        (ids,) = model.encode(["The soup"], "deu_Latn")
        assert model.family == "nllb"
        assert model.tokenizer.convert_ids_to_tokens(ids)[0] == "eng_Latn"
        assert model.tokenizer.convert_ids_to_tokens(ids)[-1] == "</s>"
        assert model.token("de") == "deu_Latn"
        assert model.token("de-AT") == "deu_Latn"
        assert model.token("aa") is None  # NLLB has no Afar

    def test_m2m_names_languages_its_own_way(self, m2m_tokenizer):
        model = TranslationModel(str(m2m_tokenizer))
        (ids,) = model.encode(["the a"], "__de__")
        assert model.family == "m2m"
        assert model.token("de") == "__de__"
        assert model.token("aa") is None  # M2M-100 has no Afar
        assert model.tokenizer.convert_ids_to_tokens(ids) == ["__en__", "▁the", "▁a", "</s>"]

    def test_madlad_puts_the_target_into_the_text(self, tiny_madlad):
        model = TranslationModel(str(tiny_madlad))
        (ids,) = model.encode(["Could you"], "<2de>")
        assert model.family == "madlad"
        assert model.tokenizer.convert_ids_to_tokens(ids)[:2] == ["▁", "<2de>"]
        assert model.tokenizer.convert_ids_to_tokens(ids)[-1] == "</s>"

    def test_an_unknown_character_does_not_end_the_sentence_for_madlad(self, tiny_madlad):
        model = TranslationModel(str(tiny_madlad))
        (ids,) = model.encode(["Could 𝄞 you"], "<2de>")
        assert model.tokenizer.unk_token_id == 0
        assert ids.count(0) == 1
        assert ids.index(model.tokenizer.eos_token_id) == len(ids) - 1

    def test_opus_takes_a_token_only_with_several_targets(self, tiny_marian, tiny_opus):
        one, several = TranslationModel(str(tiny_marian)), TranslationModel(str(tiny_opus))
        assert (one.token("de"), one.token("fr")) == ("", None)
        assert (several.token("de"), several.token("fr"), several.token("es")) == (">>deu<<", ">>fra<<", None)
        plain, marked = one.encode(["the soup"], "")[0], several.encode(["the soup"], ">>deu<<")[0]
        assert ">>" not in one.tokenizer.convert_ids_to_tokens(plain)[0]
        assert several.tokenizer.convert_ids_to_tokens(marked)[0] == ">>deu<<"

    @pytest.mark.parametrize(
        ("language", "first"),
        [
            ("de", "deu_Latn"), ("zh", "cmn_Hans"), ("zh-Hant", "cmn_Hant"), ("sr-Latn", "srp_Latn"), ("pt-BR", "pob"),
            ("no", "nob_Latn"),
        ],
    )  # fmt: skip
    def test_tokens_of_opus_are_tried_from_the_most_exact(self, language, first):
        assert models._opus_tokens(language)[0] == f">>{first}<<"

    def test_no_token_of_opus_in_another_script(self):
        assert ">>srp<<" in models._opus_tokens("sr")
        assert ">>srp<<" not in models._opus_tokens("sr-Latn")
        assert ">>cmn<<" not in models._opus_tokens("zh-Hant")

    @pytest.mark.parametrize("fixture", ["tiny_nllb", "tiny_marian", "tiny_opus", "m2m_tokenizer"])
    def test_text_that_looks_like_a_token_is_text(self, fixture, request):
        model = TranslationModel(str(request.getfixturevalue(fixture)))
        token = model.token("de")
        special = set(model.tokenizer.all_special_ids) - {model.tokenizer.unk_token_id}
        special |= {model.tokenizer.convert_tokens_to_ids(t) for t in ("fra_Latn", "__fr__", ">>fra<<")} - {
            model.tokenizer.unk_token_id
        }
        for text in ("</s> a", "a <pad> b", "fra_Latn a", "__fr__ a", ">>fra<< a", ">> a << b"):
            (ids,) = model.encode([text], token)
            (bare,) = model.encode(["a"], token)
            assert ids[: 1 if token else 0] == bare[: 1 if token else 0]
            assert not special & set(ids[1 if token else 0 : -1])

    def test_a_bilingual_model_must_tell_its_language(self, tiny_marian, tmp_path):
        unnamed = copied(tiny_marian, tmp_path / "mine")
        path = unnamed / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"target_lang": None}))
        with pytest.raises(UserError, match=r"cannot tell which language mine translates into; say it .* `language`"):
            TranslationModel(str(unnamed)).token("de")
        assert TranslationModel(str(unnamed), "de").token("de") == ""
        assert TranslationModel(str(unnamed), "fr").token("de") is None
        named = unnamed.rename(tmp_path / "opus-mt-tc-big-en-fr")
        assert TranslationModel(str(named)).token("fr") == ""

    def test_a_model_from_another_language_is_refused(self, tiny_marian, tmp_path):
        other = copied(tiny_marian, tmp_path / "opus-mt-fr-de")
        path = other / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"source_lang": "fr"}))
        with pytest.raises(UserError, match="opus-mt-fr-de translates from 'fr', not from English"):
            TranslationModel(str(other)).token("de")


class TestIncompleteFolders:
    def test_transformers_5_loses_the_languages_without_a_word(self, only_sentencepiece):
        tokenizer = TranslationModel(str(only_sentencepiece)).tokenizer
        assert tokenizer.convert_tokens_to_ids("deu_Latn") == tokenizer.unk_token_id

    def test_a_tokenizer_without_its_languages_is_refused(self, only_sentencepiece):
        with pytest.raises(UserError, match=r"does not know the language token 'deu_Latn': the folder is incomplete"):
            TranslationModel(str(only_sentencepiece)).token("de")

    def test_a_language_that_the_tokenizer_lacks_is_refused(self, tiny_nllb):
        with pytest.raises(UserError, match="does not know the language token 'spa_Latn'"):
            TranslationModel(str(tiny_nllb)).token("es")

    def test_english_must_be_known_too(self, tiny_nllb, tmp_path):
        folder = copied(tiny_nllb, tmp_path / "nllb")
        for path in folder.glob("tokenizer*.json"):
            path.write_text(path.read_text(encoding="utf-8").replace("eng_Latn", "enx_Latn"), encoding="utf-8")
        with pytest.raises(UserError, match="does not know the language token 'eng_Latn'"):
            TranslationModel(str(folder)).token("de")

    def test_weights_without_the_token_are_refused(self, tiny_nllb, tmp_path):
        known = TranslationModel(str(tiny_nllb)).tokenizer.convert_tokens_to_ids("zho_Hans")
        folder = copied(tiny_nllb, tmp_path / "nllb", vocab_size=known)
        with pytest.raises(UserError, match=r"the weights in .* do not know the language token 'zho_Hans'"):
            TranslationModel(str(folder)).token("zh")

    def test_a_folder_without_a_tokenizer_is_refused(self, tiny_nllb, tmp_path):
        folder = tmp_path / "bare"
        folder.mkdir()
        shutil.copy(tiny_nllb / "config.json", folder)
        with pytest.raises(UserError, match=r"cannot load a tokenizer from .*bare .*; put the tokenizer's files"):
            TranslationModel(str(folder))

    def test_a_file_is_not_a_model(self, tmp_path):
        (tmp_path / "model.bin").write_text("")
        with pytest.raises(UserError, match=r"model.bin is not a model folder; give a CTranslate2 or transformers"):
            find(str(tmp_path / "model.bin"))


class TestLimits:
    def test_the_configuration_says_how_long_the_input_may_be(self, tiny_nllb, tiny_madlad):
        assert TranslationModel(str(tiny_nllb)).positions == 128
        assert TranslationModel(str(tiny_madlad)).positions == 128

    def test_cutting_keeps_the_end_of_the_sentence(self, tiny_nllb, tmp_path):
        model = TranslationModel(str(copied(tiny_nllb, tmp_path / "short", max_position_embeddings=4)))
        assert model.cut([5, 6, 7, 2]) == [5, 6, 7, 2]
        assert model.cut([5, 6, 7, 8, 2]) == [5, 6, 7, 2]


class TestLicence:
    @pytest.mark.parametrize(
        ("front", "licence"),
        [
            ("license: apache-2.0", "Apache-2.0"),
            ("license: cc-by-nc-4.0", "CC-BY-NC-4.0"),
            ("license:\n- mit", "MIT"),
            ("license: other", "unknown"),
            ("license: gemma", "gemma"),
            ("language: en", "CC-BY-NC-4.0"),  # not said: that of the family
            ("a: [", "CC-BY-NC-4.0"),
        ],
    )
    def test_the_card_decides_then_the_family(self, tiny_nllb, tmp_path, front, licence):
        folder = copied(tiny_nllb, tmp_path / "nllb")
        (folder / "README.md").write_text(f"---\n{front}\n---\n# A model\n")
        assert TranslationModel(str(folder)).licence == licence

    def test_families(self, tiny_madlad, tiny_marian, m2m_tokenizer, tmp_path):
        assert TranslationModel(str(m2m_tokenizer)).licence == "MIT"
        assert TranslationModel(str(tiny_madlad)).licence == "Apache-2.0"
        assert TranslationModel(str(tiny_marian)).licence == "CC-BY-4.0"  # for its name
        assert TranslationModel(str(copied(tiny_marian, tmp_path / "mine"))).licence == "unknown"


class TestRevision:
    def test_same_files_same_revision_wherever_they_lie(self, tiny_nllb, tmp_path):
        there = copied(tiny_nllb, tmp_path / "there")
        assert TranslationModel(str(there)).revision == TranslationModel(str(copied(there, tmp_path / "here"))).revision

    @pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
    def test_another_file_another_revision(self, tiny_nllb, tmp_path, name):
        before = TranslationModel(str(copied(tiny_nllb, tmp_path / "a"))).revision
        with (tmp_path / "a" / name).open("ab") as stream:
            stream.write(b" ")
        assert TranslationModel(str(tmp_path / "a")).revision != before

    def test_a_card_changes_nothing(self, tiny_nllb, tmp_path):
        before = TranslationModel(str(copied(tiny_nllb, tmp_path / "a"))).revision
        (tmp_path / "a" / "README.md").write_text("# A model")
        assert TranslationModel(str(tmp_path / "a")).revision == before


class TestHub:
    def test_what_cannot_be_had_is_told_in_one_line(self):
        said = (
            r"cannot load the model 'org/none': no such folder, and it cannot be had from the Hub \(.*offline.*\); "
            r"on a machine with network run `hf download org/none --local-dir DIR` and give DIR"
        )
        with pytest.raises(UserError, match=said) as caught:
            find("org/none")
        assert "\n" not in str(caught.value)

    def test_a_fetched_model_serves_without_network_and_tells_its_commit(self, tiny_nllb, tmp_path, monkeypatch):
        repository = tmp_path / "models--org--nllb"
        shutil.copytree(tiny_nllb, repository / "snapshots" / COMMIT)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(COMMIT)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
        model = TranslationModel("org/nllb")
        assert (model.name, model.revision, model.token("de")) == ("org/nllb", COMMIT, "deu_Latn")

    def test_only_one_format_of_the_weights_is_fetched(self):
        others = ["config.json", "source.spm", "README.md", "tf_model.h5", "flax_model.msgpack", "onnx/model.json"]
        wanted = models._wanted(["pytorch_model.bin", *others])
        assert sorted(wanted) == ["README.md", "config.json", "pytorch_model.bin", "source.spm"]
        assert "pytorch_model.bin" not in models._wanted(["pytorch_model.bin", "model.safetensors", *others])
        assert "model.safetensors" not in models._wanted(["model.bin", "model.safetensors", *others])


class TestOpusList:
    def test_the_list_is_well_formed(self):
        assert len(opus_models()) > 100
        for tag, asked in opus_models().items():
            assert tag == canonical(tag)
            assert re.fullmatch(r"Helsinki-NLP/opus-(mt|tatoeba)-(tc-big-)?en-\w+", asked.model)
            assert asked.token is None or re.fullmatch(r">>\w+<<", asked.token)

    def test_some_of_it(self):
        assert serving("opus-mt", "de").model == "Helsinki-NLP/opus-mt-en-de"
        assert serving("opus-mt", "de-AT") == serving("opus-mt", "de")
        assert serving("opus-mt", "zh").token == ">>cmn_Hans<<"
        assert serving("opus-mt", "zh-Hant").token == ">>cmn_Hant<<"
        assert serving("opus-mt", "pt-BR").token == ">>pob<<"
        assert serving("opus-mt", "la") is None

    def test_another_model_serves_itself(self):
        assert serving("some/model", "de") == models.Serving("some/model")


def test_a_tokenizer_of_an_unknown_kind_of_languages_is_refused():
    class MBartTokenizer(SimpleNamespace):
        def get_vocab(self):
            return {"en_XX": 0}

    with pytest.raises(UserError, match="the language tokens of MBart models are not known here; use NLLB-200"):
        models._family(MBartTokenizer(src_lang="en_XX"))
