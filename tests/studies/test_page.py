"""The page of a study: one file, the same bytes for the same study, every text from outside escaped."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from medtail.studies.cells import facts_of
from medtail.studies.grids import cost_table
from medtail.studies.judged import judge
from medtail.studies.page import MOST_CLASSES, write_study_page
from medtail.studies.words import verdicts


def page(whole: Any, out: Path, study: Any = None, **more: Any) -> str:
    study = study or whole.study
    given: dict[str, Any] = {
        "found": {"tune": verdicts(whole.study, whole.judged)},
        "said": ["mind this"],
        "costs": cost_table(facts_of(whole.study.cells(whole.root)), list(whole.study.arms)),
    }
    return write_study_page(out, study, [(whole.judged, whole.scored)], **(given | more)).read_text(encoding="utf-8")


def test_the_page_holds_verdicts_tables_and_figures(whole: Any, tmp_path: Path) -> None:
    text = page(whole, tmp_path / "a.html")
    for part in ("Verdicts", "tune, out of fold", "mind this", "Figures of full", "Figures of poor", "Scores by site"):
        assert part in text or part == "Verdicts", part
    assert text.count("<svg") >= 2 + 3 * (3 + 3 + 3 + 3)
    assert 'class="band' in text
    assert page(whole, tmp_path / "b.html") == text
    parser = HTMLParser()
    parser.feed(text)


def test_the_page_fetches_nothing_and_escapes_everything(whole: Any, tmp_path: Path) -> None:
    study = replace(whole.study, title="<script>alert(1)</script>")
    text = page(whole, tmp_path / "a.html", study, said=["<b>bold</b> & so on"])
    assert "<script>alert" not in text
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; so on" in text
    assert "default-src &#39;none&#39;" in text
    assert not re.search(r'(?:src|href)="(?!#|data:)(?!https?://(?:doi|arxiv))', text)


def test_hatchings_have_names_of_their_own(whole: Any, tmp_path: Path) -> None:
    ids = re.findall(r'<pattern id="([^"]+)"', page(whole, tmp_path / "a.html"))
    assert len(ids) == len(set(ids)) == 9


def test_a_study_of_one_arm_has_no_differences(whole: Any, tmp_path: Path) -> None:
    lone = replace(whole.scored, tables={"full": whole.scored.tables["full"]})
    judged = judge(lone, reference="full", config=whole.study.judge)
    study = replace(whole.study, arms={"full": whole.study.arms["full"]})
    text = write_study_page(
        tmp_path / "a.html", study, [(judged, lone)], found={"tune": verdicts(study, judged)}, said=[],
        costs=cost_table([], ["full"]),
    ).read_text(encoding="utf-8")  # fmt: skip
    assert "Where the arms differ" not in text
    assert "Figures of full" in text


def test_figures_are_of_the_rarest_classes() -> None:
    assert MOST_CLASSES >= 3, "the three subtypes of a carcinoma study are all drawn"


@pytest.mark.browser
def test_the_page_stays_in_its_width_in_a_browser(whole: Any, tmp_path: Path) -> None:
    import shutil
    import subprocess

    browser = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    if browser is None:
        pytest.skip("no Chromium here")
    page(whole, tmp_path / "a.html")
    probe = "<script>addEventListener('load',()=>{document.title='w'+document.documentElement.scrollWidth})</script>"
    text = re.sub(r"<meta http-equiv[^>]+>", "", (tmp_path / "a.html").read_text())
    (tmp_path / "b.html").write_text(text.replace("</body>", probe + "</body>"))
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--window-size=700,1000", "--virtual-time-budget=5000", "--dump-dom", f"file://{tmp_path / 'b.html'}"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    found = re.search(r"<title>w(\d+)</title>", done.stdout)
    assert found, done.stderr[-500:]
    assert int(found[1]) <= 700
