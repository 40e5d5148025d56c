"""What metrics are made of: checked rows, counts at thresholds, ratios that may be undefined.

Below `metrics` and shared with the bootstrap, so that the value on the full sample and the value in a resample are
the same formula. One class at a time; rows whose target is NaN end here.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from medtail.errors import MedtailError

EceMode = Literal["reliability", "equal_mass", "leaderboard", "confidence"]
Decision = Literal[">=", ">"]
"""Whether a score at the threshold is called (`>=`, ours) or not (`>`, MedMNIST's and torchmetrics')."""


def assessed(
    scores: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check one class's arrays and keep the assessed rows.

    Returns:
        Scores, targets in {0, 1} and weights as float64 [rows with a target].

    Raises:
        MedtailError: Shapes differ, a score is outside [0, 1] or NaN, a target is not 0, 1 or NaN, or a weight is
            negative or not finite.
    """
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    w = np.ones(s.shape) if weights is None else np.asarray(weights, dtype=np.float64)
    if s.ndim != 1 or y.shape != s.shape or w.shape != s.shape:
        raise MedtailError(f"metric: scores {s.shape}, targets {y.shape}, weights {w.shape}; expected one [N] shape.")
    kept = ~np.isnan(y)
    s, y, w = s[kept], y[kept], w[kept]
    if not np.all((s >= 0.0) & (s <= 1.0)):
        found = s[~((s >= 0.0) & (s <= 1.0))][0]
        raise MedtailError(f"metric: found score {found!r}; expected [0, 1]. Turn logits into scores first.")
    if not np.all((y == 0.0) | (y == 1.0)):
        raise MedtailError("metric: found a target other than 0, 1 or NaN (not assessed).")
    if not np.all((w >= 0.0) & np.isfinite(w)):
        raise MedtailError("metric: found a negative or infinite weight; expected finite weights >= 0.")
    return s, y, w


