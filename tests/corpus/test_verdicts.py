"""Verdicts on cells: each reason fires and does not fire on cells a reader can check."""

import os
import string
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyalign.corpus.measuring import FEATURES, measure
from polyalign.corpus.verdicts import OK, REASONS, LengthRange, VerdictSettings, judge, length_range
from polyalign.errors import UserError

ANY_LENGTH = LengthRange(centre=0.0, spread=9.0)
ENGLISH = "The dog runs across the wide street and barks at the people."
GERMAN = "Der Hund läuft über die breite Straße und bellt die Leute an."


def strings(texts):
    return pl.Series(texts, dtype=pl.String)


def cells_of(english, texts, language, *, truncated=False, error=None):
    cells = measure(strings(english), strings(texts), language)
    return cells.with_columns(strings(texts).alias("text"), truncated=truncated, error=pl.lit(error, pl.String))


def verdict(english, text, language="de", settings=None, range_=ANY_LENGTH, **flags):
    return judge(cells_of([english], [text], language, **flags), settings or VerdictSettings(), range_).item()


@pytest.mark.parametrize(
    ("reason", "english", "text", "language"),
    [
        ("ok", ENGLISH, GERMAN, "de"),
        ("empty", ENGLISH, "", "de"),
        ("empty", ENGLISH, None, "de"),
        ("empty", ENGLISH, " \n\u3000", "de"),
        ("invalid utf-8", ENGLISH, "Der Hund l\ufffduft.", "de"),
        ("control characters", ENGLISH, "Der Hund\x07 läuft.", "de"),
        # copies
        ("copy of the source", ENGLISH, ENGLISH, "de"),
        ("copy of the source", ENGLISH, ENGLISH.upper(), "de"),
        ("copy of the source", ENGLISH, "The dog runs across the broad street and barks at the people!", "de"),
        ("copy of the source", ENGLISH, ENGLISH, "ja"),
        ("ok", "OK", "OK", "de"),
        ("ok", "Angela Merkel, Barack Obama", "Angela Merkel, Barack Obama", "de"),
        ("ok", "1,000 (2024-05-13)", "1,000 (2024-05-13)", "ru"),
        ("ok", "https://example.org/this/is/the/way", "https://example.org/this/is/the/way", "ja"),
        ("ok", "``return the value of x``", "``return the value of x``", "ja"),
        ("ok", ":ref:`return the value of x`", ":ref:`return the value of x`", "ja"),
        ("ok", "A man is emptying a plastic container.", "Een man is een plastic container aan het legen.", "nl"),
        # scripts
        ("wrong script", ENGLISH, "Sobaka bezhit po ulitse i layet na lyudey.", "ru"),
        ("wrong script", ENGLISH, "Собака бежит по улице и лает на людей.", "de"),
        ("wrong script", ENGLISH, "那隻狗跑過寬闊的街道，對著人們吠叫。", "zh"),
        ("wrong script", ENGLISH, "那只狗跑过宽阔的街道，对着人们吠叫。", "zh-Hant"),
        ("wrong script", ENGLISH, "那只狗跑过宽阔的街道，对着人们吠叫。", "ja"),
        ("ok", ENGLISH, "那只狗跑过宽阔的街道，对着人们吠叫。", "zh"),
        ("ok", ENGLISH, "犬が広い通りを走り、人々に吠えている。", "ja"),
        ("ok", "Japanese economy", "日本経済", "ja"),
        (
            "ok",
            "Use Microsoft Windows Server with PowerShell.",
            "Microsoft Windows Server と PowerShell を使う。",
            "ja",
        ),
        # languages
        ("wrong language", ENGLISH, "El perro cruza corriendo la calle ancha y ladra a la gente.", "de"),
        ("wrong language", ENGLISH, "A cat sleeps on the sofa while her owner is cooking dinner.", "de"),
        ("ok", ENGLISH, "El perru cruza corriendo la cai ancha y lladra a la xente.", "ast"),  # not known: not judged
        ("ok", "Yes, sir.", "Sí, señor.", "de"),  # too short
        # repetition
        ("repetition", "I am sorry.", "Es tut mir leid, es tut mir leid, es tut mir leid", "de"),
        ("repetition", "I am sorry about that.", "对不起对不起对不起对不起", "zh"),
        ("ok", "No, no, no, I do not!", "Nein, nein, nein, das tue ich nicht!", "de"),
        ("ok", "He is very, very tall.", "Er ist sehr, sehr groß.", "de"),
        ("ok", "Have fun every day.", "天天开心。", "zh"),
        # markup
        ("URLs lost", "See https://example.org/a?b=1.", "Siehe dort.", "de"),
        ("URLs lost", "Write to jane.doe@example.org, please.", "Bitte schreiben Sie an jane@example.org.", "de"),
        ("ok", "See https://example.org/a?b=1.", "Siehe http://example.org/a?b=1。", "de"),
        ("placeholders lost", "Dear {name}, you have %d messages.", "Liebe {name}, Sie haben Nachrichten.", "de"),
        ("placeholders lost", "It is <b>here</b>.", "Es ist <b>hier.", "de"),
        ("placeholders lost", "Use {{x}} in $HOME.", "Verwenden Sie {{y}} in $HOME.", "de"),
        ("placeholders lost", "See :ref:`the tutorial <tut>`.", "Siehe die Anleitung.", "de"),
        ("ok", "See :ref:`the tutorial <tut>`.", "Siehe :ref:`die Anleitung <tut>`.", "de"),
        ("ok", "%(n)d of %s cost $5, 100% sure.", "%s: %(n)d davon kosten 5 $, zu 100 % sicher.", "de"),
    ],
)
def test_verdict(reason, english, text, language):
    assert verdict(english, text, language) == reason


