"""Laws every metric of the judge must pass, against independent implementations and against itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as oracle
import torch
import torchmetrics.functional.classification as torch_oracle
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.exceptions import UndefinedMetricWarning

from medtail.judging import calibration_error, metrics, operating

METRICS: dict[str, Callable[..., float]] = {
    "ap": metrics.average_precision,
    "auroc": metrics.auroc,
    "partial_auroc": partial(operating.partial_auroc, max_fpr=0.3),
    "sensitivity_at_specificity": partial(operating.sensitivity_at_specificity, at_least=0.75),
    "specificity_at_sensitivity": partial(operating.specificity_at_sensitivity, at_least=0.75),
    "recall_at_precision": partial(operating.recall_at_precision, at_least=0.5),
    "f1": metrics.f1,
    "f2": partial(metrics.f_beta, beta=2.0),
    "f_half": partial(metrics.f_beta, beta=0.5),
    "precision": metrics.precision,
    "npv": metrics.npv,
    "recall": metrics.recall,
    "fnr": metrics.fnr,
    "specificity": metrics.specificity,
    "balanced_accuracy": metrics.balanced_accuracy,
    "mcc": metrics.mcc,
    "cohen_kappa": operating.cohen_kappa,
    "lr_positive": lambda s, y, **more: operating.likelihood_ratios(s, y, **more)[0],
    "lr_negative": lambda s, y, **more: operating.likelihood_ratios(s, y, **more)[1],
    "brier": metrics.brier,
    "brier_skill": calibration_error.brier_skill,
    "log_loss": metrics.log_loss,
    "observed_to_expected": calibration_error.observed_to_expected,
    **{
        f"ece_{mode}": partial(metrics.expected_calibration_error, mode=mode, bins=7)
        for mode in calibration_error.ECE_MODES
    },
    "mce": calibration_error.maximum_calibration_error,
    "mce_equal_mass": partial(calibration_error.maximum_calibration_error, mode="equal_mass", bins=5),
    "debiased": calibration_error.debiased_squared_error,
    "debiased_equal_mass": partial(calibration_error.debiased_squared_error, mode="equal_mass", bins=5),
    "slope": lambda s, y, **more: calibration_error.calibration_line(s, y, **more).slope,
    "intercept": lambda s, y, **more: calibration_error.calibration_line(s, y, **more).intercept,
    "in_the_large": lambda s, y, **more: calibration_error.calibration_line(s, y, **more).in_the_large,
    "ici": lambda s, y, **more: calibration_error.calibration_distance(s, y, **more).ici,
    "e50": lambda s, y, **more: calibration_error.calibration_distance(s, y, **more).e50,
    "e90": lambda s, y, **more: calibration_error.calibration_distance(s, y, **more).e90,
}
every_metric = pytest.mark.parametrize("name", sorted(METRICS))
FITTED = ("slope", "intercept", "in_the_large")
"""Found by iteration, so equal to about the digits the likelihood can tell apart."""
RANKINGS = (
    "ap",
    "auroc",
    "partial_auroc",
    "sensitivity_at_specificity",
    "specificity_at_sensitivity",
    "recall_at_precision",
)
NEED_POSITIVE = {"ap", "f1", "f2", "f_half", "recall", "fnr", "recall_at_precision"}
NEED_NEGATIVE = {"specificity"}
NEED_BOTH = {
    *RANKINGS[1:5],
    "balanced_accuracy",
    "mcc",
    "cohen_kappa",
    "lr_positive",
    "lr_negative",
    "brier_skill",
    *FITTED,
    "ici",
    "e50",
    "e90",
}


def ratios_of_scikit_learn(s: np.ndarray, y: np.ndarray, w: np.ndarray) -> tuple[float, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        found = oracle.class_likelihood_ratios(y, s >= 0.5, labels=[0, 1], sample_weight=w, replace_undefined_by=np.nan)
    return found


def best_of_scikit_learn(wanted: str, kept: str, at_least: float) -> Callable[[Any, Any, Any], float]:
    """Return the best wanted rate on scikit-learn's curves where the kept one is high enough."""

    def best(s: np.ndarray, y: np.ndarray, w: np.ndarray) -> float:
        if "precision" in (wanted, kept):
            precision, recall, _ = oracle.precision_recall_curve(y, s, sample_weight=w)
            rates = {"precision": precision[:-1], "recall": recall[:-1]}
        else:
            fpr, tpr, _ = oracle.roc_curve(y, s, sample_weight=w, drop_intermediate=False)
            rates = {"specificity": 1 - fpr, "recall": tpr}
        return float(rates[wanted][rates[kept] >= at_least - 1e-12].max(initial=0.0))

    return best