def cumulative_counts(
    scores: np.ndarray, targets: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return distinct scores from high to low and the positive and negative weight at or above each."""
    s, y, w = assessed(scores, targets, weights)
    order = np.argsort(-s, kind="stable")
    s, y, w = s[order], y[order], w[order]
    ends = np.flatnonzero(np.append(s[1:] != s[:-1], True)) if len(s) else np.empty(0, dtype=np.int64)
    return s[ends], np.cumsum(w * y)[ends], np.cumsum(w * (1.0 - y))[ends]


def is_called(scores: np.ndarray, thresholds: np.ndarray | float, *, decision: Decision = ">=") -> np.ndarray:
    """Decide each score against its threshold.

    Args:
        scores: float, any shape.
        thresholds: One value, or an array that broadcasts to the scores.
        decision: `>=` calls a score at the threshold, `>` does not.

    Returns:
        bool, the scores' shape.

    Raises:
        MedtailError: Unknown decision.

    Example:
        >>> is_called(np.array([0.5, 0.6]), 0.5, decision=">").tolist()
        [False, True]
    """
    if decision not in (">=", ">"):
        raise MedtailError(f"decision {decision!r}: expected '>=' or '>'.")
    return np.asarray(scores >= thresholds if decision == ">=" else scores > thresholds)


def confusion_counts(
    scores: np.ndarray,
    targets: np.ndarray,
    *,
    threshold: float = 0.5,
    weights: np.ndarray | None = None,
    decision: Decision = ">=",
) -> tuple[float, float, float, float]:
    """Return the weights of true positives, false positives, false negatives and true negatives.

    A row is called where score >= threshold, or score > threshold if `decision` says so.

    Example:
        >>> confusion_counts(np.array([0.9, 0.5, 0.1]), np.array([1, 0, np.nan]))
        (1.0, 1.0, 0.0, 0.0)
    """
    s, y, w = assessed(scores, targets, weights)
    called, positive = is_called(s, threshold, decision=decision), y == 1
    tp, fp = np.sum(w[called & positive]), np.sum(w[called & ~positive])
    fn, tn = np.sum(w[~called & positive]), np.sum(w[~called & ~positive])
    return float(tp), float(fp), float(fn), float(tn)


def calibration_gaps(
    scores: np.ndarray,
    targets: np.ndarray,
    *,
    mode: EceMode = "reliability",
    bins: int = 15,
    weights: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's bin and its hit minus its confidence, the two things an ECE sums.

    Args:
        scores: float [N] in [0, 1], assessed rows only.
        targets: float [N] in {0, 1}.
        mode: See `expected_calibration_error`.
        bins: Number of bins, >= 1.
        weights: float [N] >= 0, which `equal_mass` bins share out evenly; 1 a row if None.

    Returns:
        Bin index int64 [N] in [0, bins) and gap float64 [N] in [-1, 1].

    Raises:
        MedtailError: Unknown mode, or fewer than one bin.
    """
    if mode not in ("reliability", "equal_mass", "leaderboard", "confidence"):
        raise MedtailError(f"ECE mode {mode!r}: expected reliability, equal_mass, leaderboard or confidence.")
    if bins < 1:
        raise MedtailError(f"ECE bins {bins}: expected at least 1.")
    if mode in ("reliability", "equal_mass"):
        confidence, hit = scores, targets
    else:
        hit = ((scores >= 0.5) == (targets == 1)).astype(np.float64)
        confidence = scores if mode == "leaderboard" else np.maximum(scores, 1.0 - scores)
    if mode == "equal_mass":
        index = np.searchsorted(_mass_cuts(scores, weights, bins), scores, side="right")
    else:
        edges = np.linspace(0.0, 1.0, bins + 1)
        index = np.searchsorted(edges[1:-1], confidence, side="left")
    return index.astype(np.int64), np.asarray(hit - confidence, dtype=np.float64)


def _mass_cuts(scores: np.ndarray, weights: np.ndarray | None, bins: int) -> np.ndarray:
    """Return the scores at which the weight below first exceeds 1/bins, 2/bins, … of the whole."""
    order = np.argsort(scores, kind="stable")
    ordered, below = scores[order], np.cumsum(np.ones(len(scores)) if weights is None else weights[order])
    if not len(ordered) or below[-1] <= 0:
        return np.empty(0)
    shares = below[-1] * np.arange(1, bins) / bins
    return np.unique(ordered[np.searchsorted(below, shares, side="right")])


def f_beta_from_counts(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, *, beta: float = 1.0) -> np.ndarray:
    """Return F-beta of counts of any one shape, NaN where there are no positives.

    Example:
        >>> f_beta_from_counts(np.array([2.0, 0.0]), np.array([1.0, 3.0]), np.zeros(2), beta=2).round(3).tolist()
        [0.909, nan]
    """
    square = beta * beta
    value = ratio((1.0 + square) * tp, (1.0 + square) * tp + fp + square * fn)
    return np.asarray(np.where(tp + fn > 0, value, np.nan))


def f1_from_counts(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> np.ndarray:
    """Return F1 of counts of any one shape, NaN where there are no positives.

    Example:
        >>> f1_from_counts(np.array([2.0, 0.0]), np.array([1.0, 3.0]), np.array([1.0, 0.0])).round(3).tolist()
        [0.667, nan]
    """
    return f_beta_from_counts(tp, fp, fn)


def mcc_from_counts(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, tn: np.ndarray) -> np.ndarray:
    """Return Matthews' correlation of counts of any one shape, NaN where a margin of the 2 x 2 table is 0.

    Example:
        >>> mcc_from_counts(np.array([2.0, 2.0]), np.zeros(2), np.zeros(2), np.array([3.0, 0.0])).tolist()
        [1.0, nan]
    """
    margins = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return np.asarray(np.clip(ratio(tp * tn - fp * fn, np.sqrt(margins)), -1.0, 1.0))


def ratio(numerator: np.ndarray | float, denominator: np.ndarray | float) -> np.ndarray:
    """Divide element by element, NaN where the denominator is 0.

    Example:
        >>> ratio(np.array([1.0, 0.0]), np.array([2.0, 0.0])).tolist()
        [0.5, nan]
    """
    top, bottom = np.broadcast_arrays(np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=float))
    divided: np.ndarray = np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom != 0)
    return divided
