"""Every metric of every class, once on the rows as they are and once in each resample, in one pass.

`evaluation` turns these arrays into Results. A metric's values on the full sample come from the exact functions of
`metrics`; its resampled values from the two engines of `bootstrap`, fed with the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import numpy as np

from medtail.judging.additive import SparseColumns, column_of, resample_columns, spread_columns, stack_columns
from medtail.judging.bootstrap import (
    Engine,
    PatientWeights,
    RankedRows,
    fixed_point,
    in_threads,
    rank_rows,
    rank_values,
    resample_ranked,
)
from medtail.judging.confusion import true_and_called
from medtail.judging.counts import EceMode, calibration_gaps, f1_from_counts, mcc_from_counts, ratio
from medtail.judging.intervals import effective_size, mean_of_defined
from medtail.tables.predictions import Predictions

CLASS_METRICS = (
    "ap", "auroc", "f1", "f1_at_half", "precision", "recall", "specificity", "ece", "brier",
    "fnr", "fnr_at_half", "balanced_accuracy", "mcc", "npv", "log_loss", "ap_lift",
)  # fmt: skip
"""Metrics of a class that have an interval and a macro value."""
PROPORTIONS = ("precision", "recall", "specificity", "fnr", "fnr_at_half", "npv")
POOLED_METRICS = ("micro_f1", "micro_precision", "micro_recall")
GROUP_METRICS = ("accuracy", "balanced_accuracy", "macro_f1")
COUNTS = ("rows", "positives", "tp", "fp", "tp_half", "fp_half", "brier", "log_loss")
"""The additive columns of a class; the bins of its ECE follow them."""
SCORE_FLOOR = 1e-15
"""Scores are kept this far from 0 and 1 in the log loss, as in `metrics.log_loss`."""
LOG_UNIT = 64.0
"""Nats, so that a row's log loss (at most 35) is below 1 and fits the fixed-point grid."""


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
        passed_patients: Patients with an assessed row that is not called, int64 [C].
    """

    rows: np.ndarray
    patients: np.ndarray
    positives: np.ndarray
    positive_patients: np.ndarray
    negative_patients: np.ndarray
    called_patients: np.ndarray
    passed_patients: np.ndarray


@final
@dataclass(frozen=True)
class Replicates:
    """Every metric in a set of re-weighted tables: the resamples, or the jackknife.

    Attributes:
        metrics: Metric → float64 [C, B].
        sums: The additive columns tp, fp and positives a class, float64 [C, B].
        groups: Exclusive group → metric → float64 [B].
    """

    metrics: Mapping[str, np.ndarray]
    sums: Mapping[str, np.ndarray]
    groups: Mapping[str, Mapping[str, np.ndarray]]


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
        effective: `recall`, `specificity` → independent rows the proportion is worth, float64 [C]; see
            `intervals.effective_size`.
        left_out: The same metrics without each jackknife group; None if it was not asked for.
    """

    census: ClassCensus
    values: Mapping[str, np.ndarray]
    resampled: Mapping[str, np.ndarray]
    sums: Mapping[str, np.ndarray]
    resampled_sums: Mapping[str, np.ndarray]
    groups: Mapping[str, Mapping[str, tuple[float, np.ndarray]]]
    group_census: Mapping[str, tuple[int, int, int]]
    effective: Mapping[str, np.ndarray] = field(default_factory=dict)
    left_out: Replicates | None = None


