"""The official MedMNIST formulas for AUC and ACC, order of operations included, without scikit-learn.

`medmnist.Evaluator` squeezes labels and scores, decides at score > 0.5 and averages scikit-learn's AUROC over columns.
Kept apart from `judging.metrics`, whose conventions differ on purpose: there a score of 0.5 is a call, and an absent
class leaves the mean instead of making it NaN.
"""

from __future__ import annotations

import numpy as np

from medtail.challenges.medmnist_sets import MedmnistTask
from medtail.errors import MedtailError
from medtail.judging.counts import cumulative_counts

HALF = 0.5


def official_auc(labels: np.ndarray, scores: np.ndarray, *, task: MedmnistTask) -> float:
    """Compute AUC as `medmnist.Evaluator` does.

    Multi-label: the mean over label columns. Binary: of the last score column. Multi-class and ordinal: the mean over
    score columns of one class against the rest. NaN as soon as one class of the mean has no positive or no negative.

    Args:
        labels: int [N, labels] or [N].
        scores: float [N, columns] or [N]; any finite numbers.
        task: The data set's task.

    Returns:
        A value in [0, 1], or NaN.

    Raises:
        MedtailError: The shapes do not fit the task.

    Example:
        >>> official_auc(np.array([[0], [1], [1]]), np.array([[0.2], [0.9], [0.2]]), task="binary-class")
        0.75

    References:
        yang2023.
    """
    values = official_class_auc(labels, scores, task=task)
    # summed one by one and then divided: the official order of operations, so the same last digit
    return sum(float(value) for value in values) / len(values)


def official_acc(labels: np.ndarray, scores: np.ndarray, *, task: MedmnistTask) -> float:
    """Compute ACC as `medmnist.Evaluator` does.

    Multi-label: the mean over labels of the share of right decisions at score > 0.5. Binary: that share for the last
    column. Multi-class and ordinal: the share of rows whose highest score is the true class's, ties to the lowest.

    Args:
        labels: int [N, labels] or [N].
        scores: float [N, columns] or [N].
        task: The data set's task.

    Returns:
        A value in [0, 1].

    Raises:
        MedtailError: The shapes do not fit the task.

    Example:
        >>> official_acc(np.array([[0], [1]]), np.array([[0.5], [0.5]]), task="binary-class")
        0.5

    References:
        yang2023.
    """
    y, s = _squeezed(labels, scores, task)
    if task == "multi-label, binary-class":
        right = [float(np.mean(y[:, c] == (s[:, c] > HALF))) for c in range(y.shape[1])]
        return sum(right) / len(right)
    if task == "binary-class":
        last = s[:, -1] if s.ndim == 2 else s
        return float(np.mean(y == (last > HALF)))
    return float(np.mean(y == np.argmax(s, axis=-1)))


def official_class_auc(labels: np.ndarray, scores: np.ndarray, *, task: MedmnistTask) -> np.ndarray:
    """Compute the AUCs that the official mean runs over.

    Args:
        labels: int [N, labels] or [N].
        scores: float [N, columns] or [N].
        task: The data set's task.

    Returns:
        float64 [columns], one value for a binary set; NaN where the class has no positive or no negative row.

    Raises:
        MedtailError: The shapes do not fit the task.

    Example:
        >>> labels, scores = np.array([0, 1, 1]), np.array([[0.8, 0.2], [0.1, 0.9], [0.8, 0.2]])
        >>> official_class_auc(labels, scores, task="multi-class").tolist()
        [0.75, 0.75]
    """
    y, s = _squeezed(labels, scores, task)
    if task == "multi-label, binary-class":
        return np.array([_trapezoid_auroc(s[:, c], y[:, c] == 1) for c in range(s.shape[1])])
    if task == "binary-class":
        return np.array([_trapezoid_auroc(s[:, -1] if s.ndim == 2 else s, y == 1)])
    return np.array([_trapezoid_auroc(s[:, c], y == c) for c in range(s.shape[1])])


def _squeezed(labels: np.ndarray, scores: np.ndarray, task: MedmnistTask) -> tuple[np.ndarray, np.ndarray]:
    y, s = np.asarray(labels).squeeze(), np.asarray(scores).squeeze()
    is_multilabel = task == "multi-label, binary-class"
    fits = y.ndim == (2 if is_multilabel else 1) and s.shape[:1] == y.shape[:1]
    fits = fits and (s.ndim == 2 or (task == "binary-class" and s.ndim == 1))
    if not fits or (is_multilabel and s.shape != y.shape):
        raise MedtailError(
            f"MedMNIST: labels {np.shape(labels)} and scores {np.shape(scores)} do not fit the task {task!r}; expected"
            f" as many rows, at least two, and {'a score a label' if is_multilabel else 'a score column a class'}."
        )
    return y, s


def _trapezoid_auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Compute AUROC with scikit-learn's order of operations.

    The same number as `metrics.auroc` but for the last bit or two. Those bits decide how 0.5625 is rounded to the
    three decimals of an official file name, so here they are scikit-learn's: points inside a straight stretch of the
    curve are dropped, then trapezoids are summed.
    """
    if not len(scores) or positive.all() or not positive.any():
        return float("nan")
    # only the order counts: ranks carry it into [0, 1], where the counts want scores to be
    ranks = np.unique(scores, return_inverse=True)[1].reshape(-1)
    _, tp, fp = cumulative_counts(ranks / max(int(ranks.max()), 1), positive.astype(np.float64), None)
    if len(fp) > 2:
        corner = np.concatenate(([True], (np.diff(fp, 2) != 0) | (np.diff(tp, 2) != 0), [True]))
        tp, fp = tp[corner], fp[corner]
    tp, fp = np.concatenate(([0.0], tp)), np.concatenate(([0.0], fp))
    return float(np.trapezoid(tp / tp[-1], fp / fp[-1]))
