"""Every metric of every class, once on the rows as they are and once in each resample, in one pass.

`evaluation` turns these arrays into Results. A metric's values on the full sample come from the exact functions of
`metrics`; its resampled values from the two engines of `bootstrap`, fed with the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

from medtail.judging import metrics
from medtail.judging.bootstrap import (
    PatientWeights,
    fixed_point,
    patient_sums,
    rank_rows,
    resample_ranked,
    resample_sums,
)
from medtail.judging.confusion import true_and_called
from medtail.judging.counts import EceMode, calibration_gaps, f1_from_counts, ratio
from medtail.judging.intervals import mean_of_defined
from medtail.tables.predictions import Predictions

CLASS_METRICS = ("ap", "auroc", "f1", "f1_at_half", "precision", "recall", "specificity", "ece", "brier")
"""Metrics of a class that have an interval and a macro value."""
PROPORTIONS = ("precision", "recall", "specificity")
POOLED_METRICS = ("micro_f1", "micro_precision", "micro_recall")
GROUP_METRICS = ("accuracy", "balanced_accuracy", "macro_f1")
COUNTS = ("rows", "positives", "tp", "fp", "tp_half", "fp_half", "brier")
"""The additive columns of a class; the bins of its ECE follow them."""


@final
@dataclass(frozen=True)
class ClassCensus:
    """How much evidence a class has.

    Attributes:
        rows: Assessed rows, int64 [C].
        patients: Patients with an assessed row, int64 [C].
        positives: Positive rows, int64 [C].
        positive_patients: Patients with a positive row, int64 [C].
        negative_patients: Patients with a negative row, int64 [C].
        called_patients: Patients with a called, assessed row, int64 [C].
    """

    rows: np.ndarray
    patients: np.ndarray
    positives: np.ndarray
    positive_patients: np.ndarray
    negative_patients: np.ndarray
    called_patients: np.ndarray


@final
@dataclass(frozen=True)
class Estimates:
    """Values on the full sample and in the resamples.

    Attributes:
        census: Counts a class.
        values: Metric → float64 [C].
        resampled: Metric → float64 [C, B].
        sums: The additive columns tp, fp and positives a class, float64 [C]: what micro values are pooled from.
        resampled_sums: The same in the resamples, float64 [C, B].
        groups: Exclusive group → metric → (value, resampled float64 [B]).
        group_census: Exclusive group → (rows with one known class, their patients, classes present).
    """

    census: ClassCensus
    values: Mapping[str, np.ndarray]
    resampled: Mapping[str, np.ndarray]
    sums: Mapping[str, np.ndarray]
    resampled_sums: Mapping[str, np.ndarray]
    groups: Mapping[str, Mapping[str, tuple[float, np.ndarray]]]
    group_census: Mapping[str, tuple[int, int, int]]


def estimate(
    predictions: Predictions,
    *,
    called: np.ndarray,
    patients: np.ndarray,
    weights: PatientWeights,
    ece_mode: EceMode = "reliability",
    ece_bins: int = 15,
    threads: int | None = None,
) -> Estimates:
    """Compute every metric of every class on the rows and in the resamples.

    Args:
        predictions: Scores and targets.
        called: Decisions, bool [N, C].
        patients: Patient numbers, int32 [N].
        weights: Of those patients.
        ece_mode: Reading of the ECE.
        ece_bins: Its bins.
        threads: Worker threads of the ranked engine; no effect on the result.

    Returns:
        The estimates.
    """
    scores, targets = predictions.scores, predictions.targets
    columns = range(scores.shape[1])
    ap, auroc = resample_ranked(
        [rank_rows(scores[:, c], targets[:, c], patients) for c in columns], weights, threads=threads
    )
    sums = [_class_columns(scores[:, c], targets[:, c], called[:, c], ece_mode, ece_bins) for c in columns]
    totals = np.stack([part.sum(axis=0) for _, part in sums]) if sums else np.zeros((0, len(COUNTS)))
    resampled = np.stack([_resampled_columns(kept, part, patients, weights) for kept, part in sums])
    point = _from_sums(np.moveaxis(totals, 0, -1))
    point |= {
        "ap": metrics.per_class(metrics.average_precision, scores, targets),
        "auroc": metrics.per_class(metrics.auroc, scores, targets),
        "brier": metrics.per_class(metrics.brier, scores, targets),
        "ece": metrics.per_class(
            lambda s, y: metrics.expected_calibration_error(s, y, mode=ece_mode, bins=ece_bins), scores, targets
        ),
    }
    groups, group_census = _groups(predictions, called, patients, weights)
    pooled = {name: COUNTS.index(name) for name in ("tp", "fp", "positives")}
    return Estimates(
        census=take_census(targets, called, patients),
        values=point,
        resampled=_from_sums(np.moveaxis(resampled, 0, 1)) | {"ap": ap, "auroc": auroc},
        sums={name: totals[:, at] for name, at in pooled.items()},
        resampled_sums={name: resampled[:, at] for name, at in pooled.items()},
        groups=groups,
        group_census=group_census,
    )


def take_census(targets: np.ndarray, called: np.ndarray, patients: np.ndarray) -> ClassCensus:
    """Count rows and patients behind every class.

    Example:
        >>> census = take_census(np.array([[1.0], [1.0], [np.nan]]), np.ones((3, 1), dtype=bool), np.array([0, 0, 1]))
        >>> census.rows.tolist(), census.positive_patients.tolist()
        ([2], [1])
    """

    def distinct(marked: np.ndarray) -> np.ndarray:
        return np.array([len(np.unique(patients[marked[:, c]])) for c in range(marked.shape[1])], dtype=np.int64)

    known, positive = ~np.isnan(targets), targets == 1
    return ClassCensus(
        rows=known.sum(axis=0),
        patients=distinct(known),
        positives=positive.sum(axis=0),
        positive_patients=distinct(positive),
        negative_patients=distinct(targets == 0),
        called_patients=distinct(known & called),
    )


def pool(sums: Mapping[str, np.ndarray], among: np.ndarray) -> dict[str, np.ndarray]:
    """Compute micro precision, recall and F1 of some classes from summed counts.

    Args:
        sums: tp, fp and positives, float [C] or [C, B].
        among: bool [C].

    Returns:
        Metric → value or float64 [B].

    Example:
        >>> counts = {"tp": np.array([2.0, 1.0]), "fp": np.array([1.0, 0.0]), "positives": np.array([2.0, 3.0])}
        >>> float(pool(counts, np.array([True, True]))["micro_precision"])
        0.75
    """
    tp, fp, positives = (sums[name][among].sum(axis=0) for name in ("tp", "fp", "positives"))
    return {
        "micro_f1": f1_from_counts(tp, fp, positives - tp),
        "micro_precision": ratio(tp, tp + fp),
        "micro_recall": ratio(tp, positives),
    }


def _class_columns(
    scores: np.ndarray, targets: np.ndarray, called: np.ndarray, mode: EceMode, bins: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the assessed rows of a class and their additive columns, `COUNTS` then the ECE's bins."""
    kept = np.flatnonzero(~np.isnan(targets))
    s, y, yes = scores[kept], targets[kept], called[kept].astype(np.float64)
    half = (s >= 0.5).astype(np.float64)
    index, gap = calibration_gaps(s, y, mode=mode, bins=bins)
    spread = np.zeros((len(kept), bins))
    spread[np.arange(len(kept)), index] = gap
    counted = np.stack([np.ones(len(kept)), y, yes * y, yes * (1 - y), half * y, half * (1 - y), (s - y) ** 2], axis=1)
    return kept, np.concatenate([counted, spread], axis=1)


