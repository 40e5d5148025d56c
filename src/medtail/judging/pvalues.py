"""P-values of differences between systems: by resampling, over folds, and corrected for asking many questions.

Small pure functions. `comparison` feeds them resampled differences, `fold_comparison` differences a fold. Tests that
need the rows themselves (DeLong, McNemar, swapping patients) are in `paired_tests`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from medtail.errors import MedtailError

DETECTABLE_AT = 2.8
"""Standard errors between 0 and a difference found with power .8 at a two-sided .05: 1.96 + .84."""


def bootstrap_p_value(differences: np.ndarray) -> float:
    """Return the two-sided p-value of a resampled difference against 0.

    p = 2 min((1 + #{D <= 0}) / (B + 1), (1 + #{D >= 0}) / (B + 1)), at most 1, over the B resamples in which the
    difference is defined. The ones count the data themselves as a resample, so p is never 0 and its smallest value
    is 2 / (B + 1).

    Args:
        differences: float [B], NaN where a resample could not define it.

    Returns:
        A probability in (0, 1]; NaN if no resample defined the difference.

    Example:
        >>> bootstrap_p_value(np.array([0.1, 0.2, 0.3, 0.2, 0.1, 0.4, 0.2]))
        0.25
        >>> bootstrap_p_value(np.array([-0.1, 0.0, 0.1]))
        1.0

    References:
        efron1994, phipson2010.
    """
    known = differences[~np.isnan(differences)]
    if not len(known):
        return float("nan")
    fewer = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2.0 * (1 + fewer) / (len(known) + 1))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Correct p-values for having asked m questions at once, so that a false claim in any of them stays rare.

    In ascending order the adjusted value is max over j <= i of min(1, (m - j + 1) p_(j)). Comparisons that are not
    defined (NaN) leave the family: m counts the others, and their own adjusted value is NaN.

    Args:
        p_values: float [M] in [0, 1] or NaN, in any order.

    Returns:
        float64 [M], never below the p-value itself, in the same order.

    Raises:
        MedtailError: A value is outside [0, 1].

    Example:
        >>> holm(np.array([0.01, 0.04, 0.03, np.nan])).round(3).tolist()
        [0.03, 0.06, 0.06, nan]

    References:
        holm1979.
    """
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    outside = p[known][(p[known] < 0) | (p[known] > 1)]
    if len(outside):
        raise MedtailError(f"holm: found p-value {float(outside[0])!r}; expected [0, 1].")
    order = known[np.argsort(p[known], kind="stable")]
    steps = np.arange(len(order), 0, -1) * p[order]
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def resamples_needed(comparisons: int, *, alpha: float = 0.05) -> int:
    """Return the fewest resamples at which the smallest of m p-values can survive Holm's correction.

    The smallest possible p is 2 / (B + 1), and Holm multiplies it by m, so B >= 2 m / alpha - 1.

    Args:
        comparisons: m >= 1.
        alpha: Share of false claims accepted, in (0, 1).

    Raises:
        MedtailError: `comparisons` or `alpha` is out of range.

    Example:
        >>> resamples_needed(40)
        1599
    """
    if comparisons < 1 or not 0.0 < alpha < 1.0:
        raise MedtailError(
            f"resamples for {comparisons!r} comparisons at alpha {alpha!r}: expected at least 1, in (0, 1)."
        )
    # 2 m / alpha is a whole number in most uses, and must not be rounded up from its floating neighbour
    return math.ceil(round(2.0 * comparisons / alpha, 6)) - 1


@final
@dataclass(frozen=True)
class FoldTest:
    """A difference over folds.

    Attributes:
        difference: Mean over the folds that define it.
        low: Lower end of its interval.
        high: Upper end.
        standard_error: Corrected for the training rows that folds share.
        t: Difference over standard error.
        degrees: Degrees of freedom, folds - 1.
        p: Two-sided, in [0, 1].
        folds: Folds that define the difference.
    """

    difference: float
    low: float
    high: float
    standard_error: float
    t: float
    degrees: int
    p: float
    folds: int


def corrected_resampled_t(differences: np.ndarray, *, test_share: float, level: float = 0.95) -> FoldTest:
    """Test the mean difference of k folds (or repeated splits) with Nadeau and Bengio's corrected t-test.

    Folds share training rows, so their differences are not independent and the plain t-test is too sure. The
    variance of the mean is taken as (1/k + n_test / n_train) s^2 instead of s^2 / k.

    Args:
        differences: float [k], one a fold, NaN where a fold cannot define it (it is left out). For r times repeated
            k-fold cross-validation all r x k of them.
        test_share: n_test / n_train of one fold, > 0; 1 / (k - 1) for plain k-fold cross-validation.
        level: Confidence of the interval, in (0, 1).

    Returns:
        The test. With fewer than two defined folds, or where all folds differ by the same amount (no spread to judge
        by), interval, t and p are NaN; a difference of exactly 0 in every fold has p = 1.

    Raises:
        MedtailError: `test_share` is not above 0.

    Example:
        >>> test = corrected_resampled_t(np.array([0.02, 0.03, 0.01, 0.04, 0.025]), test_share=0.25)
        >>> round(test.difference, 3), round(test.t, 2), test.degrees, round(test.p, 3)
        (0.025, 3.33, 4, 0.029)

    References:
        nadeau2003, section 5.
    """
    if not test_share > 0.0:
        raise MedtailError(f"corrected t-test: found test_share {test_share!r}; expected n_test / n_train > 0.")
    known = np.asarray(differences, dtype=np.float64)
    known = known[~np.isnan(known)]
    k = len(known)
    nan = float("nan")
    if k < 2:
        return FoldTest(float(known[0]) if k else nan, nan, nan, nan, nan, max(k - 1, 0), nan, k)
    mean, spread = float(known.mean()), float(known.std(ddof=1))
    error = spread * math.sqrt(1.0 / k + test_share)
    if error == 0.0:
        return FoldTest(mean, nan, nan, 0.0, nan, k - 1, 1.0 if mean == 0.0 else nan, k)
    from scipy import stats

    reach = float(stats.t.ppf(0.5 + level / 2.0, k - 1)) * error
    t = mean / error
    p = float(2.0 * stats.t.sf(abs(t), k - 1))
    return FoldTest(mean, mean - reach, mean + reach, error, t, k - 1, p, k)
