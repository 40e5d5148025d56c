"""Classical tests of two systems on the same rows: DeLong for AUROC, McNemar and patient swaps for decisions.

The bootstrap of `comparison` answers the same questions for every metric and for several images a patient. These
tests stand beside it as independent judges, each where its assumptions hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from medtail.errors import MedtailError
from medtail.judging.bootstrap import number_patients, patient_sums
from medtail.judging.counts import assessed, f1_from_counts, ratio
from medtail.judging.intervals import mean_of_defined
from medtail.seeding import stream

DecisionMetric = Literal["accuracy", "f1", "precision", "recall", "specificity"]
EXACT_UP_TO = 14
"""With at most this many patients whose decisions differ, all 2^n swaps are enumerated instead of drawn."""
BATCH = 4_000_000
"""Patients times swaps held in memory together."""


@final
@dataclass(frozen=True)
class PairedTest:
    """One test of two systems.

    Attributes:
        difference: First system minus second.
        standard_error: Of the difference; NaN for tests that have none.
        p: Two-sided, in [0, 1]; NaN where the rows define no difference.
        exact: Whether p comes from the whole null distribution, not from an approximation or random draws.
    """

    difference: float
    standard_error: float
    p: float
    exact: bool


def delong(scores_a: np.ndarray, scores_b: np.ndarray, targets: np.ndarray) -> PairedTest:
    """Compare two AUROCs on the same rows by DeLong's method.

    Every positive row has the share of negatives ranked below it, every negative row the share of positives above
    it; the covariance of those shares between systems gives the variance of the difference. Rows must be independent:
    one row a patient.

    Args:
        scores_a: float [N] in [0, 1].
        scores_b: The other system's, of the same rows.
        targets: [N] in {0, 1, NaN}.

    Returns:
        AUROC of A minus that of B, its standard error and a normal p-value; NaN with fewer than two rows of
        either kind.

    Raises:
        MedtailError: Shapes differ, or a score is outside [0, 1].

    Example:
        >>> y = np.array([1, 1, 1, 0, 0, 0])
        >>> test = delong(np.array([0.9, 0.8, 0.3, 0.4, 0.2, 0.1]), np.array([0.5, 0.6, 0.1, 0.4, 0.7, 0.2]), y)
        >>> round(test.difference, 3), round(test.p, 3)
        (0.444, 0.157)

    References:
        delong1988.
    """
    first, y, _ = assessed(scores_a, targets)
    second, _, _ = assessed(scores_b, targets)
    positives, negatives = int(y.sum()), int((1 - y).sum())
    if positives < 2 or negatives < 2:
        return PairedTest(float("nan"), float("nan"), float("nan"), exact=False)
    from scipy import stats

    shares = [_placements(scores, y == 1) for scores in (first, second)]
    above = np.stack([part[0] for part in shares])
    below = np.stack([part[1] for part in shares])
    difference = float(above[0].mean() - above[1].mean())
    variance = float(np.var(above[0] - above[1], ddof=1)) / positives
    variance += float(np.var(below[0] - below[1], ddof=1)) / negatives
    error = float(np.sqrt(variance))
    if error == 0.0:
        return PairedTest(difference, 0.0, 1.0 if difference == 0.0 else float("nan"), exact=False)
    return PairedTest(difference, error, float(2.0 * stats.norm.sf(abs(difference) / error)), exact=False)


def _placements(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of negatives below each positive and of positives above each negative, ties one half."""
    high, low = scores[positive], scores[~positive]
    ordered = np.sort(low)
    below = np.searchsorted(ordered, high, side="left") + np.searchsorted(ordered, high, side="right")
    ordered = np.sort(high)
    beaten = np.searchsorted(ordered, low, side="left") + np.searchsorted(ordered, low, side="right")
    return below / (2.0 * len(low)), 1.0 - beaten / (2.0 * len(high))


def mcnemar(called_a: np.ndarray, called_b: np.ndarray, targets: np.ndarray) -> PairedTest:
    """Compare the accuracies of two systems' decisions exactly: of the rows only one gets right, does each get half?

    Rows must be independent: one row a patient.

    Args:
        called_a: bool [N].
        called_b: bool [N], of the same rows.
        targets: [N] in {0, 1, NaN}.

    Returns:
        Accuracy of A minus that of B, and the exact binomial p-value.

    Raises:
        MedtailError: The decisions are no booleans, or shapes differ.

    Example:
        >>> y = np.ones(8)
        >>> test = mcnemar(np.ones(8, dtype=bool), np.array([True, True] + [False] * 6), y)
        >>> test.difference, test.p
        (0.75, 0.03125)

    References:
        mcnemar1947.
    """
    first, second = _decisions(called_a, targets), _decisions(called_b, targets)
    kept = ~np.isnan(targets)
    if not kept.any():
        return PairedTest(float("nan"), float("nan"), float("nan"), exact=True)
    from scipy import stats

    right_a, right_b = (called[kept] == (targets[kept] == 1) for called in (first, second))
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    p = float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return PairedTest((only_a - only_b) / int(kept.sum()), float("nan"), p, exact=True)


