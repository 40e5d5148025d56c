"""What a calibration brought: log loss, Brier score and calibration error before and after, paired over patients.

Both systems stand on the same rows and the same resamples, so the difference has an interval of its own. Rows the
calibration was fitted on would flatter it: judge held-out rows, or tune rows calibrated by maps that have not seen
their patient (`calibration.cross_calibrated`).
"""

from __future__ import annotations

from typing import NamedTuple

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
from medtail.judging.counts import calibration_gaps, ratio
from medtail.judging.intervals import mean_of_defined, percentile_interval
from medtail.tables.predictions import Predictions

METRICS = ("log_loss", "brier", "ece", "ece_debiased")
"""Mean negative log likelihood, mean squared error, `reliability` ECE, and the squared ECE without chance's part."""
LARGEST_LOSS = 64.0
"""No log loss of a double score reaches it: brings losses into [0, 1] for exact sums."""
LOSS_FLOOR = 1e-15
BINS = 15
COLUMNS = ("metric", "class", "before", "before_low", "before_high", "after", "after_low", "after_high",
           "difference", "difference_low", "difference_high", "support")  # fmt: skip


class _Values(NamedTuple):
    """Value [C] and resamples [C, B] of every metric, and positives [C]."""

    point: dict[str, np.ndarray]
    resampled: dict[str, np.ndarray]
    positives: np.ndarray


