"""Verdicts on cells: each reason fires and does not fire on cells a reader can check, and features have references."""

import os
import re
import string
import unicodedata
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyalign.corpus import verdicts
from polyalign.corpus.verdicts import (
    FEATURES,
    OK,
    REASONS,
    LengthRange,
    VerdictSettings,
    judge,
    length_range,
    measure,
)
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


def feature(name, english, text, language="de"):
    return measure(strings([english]), strings([text]), language)[name].item()


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


@pytest.mark.parametrize(
    ("english", "text", "lost"),
    [
        ("It cost 1,000.5 dollars.", "Es kostete 1.000,5 Dollar.", 0),
        ("It cost 1,000.5 dollars.", "Cela a coûté 1\u202f000,5 dollars.", 0),
        ("It cost 1,000.5 dollars.", "Es kostete 1.005 Dollar.", 1),
        ("There are 25 dogs.", "هناك ٢٥ كلبا.", 0),
        ("There are 25 dogs.", "２５匹の犬がいる。", 0),
        ("There are 25 dogs.", "Es gibt 52 Hunde.", 1),
        ("There are 25 dogs and 37 cats.", "Es gibt Hunde und Katzen.", 2),
        ("There are 3 dogs.", "Es gibt drei Hunde.", 0),
        ("There are two dogs.", "Es gibt Hunde.", 0),
        ("It starts at 3:30 pm.", "Es beginnt um 15:30 Uhr.", 0),
        ("It starts at 10:30 p.m.", "Es beginnt um 22.30 Uhr.", 0),
        ("It starts at 10:30 pm.", "Es beginnt um 22.45 Uhr.", 1),
        ("Update: 3.00pm", "Aktualisierung: 15.00 Uhr", 0),
        ("The fare is $1.50.", "票价1.5美元。", 0),
        ("Founded on 2014-05-13.", "Gegründet am 13.5.2014.", 0),
        ("In the 1990s it was new.", "W latach 90. było nowe.", 0),
        ("It paid $20,000.", "2万ドルを支払った。", 0),
        ("It paid $124 million.", "1億2400万ドルを支払った。", 0),
        ("It paid $124 million.", "1億2500万ドルを支払った。", 1),
        ("It paid $5.55 bn.", "Pagó 5.550 millones.", 0),
        ("It lost 18,000 jobs.", "Es verlor 18 Tausend Stellen.", 0),
        ("It lost 18,000 jobs.", "Es verlor 18.100 Stellen.", 1),
        ("Go to https://example.org/12345 now.", "Gehen Sie jetzt.", 0),  # that is a URL lost
        (f"There are {'9' * 9999} of them.", f"Es gibt {'9' * 9999}億 davon.", 0),
    ],
)
def test_numbers(english, text, lost):
    assert feature("numbers_lost", english, text) == lost


@given(st.integers(10, 10**9), st.sampled_from([",", ".", "'", "\u00a0", "\u202f", " ", ""]), st.sampled_from("0٠०０"))
def test_numbers_survive_any_grouping_and_digits(number, separator, zero):
    written = f"{number:,}".replace(",", separator)
    written = written.translate({ord("0") + digit: ord(zero) + digit for digit in range(10)})
    assert feature("numbers_lost", f"There are {number:,} dogs.", f"Es gibt {written} Hunde.") == 0
    assert feature("numbers_lost", f"There are {number:,} dogs.", "Es gibt Hunde.") == 1


@pytest.mark.parametrize(
    "text",
    [
        "fÃ¼r",
        "Ã¼ber",
        "Ã–sterreich",
        "passÃ©",
        "voilÃ\u00a0 tout",
        "itâ€™s",
        "â€œHalloâ€\x9d",
        "ÐŸÑ€Ð¸Ð²ÐµÑ‚",
        "10 Â°C",
        "ä½\u00a0å¥½",
    ],
)
def test_mojibake(text):
    assert feature("mojibake", "Hello", text)


GOOD = """
São Paulo, AMANHÃ|MAÇÃ”, “MAÇÃ…” NÃO|CAFÉ® «CAFÉ»|É… «Ó»|BEYONCÉ’s|Úžasné|kéž… „kéž”|Spaß“ «Spaß»|Việt Nam ÂN HÂN|Ñandú
à… é»|Île-de-France|½ €5 §3 ©|Привет|你好|Ärger|naïve café|100 €|30 °C|ÅÄÖ
"""


@pytest.mark.parametrize("text", re.split(r"[|\n]", GOOD.strip()))
def test_not_mojibake(text):
    assert not feature("mojibake", "Hello", text)


def garble(text):
    read = [bytes([byte]) for byte in text.encode()]
    return "".join(byte.decode("cp1252", "ignore") or byte.decode("latin-1") for byte in read)


@given(st.text(st.sampled_from("äöüßéèàçñøåőłęžюжпрλφ語"), min_size=1), st.sampled_from(["lo{}r", "lo{} r", "lo{}"]))
def test_letters_read_as_windows_1252_inside_of_words_are_mojibake(letters, frame):
    assert feature("mojibake", "Hello", garble(frame.format(letters)))


