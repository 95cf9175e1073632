"""Every code that the translators and the four multilingual tasks use goes to a tag and comes back."""

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import mteb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyalign import languages
from polyalign.errors import UserError


def codes_of_transformers(module: str):
    """Read FAIRSEQ_LANGUAGE_CODES without importing the module, which needs sentencepiece."""
    source = Path(find_spec("transformers").origin).parent / "models" / module
    for statement in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and statement.targets[0].id == "FAIRSEQ_LANGUAGE_CODES":
            return ast.literal_eval(statement.value)
    raise AssertionError(f"{source} has no FAIRSEQ_LANGUAGE_CODES")


NLLB_CODES = codes_of_transformers("nllb/tokenization_nllb.py")
M2M_CODES = codes_of_transformers("m2m_100/tokenization_m2m_100.py")["m2m100"]
TAGS = sorted(languages._table())

# Two codes of one task that are one language: ISO 639-3 merged kzj into dtp in 2016, Tatoeba keeps both.
MANY_TO_ONE = {"Tatoeba": {"dtp-Latn": {"dtp-Latn", "kzj-Latn"}, "kzj-Latn": {"dtp-Latn", "kzj-Latn"}}}


def task_codes(task: str) -> set[str]:
    return {code for subset in mteb.get_task(task).metadata.eval_langs.values() for code in subset}


@pytest.mark.parametrize(
    ("code", "tag"),
    [
        ("EN", "en"),
        ("deu", "de"),
        ("ger", "de"),  # ISO 639-2/B
        ("deu_Latn", "de"),
        ("cmn", "zh"),
        ("zh_Hans", "zh"),
        ("zh-hans", "zh"),
        ("zho_Hans", "zh"),
        ("ZHO-HANT", "zh-Hant"),
        ("zh-TW", "zh-TW"),
        ("zh-Hant-TW", "zh-TW"),  # Hant is the usual script there
        ("zh-Hans-TW", "zh-Hans-TW"),
        ("pt_br", "pt-BR"),
        ("en-UK", "en-GB"),
        ("es-419", "es-419"),
        ("srp_Cyrl", "sr"),
        ("sr-Latn", "sr-Latn"),
        ("sh", "sr-Latn"),
        ("iw", "he"),
        ("id", "id"),
        ("in", "id"),
        ("no", "no"),
        ("nb", "no"),
        ("nob", "no"),
        ("nno", "nn"),
        ("tgl", "fil"),
        ("ceb", "ceb"),
        # the standard member of a macrolanguage is the macrolanguage
        ("arb", "ar"),
        ("swh", "sw"),
        ("khk", "mn"),
        ("zsm", "ms"),
        ("pes", "fa"),
        ("npi", "ne"),
        ("lvs", "lv"),
        ("ekk", "et"),
        ("als", "sq"),
        ("azj", "az"),
        ("uzn", "uz"),
        ("plt", "mg"),
        ("ydd", "yi"),
        ("gaz", "om"),
        ("ory", "or"),
        ("kmr", "ku"),
        ("pbt", "ps"),
        # any other member is a language of its own
        ("arz", "arz"),
        ("ary", "ary"),
        ("acm", "acm"),
        ("apc", "apc"),
        ("ajp", "ajp"),
        ("yue", "yue"),
        ("nan", "nan"),
        ("wuu", "wuu"),
        ("azb", "azb"),
        ("ckb", "ckb"),
        ("prs", "prs"),
        ("fuv", "fuv"),
        ("quy", "quy"),
        ("twi", "tw"),
        ("aka", "ak"),
    ],
)
def test_canonical(code, tag):
    assert languages.canonical(code) == tag
    assert languages.is_known(code)


@pytest.mark.parametrize(
    ("code", "suggestion"),
    [
        ("deu_Latin", " (did you mean 'deu_Latn'?)"),
        ("German", " (did you mean 'de'?)"),
        (" en", " (did you mean 'en'?)"),
        ("xq", ""),
        ("", ""),
        ("de-Abcd", ""),  # no such script
        ("rm-sursilv", ""),  # a variant
        ("row_id", ""),  # a column that is no language
    ],
)
def test_unknown_codes_are_refused_with_the_nearest_known_one(code, suggestion):
    assert not languages.is_known(code)
    with pytest.raises(UserError) as error:
        languages.canonical(code)
    assert str(error.value).startswith(f"unknown language code {code!r}{suggestion}; give language[-Script][-REGION]")
    assert "\n" not in str(error.value)


@given(st.sampled_from(TAGS), st.sampled_from("-_"), st.data())
def test_canonical_is_idempotent_in_any_letter_case_and_with_either_separator(tag, separator, data):
    written = "".join(data.draw(st.sampled_from([c.lower(), c.upper()])) for c in tag).replace("-", separator)
    assert languages.canonical(written) == tag


