"""Which class was taken for which: inside exclusive groups as a matrix, between free findings as co-errors.

In a group an image has one true class, so a matrix of true against called says everything. Free findings may be present
together, so each has a table of its own, and two matrices say what a finding does to the calls of the others: how much
oftener they are called beside it, and how often wrongly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from medtail.judging.bootstrap import PatientWeights, draw_weights, number_patients, patient_sums, resample_sums
from medtail.judging.counts import ratio
from medtail.judging.decisions import decide
from medtail.judging.intervals import percentile_interval, unanimous_interval
from medtail.judging.multiclass import confusion_matrix, true_classes
from medtail.tables.labels import ExclusiveGroup
from medtail.tables.predictions import Predictions


@final
@dataclass(frozen=True)
class GroupConfusion:
    """Counts of true against called class in one exclusive group.

    Attributes:
        name: The group.
        class_names: Its classes, in the group's order; rows are true, columns are called.
        counts: int64 [G, G] images.
    """

    name: str
    class_names: tuple[str, ...]
    counts: np.ndarray

    @property
    def by_true(self) -> np.ndarray:
        """Row-normalised shares, float64 [G, G]; NaN in the rows of absent classes (draw them hatched, not 0)."""
        return ratio(self.counts, self.counts.sum(axis=1, keepdims=True))

    @property
    def by_called(self) -> np.ndarray:
        """Column-normalised shares, float64 [G, G]; NaN in the columns of classes never called."""
        return ratio(self.counts, self.counts.sum(axis=0, keepdims=True))

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes without a true image."""
        return tuple(n for n, total in zip(self.class_names, self.counts.sum(axis=1), strict=True) if total == 0)


def group_confusions(predictions: Predictions) -> tuple[GroupConfusion, ...]:
    """Count true against called classes in every exclusive group.

    Images count where exactly one class of the group is present; those where none applies or the group was not
    assessed have no row to stand in.

    Args:
        predictions: Scores and targets.

    Returns:
        One confusion a group, in the label space's order; none where there are no groups.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> ids = np.array(["a", "b"], dtype=object)
        >>> predictions = Predictions(ids, ids, np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([[1.0, 0], [0, 1]]),
        ...                           LabelSpace.from_columns(["t=x", "t=y"]), np.array(["", ""], dtype=object))
        >>> group_confusions(predictions)[0].counts.tolist()
        [[1, 0], [1, 0]]
    """
    called = decide(predictions)
    return tuple(
        _confusion(group, *true_and_called(predictions.targets[:, list(indices)], called[:, list(indices)]))
        for group, indices in zip(predictions.labels.groups, predictions.labels.group_indices, strict=True)
    )