def test_what_the_engine_says():
    assert verdict(ENGLISH, "", error="429 too many requests") == "engine error"
    assert verdict(ENGLISH, GERMAN, truncated=True) == "truncated"


def test_length_ratio():
    range_ = LengthRange(centre=0.0, spread=0.1)
    exact = VerdictSettings(length_slack=0.0, ignored=("repetition", "wrong language"))
    assert verdict("a" * 100, "b" * 134, settings=exact, range_=range_) == OK  # log 1.34 = 0.293 < 3 * 0.1
    assert verdict("a" * 100, "b" * 136, settings=exact, range_=range_) == "length ratio"  # log 1.36 = 0.307
    assert verdict("a" * 100, "b" * 75, settings=exact, range_=range_) == OK
    assert verdict("a" * 100, "b" * 73, settings=exact, range_=range_) == "length ratio"
    slack = VerdictSettings(length_slack=1.0, ignored=("repetition", "wrong language"))
    assert verdict("a" * 4, "b" * 16, settings=slack, range_=range_) == OK  # log 4 = 1.39 < 3 * (0.01 + 1/4)^0.5
    assert verdict("a" * 400, "b" * 600, settings=slack, range_=range_) == "length ratio"


def test_length_range_is_robust():
    usual = [1.0, 1.1, 1.2] * 100
    assert length_range(pl.Series(usual)) == length_range(pl.Series([*usual[:300], None]))
    spoilt = length_range(pl.Series(usual + [9.0, 0.01] * 40))
    assert spoilt.centre == pytest.approx(length_range(pl.Series(usual)).centre) == pytest.approx(0.0953, abs=1e-4)
    assert spoilt.spread == pytest.approx(0.1290, abs=1e-4)  # 1.4826 * log(1.2 / 1.1)


def test_length_range_of_few_cells_is_wide():
    assert length_range(pl.Series([], dtype=pl.Float32)) == LengthRange(centre=0.0, spread=0.5)
    few = length_range(pl.Series([2.0] * 50))
    assert few.centre == pytest.approx(0.693, abs=1e-3)
    assert few.spread == pytest.approx(0.25)
    assert length_range(pl.Series([2.0] * 100)).spread == 0.05
    assert LengthRange.model_validate_json(few.model_dump_json()) == few