def _resampled_columns(
    kept: np.ndarray, columns: np.ndarray, patients: np.ndarray, weights: PatientWeights
) -> np.ndarray:
    exact = fixed_point(columns, rows=len(kept), heaviest=weights.heaviest)
    return resample_sums(patient_sums(exact, patients[kept], weights.num_patients), weights)


def _from_sums(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Turn additive columns [m, …] into metrics […]."""
    rows, positives, tp, fp, tp_half, fp_half, squares = sums[: len(COUNTS)]
    return {
        "f1": f1_from_counts(tp, fp, positives - tp),
        "f1_at_half": f1_from_counts(tp_half, fp_half, positives - tp_half),
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, positives),
        "specificity": ratio(rows - positives - fp, rows - positives),
        "brier": ratio(squares, rows),
        "ece": ratio(np.abs(sums[len(COUNTS) :]).sum(axis=0), rows),
    }


def _groups(
    predictions: Predictions, called: np.ndarray, patients: np.ndarray, weights: PatientWeights
) -> tuple[dict[str, dict[str, tuple[float, np.ndarray]]], dict[str, tuple[int, int, int]]]:
    found: dict[str, dict[str, tuple[float, np.ndarray]]] = {}
    census: dict[str, tuple[int, int, int]] = {}
    for group, indices in zip(predictions.labels.groups, predictions.labels.group_indices, strict=True):
        chosen, size = list(indices), len(indices)
        true, guess = true_and_called(predictions.targets[:, chosen], called[:, chosen])
        kept = np.flatnonzero(true >= 0)
        cells = np.zeros((len(kept), size * size))
        cells[np.arange(len(kept)), true[kept] * size + guess[kept]] = 1.0
        present = np.bincount(true[kept], minlength=size) > 0
        point = _from_confusion(cells.sum(axis=0).reshape(size, size, 1), present)
        per_patient = patient_sums(cells, patients[kept], weights.num_patients)
        resampled = _from_confusion(resample_sums(per_patient, weights).reshape(size, size, -1), present)
        found[group.name] = {name: (float(point[name][0]), resampled[name]) for name in GROUP_METRICS}
        census[group.name] = (len(kept), len(np.unique(patients[kept])), int(present.sum()))
    return found, census


def _from_confusion(counts: np.ndarray, present: np.ndarray) -> dict[str, np.ndarray]:
    """Turn confusions [G, G, B] into accuracy, and balanced accuracy and macro-F1 over the classes present, [B]."""
    correct = np.einsum("iib->ib", counts)
    true, guessed = counts.sum(axis=1), counts.sum(axis=0)
    return {
        "accuracy": ratio(correct.sum(axis=0), counts.sum(axis=(0, 1))),
        "balanced_accuracy": mean_of_defined(ratio(correct, true)[present]),
        "macro_f1": mean_of_defined(f1_from_counts(correct, guessed - correct, true - correct)[present]),
    }
