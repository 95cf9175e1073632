"""What is seen of a cell: features on cells a reader can check, and naive references."""

import re
import unicodedata

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyalign.corpus import measuring
from polyalign.corpus.measuring import measure


def strings(texts):
    return pl.Series(texts, dtype=pl.String)


def feature(name, english, text, language="de"):
    return measure(strings([english]), strings([text]), language)[name].item()


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
            return len(bytes(measuring._BYTES[character] for character in part).decode()) == 1
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


def test_more_cells_than_are_measured_at_once(monkeypatch):
    english = strings(["The dog barks at the people.", "a", "b", "c d"] * 5)
    texts = strings(["Der Hund bellt die Leute an.", None, "b b b", "é"] * 5)
    at_once = measure(english, texts, "de")
    monkeypatch.setattr(measuring, "_CHARACTERS_AT_ONCE", 50)
    assert measure(english, texts, "de").equals(at_once)
