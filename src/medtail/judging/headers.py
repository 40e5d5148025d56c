"""What the header record of any Results says of itself: what was judged, how it was resampled, which versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medtail.judging.estimates import ClassCensus
from medtail.runs import versions
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions
from medtail.tables.tail import TailGroups

if TYPE_CHECKING:  # `evaluation` stands above and uses these pieces
    from medtail.judging.evaluation import EvaluationConfig


def results_header(predictions: Predictions, *, num_patients: int, config: EvaluationConfig) -> dict[str, Any]:
    """Return what every judgement of predictions must say about itself.

    Args:
        predictions: The judged rows.
        num_patients: Patients among them.
        config: Resamples, scheme, seed and interval.

    Returns:
        A JSON object; a caller adds its own keys.

    Example:
        >>> import numpy as np
        >>> from medtail.judging.evaluation import EvaluationConfig
        >>> ids = np.array(["a"], dtype=object)
        >>> rows = Predictions(ids, ids, np.ones((1, 1)), np.ones((1, 1)), LabelSpace(("Hernia",)),
        ...                    np.array(["test"], dtype=object))
        >>> results_header(rows, num_patients=1, config=EvaluationConfig())["fold"]
        'test'
    """
    return {
        **rows_header(predictions, num_patients=num_patients),
        "bootstrap": {
            "resamples": config.bootstrap,
            "scheme": config.scheme,
            "interval": config.interval,
            "seed": config.seed,
            "unit": "patient" if predictions.has_patients else "image",
        },
        "versions": versions(),
    }


def rows_header(predictions: Predictions, *, num_patients: int) -> dict[str, Any]:
    """Return what was judged: name, fold, how many rows and patients, classes and digests."""
    return {
        "name": predictions.name,
        "fold": " and ".join(sorted(set(predictions.folds.astype(str)) - {""})),
        "num_rows": len(predictions),
        "num_patients": num_patients,
        "labels": predictions.labels.to_json(),
        "task": predictions.labels.task,
        "digests": {**predictions.digests, "predictions": predictions.digest},
    }


def tail_header(groups: TailGroups | None) -> dict[str, Any] | None:
    """Return the tail rule, its cuts and every class's group; None where the groups are unknown."""
    if groups is None:
        return None
    return {
        "rule": groups.rule,
        "cuts": list(groups.cuts),
        "description": groups.describe(),
        "groups": dict(groups.group_of),
    }


def support_header(labels: LabelSpace, census: ClassCensus) -> dict[str, list[str]]:
    """Return the classes without positives, and those without negatives."""
    counts = list(zip(labels.class_names, census.rows, census.positives, strict=True))
    return {
        "unsupported": [name for name, _, positives in counts if positives == 0],
        "without_negatives": [name for name, rows, positives in counts if rows > 0 and rows == positives],
    }
