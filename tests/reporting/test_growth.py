"""Quality against rows and languages of the corpus, on numbers that can be checked by hand."""

import pytest

from polyalign.reporting.comparison import compare_arms
from polyalign.reporting.figures import draw_growth
from polyalign.reporting.growth import growth_content, growth_tables, growths
from polyalign.reporting.scores import Scores

RIGHT = {"en-x": {40: 4, 80: 8}, "multi-way": {40: 10, 80: 9}}


def record(rows=80, languages=("en", "de"), texts=1000, base="static"):
    return {
        "base": base,
        "corpus": {"rows": rows},
        "languages": list(languages),
        "cost": {"texts_encoded": texts},
    }


@pytest.fixture(scope="module")
def compared(scores, hits):
    """Two sizes in rows; one in languages beside them, in which French is seen too; two that are like neither."""

    def arms(budget, encoder, french="unseen", rows=80):
        for arm, right in RIGHT.items():
            german = hits("de", "1" * right[rows] + "0" * (20 - right[rows]))
            yield scores(arm, 0, [german, hits("fr", "1" * 2 + "0" * 18, french)], budgets=[budget], encoder=encoder)

    folders = [
        *arms("large, equal texts", record()),
        *arms("small, equal texts", record(rows=40, texts=1040), rows=40),
        *arms("more languages, equal texts", record(languages=("en", "de", "fr")), "seen"),
        *arms("longer, equal texts", record(rows=20, texts=1100)),
        *arms("other base, equal texts", record(rows=20, base="mini")),
    ]
    return compare_arms([Scores.read(folder) for folder in folders], resamples=100)


def test_what_grows_and_what_stays(compared):
    found = growths(compared)
    assert [(one.quantity, one.fixed, one.family, one.exposure, one.languages, one.arm) for one in found] == [
        ("rows", "2 languages", "classification", "seen", ("de",), "en-x"),
        ("rows", "2 languages", "classification", "seen", ("de",), "multi-way"),
        ("rows", "2 languages", "classification", "unseen", ("fr",), "en-x"),
        ("rows", "2 languages", "classification", "unseen", ("fr",), "multi-way"),
        ("languages", "80 rows", "classification", "seen", ("de",), "en-x"),
        ("languages", "80 rows", "classification", "seen", ("de",), "multi-way"),
    ], "French is seen in one of the sizes only"
    assert [[size.amount for size in one.sizes] for one in found] == [[40, 80]] * 4 + [[2, 3]] * 2
    means = [[round(size.mean.value, 9) for size in one.sizes] for one in found]
    assert means == [[0.2, 0.4], [0.5, 0.45], [0.1, 0.1], [0.1, 0.1], [0.4, 0.4], [0.45, 0.45]]
    control, arm = found[:2]
    assert [size.difference for size in control.sizes] == [None, None]
    assert [(round(size.difference.value, 9), size.difference.sign) for size in arm.sizes] == [(0.3, 1), (0.05, 0)]


def test_as_tables_figures_and_json(compared):
    found = growths(compared)
    rows, languages = growth_tables(found, "en-x")
    assert rows.caption == "Quality against rows, 2 languages"
    assert [column.name for column in rows.columns] == ["Arm", "40 rows", "80 rows"]
    heading, lines = rows.groups[0]
    assert heading == "classification, seen languages (de)"
    assert [[(cell.text, cell.tone) for cell in line] for line in lines] == [
        [("en-x", ""), ("20.0", ""), ("40.0", "")],
        [("multi-way", ""), ("50.0", "better"), ("45.0", "")],
    ]
    assert languages.caption == "Quality against languages, 80 rows"
    first, second = draw_growth(found, compared)
    assert first.alt == (
        "Score of classification against rows of the corpus; with most of them the highest is multi-way, seen, "
        "with 45.0 points."
    )
    assert second.title == "classification: quality and languages"
    assert growth_content(found)[1]["sizes"][0]["amount"] == 40


def test_one_size_does_not_grow(compared):
    assert growths(compared[:1]) == []
    assert growth_tables([], "en-x") == ()
    assert draw_growth([], compared) == ()
