"""What a system offers at a cut point: the best one that keeps a promise, and what a decision there is worth.

"Sensitivity at specificity 0.95" asks for the best recall among all cut points whose specificity is at least that.
Only cut points that exist are considered, one a distinct score and "call nothing": between two of them lies no system
anybody could switch on, so nothing is interpolated. The promise is kept on these very rows; `thresholds` chooses cut
points on other rows than it is judged on. One class at a time, NaN where the data define no value.
"""

from __future__ import annotations

import numpy as np

from medtail.errors import MedtailError
from medtail.judging.counts import Decision, confusion_counts, cumulative_counts, ratio

SLACK = 1e-12
"""A promised rate counts as kept within this much: sums of weights carry rounding, promises do not."""


def partial_auroc(
    scores: np.ndarray, targets: np.ndarray, *, max_fpr: float = 0.1, weights: np.ndarray | None = None
) -> float:
    """Compute the area under the ROC curve up to a false positive rate, McClish-standardised.

    The area A between 0 and x is mapped to (1 + (A - x²/2) / (x - x²/2)) / 2, so that chance is 0.5 and perfect is 1
    whatever x. At x = 1 it is the AUROC. Below 0.5 it is worse than chance, down to (1 - x/(2 - x)) / 2.

    Args:
        scores: float [N] in [0, 1].
        targets: [N] in {0, 1, NaN}.
        max_fpr: x, in (0, 1].
        weights: float [N] >= 0; 1 a row if None.

    Returns:
        A value in [0, 1]; NaN unless both positives and negatives are there.

    Raises:
        MedtailError: `max_fpr` is outside (0, 1], shapes differ, or values are out of range.

    Example:
        >>> round(partial_auroc(np.array([0.9, 0.8, 0.7, 0.1]), np.array([1, 0, 1, 0]), max_fpr=0.5), 3)
        0.667

    References:
        mcclish1989.
    """
    if not 0.0 < max_fpr <= 1.0:
        raise MedtailError(f"partial AUROC: found max_fpr {max_fpr!r}; expected a rate in (0, 1].")
    _, tp, fp = cumulative_counts(scores, targets, weights)
    if not len(tp) or tp[-1] <= 0 or fp[-1] <= 0:
        return float("nan")
    fpr, tpr = np.append(0.0, fp / fp[-1]), np.append(0.0, tp / tp[-1])
    inside = fpr <= max_fpr
    after = int(inside.sum())
    fpr_in, tpr_in = fpr[inside], tpr[inside]
    if after < len(fpr):
        step = (max_fpr - fpr[after - 1]) / (fpr[after] - fpr[after - 1])
        fpr_in = np.append(fpr_in, max_fpr)
        tpr_in = np.append(tpr_in, tpr[after - 1] + step * (tpr[after] - tpr[after - 1]))
    area = float(np.sum(np.diff(fpr_in) * (tpr_in[1:] + tpr_in[:-1])) / 2.0)
    chance = max_fpr * max_fpr / 2.0
    return 0.5 * (1.0 + (area - chance) / (max_fpr - chance))


def sensitivity_at_specificity(
    scores: np.ndarray, targets: np.ndarray, *, at_least: float, weights: np.ndarray | None = None
) -> float:
    """Compute the best recall among the cut points whose specificity is at least a given one.

    Args:
        scores: float [N] in [0, 1].
        targets: [N] in {0, 1, NaN}.
        at_least: The specificity to keep, in [0, 1].
        weights: float [N] >= 0; 1 a row if None.

    Returns:
        A value in [0, 1], 0 where only calling nothing is that specific; NaN unless both positives and negatives are
        there.

    Raises:
        MedtailError: `at_least` is outside [0, 1], shapes differ, or values are out of range.

    Example:
        >>> sensitivity_at_specificity(np.array([0.9, 0.8, 0.7, 0.1]), np.array([1, 0, 1, 0]), at_least=0.9)
        0.5
    """
    recall, specificity, _ = _rates(scores, targets, weights, at_least)
    return _best(recall, specificity, at_least)


def specificity_at_sensitivity(
    scores: np.ndarray, targets: np.ndarray, *, at_least: float, weights: np.ndarray | None = None
) -> float:
    """Compute the best specificity among the cut points whose recall is at least a given one.

    Args:
        scores: float [N] in [0, 1].
        targets: [N] in {0, 1, NaN}.
        at_least: The recall to keep, in [0, 1].
        weights: float [N] >= 0; 1 a row if None.

    Returns:
        A value in [0, 1]; NaN unless both positives and negatives are there.

    Raises:
        MedtailError: `at_least` is outside [0, 1], shapes differ, or values are out of range.

    Example:
        >>> specificity_at_sensitivity(np.array([0.9, 0.8, 0.7, 0.1]), np.array([1, 0, 1, 0]), at_least=0.9)
        0.5
    """
    recall, specificity, _ = _rates(scores, targets, weights, at_least)
    return _best(specificity, recall, at_least)


