from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from medtail.judging import metrics

NAN = float("nan")


def test_the_chance_line_has_its_known_values() -> None:
    # spec §2, checked there by simulation
    assert metrics.chance_average_precision(2, 406) == pytest.approx(0.0186, abs=5e-5)
    assert metrics.chance_average_precision(20, 406) == pytest.approx(0.0624, abs=5e-5)
    assert metrics.chance_average_precision(7, 7) == pytest.approx(1.0)
    assert metrics.chance_average_precision(1, 1) == 1.0
    assert np.isnan(metrics.chance_average_precision(0, 10))


def test_the_chance_line_is_the_mean_over_all_orders() -> None:
    random = np.random.default_rng(0)
    targets = np.array([1, 1, 0, 0, 0, 0, 0, 0])
    drawn = [metrics.average_precision(random.permutation(8) / 8, targets) for _ in range(4000)]
    error = np.std(drawn) / np.sqrt(len(drawn))
    assert np.mean(drawn) == pytest.approx(metrics.chance_average_precision(2, 8), abs=4 * error)


# spec §15, column "medtail": what other tools call 0 is NaN here
@pytest.mark.parametrize(
    ("metric", "targets", "expected"),
    [
        (metrics.auroc, [0, 0, 0], NAN),
        (metrics.average_precision, [0, 0, 0], NAN),
        (metrics.auroc, [1, 1, 1], NAN),
        (metrics.average_precision, [1, 1, 1], 1.0),
        (metrics.f1, [0, 0, 0], NAN),
        (metrics.recall, [0, 0, 0], NAN),
        (metrics.specificity, [1, 1, 1], NAN),
        (metrics.balanced_accuracy, [1, 1, 1], NAN),
        (metrics.auroc, [NAN, NAN, NAN], NAN),
        (metrics.average_precision, [NAN, NAN, NAN], NAN),
        (metrics.brier, [NAN, NAN, NAN], NAN),
        (metrics.log_loss, [NAN, NAN, NAN], NAN),
        (metrics.expected_calibration_error, [NAN, NAN, NAN], NAN),
    ],
)
def test_absent_classes_are_nan_and_never_a_polite_zero(
    metric: metrics.Metric, targets: list[float], expected: float
) -> None:
    value = metric(np.array([0.9, 0.5, 0.1]), np.array(targets))
    assert value == pytest.approx(expected, nan_ok=True)


def test_precision_is_nan_where_nothing_is_called_and_f1_is_zero_where_positives_are_missed() -> None:
    assert np.isnan(metrics.precision(np.array([0.1, 0.2]), np.array([1, 0])))
    assert metrics.f1(np.array([0.1, 0.2]), np.array([1, 0])) == 0.0


def test_a_macro_average_names_how_many_classes_it_averages() -> None:
    values = np.array([0.85] * 38 + [NAN] * 2)
    assert metrics.macro(values) == (pytest.approx(0.85), 38)
    value, count = metrics.macro(np.array([NAN, 0.5]), among=np.array([True, False]))
    assert np.isnan(value)
    assert count == 0


def test_per_class_takes_any_metric_with_its_options_fixed() -> None:
    scores, targets = np.array([[0.3, 0.3], [0.2, 0.2]]), np.array([[1, 0], [0, 0]])
    recalls = metrics.per_class(partial(metrics.recall, threshold=0.25), scores, targets)
    assert recalls.tolist() == pytest.approx([1.0, NAN], nan_ok=True)


def test_the_readings_of_the_ece_differ_as_defined() -> None:
    # rare, perfectly calibrated class: the board's reading punishes it (spec cxr_lt §4.1)
    scores, targets = np.full(10, 0.1), np.array([1] + [0] * 9)
    assert metrics.expected_calibration_error(scores, targets) == pytest.approx(0.0)
    assert metrics.expected_calibration_error(scores, targets, mode="leaderboard") == pytest.approx(0.8)
    assert metrics.expected_calibration_error(scores, targets, mode="confidence") == pytest.approx(0.0)
    assert metrics.expected_calibration_error(scores, targets, mode="equal_mass") == pytest.approx(0.0)


def test_a_calibrated_simulator_has_almost_no_ece() -> None:
    random = np.random.default_rng(1)
    scores = random.random(40_000)
    targets = (random.random(40_000) < scores).astype(float)
    assert metrics.expected_calibration_error(scores, targets) < 0.01
    assert metrics.expected_calibration_error(scores**3, targets) > 0.1


def test_curves_are_empty_where_undefined_and_end_where_they_must() -> None:
    scores, targets = np.array([0.9, 0.4, 0.4, 0.1]), np.array([1, 1, 0, 0])
    roc, pr = metrics.roc_curve(scores, targets), metrics.pr_curve(scores, targets)
    assert (roc.x[0], roc.y[0], roc.x[-1], roc.y[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert (pr.x[-1], pr.y[-1]) == (1.0, 0.5)
    assert float(np.sum(np.diff(roc.x) * (roc.y[1:] + roc.y[:-1]) / 2)) == metrics.auroc(scores, targets)
    assert float(np.sum(np.diff(pr.x, prepend=0.0) * pr.y)) == metrics.average_precision(scores, targets)
    for curve in (metrics.roc_curve(scores, np.zeros(4)), metrics.pr_curve(scores, np.zeros(4))):
        assert len(curve.x) == len(curve.y) == len(curve.thresholds) == 0
    assert len(metrics.reliability_curve(scores, np.full(4, NAN)).weight) == 0


def test_a_reliability_curve_has_the_ece_as_its_weighted_gap() -> None:
    random = np.random.default_rng(2)
    scores, targets = random.random(200), random.integers(0, 2, 200).astype(float)
    curve = metrics.reliability_curve(scores, targets, bins=7)
    gap = np.sum(curve.weight * np.abs(curve.positive_share - curve.mean_score)) / curve.weight.sum()
    assert gap == pytest.approx(metrics.expected_calibration_error(scores, targets, bins=7), abs=1e-12)
