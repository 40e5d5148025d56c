from __future__ import annotations

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.judging import calibration_error as ce
from medtail.judging import metrics

NAN = float("nan")


def calibrated(random: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    scores = random.beta(1.0, 3.0, size)
    return scores, (random.random(size) < scores).astype(float)


def test_the_debiased_error_is_its_formula() -> None:
    # one bin of 4 rows with 1 positive, one of 5 with 4, one of a single row that is left out
    scores = np.array([0.1] * 4 + [0.7] * 5 + [0.35])
    targets = np.array([1, 0, 0, 0, 1, 1, 1, 1, 0, 1])
    expected = 4 / 9 * (0.15**2 - 0.25 * 0.75 / 3) + 5 / 9 * (0.1**2 - 0.8 * 0.2 / 4)
    assert ce.debiased_squared_error(scores, targets) == pytest.approx(expected, abs=1e-15)
    assert np.isnan(ce.debiased_squared_error(np.array([0.1, 0.9]), np.array([0, 1])))


def test_noise_inflates_the_plain_squared_error_of_calibrated_scores_and_not_the_debiased_one() -> None:
    # spec 7: 400 calibrated scores, plain .0030, debiased -.0001
    random = np.random.default_rng(0)
    debiased, plain = [], []
    for _ in range(300):
        scores, targets = random.random(400), random.random(400)
        targets = (targets < scores).astype(float)
        debiased.append(ce.debiased_squared_error(scores, targets))
        gaps, _, mass = ce._bins(scores, targets, "reliability", 15, None)
        plain.append(float(np.sum(mass * gaps**2) / mass.sum()))
    error = np.std(debiased) / np.sqrt(len(debiased))
    assert abs(np.mean(debiased)) < 4 * error
    assert np.mean(plain) > 20 * error


def test_the_largest_gap_is_that_of_the_worst_bin() -> None:
    scores, targets = np.array([0.1] * 4 + [0.9] * 2), np.array([1, 0, 0, 0, 0, 1])
    assert ce.maximum_calibration_error(scores, targets) == pytest.approx(0.4)
    assert ce.maximum_calibration_error(scores, targets, mode="equal_mass", bins=1) == pytest.approx(abs(2 - 2.2) / 6)
    with pytest.raises(MedtailError, match="expected reliability or equal_mass"):
        ce.maximum_calibration_error(scores, targets, mode="leaderboard")  # type: ignore[arg-type]


def test_the_pooled_error_hides_what_classes_do_wrong_in_opposite_directions() -> None:
    scores = np.full((10, 2), 0.5)
    targets = np.column_stack([np.zeros(10), np.ones(10)])
    assert ce.pooled_calibration_error(scores, targets) == 0.0
    assert metrics.per_class(metrics.expected_calibration_error, scores, targets).tolist() == [0.5, 0.5]


def test_pooling_cells_leaves_out_the_not_assessed_and_spreads_the_weights_of_rows() -> None:
    random = np.random.default_rng(1)
    scores, targets = random.random((40, 3)), random.integers(0, 2, (40, 3)).astype(float)
    targets[random.random(targets.shape) < 0.3] = NAN
    times = random.integers(0, 3, 40)
    cells = np.repeat(scores, times, axis=0).ravel(), np.repeat(targets, times, axis=0).ravel()
    kept = ~np.isnan(cells[1])
    expected = metrics.expected_calibration_error(cells[0][kept], cells[1][kept])
    assert ce.pooled_calibration_error(scores, targets, weights=times) == pytest.approx(expected, abs=1e-12)


def test_saying_the_prevalence_to_everybody_has_no_skill() -> None:
    targets = np.array([1, 0, 0, 0])
    assert ce.brier_skill(np.full(4, 0.25), targets) == 0.0
    assert ce.brier_skill(targets.astype(float), targets) == 1.0
    assert ce.brier_skill(np.full(4, 0.9), targets) < 0.0
    assert np.isnan(ce.brier_skill(np.full(4, 0.9), np.zeros(4)))


def test_observed_to_expected_says_which_way_scores_err_on_the_whole() -> None:
    assert ce.observed_to_expected(np.full(4, 0.125), np.array([1, 0, 0, 0])) == 2.0
    assert np.isnan(ce.observed_to_expected(np.zeros(4), np.array([1, 0, 0, 0])))


# --- slope and intercept --------------------------------------------------------------------------------------------


def logit(p: np.ndarray | float) -> np.ndarray | float:
    return np.log(p) - np.log1p(-p)


def test_two_scores_have_the_line_through_their_two_shares() -> None:
    scores = np.array([0.2] * 10 + [0.7] * 10)
    targets = np.array([1] * 1 + [0] * 9 + [1] * 6 + [0] * 4)
    line = ce.calibration_line(scores, targets)
    slope = (logit(0.6) - logit(0.1)) / (logit(0.7) - logit(0.2))
    assert line.slope == pytest.approx(slope, rel=1e-9)
    assert line.intercept == pytest.approx(logit(0.6) - slope * logit(0.7), abs=1e-9)


def test_the_line_is_where_the_likelihood_is_flat() -> None:
    random = np.random.default_rng(2)
    scores, targets = calibrated(random, 300)
    scores, weights = scores**2, random.random(300)
    line = ce.calibration_line(scores, targets, weights=weights)
    z = logit(scores)
    for design, shift in (
        (np.stack([np.ones(300), z]), line.intercept + line.slope * z),
        (np.ones((1, 300)), line.in_the_large + z),
    ):
        slope = design @ (weights * (targets - 1 / (1 + np.exp(-shift))))
        assert slope == pytest.approx(0.0, abs=1e-7)


def test_stretched_and_shifted_logits_are_found_out() -> None:
    random = np.random.default_rng(3)
    scores, targets = calibrated(random, 60_000)
    line = ce.calibration_line(scores, targets)
    assert (line.slope, line.intercept, line.in_the_large) == (
        pytest.approx(1.0, abs=0.03),
        pytest.approx(0.0, abs=0.06),
        pytest.approx(0.0, abs=0.04),
    )
    overconfident = 1 / (1 + np.exp(-(2 * logit(scores) + 1)))
    bent = ce.calibration_line(overconfident, targets)
    assert bent.slope == pytest.approx(line.slope / 2, abs=1e-6)
    assert bent.intercept == pytest.approx(line.intercept - line.slope / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("scores", "targets"),
    [([0.1, 0.9], [0, 1]), ([0.1, 0.5, 0.5, 0.9], [0, 0, 1, 1]), ([0.9, 0.1], [0, 1]), ([0.5, 0.5], [0, 1])],
    ids=["apart", "touching", "reversed", "constant"],
)
def test_classes_that_do_not_overlap_have_no_line_but_a_shift(scores: list[float], targets: list[int]) -> None:
    line = ce.calibration_line(np.array(scores), np.array(targets))
    assert np.isnan([line.slope, line.intercept]).all()
    assert line.in_the_large == pytest.approx(0.0, abs=1e-9)


def test_certain_and_wrong_scores_still_have_a_line() -> None:
    line = ce.calibration_line(np.array([0.0, 0.0, 1.0, 1.0, 0.5]), np.array([0, 1, 1, 0, 1]))
    assert line.slope == pytest.approx(0.0, abs=1e-6)


# --- without bins ---------------------------------------------------------------------------------------------------


def loess_by_hand(scores: np.ndarray, targets: np.ndarray, *, at: float) -> float:
    """Fit one local line the slow way, row by row."""
    distance = np.abs(scores - at)
    reach = np.sort(distance)[int(np.ceil(0.75 * len(scores))) - 1]
    weight = np.clip(1 - (distance / reach) ** 3, 0, 1) ** 3
    root = np.sqrt(weight)
    design = np.stack([np.ones(len(scores)), scores - at], axis=1)
    return float(np.linalg.lstsq(design * root[:, None], targets * root, rcond=None)[0][0])


def test_the_smoother_is_loess() -> None:
    random = np.random.default_rng(4)
    scores, targets = calibrated(random, 120)
    theirs = [np.clip(loess_by_hand(scores, targets, at=float(s)), 0, 1) for s in scores]
    assert ce.smooth_positive_share(scores, targets, at=scores) == pytest.approx(np.array(theirs), abs=1e-8)


def test_the_smoother_reproduces_a_straight_line_of_shares() -> None:
    scores = np.repeat(np.arange(1, 10) / 10, 10)
    targets = np.concatenate([[1.0] * k + [0.0] * (10 - k) for k in range(1, 10)])
    assert ce.smooth_positive_share(scores, targets, at=scores) == pytest.approx(scores, abs=1e-9)
    distance = ce.calibration_distance(scores, targets)
    assert (distance.ici, distance.e50, distance.e90) == pytest.approx((0.0, 0.0, 0.0), abs=1e-9)
    # the same shares under scores that say half of them: the curve is s + s, away from s by s
    halved = ce.calibration_distance(scores / 2, targets)
    assert halved.ici == pytest.approx(0.25, abs=1e-9)
    assert halved.e50 == pytest.approx(0.25, abs=1e-9)
    assert halved.e90 == pytest.approx(0.45, abs=1e-9)


def test_long_tables_are_smoothed_at_knots_almost_as_at_every_row() -> None:
    random = np.random.default_rng(5)
    scores, targets = calibrated(random, 3000)
    rows = random.choice(3000, 30, replace=False)
    by_hand = np.array([np.clip(loess_by_hand(scores, targets, at=float(scores[row])), 0, 1) for row in rows])
    assert ce.smooth_positive_share(scores, targets, at=scores[rows]) == pytest.approx(by_hand, abs=2e-3)


def test_calibrated_scores_are_near_and_bent_ones_far() -> None:
    random = np.random.default_rng(6)
    scores, targets = calibrated(random, 20_000)
    near, far = ce.calibration_distance(scores, targets), ce.calibration_distance(np.sqrt(scores), targets)
    assert near.ici < 0.01
    assert far.ici == pytest.approx(float(np.mean(np.sqrt(scores) - scores)), abs=0.02)
    assert near.e50 <= near.e90


def test_where_most_rows_share_a_score_the_share_there_is_their_mean() -> None:
    scores, targets = np.array([0.3] * 9 + [0.8]), np.array([1, 0, 0, 0, 0, 0, 0, 0, 0, 1])
    assert ce.smooth_positive_share(scores, targets, at=np.array([0.3])) == pytest.approx(np.array([1 / 9]))
    assert np.isnan(ce.smooth_positive_share(scores, np.full(10, NAN), at=np.array([0.3]))).all()


def test_the_median_distance_is_the_smallest_that_half_the_weight_does_not_exceed() -> None:
    values = np.array([0.4, 0.1, 0.3, 0.2])
    assert ce._quantile(values, np.ones(4), 0.5) == 0.2
    assert ce._quantile(values, np.array([1.0, 1.0, 1.0, 7.0]), 0.9) == 0.3