def estimate(
    predictions: Predictions,
    *,
    called: np.ndarray,
    patients: np.ndarray,
    weights: PatientWeights,
    ece_mode: EceMode = "reliability",
    ece_bins: int = 15,
    threads: int | None = None,
    left_out: PatientWeights | None = None,
    engine: Engine = "auto",
) -> Estimates:
    """Compute every metric of every class on the rows and in the resamples.

    Args:
        predictions: Scores and targets.
        called: Decisions, bool [N, C].
        patients: Patient numbers, int32 [N].
        weights: Of those patients.
        ece_mode: Reading of the ECE.
        ece_bins: Its bins.
        threads: Worker threads; no effect on the result.
        left_out: Jackknife weights of the same patients (`jackknife.leave_out_weights`), for BCa intervals.
        engine: `numpy`, `compiled`, or the faster one for this size; no effect on the result.

    Returns:
        The estimates.
    """
    # in patients' order, weights are read one after the other
    order = np.argsort(patients, kind="stable")
    owners = patients[order].astype(np.int32)
    scores, targets, calls = (
        np.ascontiguousarray(table[order].T) for table in (predictions.scores, predictions.targets, called)
    )
    num_patients = weights.num_patients
    heaviest = max(weights.heaviest, 1 if left_out is None else left_out.heaviest)
    settings = _Settings(ece_mode, ece_bins, num_patients, heaviest)
    all_rows = column_of(owners, np.ones(len(owners)), num_patients=num_patients)

    def prepare(c: int) -> _ClassTable:
        ranked = rank_rows(scores[c], targets[c], owners)
        columns = _class_columns(scores[c], targets[c], calls[c], owners, settings)
        return _ClassTable(ranked, rank_values(ranked), columns, _effective(targets[c], calls[c], owners, num_patients))

    tables = in_threads(prepare, range(len(scores)), threads=threads)
    cells = _group_cells(predictions, called, patients)
    ranked = [table.ranked for table in tables]
    columns = [table.columns for table in tables]

    def replicate(drawn: PatientWeights) -> Replicates:
        ap, auroc = resample_ranked(ranked, drawn, threads=threads, engine=engine)
        parts = [all_rows, *(part.sparse for part in columns), *(group.sparse for group in cells.values())]
        sums = resample_columns(parts, drawn, threads=threads, engine=engine)
        stacked = np.empty((len(COUNTS) + ece_bins, len(columns), drawn.resamples))
        for c, part in enumerate(columns):
            stacked[:, c] = sums[1 + c]
            if part.all_assessed:
                stacked[0, c] = sums[0][0]
        confusions = zip(cells.items(), sums[1 + len(columns) :], strict=True)
        return Replicates(
            _with_lift(_from_sums(stacked) | {"ap": ap, "auroc": auroc}, stacked),
            {name: stacked[COUNTS.index(name)] for name in ("tp", "fp", "positives")},
            {
                name: _from_confusion(found.reshape(*group.shape, -1), group.present)
                for (name, group), found in confusions
            },
        )

    resampled = replicate(weights)
    totals = np.stack([part.totals for part in columns], axis=1) if columns else np.zeros((len(COUNTS) + ece_bins, 0))
    point = _from_sums(totals) | {
        "ap": np.array([table.point[0] for table in tables]),
        "auroc": np.array([table.point[1] for table in tables]),
    }
    return Estimates(
        census=_census(targets, calls, owners, num_patients),
        values=_with_lift(point, totals),
        resampled=resampled.metrics,
        sums={name: totals[COUNTS.index(name)] for name in ("tp", "fp", "positives")},
        resampled_sums=resampled.sums,
        groups={
            name: {metric: (group.values[metric], resampled.groups[name][metric]) for metric in GROUP_METRICS}
            for name, group in cells.items()
        },
        group_census={name: group.census for name, group in cells.items()},
        effective={
            "recall": np.array([table.effective[0] for table in tables]),
            "specificity": np.array([table.effective[1] for table in tables]),
        },
        left_out=None if left_out is None else replicate(left_out),
    )


def take_census(targets: np.ndarray, called: np.ndarray, patients: np.ndarray) -> ClassCensus:
    """Count rows and patients behind every class.

    Example:
        >>> census = take_census(np.array([[1.0], [1.0], [np.nan]]), np.ones((3, 1), dtype=bool), np.array([0, 0, 1]))
        >>> census.rows.tolist(), census.positive_patients.tolist()
        ([2], [1])
    """
    num_patients = int(patients.max(initial=-1)) + 1
    return _census(targets.T, called.T, patients, num_patients)


