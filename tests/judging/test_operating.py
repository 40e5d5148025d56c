from __future__ import annotations

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.judging import metrics, operating

SCORES, TARGETS = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]), np.array([1, 0, 1, 1, 0, 0])


def test_the_whole_partial_area_is_the_auroc() -> None:
    assert operating.partial_auroc(SCORES, TARGETS, max_fpr=1.0) == pytest.approx(metrics.auroc(SCORES, TARGETS))


def test_the_worst_ranking_has_the_lowest_standardised_area() -> None:
    worst = operating.partial_auroc(1 - TARGETS.astype(float), TARGETS, max_fpr=0.2)
    assert worst == pytest.approx((1 - 0.2 / (2 - 0.2)) / 2, abs=1e-15)


@pytest.mark.parametrize(
    ("promise", "sensitivity"), [(1.0, 1 / 3), (0.67, 1 / 3), (2 / 3, 1.0), (0.5, 1.0), (0.0, 1.0)]
)
def test_sensitivity_is_the_best_a_cut_point_offers_without_interpolation(promise: float, sensitivity: float) -> None:
    assert operating.sensitivity_at_specificity(SCORES, TARGETS, at_least=promise) == sensitivity


@pytest.mark.parametrize(("promise", "specificity"), [(1.0, 2 / 3), (0.34, 2 / 3), (1 / 3, 1.0), (0.0, 1.0)])
def test_specificity_is_the_best_a_cut_point_offers_without_interpolation(promise: float, specificity: float) -> None:
    assert operating.specificity_at_sensitivity(SCORES, TARGETS, at_least=promise) == specificity


def test_ties_are_called_together_or_not_at_all() -> None:
    scores, targets = np.array([0.8, 0.8, 0.2]), np.array([1, 0, 0])
    assert operating.sensitivity_at_specificity(scores, targets, at_least=0.75) == 0.0
    assert operating.sensitivity_at_specificity(scores, targets, at_least=0.5) == 1.0


def test_a_precision_out_of_reach_is_a_recall_of_zero_and_no_gap() -> None:
    assert operating.recall_at_precision(np.array([0.9, 0.1]), np.array([0, 1]), at_least=0.6) == 0.0
    assert operating.recall_at_precision(SCORES, TARGETS, at_least=0.75) == 1.0
    assert operating.recall_at_precision(SCORES, TARGETS, at_least=0.76) == 1 / 3
    assert operating.recall_at_precision(SCORES, np.ones(6), at_least=1.0) == 1.0
    assert np.isnan(operating.recall_at_precision(SCORES, np.zeros(6), at_least=0.0))


def test_a_promise_is_kept_in_spite_of_rounding() -> None:
    # ten weights of 0.1 add up to 0.9999999999999999, and a specificity of 0.8 to 0.7999999999999999
    scores, targets = np.arange(20) / 20, np.arange(20) % 2
    whole = operating.sensitivity_at_specificity(scores, targets, at_least=0.8)
    tenths = operating.sensitivity_at_specificity(scores, targets, at_least=0.8, weights=np.full(20, 0.1))
    assert tenths == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_rates_that_are_none_are_refused(rate: float) -> None:
    for metric in (
        operating.sensitivity_at_specificity,
        operating.specificity_at_sensitivity,
        operating.recall_at_precision,
    ):
        with pytest.raises(MedtailError, match="expected a rate in"):
            metric(SCORES, TARGETS, at_least=rate)
    with pytest.raises(MedtailError, match="expected a rate in"):
        operating.partial_auroc(SCORES, TARGETS, max_fpr=rate)


def test_likelihood_ratios_multiply_the_odds() -> None:
    scores, targets = np.array([0.9] * 5 + [0.1] * 5), np.array([1, 1, 1, 1, 0, 1, 0, 0, 0, 0])
    positive, negative = operating.likelihood_ratios(scores, targets)
    odds = 5 / 5
    precision, missed = metrics.precision(scores, targets), 1 - metrics.npv(scores, targets)
    assert odds * positive == pytest.approx(precision / (1 - precision))
    assert odds * negative == pytest.approx(missed / (1 - missed))


def test_a_likelihood_ratio_without_a_denominator_is_nan() -> None:
    positive, negative = operating.likelihood_ratios(np.array([0.9, 0.1]), np.array([1, 0]))
    assert np.isnan(positive)
    assert negative == 0.0
    positive, negative = operating.likelihood_ratios(np.array([0.9, 0.9]), np.array([1, 0]))
    assert positive == 1.0
    assert np.isnan(negative)


def test_kappa_is_nan_with_one_true_class_and_zero_for_a_system_that_always_says_the_same() -> None:
    assert np.isnan(operating.cohen_kappa(np.array([0.9, 0.1]), np.array([1, 1])))
    assert operating.cohen_kappa(np.array([0.9, 0.9, 0.9]), np.array([1, 0, 0])) == 0.0
    assert operating.cohen_kappa(np.array([0.9, 0.1, 0.2]), np.array([1, 0, 0])) == 1.0
