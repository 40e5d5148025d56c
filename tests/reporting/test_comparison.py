"""The page of a comparison: complete, closed, escaped, and drawn as the numbers are."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from medtail.judging.comparison import Comparison, ComparisonConfig, compare
from medtail.judging.fold_comparison import compare_folds
from medtail.reporting.comparison import difference_forest, ranking_plot, write_comparison_page
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions
from medtail.tables.tail import ClassCounts

EVIL = '<script>alert("x")</script>&'
NAMES = ("Effusion", "Nodule", EVIL)
MACRO_AP = {"metric": "ap", "class": "", "tail_group": ""}
BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
HARNESS = """<!DOCTYPE html><meta charset="utf-8"><body>
<iframe id="page" src="comparison.html" width="400" height="3000"></iframe>
<script>
document.getElementById("page").addEventListener("load", event => {
  const page = event.target.contentDocument, found = {};
  const table = page.getElementById("difference-table");
  table.querySelector('th[data-column="4"] button').click();
  found.sorted = Array.from(table.tBodies[0].rows, row => row.cells[4].dataset.v);
  found.wide = page.documentElement.scrollWidth;
  found.paper = getComputedStyle(page.documentElement).backgroundColor;
  found.tie = getComputedStyle(page.querySelector("svg .tie")).stroke;
  const out = document.createElement("pre"); out.id = "found";
  out.textContent = btoa(encodeURIComponent(JSON.stringify(found)));
  document.body.append(out);
});
</script>"""


def table(skill: float, *, seed: int, fold: int = 0, images: int = 240) -> Predictions:
    truth = np.random.default_rng(fold)
    y = (truth.random((images, 3)) < (0.4, 0.2, 0.1)).astype(float)
    logits = (
        skill * y + 0.8 * truth.normal(size=y.shape) + 0.6 * np.random.default_rng((seed, fold)).normal(size=y.shape)
    )
    ids = np.array([f"f{fold}i{k}" for k in range(images)], dtype=object)
    counts = ClassCounts(NAMES, (3000, 500, 40), (3000, 500, 40), (10_000,) * 3)
    where = np.array(["test"] * images, dtype=object)
    return Predictions(ids, ids, 1 / (1 + np.exp(-logits)), y, LabelSpace(NAMES), where, train_counts=counts)


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    skills = {"best": 3.0, EVIL: 1.5, "middle": 1.45, "third": 1.4, "poor": 0.0}
    tables = {name: table(skill, seed=k) for k, (name, skill) in enumerate(skills.items())}
    return compare(tables, config=ComparisonConfig(metrics=("ap", "ece"), margins={"ap": 0.02}))


class Outline(HTMLParser):
    """Every element with its attributes, and all visible text."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(path: Path) -> Outline:
    outline = Outline()
    outline.feed(path.read_text(encoding="utf-8"))
    return outline


def test_the_page_is_one_closed_escaped_file(comparison: Comparison, tmp_path: Path) -> None:
    page = write_comparison_page(tmp_path / "comparison.html", comparison)
    text = page.read_text(encoding="utf-8")
    assert EVIL not in text
    outline = read(page)
    assert sum(tag == "script" for tag, _ in outline.elements) == 1
    assert not [a for _, a in outline.elements if "src" in a or str(a.get("href", "#"))[0] != "#" or "style" in a]
    assert not [name for _, a in outline.elements for name in a if name.startswith("on")]
    policy = next(a["content"] for tag, a in outline.elements if tag == "meta" and "http-equiv" in a)
    assert "default-src 'none'" in str(policy)
    anchors = {a["href"][1:] for tag, a in outline.elements if tag == "a" and a.get("href")}
    assert anchors <= {a.get("id") for _, a in outline.elements}


def test_the_page_holds_every_difference_and_says_who_is_tied(comparison: Comparison, tmp_path: Path) -> None:
    page = write_comparison_page(tmp_path / "comparison.html", comparison)
    outline = read(page)
    said = " ".join(" ".join(outline.words).split())
    assert "within noise" in said
    assert f"{comparison.header['bootstrap']['resamples']:,} of patients" in said
    rows = page.read_text(encoding="utf-8").split('id="difference-table"')[1].split("</table>")[0].count("<tr>") - 1
    assert rows == len(comparison.differences)
    for key in ("Holm S.", "Phipson B"):
        assert key in said


