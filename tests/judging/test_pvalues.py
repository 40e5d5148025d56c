"""P-values against hand-worked examples, closed forms and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from medtail.errors import MedtailError
from medtail.judging.pvalues import bootstrap_p_value, corrected_resampled_t, holm, resamples_needed

PROBABILITIES = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12)


def step_down(p_values: list[float]) -> list[float]:
    """Holm's procedure as his paper states it: the smallest alpha at which the sequence of rejections reaches i."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, reached = [0.0] * len(p_values), 0.0
    for position, index in enumerate(order):
        reached = max(reached, (len(p_values) - position) * p_values[index])
        adjusted[index] = min(1.0, reached)
    return adjusted


def test_holm_matches_an_example_worked_by_hand() -> None:
    # sorted .005 .01 .03 .04 → 4 × .005, 3 × .01, 2 × .03, and .04 may not fall below .06
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02], abs=1e-15)


@given(PROBABILITIES)
def test_holm_is_the_step_down_procedure(p_values: list[float]) -> None:
    assert holm(np.array(p_values)).tolist() == pytest.approx(step_down(p_values), abs=1e-15)


@given(PROBABILITIES)
def test_holm_lies_between_the_p_value_and_bonferroni_and_keeps_their_order(p_values: list[float]) -> None:
    p = np.array(p_values)
    adjusted = holm(p)
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(1.0, len(p) * p) + 1e-15).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()


@given(PROBABILITIES, st.integers(1, 5))
def test_undefined_comparisons_leave_the_family(p_values: list[float], undefined: int) -> None:
    together = holm(np.array(p_values + [np.nan] * undefined))
    assert together[: len(p_values)].tolist() == holm(np.array(p_values)).tolist()
    assert np.isnan(together[len(p_values) :]).all()


def test_holm_refuses_what_is_no_probability() -> None:
    with pytest.raises(MedtailError, match=r"found p-value 1\.5; expected \[0, 1\]"):
        holm(np.array([0.5, 1.5]))


def test_the_bootstrap_p_value_counts_the_data_as_a_resample() -> None:
    assert bootstrap_p_value(np.full(999, 0.1)) == 2 / 1000
    assert bootstrap_p_value(np.array([-0.1, 0.2, 0.3, 0.4])) == 2 * (1 + 1) / 5
    assert bootstrap_p_value(np.zeros(50)) == 1.0


@given(st.lists(st.one_of(st.floats(-1, 1), st.just(float("nan"))), min_size=1, max_size=30))
def test_the_bootstrap_p_value_does_not_care_who_is_first_or_about_undefined_resamples(drawn: list[float]) -> None:
    differences = np.array(drawn)
    known = differences[~np.isnan(differences)]
    p = bootstrap_p_value(differences)
    if not len(known):
        assert np.isnan(p)
        return
    assert 0 < p <= 1
    assert p == bootstrap_p_value(-differences) == bootstrap_p_value(known)


@pytest.mark.parametrize("comparisons", [1, 3, 40, 117, 5000])
@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.1])
def test_the_fewest_resamples_are_just_enough_for_the_smallest_p_value(comparisons: int, alpha: float) -> None:
    needed = resamples_needed(comparisons, alpha=alpha)
    assert comparisons * 2 / (needed + 1) <= alpha + 1e-12
    assert comparisons * 2 / needed > alpha


def test_forty_comparisons_need_1599_resamples() -> None:
    assert resamples_needed(40) == 1599
    with pytest.raises(MedtailError, match="0 comparisons"):
        resamples_needed(0)


def test_the_corrected_t_test_is_nadeau_and_bengios_formula() -> None:
    d = np.array([0.031, 0.012, 0.044, -0.008, 0.025, 0.019, 0.037, 0.002, 0.028, 0.015])
    k, share = len(d), 1 / 9
    t = d.mean() / np.sqrt((1 / k + share) * d.var(ddof=1))
    test = corrected_resampled_t(d, test_share=share)
    assert (test.t, test.p) == pytest.approx((t, 2 * stats.t.sf(abs(t), k - 1)), rel=1e-12)
    # the interval holds exactly the values that would not be rejected
    for end in (test.low, test.high):
        assert corrected_resampled_t(d - end, test_share=share).p == pytest.approx(0.05, abs=1e-12)


def test_without_shared_training_rows_it_is_the_plain_t_test() -> None:
    d = np.random.default_rng(0).normal(0.3, 1.0, 12)
    plain = stats.ttest_1samp(d, 0.0)
    test = corrected_resampled_t(d, test_share=1e-15)
    assert (test.t, test.p) == pytest.approx((plain.statistic, plain.pvalue), rel=1e-9)
    assert corrected_resampled_t(d, test_share=0.25).p > plain.pvalue


def test_folds_that_define_nothing_are_left_out() -> None:
    d = np.array([0.1, np.nan, 0.2, 0.4])
    assert corrected_resampled_t(d, test_share=0.3) == corrected_resampled_t(d[[0, 2, 3]], test_share=0.3)
    alone = corrected_resampled_t(np.array([np.nan, 0.2]), test_share=0.3)
    assert (alone.difference, alone.folds) == (0.2, 1)
    assert np.isnan(alone.p)


def test_folds_without_spread_give_no_false_certainty() -> None:
    assert np.isnan(corrected_resampled_t(np.full(5, 0.25), test_share=0.25).p)
    assert corrected_resampled_t(np.zeros(5), test_share=0.25).p == 1.0
    with pytest.raises(MedtailError, match="expected n_test / n_train > 0"):
        corrected_resampled_t(np.zeros(5), test_share=0.0)
