"""Thresholds chosen on the tune fold: best F1, shrunken for rare classes toward what the scores alone suggest.

With five positives the F1-best cut follows those five images; the cut that maximises the *expected* F1 of
calibrated scores uses every image. The two are mixed on the logit scale by the number of positive patients.
Evaluated rows never choose their own thresholds: rows outside `tune` are refused.
"""

from __future__ import annotations

import numpy as np

from medtail.errors import MedtailError, listing
from medtail.judging.counts import assessed
from medtail.tables.predictions import Predictions

SHRINKAGE_PATIENTS = 20.0
"""Positive patients at which the labels and the scores weigh the same."""
FEWEST_PATIENTS = 3
"""Below this many positive patients the labels choose nothing."""
EDGE = 1e-12
"""Scores are kept this far from 0 and 1 before their logit is taken."""


def choose_thresholds(predictions: Predictions, *, shrinkage_patients: float = SHRINKAGE_PATIENTS) -> dict[str, float]:
    """Choose each class's threshold on the tune fold.

    logit t = ω · logit t_label + (1 - ω) · logit t_plug with ω = n⁺ / (n⁺ + κ) for n⁺ positive patients; ω = 0 below
    three. t_label maximises the F1 of the labels, t_plug the expected F1 if the scores were probabilities. Classes
    of an exclusive group get thresholds too, but decisions inside a group are by the highest score.

    Args:
        predictions: Scores and targets of tune rows, and of nothing else.
        shrinkage_patients: κ >= 0; 0 trusts the labels alone (from three positive patients on).

    Returns:
        Class name → threshold in (0, 1); 0.5 for a class with no assessed row.

    Raises:
        MedtailError: A row is not in the tune fold, there are no rows, or κ is negative.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> ids = np.array(["a", "b", "c", "d"], dtype=object)
        >>> tune = Predictions(ids, ids, np.array([[0.8], [0.6], [0.4], [0.1]]), np.array([[1.0], [1], [1], [0]]),
        ...                    LabelSpace(("Hernia",)), np.array(["tune"] * 4, dtype=object))
        >>> {name: round(value, 3) for name, value in choose_thresholds(tune).items()}
        {'Hernia': 0.345}

    References:
        lipton2014, theorem 1 (the optimal threshold is half the optimal F1).
    """
    refuse_unless_tune(predictions)
    if shrinkage_patients < 0:
        raise MedtailError(f"shrinkage_patients {shrinkage_patients!r}: expected a number of patients >= 0.")
    chosen: dict[str, float] = {}
    for c, name in enumerate(predictions.labels.class_names):
        scores, targets, _ = assessed(predictions.scores[:, c], predictions.targets[:, c])
        positive_patients = len(set(predictions.patients[predictions.targets[:, c] == 1]))
        chosen[name] = _shrunken(scores, targets, positive_patients, shrinkage_patients)
    return chosen


def refuse_unless_tune(predictions: Predictions) -> None:
    """Refuse to choose anything on rows that are not in the tune fold.

    Raises:
        MedtailError: Some rows are elsewhere, or there are none.
    """
    folds = predictions.folds.astype(str)
    if not len(folds):
        raise MedtailError(f"{predictions.name}: no rows; thresholds need the scores of the tune fold.")
    others = sorted(set(folds) - {"tune"})
    if others:
        named = listing([fold or "no fold" for fold in others])
        raise MedtailError(
            f"{predictions.name}: {int((folds != 'tune').sum())} of {len(folds)} rows are not in fold 'tune' (found:"
            f" {named}). Thresholds chosen on rows that are judged, trained on or rewarded flatter the model; score the"
            f" tune fold and choose them there."
        )


def label_threshold(scores: np.ndarray, targets: np.ndarray) -> float:
    """Return the cut with the highest F1, half-way (in logits) to the next lower score; ties take the highest cut.

    Args:
        scores: float [N] in [0, 1].
        targets: [N] in {0, 1, NaN}.

    Returns:
        A threshold in (0, 1); NaN without positives.

    Example:
        >>> label_threshold(np.array([0.8, 0.6, 0.4]), np.array([1, 1, 0])).__round__(3)
        0.5
    """
    s, y, _ = assessed(scores, targets)
    if not y.any():
        return float("nan")
    order = np.argsort(-s, kind="stable")
    s, y = s[order], y[order]
    ends = np.flatnonzero(np.append(s[1:] != s[:-1], True))
    tp = np.cumsum(y)[ends]
    best = int(np.argmax(2.0 * tp / ((ends + 1) + y.sum())))
    lowest = _logit(float(s[ends[best]]))
    below = _logit(float(s[ends[best] + 1])) if best + 1 < len(ends) else lowest
    # rounding through the logit must not lift the cut above the very score it is to accept
    return min(_sigmoid((lowest + below) / 2.0), float(s[ends[best]]))


def plug_in_threshold(scores: np.ndarray) -> float:
    """Return the cut with the highest expected F1 if the scores were probabilities: half that F1.

    Expected F1 of calling the k highest scores is 2 Σ_called s / (k + Σ s); no label is used.

    Args:
        scores: float [N] in [0, 1].

    Returns:
        A threshold in [0, 0.5]; NaN without scores.

    Example:
        >>> round(plug_in_threshold(np.array([0.9, 0.1])), 3)
        0.45
    """
    if not len(scores):
        return float("nan")
    ordered = np.sort(np.asarray(scores, dtype=np.float64))[::-1]
    expected = 2.0 * np.cumsum(ordered) / (np.arange(1, len(ordered) + 1) + ordered.sum())
    return float(expected.max()) / 2.0


def _shrunken(scores: np.ndarray, targets: np.ndarray, positive_patients: int, kappa: float) -> float:
    if not len(scores):
        return 0.5
    plug = _logit(plug_in_threshold(scores))
    if positive_patients < FEWEST_PATIENTS:
        return _sigmoid(plug)
    share = positive_patients / (positive_patients + kappa)
    return _sigmoid(share * _logit(label_threshold(scores, targets)) + (1.0 - share) * plug)


def _logit(score: float) -> float:
    inside = min(max(score, EDGE), 1.0 - EDGE)
    return float(np.log(inside / (1.0 - inside)))


def _sigmoid(logit: float) -> float:
    return float(1.0 / (1.0 + np.exp(-logit)))
