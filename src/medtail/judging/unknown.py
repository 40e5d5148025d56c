"""Images of classes the model was never shown: does its confidence give them away?"""

from __future__ import annotations

from typing import Any

import numpy as np

from medtail.errors import MedtailError
from medtail.judging.abstention import decision_confidence, decision_families, rank_runs, row_weights
from medtail.judging.bootstrap import PatientWeights, draw_weights, number_patients, rank_rows, resample_ranked
from medtail.judging.counts import ratio
from medtail.judging.evaluation import EvaluationConfig
from medtail.judging.headers import results_header
from medtail.judging.proportions import interval_row
from medtail.tables.predictions import Predictions
from medtail.tables.results import Results, results_from_rows

KNOWN_RECALL = 0.95
"""Share of known images to be accepted, where the unknown ones accepted with them are counted."""


def unknown_detection(known: np.ndarray, unknown: np.ndarray, *, recall: float = KNOWN_RECALL) -> tuple[float, float]:
    """Say whether confidence tells images of known classes from those of classes never trained on.

    Args:
        known: Confidence of images of known classes, float [N].
        unknown: Confidence of images of other classes, float [M].
        recall: Share of the known to be accepted, in (0, 1).

    Returns:
        The chance that a known image is the more confident (AUROC, ties half), and the share of the unknown accepted
        with at least `recall` of the known. NaN where either is empty.

    Example:
        >>> unknown_detection(np.array([0.9, 0.8, 0.7]), np.array([0.75, 0.1]))
        (0.8333333333333334, 0.5)
    """
    confidence = np.concatenate([known, unknown])
    is_known = np.arange(len(confidence)) < len(known)
    if is_known.all() or not is_known.any():
        return float("nan"), float("nan")
    weights = draw_weights(1, resamples=0)
    found = _unknown(confidence, is_known, np.zeros(len(confidence), dtype=np.int32), weights, recall)
    return float(found[0][0]), float(found[1][0])


def judge_unknown(
    known: Predictions, unknown: Predictions, *, config: EvaluationConfig | None = None, recall: float = KNOWN_RECALL
) -> Results:
    """Measure how well confidence sets known classes apart from unknown ones, with patient-level intervals.

    Args:
        known: Scores of images of the model's classes.
        unknown: Scores the same model gave images of other classes; their targets are not read.
        config: Resamples, scheme, seed and interval; the defaults if None.
        recall: Share of the known to be accepted, in (0, 1).

    Returns:
        `unknown_auroc` and `unknown_accepted@RECALL`, a row an exclusive group or free class; support is the number
        of unknown images.

    Raises:
        MedtailError: Other classes, or no rows.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> def rows(scores):
        ...     ids = np.array([str(s) for s in scores], dtype=object)
        ...     both = np.array([[s, 1 - s] for s in scores])
        ...     return Predictions(ids, ids, both, both.round(), LabelSpace.from_columns(["t=x", "t=y"]), ids)
        >>> judge_unknown(rows([0.9, 0.8, 0.7]), rows([0.75, 0.55])).value("unknown_accepted@0.95", class_name="t")
        0.5
    """
    config = config or EvaluationConfig()
    if known.labels.class_names != unknown.labels.class_names:
        raise MedtailError(f"{unknown.name}: its classes are not those of {known.name}, in their order.")
    if not len(known) or not len(unknown):
        raise MedtailError(f"{known.name}, {unknown.name}: expected known and unknown images; one has no rows.")
    patients, total = number_patients(np.concatenate([known.patients, unknown.patients]))
    weights = draw_weights(total, resamples=config.bootstrap, scheme=config.scheme, seed=config.seed)
    confidence = np.concatenate([decision_confidence(known), decision_confidence(unknown)])
    is_known = np.arange(len(patients)) < len(known)
    rows: list[dict[str, Any]] = []
    for name, columns in decision_families(known):
        found = _unknown(confidence[:, columns[0]], is_known, patients, weights, recall)
        for metric, values in zip(("unknown_auroc", f"unknown_accepted@{recall:g}"), found, strict=True):
            place = {"metric": metric, "class": name, "support": len(unknown)}
            rows.append({**place, **interval_row(float(values[0]), values[1:], level=config.interval)})
    return results_from_rows(
        list(rows), header={**results_header(known, num_patients=total, config=config), "unknown": unknown.name}
    )


def _unknown(
    confidence: np.ndarray, is_known: np.ndarray, patients: np.ndarray, weights: PatientWeights, recall: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return AUROC and the share of unknown accepted, on the rows as they are and in each resample, [1 + B] each."""
    if not 0.0 < recall < 1.0:
        raise MedtailError(f"recall {recall!r}: expected a share in (0, 1).")
    ranked = rank_runs(confidence)
    accepted = []
    for lanes in row_weights(patients, weights):
        known, unknown = (np.cumsum(ranked.sums(lanes * mask[:, None]), axis=0) for mask in (is_known, ~is_known))
        share = ratio(known, np.broadcast_to(known[-1], known.shape))
        # rounding must not ask for one more image than `recall` of them
        first = (share >= recall - 1e-12).argmax(axis=0)
        accepted.append(np.where(known[-1] > 0, ratio(unknown[first, np.arange(len(first))], unknown[-1]), np.nan))
    # ranks stand for the confidence, which has no upper end
    place = np.searchsorted(np.unique(confidence), confidence) / max(len(confidence), 1)
    rows = rank_rows(place, is_known.astype(float), patients)
    ones = PatientWeights(np.ones((1, weights.num_patients, 1), dtype=np.uint8), 1, "multinomial")
    point = resample_ranked([rows], ones, engine="numpy")[1][0, :1]
    return np.append(point, resample_ranked([rows], weights)[1][0]), np.concatenate(accepted)
