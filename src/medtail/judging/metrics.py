"""Metrics as pure functions of scores and targets, NaN where the data cannot define them.

Every function takes the scores and targets of one class, drops the rows whose target is NaN (not assessed) and
treats ties exactly. What an absent class makes undefined is NaN, never 0 or 0.5: a zero looks like a bad model, a
half like a coin. Cut points at a wished-for rate live in `operating`, further readings of calibration in
`calibration_error`, curves in `curves`, many classes together in `multiclass` and `multilabel`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from medtail.errors import MedtailError, listing
from medtail.judging.counts import (
    Decision,
    EceMode,
    assessed,
    calibration_gaps,
    confusion_counts,
    cumulative_counts,
    f1_from_counts,
    f_beta_from_counts,
    mcc_from_counts,
    ratio,
)

Metric = Callable[..., float]
"""Scores and targets of one class, and `weights` by name where rows are weighted, to a number."""
Absent = Literal["nan", "zero", "error"]
"""What a class whose value is undefined does to an average: stay out, count 0 as other tools do, or forbid it."""


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


# what follows decides first: a row is called where score >= threshold, or > threshold if `decision` says so


def precision(
    scores: np.ndarray,
    targets: np.ndarray,
    *,
    threshold: float = 0.5,
    weights: np.ndarray | None = None,
    decision: Decision = ">=",
) -> float:
    """Compute TP / (TP + FP); NaN where nothing is called.

    Example:
        >>> precision(np.array([0.9, 0.5, 0.1]), np.array([1, 0, 1]))
        0.5
    """
    tp, fp, _, _ = confusion_counts(scores, targets, threshold=threshold, weights=weights, decision=decision)
    return float(ratio(tp, tp + fp))


def npv(
    scores: np.ndarray,
    targets: np.ndarray,
    *,
    threshold: float = 0.5,
    weights: np.ndarray | None = None,
    decision: Decision = ">=",
) -> float:
    """Compute the negative predictive value TN / (TN + FN); NaN where everything is called.

    Example:
        >>> npv(np.array([0.9, 0.5, 0.1]), np.array([1, 0, 1]))
        0.0
    """
    _, _, fn, tn = confusion_counts(scores, targets, threshold=threshold, weights=weights, decision=decision)
    return float(ratio(tn, tn + fn))


def recall(
    scores: np.ndarray,
    targets: np.ndarray,
    *,
    threshold: float = 0.5,
    weights: np.ndarray | None = None,
    decision: Decision = ">=",
) -> float:
    """Compute TP / (TP + FN); NaN without positives.

    Example:
        >>> recall(np.array([0.9, 0.5, 0.1]), np.array([1, 0, 1]))
        0.5
    """
    tp, _, fn, _ = confusion_counts(scores, targets, threshold=threshold, weights=weights, decision=decision)
    return float(ratio(tp, tp + fn))


def fnr(
    scores: np.ndarray,
    targets: np.ndarray,
    *,
    threshold: float = 0.5,
    weights: np.ndarray | None = None,
    decision: Decision = ">=",
) -> float:
    """Compute the false negative rate FN / (TP + FN), the findings missed; NaN without positives.

    Example:
        >>> fnr(np.array([0.9, 0.5, 0.1]), np.array([1, 0, 1]))
        0.5
    """
    tp, _, fn, _ = confusion_counts(scores, targets, threshold=threshold, weights=weights, decision=decision)
    return float(ratio(fn, tp + fn))


def specificity(
    scores: np.ndarray,
    targets: np.ndarray,
    *,
    threshold: float = 0.5,
    weights: np.ndarray | None = None,
    decision: Decision = ">=",
) -> float:
    """Compute TN / (TN + FP); NaN without negatives.

    Example:
        >>> specificity(np.array([0.9, 0.5, 0.1]), np.array([1, 0, 0]))
        0.5
    """
    _, fp, _, tn = confusion_counts(scores, targets, threshold=threshold, weights=weights, decision=decision)
    return float(ratio(tn, tn + fp))


def f1(
    scores: np.ndarray,
    targets: np.ndarray,
    *,
    threshold: float = 0.5,
    weights: np.ndarray | None = None,
    decision: Decision = ">=",
) -> float:
    """Compute 2TP / (2TP + FP + FN); NaN without positives.

    Without positives it is NaN even when false alarms would make the formula 0: those show in the specificity.

    Example:
        >>> f1(np.array([0.9, 0.5, 0.1]), np.array([1, 0, 1]))
        0.5
    """
    tp, fp, fn, _ = confusion_counts(scores, targets, threshold=threshold, weights=weights, decision=decision)
    return float(f1_from_counts(np.array(tp), np.array(fp), np.array(fn)))


def f_beta(
    scores: np.ndarray,
    targets: np.ndarray,
    *,
    threshold: float = 0.5,
    beta: float = 2.0,
    weights: np.ndarray | None = None,
    decision: Decision = ">=",
) -> float:
    """Compute (1 + β²)TP / ((1 + β²)TP + β²FN + FP), recall weighing β times precision; NaN without positives.

    Example:
        >>> f_beta(np.array([0.9, 0.5, 0.1]), np.array([1, 0, 1]), beta=2.0)
        0.5
    """
    tp, fp, fn, _ = confusion_counts(scores, targets, threshold=threshold, weights=weights, decision=decision)
    assert beta >= 0, "beta is no negative number"
    return float(f_beta_from_counts(np.array(tp), np.array(fp), np.array(fn), beta=beta))


def balanced_accuracy(
    scores: np.ndarray,
    targets: np.ndarray,
    *,
    threshold: float = 0.5,
    weights: np.ndarray | None = None,
    decision: Decision = ">=",
) -> float:
    """Compute the mean of recall and specificity; NaN unless both positives and negatives are there.

    Example:
        >>> balanced_accuracy(np.array([0.9, 0.5, 0.1]), np.array([1, 0, 0]))
        0.75
    """
    tp, fp, fn, tn = confusion_counts(scores, targets, threshold=threshold, weights=weights, decision=decision)
    return float((ratio(tp, tp + fn) + ratio(tn, tn + fp)) / 2.0)


def mcc(
    scores: np.ndarray,
    targets: np.ndarray,
    *,
    threshold: float = 0.5,
    weights: np.ndarray | None = None,
    decision: Decision = ">=",
) -> float:
    """Compute Matthews' correlation of decision and target.

    (TP·TN - FP·FN) / √((TP+FP)(TP+FN)(TN+FP)(TN+FN)), NaN where a factor is 0: with one class only, true or called,
    there is nothing to correlate. scikit-learn says 0 there.

    Example:
        >>> mcc(np.array([0.9, 0.5, 0.1]), np.array([1, 0, 0]))
        0.5
    """
    tp, fp, fn, tn = confusion_counts(scores, targets, threshold=threshold, weights=weights, decision=decision)
    return float(mcc_from_counts(np.array(tp), np.array(fp), np.array(fn), np.array(tn)))


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
    index, gap = calibration_gaps(s, y, mode=mode, bins=bins, weights=w)
    return float(ratio(np.sum(np.abs(np.bincount(index, weights=w * gap, minlength=1))), np.sum(w)))


def per_class(
    metric: Metric, scores: np.ndarray, targets: np.ndarray, *, weights: np.ndarray | None = None
) -> np.ndarray:
    """Apply a metric to every class.

    Args:
        metric: Any function of this module; fix its options with `functools.partial`.
        scores: float [N, C] in [0, 1].
        targets: [N, C] in {0, 1, NaN}.
        weights: float [N] >= 0, of rows; 1 a row if None.

    Returns:
        float64 [C], NaN where undefined.

    Example:
        >>> per_class(auroc, np.array([[0.9, 0.5], [0.1, 0.5]]), np.array([[1, 0], [0, 0]])).tolist()
        [1.0, nan]
    """
    options = {} if weights is None else {"weights": weights}
    return np.array([metric(scores[:, c], targets[:, c], **options) for c in range(scores.shape[1])], dtype=np.float64)


def macro(
    values: np.ndarray,
    *,
    among: np.ndarray | None = None,
    absent: Absent = "nan",
    names: Sequence[str] | None = None,
) -> tuple[float, int]:
    """Average over the supported classes (those whose value is defined) and say how many they are.

    Args:
        values: float [C], NaN where undefined.
        among: bool [C], the classes to consider; all if None.
        absent: `nan` leaves undefined classes out. `error` refuses them, for replays of a challenge. `zero` counts
            them as 0, only to reproduce another tool's number.
        names: The classes' names, for `error`'s message.

    Returns:
        The mean, NaN if no class is supported, and the number of classes averaged.

    Raises:
        MedtailError: `absent` is `error` and a class is undefined, or is none of the three.

    Example:
        >>> macro(np.array([0.8, np.nan, 0.6]))
        (0.7, 2)
    """
    if absent not in ("nan", "zero", "error"):
        raise MedtailError(f"absent {absent!r}: expected nan, zero or error.")
    wanted = np.ones(len(values), dtype=bool) if among is None else np.asarray(among, dtype=bool)
    undefined = np.isnan(values) & wanted
    if absent == "error" and undefined.any():
        which = [repr(names[c]) if names is not None else f"number {c}" for c in np.flatnonzero(undefined).tolist()]
        raise MedtailError(f"macro: undefined for class {listing(which)}; expected every class defined.")
    averaged = np.where(undefined, 0.0, values)[wanted] if absent == "zero" else values[wanted & ~undefined]
    return (float(np.mean(averaged)) if len(averaged) else float("nan")), len(averaged)
