"""The compiled inner loop of the subgroup bootstrap: AUROC and average precision at a given prevalence.

Like `kernels`, imported only when the work pays for loading the compiler; the tests also run the plain function.
"""

from __future__ import annotations

import numpy as np

from medtail.judging.kernels import compile_loop


def _shifted_block(
    patients: np.ndarray,
    flags: np.ndarray,
    weights: np.ndarray,
    negative_weight: np.ndarray,
    totals: np.ndarray,
    precision_sum: np.ndarray,
    lost_sum: np.ndarray,
) -> None:
    """Pass once over a class's rows from the highest score down, for a block of resamples side by side.

    Args:
        patients: Patient of each ranked row, int32 [n].
        flags: uint8 [n], as in `bootstrap.RankedRows`.
        weights: Patient weights, unsigned [K, L].
        negative_weight: What a negative counts where a positive counts 1, float64 [L].
        totals: Zeros, int [4, L]: positives and negatives so far, then both before the current run.
        precision_sum: Zeros, float64 [L]; receives Σ a_k · TP_k / (TP_k + r · FP_k).
        lost_sum: Zeros, float64 [L]; receives Σ a_k · (FP before + FP after the run).
    """
    lanes = weights.shape[1]
    for row in range(patients.shape[0]):
        patient, flag = patients[row], flags[row]
        if flag & 2:
            for lane in range(lanes):
                totals[2, lane] = totals[0, lane]
                totals[3, lane] = totals[1, lane]
        side = 0 if flag & 1 else 1
        for lane in range(lanes):
            totals[side, lane] += weights[patient, lane]
        if flag & 4:
            for lane in range(lanes):
                gained = np.float64(totals[0, lane] - totals[2, lane])
                if gained > 0:
                    true, false = np.float64(totals[0, lane]), np.float64(totals[1, lane])
                    precision_sum[lane] += gained * (true / (true + negative_weight[lane] * false))
                    lost_sum[lane] += gained * np.float64(totals[3, lane] + totals[1, lane])


shifted_block = compile_loop(_shifted_block)
