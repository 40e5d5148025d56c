"""Reliability points with patient intervals: in each band of scores, how often the finding was really there.

A point far from the diagonal means nothing while its interval crosses it; for rare classes most do.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from medtail.errors import MedtailError
from medtail.judging.bootstrap import (
    PatientWeights,
    draw_weights,
    fixed_point,
    number_patients,
    patient_sums,
    resample_sums,
)
from medtail.judging.counts import EceMode, calibration_gaps, ratio
from medtail.judging.intervals import percentile_interval, unanimous_interval
from medtail.tables.predictions import Predictions

COLUMNS = ("lowest", "highest", "rows", "patients", "positives", "mean_score", "share", "low", "high")


def reliability_points(
    predictions: Predictions,
    class_name: str,
    *,
    weights: PatientWeights | None = None,
    patients: np.ndarray | None = None,
    mode: EceMode = "reliability",
    bins: int = 15,
    level: float = 0.95,
) -> pd.DataFrame:
    """Return mean score and share of positives of each bin that holds rows, with intervals over patients.

    Where all patients of a bin agree, every resample repeats its share of 0 or 1; the interval is then that of as
    many patients without an exception (the rule of three).

    Args:
        predictions: Scores and targets.
        class_name: The class.
        weights: Resampled patient weights, to share those of other numbers; 1,000 resamples if None.
        patients: Patient numbers into `weights`, int [N]; needed with `weights` and only with them.
        mode: `reliability` (equal width, right-closed) or `equal_mass` (equally many rows).
        bins: Number of bins, >= 1.
        level: Share of resamples inside, in (0, 1).

    Returns:
        A row a bin that holds rows, from low scores to high: `lowest` and `highest` score in it, `rows`, `patients`,
        `positives`, `mean_score`, `share` (of positives), and `low` and `high`, the ends of its interval.

    Raises:
        MedtailError: No such class, another mode, or only one of `weights` and `patients`.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> ids = np.array(list("abcd"), dtype=object)
        >>> scores, targets = np.array([[0.1], [0.1], [0.9], [0.9]]), np.array([[0.0], [0], [1], [0]])
        >>> points = reliability_points(Predictions(ids, ids, scores, targets, LabelSpace(("x",)), ids), "x", bins=2)
        >>> points["share"].tolist(), points["high"].round(2).tolist()
        ([0.0, 0.5], [0.78, 1.0])

    References:
        kumar2019, hanley1983.
    """
    if mode not in ("reliability", "equal_mass"):
        raise MedtailError(f"reliability mode {mode!r}: expected reliability or equal_mass.")
    if (weights is None) != (patients is None):
        raise MedtailError("reliability: give weights and patients together, or neither.")
    if weights is None or patients is None:
        patients, count = number_patients(predictions.patients)
        weights = draw_weights(max(count, 1), resamples=1000)
    column = predictions.labels.index(class_name)
    kept = ~np.isnan(predictions.targets[:, column])
    scores, targets = predictions.scores[kept, column], predictions.targets[kept, column]
    owners = patients[kept]
    index, _ = calibration_gaps(scores, targets, mode=mode, bins=bins)
    filled, place = np.unique(index, return_inverse=True)
    if not len(filled):
        return pd.DataFrame({name: pd.Series(dtype=np.float64) for name in COLUMNS})
    cells = np.zeros((len(scores), 2 * len(filled)))
    rows = np.arange(len(scores))
    cells[rows, place] = 1.0
    cells[rows, len(filled) + place] = targets
    exact = fixed_point(cells, rows=len(scores), heaviest=weights.heaviest)
    resampled = resample_sums(patient_sums(exact, owners, weights.num_patients), weights)
    shares = ratio(resampled[len(filled) :], resampled[: len(filled)])
    points = []
    for at in range(len(filled)):
        inside = place == at
        share = float(targets[inside].mean())
        num_patients = len(np.unique(owners[inside]))
        if share in (0.0, 1.0):
            low, high = unanimous_interval(share, patients=num_patients, level=level)
        else:
            low, high = percentile_interval(shares[at], level=level)
        points.append(
            {
                "lowest": float(scores[inside].min()),
                "highest": float(scores[inside].max()),
                "rows": int(inside.sum()),
                "patients": num_patients,
                "positives": int(targets[inside].sum()),
                "mean_score": float(scores[inside].mean()),
                "share": share,
                "low": low,
                "high": high,
            }
        )
    return pd.DataFrame(points, columns=list(COLUMNS))
