from __future__ import annotations

import numpy as np
import pytest

from medtail.judging import curves, metrics

NAN = float("nan")


def test_curves_are_empty_where_undefined_and_end_where_they_must() -> None:
    scores, targets = np.array([0.9, 0.4, 0.4, 0.1]), np.array([1, 1, 0, 0])
    roc, pr = curves.roc_curve(scores, targets), curves.pr_curve(scores, targets)
    assert (roc.x[0], roc.y[0], roc.x[-1], roc.y[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert (pr.x[-1], pr.y[-1]) == (1.0, 0.5)
    assert float(np.sum(np.diff(roc.x) * (roc.y[1:] + roc.y[:-1]) / 2)) == metrics.auroc(scores, targets)
    assert float(np.sum(np.diff(pr.x, prepend=0.0) * pr.y)) == metrics.average_precision(scores, targets)
    for curve in (curves.roc_curve(scores, np.zeros(4)), curves.pr_curve(scores, np.zeros(4))):
        assert len(curve.x) == len(curve.y) == len(curve.thresholds) == 0
    assert len(curves.reliability_curve(scores, np.full(4, NAN)).weight) == 0


def test_a_reliability_curve_has_the_ece_as_its_weighted_gap() -> None:
    random = np.random.default_rng(2)
    scores, targets = random.random(200), random.integers(0, 2, 200).astype(float)
    curve = curves.reliability_curve(scores, targets, bins=7)
    gap = np.sum(curve.weight * np.abs(curve.positive_share - curve.mean_score)) / curve.weight.sum()
    assert gap == pytest.approx(metrics.expected_calibration_error(scores, targets, bins=7), abs=1e-12)


def test_equal_mass_points_stand_for_equally_many_rows() -> None:
    scores = np.arange(12) / 12
    curve = curves.reliability_curve(scores, np.zeros(12), mode="equal_mass", bins=3)
    assert curve.weight.tolist() == [4.0, 4.0, 4.0]
