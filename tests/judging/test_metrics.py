from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from medtail.errors import MedtailError
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


def test_each_decision_metric_is_its_formula() -> None:
    # 3 true positives, 1 false positive, 2 false negatives, 4 true negatives
    scores = np.array([0.9] * 4 + [0.1] * 6)
    targets = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 0])
    assert metrics.fnr(scores, targets) == 2 / 5
    assert metrics.npv(scores, targets) == 4 / 6
    assert metrics.f_beta(scores, targets, beta=2.0) == 5 * 3 / (5 * 3 + 4 * 2 + 1)
    assert metrics.f_beta(scores, targets, beta=1.0) == metrics.f1(scores, targets) == 6 / 9
    assert metrics.f_beta(scores, targets, beta=0.0) == metrics.precision(scores, targets)
    assert metrics.mcc(scores, targets) == pytest.approx((3 * 4 - 1 * 2) / np.sqrt(4 * 5 * 5 * 6), abs=1e-15)


@pytest.mark.parametrize(
    "metric", [metrics.precision, metrics.recall, metrics.specificity, metrics.f1, metrics.fnr, metrics.npv]
)
def test_a_score_at_the_threshold_is_called_unless_asked_otherwise(metric: metrics.Metric) -> None:
    scores, targets = np.array([0.9, 0.5, 0.5, 0.1]), np.array([1, 1, 0, 0])
    called = metric(scores, targets)
    assert called == metric(np.array([1.0, 1.0, 1.0, 0.0]), targets)
    above = metric(scores, targets, decision=">")
    assert above == metric(np.array([1.0, 0.0, 0.0, 0.0]), targets)
    assert above != called


@pytest.mark.parametrize(
    ("scores", "targets"),
    [([0.9, 0.9], [1, 0]), ([0.1, 0.1], [1, 0]), ([0.9, 0.1], [1, 1]), ([0.9, 0.1], [0, 0])],
    ids=["all called", "none called", "no negative", "no positive"],
)
def test_the_correlation_is_nan_where_a_factor_is_zero(scores: list[float], targets: list[int]) -> None:
    assert np.isnan(metrics.mcc(np.array(scores), np.array(targets)))


def test_an_absent_class_is_left_out_of_a_macro_average_refused_or_counted_as_zero_as_asked() -> None:
    values = np.array([0.8, NAN, 0.6])
    assert metrics.macro(values, absent="zero") == (pytest.approx(1.4 / 3), 3)
    with pytest.raises(MedtailError, match="undefined for class 'Hernia'"):
        metrics.macro(values, absent="error", names=["Mass", "Hernia", "Edema"])
    with pytest.raises(MedtailError, match="number 1"):
        metrics.macro(values, absent="error")
    assert metrics.macro(values, among=np.array([True, False, True]), absent="error") == (pytest.approx(0.7), 2)
    with pytest.raises(MedtailError, match="expected nan, zero or error"):
        metrics.macro(values, absent="half")  # type: ignore[arg-type]


def test_size_weighted_group_means_are_the_macro_average() -> None:
    random = np.random.default_rng(3)
    values = np.where(random.random(20) < 0.2, NAN, random.random(20))
    group = random.integers(0, 3, 20)
    parts = [metrics.macro(values, among=group == g) for g in range(3)]
    assert sum(mean * count for mean, count in parts) / sum(count for _, count in parts) == pytest.approx(
        metrics.macro(values)[0], abs=1e-12
    )


def test_weights_of_rows_reach_every_class() -> None:
    random = np.random.default_rng(4)
    scores, targets = random.random((30, 3)), random.integers(0, 2, (30, 3))
    times = random.integers(0, 3, 30)
    weighted = metrics.per_class(metrics.average_precision, scores, targets, weights=times)
    repeated = metrics.per_class(
        metrics.average_precision, np.repeat(scores, times, axis=0), np.repeat(targets, times, axis=0)
    )
    assert weighted == pytest.approx(repeated, abs=1e-12)


def test_masking_a_cell_never_changes_another_class() -> None:
    random = np.random.default_rng(5)
    scores, targets = random.random((30, 3)), random.integers(0, 2, (30, 3)).astype(float)
    before = metrics.per_class(metrics.auroc, scores, targets)
    targets[:10, 1] = NAN
    after = metrics.per_class(metrics.auroc, scores, targets)
    assert (before == after).tolist() == [True, False, True]