def calibration_effect(
    before: Predictions, after: Predictions, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> pd.DataFrame:
    """Compare scores before and after a calibration on the same rows.

    Differences are after - before: below 0 is better, for all four metrics. The interval of an ECE lies high, for
    resampling adds noise that an ECE counts as error; in `ece_debiased` that part is taken out too.

    Args:
        before: Raw scores.
        after: Calibrated scores of the same rows in the same order.
        resamples: Of the patients; 0 for no intervals.
        seed: Of the resamples.
        level: Share of resamples inside an interval, in (0, 1).

    Returns:
        A row a metric and class, and the macro value (class "") over the classes that have positives: `metric, class,
        before, before_low, before_high, after, …, difference, …, support` (positive rows; for macro, classes).

    Raises:
        MedtailError: The rows or classes of the two differ, or there are none.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> ids = np.array(list("abcd"), dtype=object)
        >>> labels, targets = LabelSpace(("x",)), np.array([[1.0], [0], [0], [0]])
        >>> rows = Predictions(ids, ids, np.full((4, 1), 0.5), targets, labels, ids)
        >>> mended = Predictions(ids, ids, np.full((4, 1), 0.25), targets, labels, ids)
        >>> table = calibration_effect(rows, mended, resamples=0)
        >>> table.loc[table["class"] == "x", ["metric", "before", "after"]].head(3).round(3).values.tolist()
        [['log_loss', 0.693, 0.562], ['brier', 0.25, 0.188], ['ece', 0.25, 0.0]]

    References:
        kumar2019.
    """
    same_rows = np.array_equal(before.image_ids.astype(str), after.image_ids.astype(str))
    if not same_rows or before.labels.class_names != after.labels.class_names or not len(before):
        raise MedtailError(
            f"calibration effect: {before.name} and {after.name} hold other rows or classes; expected the same, in the"
            " same order, and at least one."
        )
    patients, count = number_patients(before.patients)
    weights = draw_weights(count, resamples=resamples, seed=seed)
    first, second = (_values(scored, patients, weights) for scored in (before, after))
    supported = first.positives > 0
    rows: list[dict[str, object]] = []
    for metric in METRICS:
        point = [part.point[metric] for part in (first, second)]
        drawn = [part.resampled[metric] for part in (first, second)]
        for c, name in enumerate(before.labels.class_names):
            rows.append(_row(metric, name, point[0][c], point[1][c], drawn[0][c], drawn[1][c], level))
            rows[-1]["support"] = int(first.positives[c])
        means = [float(mean_of_defined(values[supported][:, None])[0]) for values in point]
        spread = [mean_of_defined(values[supported]) for values in drawn]
        rows.append(_row(metric, "", means[0], means[1], spread[0], spread[1], level))
        rows[-1]["support"] = int(supported.sum())
    return pd.DataFrame(rows, columns=list(COLUMNS))


def effect_text(table: pd.DataFrame) -> str:
    """Return the macro rows of `calibration_effect`, a line a metric.

    Example:
        >>> row = {"metric": "brier", "class": "", "before": 0.25, "after": 0.1875, "difference": -0.0625}
        >>> row |= {"difference_low": -0.08, "difference_high": -0.04, "support": 1}
        >>> print(effect_text(pd.DataFrame([row])))
        metric          before     after  difference (95 % over patients)
        brier          0.25000   0.18750  -0.06250 [-0.08000, -0.04000]
    """
    lines = [f"{'metric':12s}{'before':>10s}{'after':>10s}  difference (95 % over patients)"]
    for row in table[table["class"] == ""].to_dict("records"):
        said = f"{row['metric']:12s}{row['before']:10.5f}{row['after']:10.5f}  {row['difference']:+.5f}"
        if not np.isnan(row["difference_low"]):
            said += f" [{row['difference_low']:+.5f}, {row['difference_high']:+.5f}]"
        lines.append(said)
    return "\n".join(lines)


def _row(
    metric: str, name: str, first: float, second: float, drawn_first: np.ndarray, drawn_second: np.ndarray, level: float
) -> dict[str, object]:
    row: dict[str, object] = {"metric": metric, "class": name}
    triples = (
        ("before", first, drawn_first),
        ("after", second, drawn_second),
        ("difference", second - first, drawn_second - drawn_first),
    )
    for key, value, drawn in triples:
        low, high = percentile_interval(drawn, level=level)
        row |= {key: float(value), f"{key}_low": low, f"{key}_high": high}
    return row


def _values(predictions: Predictions, patients: np.ndarray, weights: PatientWeights) -> _Values:
    num_classes = predictions.labels.num_classes
    point = {metric: np.full(num_classes, np.nan) for metric in METRICS}
    resampled = {metric: np.full((num_classes, weights.resamples), np.nan) for metric in METRICS}
    positives = (predictions.targets == 1).sum(axis=0)
    for c in range(num_classes):
        kept = np.flatnonzero(~np.isnan(predictions.targets[:, c]))
        if not len(kept):
            continue
        columns = _columns(predictions.scores[kept, c], predictions.targets[kept, c])
        exact = fixed_point(columns, rows=len(kept), heaviest=max(weights.heaviest, 1))
        sums = patient_sums(exact, patients[kept], weights.num_patients)
        drawn = _from_sums(resample_sums(sums, weights), is_resampled=True)
        for metric, value in _from_sums(sums.sum(axis=0)[:, None], is_resampled=False).items():
            point[metric][c], resampled[metric][c] = float(value[0]), drawn[metric]
    return _Values(point, resampled, positives)


def _columns(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return additive columns [n, 3 + 3 · bins]: one, loss, square, then rows, positives and gaps of every bin."""
    inside = np.clip(scores, LOSS_FLOOR, 1.0 - LOSS_FLOOR)
    loss = -np.where(targets == 1, np.log(inside), np.log1p(-inside))
    index, gap = calibration_gaps(scores, targets, bins=BINS)
    spread = np.zeros((3, len(scores), BINS))
    spread[:, np.arange(len(scores)), index] = np.stack([np.ones(len(scores)), targets, gap])
    plain = np.stack([np.ones(len(scores)), loss / LARGEST_LOSS, (scores - targets) ** 2], axis=1)
    return np.concatenate([plain, *spread], axis=1)


def _from_sums(sums: np.ndarray, *, is_resampled: bool) -> dict[str, np.ndarray]:
    """Turn additive columns [3 + 3 · bins, B] into metrics [B]."""
    rows, loss, square = sums[:3]
    mass, positive, gap = sums[3:].reshape(3, BINS, -1)
    share = ratio(positive, mass)
    kept = mass > 1.0
    # a resample is noisier than the sample by once more the sample's own noise
    noise = ratio(share * (1.0 - share), mass - 1.0) * (2.0 if is_resampled else 1.0)
    squared = np.where(kept, mass * (ratio(gap, mass) ** 2 - noise), 0.0)
    return {
        "log_loss": LARGEST_LOSS * ratio(loss, rows),
        "brier": ratio(square, rows),
        "ece": ratio(np.abs(gap).sum(axis=0), rows),
        "ece_debiased": ratio(squared.sum(axis=0), np.where(kept, mass, 0.0).sum(axis=0)),
    }
