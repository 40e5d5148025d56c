"""Decision curves: is acting on the scores better than acting on everybody, or on nobody?

A threshold t says how many false alarms a true one is worth: at t = .1 one finding justifies nine needless work-ups.
Net benefit counts true alarms less false ones at that rate, per image. It is meant for *calibrated* scores: on others
the threshold does not mean what it says. Every threshold of the grid comes from one histogram a patient, so a whole
curve with its interval costs one pass of the additive engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from medtail.errors import MedtailError, Problems, did_you_mean
from medtail.judging.bootstrap import PatientWeights, draw_weights, number_patients, patient_sums, resample_sums
from medtail.judging.counts import assessed, ratio
from medtail.judging.evaluation import EvaluationConfig
from medtail.judging.intervals import percentile_interval
from medtail.tables.predictions import Predictions

THRESHOLDS = np.arange(1, 51) / 100
"""Threshold probabilities .01 to .50."""


def net_benefit(
    scores: np.ndarray,
    targets: np.ndarray,
    *,
    thresholds: np.ndarray = THRESHOLDS,
    prevalence: float | None = None,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Compute the net benefit of acting where score >= threshold.

    NB(t) = TP/n - FP/n · t/(1-t). At another prevalence π it is π · recall - (1-π)(1-specificity) · t/(1-t), which
    is the same formula on rows weighted to that prevalence.

    Args:
        scores: Calibrated scores of one class, float [N] in [0, 1].
        targets: [N] in {0, 1, NaN}.
        thresholds: Threshold probabilities, float [T] in (0, 1).
        prevalence: Share of positives to assume, in (0, 1); as in the rows if None.
        weights: float [N] >= 0; 1 a row if None.

    Returns:
        float64 [T], at most the prevalence; NaN where undefined (no rows, or at another prevalence without both
        positives and negatives).

    Raises:
        MedtailError: Thresholds or prevalence outside (0, 1), or values out of range.

    Example:
        >>> scores, targets = np.array([0.9, 0.6, 0.2, 0.1]), np.array([1, 0, 1, 0])
        >>> net_benefit(scores, targets, thresholds=np.array([0.2, 0.5])).tolist()
        [0.4375, 0.0]

    References:
        vickers2006.
    """
    limits = _checked(thresholds, prevalence)
    s, y, w = assessed(scores, targets, weights)
    at = np.searchsorted(limits, s, side="right")
    size = len(limits) + 1
    positive = np.bincount(at, weights=w * y, minlength=size)
    negative = np.bincount(at, weights=w * (1.0 - y), minlength=size)
    benefit, _ = _curves(positive[:, None], negative[:, None], limits, prevalence)
    return np.asarray(benefit[:, 0])


def treat_all_benefit(prevalence: float | np.ndarray, *, thresholds: np.ndarray = THRESHOLDS) -> np.ndarray:
    """Return the net benefit of acting on everybody, π - (1-π) · t/(1-t). Acting on nobody has 0.

    Example:
        >>> treat_all_benefit(0.25, thresholds=np.array([0.25, 0.5])).tolist()
        [0.0, -0.5]
    """
    odds = np.asarray(thresholds) / (1.0 - np.asarray(thresholds))
    return np.asarray(prevalence - (1.0 - np.asarray(prevalence)) * odds)


def decision_curve(
    predictions: Predictions,
    *,
    classes: Sequence[str] | None = None,
    prevalence: Mapping[str, float] | None = None,
    thresholds: np.ndarray = THRESHOLDS,
    config: EvaluationConfig | None = None,
    patients: np.ndarray | None = None,
    weights: PatientWeights | None = None,
) -> pd.DataFrame:
    """Draw the decision curve of each class, with patient-level intervals.

    `gain` is the net benefit less that of the better default, acting on everybody or on nobody, its interval from the
    same resamples: where it lies above 0 the scores earn their keep. Intervals are pointwise, one threshold at a time.

    Args:
        predictions: Calibrated scores, and targets.
        classes: Some of its classes; all if None.
        prevalence: Class → share of positives to assume, in (0, 1); classes left out keep that of the rows. For
            another prevalence the scores, too, should be those of that prevalence (`retarget.retarget_predictions`).
        thresholds: Threshold probabilities, float [T] in (0, 1).
        config: Resamples, scheme, seed and interval; the defaults if None.
        patients: Patient numbers into `weights`, int [N]; with `weights`, to share resamples with other systems.
        weights: Resamples of those patients.

    Returns:
        A row a class and threshold: `class, prevalence, threshold, net_benefit, low, high, treat_all, treat_all_low,
        treat_all_high, treat_none, gain, gain_low, gain_high, support` (positive rows).

    Raises:
        MedtailError: Unknown classes, or thresholds or prevalences outside (0, 1).

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> ids = np.array(list("abcd"), dtype=object)
        >>> tested = Predictions(ids, ids, np.array([[0.9], [0.6], [0.2], [0.1]]), np.array([[1.0], [0], [1], [0]]),
        ...                      LabelSpace(("Hernia",)), np.array(["test"] * 4, dtype=object))
        >>> decision_curve(tested, thresholds=np.array([0.2]))[["net_benefit", "treat_all", "gain"]].values.tolist()
        [[0.4375, 0.375, 0.0625]]

    References:
        vickers2006, vickers2008.
    """
    config = config or EvaluationConfig()
    names = predictions.labels.class_names
    problems = Problems("decision curve")
    for name in [*(classes or ()), *(prevalence or ())]:
        if name not in names:
            problems.add(f"class {name!r}: {predictions.name} has no such class{did_you_mean(name, names) or '.'}")
    problems.raise_if_any()
    assert (patients is None) == (weights is None), "patient numbers and weights belong together"
    if patients is None or weights is None:
        patients, total = number_patients(predictions.patients)
        weights = draw_weights(max(total, 1), resamples=config.bootstrap, scheme=config.scheme, seed=config.seed)
    chosen = names if classes is None else tuple(classes)
    frames = []
    for name in chosen:
        c = names.index(name)
        frames.append(
            _class_curve(
                name,
                predictions.scores[:, c],
                predictions.targets[:, c],
                limits=_checked(thresholds, (prevalence or {}).get(name)),
                prevalence=(prevalence or {}).get(name),
                patients=patients,
                weights=weights,
                level=config.interval,
            )
        )
    return pd.concat(frames, ignore_index=True)


