"""Intervals of proportions and of what is derived from them, also where every resample repeats the same value.

A sensitivity of exactly 1 stays 1 in every resample, and whatever is computed from it (missed per 1,000, predictive
values) would look known to the last digit. Here such a proportion gets back the spread that its number of patients
allows.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from medtail.errors import listing
from medtail.judging.intervals import percentile_interval, unanimous_interval
from medtail.seeding import stream
from medtail.tables.predictions import Predictions

FEW_PATIENTS = 20
"""Under this many positive patients a patient bootstrap gives intervals that are too short."""


def interval_row(value: float, resampled: np.ndarray, *, level: float, patients: int | None = None) -> dict[str, float]:
    """Return `value`, and `low` and `high` where resamples can give them.

    A proportion from one patient has no interval: every resample repeats it or is empty.

    Args:
        value: On the rows as they are.
        resampled: float [B], NaN where undefined; empty for no interval.
        level: Share of resamples inside, in (0, 1).
        patients: For a proportion: patients in its denominator, for the rule of three at 0 and 1; else None.

    Example:
        >>> interval_row(1.0, np.ones(9), level=0.95, patients=10)["low"].__round__(3)
        0.741
    """
    if not len(resampled) or np.isnan(value) or (patients == 1 and 0.0 < value < 1.0):
        return {"value": value}
    if patients and value in (0.0, 1.0):
        low, high = unanimous_interval(value, patients=patients, level=level)
    else:
        low, high = percentile_interval(resampled, level=level)
    return {"value": value, "low": low, "high": high}


def spread_unanimous(value: float, *, patients: int, resamples: int, seed: int, purpose: str) -> np.ndarray:
    """Draw values of a proportion that was observed as exactly 0 or 1, for carrying into what depends on it.

    1 is replaced by U^(1/n) for n patients, U uniform on (0, 1]: its quantile at 1 - level is (1 - level)^(1/n), the
    end of `unanimous_interval`.

    Args:
        value: 0.0 or 1.0.
        patients: Patients in the denominator, >= 1.
        resamples: B.
        seed: The run's seed.
        purpose: Names the random stream: two proportions must not move together.

    Returns:
        float64 [B] in [0, 1].

    Example:
        >>> drawn = spread_unanimous(1.0, patients=10, resamples=4000, seed=0, purpose="recall/Hernia")
        >>> bool(abs(np.quantile(drawn, 0.05) - 0.741) < 0.02)
        True

    References:
        hanley1983.
    """
    assert value in (0.0, 1.0), "only a proportion without any spread"
    reached = (1.0 - stream(seed, "unanimous", purpose).random(resamples)) ** (1.0 / patients)
    return reached if value == 1.0 else 1.0 - reached


def word_few_patients(predictions: Predictions, names: Iterable[str]) -> list[str]:
    """Say which classes rest on so few patients that their intervals are too short.

    Args:
        predictions: The judged rows.
        names: The classes to look at.

    Returns:
        One caution, or none.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> ids = np.array(["a"], dtype=object)
        >>> rows = Predictions(ids, ids, np.ones((1, 1)), np.ones((1, 1)), LabelSpace(("Hernia",)), ids)
        >>> word_few_patients(rows, ["Hernia"])
        ['under 20 positive patients: Hernia (1). Their intervals are too short; read them as a lower bound of doubt.']
    """
    found = []
    for name in names:
        positive = predictions.targets[:, predictions.labels.index(name)] == 1
        count = len(set(predictions.patients[positive]))
        if 0 < count < FEW_PATIENTS:
            found.append(f"{name} ({count})")
    if not found:
        return []
    return [
        f"under {FEW_PATIENTS} positive patients: {listing(found, limit=8)}. Their intervals are too short; read"
        " them as a lower bound of doubt."
    ]