ORACLES: dict[str, Callable[[Any, Any, Any], float]] = {
    "ap": lambda s, y, w: oracle.average_precision_score(y, s, sample_weight=w),
    "auroc": lambda s, y, w: oracle.roc_auc_score(y, s, sample_weight=w),
    "partial_auroc": lambda s, y, w: oracle.roc_auc_score(y, s, sample_weight=w, max_fpr=0.3),
    "sensitivity_at_specificity": best_of_scikit_learn("recall", "specificity", 0.75),
    "specificity_at_sensitivity": best_of_scikit_learn("specificity", "recall", 0.75),
    "recall_at_precision": best_of_scikit_learn("recall", "precision", 0.5),
    "f1": lambda s, y, w: oracle.f1_score(y, s >= 0.5, sample_weight=w, zero_division=np.nan),
    "f2": lambda s, y, w: oracle.fbeta_score(y, s >= 0.5, beta=2, sample_weight=w, zero_division=np.nan),
    "f_half": lambda s, y, w: oracle.fbeta_score(y, s >= 0.5, beta=0.5, sample_weight=w, zero_division=np.nan),
    "precision": lambda s, y, w: oracle.precision_score(y, s >= 0.5, sample_weight=w, zero_division=np.nan),
    "npv": lambda s, y, w: oracle.precision_score(1 - y, s < 0.5, sample_weight=w, zero_division=np.nan),
    "recall": lambda s, y, w: oracle.recall_score(y, s >= 0.5, sample_weight=w, zero_division=np.nan),
    "fnr": lambda s, y, w: 1 - oracle.recall_score(y, s >= 0.5, sample_weight=w, zero_division=np.nan),
    "specificity": lambda s, y, w: oracle.recall_score(1 - y, s < 0.5, sample_weight=w, zero_division=np.nan),
    "balanced_accuracy": lambda s, y, w: oracle.balanced_accuracy_score(y, s >= 0.5, sample_weight=w),
    "mcc": lambda s, y, w: (
        oracle.matthews_corrcoef(y, s >= 0.5, sample_weight=w) if 0 < (s >= 0.5).sum() < len(s) else np.nan
    ),
    "cohen_kappa": lambda s, y, w: oracle.cohen_kappa_score(y, s >= 0.5, sample_weight=w),
    "lr_positive": lambda s, y, w: ratios_of_scikit_learn(s, y, w)[0],
    "lr_negative": lambda s, y, w: ratios_of_scikit_learn(s, y, w)[1],
    "brier": lambda s, y, w: oracle.brier_score_loss(y, s, sample_weight=w),
    "brier_skill": lambda s, y, w: oracle.d2_brier_score(y, s, sample_weight=w),
    "log_loss": lambda s, y, w: oracle.log_loss(y, np.clip(s, 1e-15, 1 - 1e-15), sample_weight=w, labels=[0, 1]),
}