def _checked(thresholds: np.ndarray, prevalence: float | None) -> np.ndarray:
    limits = np.asarray(thresholds, dtype=np.float64)
    if limits.ndim != 1 or not np.all((limits > 0) & (limits < 1)) or np.any(np.diff(limits) <= 0):
        raise MedtailError(f"thresholds {limits.tolist()!r}: expected ascending probabilities in (0, 1).")
    if prevalence is not None and not 0.0 < prevalence < 1.0:
        raise MedtailError(f"prevalence {prevalence!r}: expected a share in (0, 1).")
    return limits


def _curves(
    positive: np.ndarray, negative: np.ndarray, limits: np.ndarray, prevalence: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Turn histograms over the grid [T + 1, B] into net benefit and that of acting on everybody, [T, B] each."""
    # bin j holds scores at or above j of the thresholds: called at threshold j are the bins beyond it
    tp, fp = (np.cumsum(counts[::-1], axis=0)[::-1][1:] for counts in (positive, negative))
    p, n = positive.sum(axis=0), negative.sum(axis=0)
    odds = (limits / (1.0 - limits))[:, None]
    if prevalence is None:
        return ratio(tp - fp * odds, p + n), ratio(p - n * odds, p + n)
    at = prevalence * ratio(tp, p) - (1.0 - prevalence) * ratio(fp, n) * odds
    everybody = np.broadcast_to(treat_all_benefit(prevalence, thresholds=limits)[:, None], at.shape)
    return at, everybody


def _class_curve(
    name: str,
    scores: np.ndarray,
    targets: np.ndarray,
    *,
    limits: np.ndarray,
    prevalence: float | None,
    patients: np.ndarray,
    weights: PatientWeights,
    level: float,
) -> pd.DataFrame:
    kept = np.flatnonzero(~np.isnan(targets))
    s, y, _ = assessed(scores[kept], targets[kept])
    size = len(limits) + 1
    cell = np.searchsorted(limits, s, side="right") + np.where(y == 1, 0, size)
    spread = np.zeros((len(kept), 2 * size))
    spread[np.arange(len(kept)), cell] = 1.0
    totals = spread.sum(axis=0)[:, None]
    value, everybody = _curves(totals[:size], totals[size:], limits, prevalence)
    # whole numbers: exact in every resample, in whatever order they are added
    sums = resample_sums(patient_sums(spread, patients[kept], weights.num_patients), weights)
    drawn, drawn_everybody = _curves(sums[:size], sums[size:], limits, prevalence)
    gain, drawn_gain = value - np.maximum(everybody, 0.0), drawn - np.maximum(drawn_everybody, 0.0)
    columns: dict[str, object] = {
        "class": name,
        "prevalence": float(ratio(y.sum(), len(y))) if prevalence is None else prevalence,
        "threshold": limits,
        "net_benefit": value[:, 0],
        **_ends(drawn, value, level, prefix=""),
        "treat_all": everybody[:, 0],
        **_ends(drawn_everybody, everybody, level, prefix="treat_all_"),
        "treat_none": 0.0,
        "gain": gain[:, 0],
        **_ends(drawn_gain, gain, level, prefix="gain_"),
        "support": int(y.sum()),
    }
    return pd.DataFrame(columns)


def _ends(drawn: np.ndarray, value: np.ndarray, level: float, *, prefix: str) -> dict[str, np.ndarray]:
    known = ~np.isnan(value[:, 0])
    ends = [
        percentile_interval(row, level=level) if ok else (np.nan, np.nan) for row, ok in zip(drawn, known, strict=True)
    ]
    low, high = np.array(ends, dtype=np.float64).reshape(-1, 2).T
    return {f"{prefix}low": low, f"{prefix}high": high}
