"""Curves a reader looks at before any number: precision-recall, ROC, reliability.

One class at a time, a point a distinct score or a bin, from the same counts as `metrics`. Drawing them is the
business of `reporting`; a single point chosen on one of them that of `operating`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from medtail.judging.counts import EceMode, assessed, calibration_gaps, cumulative_counts


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
        mode: `reliability` or `equal_mass`; see `metrics.expected_calibration_error`.
        bins: Number of bins, >= 1.
        weights: float [N] >= 0; 1 a row if None.

    Example:
        >>> curve = reliability_curve(np.array([0.1, 0.9, 0.9]), np.array([0, 1, 0]), bins=2)
        >>> curve.positive_share.tolist(), curve.weight.tolist()
        ([0.0, 0.5], [1.0, 2.0])
    """
    s, y, w = assessed(scores, targets, weights)
    index, _ = calibration_gaps(s, y, mode=mode, bins=bins, weights=w)
    mass, score_sum, positive = (np.bincount(index, weights=v, minlength=1) for v in (w, w * s, w * y))
    kept = mass > 0
    return ReliabilityCurve(score_sum[kept] / mass[kept], positive[kept] / mass[kept], mass[kept])
