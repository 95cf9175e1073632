import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise

import polars as pl
import pytest

from polyalign.errors import UserError
from polyalign.reporting import compare
from polyalign.reporting.comparison import compare_arms
from polyalign.reporting.labels import exposure_label, points, printable, signed
from polyalign.reporting.report import _markdown_table
from polyalign.reporting.scores import Scores
from polyalign.reporting.tables import Cell, Column, Table, seeds_note

HALF, MOST, FEW = "1" * 10 + "0" * 10, "1" * 18 + "0" * 2, "1" * 2 + "0" * 18
HOSTILE = "<script>alert('x')</script> $\\frac$ & [a](b) | *c* \u202egnp.exe"
HOSTILE_TAG = "</script><img src=x onerror=alert(1)>\u202e"
ENDLESS = "x" * 10_000
HISTORY = [{"step": 10, "texts": 700, "loss": 2.5}, {"step": 20, "texts": 1400, "dev_accuracy": 0.5}]
COST = {"texts_encoded": 1400, "seconds": 3.2, "steps": 20, "rows_seen": 200, "pairs": 8400}


@pytest.fixture(scope="module")
def study(scores, hits, bitext, pool):
    """Return a writer of en-x, another arm and the base, with all families, unseen languages and something left out."""

    def write(arm="multi-way", seeds=(0,), budgets=(), more=()):
        def subsets(right, pairs):
            return [
                *more,
                bitext("de-en", ["en", "de"], pairs),
                bitext("fr-en", ["en", "fr"], pairs),
                bitext("de-fr", ["de", "fr"], pairs),
                bitext("fr-de", ["fr", "de"], pairs - 2),
                bitext("deu-eng", ["en", "de"], pairs, task="English only"),
                hits("en", HALF, "english"),
                hits("de", right),
                hits("ja", HALF, "unseen"),
                pool("de", pairs, 0.5),
            ]

        encoder = {"languages": ["en", "de", "fr"], "history": HISTORY, "cost": COST}
        rest = {"encoder": encoder, "budgets": budgets, "missing": {"Topics": ["yo"]}}
        folders = [
            scores(name, seed, subsets(*numbers), **rest)
            for seed in seeds
            for name, numbers in (("en-x", (HALF, 10)), (arm, (MOST, 20)))
        ]
        return [*folders, scores("base", 0, [*subsets(FEW, 4), hits("nl", HALF)])]

    return write


@pytest.fixture(scope="module")
def report(study, tmp_path_factory):
    """Return (scores folders, report folder, what compare returned) of the plain study."""
    folders, out = study(), tmp_path_factory.mktemp("report") / "report"
    return folders, out, compare(folders, out, resamples=100)


@pytest.fixture(scope="module")
def hostile(study, hits, bitext, pool, tmp_path_factory):
    """Return (report folder, what compare returned) where names are markup, change direction or never end."""
    out = tmp_path_factory.mktemp("hostile") / "report"
    more = [
        bitext(f"de-{HOSTILE_TAG}", ["de", HOSTILE_TAG], 10, task="Pairs"),
        bitext(f"fr-{HOSTILE_TAG}", ["fr", HOSTILE_TAG], 12, task="Pairs"),
        hits(ENDLESS, HALF, task=ENDLESS),
        hits("de", HALF, task=HOSTILE),
        pool(HOSTILE_TAG, 10, 0.1, task=HOSTILE_TAG),
    ]
    folders = study(arm=HOSTILE, seeds=(0, 1), budgets=["<b>rows</b>"], more=more)
    example = {"task": "Pool", "row": "1", "language": "de", "text": HOSTILE, "found_language": HOSTILE_TAG}
    for folder in folders:
        pl.DataFrame([example | {"found_text": ENDLESS, "similarity": 0.5, "hit": False}]).write_parquet(
            folder / "examples.parquet"
        )
    return out, compare(folders, out, resamples=100)


