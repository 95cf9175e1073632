"""The page in a real browser: its script runs under its own policy, and nothing is wider than a small phone."""

import html
import json
import re
import shutil
import subprocess

import pytest

from polyalign.reporting import compare

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
QUIET += " --disable-component-update --disable-sync"

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: no chromium, chromium-browser or google-chrome"
)

# Clicks through the matrix as a reader would, and tells the page around it what it saw.
READER = """
<script>
const seen = {wider: document.documentElement.scrollWidth - innerWidth};
const table = document.querySelector(".matrix"), [arm, shows, order] = document.querySelectorAll(".controls select");
const cells = () => [...table.querySelectorAll("td")].map((cell) => cell.textContent);
const choose = (select, value) => { select.value = value; select.dispatchEvent(new Event("change")); };
seen.first = cells();
choose(arm, 0); seen.control = cells();
choose(arm, 1); choose(shows, "change"); seen.change = cells();
seen.titles = [...table.querySelectorAll("td[title]")].map((cell) => cell.title);
choose(order, "value"); seen.order = [...table.querySelectorAll("tbody th")].map((cell) => cell.textContent);
const stops = () => [...table.querySelectorAll("td")].filter((cell) => cell.tabIndex === 0);
seen.stops = stops().length;
stops()[0].focus();
seen.detail = document.querySelector(".detail").textContent;
stops()[0].dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowDown", bubbles: true}));
seen.moved = document.activeElement.title;
parent.postMessage(JSON.stringify(seen), "*");
</script>
"""
FRAME = """<!DOCTYPE html><iframe src="page.html" style="width: 360px; height: 800px; border: 0"></iframe><pre></pre>
<script>addEventListener("message", (event) => { document.querySelector("pre").textContent = event.data; });</script>
"""


def dump(path, profile):
    """Return the page's DOM as it is after its scripts ran."""
    command = [CHROMIUM, *QUIET.split(), f"--user-data-dir={profile}", "--dump-dom", path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.fixture(scope="module")
def page(scores, bitext, hits, tmp_path_factory):
    """Return the report of two arms on all pairs of de, fr and nl, with a name that never ends."""

    def of(more):
        pairs = {("de", "fr"): 8, ("de", "nl"): 10, ("fr", "nl"): 12}
        return [
            *(bitext("-".join(pair), pair, right + more) for pair, right in pairs.items()),
            hits("x" * 10_000, "1" * 10 + "0" * 10, task="x" * 10_000),
        ]

    out = tmp_path_factory.mktemp("page") / "report"
    compare([scores("en-x", 0, of(0)), scores("y" * 10_000, 0, of(2))], out, resamples=100)
    return out / "report.html"


def test_the_script_runs_under_the_pages_policy(page, tmp_path):
    assert 'class="controls"' not in page.read_text()
    assert 'class="controls"' in dump(page, tmp_path / "profile")


def test_a_reader_on_a_small_phone(page, tmp_path):
    text = re.sub(r"<meta http-equiv.*?>", "", page.read_text())
    (tmp_path / "page.html").write_text(text.replace("</body>", READER + "</body>"))
    (tmp_path / "frame.html").write_text(FRAME)
    answer = re.search(r"<pre>(.*?)</pre>", dump(tmp_path / "frame.html", tmp_path / "profile"), re.DOTALL).group(1)
    seen = json.loads(html.unescape(answer))
    assert seen["wider"] <= 0
    assert seen["first"] == ["", "50.0", "60.0", "50.0", "", "70.0", "60.0", "70.0", ""]
    assert seen["control"] == ["", "40.0", "50.0", "40.0", "", "60.0", "50.0", "60.0", ""]
    assert seen["change"] == ["", "+10.0", "+10.0", "+10.0", "", "+10.0", "+10.0", "+10.0", ""]
    assert re.fullmatch(
        r"German \(de\) to French \(fr\): 50\.0 \[.*\], n = 20; \+10\.0 \[.*\] against en-x", seen["titles"][0]
    )
    assert seen["order"] == ["German (de)", "French (fr)", "Dutch (nl)"]
    assert seen["stops"] == 1
    assert seen["detail"] == seen["titles"][0]
    assert seen["moved"].startswith("Dutch (nl) to French (fr)")
