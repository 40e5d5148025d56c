"""From twenty scores to a valid thyroid report: one rule for every system, so that none wins by its thresholds.

Inside an exclusive group the highest score is called. Foci are called at thresholds chosen on the tune fold and shrunk
toward one half where positives are few; `foci_none` gives way to any focus that outscores it, and stands in where no
focus passes. A decoded report is always valid.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medtail.challenges.thyro_lmd_labels import EXCLUSIVE, FOCI, GROUPS, LABELS, group_columns
from medtail.judging.decisions import decide
from medtail.judging.thresholds import label_threshold, refuse_unless_tune
from medtail.tables.predictions import Predictions

SHRINKAGE = 20.0
"""Tune positives at which the fitted threshold and one half weigh the same."""


def shrink_to_half(threshold: float, *, positives: int) -> float:
    """Pull a threshold toward 0.5 where few positives chose it: 0.5 + (t - 0.5) · n / (n + 20).

    Args:
        threshold: The fitted cut, in [0, 1]; of no account without positives.
        positives: Tune positives n >= 0.

    Example:
        >>> round(shrink_to_half(0.12, positives=5), 3), shrink_to_half(0.12, positives=0)
        (0.424, 0.5)
    """
    if positives == 0:
        return 0.5
    return 0.5 + (threshold - 0.5) * positives / (positives + SHRINKAGE)


def foci_thresholds(tune: Predictions) -> dict[str, float]:
    """Choose a threshold for each of the five foci on the tune fold.

    Args:
        tune: Scores and targets of tune rows only.

    Returns:
        Label → threshold, best F1 shrunk toward one half.

    Raises:
        MedtailError: A row is outside the tune fold, or there are none.
    """
    refuse_unless_tune(tune)
    chosen = {}
    for name in FOCI:
        c = tune.labels.index(name)
        positives = int((tune.targets[:, c] == 1).sum())
        fitted = label_threshold(tune.scores[:, c], tune.targets[:, c])
        chosen[name] = shrink_to_half(fitted, positives=positives)
    return chosen


def decode(scores: np.ndarray, *, thresholds: Mapping[str, float] | None = None) -> np.ndarray:
    """Turn scores into valid reports.

    Args:
        scores: float [N, 20], columns in the protocol's order.
        thresholds: Of the foci; 0.5 each if None.

    Returns:
        bool [N, 20]; every row is a valid report.

    Example:
        >>> scores = np.full((1, 20), 0.1)
        >>> scores[0, LABELS.index("comp_solid")] = 0.3
        >>> [name for name, called in zip(LABELS.class_names, decode(scores)[0]) if called]
        ['comp_solid', 'echo_anechoic', 'shape_wider', 'margin_smooth', 'foci_none']
    """
    scores = np.asarray(scores, dtype=np.float64)
    assert scores.ndim == 2, "a row an image"
    assert scores.shape[1] == LABELS.num_classes, "a column a label"
    limits = np.full(LABELS.num_classes, 0.5)
    for name, limit in (thresholds or {}).items():
        limits[LABELS.index(name)] = limit
    called = decide(scores, thresholds=limits, groups=[group_columns(group) for group in EXCLUSIVE])
    none, *others = group_columns("foci")
    any_focus = called[:, others].any(axis=1)
    outscores = scores[:, none] > scores[:, others].max(axis=1)
    stays = ~any_focus | (called[:, none] & outscores)
    called[:, none] = stays
    called[np.ix_(stays, others)] = False
    return called


def call_at_half(scores: np.ndarray) -> np.ndarray:
    """Call every label at score >= 0.5, as nobody should: the column beside the decoded one.

    Example:
        >>> call_at_half(np.array([[0.5, 0.4]])).tolist()
        [[True, False]]
    """
    return np.asarray(np.asarray(scores) >= 0.5)


def invalid_groups(called: np.ndarray) -> dict[str, np.ndarray]:
    """Say which reports break the lexicon, group by group.

    Args:
        called: bool [N, 20].

    Returns:
        Group → bool [N], True where an exclusive group names none or several members, or the foci name none or
        name `foci_none` beside others.

    Example:
        >>> {group: bool(wrong[0]) for group, wrong in invalid_groups(decode(np.zeros((1, 20)))).items()}["foci"]
        False
    """
    found = {}
    for group in GROUPS:
        cells = called[:, group_columns(group)]
        named = cells.sum(axis=1)
        found[group] = (named == 0) | (cells[:, 0] & (named > 1)) if group == "foci" else named != 1
    return found