@given(
    st.sampled_from(TAGS),
    st.sampled_from(["", "Latn", "Cyrl", "Arab", "Hans", "Hant"]),
    st.sampled_from(["", "TW", "ME"]),
)
def test_canonical_is_idempotent_with_any_script_and_region(tag, script, region):
    once = languages.canonical("-".join(filter(None, (tag.split("-")[0], script, region))))
    assert languages.canonical(once) == once
    assert languages.script(once) == (script or languages.script(once))


@given(st.text(max_size=12) | st.from_regex(r"[a-zA-Z]{2,3}([-_][A-Za-z]{4})?([-_][A-Za-z]{2})?", fullmatch=True))
def test_any_text_is_either_known_or_refused(text):
    if languages.is_known(text):
        assert languages.canonical(languages.canonical(text)) == languages.canonical(text)
    else:
        with pytest.raises(UserError, match="unknown language code"):
            languages.canonical(text)


@pytest.mark.parametrize(
    ("tag", "name", "script"),
    [
        ("de", "German", "Latn"),
        ("zh", "Chinese", "Hans"),
        ("zh-Hant", "Chinese (Hant)", "Hant"),
        ("zh-TW", "Chinese (TW)", "Hant"),
        ("sr", "Serbian", "Cyrl"),
        ("sr-ME", "Serbian (ME)", "Latn"),
        ("pt-BR", "Portuguese (BR)", "Latn"),
        ("yue", "Cantonese", "Hant"),
    ],
)
def test_name_and_script(tag, name, script):
    assert languages.name(tag) == name
    assert languages.script(tag) == script


def test_every_language_of_the_table_has_a_name_and_a_script():
    for tag in TAGS:
        assert languages.name(tag)
        assert len(languages.script(tag)) == 4


@pytest.mark.parametrize(
    ("encode", "decode", "codes"),
    [
        (languages.to_flores, languages.from_flores, NLLB_CODES),
        (languages.to_m2m, languages.from_m2m, M2M_CODES),
        (languages.to_madlad, languages.from_madlad, list(languages._tags_by_code("madlad"))),
    ],
)
def test_every_code_of_a_translator_goes_to_a_tag_and_back(encode, decode, codes):
    assert {code: encode(decode(code)) for code in codes} == {code: code for code in codes}


def test_the_table_has_no_codes_that_the_translators_lack():
    assert set(languages._tags_by_code("flores")) == set(NLLB_CODES)
    assert set(languages._tags_by_code("m2m")) == set(M2M_CODES)


@pytest.mark.parametrize(
    ("tag", "flores", "m2m", "madlad", "opus"),
    [
        ("de", "deu_Latn", "de", "de", "de"),
        ("zh", "zho_Hans", "zh", "zh", "zh"),
        ("pt-BR", "por_Latn", "pt", "pt", "pt"),
        ("fr-CA", "fra_Latn", "fr", "fr_CA", "fr"),
        ("no", "nob_Latn", "no", "no", "no"),
        ("nb", "nob_Latn", "no", "no", "no"),
        ("id", "ind_Latn", "id", "id", "id"),
        ("fil", "tgl_Latn", "tl", "fil", "tl"),
        ("he", "heb_Hebr", "he", "he", "he"),
        ("nso", "nso_Latn", "ns", "nso", "nso"),
        ("ceb", "ceb_Latn", "ceb", "ceb", "ceb"),
    ],
)
def test_codes_of_the_translators(tag, flores, m2m, madlad, opus):
    assert languages.to_flores(tag) == flores
    assert languages.to_m2m(tag) == m2m
    assert languages.to_madlad(tag) == madlad
    assert languages.to_opus(tag) == opus


def test_a_region_keeps_its_script_at_the_edge():
    assert languages.to_flores("zh-TW") == "zho_Hant"
    assert languages.to_madlad("zh-HK") == "zh_Hant"


def test_scripts_that_only_some_translators_have():
    assert languages.to_flores("taq-Tfng") == "taq_Tfng"
    assert languages.to_flores("sat") == "sat_Beng"  # as NLLB's vocabulary miscalls it; the texts are Ol Chiki
    assert languages.to_madlad("sr-Latn") == "sh"
    assert languages.from_madlad("crh_Latn") == "crh"
    assert languages.from_madlad("crh") == "crh-Cyrl"


def test_codes_in_the_names_of_opus_models():
    assert [languages.from_opus(code) for code in ("de", "jap", "tl", "ZH", "nb", "run")] == [
        *("de", "ja", "fil", "zh", "no", "rn")
    ]
    with pytest.raises(UserError, match="unknown language code 'gmq'"):
        languages.from_opus("gmq")