class Page(HTMLParser):
    """Collects a page's tags, its text, and its tables as rows of cell texts without the marks."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.tables, self.text = [], [], [], ""
        self._cell = self._skip = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self._cell = ""
        self._skip = tag == "span" and ("class", "mark") in attrs

    def handle_endtag(self, tag):
        if tag in ("th", "td"):
            self.tables[-1][-1].append(self._cell.strip())
            self._cell = None
        self._skip = False

    def handle_data(self, data):
        self.text += data
        if self._cell is not None and not self._skip:
            self._cell += data.replace("\xa0", "")


def markdown_tables(text: str) -> list[list[list[str]]]:
    """Return the pipe tables of a Markdown text as rows of plain cell texts, without the rule line."""
    found, previous = [], False
    for line in text.split("\n"):
        if line.startswith("|"):
            if not previous:
                found.append([])
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            cells = [re.sub(r"^\*\*(.*)\*\*$", r"\1", cell) for cell in cells]
            found[-1].append([re.sub(r"\\(.)", r"\1", cell).replace("&amp;", "&") for cell in cells])
        previous = line.startswith("|")
    return [[row for row in table if not set(row) <= {"---", "---:"}] for table in found]


def test_what_is_written_and_returned(report):
    _, out, returned = report
    assert returned["report"] == str(out / "report.html")
    assert json.loads((out / "tables.json").read_text()) == {
        "comparisons": returned["comparisons"],
        "crossings": [],
        "growth": [],
    }
    manifest = json.loads((out / "manifest.json").read_text())
    assert {key: manifest[key] for key in ("kind", "format", "control", "resamples", "seed")} == {
        "kind": "report",
        "format": 1,
        "control": None,
        "resamples": 100,
        "seed": 0,
    }
    assert [(one["arm"], len(one["fingerprint"])) for one in manifest["scores"]] == [
        ("en-x", 32),
        ("multi-way", 32),
        ("base", 32),
    ]
    assert "numpy" in manifest["versions"]
    figures = {path.name: path.read_bytes() for path in (out / "figures").iterdir()}
    assert all(content.startswith(b"\x89PNG") for content in figures.values())
    markdown = (out / "report.md").read_text()
    assert set(re.findall(r"\(figures/(.*?)\)", markdown)) == set(figures)
    assert (out / "report.html").read_text().count("<svg xmlns") == len(figures)

    (comparison,) = returned["comparisons"]
    row = next(
        one
        for one in comparison["headline"]
        if (one["family"], one["exposure"], one["arm"]) == ("classification", "seen", "multi-way")
    )
    assert row["mean"] == pytest.approx(0.9)
    assert row["difference"]["value"] == pytest.approx(0.4)
    assert row["relative_gain"] == pytest.approx(80.0)
    assert (row["won"], row["lost"], row["worst"]) == (["de"], [], ["de", pytest.approx(0.9)])
    assert comparison["left_out"] == [
        {"task": "Topics", "subset": "nl", "reason": "not in the scores of en-x (seed 0), multi-way (seed 0)"}
    ]


def test_the_verdict_follows_from_the_numbers(report):
    (comparison,) = report[2]["comparisons"]
    against_control, *against_base = comparison["verdict"]
    assert re.fullmatch(
        r"multi-way against en-x: better on bitext en-X seen \(\+50\.0 \[.*?\]\), bitext X-X seen \(\+50\.0 \[.*?\]\), "
        r"classification seen \(\+40\.0 \[.*?\]\), retrieval, mixed pool seen \(\+50\.0 \[.*?\]\); "
        r"no clear difference on classification unseen\.",
        against_control,
    )
    assert against_base == [
        f"{arm} against the untouched base: better on 4 of 6 family scores, English included; worse on none."
        for arm in ("en-x", "multi-way")
    ]


def test_a_comparison_on_english_alone(scores, hits, tmp_path):
    folders = [scores(arm, 0, [hits("en", right, "english")]) for arm, right in (("en-x", HALF), ("multi-way", MOST))]
    (comparison,) = compare(folders, tmp_path / "report", resamples=100)["comparisons"]
    assert comparison["verdict"] == ["multi-way against en-x: compared on English alone."]
    assert [path.name for path in (tmp_path / "report" / "figures").iterdir()] == ["1-seeds-1.png"]


@pytest.mark.parametrize(
    ("seeds", "note"),
    [
        ((0,), "One seed per arm: the intervals cover other test items only, not other training runs."),
        ((0, 1), "Two seeds say little about others, which makes the intervals wide; three or more narrow them."),
        ((0, 1, 2), "Seeds: en-x 3, multi-way 3; the intervals cover other test items and other seeds."),
    ],
)
def test_the_report_says_what_the_intervals_cover(scores, hits, seeds, note):
    folders = [scores(arm, seed, [hits("de", HALF)]) for arm in ("en-x", "multi-way") for seed in seeds]
    (comparison,) = compare_arms([Scores.read(folder) for folder in folders], resamples=100)
    assert note in seeds_note(comparison)


def test_hostile_names_stay_text_and_nothing_is_loaded(hostile):
    out, returned = hostile
    shown = HOSTILE.replace("\u202e", "\\u202e")
    assert shown in returned["comparisons"][0]["arms"]
    text = (out / "report.html").read_text()
    page = Page(text)
    assert shown in page.text
    assert "Budget: <b>rows</b>" in page.text
    assert HOSTILE_TAG.replace("\u202e", "\\u202e") in page.text
    assert "\u202e" not in text
    assert not {"link", "iframe", "b", "img", "object"} & set(page.tags)
    assert len(re.findall(r"<script", text)) == page.tags.count("script") == 1 + text.count('type="application/json"')
    loading = [value for _, key, value in page.attributes if key in ("src", "href", "xlink:href", "action")]
    assert loading
    assert all(value.startswith("#") for value in loading)
    assert not any(key.startswith("on") for _, key, _ in page.attributes)
    assert all(value.startswith("#") for value in re.findall(r"url\((.*?)\)", text))
    assert "@import" not in text
    markdown = (out / "report.md").read_text()
    outside_code = re.sub(r"(?m)^ {4}.*$", "", markdown)
    assert "<script" not in re.sub(r"\\<", "", outside_code)
    assert "[a](b)" not in outside_code


def test_headings_skip_no_level_and_what_is_drawn_is_also_said(report):
    page = Page((report[1] / "report.html").read_text())
    levels = [int(tag[1]) for tag in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))
    assert page.tags.count("table") == page.tags.count("caption")
    drawn = [value for tag, key, value in page.attributes if (tag, key, value) == ("div", "role", "img")]
    said = [value for tag, key, value in page.attributes if (tag, key) == ("div", "aria-label")]
    assert 0 < len(drawn) < len(said)
    assert all(said)


def test_endless_names_are_cut_and_stay_apart(hostile):
    """The tokens of 10,000 characters: a task, a language, a subset and a model."""
    out, _ = hostile
    for name in ("report.html", "report.md"):
        assert not re.search("x{200}", (out / name).read_text())
    assert len(printable(ENDLESS)) == 99
    assert printable(ENDLESS) != printable(ENDLESS + "x")
    assert printable(printable(ENDLESS)) == printable(ENDLESS)


def test_the_pages_policy_names_its_own_script_alone(report):
    text = (report[1] / "report.html").read_text()
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policies = [value for tag, key, value in Page(text).attributes if (tag, key) == ("meta", "content")]
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in policies


def test_markdown_and_html_hold_the_same_tables(hostile):
    out, _ = hostile
    page = Page((out / "report.html").read_text())
    of_markdown = markdown_tables((out / "report.md").read_text())
    assert len(page.tables) == len(of_markdown) == 13
    for in_page, in_markdown in zip(page.tables, of_markdown, strict=True):
        flat, heading = [in_page[0]], None
        for row in in_page[1:]:
            if len(row) == 1:
                heading = row
            else:
                flat.append((heading or []) + row)
        if heading:
            flat[0] = ["", *flat[0]]
        assert flat == in_markdown


def test_the_headline_table_by_hand(report):
    headline, _, english = markdown_tables((report[1] / "report.md").read_text())[:3]
    group = "classification, unseen languages (1 language, 1 task)"
    assert [row for row in headline if row[0] == group] == [
        [group, "base (untouched)", "50.0", "0.0 [0.0, 0.0]", "0.0%", "0 / 0 / 1", "Japanese (ja) 50.0"],
        [group, "en-x (control)", "50.0", "–", "–", "–", "Japanese (ja) 50.0"],
        [group, "multi-way", "50.0", "0.0 [0.0, 0.0]", "0.0%", "0 / 0 / 1", "Japanese (ja) 50.0"],
    ]
    assert english[2:] == [
        ["classification (1 task)", "en-x (control)", "50.0", "0.0 [0.0, 0.0]"],
        ["classification (1 task)", "multi-way", "50.0", "0.0 [0.0, 0.0]"],
    ]


def test_an_existing_report_is_kept_only_if_it_is_the_same(report):
    folders, out, returned = report
    written = (out / "report.html").stat().st_mtime_ns
    assert compare(folders, out, resamples=100) == returned
    assert (out / "report.html").stat().st_mtime_ns == written
    with pytest.raises(UserError, match="holds a report of other scores or settings; use --force to replace it"):
        compare(folders, out, resamples=100, seed=1)


def test_the_same_scores_give_the_same_files(report):
    folders, out, _ = report
    before = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    compare(folders, out, resamples=100, force=True)
    assert before == {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_too_few_resamples_are_an_error(tmp_path):
    with pytest.raises(UserError, match="got 10 resamples; a 95% interval takes at least 100"):
        compare([], tmp_path / "report", resamples=10)


def test_markdown_of_a_table():
    table = Table(
        "Scores",
        (Column("Arm"), Column("Mean", True)),
        (("a|b", ((Cell("x*y"), Cell("+1.0 [0.5, 1.5]", "better")),)),),
        note="In points.",
    )
    assert _markdown_table(table) == [
        "**Scores**",
        "",
        "|  | Arm | Mean |",
        "| --- | --- | ---: |",
        r"| a\|b | x\*y | **+1.0 [0.5, 1.5]** |",
        "",
        "In points.",
        "",
    ]


def test_labels():
    assert [signed(value) for value in (5.16, -0.04, 0.04, -1.26)] == ["+5.2", "0.0", "0.0", "−1.3"]
    assert [points(value) for value in (0.5, -0.0126, -0.0001)] == ["50.0", "−1.3", "0.0"]
    assert printable("a\nb\u200bc") == "a\\u000ab\\u200bc"
    assert exposure_label("bitext X-X", "unseen") == "pairs with an unseen language"
    assert exposure_label("STS cross-lingual", "seen") == "pairs of seen languages"
    assert exposure_label("STS", "seen") == "seen languages"


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, polyalign.reporting; print({'matplotlib', 'polars', 'scipy', 'jinja2'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
