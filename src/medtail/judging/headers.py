"""The header record of results that are not of `evaluate`: what was judged, how it was resampled, which versions."""

from __future__ import annotations

from typing import Any

from medtail.judging.evaluation import EvaluationConfig
from medtail.runs import versions
from medtail.tables.predictions import Predictions


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
        >>> from medtail.tables.labels import LabelSpace
        >>> ids = np.array(["a"], dtype=object)
        >>> rows = Predictions(ids, ids, np.ones((1, 1)), np.ones((1, 1)), LabelSpace(("Hernia",)),
        ...                    np.array(["test"], dtype=object))
        >>> results_header(rows, num_patients=1, config=EvaluationConfig())["fold"]
        'test'
    """
    return {
        "name": predictions.name,
        "fold": " and ".join(sorted(set(predictions.folds.astype(str)) - {""})),
        "num_rows": len(predictions),
        "num_patients": num_patients,
        "labels": predictions.labels.to_json(),
        "task": predictions.labels.task,
        "digests": {**predictions.digests, "predictions": predictions.digest},
        "bootstrap": {
            "resamples": config.bootstrap,
            "scheme": config.scheme,
            "interval": config.interval,
            "seed": config.seed,
            "unit": "patient" if predictions.has_patients else "image",
        },
        "versions": versions(),
    }