@given(st.text(st.characters(max_codepoint=0x2122, exclude_categories=["Cs"])))
def test_mojibake_can_always_be_undone(text):
    """The naive reference: some part of the text becomes another character when its bytes are read as UTF-8."""

    def undone(part):
        try:
            return len(bytes(verdicts._BYTES[character] for character in part).decode()) == 1
        except (KeyError, UnicodeDecodeError):
            return False

    parts = [text[i : i + size] for size in (2, 3, 4) for i in range(len(text) - size + 1)]
    assert any(map(undone, parts)) or not feature("mojibake", "Hello", text)


SPACELESS = ("CJK", "HIRAGANA", "KATAKANA", "THAI")


def naive_words(text):
    """Runs of letters, marks, digits and underscores in small letters; in scripts without spaces each one alone."""
    words, open_ = [], False
    for character in text:
        alone = unicodedata.name(character, "").startswith(SPACELESS) and unicodedata.category(character)[0] in "LM"
        inside = unicodedata.category(character)[0] in "LMN" or character == "_"
        if alone or (inside and not open_):
            words.append("")
        if inside:
            words[-1] += character
        open_ = inside and not alone
    return words


def naive_repetitions(text):
    words = [word.lower() for word in naive_words(text)]
    most = 0
    for start in range(len(words)):
        for length in range(1, 21):
            phrase, times = words[start : start + length], 0
            while words[start + (times + 1) * length :][:length] == phrase:
                times += 1
            most = max(most, times)
    return most


def naive_copied(english, text):
    small = [
        {word for word in naive_words(t) if len(word) > 1 and re.fullmatch("[a-zé]+", word)} for t in (english, text)
    ]
    there = {word.lower() for word in naive_words(text)}
    return len(small[0]), len(small[0] & there) / max(map(len, small)) if small[0] else None


WORDS = st.lists(
    st.sampled_from(["a", "Ab", "ab", "cdé", "é", "x1", "犬", "が", "ก็", "-", ",", " ", " ", "\n", "𠀋"]), max_size=25
)


@given(WORDS.map("".join), WORDS.map("".join))
def test_words_agree_with_a_loop_over_characters(english, text):
    found = measure(strings(["b b b", english, "a"]), strings(["犬犬", text, "a a"]), "de")[1]
    assert found["repetitions"].item() == naive_repetitions(text) - naive_repetitions(english)
    words, copied = naive_copied(english, text)
    assert found["english_words"].item() == words
    assert found["copied"].item() == (None if copied is None else pytest.approx(copied, rel=1e-6))


def test_own_script_is_a_share_of_letters():
    assert feature("own_script", "x", "абвг abcd 123") == 0.5
    assert feature("own_script", "x", "абвг abcd", "ru") == 0.5
    assert feature("own_script", "abcd", "абвг abcd", "ru") == 1.0  # kept from the English
    assert feature("own_script", "x", "123 ?!", "ru") is None


def test_lengths_leave_markup_out():
    assert feature("english_characters", "See https://example.org/", "Da") == 3
    assert feature("length_ratio", "four", "zwei und") == 2.0
    assert feature("length_ratio", "four", "") is None
    assert feature("length_ratio", "{x}", "{x}") is None


def test_length_ratio():
    range_ = LengthRange(centre=0.0, spread=0.1)
    exact = VerdictSettings(length_slack=0.0, off=("repetition", "wrong language"))
    assert verdict("a" * 100, "b" * 134, settings=exact, range_=range_) == OK  # log 1.34 = 0.293 < 3 * 0.1
    assert verdict("a" * 100, "b" * 136, settings=exact, range_=range_) == "length ratio"  # log 1.36 = 0.307
    assert verdict("a" * 100, "b" * 75, settings=exact, range_=range_) == OK
    assert verdict("a" * 100, "b" * 73, settings=exact, range_=range_) == "length ratio"
    slack = VerdictSettings(length_slack=1.0, off=("repetition", "wrong language"))
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
    off = VerdictSettings.checked({"off": ["copy of the source", "wrong language"]}, "recipe.yaml")
    assert judge(cells, off, ANY_LENGTH).to_list() == [OK, OK]
    assert judge(cells, VerdictSettings(copied_words=99), ANY_LENGTH).to_list() == ["wrong language", OK]


def test_unknown_reasons_and_impossible_thresholds_are_refused():
    with pytest.raises(UserError, match=r"off\.0 is 'copies', must be 'truncated', 'mojibake'"):
        VerdictSettings.checked({"off": ["copies"]}, "recipe.yaml")
    with pytest.raises(UserError, match=r"off\.0 is 'empty'"):  # a corpus holds no empty text
        VerdictSettings.checked({"off": ["empty"]}, "recipe.yaml")
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


def test_more_cells_than_are_measured_at_once(monkeypatch):
    cells = cells_of([ENGLISH, "a", "b", "c d"] * 5, [GERMAN, None, "b b b", "é"] * 5, "de")
    monkeypatch.setattr(verdicts, "_CHARACTERS_AT_ONCE", 50)
    assert cells_of([ENGLISH, "a", "b", "c d"] * 5, [GERMAN, None, "b b b", "é"] * 5, "de").equals(cells)


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
