"""The dataset card: a header that parses, and every language, engine, licence and count where it belongs."""

import re

import yaml

from polyalign.translation.card import dataset_card

MANIFEST = {
    "languages": ["en", "de", "zh", "zh-Hant", "no"],
    "rows": 12345,
    "counts": {"en": 12345, "de": 12000, "zh": 12345, "zh-Hant": 9, "no": 0},
    "report": {"dropped": {"too few good translations": 1055, "in evaluation data": 3}},
    "provenance": {
        "sources": {"captions.txt": "ab", "sample": "cd"},
        "english": {"left_out": {"duplicate": 1600, "too long": 1}},
        "engines": {
            "k1": {
                "engine": "ctranslate2:nllb",
                "revision": "f00",
                "licence": "CC-BY-NC-4.0",
                "languages": ["de", "no"],
            },
            "k2": {"engine": "apertium:en-zh", "revision": "ba7", "licence": "GPL-2.0-only", "languages": ["zh"]},
        },
        "verdicts": {
            "de": {"ok": 12300, "numbers lost": 1000, "wrong language": 100},
            "zh": {"ok": 13400},
            "zh-Hant": {"empty": 13391, "ok": 9},
            "no": {},
        },
        "decontamination": {
            "tasks": [{"task": "Tatoeba"}, {"task": "STSBenchmark"}],
            "removed": [{"row_id": "1"}, {"row_id": "2"}, {"row_id": "3"}],
        },
    },
}


def with_engine(**values):
    engine = MANIFEST["provenance"]["engines"]["k2"] | values
    return MANIFEST | {"provenance": MANIFEST["provenance"] | {"engines": {"k": engine}}}


def tables(card: str) -> list[list[list[str]]]:
    """Return the cells of the card's tables as GitHub's Markdown cuts them: at each | without a backslash."""
    found = []
    for block in re.findall(r"(?:^\|.*\n?)+", card, re.MULTILINE):
        found.append([re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()])
    return [[[cell.strip() for cell in row] for row in table] for table in found]


def test_the_header_is_yaml_that_the_hub_reads():
    """Norwegian is a string, not a false; Chinese stands there once; the rows are the default configuration."""
    start, header, rest = dataset_card("corpus", MANIFEST).split("---\n", 2)
    assert start == ""
    values = yaml.safe_load(header)
    assert values["language"] == ["en", "de", "zh", "no"]
    assert values["license"] == "other"
    assert values["size_categories"] == ["10K<n<100K"]
    assert values["configs"][0] == {"config_name": "default", "data_files": "rows/*.parquet"}
    assert rest.startswith("\n# corpus\n")


def test_sizes_are_the_hubs():
    sizes = {0: "n<1K", 999: "n<1K", 1000: "1K<n<10K", 999_999: "100K<n<1M", 10_000_000: "10M<n<100M"}
    for rows, name in sizes.items():
        card = dataset_card("corpus", MANIFEST | {"rows": rows})
        assert yaml.safe_load(card.split("---\n")[1])["size_categories"] == [name]


def test_languages_engines_and_counts_are_told():
    card = dataset_card("corpus", MANIFEST)
    languages, engines = tables(card)
    assert languages[2:] == [
        ["English (`en`)", "12,345", "source", ""],
        ["German (`de`)", "12,000", "91.8%", "numbers lost 1,000, wrong language 100"],
        ["Chinese (`zh`)", "12,345", "100.0%", ""],
        ["Chinese (Hant) (`zh-Hant`)", "9", "0.1%", "empty 13,391"],
        ["Norwegian (`no`)", "0", "0.0%", ""],
    ]
    assert engines[2:] == [
        ["`ctranslate2:nllb`", "de, no", "`f00`", "CC-BY-NC-4.0"],
        ["`apertium:en-zh`", "zh", "`ba7`", "GPL-2.0-only"],
    ]
    assert "12,345 rows" in card
    assert "from `captions.txt`, `sample`." in card


def test_what_was_left_out_is_told():
    card = dataset_card("corpus", MANIFEST)
    assert "- 1,600 English texts: duplicate\n- 1 English texts: too long\n" in card
    assert "- 1,055 rows: too few good translations\n- 3 rows: in evaluation data\n" in card
    assert "- 3 rows in all stand in evaluation data of Tatoeba, STSBenchmark; `manifest.json` lists them" in card
    nothing = {"english": {"left_out": {}}, "decontamination": None}
    clean = MANIFEST | {"report": {"dropped": {}}, "provenance": MANIFEST["provenance"] | nothing}
    assert "## What was left out\n\nNothing.\n" in dataset_card("corpus", clean)


def test_text_from_settings_stays_in_its_cell():
    manifest = with_engine(engine="memory:a|b\n| c.tmx", revision="1|2", licence="CC|BY\r\n\nall")
    _, engines = tables(dataset_card("corpus", manifest))
    assert engines[2:] == [[r"`memory:a\|b \| c.tmx`", "zh", r"`1\|2`", r"CC\|BY all"]]