def _census(targets: np.ndarray, called: np.ndarray, patients: np.ndarray, num_patients: int) -> ClassCensus:
    def distinct(marked: np.ndarray) -> np.ndarray:
        counts = np.zeros(len(marked), dtype=np.int64)
        for c, row in enumerate(marked):
            seen = np.zeros(num_patients, dtype=bool)
            seen[patients[row]] = True
            counts[c] = seen.sum()
        return counts

    known, positive = ~np.isnan(targets), targets == 1
    return ClassCensus(
        rows=known.sum(axis=1),
        patients=distinct(known),
        positives=positive.sum(axis=1),
        positive_patients=distinct(positive),
        negative_patients=distinct(targets == 0),
        called_patients=distinct(known & called),
        passed_patients=distinct(known & ~called),
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


@final
@dataclass(frozen=True)
class _Settings:
    ece_mode: EceMode
    ece_bins: int
    num_patients: int
    heaviest: int


@final
@dataclass(frozen=True)
class _ClassTable:
    ranked: RankedRows
    point: tuple[float, float]
    columns: _ClassColumns
    effective: tuple[float, float]


@final
@dataclass(frozen=True)
class _ClassColumns:
    """The additive columns of a class: `COUNTS`, then the bins of its ECE.

    Attributes:
        totals: Their sums on the rows as they are, float64 [m].
        sparse: The columns for resampling.
        all_assessed: Whether no row is missing: `rows` is left empty then, being the same for all such classes.
    """

    totals: np.ndarray
    sparse: SparseColumns
    all_assessed: bool


def _class_columns(
    scores: np.ndarray, targets: np.ndarray, called: np.ndarray, patients: np.ndarray, settings: _Settings
) -> _ClassColumns:
    kept = np.flatnonzero(~np.isnan(targets))
    s, y, yes, owners = scores[kept], targets[kept] == 1, called[kept], patients[kept]
    half = s >= 0.5
    index, gap = calibration_gaps(s, y.astype(np.float64), mode=settings.ece_mode, bins=settings.ece_bins)
    squares = (s - y) ** 2
    nats = -np.log(np.clip(np.where(y, s, 1.0 - s), SCORE_FLOOR, 1.0 - SCORE_FLOOR))
    marks = (y, yes & y, yes & ~y, half & y, half & ~y)
    counts = [len(kept), *(int(mark.sum()) for mark in marks)]
    spread = np.bincount(index, weights=gap, minlength=settings.ece_bins)

    def exact(values: np.ndarray) -> np.ndarray:
        return fixed_point(values, rows=len(kept), heaviest=settings.heaviest)

    def column(marked: np.ndarray, values: np.ndarray) -> SparseColumns:
        return column_of(owners[marked], values[marked], num_patients=settings.num_patients)

    ones, everywhere = np.ones(len(kept)), np.ones(len(kept), dtype=bool)
    all_assessed = len(kept) == len(targets)
    parts = [
        column(~everywhere if all_assessed else everywhere, ones),
        *(column(mark, ones) for mark in marks),
        column(everywhere, exact(squares)),
        column(everywhere, exact(nats / LOG_UNIT) * LOG_UNIT),
        spread_columns(index, owners, exact(gap), num_columns=settings.ece_bins),
    ]
    totals = np.concatenate([counts, [squares.sum(), nats.sum()], spread]).astype(np.float64)
    return _ClassColumns(totals, stack_columns(parts), all_assessed)


def _effective(targets: np.ndarray, called: np.ndarray, patients: np.ndarray, num_patients: int) -> tuple[float, float]:
    found = []
    for among, hit in ((targets == 1, called), (targets == 0, ~called)):
        rows = np.bincount(patients[among], minlength=num_patients)
        hits = np.bincount(patients[among & hit], minlength=num_patients)
        found.append(effective_size(hits.astype(np.float64), rows.astype(np.float64)))
    return found[0], found[1]


def _from_sums(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Turn additive columns [m, …] into metrics […]."""
    rows, positives, tp, fp, tp_half, fp_half, squares, nats = sums[: len(COUNTS)]
    fn, tn = positives - tp, rows - positives - fp
    recall, specificity = ratio(tp, positives), ratio(tn, rows - positives)
    return {
        "f1": f1_from_counts(tp, fp, fn),
        "f1_at_half": f1_from_counts(tp_half, fp_half, positives - tp_half),
        "precision": ratio(tp, tp + fp),
        "recall": recall,
        "specificity": specificity,
        "brier": ratio(squares, rows),
        "ece": ratio(np.abs(sums[len(COUNTS) :]).sum(axis=0), rows),
        "fnr": ratio(fn, positives),
        "fnr_at_half": ratio(positives - tp_half, positives),
        "balanced_accuracy": (recall + specificity) / 2.0,
        "mcc": mcc_from_counts(tp, fp, fn, tn),
        "npv": ratio(tn, tn + fn),
        "log_loss": ratio(nats, rows),
    }


def _with_lift(found: dict[str, np.ndarray], sums: np.ndarray) -> dict[str, np.ndarray]:
    """Add AP over prevalence, in the order of `CLASS_METRICS`."""
    found["ap_lift"] = found["ap"] * ratio(sums[0], sums[1])
    return {metric: found[metric] for metric in CLASS_METRICS}


@final
@dataclass(frozen=True)
class _GroupCells:
    """An exclusive group's confusion, a column a cell.

    Attributes:
        shape: (G, G).
        sparse: The cells for resampling, true class major.
        present: Classes with a true row, bool [G].
        values: Metric → value on the rows as they are.
        census: Rows with one known class, their patients, classes present.
    """

    shape: tuple[int, int]
    sparse: SparseColumns
    present: np.ndarray
    values: Mapping[str, float]
    census: tuple[int, int, int]


def _group_cells(predictions: Predictions, called: np.ndarray, patients: np.ndarray) -> dict[str, _GroupCells]:
    found: dict[str, _GroupCells] = {}
    for group, indices in zip(predictions.labels.groups, predictions.labels.group_indices, strict=True):
        chosen, size = list(indices), len(indices)
        true, guess = true_and_called(predictions.targets[:, chosen], called[:, chosen])
        kept = np.flatnonzero(true >= 0)
        index, owners = true[kept] * size + guess[kept], patients[kept]
        present = np.bincount(true[kept], minlength=size) > 0
        point = _from_confusion(np.bincount(index, minlength=size**2).reshape(size, size, 1), present)
        found[group.name] = _GroupCells(
            (size, size),
            spread_columns(index, owners, np.ones(len(kept)), num_columns=size * size),
            present,
            {metric: float(point[metric][0]) for metric in GROUP_METRICS},
            (len(kept), len(np.unique(owners)), int(present.sum())),
        )
    return found


def _from_confusion(counts: np.ndarray, present: np.ndarray) -> dict[str, np.ndarray]:
    """Turn confusions [G, G, B] into accuracy, and balanced accuracy and macro-F1 over the classes present, [B]."""
    correct = np.einsum("iib->ib", counts)
    true, guessed = counts.sum(axis=1), counts.sum(axis=0)
    return {
        "accuracy": ratio(correct.sum(axis=0), counts.sum(axis=(0, 1))),
        "balanced_accuracy": mean_of_defined(ratio(correct, true)[present]),
        "macro_f1": mean_of_defined(f1_from_counts(correct, guessed - correct, true - correct)[present]),
    }
