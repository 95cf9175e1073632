"""The model card: front matter that the Hub reads, and every number the record has."""

import yaml

from polyalign.training.card import model_card

RECORD = {
    "arm": "multi-way",
    "objective_name": "multi-way",
    "objective": {"anchors": "all", "temperature": 0.05, "languages_per_row": None},
    "base": "org/model",
    "languages": ["de", "en", "no"],
    "seed": 4,
    "corpus": {"rows": 1200, "dev_rows": 50, "texts": {"en": 1200, "de": 900, "no": 3}, "fingerprint": "abc"},
    "cost": {"steps": 10, "rows_seen": 320, "texts_encoded": 640, "pairs": 1280, "seconds": 12.4},
    "best": {"step": 8, "dev_accuracy": 0.75},
}


def test_the_front_matter_and_the_numbers():
    _, front, body = model_card(RECORD, [("Tatoeba", "seen languages", 0.5)]).split("---\n", 2)
    values = yaml.safe_load(front)
    assert values["language"] == ["de", "en", "no"], "Norwegian stays a word"
    assert values["base_model"] == "org/model"
    assert values["library_name"] == "sentence-transformers"
    for text in (
        "1,200 rows",
        "no 3",
        "640 encoded texts",
        "1,280 anchor-positive pairs",
        "step 8",
        "0.750",
        "Seed | 4",
    ):
        assert text in body
    assert "| Tatoeba | seen languages | 50.0 |" in body


def test_without_a_dev_set_or_scores():
    body = model_card(RECORD | {"best": None, "base": "static"})
    assert "Best checkpoint" not in body
    assert "Scores" not in body
    assert "base_model" not in body
