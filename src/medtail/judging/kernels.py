"""The compiled inner loop of the ranked bootstrap.

Imported only when the work is large enough to pay for loading the compiler (see `bootstrap`). The loop is a plain
function, which the tests also run as it stands.
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


def _compile() -> Callable[..., None]:
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(_ranked_block)
    except RuntimeError:  # nowhere to keep a cache: a read-only installation without a home folder
        return numba.njit(nogil=True, error_model="numpy")(_ranked_block)


ranked_block = _compile()
