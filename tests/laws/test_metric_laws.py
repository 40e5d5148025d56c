"""Laws every metric of the judge must pass, against independent implementations and against itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as oracle
import torch
import torchmetrics.functional.classification as torch_oracle
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from medtail.judging import metrics

METRICS: dict[str, Callable[..., float]] = {
    "ap": metrics.average_precision,
    "auroc": metrics.auroc,
    "f1": metrics.f1,
    "precision": metrics.precision,
    "recall": metrics.recall,
    "specificity": metrics.specificity,
    "balanced_accuracy": metrics.balanced_accuracy,
    "brier": metrics.brier,
    "log_loss": metrics.log_loss,
    "ece": metrics.expected_calibration_error,
}
every_metric = pytest.mark.parametrize("name", sorted(METRICS))

ORACLES: dict[str, Callable[[Any, Any, Any], float]] = {
    "ap": lambda s, y, w: oracle.average_precision_score(y, s, sample_weight=w),
    "auroc": lambda s, y, w: oracle.roc_auc_score(y, s, sample_weight=w),
    "f1": lambda s, y, w: oracle.f1_score(y, s >= 0.5, sample_weight=w, zero_division=np.nan),
    "precision": lambda s, y, w: oracle.precision_score(y, s >= 0.5, sample_weight=w, zero_division=np.nan),
    "recall": lambda s, y, w: oracle.recall_score(y, s >= 0.5, sample_weight=w, zero_division=np.nan),
    "specificity": lambda s, y, w: oracle.recall_score(1 - y, s < 0.5, sample_weight=w, zero_division=np.nan),
    "balanced_accuracy": lambda s, y, w: oracle.balanced_accuracy_score(y, s >= 0.5, sample_weight=w),
    "brier": lambda s, y, w: oracle.brier_score_loss(y, s, sample_weight=w),
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


def same(first: float, second: float, *, tolerance: float = 1e-12) -> bool:
    return bool(np.isclose(first, second, rtol=0, atol=tolerance, equal_nan=True))


@pytest.mark.parametrize("name", sorted(ORACLES))
@settings(max_examples=60, deadline=None)
@given(rows=judged_rows())
def test_equals_scikit_learn_with_weights_wherever_both_are_defined(
    name: str, rows: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    scores, targets, weights = rows
    kept = ~np.isnan(targets) & (weights > 0)
    y, s, w = targets[kept], scores[kept], weights[kept]
    value = METRICS[name](scores, targets, weights=weights)
    needs_positive = name in ("ap", "auroc", "f1", "recall", "balanced_accuracy")
    needs_negative = name in ("auroc", "specificity", "balanced_accuracy")
    lacking = (needs_positive and not (y == 1).any()) or (needs_negative and not (y == 0).any())
    if lacking or not len(y):
        assert np.isnan(value)
    else:
        assert same(value, float(ORACLES[name](s, y, w)))


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


def test_ece_equals_torchmetrics() -> None:
    random = np.random.default_rng(0)
    scores, targets = random.random(500), random.integers(0, 2, 500)
    theirs = torch_oracle.binary_calibration_error(torch.tensor(scores), torch.tensor(targets), n_bins=15, norm="l1")
    assert same(metrics.expected_calibration_error(scores, targets), theirs.item(), tolerance=1e-6)


@every_metric
@settings(max_examples=20, deadline=None)
@given(rows=judged_rows())
def test_row_order_does_not_matter(name: str, rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, targets, weights = rows
    shuffled = np.random.default_rng(0).permutation(len(scores))
    expected = METRICS[name](scores, targets, weights=weights)
    assert same(METRICS[name](scores[shuffled], targets[shuffled], weights=weights[shuffled]), expected)


@every_metric
@settings(max_examples=20, deadline=None)
@given(rows=judged_rows())
def test_whole_number_weights_are_repeated_rows(name: str, rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, targets, weights = rows
    times = weights.astype(int)
    repeated = METRICS[name](np.repeat(scores, times), np.repeat(targets, times))
    assert same(METRICS[name](scores, targets, weights=weights), repeated)


@every_metric
@settings(max_examples=20, deadline=None)
@given(rows=judged_rows())
def test_doubling_every_row_changes_nothing(name: str, rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, targets, _ = rows
    assert same(METRICS[name](np.tile(scores, 2), np.tile(targets, 2)), METRICS[name](scores, targets))


@every_metric
@settings(max_examples=20, deadline=None)
@given(rows=judged_rows())
def test_rows_not_assessed_do_not_matter(name: str, rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, targets, _ = rows
    elsewhere = np.where(np.isnan(targets), 1.0 - scores, scores)
    kept = ~np.isnan(targets)
    expected = METRICS[name](scores[kept], targets[kept])
    assert same(METRICS[name](scores, targets), expected)
    assert same(METRICS[name](elsewhere, targets), expected)


@pytest.mark.parametrize("name", ["ap", "auroc"])
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
