"""The compiled inner loops of the two bootstrap engines.

Imported only when the work is large enough to pay for loading the compiler (see `bootstrap`). The loops are plain
functions, which the tests also run as they stand.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np


def _ranked_block(
    patients: np.ndarray,
    flags: np.ndarray,
    weights: np.ndarray,
    totals: np.ndarray,
    precision_sum: np.ndarray,
    lost_sum: np.ndarray,
) -> None:
    """Pass once over a class's rows from the highest score down, for a block of resamples side by side.

    Args:
        patients: Patient of each ranked row, int32 [n].
        flags: uint8 [n], as in `bootstrap.RankedRows`.
        weights: Patient weights, unsigned [K, L].
        totals: Zeros, int [4, L]: weight so far and positive weight so far, then both before the current run.
        precision_sum: Zeros, float64 [L]; receives Σ a_k · precision_k.
        lost_sum: Zeros, float64 [L]; receives Σ a_k · (FP before + FP after the run).
    """
    lanes = weights.shape[1]
    for row in range(patients.shape[0]):
        patient, flag = patients[row], flags[row]
        if flag & 2:
            for lane in range(lanes):
                totals[2, lane] = totals[0, lane]
                totals[3, lane] = totals[1, lane]
        for lane in range(lanes):
            totals[0, lane] += weights[patient, lane]
        if flag & 1:
            for lane in range(lanes):
                totals[1, lane] += weights[patient, lane]
        if flag & 4:
            for lane in range(lanes):
                gained = np.float64(totals[1, lane] - totals[3, lane])
                seen = np.float64(max(totals[0, lane], 1))  # where nothing was seen, nothing was gained either
                false_before = totals[2, lane] - totals[3, lane]
                false_after = totals[0, lane] - totals[1, lane]
                precision_sum[lane] += gained * (np.float64(totals[1, lane]) / seen)
                lost_sum[lane] += gained * np.float64(false_before + false_after)


def _additive_block(
    starts: np.ndarray, patients: np.ndarray, values: np.ndarray, weights: np.ndarray, sums: np.ndarray
) -> None:
    """Sum weighted values of sparse columns, for a block of resamples side by side.

    Args:
        starts: Where each column's entries start, and the end, int64 [m + 1].
        patients: Patient of each entry, int32 [n].
        values: float64 [n], on the grid of `bootstrap.fixed_point`.
        weights: Patient weights, unsigned [K, L].
        sums: Zeros, float64 [m, L]; receives Σ value · weight.
    """
    lanes = weights.shape[1]
    for column in range(sums.shape[0]):
        for entry in range(starts[column], starts[column + 1]):
            patient, value = patients[entry], values[entry]
            for lane in range(lanes):
                sums[column, lane] += value * np.float64(weights[patient, lane])


def compile_loop(loop: Callable[..., None]) -> Callable[..., None]:
    """Compile a loop that holds no lock, cached on disk where there is a place for it."""
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(loop)
    except RuntimeError:  # nowhere to keep a cache: a read-only installation without a home folder
        return numba.njit(nogil=True, error_model="numpy")(loop)


ranked_block = compile_loop(_ranked_block)
additive_block = compile_loop(_additive_block)
