"""From scores to decisions: the highest class of an exclusive group, a threshold everywhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from medtail.judging.counts import Decision, is_called
from medtail.tables.predictions import Predictions

Decider = Callable[[Predictions], np.ndarray]
"""From a table's scores, and its thresholds, to decisions bool [N, C]."""


def decide(
    scored: Predictions | np.ndarray,
    *,
    thresholds: np.ndarray | None = None,
    groups: Sequence[Sequence[int]] | None = None,
    decision: Decision = ">=",
) -> np.ndarray:
    """Say which classes are called present in each image.

    Inside an exclusive group exactly the class of the highest score is called, ties going to the lowest index: a
    group's classes compete, so a threshold a class would call several or none. Elsewhere a class is called where
    score >= threshold.

    Args:
        scored: Predictions, or scores float [N, C] in [0, 1].
        thresholds: float [C]; the predictions' own if None, 0.5 where there are none.
        groups: Column indices of the exclusive groups; the predictions' own if None.
        decision: `>` leaves a score at its threshold uncalled, as MedMNIST and torchmetrics do.

    Returns:
        bool [N, C].

    Example:
        >>> decide(np.array([[0.4, 0.4, 0.5]]), groups=[(0, 1)]).tolist()
        [[True, False, True]]
    """
    if isinstance(scored, Predictions):
        scores = scored.scores
        thresholds = scored.threshold_array if thresholds is None else thresholds
        groups = scored.labels.group_indices if groups is None else groups
    else:
        scores = np.asarray(scored)
    limits = np.full(scores.shape[1], 0.5) if thresholds is None else np.asarray(thresholds, dtype=np.float64)
    assert limits.shape == (scores.shape[1],), "one threshold a class"
    called = is_called(scores, limits, decision=decision)
    rows = np.arange(len(scores))
    for indices in groups or ():
        columns = np.array(indices)
        called[:, columns] = False
        called[rows, columns[np.argmax(scores[:, columns], axis=1)]] = True
    return called
