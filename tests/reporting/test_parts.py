"""The parts of the report that are more than means by family: at a glance, matrix, mixed pool, published, commands."""

import json

import polars as pl
import pytest

from polyalign.reporting.comparison import compare_arms
from polyalign.reporting.matrix import matrices
from polyalign.reporting.neighbours import neighbours_table
from polyalign.reporting.overview import Results, overview_table, tiles, watch_table
from polyalign.reporting.pool import biases, pool_table
from polyalign.reporting.provenance import commands, settings_table
from polyalign.reporting.published import published_table
from polyalign.reporting.scores import Scores
from polyalign.reporting.tables import Bar, headline_table

HALF, ALL, FEW = "1" * 10 + "0" * 10, "1" * 20, "1" * 2 + "0" * 18


def compared(*folders, **options):
    return compare_arms([Scores.read(folder) for folder in folders], **({"resamples": 200} | options))


def texts(table):
    """Return heading -> rows of cell texts."""
    return {heading: [[cell.text for cell in row] for row in rows] for heading, rows in table.groups}


def encoder(texts_encoded, seconds, objective="en-x"):
    cost = {"texts_encoded": texts_encoded, "seconds": seconds}
    return {"languages": ["en", "de"], "objective_name": objective, "cost": cost, "training": {"steps": 10}}


@pytest.fixture(scope="module")
def two_budgets(scores, hits):
    """Return a study of 2 budgets: equal rows, de up, fr down, English down; equal texts, where all stays as it is."""

    def of(de, fr, en=HALF):
        return [hits("de", de), hits("fr", fr), hits("en", en, "english")]

    return [
        scores("en-x", 0, of(HALF, HALF), budgets=["rows"], encoder=encoder(100, 10)),
        scores("en-x", 0, of(ALL, FEW, FEW), budgets=["texts"], encoder=encoder(350, 20)),
        scores("multi-way", 0, of(ALL, FEW, FEW), budgets=["rows", "texts"], encoder=encoder(350, 40, "multi-way")),
    ]


def test_a_tile_by_hand(two_budgets):
    first, second = tiles([Results.of(one) for one in compared(*two_budgets)])
    assert (first.title, first.subtitle, first.section) == ("multi-way", "against en-x, rows", 1)
    assert (first.better, first.unclear, first.worse) == (0, 1, 0)  # de +50, fr -40
    lines = dict(first.lines)
    assert lines["Largest difference"].startswith("classification (seen languages): +5.0 [")
    assert lines["Largest difference"].endswith("], +10.0%")
    assert lines["Languages, in all families"] == "1 won, 1 lost, 0 tied"
    assert lines["Worst language"] == "classification (seen languages): French (fr) 10.0"
    assert lines["English alone, against en-x"].startswith("classification −40.0 [")
    assert lines["Cost"] == "350 texts encoded in training (3.5 × en-x), 40 seconds of training (4 × en-x)"
    assert (second.subtitle, second.section) == ("against en-x, texts", 2)
    assert dict(second.lines)["Languages, in all families"] == "0 won, 0 lost, 2 tied"


def test_all_budgets_at_a_glance(two_budgets):
    table = overview_table([Results.of(one) for one in compared(*two_budgets)])
    assert [column.name for column in table.columns[1:]] == ["multi-way, rows", "multi-way, texts"]
    found = texts(table)
    assert list(found) == ["classification", "English alone, against en-x", "Cost, times the control's"]
    assert found["classification"][0][2] == "0.0 [0.0, 0.0]"
    assert found["Cost, times the control's"] == [
        ["texts encoded in training", "3.50", "1.00"],
        ["seconds of training", "4.00", "2.00"],
    ]


def test_unknown_costs_are_not_guessed(scores, hits):
    folders = [scores(arm, 0, [hits("de", HALF)]) for arm in ("en-x", "multi-way")]
    results = [Results.of(one) for one in compared(*folders)]
    assert dict(tiles(results)[0].lines)["Cost"] == "not recorded"
    assert texts(overview_table(results))["Cost, times the control's"][0] == ["texts encoded in training", "–"]


def test_languages_to_worry_about_are_those_clearly_lost(two_budgets):
    rows, same = [Results.of(one) for one in compared(*two_budgets)]
    ((language, where, scores, change),) = texts(watch_table(rows))["multi-way: 1 lost"]
    assert (language, where, scores) == ("French (fr)", "classification, seen languages", "50.0 → 10.0")
    assert change.startswith("−40.0 [")
    assert texts(watch_table(same)) == {"multi-way: 0 lost": [["none is clearly worse", "", "", ""]]}