@pytest.mark.parametrize(
    ("encode", "tag", "message"),
    [
        (languages.to_m2m, "zh-Hant", r"M2M-100 has no code for 'zh-Hant' \(Chinese \(Hant\)\); it has 'zh'"),
        (languages.to_m2m, "nn", r"M2M-100 has no code for 'nn' \(Norwegian Nynorsk\); leave the language out or"),
        (languages.to_flores, "sr-Latn", r"FLORES/NLLB has no code for 'sr-Latn' \(Serbian \(Latn\)\); it has 'sr'"),
        (languages.to_madlad, "kab", r"MADLAD-400 has no code for 'kab' \(Kabyle\); leave the language out or"),
        (languages.to_opus, "zh-TW", r"OPUS-MT model names carry no script, so none is for 'zh-Hant'; choose a model"),
        (languages.to_flores, "xq", "unknown language code 'xq'"),
        (
            languages.from_flores,
            "deu_Latin",
            r"unknown FLORES/NLLB code 'deu_Latin' \(did you mean 'deu_Latn'\?\); it has",
        ),
        (languages.from_m2m, "nb", "unknown M2M-100 code 'nb'; it has 100 codes, such as 'en' for English"),
        (languages.from_madlad, "<2de>", "unknown MADLAD-400 code '<2de>'"),
    ],
)
def test_what_a_translator_lacks_is_named(encode, tag, message):
    with pytest.raises(UserError, match=message):
        encode(tag)


@pytest.mark.parametrize(
    "task", ["Tatoeba", "NTREXBitextMining", "SIB200Classification", "STSBenchmarkMultilingualSTS"]
)
def test_every_language_of_a_task_goes_to_a_tag_and_back(task):
    codes = task_codes(task)
    back = {code: languages.mteb_codes(languages.from_mteb(code), codes) for code in codes}
    assert back == {code: {code} for code in codes} | MANY_TO_ONE.get(task, {})


@pytest.mark.parametrize(
    ("task", "tag", "codes"),
    [
        ("Tatoeba", "zh", {"cmn-Hans"}),
        ("STSBenchmarkMultilingualSTS", "zh", {"cmn-Hans"}),
        ("SIB200Classification", "zh", {"zho-Hant"}),  # its only Chinese
        ("NTREXBitextMining", "zh", {"zho-Hans"}),
        ("NTREXBitextMining", "zh-Hant", {"zho-Hant"}),
        ("NTREXBitextMining", "zh-TW", {"zho-Hant"}),
        ("Tatoeba", "zh-Hant", set()),
        ("Tatoeba", "yue", {"yue-Hant"}),
        ("Tatoeba", "ar", {"ara-Arab"}),
        ("Tatoeba", "arz", {"arz-Arab"}),
        ("NTREXBitextMining", "ar", {"arb-Arab"}),
        ("SIB200Classification", "ar", set()),  # its Standard Arabic is romanised
        ("SIB200Classification", "ar-Latn", {"arb-Latn"}),
        ("NTREXBitextMining", "sr", {"srp-Cyrl"}),
        ("NTREXBitextMining", "sr-Latn", {"srp-Latn"}),
        ("SIB200Classification", "ks-Deva", {"kas-Deva"}),
        ("Tatoeba", "pt-BR", {"por-Latn"}),
        ("Tatoeba", "no", {"nob-Latn"}),
        ("NTREXBitextMining", "mn", {"mon-Mong"}),  # Cyrillic in truth
        ("SIB200Classification", "mn", {"khk-Cyrl"}),
        ("STSBenchmarkMultilingualSTS", "ja", set()),
    ],
)
def test_codes_of_a_tag_in_a_task(task, tag, codes):
    assert languages.mteb_codes(tag, task_codes(task)) == codes


def test_codes_without_a_script_match_whatever_script_is_asked_for():
    assert languages.mteb_codes("sr-Latn", ["srp", "srp-Cyrl", "deu", "python-Code"]) == {"srp"}
    assert languages.mteb_codes("zh-Hant", ["zho", "cmn-Hans", "yue"]) == {"zho"}
    assert languages.mteb_codes("zh", ["cmn-Hans", "zho-Hant", "nan-Latn"]) == {"cmn-Hans"}


def test_an_unknown_tag_is_refused_even_where_the_task_has_no_language():
    with pytest.raises(UserError, match="unknown language code 'xq'"):
        languages.mteb_codes("xq", [])


def test_importing_the_table_imports_no_heavy_library():
    heavy = "{'mteb', 'transformers', 'torch', 'datasets'}"
    check = f"import sys, polyalign.languages as l; l.canonical('deu'); assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