def recall_at_precision(
    scores: np.ndarray, targets: np.ndarray, *, at_least: float, weights: np.ndarray | None = None
) -> float:
    """Compute the best recall among the cut points whose precision is at least a given one.

    Args:
        scores: float [N] in [0, 1].
        targets: [N] in {0, 1, NaN}.
        at_least: The precision to keep, in [0, 1].
        weights: float [N] >= 0; 1 a row if None.

    Returns:
        A value in [0, 1]; 0 where no cut point is that precise, which is a fact about the system and not a gap in
        the data. NaN without positives.

    Raises:
        MedtailError: `at_least` is outside [0, 1], shapes differ, or values are out of range.

    Example:
        >>> recall_at_precision(np.array([0.9, 0.8, 0.7, 0.1]), np.array([1, 0, 1, 0]), at_least=0.9)
        0.5
    """
    recall, _, precision = _rates(scores, targets, weights, at_least)
    return float("nan") if np.isnan(recall).any() else _best(recall, precision, at_least)


def cohen_kappa(
    scores: np.ndarray,
    targets: np.ndarray,
    *,
    threshold: float = 0.5,
    weights: np.ndarray | None = None,
    decision: Decision = ">=",
) -> float:
    """Compute Cohen's kappa, agreement beyond chance: (p_o - p_e) / (1 - p_e).

    NaN unless both positives and negatives are there. With one true class only, the formula gives 0 whatever the
    system says: a zero that no reader would read as "undefined".

    Example:
        >>> round(cohen_kappa(np.array([0.9, 0.5, 0.1]), np.array([1, 0, 0])), 3)
        0.4
    """
    tp, fp, fn, tn = confusion_counts(scores, targets, threshold=threshold, weights=weights, decision=decision)
    observed, total = tp + tn, tp + fp + fn + tn
    expected = ratio((tp + fp) * (tp + fn) + (tn + fp) * (tn + fn), total)
    kappa = ratio(observed - expected, total - expected)
    return float(kappa) if tp + fn > 0 and tn + fp > 0 else float("nan")


def likelihood_ratios(
    scores: np.ndarray,
    targets: np.ndarray,
    *,
    threshold: float = 0.5,
    weights: np.ndarray | None = None,
    decision: Decision = ">=",
) -> tuple[float, float]:
    """Compute LR+ = recall / (1 - specificity) and LR- = (1 - recall) / specificity.

    How much a call, or none, multiplies the odds of the finding: prevalence plays no part. NaN without positives or
    without negatives; LR+ is NaN without a false alarm and LR- without a true negative (no number, not infinity).

    Returns:
        LR+ and LR-, each >= 0 or NaN.

    Example:
        >>> likelihood_ratios(np.array([0.9, 0.5, 0.1]), np.array([1, 0, 0]))
        (2.0, 0.0)
    """
    tp, fp, fn, tn = confusion_counts(scores, targets, threshold=threshold, weights=weights, decision=decision)
    sensitivity, negatives = ratio(tp, tp + fn), tn + fp
    return float(sensitivity * ratio(negatives, fp)), float((1.0 - sensitivity) * ratio(negatives, tn))


def _rates(
    scores: np.ndarray, targets: np.ndarray, weights: np.ndarray | None, at_least: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return recall, specificity and precision at every cut point, calling nothing first."""
    if not 0.0 <= at_least <= 1.0:
        raise MedtailError(f"operating point: found at_least {at_least!r}; expected a rate in [0, 1].")
    _, tp, fp = cumulative_counts(scores, targets, weights)
    tp, fp = np.append(0.0, tp), np.append(0.0, fp)
    return ratio(tp, tp[-1]), ratio(fp[-1] - fp, fp[-1]), ratio(tp, tp + fp)


def _best(wanted: np.ndarray, kept: np.ndarray, at_least: float) -> float:
    """Return the highest wanted rate where the kept one is high enough, 0 where it nowhere is."""
    if np.isnan(wanted).all() or np.isnan(kept).all():
        return float("nan")
    allowed = kept >= at_least - SLACK
    return float(wanted[allowed].max(initial=0.0))
