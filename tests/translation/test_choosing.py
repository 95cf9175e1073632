"""From what a user writes to engines, and from engines to what serves each language."""

import pytest

from polyalign.errors import UserError
from polyalign.translation.engines.apertium import ApertiumSettings
from polyalign.translation.engines.choosing import EngineChoice, choice_values, find_routes
from polyalign.translation.engines.contract import Provenance


@pytest.mark.parametrize(
    ("text", "spec", "languages"),
    [
        ("apertium", "apertium", None),
        ("ctranslate2:models/nllb", "ctranslate2:models/nllb", None),
        ("de,fr=ctranslate2:x", "ctranslate2:x", ["de", "fr"]),
        ("de, fr=apertium", "apertium", ["de", "fr"]),
        ("memory:a=b.tmx", "memory:a=b.tmx", None),
        ("de=memory:a=b.tmx", "memory:a=b.tmx", ["de"]),
        ("openai:some/model@http://host:8000/v1?a=b", "openai:some/model@http://host:8000/v1?a=b", None),
        ("zh-hant,deu=openai:m@http://host/?a=b", "openai:m@http://host/?a=b", ["zh-Hant", "de"]),
    ],
)
def test_languages_stand_before_the_engine(text, spec, languages):
    choice = EngineChoice.checked(choice_values(text), "engine")
    assert (choice.spec, choice.languages, choice.settings) == (spec, languages, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "apertum",
            r"unknown engine 'apertum' \(did you mean 'apertium'\?\); allowed are apertium, ctranslate2",
        ),
        ("CTranslate2:x", r"unknown engine 'CTranslate2' \(did you mean 'ctranslate2'\?\)"),
        ("de,xx=apertium", "languages: unknown language code 'xx'"),
        ("de=", "unknown engine ''; allowed are"),
        ("=apertium", "languages: unknown language code ''"),
    ],
)
def test_what_is_no_engine_is_told_in_one_line(text, message):
    with pytest.raises(UserError, match=message) as caught:
        EngineChoice.checked(choice_values(text), "engine")
    assert "\n" not in str(caught.value)


def test_settings_are_those_of_the_kind_of_engine():
    choice = EngineChoice(spec="memory:sample", settings={"licence": "CC0-1.0"})
    assert choice.open().provenance("de").licence == "CC0-1.0"
    wrong = EngineChoice(spec="memory:sample", settings={"licenze": "x", "beam_size": 4})
    message = r"^memory:sample: unknown key 'licenze' \(did you mean 'licence'\?\), allowed are licence; .*'beam_size'"
    with pytest.raises(UserError, match=message):
        wrong.open()
    with pytest.raises(UserError, match=r"apertium: pivots is 0, must be greater than or equal to 1"):
        EngineChoice(spec="apertium", settings={"pivots": 0}).open()


def test_a_gpu_is_set_where_the_engine_knows_gpus_and_the_user_has_chosen_none(tmp_path):
    model = EngineChoice(spec=f"ctranslate2:{tmp_path}")
    assert model.open(device_index=2).settings.device_index == 2
    assert model.open().settings.device_index == 0
    chosen = EngineChoice(spec=f"ctranslate2:{tmp_path}", settings={"device_index": 1})
    assert chosen.open(device_index=2).settings.device_index == 1
    assert "device_index" not in ApertiumSettings.model_fields
    assert EngineChoice(spec="memory:sample").open(device_index=2).provenance("de") is not None


class Knows:
    """An engine that has nothing but languages."""

    def __init__(self, name, *languages):
        self.name, self.languages = name, languages

    def provenance(self, language):
        if language in self.languages:
            return Provenance(engine=self.name, revision="1", licence="unknown")
        return None


def routes_of(pairs, languages):
    """Return, by language, the names of the memories and of the engine, after checking their positions."""
    choices, engines = zip(*pairs, strict=True)
    found = {}
    for language, route in find_routes(choices, engines, languages).items():
        served = [*route.memories, *([route.engine] if route.engine else [])]
        assert all(engines[position].name == provenance.engine for position, provenance in served)
        names = [provenance.engine for _, provenance in served]
        found[language] = (names[: len(route.memories)], names[-1] if route.engine else None)
    return found


def test_memories_come_first_and_then_the_first_engine_that_knows_the_language():
    pairs = [
        (EngineChoice(spec="apertium"), Knows("apertium", "es", "fr")),
        (EngineChoice(spec="memory:a"), Knows("a", "de", "es")),
        (EngineChoice(spec="ctranslate2:x"), Knows("x", "de", "fr", "es", "ja")),
        (EngineChoice(spec="memory:b"), Knows("b", "es", "hi")),
        (EngineChoice(spec="openai:y"), Knows("y", "de", "ja")),
    ]
    assert routes_of(pairs, ["es", "de", "fr", "ja", "hi"]) == {
        "es": (["a", "b"], "apertium"),
        "de": (["a"], "x"),
        "fr": ([], "apertium"),
        "ja": ([], "x"),
        "hi": (["b"], None),
    }


def test_an_engine_serves_only_the_languages_it_is_chosen_for():
    pairs = [
        (EngineChoice(spec="memory:a", languages=["fr"]), Knows("a", "de", "fr")),
        (EngineChoice(spec="ctranslate2:x", languages=["de"]), Knows("x", "de", "fr")),
        (EngineChoice(spec="ctranslate2:y"), Knows("y", "de", "fr")),
    ]
    assert routes_of(pairs, ["de", "fr"]) == {"de": ([], "x"), "fr": (["a"], "y")}


def test_all_languages_that_nothing_serves_are_named():
    """Swahili is known by an engine that is not chosen for it."""
    pairs = [
        (EngineChoice(spec="memory:a"), Knows("a", "fr")),
        (EngineChoice(spec="apertium", languages=["de"]), Knows("apertium", "de", "sw")),
    ]
    message = (
        r"^none of the engines memory:a, apertium translates English into sw \(Swahili\), ja \(Japanese\); "
        "add one that does, or leave the language out of --to$"
    )
    with pytest.raises(UserError, match=message):
        routes_of(pairs, ["de", "sw", "fr", "ja"])
