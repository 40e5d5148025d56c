"""The weights of an ensemble: chosen once on the tune fold, kept as a file, applied to any other table.

The file names its members by their digests, so that weights fitted to some models are not put on others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np

from medtail.errors import MedtailError, Problems, listing
from medtail.runs import read_json, write_json
from medtail.tables.combine import POOLINGS, Pooling, combine_predictions
from medtail.tables.predictions import Predictions


@final
@dataclass(frozen=True, eq=False)
class EnsembleWeights:
    """Each member's share of each class.

    Attributes:
        members: The members' names, in order.
        models: Their model digests; "" where unknown.
        class_names: The classes.
        how: What is averaged.
        method: How the weights were chosen.
        weights: float64 [M, C], summing to 1 over the members.
        evidence: What tune said: members' AP, what the guard found, positive patients; a JSON object.
    """

    members: tuple[str, ...]
    models: tuple[str, ...]
    class_names: tuple[str, ...]
    how: Pooling
    method: str
    weights: np.ndarray
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def combine(self, tables: Sequence[Predictions]) -> Predictions:
        """Combine tables of the same members, in the same order.

        Raises:
            MedtailError: Another number of tables, other classes or other models; or the tables differ in their rows.
        """
        problems = Problems("ensemble weights")
        if len(tables) != len(self.members):
            problems.add(
                f"found {len(tables)} tables; expected {len(self.members)}, in the order of the fit:"
                f" {listing(self.members, limit=12)}."
            )
        problems.raise_if_any()
        for number, (table, name, model) in enumerate(zip(tables, self.members, self.models, strict=True), start=1):
            given = table.digests.get("model", "")
            if model and given and given != model:
                problems.add(
                    f"table {number} ({table.name}): scores of another model ({given[:12]}) than member {name!r}"
                    f" ({model[:12]}); expected the members in the order of the fit."
                )
            if set(table.labels.class_names) != set(self.class_names):
                problems.add(f"table {number} ({table.name}): other classes than those of the fit.")
        problems.raise_if_any()
        columns = [self.class_names.index(name) for name in tables[0].labels.class_names]
        return combine_predictions(tables, how=self.how, weights=self.weights[:, columns])

    def write(self, path: Path | str) -> None:
        """Write as JSON. Atomic."""
        write_json(
            path,
            {
                "kind": "ensemble weights",
                "members": list(self.members),
                "models": list(self.models),
                "classes": list(self.class_names),
                "how": self.how,
                "method": self.method,
                "weights": self.weights.tolist(),
                "evidence": dict(self.evidence),
            },
        )


def read_ensemble(path: Path | str) -> EnsembleWeights:
    """Read what `EnsembleWeights.write` wrote.

    Raises:
        MedtailError: No such file, or it holds no weights of an ensemble.
    """
    record = read_json(path)
    try:
        if record["kind"] != "ensemble weights" or record["how"] not in POOLINGS:
            raise ValueError(f"kind {record['kind']!r}, how {record.get('how')!r}")
        weights = np.array(record["weights"], dtype=np.float64)
        members, classes = tuple(map(str, record["members"])), tuple(map(str, record["classes"]))
        models = tuple(map(str, record["models"]))
        if weights.shape != (len(members), len(classes)) or len(models) != len(members):
            raise ValueError(f"{weights.shape} weights of {len(members)} members and {len(classes)} classes")
        if not np.isfinite(weights).all() or (weights < 0).any() or not np.allclose(weights.sum(axis=0), 1.0):
            raise ValueError("weights that do not sum to 1")
        evidence, method = dict(record["evidence"]), str(record["method"])
    except (KeyError, TypeError, ValueError) as error:
        raise MedtailError(
            f"{path}: holds no weights of an ensemble ({error}); expected what `medtail combine fit` writes."
        ) from error
    return EnsembleWeights(members, models, classes, record["how"], method, weights, evidence)
