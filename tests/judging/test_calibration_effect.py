"""Before and after on the same rows: values are the plain metrics, intervals those of the difference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from medtail.errors import MedtailError
from medtail.judging.calibration_effect import METRICS, calibration_effect, effect_text
from medtail.judging.calibration_error import debiased_squared_error
from medtail.judging.metrics import brier, expected_calibration_error, log_loss
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions


def pair(seed: int, *, rows: int = 600, missing: float = 0.1) -> tuple[Predictions, Predictions]:
    random = np.random.default_rng(seed)
    truth = random.normal(-1.5, 1.5, (rows, 3))
    targets = (random.random(truth.shape) < expit(truth)).astype(float)
    targets[random.random(truth.shape) < missing] = np.nan
    targets[:, 2] = np.where(np.isnan(targets[:, 2]), np.nan, 0)
    ids = np.array([f"i{row}" for row in range(rows)], dtype=object)
    patients = np.array([f"p{row // 2}" for row in range(rows)], dtype=object)
    labels = LabelSpace(("a", "b", "absent"))
    after = Predictions(ids, patients, expit(truth), targets, labels, np.array(["test"] * rows, dtype=object))
    return replace(after, scores=expit(2 * truth + 1)), after


def test_values_are_those_of_the_plain_metrics() -> None:
    before, after = pair(0)
    table = calibration_effect(before, after, resamples=0).set_index(["metric", "class"])
    plain = {
        "log_loss": log_loss,
        "brier": brier,
        "ece": expected_calibration_error,
        "ece_debiased": debiased_squared_error,
    }
    assert set(plain) == set(METRICS)
    for metric, formula in plain.items():
        for c, name in enumerate(before.labels.class_names):
            row = table.loc[(metric, name)]
            for when, scored in (("before", before), ("after", after)):
                expected = formula(scored.scores[:, c], scored.targets[:, c])
                assert row[when] == pytest.approx(expected, abs=1e-9)
            assert row["difference"] == pytest.approx(row["after"] - row["before"])
        macro = table.loc[(metric, "")]
        assert macro["support"] == 2, "a class without positives is not in the mean"
        assert macro["after"] == pytest.approx(
            table.loc[(metric, "a")]["after"] / 2 + table.loc[(metric, "b")]["after"] / 2
        )
    assert table["difference_low"].isna().all()


def test_the_differences_interval_is_paired() -> None:
    before, after = pair(1)
    table = calibration_effect(before, after, resamples=300).set_index(["metric", "class"])
    row = table.loc[("log_loss", "")]
    assert row["difference_high"] < 0, "straightening a bent score is seen"
    apart = row["before_high"] - row["before_low"] + row["after_high"] - row["after_low"]
    assert row["difference_high"] - row["difference_low"] < 0.8 * apart


def test_nothing_changed_is_no_difference() -> None:
    _, after = pair(2)
    table = calibration_effect(after, after, resamples=50)
    assert (table["difference"].dropna() == 0).all()
    assert (table["difference_high"].dropna() == 0).all()


def test_the_debiased_error_of_calibrated_scores_is_about_zero_and_its_interval_says_so() -> None:
    values, covered = [], []
    for seed in range(40):
        _, after = pair(seed, rows=200, missing=0.0)
        row = calibration_effect(after, after, resamples=64).set_index(["metric", "class"]).loc[("ece_debiased", "a")]
        values.append(row["after"])
        covered.append(row["after_low"] <= 0 <= row["after_high"])
    assert abs(np.mean(values)) < 0.001
    assert np.mean(covered) > 0.85


def test_other_rows_are_refused() -> None:
    before, after = pair(3)
    with pytest.raises(MedtailError, match="hold other rows or classes"):
        calibration_effect(before, after.take(np.arange(10)))
    with pytest.raises(MedtailError, match="hold other rows or classes"):
        calibration_effect(before.take(np.arange(0)), after.take(np.arange(0)))


def test_the_text_has_a_line_a_metric() -> None:
    before, after = pair(4)
    text = effect_text(calibration_effect(before, after, resamples=20))
    assert [line.split()[0] for line in text.splitlines()] == ["metric", *METRICS]
    assert text.count("[") == 4
