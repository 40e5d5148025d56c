from __future__ import annotations

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.judging.counts import (
    assessed,
    calibration_gaps,
    confusion_counts,
    f1_from_counts,
    f_beta_from_counts,
    is_called,
    mcc_from_counts,
    ratio,
)


def test_rows_not_assessed_are_dropped_with_their_scores_and_weights() -> None:
    scores, targets, weights = assessed(np.array([0.1, 0.2, 0.3]), np.array([1, np.nan, 0]), np.array([1.0, 2.0, 3.0]))
    assert scores.tolist() == [0.1, 0.3]
    assert targets.tolist() == [1.0, 0.0]
    assert weights.tolist() == [1.0, 3.0]


@pytest.mark.parametrize(
    ("scores", "targets", "weights", "words"),
    [
        ([0.1, 0.2], [1], None, "one \\[N\\] shape"),
        ([1.5], [1], None, "Turn logits into scores"),
        ([np.nan], [1], None, "found score"),
        ([0.5], [2], None, "target other than"),
        ([0.5], [1], [-1.0], "negative or infinite weight"),
    ],
)
def test_values_out_of_range_are_refused(
    scores: list[float], targets: list[float], weights: list[float] | None, words: str
) -> None:
    with pytest.raises(MedtailError, match=words):
        assessed(np.array(scores), np.array(targets), None if weights is None else np.array(weights))


def test_a_score_at_the_threshold_is_called() -> None:
    assert confusion_counts(np.array([0.5, 0.5]), np.array([1, 0]), threshold=0.5) == (1.0, 1.0, 0.0, 0.0)


def test_bins_are_closed_on_the_right() -> None:
    index, _ = calibration_gaps(np.array([0.0, 0.2, 0.2000001, 1.0]), np.zeros(4), bins=5)
    assert index.tolist() == [0, 0, 1, 4]


def test_equal_mass_bins_hold_equally_many_rows_and_keep_ties_together() -> None:
    index, _ = calibration_gaps(np.arange(12) / 12, np.zeros(12), mode="equal_mass", bins=3)
    assert np.bincount(index).tolist() == [4, 4, 4]
    tied, _ = calibration_gaps(np.array([0.1, 0.5, 0.5, 0.5, 0.5, 0.9]), np.zeros(6), mode="equal_mass", bins=3)
    assert len(set(tied[1:5])) == 1


def test_unknown_modes_and_no_bins_are_refused() -> None:
    with pytest.raises(MedtailError, match="expected reliability, equal_mass"):
        calibration_gaps(np.array([0.5]), np.array([1.0]), mode="board", bins=5)  # type: ignore[arg-type]
    with pytest.raises(MedtailError, match="at least 1"):
        calibration_gaps(np.array([0.5]), np.array([1.0]), bins=0)


def test_ratios_and_f1_are_nan_where_undefined_and_raise_no_warning() -> None:
    assert np.isnan(ratio(0.0, 0.0))
    assert np.isnan(ratio(1.0, 0.0))
    assert np.isnan(f1_from_counts(np.array(0.0), np.array(5.0), np.array(0.0)))
    assert f1_from_counts(np.array(0.0), np.array(0.0), np.array(2.0)) == 0.0


def test_only_two_ways_to_decide_are_known() -> None:
    assert is_called(np.array([0.5, 0.6]), 0.5).tolist() == [True, True]
    assert is_called(np.array([0.5, 0.6]), 0.5, decision=">").tolist() == [False, True]
    assert confusion_counts(np.array([0.5, 0.5]), np.array([1, 0]), decision=">") == (0.0, 0.0, 1.0, 1.0)
    with pytest.raises(MedtailError, match="expected '>=' or '>'"):
        is_called(np.array([0.5]), 0.5, decision="=>")  # type: ignore[arg-type]


def test_equal_mass_bins_share_out_weights_as_if_rows_were_repeated() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        scores, times = random.integers(0, 8, 20) / 8, random.integers(0, 4, 20)
        weighted, _ = calibration_gaps(scores, np.zeros(20), mode="equal_mass", bins=4, weights=times.astype(float))
        repeated, _ = calibration_gaps(np.repeat(scores, times), np.zeros(times.sum()), mode="equal_mass", bins=4)
        assert np.array_equal(np.repeat(weighted, times), repeated)


def test_the_cuts_of_equal_mass_bins_are_the_order_statistics_of_the_shares() -> None:
    scores = np.random.default_rng(1).permutation(23) / 23
    index, _ = calibration_gaps(scores, np.zeros(23), mode="equal_mass", bins=5)
    cuts = np.sort(scores)[[23 * b // 5 for b in range(1, 5)]]
    assert np.array_equal(index, np.searchsorted(cuts, scores, side="right"))


def test_formulas_of_counts_take_arrays_of_any_shape() -> None:
    tp, fp, fn, tn = (
        np.array([[3.0, 0.0, 2.0]]),
        np.array([[1.0, 2.0, 0.0]]),
        *np.array([[[2.0, 0, 0]], [[4.0, 5, 3]]]),
    )
    assert f_beta_from_counts(tp, fp, fn, beta=2.0) == pytest.approx(np.array([[15 / 24, np.nan, 1.0]]), nan_ok=True)
    assert mcc_from_counts(tp, fp, fn, tn) == pytest.approx(
        np.array([[10 / np.sqrt(600), np.nan, 1.0]]), nan_ok=True, abs=1e-15
    )