def test_bars_share_an_axis_that_holds_zero(two_budgets):
    results = Results.of(compared(*two_budgets)[0])
    (headline,) = [one for one in results.headlines if one.difference]
    low, high = headline.difference.low, headline.difference.high
    (bar,) = [
        cell.bar
        for _, rows in headline_table(results.comparison, results.headlines).groups
        for row in rows
        for cell in row
        if cell.bar
    ]
    assert isinstance(bar, Bar)
    assert (bar.low, bar.high) == (0.0, 100.0)
    assert bar.zero == pytest.approx(100 * -low / (high - low), abs=0.1)


def test_the_matrix_holds_every_pair_in_both_orders(scores, bitext):
    """de-fr is scored both ways, fr-nl one way, English pairs without a way: 20 items, so that 1 is 5 points."""

    def of(more):
        return [
            bitext("de-fr", ["de", "fr"], 8 + more),
            bitext("fr-de", ["fr", "de"], 6 + more),
            bitext("fr-nl", ["fr", "nl"], 10),
            bitext("de-en", ["en", "de"], 12),
            bitext("en-de", ["en", "de"], 14),
            bitext("ja-en", ["en", "ja"], 14),
        ]

    (comparison,) = compared(scores("en-x", 0, of(0)), scores("multi-way", 0, of(2)))
    (matrix,) = matrices(comparison)
    assert matrix.tags == ("en", "de", "fr")
    assert matrix.skipped == ("ja", "nl")
    assert (matrix.first, matrix.control, matrix.arms) == ("multi-way", "en-x", ("en-x", "multi-way"))
    assert texts(matrix.table)[""] == [
        ["English (en)", "", "65.0", ""],
        ["German (de)", "65.0", "", "50.0"],
        ["French (fr)", "", "40.0", ""],
    ]
    square = matrix.squares[1][2]
    assert square.title.startswith("German (de) to French (fr): 50.0 [")
    assert "n = 20; +10.0 [" in square.title
    assert square.title.endswith("against en-x")
    depths = [one.depth for row in matrix.squares for one in row if one]
    assert max(depths) == 1
    assert min(depths) == pytest.approx((40 - 30) / (65 - 30))  # the lowest is fr-de of en-x
    pairs = {(pair[0], pair[1]): pair[2:] for pair in json.loads(json.dumps(matrix.payload))["pairs"]}
    items, values, changes = pairs[1, 2]
    assert (items, values[0][0], values[1][0], changes[0], changes[1][0]) == (20, 40.0, 50.0, None, 10.0)


def test_pairs_without_a_common_language_still_have_a_matrix(scores, bitext):
    subsets = [bitext("de-fr", ["de", "fr"], 10), bitext("ja-ko", ["ja", "ko"], 12)]
    (matrix,) = matrices(compared(scores("en-x", 0, subsets), scores("multi-way", 0, subsets))[0])
    assert matrix.tags == ("de", "fr", "ja", "ko")


def test_sts_between_languages_has_a_matrix_too(scores, sts):
    """As de-fr the cosines order the pairs as people did, as fr-de the other way round."""
    gold = [1.0, 2.0, 3.0, 4.0] * 6
    both = [sts("de-fr", gold, gold), sts("fr-de", gold, [-value for value in gold])]
    for one, languages in zip(both, (["de", "fr"], ["fr", "de"]), strict=True):
        one.languages = languages
    (matrix,) = matrices(compared(scores("en-x", 0, both), scores("multi-way", 0, both))[0])
    assert matrix.caption == "Sts, multi-way: Spearman correlation from language to language"
    assert texts(matrix.table)[""] == [["German (de)", "", "100.0"], ["French (fr)", "−100.0", ""]]


def test_english_pairs_alone_have_no_matrix(scores, bitext):
    subsets = [bitext("de-en", ["en", "de"], 10), bitext("fr-en", ["en", "fr"], 12)]
    assert matrices(compared(scores("en-x", 0, subsets), scores("multi-way", 0, subsets))[0]) == ()


def test_the_mixed_pool_by_hand(scores, pool):
    before = [pool("de", 4, 0.9), pool("fr", 6, 0.7), pool("en", 8, 0.5)]
    after = [pool("de", 10, 0.3), pool("fr", 12, 0.1), pool("en", 14, 0.2)]
    (comparison,) = compared(scores("en-x", 0, before), scores("multi-way", 0, after))
    control, arm = texts(pool_table(comparison, biases(comparison)))["Pool (3 subsets)"]
    assert control == ["en-x (control)", "30.0", "–", "70.0", "90.0"]
    assert (arm[1], arm[3], arm[4]) == ("60.0", "20.0", "30.0")
    assert arm[2].startswith("+30.0 [")


