"""A division of the rows, measured: every subgroup and every subgroup's rest, class by class.

Stands between `subgroup_estimates`, which knows one class on some rows, and `fairness`, which makes rows of results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, final

import numpy as np

from medtail.judging.bootstrap import Engine, PatientWeights, pays_to_compile
from medtail.judging.estimates import ClassCensus, take_census
from medtail.judging.intervals import percentile_interval, unanimous_interval
from medtail.judging.subgroup_estimates import (
    SHARES,
    ClassRows,
    Measured,
    Sums,
    class_rows,
    measure,
    resample_rows,
)
from medtail.judging.subgroups import Division
from medtail.tables.predictions import Predictions
from medtail.tables.tail import TailGroups

if TYPE_CHECKING:
    from medtail.judging.evaluation import EvaluationConfig

FEWEST_PATIENTS = 10
"""Positive, and negative, patients from which a subgroup's value of a class is printed."""


@final
@dataclass(frozen=True)
class Part:
    """A subgroup, or its rest.

    Attributes:
        census: Its counts.
        measured: What was measured, a class each; None where it is too small.
    """

    census: ClassCensus
    measured: list[Measured | None]

    def value(self, metric: str, c: int) -> float:
        """Return a class's value, NaN where it is undefined or not printed."""
        found = self.measured[c]
        return float("nan") if found is None else found.values[metric]

    def values(self, metric: str) -> np.ndarray:
        """Return every class's value, float64 [C]."""
        return np.array([self.value(metric, c) for c in range(len(self.measured))])

    def resampled(self, metric: str, c: int) -> np.ndarray:
        """Return a class's resamples, float64 [B]; only where a value is printed."""
        found = self.measured[c]
        assert found is not None, "asked only where a value is printed"
        return found.resampled[metric]

    def interval(self, metric: str, c: int, *, level: float) -> tuple[float, float]:
        """Return the interval of a class's value; the rule of three for a share of exactly 0 or 1."""
        value, census = self.value(metric, c), self.census
        if metric in SHARES and value in (0.0, 1.0):
            behind = census.positive_patients if SHARES[metric] == "positive" else census.negative_patients
            return unanimous_interval(value, patients=int(behind[c]), level=level)
        return percentile_interval(self.resampled(metric, c), level=level)


@final
@dataclass(frozen=True)
class Study:
    """What is the same for every subgroup.

    Attributes:
        predictions: Scores and targets.
        called: Decisions, bool [N, C].
        patients: Patient numbers into the weights, int [N].
        weights: The resamples.
        config: Of the evaluation.
        census: Counts of the whole sample: the common prevalence of each class.
        tail: Tail group of each class, if known.
        engine: Of the ranked metrics.
    """

    predictions: Predictions
    called: np.ndarray
    patients: np.ndarray
    weights: PatientWeights
    config: EvaluationConfig
    census: ClassCensus
    tail: TailGroups | None
    engine: Engine

    @property
    def names(self) -> tuple[str, ...]:
        """The classes."""
        return self.predictions.labels.class_names

    @property
    def level(self) -> float:
        """Share of resamples inside an interval."""
        return self.config.interval

    def class_rows(self, c: int) -> ClassRows:
        """Return a class's rows."""
        return class_rows(
            self.predictions.scores[:, c],
            self.predictions.targets[:, c],
            called=self.called[:, c],
            patients=self.patients,
            bins=self.config.ece_bins,
            prevalence=float(self.census.positives[c] / max(self.census.rows[c], 1)),
        )

    def resample(self, rows: ClassRows, groups: Mapping[str, np.ndarray]) -> dict[str, Sums]:
        """Add up a class's rows of each group in every resample."""
        found = resample_rows(rows, list(groups.values()), self.weights, engine=self.engine)
        return dict(zip(groups, found, strict=True))

    def measure(self, rows: ClassRows, chosen: np.ndarray, resampled: Sums, name: str) -> Measured:
        """Measure a class on the chosen rows."""
        return measure(
            rows,
            chosen,
            resampled=resampled,
            weights=self.weights,
            engine=self.engine,
            seed=self.config.seed,
            name=name,
        )

    def take_census(self, chosen: np.ndarray) -> ClassCensus:
        """Count what is behind every class in the chosen rows."""
        return take_census(self.predictions.targets[chosen], self.called[chosen], self.patients[chosen])


def choose_engine(predictions: Predictions, weights: PatientWeights, divisions: list[Division]) -> Engine:
    """Return the faster engine for all the passes to come; both give the same."""
    passes = sum(len(division.groups) for division in divisions)
    return "compiled" if pays_to_compile(predictions.scores.size * weights.resamples * passes) else "numpy"


def is_enough(census: ClassCensus) -> np.ndarray:
    """Say of which classes a value may be printed, bool [C]."""
    return np.asarray((census.positive_patients >= FEWEST_PATIENTS) & (census.negative_patients >= FEWEST_PATIENTS))


def measure_division(study: Study, division: Division) -> tuple[dict[str, Part], dict[str, Part]]:
    """Measure every subgroup of a division and every subgroup's rest, class by class.

    Returns:
        Subgroup → what was measured on it, and subgroup → what was measured on its rest.
    """
    rest_rows = {name: division.rest(name) for name in division.groups}
    parts = {name: Part(study.take_census(chosen), []) for name, chosen in division.groups.items()}
    rests = {name: Part(study.take_census(chosen), []) for name, chosen in rest_rows.items()}
    for c in range(len(study.names)):
        wanted = {name for name, part in parts.items() if is_enough(part.census)[c]}
        compared = {name for name in wanted if is_enough(rests[name].census)[c]}
        rows = study.class_rows(c)
        sums = study.resample(rows, division.groups) if wanted else {}
        named = [total for name, total in sums.items() if name not in division.unnamed]
        seen: dict[bytes, Measured] = {}  # the rest of F is M: measured once
        for name, chosen in division.groups.items():
            found = study.measure(rows, chosen, sums[name], f"{c}/{name}") if name in wanted else None
            parts[name].measured.append(found)
            if found is not None:
                seen[rows_key(chosen)] = found
        for name, chosen in rest_rows.items():
            other = seen.get(rows_key(chosen)) if name in compared else None
            if name in compared and other is None:
                known = reduce(Sums.plus, named)
                total = known if name in division.unnamed else known.minus(sums[name])
                other = study.measure(rows, chosen, total, f"{c}/all but {name}")
            rests[name].measured.append(other)
    return parts, rests


def rows_key(chosen: np.ndarray) -> bytes:
    """Return rows (bool [N]) as a key: the same rows under another name are the same."""
    return np.packbits(chosen).tobytes()
