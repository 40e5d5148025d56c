"""The files of a study: whole, alike however often they are written, and without times where none belong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from medtail.studies.cells import facts_of
from medtail.studies.grids import cost_table
from medtail.studies.tables import introduction, markdown, states_text, text, write_tables
from medtail.studies.words import cautions, verdicts


def parts(whole: Any) -> dict[str, Any]:
    return {
        "found": {"tune": verdicts(whole.study, whole.judged)},
        "said": cautions(whole.study, [whole.judged], failed={}, unfinished=0),
        "costs": cost_table(facts_of(whole.study.cells(whole.root)), list(whole.study.arms)),
    }


def test_the_same_study_writes_the_same_bytes(whole: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tables(
            tmp_path / name, whole.study, [whole.judged], **parts(whole),
            cells=whole.study.cells(whole.root), failed={}, opened={},
        )  # fmt: skip
    files = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert sorted(files) == ["costs.csv", "differences.csv", "study.json", "study.md", "tables.csv"]
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    table = pd.read_csv(tmp_path / "a" / "tables.csv", keep_default_na=False)
    assert set(table["judged"]) == {"tune"}
    assert set(table["arm"]) == {"full", "twin", "poor"}
    record = json.loads(files["study.json"])
    assert record["judged"]["tune"]["verdicts"]["full"]["verdict"] == "reference"
    assert record["arms"]["twin"] == ["test_time_flip: no → yes"]
    assert set(record["cells"].values()) == {"finished"}


def test_the_page_of_words_has_every_table(whole: Any) -> None:
    page = markdown(whole.study, [whole.judged], **parts(whole))
    assert page.startswith("# a study\n")
    assert "## On tune, out of fold: each image scored by the model that did not learn from it" in page
    for title in ("### all classes", "### FTC", "### MTC", "### ATC", "### Differences to full", "### Cost"):
        assert title in page
    assert introduction(whole.study).startswith("3 arms, 2 training seeds and 3 folds: 18 trainings. 90 images of 60")


def test_the_short_version_leads_with_means_and_verdicts(whole: Any) -> None:
    given = parts(whole)
    said = text(whole.study, whole.judged, given["found"]["tune"], given["costs"])
    assert said.startswith("all classes: tune, out of fold")
    poor = next(verdict for verdict in given["found"]["tune"] if verdict.arm == "poor")
    assert f"\npoor: {poor.word}. {poor.sentence}" in said
    assert "seconds an epoch" in said
    assert "±" not in said


def test_states_are_counted_by_arm(whole: Any) -> None:
    lines = states_text(whole.study, whole.study.cells(whole.root)).splitlines()
    assert lines[1].split() == ["arm", "finished", "running", "failed", "begun", "waiting", "all"]
    assert lines[2].split() == ["full", "6", "0", "0", "0", "0", "6"]
