"""Several submissions: tables with places, differences on shared resamples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medtail.challenges.cxr_lt import score
from medtail.challenges.cxr_lt_comparison import Column, compare_submissions, system_table
from medtail.errors import MedtailError, UsageError
from medtail.tables.results import results_from_rows


def compared(world, **options):
    random = np.random.default_rng(1)
    worse = world.scores.copy()
    worse[world.names] = np.clip(worse[world.names] * 0.3 + random.random((400, 12)) * 0.7, 0, 1)
    files = {"good": world.write(world.scores, "good.csv"), "worse": world.write(worse, "worse.csv")}
    files["same"] = world.write(world.scores[["dicom_id", *reversed(world.names)]], "same.csv")
    options = {"edition": world.edition, "bootstrap": 0} | options
    return compare_submissions(world.write(world.truth, "truth.csv"), files, **options), files


def test_tables_hold_each_systems_own_score_and_its_place(world):
    found, files = compared(world)
    alone = score(world.folder / "truth.csv", files["worse"], edition=world.edition, bootstrap=0)
    main = found.tables[0]
    assert main.systems == ("good", "worse", "same")
    titles = [column.title for column in main.columns]
    assert titles == ["mAP", "mAUROC", "mF1", "mECE reliability", "mECE leaderboard"]
    assert main.values[1, 0] == alone.value("ap")
    assert main.values[1, 3] == alone.value("ece@reliability")
    assert main.ranks[:, 0].tolist() == [1, 3, 1]
    assert main.ranks[1, 3] == 3
    groups = next(table for table in found.tables if table.title.startswith("mAP by group"))
    assert [column.title for column in groups.columns] == ["head (5)", "medium (4)", "tail (3)", "mean of groups"]
    assert groups.values[1, -1] == alone.value("ap_mean_of_groups")
    pooled = next(table for table in found.tables if table.title.startswith("Decisions"))
    assert pooled.values[1, 0] == alone.value("micro_precision")


def test_lower_calibration_errors_and_misses_rank_first():
    rows = {name: results_from_rows([{"metric": "fnr", "value": v}]) for name, v in (("a", 0.2), ("b", 0.1))}
    table = system_table("t", rows, [Column("FNR", "fnr", lower_is_better=True), Column("gone", "ap")])
    assert table.ranks.tolist() == [[2, 0], [1, 0]]
    assert table.text().splitlines()[1:] == [
        "system  FNR          gone",
        "a       0.2000 (2)   –",
        "b       0.1000 (1)*  –",
    ]
    assert table.to_json()["rows"][0] == {"system": "a", "values": [0.2, None], "ranks": [2, None]}


def test_equal_values_share_a_place_and_none_is_marked_best_if_all_are_equal():
    rows = {name: results_from_rows([{"metric": "f1", "value": 0.0}]) for name in "ab"}
    table = system_table("t", rows, [Column("F1", "f1")], downwards=True)
    assert table.ranks.ravel().tolist() == [1, 1]
    assert "*" not in table.text()
    assert table.text().splitlines()[1:] == ["    a           b", "F1  0.0000 (1)  0.0000 (1)"]


def test_differences_are_paired_and_a_system_differs_from_itself_by_nothing(world):
    found, _ = compared(world, bootstrap=400)
    frame = found.differences.differences.set_index(["metric", "system_a", "system_b"])
    assert set(frame.index.get_level_values(0)) == {"ap", "auroc", "f1"}
    ahead = frame.loc[("ap", "good", "worse")]
    assert ahead["difference"] > 0
    assert ahead["low"] > 0
    assert ahead["verdict"] == "a_ahead"
    assert frame.loc[("ap", "good", "same"), "difference"] == 0.0
    assert frame.loc[("ap", "good", "same"), "p"] == 1.0


def test_what_was_joined_by_name_is_said(world):
    found, _ = compared(world)
    assert any(note.startswith("same: row 1: columns out of order") for note in found.notes)


def test_without_resamples_there_are_tables_and_no_differences(world):
    found, _ = compared(world)
    assert found.differences is None
    assert len(found.tables) == 5


def test_an_unseen_task_has_a_table_of_its_classes_and_none_of_groups(world):
    task = replace(world.edition.task(1), unseen=True)
    found, _ = compared(world, edition=replace(world.edition, tasks={1: task}), bootstrap=0)
    titles = [table.title for table in found.tables]
    assert "AP of the unseen classes" in titles
    assert not any("group" in title for title in titles)


def test_faults_of_all_files_are_told_together(world):
    files = {
        "a": world.write(world.scores.drop(columns="Mass"), "a.csv"),
        "b": world.write(world.scores.iloc[1:], "b.csv"),
    }
    with pytest.raises(MedtailError) as caught:
        compare_submissions(world.write(world.truth, "truth.csv"), files, edition=world.edition)
    assert "a.csv, column 'Mass': missing" in str(caught.value)
    assert "b.csv, column 'dicom_id': 1 images of the test set have no row" in str(caught.value)


def test_one_submission_is_no_comparison(world):
    with pytest.raises(UsageError, match="found 1 submissions; expected two or more"):
        compare_submissions(world.folder / "t.csv", {"a": world.folder / "a.csv"}, edition=world.edition)
