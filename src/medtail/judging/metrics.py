"""Metrics as pure functions of scores and targets, NaN where the data cannot define them.

Every function takes the scores and targets of one class, drops the rows whose target is NaN (not assessed) and
treats ties exactly. What an absent class makes undefined is NaN, never 0 or 0.5: a zero looks like a bad model, a
half like a coin. Resampling lives in `bootstrap`, decisions of many classes in `decisions`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np

from medtail.judging.counts import (
    EceMode,
    assessed,
    calibration_gaps,
    confusion_counts,
    cumulative_counts,
    f1_from_counts,
    ratio,
)

Metric = Callable[[np.ndarray, np.ndarray], float]


@final
@dataclass(frozen=True)
class Curve:
    """Points of a curve, one a distinct score, from the highest threshold to the lowest.

    Attributes:
        x: Recall (precision-recall) or false positive rate (ROC), float64 [K]; never decreasing.
        y: Precision, or true positive rate, float64 [K].
        thresholds: Score at or above which a row counts as called, float64 [K].
    """

    x: np.ndarray
    y: np.ndarray
    thresholds: np.ndarray


@final
@dataclass(frozen=True)
class ReliabilityCurve:
    """Mean score against share of positives, a point a bin that holds rows.

    Attributes:
        mean_score: float64 [K].
        positive_share: float64 [K].
        weight: Sum of row weights in the bin (rows, where none are given), float64 [K].
    """

    mean_score: np.ndarray
    positive_share: np.ndarray
    weight: np.ndarray


def average_precision(scores: np.ndarray, targets: np.ndarray, *, weights: np.ndarray | None = None) -> float:
    """Compute average precision without interpolation, one step a distinct score.

    AP = Σ_k (a_k / P) · TP_k / (TP_k + FP_k) over the distinct scores from high to low, a_k the positive weight at
    the k-th. Rows of one score enter together, so their order cannot matter.

    Args:
        scores: float [N] in [0, 1].
        targets: [N] in {0, 1, NaN}.
        weights: float [N] >= 0; 1 a row if None.

    Returns:
        A value in (0, 1]; NaN without positives.

    Raises:
        MedtailError: Shapes differ, or values are out of range.

    Example:
        >>> average_precision(np.array([0.9, 0.8, 0.1]), np.array([1, 0, 1]))
        0.8333333333333333
    """
    _, tp, fp = cumulative_counts(scores, targets, weights)
    return _ap(tp, fp)


def _ap(tp: np.ndarray, fp: np.ndarray) -> float:
    if not len(tp) or tp[-1] <= 0:
        return float("nan")
    gained = np.diff(tp, prepend=0.0)
    precision_at = np.divide(tp, tp + fp, out=np.zeros_like(tp), where=tp + fp > 0)
    return float(np.cumsum(gained * precision_at)[-1] / tp[-1])


def auroc(scores: np.ndarray, targets: np.ndarray, *, weights: np.ndarray | None = None) -> float:
    """Compute the area under the ROC curve: the chance that a positive outscores a negative, ties counting half.

    Args:
        scores: float [N] in [0, 1].
        targets: [N] in {0, 1, NaN}.
        weights: float [N] >= 0; 1 a row if None.

    Returns:
        A value in [0, 1]; NaN unless both positives and negatives are there.

    Raises:
        MedtailError: Shapes differ, or values are out of range.

    Example:
        >>> auroc(np.array([0.9, 0.5, 0.5]), np.array([1, 1, 0]))
        0.75
    """
    _, tp, fp = cumulative_counts(scores, targets, weights)
    if not len(tp) or tp[-1] <= 0 or fp[-1] <= 0:
        return float("nan")
    gained, before = np.diff(tp, prepend=0.0), np.concatenate(([0.0], fp[:-1]))
    twice_lost = np.cumsum(gained * (before + fp))[-1]
    return float(1.0 - twice_lost / (2.0 * tp[-1] * fp[-1]))


def chance_average_precision(positives: int, total: int) -> float:
    """Compute the expected average precision of a random order of distinct scores.

    [ (P-1)/(n-1) · (n - H_n) + H_n ] / n with H_n the n-th harmonic number: above the prevalence, and for a rare
    class far above it. Print it beside AP.

    Args:
        positives: Positive rows, 0 to `total`.
        total: Assessed rows.

    Returns:
        A value in (0, 1]; NaN without positives.

    Example:
        >>> round(chance_average_precision(2, 406), 4)
        0.0186
    """
    assert 0 <= positives <= total, "positives are some of the rows"
    if positives == 0:
        return float("nan")
    if total == 1:
        return 1.0
    harmonic = float(np.sum(1.0 / np.arange(1, total + 1)))
    return ((positives - 1) / (total - 1) * (total - harmonic) + harmonic) / total


def precision(
    scores: np.ndarray, targets: np.ndarray, *, threshold: float = 0.5, weights: np.ndarray | None = None
) -> float:
    """Compute TP / (TP + FP) of the decision score >= threshold; NaN where nothing is called.

    Example:
        >>> precision(np.array([0.9, 0.5, 0.1]), np.array([1, 0, 1]))
        0.5
    """
    tp, fp, _, _ = confusion_counts(scores, targets, threshold=threshold, weights=weights)
    return float(ratio(tp, tp + fp))


def recall(
    scores: np.ndarray, targets: np.ndarray, *, threshold: float = 0.5, weights: np.ndarray | None = None
) -> float:
    """Compute TP / (TP + FN) of the decision score >= threshold; NaN without positives.

    Example:
        >>> recall(np.array([0.9, 0.5, 0.1]), np.array([1, 0, 1]))
        0.5
    """
    tp, _, fn, _ = confusion_counts(scores, targets, threshold=threshold, weights=weights)
    return float(ratio(tp, tp + fn))


def specificity(
    scores: np.ndarray, targets: np.ndarray, *, threshold: float = 0.5, weights: np.ndarray | None = None
) -> float:
    """Compute TN / (TN + FP) of the decision score >= threshold; NaN without negatives.

    Example:
        >>> specificity(np.array([0.9, 0.5, 0.1]), np.array([1, 0, 0]))
        0.5
    """
    _, fp, _, tn = confusion_counts(scores, targets, threshold=threshold, weights=weights)
    return float(ratio(tn, tn + fp))


def f1(scores: np.ndarray, targets: np.ndarray, *, threshold: float = 0.5, weights: np.ndarray | None = None) -> float:
    """Compute 2TP / (2TP + FP + FN) of the decision score >= threshold; NaN without positives.

    Without positives it is NaN even when false alarms would make the formula 0: those show in the specificity.

    Example:
        >>> f1(np.array([0.9, 0.5, 0.1]), np.array([1, 0, 1]))
        0.5
    """
    tp, fp, fn, _ = confusion_counts(scores, targets, threshold=threshold, weights=weights)
    return float(f1_from_counts(np.array(tp), np.array(fp), np.array(fn)))


def balanced_accuracy(
    scores: np.ndarray, targets: np.ndarray, *, threshold: float = 0.5, weights: np.ndarray | None = None
) -> float:
    """Compute the mean of recall and specificity; NaN unless both positives and negatives are there.

    Example:
        >>> balanced_accuracy(np.array([0.9, 0.5, 0.1]), np.array([1, 0, 0]))
        0.75
    """
    tp, fp, fn, tn = confusion_counts(scores, targets, threshold=threshold, weights=weights)
    return float((ratio(tp, tp + fn) + ratio(tn, tn + fp)) / 2.0)


def brier(scores: np.ndarray, targets: np.ndarray, *, weights: np.ndarray | None = None) -> float:
    """Compute the mean squared difference between score and target; NaN without assessed rows.

    Example:
        >>> brier(np.array([0.5, 1.0]), np.array([1, 1]))
        0.125
    """
    s, y, w = assessed(scores, targets, weights)
    return float(ratio(np.sum(w * (s - y) ** 2), np.sum(w)))


def log_loss(
    scores: np.ndarray, targets: np.ndarray, *, floor: float = 1e-15, weights: np.ndarray | None = None
) -> float:
    """Compute the mean negative log likelihood in nats; NaN without assessed rows.

    Args:
        scores: float [N] in [0, 1].
        targets: [N] in {0, 1, NaN}.
        floor: Scores are kept this far from 0 and 1, so that one certain mistake is not infinite.
        weights: float [N] >= 0; 1 a row if None.

    Example:
        >>> round(log_loss(np.array([0.5, 0.5]), np.array([1, 0])), 4)
        0.6931
    """
    s, y, w = assessed(scores, targets, weights)
    s = np.clip(s, floor, 1.0 - floor)
    return float(ratio(-np.sum(w * np.where(y == 1, np.log(s), np.log1p(-s))), np.sum(w)))


def expected_calibration_error(
    scores: np.ndarray,
    targets: np.ndarray,
    *,
    mode: EceMode = "reliability",
    bins: int = 15,
    weights: np.ndarray | None = None,
) -> float:
    """Compute the expected calibration error Σ_b n_b/N |mean hit - mean confidence|.

    `reliability` compares the share of positives with the mean score in equal-width, right-closed bins;
    `equal_mass` does so in bins holding equally many rows (ties stay together). `leaderboard` compares the
    correctness of the decision score >= 0.5 with the score, as the CXR-LT boards seem to; `confidence` compares that
    correctness with max(s, 1 - s). The modes differ widely: print the mode with the number.

    Args:
        scores: float [N] in [0, 1].
        targets: [N] in {0, 1, NaN}.
        mode: Which reading.
        bins: Number of bins, >= 1.
        weights: float [N] >= 0; 1 a row if None.

    Returns:
        A value in [0, 1], 0 best; NaN without assessed rows.

    Raises:
        MedtailError: Unknown mode, fewer than one bin, or values out of range.

    Example:
        >>> expected_calibration_error(np.array([0.25, 0.25, 0.25, 0.25]), np.array([1, 0, 0, 0]))
        0.0

    References:
        naeini2015, guo2017.
    """
    s, y, w = assessed(scores, targets, weights)
    index, gap = calibration_gaps(s, y, mode=mode, bins=bins)
    return float(ratio(np.sum(np.abs(np.bincount(index, weights=w * gap, minlength=1))), np.sum(w)))


def pr_curve(scores: np.ndarray, targets: np.ndarray, *, weights: np.ndarray | None = None) -> Curve:
    """Return precision against recall at every distinct score; no points without positives.

    Example:
        >>> curve = pr_curve(np.array([0.9, 0.8, 0.1]), np.array([1, 0, 1]))
        >>> curve.x.tolist(), curve.y.round(3).tolist()
        ([0.5, 0.5, 1.0], [1.0, 0.5, 0.667])
    """
    values, tp, fp = cumulative_counts(scores, targets, weights)
    if not len(tp) or tp[-1] <= 0:
        return Curve(np.empty(0), np.empty(0), np.empty(0))
    kept = tp + fp > 0
    return Curve((tp / tp[-1])[kept], (tp[kept] / (tp + fp)[kept]), values[kept])


def roc_curve(scores: np.ndarray, targets: np.ndarray, *, weights: np.ndarray | None = None) -> Curve:
    """Return true against false positive rate, from (0, 0) at threshold infinity; no points if undefined.

    Example:
        >>> curve = roc_curve(np.array([0.9, 0.8, 0.1]), np.array([1, 0, 1]))
        >>> curve.x.tolist(), curve.y.tolist()
        ([0.0, 0.0, 1.0, 1.0], [0.0, 0.5, 0.5, 1.0])
    """
    values, tp, fp = cumulative_counts(scores, targets, weights)
    if not len(tp) or tp[-1] <= 0 or fp[-1] <= 0:
        return Curve(np.empty(0), np.empty(0), np.empty(0))
    start = np.zeros(1)
    return Curve(
        np.concatenate((start, fp / fp[-1])), np.concatenate((start, tp / tp[-1])), np.concatenate(([np.inf], values))
    )


def reliability_curve(
    scores: np.ndarray,
    targets: np.ndarray,
    *,
    mode: EceMode = "reliability",
    bins: int = 15,
    weights: np.ndarray | None = None,
) -> ReliabilityCurve:
    """Return mean score and share of positives of each bin that holds rows, bins from low scores to high.

    Args:
        scores: float [N] in [0, 1].
        targets: [N] in {0, 1, NaN}.
        mode: `reliability` or `equal_mass`; see `expected_calibration_error`.
        bins: Number of bins, >= 1.
        weights: float [N] >= 0; 1 a row if None.

    Example:
        >>> curve = reliability_curve(np.array([0.1, 0.9, 0.9]), np.array([0, 1, 0]), bins=2)
        >>> curve.positive_share.tolist(), curve.weight.tolist()
        ([0.0, 0.5], [1.0, 2.0])
    """
    s, y, w = assessed(scores, targets, weights)
    index, _ = calibration_gaps(s, y, mode=mode, bins=bins)
    mass, score_sum, positive = (np.bincount(index, weights=v, minlength=1) for v in (w, w * s, w * y))
    kept = mass > 0
    return ReliabilityCurve(score_sum[kept] / mass[kept], positive[kept] / mass[kept], mass[kept])


def per_class(metric: Metric, scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Apply a metric to every class.

    Args:
        metric: Any function of this module; fix its options with `functools.partial`.
        scores: float [N, C] in [0, 1].
        targets: [N, C] in {0, 1, NaN}.

    Returns:
        float64 [C], NaN where undefined.

    Example:
        >>> per_class(auroc, np.array([[0.9, 0.5], [0.1, 0.5]]), np.array([[1, 0], [0, 0]])).tolist()
        [1.0, nan]
    """
    return np.array([metric(scores[:, c], targets[:, c]) for c in range(scores.shape[1])], dtype=np.float64)


def macro(values: np.ndarray, *, among: np.ndarray | None = None) -> tuple[float, int]:
    """Average over the supported classes (those whose value is defined) and say how many they are.

    Args:
        values: float [C], NaN where undefined.
        among: bool [C], the classes to consider; all if None.

    Returns:
        The mean, NaN if no class is supported, and the number of classes averaged.

    Example:
        >>> macro(np.array([0.8, np.nan, 0.6]))
        (0.7, 2)
    """
    supported = ~np.isnan(values) if among is None else ~np.isnan(values) & among
    count = int(supported.sum())
    return (float(np.mean(values[supported])) if count else float("nan")), count
