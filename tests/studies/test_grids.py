"""The tables a person reads hold the numbers of the long ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from medtail.studies.grids import (
    Grid,
    class_grids,
    cost_grid,
    cost_table,
    difference_grid,
    mean_grids,
    verdict_grid,
)
from medtail.studies.words import verdicts


def test_each_class_has_a_table_with_the_arms_as_rows(whole: Any) -> None:
    grids = class_grids(whole.study, whole.judged)
    names = [grid.title.partition(":")[0] for grid in grids]
    assert names == [told for name in ("FTC", "MTC", "ATC") for told in (name, f"{name}, decided at 0.5")]
    assert [grid.is_folded for grid in grids] == [False, True] * 3
    first = grids[0]
    assert first.columns == ("arm", "AUC", "AP", "Acc", "Precision", "F1", "Recall", "Specificity")
    assert grids[1].columns == ("arm", "Acc", "Precision", "F1", "Recall", "Specificity")
    assert [row[0] for row in first.rows] == ["full", "twin", "poor"]
    values = whole.judged.values
    row = values[(values["arm"] == "poor") & (values["metric"] == "auroc") & (values["class"] == "FTC")].iloc[0]
    assert first.rows[2][1].split("\n") == [
        f"{row['value']:.3f}",
        f"[{row['low']:.3f}, {row['high']:.3f}]",
        f"{row['cell_mean']:.3f} ± {row['cell_sd']:.3f}",
    ]  # fmt: skip
    half = values[(values["arm"] == "poor") & (values["metric"] == "f1_at_half") & (values["class"] == "FTC")].iloc[0]
    assert grids[1].rows[2][3].startswith(f"{half['value']:.3f}\n[{half['low']:.3f}, ")
    assert f"{row['images']} images of {row['patients']} patients; {row['positives']} positive images" in first.note


def test_a_missing_value_says_why(whole: Any) -> None:
    judged = whole.judged
    values = judged.values.copy()
    at = (values["class"] == "MTC") & (values["arm"] == "full") & (values["metric"] == "auroc")
    values.loc[at, ["value", "low", "high"]] = np.nan
    values.loc[at, "positives"] = 0
    grid = class_grids(whole.study, type(judged)(judged.name, values, judged.differences, judged.comparison))[2]
    assert grid.rows[0][1] == "no positives"


def test_means_over_fewer_classes_say_so(whole: Any) -> None:
    judged = whole.judged
    values = judged.values.copy()
    at = (values["class"] == "") & (values["tail_group"] == "") & (values["arm"] == "poor")
    values.loc[at & (values["metric"] == "precision"), "support"] = 2
    grid = mean_grids(whole.study, type(judged)(judged.name, values, judged.differences, judged.comparison))[0]
    assert " of 2" in grid.rows[2][4].split("\n")[0]
    assert " of " not in grid.rows[1][4]


def test_differences_are_told_with_their_verdicts(whole: Any) -> None:
    grid = difference_grid(whole.study, whole.judged)
    assert grid is not None
    assert "p over folds" in grid.columns
    assert len(grid.rows) == len(whole.judged.differences)
    assert {row[0] for row in grid.rows} == {"twin", "poor"}
    means = difference_grid(whole.study, whole.judged, only_means=True)
    assert means is not None
    assert 0 < len(means.rows) < len(grid.rows)


def test_verdicts_name_what_was_changed(whole: Any) -> None:
    grid = verdict_grid(whole.study, whole.judged, verdicts(whole.study, whole.judged))
    rows = {row[0]: row for row in grid.rows}
    assert rows["full"][1:3] == ("nothing", "reference")
    assert rows["twin"][1] == "test_time_flip: no → yes"
    assert rows["poor"][1].startswith("loss.kind: bce → focal (")


def test_costs_are_medians_and_sums() -> None:
    facts = [{"arm": "full", "parameters": 10, "epochs_run": 2, "seconds": seconds} for seconds in (2.0, 4.0, 60.0)]
    table = cost_table(facts, ["full", "missing"])
    assert table.to_dict("records") == [
        {
            "arm": "full",
            "cells": 3,
            "parameters": 10,
            "epochs": 2.0,
            "seconds_an_epoch": 2.0,
            "minutes": pytest.approx(1.1),
        }
    ]
    assert cost_grid(table).rows == (("full", "3", "10", "2.0", "2.00", "1.1"),)
    assert cost_grid(pd.DataFrame(columns=table.columns)).rows == ()


def test_markdown_keeps_its_columns_whatever_is_in_a_cell() -> None:
    grid = Grid("t", "", ("a", "b\nc"), (("x|y", "1\n2"),))
    assert "| x\\|y | 1<br>2 |" in grid.markdown()
    assert grid.text().splitlines() == ["t", "a    b c", "x|y  1 2"]
