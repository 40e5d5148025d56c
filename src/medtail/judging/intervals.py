"""Intervals from resampled values, and what to say where resampling shows no spread."""

from __future__ import annotations

import numpy as np


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
