"""The tail judged as one: metrics that are defined though each of its classes has one to three positives.

"Any tail finding" asks whether an image has some rare finding at all; micro-AP ranks all cells (image, rare class)
against each other, which needs scores that mean the same in every class, hence calibrated ones. Pooled recall is
the row `micro_recall` of the tail.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from medtail.judging.bootstrap import Engine, PatientWeights, rank_rows, rank_values, resample_ranked

TAIL_METRICS = ("any_finding_ap", "any_finding_auroc", "micro_ap")


@final
@dataclass(frozen=True)
class TailEstimate:
    """A pooled metric.

    Attributes:
        value: On the rows as they are.
        resampled: float64 [B].
        left_out: float64 [G]; None without a jackknife.
        support: Positive images (any finding) or positive cells (micro).
    """

    value: float
    resampled: np.ndarray
    left_out: np.ndarray | None
    support: int


def any_finding(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn several classes into one: some finding among them.

    The score is 1 - Π(1 - s_c), right if findings were independent. The target is 1 where a class is present, 0
    where all are assessed and absent, NaN where none is present and some are not assessed.

    Args:
        scores: float [N, C] in [0, 1].
        targets: [N, C] in {0, 1, NaN}.

    Returns:
        float64 [N] each.

    Example:
        >>> s, y = any_finding(np.array([[0.5, 0.5], [0.0, 0.2]]), np.array([[1.0, np.nan], [0.0, np.nan]]))
        >>> s.round(9).tolist(), y.tolist()
        ([0.75, 0.2], [1.0, nan])
    """
    present, unknown = (targets == 1).any(axis=1), np.isnan(targets).any(axis=1)
    score = np.clip(-np.expm1(np.sum(np.log1p(-np.minimum(scores, 1.0 - 1e-16)), axis=1)), 0.0, 1.0)
    return np.asarray(score), np.where(present, 1.0, np.where(unknown, np.nan, 0.0))


def pool_tail(
    scores: np.ndarray,
    targets: np.ndarray,
    *,
    patients: np.ndarray,
    weights: PatientWeights,
    left_out: PatientWeights | None = None,
    threads: int | None = None,
    engine: Engine = "auto",
) -> dict[str, TailEstimate]:
    """Compute the pooled metrics of some classes on the rows and in the resamples.

    Args:
        scores: Of the classes to pool, float [N, C], C >= 1.
        targets: [N, C] in {0, 1, NaN}.
        patients: Patient numbers, int [N].
        weights: Of those patients.
        left_out: Their jackknife weights, for BCa intervals.
        threads: Worker threads; no effect on the result.
        engine: Of the ranked bootstrap; no effect on the result.

    Returns:
        A mapping from each of `TAIL_METRICS`.

    Example:
        >>> from medtail.judging.bootstrap import draw_weights
        >>> scores, targets = np.array([[0.9, 0.1], [0.2, 0.3]]), np.array([[1.0, 0.0], [0.0, 0.0]])
        >>> found = pool_tail(scores, targets, patients=np.array([0, 1]), weights=draw_weights(2, resamples=3))
        >>> found["any_finding_auroc"].value, found["micro_ap"].support
        (1.0, 1)
    """
    score, target = any_finding(scores, targets)
    cells = rank_rows(scores.ravel(), targets.ravel(), np.repeat(patients, scores.shape[1]))
    ranked = [rank_rows(score, target, patients), cells]
    points = [rank_values(rows) for rows in ranked]
    ap, auroc = resample_ranked(ranked, weights, threads=threads, engine=engine)
    out = None if left_out is None else resample_ranked(ranked, left_out, threads=threads, engine=engine)
    images, cell_count = int((target == 1).sum()), int((targets == 1).sum())
    return {
        "any_finding_ap": TailEstimate(points[0][0], ap[0], None if out is None else out[0][0], images),
        "any_finding_auroc": TailEstimate(points[0][1], auroc[0], None if out is None else out[1][0], images),
        "micro_ap": TailEstimate(points[1][0], ap[1], None if out is None else out[0][1], cell_count),
    }