def test_the_first_reason_counts():
    worst = verdict(ENGLISH, "Ã¼ \x07 " + "the the the the " * 40, truncated=True, error="boom")
    assert worst == "engine error"
    assert verdict(ENGLISH, "Ã¼ \x07 " + "the the the the " * 40, truncated=True) == "truncated"
    assert verdict(ENGLISH, "Ã¼ \x07 " + "the the the the " * 40) == "mojibake"
    assert verdict(ENGLISH, "ü \x07 " + "the the the the " * 40) == "control characters"
    assert verdict(ENGLISH, "ü " + "the the the the " * 40) == "repetition"
    assert REASONS[:2] == ("engine error", "empty")
    assert len(set(REASONS)) == len(REASONS) == 14


def test_thresholds_change_verdicts_without_measuring_again():
    cells = cells_of([ENGLISH] * 2, [ENGLISH, GERMAN], "de")
    assert judge(cells, VerdictSettings(), ANY_LENGTH).to_list() == ["copy of the source", OK]
    off = VerdictSettings.checked({"ignored": ["copy of the source", "wrong language"]}, "recipe.yaml")
    assert judge(cells, off, ANY_LENGTH).to_list() == [OK, OK]
    assert judge(cells, VerdictSettings(copied_words=99), ANY_LENGTH).to_list() == ["wrong language", OK]


def test_unknown_reasons_and_impossible_thresholds_are_refused():
    with pytest.raises(UserError, match=r"ignored\.0 is 'copies', must be 'truncated', 'mojibake'"):
        VerdictSettings.checked({"ignored": ["copies"]}, "recipe.yaml")
    with pytest.raises(UserError, match=r"ignored\.0 is 'empty'"):  # a corpus holds no empty text
        VerdictSettings.checked({"ignored": ["empty"]}, "recipe.yaml")
    with pytest.raises(UserError, match="copied is 2, must be less than or equal to 1; unknown key 'copy'"):
        VerdictSettings.checked({"copy": 1, "copied": 2}, "recipe.yaml")


TEXT = st.text(max_size=40) | st.text(st.sampled_from(string.printable + "Ãâ€™é犬か\ufffd٣％{}<>`"), max_size=40)


@settings(max_examples=30)  # of up to seven measurements each
@given(
    st.lists(st.tuples(TEXT, TEXT | st.none()), max_size=6),
    st.sampled_from(["de", "ja", "zh-Hant", "ko", "ast", "ur-Aran"]),
)
def test_any_text_gets_a_verdict_that_depends_on_its_row_alone(rows, language):
    english, texts = [row[0] for row in rows], [row[1] for row in rows]
    cells = cells_of(english, texts, language)
    assert {name: cells.schema[name] for name in FEATURES} == FEATURES
    found = judge(cells, VerdictSettings(), ANY_LENGTH)
    assert set(found) <= {OK, *REASONS}
    assert len(found) == len(rows)
    for number, row in enumerate(rows):
        alone = cells_of([row[0]], [row[1]], language)
        assert alone.equals(cells[number])
        assert judge(alone, VerdictSettings(), ANY_LENGTH).item() == found[number]


@pytest.mark.parametrize(
    "piece", ["a", "{", "${", ":a", "<a", "%(", "a.", "1,", "ß“", "Ã", "http://a.", "`", "か", "\n"]
)
def test_gigantic_cells_take_time_in_proportion(piece):
    english = f"{{x}} 12 https://example.org {piece * (300_000 // len(piece))}"
    assert verdict(english, piece * (1_000_000 // len(piece))) in REASONS


def test_real_translations_pass():
    path = (
        Path(os.environ.get("POLYALIGN_DATA", Path(__file__).parents[3] / "shared" / "data"))
        / "multiway"
        / "stsb-train.parquet"
    )
    if not path.exists():
        pytest.skip(f"{path} is not there; set POLYALIGN_DATA to the folder with multiway/")
    rows = pl.read_parquet(path).head(1000)
    for language in ("de", "ru", "ja"):
        cells = cells_of(rows["en"], rows[language], language)
        found = judge(cells, VerdictSettings(), length_range(cells["length_ratio"]))
        assert (found != OK).mean() < 0.02
        shifted = cells_of(rows["en"], rows["es"], language)
        assert (judge(shifted, VerdictSettings(), ANY_LENGTH) != OK).mean() > 0.95