def test_bars_join_exactly_the_systems_that_are_tied(comparison: Comparison) -> None:
    drawn = str(ranking_plot(comparison, MACRO_AP))
    bars = re.findall(r'<line x1="[\d.]+" y1="([\d.]+)" x2="[\d.]+" y2="([\d.]+)" class="tie">', drawn)
    ranked = comparison.systems[(comparison.systems["metric"] == "ap") & (comparison.systems["class"] == "")
                                & (comparison.systems["tail_group"] == "")].sort_values("rank")  # fmt: skip
    order, table = ranked["system"].tolist(), comparison.differences
    table = table[(table["metric"] == "ap") & (table["class"] == "") & (table["tail_group"] == "")]
    apart = {frozenset((r["system_a"], r["system_b"])) for _, r in table.iterrows() if r["low"] > 0 or r["high"] < 0}
    runs = [(i, j) for i, j in combinations(range(5), 2)
            if not any(frozenset(two) in apart for two in combinations(order[i : j + 1], 2))]  # fmt: skip
    longest = [run for run in runs if not any(a <= run[0] and run[1] <= b and (a, b) != run for a, b in runs)]
    assert longest
    assert len(apart) >= 7
    # rows are 24 px from 40 on; a bar reaches 5 px beyond the middles of its first and its last row
    assert bars == [(f"{40 + 24 * i + 7:g}", f"{40 + 24 * j + 17:g}") for i, j in longest]
    assert drawn.count('class="mark nogroup"') == 5
    assert "lower is better" in str(ranking_plot(comparison, MACRO_AP | {"metric": "ece"}))


def test_only_corrected_findings_are_filled(comparison: Comparison) -> None:
    table, seen = comparison.differences, set()
    for a, b in (("best", "middle"), ("middle", "third")):
        rows = table[(table["metric"] == "ap") & (table["system_a"] == a) & (table["system_b"] == b)]
        drawn = str(difference_forest(comparison, metric="ap", system_a=a, system_b=b))
        corrected = rows["verdict"].isin(["a_ahead", "b_ahead"])
        assert drawn.count('class="hollow"') == (~corrected).sum()
        assert drawn.count('class="mark') == len(rows)
        assert f"{a} better →" in drawn
        seen |= set(corrected)
    assert seen == {True, False}
    lower = str(difference_forest(comparison, metric="ece", system_a="best", system_b="middle"))
    assert "← best better" in lower


def test_folds_have_a_page_too(tmp_path: Path) -> None:
    folds = {name: [table(skill, seed=n, fold=k, images=60) for k in range(3)]
             for n, (name, skill) in enumerate((("good", 2.0), ("poor", 0.2)))}  # fmt: skip
    found = compare_folds(folds, config=ComparisonConfig(metrics=("ap",)))
    said = " ".join(" ".join(read(write_comparison_page(tmp_path / "c.html", found)).words).split())
    assert "variance factor 1/k + 0.006 (test over train images, from train counts)" in said
    assert "Every fold" in said
    assert "Nadeau C" in said


def test_the_same_comparison_gives_the_same_bytes(comparison: Comparison, tmp_path: Path) -> None:
    pages = [write_comparison_page(tmp_path / name, comparison).read_bytes() for name in ("a.html", "b.html")]
    assert pages[0] == pages[1]


def visit(folder: Path, *options: str) -> tuple[dict, str]:
    assert BROWSER is not None
    (folder / "harness.html").write_text(HARNESS, encoding="utf-8")
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={folder / 'profile'}", "--allow-file-access-from-files", "--enable-logging=stderr",
         "--virtual-time-budget=5000", "--dump-dom", *options, f"file://{folder / 'harness.html'}"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    found = re.search(r'<pre id="found">([^<]+)</pre>', done.stdout)
    assert found, done.stderr[-2000:]
    return json.loads(unquote(base64.b64decode(found[1]).decode())), done.stderr


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.slow
def test_in_a_browser_it_sorts_fits_a_phone_and_follows_into_the_dark(comparison: Comparison, tmp_path: Path) -> None:
    write_comparison_page(tmp_path / "comparison.html", comparison)
    light, log = visit(tmp_path, "--blink-settings=preferredColorScheme=1")
    dark, _ = visit(tmp_path, "--blink-settings=preferredColorScheme=0")
    assert "CONSOLE" not in log
    numbers = [float(value) for value in light["sorted"] if value]
    assert numbers == sorted(numbers, reverse=True)
    assert light["wide"] <= 400
    assert light["paper"] != dark["paper"]
    assert light["tie"] != dark["tie"]