def permutation_test(
    called_a: np.ndarray,
    called_b: np.ndarray,
    targets: np.ndarray,
    *,
    patients: np.ndarray,
    metric: DecisionMetric = "f1",
    permutations: int = 9999,
    seed: int = 0,
) -> PairedTest:
    """Compare two systems' decisions by swapping all rows of a patient between them, or not, at random.

    If the systems were interchangeable, swapping their decisions in some patients would change nothing. p is the
    share of swaps whose difference is at least as large. Only for decisions: raw scores of two systems live on
    different scales, and a ranking that mixes them is the ranking of neither.

    Args:
        called_a: bool [N] or [N, C].
        called_b: The other system's, same shape.
        targets: {0, 1, NaN} of the same shape; with C classes the metric is averaged over those it is defined for.
        patients: Patient of each row, [N].
        metric: `accuracy`, `f1`, `precision`, `recall` or `specificity`.
        permutations: Random swaps, >= 1; with at most 14 patients whose decisions differ all swaps are enumerated.
        seed: Of the swaps.

    Returns:
        The difference A - B and its p-value.

    Raises:
        MedtailError: The decisions are no booleans (raw scores), shapes differ, or the metric is unknown.

    Example:
        >>> y = np.ones(8)
        >>> b = np.array([True, True] + [False] * 6)
        >>> permutation_test(np.ones(8, dtype=bool), b, y, patients=np.arange(8), metric="accuracy").p
        0.03125

    References:
        phipson2010.
    """
    if metric not in _FROM_COUNTS:
        raise MedtailError(f"permutation test, metric {metric!r}: expected one of {', '.join(sorted(_FROM_COUNTS))}.")
    if permutations < 1:
        raise MedtailError(f"permutation test: found {permutations!r} permutations; expected at least 1.")
    first, second = _decisions(called_a, targets), _decisions(called_b, targets)
    if len(np.asarray(patients)) != len(first):
        raise MedtailError(f"permutation test: {len(patients)} patients for {len(first)} rows; expected one a row.")
    y = np.asarray(targets, dtype=np.float64).reshape(len(first), -1)
    first, second = first.reshape(y.shape), second.reshape(y.shape)
    codes, num_patients = number_patients(np.asarray(patients))
    sums_a, sums_b = (_patient_counts(called, y, codes, num_patients) for called in (first, second))
    differing = np.flatnonzero((sums_a != sums_b).any(axis=1))
    total_a, total_b = sums_a.sum(axis=0), sums_b.sum(axis=0)
    observed = float(_difference(total_a[:, None], total_b[:, None], metric)[0])
    if np.isnan(observed):
        return PairedTest(observed, float("nan"), float("nan"), exact=False)
    change = (sums_b - sums_a)[differing]
    exact = len(differing) <= EXACT_UP_TO
    as_large = tried = 0
    for swapped in _swaps(len(differing), permutations, seed, exact=exact):
        moved = (swapped @ change).T
        found = _difference(total_a[:, None] + moved, total_b[:, None] - moved, metric)
        # equal differences reached by another order of additions must count as equal
        as_large += int((np.abs(found) >= abs(observed) - 1e-12).sum())
        tried += len(found)
    p = as_large / tried if exact else (as_large + 1) / (tried + 1)
    return PairedTest(observed, float("nan"), float(p), exact=exact)


def _decisions(called: np.ndarray, targets: np.ndarray) -> np.ndarray:
    decisions = np.asarray(called)
    if decisions.dtype != bool:
        raise MedtailError(
            f"paired test of decisions: found {decisions.dtype} values; expected booleans. Raw scores cannot be swapped"
            " between systems, their scales differ: decide first (`judging.decisions.decide`), or compare scores with"
            " `compare`."
        )
    if decisions.shape != np.shape(targets):
        raise MedtailError(
            f"paired test of decisions: found decisions {decisions.shape} and targets {np.shape(targets)}; expected one"
            " shape."
        )
    return decisions


def _patient_counts(called: np.ndarray, targets: np.ndarray, codes: np.ndarray, num_patients: int) -> np.ndarray:
    """Return true and false positives, positives and assessed rows of every class, float64 [K, 4 C]."""
    positive, negative = targets == 1, targets == 0
    columns = np.concatenate([called & positive, called & negative, positive, positive | negative], axis=1)
    return patient_sums(columns.astype(np.float64), codes, num_patients)


def _swaps(count: int, permutations: int, seed: int, *, exact: bool) -> Iterator[np.ndarray]:
    """Yield whom to swap, float [swaps, count] of 0 and 1, in batches."""
    if exact:
        numbers = np.arange(2**count)
        yield ((numbers[:, None] >> np.arange(count)) & 1).astype(np.float64)
        return
    random = stream(seed, "permutation")
    batch = max(1, BATCH // count)
    for start in range(0, permutations, batch):
        yield random.integers(0, 2, size=(min(batch, permutations - start), count)).astype(np.float64)


def _difference(sums_a: np.ndarray, sums_b: np.ndarray, metric: DecisionMetric) -> np.ndarray:
    first, second = (_per_class(sums, metric) for sums in (sums_a, sums_b))
    both = ~np.isnan(first) & ~np.isnan(second)
    return mean_of_defined(np.where(both, first - second, np.nan))


def _per_class(sums: np.ndarray, metric: DecisionMetric) -> np.ndarray:
    tp, fp, positives, rows = sums.reshape(4, -1, sums.shape[1])
    return _FROM_COUNTS[metric](tp, fp, positives, rows)


_FROM_COUNTS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "accuracy": lambda tp, fp, positives, rows: ratio(rows - positives - fp + tp, rows),
    "f1": lambda tp, fp, positives, rows: f1_from_counts(tp, fp, positives - tp),
    "precision": lambda tp, fp, positives, rows: ratio(tp, tp + fp),
    "recall": lambda tp, fp, positives, rows: ratio(tp, positives),
    "specificity": lambda tp, fp, positives, rows: ratio(rows - positives - fp, rows - positives),
}
