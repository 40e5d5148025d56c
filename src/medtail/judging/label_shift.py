"""Rates of one exclusive group, or one free class, re-weighted to other shares of its classes.

Below `retarget`. A free class has two categories, present and absent; a group has one a class, and "none of them"
where that occurs. Under label shift the chance that category d is called c stays, and only the categories' shares
change: everything here is a sum over categories of share times rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from medtail.judging.bootstrap import PatientWeights, patient_sums, resample_sums
from medtail.judging.counts import ratio
from medtail.tables.predictions import Predictions


@final
@dataclass(frozen=True)
class Family:
    """The assessed rows of a group or a free class, by category.

    D categories: its G classes in order, then "none of them".

    Attributes:
        names: The classes, G of them.
        scores: float64 [n, G].
        category: int64 [n] in [0, D).
        patients: Patient numbers, int [n].
        weights: Of those patients.
        counts: Rows a category, float64 [D, 1 + B]: as they are, then in each resample.
        cells: Rows of a category called a class, float64 [D, G, 1 + B].
    """

    names: tuple[str, ...]
    scores: np.ndarray
    category: np.ndarray
    patients: np.ndarray
    weights: PatientWeights
    counts: np.ndarray
    cells: np.ndarray

    @property
    def num_categories(self) -> int:
        """D."""
        return len(self.counts)

    def patients_of(self, category: int, *, inside: bool) -> int:
        """Return how many patients have a row in a category, or outside it."""
        return len(np.unique(self.patients[(self.category == category) == inside]))

    def shares(self, given: np.ndarray) -> np.ndarray:
        """Append the share of "none of them" to the classes' shares, [G, …] to [D, …]."""
        return np.concatenate([given, np.clip(1.0 - given.sum(axis=0, keepdims=True), 0.0, 1.0)])

    def left_out(self, shares: np.ndarray) -> list[str]:
        """Return the classes that have a share but no row: what they would do is unknown."""
        return [name for d, name in enumerate(self.names) if self.counts[d, 0] == 0 and shares[d].max() > 0]

    def effective(self, c: int, shares: np.ndarray) -> np.ndarray:
        """Give the share of categories without a row to the other categories beside c, [D, 1 + B].

        NaN where there is no row beside c.
        """
        there = np.where(self.counts > 0, shares, 0.0)
        others = there.sum(axis=0) - there[c]
        scale = ratio(np.broadcast_to(1.0 - shares[c], others.shape), others)
        result: np.ndarray = there * scale
        result[c] = shares[c]
        return result

    def rates(self, c: int, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return recall and specificity of class c at the shares [D, 1 or 1 + B], float64 [1 + B] each."""
        called = ratio(self.cells[:, c], self.counts)
        weighted = np.where(self.counts > 0, self.effective(c, shares) * called, 0.0)
        weighted[c] = 0.0
        elsewhere = np.where((np.arange(self.num_categories) != c)[:, None], self.counts, 0.0).sum(axis=0)
        false = ratio(weighted.sum(axis=0), np.broadcast_to(1.0 - shares[c], elsewhere.shape))
        return called[c], np.where(elsewhere > 0, 1.0 - false, np.nan)

    def average_precisions(self, c: int, targets: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        """Return the average precision of class c at several shares, in one pass over its sorted rows.

        Args:
            c: The class.
            targets: Shares float64 [D, 1 or 1 + B], or None for those of the rows (in each resample, its own).

        Returns:
            A float64 [1 + B] for each of `targets`: on the rows as they are, then in each resample; NaN without
            positives or without other rows.
        """
        order = np.argsort(-self.scores[:, c], kind="stable")
        ranked, category = self.scores[order, c], self.category[order]
        ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)) + 1 if len(ranked) else np.empty(0, int)
        starts = np.append(0, ends[:-1])
        holding = np.append(0, np.cumsum(category == c))
        ends = ends[holding[ends] > holding[starts]] if len(ends) else ends
        width = self.counts.shape[1]
        if not len(ends):
            return [np.full(width, np.nan) for _ in targets]
        known = [
            self.effective(c, ratio(self.counts, self.counts.sum(axis=0)) if shares is None else shares)
            for shares in targets
        ]
        found = [np.empty(width) for _ in targets]
        at = [np.flatnonzero(category == d) for d in range(self.num_categories)]
        for columns, drawn in self._blocks(order):
            # per category the share of its rows at or above each end, [D, E, columns]
            above = np.zeros((self.num_categories, len(ends), len(columns)))
            for d, rows in enumerate(at):
                summed = np.zeros((len(rows) + 1, len(columns)), dtype=np.int64)
                np.cumsum(drawn[rows], axis=0, dtype=np.int64, out=summed[1:])
                above[d] = summed[np.searchsorted(rows, ends)] / np.maximum(summed[-1], 1)
            gained = np.diff(above[c], axis=0, prepend=0.0)
            for result, shares in zip(found, known, strict=True):
                share = shares[:, columns]
                usable = (self.counts[c, columns] > 0) & ~np.isnan(share).any(axis=0)
                all_called = np.einsum("db,deb->eb", np.where(usable, share, 0.0), above)
                true = share[c] * above[c]
                # nothing of a resample stands at or above the end: it gains nothing there either
                precision = np.divide(true, all_called, out=np.zeros_like(true), where=all_called > 0)
                result[columns] = np.where(usable, (gained * precision).sum(axis=0), np.nan)
        return found

    def _blocks(self, order: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield columns of `counts` and the weights of the ordered rows in them: the rows as they are come first."""
        yield np.array([0]), np.ones((len(order), 1), dtype=np.uint8)
        for number, block in enumerate(self.weights.blocks):
            first = 1 + number * block.shape[1]
            columns = np.arange(first, min(first + block.shape[1], self.counts.shape[1]))
            yield columns, block[self.patients[order]][:, : len(columns)]


def gather_family(
    predictions: Predictions,
    called: np.ndarray,
    columns: tuple[int, ...],
    patients: np.ndarray,
    weights: PatientWeights,
) -> Family:
    """Sort the rows of a group or a free class by category and count what is called there.

    Rows whose category is unknown are left out: not assessed, or two classes of the group at once.

    Args:
        predictions: Scores and targets.
        called: Decisions, bool [N, C].
        columns: The group's column indices, or the free class's one.
        patients: Patient numbers, int [N].
        weights: Of those patients.

    Returns:
        The family.
    """
    targets = predictions.targets[:, list(columns)]
    size = len(columns)
    present = targets == 1
    one, none = present.sum(axis=1) == 1, (targets == 0).all(axis=1)
    kept = np.flatnonzero(one | none)
    category = np.where(one, present.argmax(axis=1), size)[kept]
    calls = called[:, list(columns)][kept]
    cells = np.zeros((len(kept), (size + 1) * (size + 1)))
    at = np.arange(len(kept))
    cells[at, category * (size + 1) + size] = 1.0
    for c in range(size):
        cells[at, category * (size + 1) + c] = calls[:, c]
    drawn = resample_sums(patient_sums(cells, patients[kept], weights.num_patients), weights)
    table = np.concatenate([cells.sum(axis=0)[:, None], drawn], axis=1).reshape(size + 1, size + 1, -1)
    return Family(
        names=tuple(predictions.labels.class_names[c] for c in columns),
        scores=predictions.scores[:, list(columns)][kept],
        category=category,
        patients=patients[kept],
        weights=weights,
        counts=table[:, size],
        cells=table[:, :size],
    )
