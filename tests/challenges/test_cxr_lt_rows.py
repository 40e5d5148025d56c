"""Rows of a score: intervals only where resamples say something."""

from __future__ import annotations

import numpy as np
import pytest

from medtail.challenges.cxr_lt_rows import mean_of_groups, result_row
from medtail.sources.cxr_lt import edition


def test_no_spread_is_no_interval():
    assert "low" not in result_row("auroc", 1.0, np.ones(10), support=3)
    assert "low" not in result_row("ap", 0.5, np.full(10, np.nan))
    assert "low" not in result_row("ap", float("nan"), np.arange(10.0))
    assert "low" not in result_row("ap", 0.5, np.empty(0))


def test_a_proportion_of_0_or_1_takes_the_rule_of_three():
    row = result_row("fnr", 1.0, np.ones(10), patients=30)
    assert row["high"] == 1.0
    assert row["low"] == pytest.approx(0.05 ** (1 / 30))


def test_an_interval_holds_95_of_100_resamples():
    row = result_row("ap", 0.5, np.arange(1001.0))
    assert (row["low"], row["high"]) == pytest.approx((25.0, 975.0))


def test_each_group_counts_the_same_in_the_mean_of_groups():
    names = ("Edema", "Mass", "Nodule", "Fibrosis")
    groups = edition("2024").groups(names)
    draws = np.array([[0.6, 0.9], [0.2, np.nan], [0.4, 0.3], [0.0, 0.3]])
    value, resampled = mean_of_groups(np.array([0.6, 0.2, 0.4, 0.0]), draws, class_names=names, groups=groups)
    assert value == pytest.approx((0.6 + 0.3 + 0.0) / 3)
    assert resampled == pytest.approx([0.3, 0.5])


def test_a_group_without_a_defined_class_leaves_the_mean_of_groups_undefined():
    names = ("Edema", "Fibrosis")
    groups = edition("2024").groups(names)
    value, _ = mean_of_groups(np.array([0.6, 0.1]), np.empty((2, 0)), class_names=names, groups=groups)
    assert np.isnan(value)
