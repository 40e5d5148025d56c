"""The files of a study of systems: what a person reads, and that machines find the same."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from medtail.studies.systems import SystemsRun
from medtail.studies.systems_config import SystemConfig
from medtail.studies.systems_judged import JudgedSystems, judge_systems
from medtail.studies.systems_tables import made_words, markdown, origin_grid, text, values_table, write_systems
from medtail.tables.post_rules import NormalGateConfig
from medtail.training.recipes import RECIPES


@pytest.fixture(scope="module")
def judged(systems_run: SystemsRun) -> JudgedSystems:
    """The systems judged, once."""
    return judge_systems(systems_run)


def test_the_page_says_whose_idea_each_member_is_and_what_it_leaves_out(systems_run: SystemsRun) -> None:
    grid = origin_grid(systems_run)
    rows = {row[0]: row for row in grid.rows}
    assert rows["good"][1:] == ("cxrlt_yale/tiny", RECIPES["cxrlt_yale"].origin, RECIPES["cxrlt_yale"].leaves_out)
    assert set(rows) == {"good", "other", "poor"}


def test_markdown_and_terminal_hold_the_values_with_their_intervals(
    systems_run: SystemsRun, judged: JudgedSystems
) -> None:
    row = judged.systems["both"].results.rows("ap", class_name="", tail_group="").iloc[0]
    value = f"{row['value']:.4f}"
    page, short = markdown(systems_run, judged), text(systems_run, judged)
    assert f"{value}<br>[{row['low']:.4f}, {row['high']:.4f}]" in page
    assert f"{value} [{row['low']:.4f}, {row['high']:.4f}]" in short
    for page_or_text in (page, short):
        assert "Ensembles against their best member" in page_or_text
        assert "3 systems of 15 trainings, scored by the protocol of CXR-LT nih14, task 1" in page_or_text
        assert "240 test images of 120 patients (3 folds; 15 classes)" in page_or_text
    assert RECIPES["cxrlt_ral"].leaves_out in page
    assert "Before you quote this" in page


def test_every_file_is_written_and_the_same_run_gives_the_same_bytes(
    systems_run: SystemsRun, judged: JudgedSystems
) -> None:
    write_systems(systems_run, judged)
    names = ("systems.csv", "differences.csv", "systems.md", "systems.html", "systems.json")
    first = {name: (systems_run.root / name).read_bytes() for name in names}
    write_systems(systems_run, judge_systems(systems_run))
    for name in names:
        assert (systems_run.root / name).read_bytes() == first[name], name
    table = pd.read_csv(systems_run.root / "systems.csv")
    assert set(table.loc[~table["is_member"], "system"]) == {"poor", "both", "fitted"}
    assert table[table["is_member"]]["system"].str.contains(": ").all()
    assert len(table) == len(values_table(judged))
    record = json.loads(first["systems.json"])
    assert record["members"]["other"]["origin"] == RECIPES["cxrlt_ral"].origin
    assert set(record["systems"]["fitted"]["weights"]) == {"0", "1", "2"}
    assert record["config"]["reference"] is None
    page = first["systems.html"].decode("utf-8")
    assert "Asymmetric Loss" in page, "the papers behind the recipes"
    assert 'src="http' not in page
    assert "@import" not in page


def test_how_scores_are_made_is_said_in_words() -> None:
    assert made_words(SystemConfig()) == "its scores as they are"
    switched = SystemConfig(members=("a", "b"), switch_below=0.01, views="max")
    assert made_words(switched) == "views: max; the second member for classes below 0.01 of train"
    gated = SystemConfig(members=("a", "b"), fit="greedy", how="logits", rules=(NormalGateConfig(),), views="frontal")
    expected = "views: frontal 0.8; mean of logits, weights by greedy on tune; normal_gate if it helps on tune"
    assert made_words(gated) == expected
