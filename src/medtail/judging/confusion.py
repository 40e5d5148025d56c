"""Confusion within exclusive groups: which class was taken for which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from medtail.judging.counts import ratio
from medtail.judging.decisions import decide
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
    present = targets == 1
    known = present.sum(axis=1) == 1
    return np.where(known, present.argmax(axis=1), -1), called.argmax(axis=1)


def _confusion(group: ExclusiveGroup, true: np.ndarray, called: np.ndarray) -> GroupConfusion:
    size = len(group.classes)
    kept = true >= 0
    counts = np.bincount(true[kept] * size + called[kept], minlength=size * size).reshape(size, size)
    return GroupConfusion(group.name, group.classes, counts.astype(np.int64))
