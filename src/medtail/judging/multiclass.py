"""One class of several an image: what a confusion matrix says, top-k, and the averages over classes that are there.

A row belongs to the one class known to be present; the system's answer is its highest score, ties going to the lowest
index (`decisions`). Most metrics are functions of the confusion matrix alone, rows true and columns called, in any
weights: so a resample's matrix gives the resample's value. A class no row truly belongs to is *unsupported*: it is
left out of every average over classes, also where the system calls it. Its false calls show in the others' recall.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from medtail.errors import MedtailError
from medtail.judging.counts import f1_from_counts, ratio

KappaWeighting = Literal["none", "linear", "quadratic"]


def true_classes(targets: np.ndarray) -> np.ndarray:
    """Return the class of each row.

    Args:
        targets: [N, C] in {0, 1, NaN}.

    Returns:
        int64 [N], -1 where not exactly one class is known to be present.

    Example:
        >>> true_classes(np.array([[0, 1], [0, 0], [np.nan, np.nan]])).tolist()
        [1, -1, -1]
    """
    present = np.asarray(targets) == 1
    return np.where(present.sum(axis=1) == 1, present.argmax(axis=1), -1)


def confusion_matrix(
    true: np.ndarray, called: np.ndarray, *, num_classes: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """Count true against called classes.

    Args:
        true: Class of each row, int [N]; rows at -1 have none and are left out.
        called: Class called, int [N] in [0, C).
        num_classes: C.
        weights: float [N] >= 0; 1 a row if None.

    Returns:
        float64 [C, C], rows true, columns called.

    Raises:
        MedtailError: Shapes differ, a class lies outside the range, or a weight is negative.

    Example:
        >>> confusion_matrix(np.array([0, 0, 1, -1]), np.array([0, 1, 1, 0]), num_classes=2).tolist()
        [[1.0, 1.0], [0.0, 1.0]]
    """
    w = np.ones(len(true)) if weights is None else np.asarray(weights, dtype=np.float64)
    if true.ndim != 1 or called.shape != true.shape or w.shape != true.shape:
        raise MedtailError(f"confusion: true {true.shape}, called {called.shape}, weights {w.shape}; expected one [N].")
    if not np.all((true >= -1) & (true < num_classes) & (called >= 0) & (called < num_classes)):
        raise MedtailError(f"confusion: found a class outside 0 … {num_classes - 1} (-1 for none in `true`).")
    if not np.all((w >= 0.0) & np.isfinite(w)):
        raise MedtailError("confusion: found a negative or infinite weight; expected finite weights >= 0.")
    kept = true >= 0
    cells = true[kept] * num_classes + called[kept]
    return np.bincount(cells, weights=w[kept], minlength=num_classes**2).reshape(num_classes, num_classes)


def recalls(confusion: np.ndarray) -> np.ndarray:
    """Return each class's recall, float64 [C], NaN where it has no rows.

    Example:
        >>> recalls(np.array([[1.0, 1.0], [0.0, 0.0]])).tolist()
        [0.5, nan]
    """
    return ratio(np.diagonal(confusion), confusion.sum(axis=1))


def f1s(confusion: np.ndarray) -> np.ndarray:
    """Return each class's F1, float64 [C], NaN where it has no rows, even if it is called.

    Example:
        >>> f1s(np.array([[1.0, 1.0], [0.0, 0.0]])).round(3).tolist()
        [0.667, nan]
    """
    correct = np.diagonal(confusion)
    return f1_from_counts(correct, confusion.sum(axis=0) - correct, confusion.sum(axis=1) - correct)


def accuracy(confusion: np.ndarray) -> float:
    """Compute the share of rows called rightly; NaN without rows.

    Example:
        >>> accuracy(np.array([[3.0, 1.0], [0.0, 0.0]]))
        0.75
    """
    return float(ratio(np.trace(confusion), confusion.sum()))


def balanced_accuracy(confusion: np.ndarray) -> float:
    """Compute the mean recall of the supported classes; NaN without any.

    Example:
        >>> balanced_accuracy(np.array([[3.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
        0.875
    """
    return _over_supported(np.mean, recalls(confusion))


def macro_f1(confusion: np.ndarray) -> float:
    """Compute the mean F1 of the supported classes; NaN without any.

    Example:
        >>> round(macro_f1(np.array([[3.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])), 3)
        0.762
    """
    return _over_supported(np.mean, f1s(confusion))


def recall_geometric_mean(confusion: np.ndarray) -> float:
    """Compute the geometric mean of the supported classes' recalls: 0 as soon as one class is always missed.

    Example:
        >>> recall_geometric_mean(np.array([[1.0, 0.0], [3.0, 1.0]]))
        0.5
    """
    return _over_supported(lambda r: float(np.prod(r ** (1.0 / len(r)))), recalls(confusion))


def worst_recall(confusion: np.ndarray) -> float:
    """Compute the lowest recall of a supported class; NaN without any.

    Example:
        >>> worst_recall(np.array([[1.0, 0.0], [3.0, 1.0]]))
        0.25
    """
    return _over_supported(np.min, recalls(confusion))


def kappa(confusion: np.ndarray, *, weighting: KappaWeighting = "none") -> float:
    """Compute Cohen's kappa, agreement beyond chance, for classes or for ordered levels.

    1 - Σ d_ij O_ij / Σ d_ij E_ij with E the table of the same margins under independence. The disagreement d_ij is 1
    off the diagonal (`none`), |i - j| (`linear`) or (i - j)² (`quadratic`): the last two suppose that the columns
    stand in the order of the levels, absent ones included.

    Args:
        confusion: float [C, C], rows true, columns called.
        weighting: How a disagreement counts.

    Returns:
        A value in [-1, 1]. NaN unless rows of two classes are there: with one true class kappa is 0 whatever the
        system says.

    Raises:
        MedtailError: Unknown weighting.

    Example:
        >>> round(kappa(np.array([[2.0, 1.0, 0.0], [0.0, 2.0, 0.0], [0.0, 1.0, 2.0]]), weighting="quadratic"), 3)
        0.8

    References:
        cohen1968.
    """
    if weighting not in ("none", "linear", "quadratic"):
        raise MedtailError(f"kappa weighting {weighting!r}: expected none, linear or quadratic.")
    true, guessed = confusion.sum(axis=1), confusion.sum(axis=0)
    if np.count_nonzero(true) < 2:
        return float("nan")
    apart = np.abs(np.subtract.outer(np.arange(len(true)), np.arange(len(true)))).astype(np.float64)
    disagreement = (apart > 0).astype(np.float64) if weighting == "none" else apart
    if weighting == "quadratic":
        disagreement = apart**2
    expected = np.outer(true, guessed) / confusion.sum()
    return float(1.0 - ratio(np.sum(disagreement * confusion), np.sum(disagreement * expected)))


def top_k_accuracy(scores: np.ndarray, true: np.ndarray, *, k: int, weights: np.ndarray | None = None) -> float:
    """Compute the share of rows whose class is among the k highest scores, ties going to the lowest index.

    Args:
        scores: float [N, C] in [0, 1].
        true: Class of each row, int [N]; rows at -1 are left out.
        k: In [1, C]; 1 is the accuracy, C is always 1.
        weights: float [N] >= 0; 1 a row if None.

    Returns:
        A value in [0, 1]; NaN without rows.

    Raises:
        MedtailError: k is outside [1, C], or shapes differ.

    Example:
        >>> top_k_accuracy(np.array([[0.5, 0.3, 0.2], [0.2, 0.4, 0.4]]), np.array([1, 2]), k=1)
        0.0
    """
    if not 1 <= k <= scores.shape[1]:
        raise MedtailError(f"top-k accuracy: found k {k!r} for {scores.shape[1]} classes; expected 1 to that many.")
    w = np.ones(len(true)) if weights is None else np.asarray(weights, dtype=np.float64)
    if true.shape != scores.shape[:1] or w.shape != true.shape:
        raise MedtailError(f"top-k accuracy: scores {scores.shape}, true {true.shape}, weights {w.shape}.")
    kept = true >= 0
    s, t, w = scores[kept], true[kept], w[kept]
    own = s[np.arange(len(t)), t]
    before = (s > own[:, None]).sum(axis=1) + ((s == own[:, None]) & (np.arange(s.shape[1]) < t[:, None])).sum(axis=1)
    return float(ratio(np.sum(w * (before < k)), np.sum(w)))


def _over_supported(mean: Callable[[np.ndarray], float], values: np.ndarray) -> float:
    supported = values[~np.isnan(values)]
    return float(mean(supported)) if len(supported) else float("nan")