def true_and_called(targets: np.ndarray, called: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's true and called class index within a group.

    Args:
        targets: [N, G] in {0, 1, NaN}, at most one 1 a row.
        called: bool [N, G], exactly one True a row.

    Returns:
        Two int64 [N]; the true index is -1 where no class is known to be present.
    """
    return true_classes(targets), called.argmax(axis=1)


def _confusion(group: ExclusiveGroup, true: np.ndarray, called: np.ndarray) -> GroupConfusion:
    counts = confusion_matrix(true, called, num_classes=len(group.classes))
    return GroupConfusion(group.name, group.classes, counts.astype(np.int64))


@final
@dataclass(frozen=True)
class DiagonalIntervals:
    """Patient-level intervals of the two shares on each diagonal cell of a group's confusion.

    Attributes:
        name: The group.
        class_names: Its classes, in the group's order.
        by_true: Interval of each class's recall, float64 [G, 2], low and high; NaN for absent classes.
        by_called: Interval of each class's precision, float64 [G, 2]; NaN for classes never called.
    """

    name: str
    class_names: tuple[str, ...]
    by_true: np.ndarray
    by_called: np.ndarray


def diagonal_intervals(
    predictions: Predictions,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    weights: PatientWeights | None = None,
) -> tuple[DiagonalIntervals, ...]:
    """Resample patients to say how sure each diagonal cell of a confusion is.

    Percentile intervals of the patient bootstrap; a share of exactly 0 or 1, where no resample shows any spread, gets
    the rule of three on patients instead.

    Args:
        predictions: Scores and targets.
        resamples: Of patients, >= 1.
        level: Confidence, in (0, 1).
        seed: Of the resamples.
        weights: Drawn already, of the patients as `bootstrap.number_patients` numbers them; drawn here if None.

    Returns:
        One a group, in the order of `group_confusions`.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> ids = np.array(["a", "b"], dtype=object)
        >>> predictions = Predictions(ids, ids, np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[1.0, 0], [0, 1]]),
        ...                           LabelSpace.from_columns(["t=x", "t=y"]), np.array(["", ""], dtype=object))
        >>> diagonal_intervals(predictions, resamples=64)[0].by_true.round(2).tolist()
        [[0.05, 1.0], [0.05, 1.0]]

    References:
        efron1979, hanley1983.
    """
    called = decide(predictions)
    patients, num_patients = number_patients(predictions.patients)
    drawn = draw_weights(num_patients, resamples=resamples, seed=seed) if weights is None else weights
    found = []
    for group, indices in zip(predictions.labels.groups, predictions.labels.group_indices, strict=True):
        columns, size = list(indices), len(indices)
        true, guess = true_and_called(predictions.targets[:, columns], called[:, columns])
        kept = true >= 0
        at = patients[kept]
        is_true, is_called = (np.eye(size)[answers[kept]] for answers in (true, guess))
        marks = np.concatenate([is_true * is_called, is_true, is_called], axis=1)
        per_patient = patient_sums(marks, at, num_patients)
        right, present, guessed = np.split(resample_sums(per_patient, drawn), 3)
        hits, rows, calls = np.split(marks.sum(axis=0), 3)
        _, behind_rows, behind_calls = np.split((per_patient > 0).sum(axis=0), 3)
        found.append(
            DiagonalIntervals(
                group.name,
                group.classes,
                _share_intervals(ratio(hits, rows), ratio(right, present), behind_rows, level),
                _share_intervals(ratio(hits, calls), ratio(right, guessed), behind_calls, level),
            )
        )
    return tuple(found)


def _share_intervals(values: np.ndarray, resampled: np.ndarray, behind: np.ndarray, level: float) -> np.ndarray:
    """Return low and high of each share; `behind` counts the patients in its denominator."""
    ends = np.full((len(values), 2), np.nan)
    for c in np.flatnonzero(~np.isnan(values)).tolist():
        if values[c] in (0.0, 1.0):
            ends[c] = unanimous_interval(float(values[c]), patients=int(behind[c]), level=level)
        else:
            ends[c] = percentile_interval(resampled[c], level=level)
    return ends


def class_confusions(called: np.ndarray, targets: np.ndarray, *, weights: np.ndarray | None = None) -> np.ndarray:
    """Count, for each class by itself, [[TN, FP], [FN, TP]] over its assessed rows.

    Args:
        called: Decisions, bool [N, C].
        targets: [N, C] in {0, 1, NaN}.
        weights: float [N] >= 0, of rows; 1 a row if None.

    Returns:
        float64 [C, 2, 2], rows true (absent, present), columns called (no, yes).

    Example:
        >>> class_confusions(np.array([[True], [True], [False]]), np.array([[1.0], [0.0], [np.nan]])).tolist()
        [[[0.0, 1.0], [0.0, 1.0]]]
    """
    across = np.ones(len(called)) if weights is None else np.asarray(weights, dtype=np.float64)
    cells = [(targets == truth) & (called == answer) for truth in (0, 1) for answer in (False, True)]
    return np.asarray(np.stack([across @ cell for cell in cells], axis=1).reshape(-1, 2, 2), dtype=np.float64)


def co_errors(called: np.ndarray, targets: np.ndarray, *, weights: np.ndarray | None = None) -> np.ndarray:
    """Compute how much oftener class d is called where class c is present than where it is absent.

    E[ŷ_d | y_c = 1] - E[ŷ_d | y_c = 0]. On the diagonal that is recall + specificity - 1. Off it, real findings that go
    together show too: read it beside `false_alarms_beside`, which counts wrong calls only.

    Args:
        called: Decisions, bool [N, C].
        targets: [N, C] in {0, 1, NaN}.
        weights: float [N] >= 0, of rows; 1 a row if None.

    Returns:
        float64 [C, C] in [-1, 1], rows c, columns d; NaN in rows of classes never, or always, present.

    Example:
        >>> co_errors(np.array([[1, 1], [0, 0], [0, 1]]) == 1, np.array([[1, 0], [0, 0], [0, 1]])).tolist()
        [[1.0, 0.5], [-0.5, 0.5]]
    """
    across = np.ones(len(called)) if weights is None else np.asarray(weights, dtype=np.float64)
    present, absent = (across[:, None] * (targets == truth) for truth in (1, 0))
    calls = np.asarray(called, dtype=np.float64)
    beside, without = (ratio(rows.T @ calls, rows.sum(axis=0)[:, None]) for rows in (present, absent))
    return np.asarray(beside - without)


def false_alarms_beside(called: np.ndarray, targets: np.ndarray, *, weights: np.ndarray | None = None) -> np.ndarray:
    """Compute the false alarm rate of class d among the images that truly show class c.

    E[ŷ_d | y_c = 1, y_d = 0]: compare a row with the false alarm rates over all images to see which finding is taken
    for which.

    Args:
        called: Decisions, bool [N, C].
        targets: [N, C] in {0, 1, NaN}.
        weights: float [N] >= 0, of rows; 1 a row if None.

    Returns:
        float64 [C, C] in [0, 1], rows c, columns d; NaN on the diagonal and where no image shows c without d.

    Example:
        >>> false_alarms_beside(np.array([[1, 1], [0, 0], [1, 1]]) == 1, np.array([[1, 0], [1, 0], [0, 1]])).tolist()
        [[nan, 0.5], [1.0, nan]]
    """
    across = np.ones(len(called)) if weights is None else np.asarray(weights, dtype=np.float64)
    present, absent = across[:, None] * (targets == 1), (targets == 0).astype(np.float64)
    return ratio(present.T @ (absent * called), present.T @ absent)
