"""Points lie where the rows lie, and their intervals are those of patients."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from medtail.errors import MedtailError
from medtail.judging.bootstrap import draw_weights, number_patients
from medtail.judging.curves import reliability_curve
from medtail.judging.reliability import COLUMNS, reliability_points
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions


def table(scores: np.ndarray, targets: np.ndarray, patients: np.ndarray | None = None) -> Predictions:
    ids = np.array([f"i{row}" for row in range(len(scores))], dtype=object)
    own = ids if patients is None else patients.astype(str).astype(object)
    return Predictions(ids, own, scores[:, None], targets[:, None], LabelSpace(("x",)), ids)


@pytest.mark.parametrize("mode", ["reliability", "equal_mass"])
def test_points_are_those_of_the_plain_curve(mode: str) -> None:
    random = np.random.default_rng(0)
    scores = random.random(500).round(2)
    targets = np.where(random.random(500) < 0.1, np.nan, random.random(500) < scores)
    points = reliability_points(table(scores, targets), "x", mode=mode, bins=7)  # type: ignore[arg-type]
    curve = reliability_curve(scores, targets, mode=mode, bins=7)  # type: ignore[arg-type]
    np.testing.assert_allclose(points["mean_score"], curve.mean_score)
    np.testing.assert_allclose(points["share"], curve.positive_share)
    np.testing.assert_array_equal(points["rows"], curve.weight)
    assert (points["low"] <= points["share"]).all()
    assert (points["high"] >= points["share"]).all()
    assert points["positives"].sum() == np.nansum(targets)


def test_intervals_equal_a_plain_loop_over_the_same_resamples() -> None:
    random = np.random.default_rng(1)
    scores, patients = random.random(60), random.integers(0, 20, 60)
    targets = (random.random(60) < scores).astype(float)
    rows = table(scores, targets, patients)
    codes, count = number_patients(rows.patients)
    weights = draw_weights(count, resamples=200, seed=3)
    points = reliability_points(rows, "x", weights=weights, patients=codes, bins=2)
    w = weights.matrix()[codes]
    for low_half, at in ((scores <= 0.5, 0), (scores > 0.5, 1)):
        shares = (w[low_half] * targets[low_half, None]).sum(axis=0) / w[low_half].sum(axis=0)
        np.testing.assert_allclose(
            [points["low"][at], points["high"][at]], np.quantile(shares, [0.025, 0.975]), rtol=1e-12
        )


def test_images_of_one_patient_do_not_narrow_the_interval() -> None:
    random = np.random.default_rng(2)
    patient_targets = (random.random(40) < 0.3).astype(float)
    scores, targets = np.full(400, 0.3), np.repeat(patient_targets, 10)
    clustered = reliability_points(table(scores, targets, np.repeat(np.arange(40), 10)), "x")
    as_if = reliability_points(table(scores, targets), "x")
    wide, narrow = ((points["high"] - points["low"]).iloc[0] for points in (clustered, as_if))
    assert wide > 2 * narrow
    assert clustered["patients"].tolist() == [40]


def test_a_unanimous_bin_has_the_rule_of_threes_interval() -> None:
    points = reliability_points(table(np.full(30, 0.1), np.zeros(30), np.repeat(np.arange(10), 3)), "x")
    assert points["low"].iloc[0] == 0
    assert points["high"].iloc[0] == pytest.approx(1 - 0.05 ** (1 / 10))


def test_a_calibrated_class_lies_inside_most_of_its_intervals() -> None:
    random = np.random.default_rng(3)
    inside = []
    for _ in range(10):
        scores = expit(random.normal(-1, 1.5, 1500))
        points = reliability_points(table(scores, (random.random(1500) < scores).astype(float)), "x", mode="equal_mass")
        inside += list((points["low"] <= points["mean_score"]) & (points["mean_score"] <= points["high"]))
    assert 0.88 <= np.mean(inside) <= 0.99


def test_a_class_never_assessed_has_no_points() -> None:
    points = reliability_points(table(np.full(3, 0.5), np.full(3, np.nan)), "x")
    assert list(points.columns) == list(COLUMNS)
    assert len(points) == 0


def test_wrong_requests_are_refused() -> None:
    rows = table(np.array([0.5]), np.array([1.0]))
    with pytest.raises(MedtailError, match="expected reliability or equal_mass"):
        reliability_points(rows, "x", mode="leaderboard")
    with pytest.raises(MedtailError, match="together, or neither"):
        reliability_points(rows, "x", patients=np.zeros(1, dtype=int))
    with pytest.raises(MedtailError, match="no class 'y'"):
        reliability_points(rows, "y")
