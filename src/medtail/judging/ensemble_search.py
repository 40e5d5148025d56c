"""Greedy search for an ensemble: which member helps most next, by AP on the tune fold.

Members are drawn with replacement, so a count becomes a weight; the best prefix of the search is kept. One search for
all classes (`shared`, by their mean AP) or one a class. What it finds fits the tune fold's noise too: see
`ensemble_fitting` for the shrinkage and the guard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from medtail.judging.bootstrap import in_threads

PATIENCE = 3
"""Rounds without a gain after which a search ends."""


@final
@dataclass(frozen=True, eq=False)
class ClassRows:
    """Members' values of one class, positives and negatives apart.

    Attributes:
        positives: float64 [M, P].
        negatives: float64 [M, n].
    """

    positives: np.ndarray
    negatives: np.ndarray

    @property
    def is_defined(self) -> bool:
        """Whether the class has a positive, without which AP means nothing."""
        return bool(self.positives.shape[1] > 0)


def class_rows(space: np.ndarray, targets: np.ndarray) -> list[ClassRows]:
    """Take members' values apart by class and target; rows that were not assessed stay out.

    Args:
        space: float64 [M, N, C].
        targets: [N, C] in {0, 1, NaN}.
    """
    return [
        ClassRows(
            np.ascontiguousarray(space[:, targets[:, c] == 1, c]), np.ascontiguousarray(space[:, targets[:, c] == 0, c])
        )
        for c in range(targets.shape[1])
    ]


def member_precision(rows: Sequence[ClassRows], *, threads: int | None = None) -> np.ndarray:
    """Compute every member's AP of every class.

    Args:
        rows: Of C classes.
        threads: Worker threads; as many as the process may use if None.

    Returns:
        float64 [M, C], NaN for classes without positives.

    Example:
        >>> rows = class_rows(np.array([[[0.9], [0.2]], [[0.1], [0.5]]]), np.array([[1.0], [0.0]]))
        >>> member_precision(rows).tolist()
        [[1.0], [0.5]]
    """
    found = in_threads(lambda part: _gains(part, None), rows, threads=threads)
    return np.stack(found, axis=1)


def _gains(rows: ClassRows, counts: np.ndarray | None) -> np.ndarray:
    """Return the AP of what is gathered plus each member, [M]."""
    from medtail.judging.ensemble_kernels import candidate_precision

    members = rows.positives.shape[0]
    found = np.full(members, np.nan)
    if rows.is_defined:
        chosen = np.zeros(members) if counts is None else counts
        sorted_positives = np.sort(chosen @ rows.positives + rows.positives, axis=1)
        candidate_precision(sorted_positives, chosen @ rows.negatives, rows.negatives, found)
    return found


def search_class(rows: ClassRows, *, rounds: int) -> np.ndarray:
    """Search one class's weights.

    Args:
        rows: Members' values.
        rounds: Members drawn at most.

    Returns:
        Shares, float64 [M], summing to 1; equal ones where the class has no positive.
    """
    members = rows.positives.shape[0]
    if not rows.is_defined:
        return np.full(members, 1.0 / members)
    return _search(members, rounds, lambda counts: _gains(rows, counts))


def search_shared(rows: Sequence[ClassRows], *, rounds: int, threads: int | None = None) -> np.ndarray:
    """Search one set of weights for all classes, by the mean AP of those with positives.

    Args:
        rows: Of C classes; at least one with positives.
        rounds: Members drawn at most.
        threads: Worker threads; as many as the process may use if None.

    Returns:
        Shares, float64 [M], summing to 1.
    """
    defined = [part for part in rows if part.is_defined]
    members = rows[0].positives.shape[0]
    if not defined:
        return np.full(members, 1.0 / members)
    return _search(
        members,
        rounds,
        lambda counts: np.mean(in_threads(lambda part: _gains(part, counts), defined, threads=threads), axis=0),
    )


def search_classes(rows: Sequence[ClassRows], *, rounds: int, threads: int | None = None) -> np.ndarray:
    """Search every class's weights for itself.

    Returns:
        Shares, float64 [M, C].
    """
    return np.stack(in_threads(lambda part: search_class(part, rounds=rounds), rows, threads=threads), axis=1)


def _search(members: int, rounds: int, value: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Draw the member that helps most, again and again; return the shares of the best prefix."""
    counts, best, highest, waited = np.zeros(members), np.zeros(members), -1.0, 0
    for _ in range(rounds):
        gains = value(counts)
        chosen = int(np.argmax(gains))
        counts[chosen] += 1.0
        if gains[chosen] > highest:
            highest, best, waited = float(gains[chosen]), counts.copy(), 0
        else:
            waited += 1
            if waited >= PATIENCE:
                break
    return np.asarray(best / best.sum())
