from __future__ import annotations

import numpy as np
import pytest

from medtail.judging.intervals import unanimous_interval
from medtail.judging.proportions import interval_row, spread_unanimous, word_few_patients
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions


def test_a_proportion_without_misses_gets_the_rule_of_three_and_others_the_percentiles():
    drawn = np.linspace(0.4, 0.6, 101)
    assert interval_row(1.0, np.ones(9), level=0.95, patients=30)["low"] == unanimous_interval(1.0, patients=30)[0]
    assert interval_row(0.5, drawn, level=0.9, patients=30) == pytest.approx({"value": 0.5, "low": 0.41, "high": 0.59})
    assert interval_row(1.0, np.ones(9), level=0.95) == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_no_resamples_no_value_or_one_patient_give_no_interval():
    assert set(interval_row(0.5, np.empty(0), level=0.95)) == {"value"}
    assert set(interval_row(float("nan"), np.ones(5), level=0.95)) == {"value"}
    assert set(interval_row(0.5, np.full(9, 0.5), level=0.95, patients=1)) == {"value"}
    assert "low" in interval_row(1.0, np.ones(9), level=0.95, patients=1)


def test_spread_has_the_quantiles_of_the_rule_of_three_and_streams_of_its_own():
    ones = spread_unanimous(1.0, patients=59, resamples=20_000, seed=0, purpose="recall/a")
    assert np.quantile(ones, 0.05) == pytest.approx(0.05 ** (1 / 59), abs=0.004)  # .9505: the "59 patients" of the spec
    zeros = spread_unanimous(0.0, patients=59, resamples=20_000, seed=0, purpose="recall/a")
    assert zeros == pytest.approx(1 - ones)
    other = spread_unanimous(1.0, patients=59, resamples=20_000, seed=0, purpose="specificity/a")
    assert abs(np.corrcoef(ones, other)[0, 1]) < 0.05


def test_classes_under_twenty_positive_patients_are_named_with_their_number():
    ids = np.array([f"i{i}" for i in range(40)], dtype=object)
    patients = np.array([f"p{i // 2}" for i in range(40)], dtype=object)
    targets = np.zeros((40, 3))
    targets[:, 0], targets[:6, 1] = 1, 1
    rows = Predictions(ids, patients, np.zeros((40, 3)), targets, LabelSpace(("a", "b", "c")), ids)
    assert word_few_patients(rows, ["a", "c"]) == []
    assert "b (3)." in word_few_patients(rows, rows.labels.class_names)[0]
