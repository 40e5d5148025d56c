"""Leaving patients out: how skewed a metric's estimate is, which the BCa interval corrects for.

The jackknife is a set of weights like the bootstrap's (0 for the patients left out, 1 for the others), so the same
engines compute it in a fraction of a resampling pass.
"""

from __future__ import annotations

import numpy as np

from medtail.judging.bootstrap import BAYESIAN_UNIT, LANES, PatientWeights, Scheme
from medtail.seeding import stream

JACKKNIFE_GROUPS = 100


def leave_out_weights(
    num_patients: int, *, groups: int = JACKKNIFE_GROUPS, scheme: Scheme = "multinomial", seed: int = 0
) -> PatientWeights:
    """Leave out one group of patients after the other.

    Args:
        num_patients: K >= 1.
        groups: How many groups, as equal as possible; every patient for himself where there are no more patients.
        scheme: Of the bootstrap it goes with: the unit of the weights follows it.
        seed: The run's seed: who is in which group is drawn at random.

    Returns:
        Weights of min(K, `groups`) columns.

    Example:
        >>> leave_out_weights(3).matrix().sum(axis=0).tolist()
        [2, 2, 2]

    References:
        efron1987.
    """
    assert num_patients >= 1, "there is a patient to leave out"
    columns = min(num_patients, groups)
    group = np.empty(num_patients, dtype=np.int64)
    group[stream(seed, "jackknife").permutation(num_patients)] = np.arange(num_patients) % columns
    unit, kind = (1, np.uint8) if scheme == "multinomial" else (BAYESIAN_UNIT, np.uint16)
    blocks = np.zeros((-(-columns // LANES), num_patients, LANES), dtype=kind)
    for column in range(columns):
        blocks[column // LANES, :, column % LANES] = np.where(group == column, 0, unit)
    return PatientWeights(blocks, columns, scheme)


def acceleration(left_out: np.ndarray) -> float:
    """Compute the acceleration of the BCa interval, a sixth of the skewness of the jackknife.

    With d_g the mean of the values less the value without group g: Σ d³ / (6 (Σ d²)^1.5). Groups of many patients
    estimate the same number as single patients do: third and second moments both add up over patients.

    Args:
        left_out: The metric without each group, float [G]; NaN where it is undefined then, which is left aside.

    Returns:
        0 where there is no spread.

    Example:
        >>> acceleration(np.array([0.5, 0.5, 0.5]))
        0.0

    References:
        efron1987.
    """
    known = left_out[~np.isnan(left_out)]
    if len(known) < 2:
        return 0.0
    away = known.mean() - known
    squares = float(np.sum(away**2))
    return float(np.sum(away**3) / (6.0 * squares**1.5)) if squares > 1e-30 else 0.0