@st.composite
def judged_rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with heavy or no ties, targets of any balance (one class only, not assessed), whole-number weights."""
    size = draw(st.integers(1, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([1, 2, 4, 1000]))
    scores = random.integers(0, levels + 1, size) / levels
    targets = (random.random(size) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))).astype(float)
    targets[random.random(size) < draw(st.sampled_from([0.0, 0.3]))] = np.nan
    return scores, targets, random.integers(0, 4, size).astype(float)


def same(first: float, second: float, *, tolerance: float = 1e-12, relative: float = 0.0) -> bool:
    return bool(np.isclose(first, second, rtol=relative, atol=tolerance, equal_nan=True))


def agree(name: str, first: float, second: float) -> bool:
    """Say whether two ways to one value agree to all digits the metric has."""
    return same(first, second, tolerance=1e-6, relative=1e-6) if name in FITTED else same(first, second, relative=1e-12)


@pytest.mark.parametrize("name", sorted(ORACLES))
@settings(max_examples=60, deadline=None)
@given(rows=judged_rows(), whole=st.booleans())
def test_equals_scikit_learn_with_weights_wherever_both_are_defined(
    name: str, rows: tuple[np.ndarray, np.ndarray, np.ndarray], whole: bool
) -> None:
    scores, targets, weights = rows
    if not whole:
        weights = weights * (0.1 + np.arange(len(weights)) % 7 / 7)
    kept = ~np.isnan(targets) & (weights > 0)
    y, s, w = targets[kept], scores[kept], weights[kept]
    value = METRICS[name](scores, targets, weights=weights)
    if is_lacking(name, y):
        assert np.isnan(value)
    else:
        # likelihood ratios have no upper bound: their last digits count from the first
        assert same(value, float(ORACLES[name](s, y, w)), relative=1e-12)


def is_lacking(name: str, targets: np.ndarray) -> bool:
    """Say whether the rows cannot define a metric, by the NaN law."""
    both = name in NEED_BOTH
    no_positive = (both or name in NEED_POSITIVE) and not (targets == 1).any()
    no_negative = (both or name in NEED_NEGATIVE) and not (targets == 0).any()
    return no_positive or no_negative or not len(targets)


@every_metric
@settings(max_examples=40, deadline=None)
@given(rows=judged_rows())
def test_what_an_absent_class_makes_undefined_is_nan_and_nothing_is_infinite(
    name: str, rows: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    scores, targets, weights = rows
    value = METRICS[name](scores, targets, weights=weights)
    assert np.isnan(value) or np.isfinite(value)
    if is_lacking(name, targets[~np.isnan(targets) & (weights > 0)]):
        assert np.isnan(value)


@settings(max_examples=40, deadline=None)
@given(rows=judged_rows())
def test_equals_torchmetrics_wherever_both_are_defined(rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, targets, _ = rows
    kept = ~np.isnan(targets)
    assume((targets == 1).any() and (targets == 0).any())
    s, y = torch.tensor(scores[kept]), torch.tensor(targets[kept]).long()
    theirs = {"ap": torch_oracle.binary_average_precision(s, y).item(), "auroc": torch_oracle.binary_auroc(s, y).item()}
    assert same(metrics.average_precision(scores, targets), theirs["ap"], tolerance=1e-6)
    assert same(metrics.auroc(scores, targets), theirs["auroc"], tolerance=1e-6)


@pytest.mark.parametrize(("norm", "name"), [("l1", "ece_reliability"), ("max", "mce")])
def test_calibration_errors_equal_torchmetrics(norm: Any, name: str) -> None:
    random = np.random.default_rng(0)
    scores, targets = random.random(500), random.integers(0, 2, 500)
    bins = 7 if norm == "l1" else 15
    theirs = torch_oracle.binary_calibration_error(torch.tensor(scores), torch.tensor(targets), n_bins=bins, norm=norm)
    assert same(METRICS[name](scores, targets), theirs.item(), tolerance=1e-6)


@settings(max_examples=40, deadline=None)
@given(rows=judged_rows())
def test_operating_points_equal_torchmetrics(rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, targets, _ = rows
    kept = ~np.isnan(targets)
    assume((targets == 1).any() and (targets == 0).any())
    s, y = torch.tensor(scores[kept]), torch.tensor(targets[kept]).long()
    theirs = {
        "sensitivity_at_specificity": torch_oracle.binary_sensitivity_at_specificity(s, y, min_specificity=0.75),
        "specificity_at_sensitivity": torch_oracle.binary_specificity_at_sensitivity(s, y, min_sensitivity=0.75),
        "recall_at_precision": torch_oracle.binary_recall_at_fixed_precision(s, y, min_precision=0.5),
    }
    for name, (rate, _) in theirs.items():
        assert same(METRICS[name](scores, targets), rate.item(), tolerance=1e-6), name


@every_metric
@settings(max_examples=20, deadline=None)
@given(rows=judged_rows())
def test_row_order_does_not_matter(name: str, rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, targets, weights = rows
    shuffled = np.random.default_rng(0).permutation(len(scores))
    expected = METRICS[name](scores, targets, weights=weights)
    assert agree(name, METRICS[name](scores[shuffled], targets[shuffled], weights=weights[shuffled]), expected)


@every_metric
@settings(max_examples=20, deadline=None)
@given(rows=judged_rows())
def test_whole_number_weights_are_repeated_rows(name: str, rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, targets, weights = rows
    times = weights.astype(int)
    repeated = METRICS[name](np.repeat(scores, times), np.repeat(targets, times))
    assert agree(name, METRICS[name](scores, targets, weights=weights), repeated)


# the debiased error knows how many rows it saw: that is what it is for
@pytest.mark.parametrize("name", sorted(name for name in METRICS if not name.startswith("debiased")))
@settings(max_examples=20, deadline=None)
@given(rows=judged_rows())
def test_doubling_every_row_changes_nothing(name: str, rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, targets, _ = rows
    assert agree(name, METRICS[name](np.tile(scores, 2), np.tile(targets, 2)), METRICS[name](scores, targets))


@every_metric
@settings(max_examples=20, deadline=None)
@given(rows=judged_rows())
def test_rows_not_assessed_do_not_matter(name: str, rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, targets, _ = rows
    elsewhere = np.where(np.isnan(targets), 1.0 - scores, scores)
    kept = ~np.isnan(targets)
    expected = METRICS[name](scores[kept], targets[kept])
    assert agree(name, METRICS[name](scores, targets), expected)
    assert agree(name, METRICS[name](elsewhere, targets), expected)


@pytest.mark.parametrize("name", RANKINGS)
@settings(max_examples=20, deadline=None)
@given(rows=judged_rows())
def test_increasing_maps_keep_rankings(name: str, rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, targets, weights = rows
    mapped = METRICS[name](0.2 + 0.5 * scores**3, targets, weights=weights)
    assert same(mapped, METRICS[name](scores, targets, weights=weights))


@settings(max_examples=20, deadline=None)
@given(rows=judged_rows())
def test_turning_scores_and_targets_round_keeps_auroc(rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, targets, weights = rows
    assert same(
        metrics.auroc(1 - scores, 1 - targets, weights=weights), metrics.auroc(scores, targets, weights=weights)
    )


def test_constant_scores_are_chance_and_perfect_ones_are_one() -> None:
    targets = np.array([1, 0, 0, 0, 1, 0, 0, 0])
    constant = np.full(8, 0.3)
    assert metrics.average_precision(constant, targets) == 0.25
    assert metrics.auroc(constant, targets) == 0.5
    assert metrics.average_precision(targets * 0.9, targets) == 1.0
    assert metrics.auroc(targets * 0.9, targets) == 1.0


@settings(max_examples=30, deadline=None)
@given(rows=judged_rows())
def test_misses_and_hits_make_up_the_positives(rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, targets, weights = rows
    missed, hit = (metric(scores, targets, weights=weights) for metric in (metrics.fnr, metrics.recall))
    assert same(missed + hit, 1.0) or (np.isnan(missed) and np.isnan(hit))


@settings(max_examples=30, deadline=None)
@given(rows=judged_rows())
def test_turning_round_swaps_the_predictive_values_and_keeps_correlation_and_agreement(
    rows: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    scores, targets, weights = rows
    # off the threshold, whose side is no matter of symmetry, and off the ends, where logarithms are cut
    scores = 0.02 + 0.96 * np.where(scores == 0.5, 0.25, scores)
    ours = {name: METRICS[name](scores, targets, weights=weights) for name in METRICS}
    turned = {name: METRICS[name](1 - scores, 1 - targets, weights=weights) for name in METRICS}
    for name, other in (
        ("precision", "npv"),
        ("recall", "specificity"),
        ("mcc", "mcc"),
        ("cohen_kappa", "cohen_kappa"),
    ):
        assert same(ours[name], turned[other]), name
    for name in ("brier", "brier_skill", "log_loss", "ece_confidence"):
        assert same(ours[name], turned[name], tolerance=1e-9), name
    assert same(ours["slope"], turned["slope"], tolerance=1e-6, relative=1e-6)
    assert same(ours["intercept"], -turned["intercept"], tolerance=1e-6, relative=1e-6)


def test_every_ranking_is_one_where_perfect_and_its_chance_value_where_constant() -> None:
    targets = np.array([1, 0, 0, 0, 1, 0, 0, 0])
    for name in RANKINGS:
        assert METRICS[name](0.1 + targets * 0.8, targets) == 1.0, name
    chance = {name: METRICS[name](np.full(8, 0.3), targets) for name in RANKINGS}
    assert chance["partial_auroc"] == pytest.approx(0.5, abs=1e-15)
    assert chance["sensitivity_at_specificity"] == chance["specificity_at_sensitivity"] == 0.0
    assert chance["recall_at_precision"] == 0.0