def test_without_a_mixed_pool_there_is_no_panel(scores, hits):
    (comparison,) = compared(*(scores(arm, 0, [hits("de", HALF)]) for arm in ("en-x", "multi-way")))
    assert biases(comparison) == ()
    assert pool_table(comparison, ()) is None


def example(language, found, text, *, hit):
    asked = {"task": "Pool", "row": "7", "language": language, "text": f"The sea ({language})"}
    return asked | {"found_language": found, "found_text": text, "similarity": 0.5, "hit": hit}


def test_nearest_neighbours_by_hand(scores, pool):
    folders = [scores(arm, seed, [pool("de", 10, 0.3)]) for arm, seed in (("en-x", 0), ("mw", 1), ("mw", 0))]
    wrong, right = example("de", "fr", "Une ville", hit=False), example("de", "en", "The sea", hit=True)
    english = example("en", "de", "Das Meer", hit=True)
    for folder, rows in zip(folders, ([wrong], [wrong], [right, english]), strict=True):
        pl.DataFrame(rows).write_parquet(folder / "examples.parquet")
    table = neighbours_table(compared(*folders)[0])
    assert [column.name for column in table.columns] == ["Asked in", "en-x (control)", "mw"]
    assert texts(table) == {
        "The sea (en)": [["German (de)", "fr: Une ville", "en: The sea"], ["English (en)", "–", "de: Das Meer"]]
    }
    assert [cell.tone for cell in table.groups[0][1][0]] == ["", "worse", "better"]


def test_without_examples_there_are_no_neighbours(scores, pool):
    (comparison,) = compared(*(scores(arm, 0, [pool("de", 10, 0.3)]) for arm in ("en-x", "mw")))
    assert neighbours_table(comparison) is None


def test_published_scores_are_means_over_exactly_the_same_subsets(scores, bitext):
    """published.tsv has 0.9920 and 0.9486 for LaBSE on deu-eng and fra-eng."""
    known = [bitext("deu-eng", ["en", "de"], 10, task="Tatoeba"), bitext("fra-eng", ["en", "fr"], 12, task="Tatoeba")]
    more = [bitext("own-eng", ["en", "nl"], 10, "unseen", task="Tatoeba"), bitext("a-b", ["de", "fr"], 10)]
    (comparison,) = compared(*(scores(arm, 0, [*known, *more]) for arm in ("en-x", "multi-way")))
    table = published_table(comparison)
    assert [column.name for column in table.columns] == ["Model", "Tatoeba, seen languages"]
    found = texts(table)
    assert found["This comparison"] == [["en-x (control)", "55.0"], ["multi-way", "55.0"]]
    assert ["LaBSE", "97.0"] in found["Published"]
    assert not any(model == "xlm-roberta-base" for model, _ in found["Published"])  # has no scores on Tatoeba


def test_where_no_published_scores_match_nothing_is_said(scores, bitext):
    folders = []
    for arm in ("en-x", "multi-way"):
        folder = scores(arm, 0, [bitext("deu-eng", ["en", "de"], 10, task="Tatoeba")])
        rows = folder / "scores.parquet"
        pl.read_parquet(rows).with_columns(split=pl.lit("dev")).write_parquet(rows)
        folders.append(folder)
    assert published_table(compared(*folders)[0]) is None


def test_the_commands_say_what_the_manifests_tell(scores, hits, bitext):
    subsets = [hits("de", HALF), bitext("de-en", ["en", "de"], 10, task="OwnRowsBitext")]
    arm = Scores.read(scores("multi-way", 0, subsets, model="encoders/it's mine", languages=["de", "fr"]))
    base = Scores.read(scores("base", 0, [hits("de", HALF)], split=None, data_source="hub", languages=["de"]))
    assert commands([arm, base], "base", 500) == (
        "polyalign evaluate 'encoders/it'\"'\"'s mine' --languages de,fr --tasks Topics --own-rows ROWS --split test "
        "--mteb-data DATA --out scores/scores",
        "polyalign evaluate encoders/base-0 --languages de --tasks Topics --arm base --out scores/scores",
        "polyalign compare scores/scores scores/scores --control base --resamples 500 --out report",
    )


def test_settings_of_training(two_budgets):
    table = settings_table([Scores.read(folder) for folder in two_budgets])
    assert [column.name for column in table.columns] == [
        "Setting",
        "en-x, rows",
        "en-x, texts",
        "multi-way, rows, texts",
    ]
    found = texts(table)
    assert found["Where arms differ"] == [["objective", "en-x", "en-x", "multi-way"]]
    assert ["training.steps", "10", "10", "10"] in found["The same in all arms"]
