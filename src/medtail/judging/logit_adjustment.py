"""Logit adjustment after training: lower each class's score by what its frequency alone would give it.

A model trained on images as they come has learnt how common each class is. Taking τ times the log prior off again
ranks the classes of an exclusive group as if they were equally common, and lifts rare findings toward the threshold
0.5. τ is chosen on tune. The scores are then no longer probabilities. Of a finding outside a group neither the order of
the images nor a threshold chosen on tune feels it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medtail.errors import MedtailError
from medtail.judging.calibration_maps import AffineMap, AnyMap, SoftmaxMap
from medtail.judging.calibration_record import apply_maps
from medtail.judging.decisions import decide
from medtail.tables.predictions import Predictions

TAUS = tuple(step / 4 for step in range(9))
"""What is chosen from: 0, 0.25, …, 2."""
Groups = Sequence[tuple[str, tuple[int, ...]]]


def decided_f1(scores: np.ndarray, targets: np.ndarray, *, groups: Sequence[Sequence[int]]) -> float:
    """Return macro F1 of plain decisions: the highest class of each group, 0.5 elsewhere.

    Args:
        scores: float [N, C].
        targets: [N, C] in {0, 1, NaN}.
        groups: Columns of the exclusive groups.

    Returns:
        The mean over classes with a positive; NaN where none has.

    Example:
        >>> round(decided_f1(np.array([[0.9], [0.8], [0.1]]), np.array([[1.0], [0], [1]]), groups=()), 3)
        0.5
    """
    called, is_assessed = decide(scores, groups=groups), ~np.isnan(targets)
    is_positive = targets == 1
    hits = (called & is_positive).sum(axis=0)
    either = (called & is_assessed).sum(axis=0) + is_positive.sum(axis=0)
    counts = is_positive.any(axis=0)
    return float((2 * hits[counts] / either[counts]).mean()) if counts.any() else float("nan")


def log_priors(predictions: Predictions) -> np.ndarray:
    """Return each class's log-odds of prevalence in the train fold, or in these rows where that is not known.

    Returns:
        float64 [C], finite: counts are held half an image away from never and always.
    """
    counts = predictions.train_counts
    positives = (predictions.targets == 1).sum(axis=0) if counts is None else np.array(counts.images)
    assessed = (~np.isnan(predictions.targets)).sum(axis=0) if counts is None else np.array(counts.assessed)
    held = np.clip(positives, 0.5, np.maximum(assessed - 0.5, 0.5))
    return np.asarray(np.log(held / np.maximum(assessed - held, 0.5)))


def adjusting_maps(predictions: Predictions, *, tau: float, groups: Groups) -> tuple[AnyMap, ...]:
    """Make the maps that take τ log π off: by group with π the class's share, by class with π's log-odds.

    Args:
        predictions: Rows that tell the priors.
        tau: Strength; 0 leaves scores as they are.
        groups: Name and columns of the exclusive groups whose scores add up to 1.

    Returns:
        A map a group, and one a class outside.

    References:
        menon2021, eq. 9.
    """
    names, odds = predictions.labels.class_names, log_priors(predictions)
    patients = [len(set(predictions.patients[row])) for row in (predictions.targets == 1).T]
    note = f"logit adjustment, tau {tau:g}"
    maps: list[AnyMap] = []
    for name, columns in groups:
        shares = 1.0 / (1.0 + np.exp(-odds[list(columns)]))
        bias = -tau * np.log(shares / shares.sum())
        maps.append(
            SoftmaxMap(
                group=name,
                classes=tuple(names[column] for column in columns),
                alpha=0.0,
                bias=tuple(float(value) for value in bias),
                positive_patients=tuple(patients[column] for column in columns),
                note=note,
            )
        )
    grouped = {column for _, columns in groups for column in columns}
    maps += [
        AffineMap(class_name=name, alpha=0.0, beta=float(-tau * odds[c]), positive_patients=patients[c], note=note)
        for c, name in enumerate(names)
        if c not in grouped
    ]
    return tuple(maps)


def choose_tau(predictions: Predictions, *, groups: Groups) -> tuple[float, Mapping[str, float]]:
    """Choose τ by the macro F1 of plain decisions on tune; the smallest of equally good ones.

    Args:
        predictions: Rows of the tune fold.
        groups: Name and columns of the exclusive groups whose scores add up to 1.

    Returns:
        τ, and the macro F1 of each that was tried, by its text.

    Raises:
        MedtailError: No class has a positive.

    References:
        menon2021.
    """
    columns = [members for _, members in groups]
    found: dict[str, float] = {}
    for tau in TAUS:
        maps = adjusting_maps(predictions, tau=tau, groups=groups)
        adjusted = apply_maps(maps, predictions.scores, predictions.labels)
        found[f"{tau:g}"] = decided_f1(adjusted, predictions.targets, groups=columns)
    if all(np.isnan(value) for value in found.values()):
        raise MedtailError(
            f"{predictions.name}: no class has a positive tune row; tau cannot be chosen. Score more images."
        )
    best = max(found.values())
    return next(tau for tau in TAUS if found[f"{tau:g}"] == best), found
