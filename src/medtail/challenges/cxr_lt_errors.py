"""The challenge's calibration errors in every reading, and misses at thresholds of one's own, with resampled values.

The organisers cite an error that compares a bin's share of positives with its mean probability (`reliability`), but
the 2024 board fits probability against correctness of the thresholded decision (`leaderboard`): plain BCE .744
against .46 for asymmetric losses, the reverse of the cited definition. So both are computed, and named.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medtail.judging.additive import SparseColumns, column_of, resample_columns, stack_columns
from medtail.judging.bootstrap import PatientWeights, fixed_point, patient_sums, resample_sums
from medtail.judging.counts import EceMode, calibration_gaps, ratio
from medtail.judging.metrics import expected_calibration_error, per_class
from medtail.tables.predictions import Predictions

NAMED_ECE: tuple[EceMode, ...] = ("reliability", "leaderboard")
ECE_BINS = 10
"""Of the readings by class; the official number is not known."""
POOLED_BINS = 15
"""Of the reading over all cells, as the 2026 teams use it."""


def calibration_errors(
    predictions: Predictions, *, patients: np.ndarray, weights: PatientWeights, mode: EceMode, bins: int = ECE_BINS
) -> tuple[np.ndarray, np.ndarray]:
    """Compute a reading of the calibration error of every class, on the rows and in the resamples.

    Args:
        predictions: Scores and targets.
        patients: Patient numbers, int [N].
        weights: Of those patients.
        mode: The reading.
        bins: Its bins.

    Returns:
        float64 [C] and [C, B].

    References:
        naeini2015.
    """
    scores, targets = predictions.scores, predictions.targets
    point = per_class(lambda s, y: expected_calibration_error(s, y, mode=mode, bins=bins), scores, targets)
    parts = []
    for c in range(scores.shape[1]):
        kept = np.flatnonzero(~np.isnan(targets[:, c]))
        index, gap = calibration_gaps(scores[kept, c], targets[kept, c], mode=mode, bins=bins)
        parts.append(_columns(index, gap, patients[kept], weights, bins))
    return point, _resampled_errors(parts, weights)


def pooled_error(
    predictions: Predictions, *, patients: np.ndarray, weights: PatientWeights, bins: int = POOLED_BINS
) -> tuple[float, np.ndarray]:
    """Compute the `reliability` error of all cells as if they were one class.

    Args:
        predictions: Scores and targets.
        patients: Patient numbers, int [N].
        weights: Of those patients.
        bins: Number of bins.

    Returns:
        The value and its resampled values [B].
    """
    flat, known = predictions.scores.ravel(), ~np.isnan(predictions.targets.ravel())
    s, y = flat[known], predictions.targets.ravel()[known]
    owner = np.repeat(patients, predictions.scores.shape[1])[known]
    index, gap = calibration_gaps(s, y, bins=bins)
    point = expected_calibration_error(s, y, bins=bins)
    return point, _resampled_errors([_columns(index, gap, owner, weights, bins)], weights)[0]


def miss_rates(
    predictions: Predictions, limits: np.ndarray, *, patients: np.ndarray, weights: PatientWeights
) -> tuple[np.ndarray, np.ndarray]:
    """Compute FN / (TP + FN) of every class at thresholds of one's own.

    Args:
        predictions: Scores and targets.
        limits: Score at or above which a class is called, float [C].
        patients: Patient numbers, int [N].
        weights: Of those patients.

    Returns:
        float64 [C] and [C, B], NaN without positives.
    """
    positive = predictions.targets == 1
    missed = positive & (predictions.scores < limits)
    sums = patient_sums(np.concatenate([missed, positive], axis=1).astype(float), patients, weights.num_patients)
    draws, count = resample_sums(sums, weights), positive.shape[1]
    return ratio(missed.sum(axis=0), positive.sum(axis=0)), ratio(draws[:count], draws[count:])


def _columns(
    index: np.ndarray, gap: np.ndarray, patients: np.ndarray, weights: PatientWeights, bins: int
) -> SparseColumns:
    """Return the gaps of each bin, and the number of rows as the last column."""
    exact = fixed_point(gap, rows=max(len(gap), 1), heaviest=weights.heaviest)
    count = weights.num_patients
    # a patient's sum in each bin, straight from (bin, patient) pairs: no [N, bins] table
    sums = np.bincount(index * count + patients, weights=exact, minlength=count * bins).reshape(bins, count)
    rows = np.bincount(patients, minlength=count).astype(np.float64)
    return stack_columns([column_of(np.arange(count), column, num_patients=count) for column in (*sums, rows)])


def _resampled_errors(parts: Sequence[SparseColumns], weights: PatientWeights) -> np.ndarray:
    if not weights.resamples:
        return np.empty((len(parts), 0))
    totals = resample_columns(parts, weights)
    return np.stack([ratio(np.abs(found[:-1]).sum(axis=0), found[-1]) for found in totals])
