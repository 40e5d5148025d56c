"""Intervals from resampled values, and what to say where resampling shows no spread."""

from __future__ import annotations

from statistics import NormalDist
from typing import Literal

import numpy as np

from medtail.judging.jackknife import acceleration

IntervalMethod = Literal["percentile", "bca"]


def percentile_interval(values: np.ndarray, *, level: float = 0.95) -> tuple[float, float]:
    """Return the central interval of the resamples in which the value is defined.

    Args:
        values: float [B], NaN where a resample could not define the metric.
        level: Share of resamples inside, in (0, 1).

    Returns:
        Lower and upper end; NaN if no resample defined it.

    Example:
        >>> percentile_interval(np.arange(101.0), level=0.5)
        (25.0, 75.0)
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(known, [tail, 1.0 - tail])
    return float(low), float(high)


def bca_interval(
    value: float, resampled: np.ndarray, left_out: np.ndarray, *, level: float = 0.95
) -> tuple[float, float] | None:
    """Return the bias-corrected and accelerated interval: percentiles shifted for bias and skewness.

    With z₀ the normal quantile of the share of resamples below the value (equal ones count half) and a the
    `acceleration`, the ends are the resamples' quantiles at Φ(z₀ + (z₀ ± z) / (1 - a(z₀ ± z))).

    Args:
        value: On the rows as they are.
        resampled: float [B], NaN where a resample could not define the metric.
        left_out: The metric without each jackknife group, float [G].
        level: Share inside, in (0, 1).

    Returns:
        Lower and upper end; None where the method does not apply: no resample defined it, or all lie on one side
        of the value.

    Example:
        >>> low, high = bca_interval(50.0, np.arange(101.0), np.array([49.0, 50.0, 51.0]), level=0.5)
        >>> round(low, 9), round(high, 9)
        (25.0, 75.0)

    References:
        efron1987.
    """
    known = resampled[~np.isnan(resampled)]
    if not len(known) or np.isnan(value):
        return None
    below = float(np.mean((known < value) + 0.5 * (known == value)))
    if below in (0.0, 1.0):
        return None
    normal = NormalDist()
    bias, skew = normal.inv_cdf(below), acceleration(left_out)
    reach = normal.inv_cdf((1.0 + level) / 2.0)
    shifted = [bias + (bias + side) / (1.0 - skew * (bias + side)) for side in (-reach, reach)]
    low, high = np.quantile(known, [normal.cdf(z) for z in shifted])
    return (float(low), float(high)) if low <= high else None


def wilson_interval(value: float, *, size: float, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion.

    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n). For rows that come in patients, `size` is the effective
    number from `effective_size`.

    Args:
        value: The proportion, in [0, 1].
        size: Rows behind it, > 0; need not be whole.
        level: Confidence, in (0, 1).

    Returns:
        Lower and upper end, inside [0, 1].

    Example:
        >>> low, high = wilson_interval(0.5, size=10)
        >>> round(low, 4), round(high, 4)
        (0.2366, 0.7634)

    References:
        wilson1927.
    """
    assert 0.0 <= value <= 1.0, "a proportion"
    assert size > 0, "of something"
    z = NormalDist().inv_cdf((1.0 + level) / 2.0)
    centre = value + z * z / (2.0 * size)
    half = z * float(np.sqrt(value * (1.0 - value) / size + z * z / (4.0 * size * size)))
    scale = 1.0 + z * z / size
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def effective_size(hits: np.ndarray, rows: np.ndarray) -> float:
    """Return how many independent rows a proportion of clustered rows is worth: n / deff.

    deff is the variance of the ratio Σ hits / Σ rows over patients (its linearisation) over p(1-p)/n, at least 1.
    A proportion of 0 or 1 shows no variance; it is worth its number of patients.

    Args:
        hits: Rows of each patient that count, float [K].
        rows: Rows of each patient, float [K].

    Returns:
        Between 1 and n; NaN without rows.

    Example:
        >>> effective_size(np.array([1.0, 0, 1, 0]), np.ones(4)), effective_size(np.array([2.0, 0]), np.full(2, 2.0))
        (3.0, 1.0)
    """
    inside = rows > 0
    hits, rows = hits[inside], rows[inside]
    patients, total = len(rows), float(rows.sum())
    if not patients:
        return float("nan")
    share = float(hits.sum()) / total
    if patients == 1 or share in (0.0, 1.0):
        return float(patients)
    clustered = patients / (patients - 1) * float(np.sum((hits - share * rows) ** 2)) / total**2
    return max(1.0, total / max(1.0, clustered / (share * (1.0 - share) / total)))


def defined_share(values: np.ndarray) -> float:
    """Return the share of resamples in which the metric was defined; NaN without resamples.

    Example:
        >>> defined_share(np.array([0.5, np.nan]))
        0.5
    """
    return float(np.mean(~np.isnan(values))) if len(values) else float("nan")


def unanimous_interval(value: float, *, patients: int, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of a proportion observed as exactly 0 or 1, where every resample repeats it.

    With no miss in n patients the true share of misses may be as high as 1 - (1 - level)^(1/n), about 3/n at
    95 % (the rule of three). Patients are counted, not images: five images of one patient are one experience.

    Args:
        value: 0.0 or 1.0.
        patients: Patients behind the proportion, >= 1.
        level: Confidence, in (0, 1).

    Returns:
        Lower and upper end.

    Example:
        >>> low, high = unanimous_interval(1.0, patients=10)
        >>> round(low, 3), high
        (0.741, 1.0)

    References:
        hanley1983.
    """
    assert value in (0.0, 1.0), "only a proportion without any spread"
    reach = 1.0 - (1.0 - level) ** (1.0 / patients)
    return (1.0 - reach, 1.0) if value == 1.0 else (0.0, reach)


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Average over the first axis, ignoring NaN; NaN where nothing is defined.

    Args:
        values: float [C, B].

    Returns:
        float64 [B].

    Example:
        >>> mean_of_defined(np.array([[0.2, np.nan], [0.4, np.nan]])).round(3).tolist()
        [0.3, nan]
    """
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    mean: np.ndarray = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    return mean
