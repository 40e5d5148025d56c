"""The numbers of a study of generated images: every arm on the same test patients, and the differences that were asked.

Each image is of one class and the highest score decides. A resample draws patients, and training seeds with them: the
same for all arms, so that differences are paired by seed, split and patient. *Gap closed* is the share of the way from
real images only to the oracle's balanced ones: (method - real) / (oracle - real).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from medtail.errors import MedtailError
from medtail.judging.bootstrap import (
    PatientWeights,
    draw_weights,
    number_patients,
    patient_sums,
    rank_rows,
    rank_values,
    resample_ranked,
    resample_sums,
)
from medtail.judging.counts import ratio
from medtail.judging.intervals import mean_of_defined, percentile_interval, unanimous_interval
from medtail.judging.multiclass import true_classes
from medtail.judging.paired_draws import draw_seed_weights
from medtail.judging.pairing import pair_rows
from medtail.judging.pvalues import bootstrap_p_value, holm, resamples_needed
from medtail.seeding import stream_seed
from medtail.tables.predictions import Predictions
from medtail.tables.tail import TailGroups

METRICS = ("macro_f1", "tail_recall", "macro_auroc", "head_recall", "balanced_accuracy")
"""The first is primary, the second stands beside it; the other three are told, not tested."""
TESTED = METRICS[:2]
LEAST_RESAMPLES = 2000
COMFORT = 2
FEWEST_PATIENTS = 5


@final
@dataclass(frozen=True)
class Figure:
    """A number with its interval.

    Attributes:
        value: Mean over the training seeds.
        low: Lower end.
        high: Upper end.
        sd: Standard deviation over the seeds; NaN with one.
    """

    value: float
    low: float
    high: float
    sd: float = float("nan")


@final
@dataclass(frozen=True)
class Contrast:
    """A comparison fixed beforehand.

    Attributes:
        arm: The arm of which something is claimed.
        against: What it is held against.
        metric: One of `TESTED`.
    """

    arm: str
    against: str
    metric: str


@final
@dataclass(frozen=True)
class Difference:
    """A contrast's answer.

    Attributes:
        contrast: What was asked.
        found: Arm minus the other.
        p: Two-sided, from the resamples.
        p_holm: Corrected for all contrasts of the study.
    """

    contrast: Contrast
    found: Figure
    p: float
    p_holm: float

    def word(self, *, alpha: float) -> str:
        """Return `better`, `worse` or `no difference shown`."""
        if not self.p_holm < alpha:
            return "no difference shown"
        return "better" if self.found.value > 0 else "worse"


@final
@dataclass(frozen=True, eq=False)
class Resampled:
    """One arm's metrics: a row a training seed, a column a resample.

    Attributes:
        points: Metric → float64 [S].
        drawn: Metric → float64 [B], the seeds averaged with their weights.
    """

    points: Mapping[str, np.ndarray]
    drawn: Mapping[str, np.ndarray]


@final
@dataclass(frozen=True, eq=False)
class Measured:
    """All arms on one set of images.

    Attributes:
        arms: Arm → its metrics.
        interval: Level of the intervals.
        patients: How many there are.
        resamples: B.
        classes: Names, for the metrics `recall:NAME`.
        patients_of: Metric that is a proportion (`recall:CLASS`, `tail_recall`, …) → patients behind it.
    """

    arms: Mapping[str, Resampled]
    interval: float
    patients: int
    resamples: int
    classes: tuple[str, ...]
    patients_of: Mapping[str, int]

    def figure(self, arm: str, metric: str) -> Figure:
        """Return an arm's value; `recall:CLASS` is that of a class."""
        own = self.arms[arm]
        low, high = percentile_interval(own.drawn[metric], level=self.interval)
        points = own.points[metric]
        if metric in self.patients_of and points.mean() in (0.0, 1.0):  # a proportion that no resample can contradict
            low, high = unanimous_interval(points.mean(), patients=self.patients_of[metric], level=self.interval)
        sd = float(np.std(points, ddof=1)) if len(points) > 1 else float("nan")
        return Figure(float(points.mean()), low, high, sd)

    def difference(self, arm: str, against: str, metric: str) -> tuple[Figure, float]:
        """Return arm minus another, and its p."""
        one, two = self.arms[arm], self.arms[against]
        drawn = one.drawn[metric] - two.drawn[metric]
        low, high = percentile_interval(drawn, level=self.interval)
        apart = one.points[metric] - two.points[metric]
        sd = float(np.std(apart, ddof=1)) if len(apart) > 1 else float("nan")
        return Figure(float(apart.mean()), low, high, sd), bootstrap_p_value(drawn)

    def gap_closed(self, arm: str, *, real: str, oracle: str, metric: str = METRICS[0]) -> Figure:
        """Return (arm - real) / (oracle - real); NaN where the oracle is not ahead."""
        own, low_end, high_end = (self.arms[name] for name in (arm, real, oracle))
        gap = high_end.points[metric].mean() - low_end.points[metric].mean()
        if not gap > 0:
            return Figure(float("nan"), float("nan"), float("nan"))
        value = (own.points[metric].mean() - low_end.points[metric].mean()) / gap
        gaps = high_end.drawn[metric] - low_end.drawn[metric]
        drawn = np.where(gaps > 0, ratio(own.drawn[metric] - low_end.drawn[metric], gaps), np.nan)
        low, high = percentile_interval(drawn, level=self.interval)
        return Figure(float(value), low, high)


def resamples_for(contrasts: int, *, interval: float, asked: int | None) -> int:
    """Return how many resamples the correction for so many contrasts needs.

    Example:
        >>> resamples_for(2, interval=0.95, asked=None), resamples_for(2, interval=0.95, asked=300)
        (2000, 300)
    """
    if asked is not None:
        return asked
    return max(LEAST_RESAMPLES, COMFORT * resamples_needed(max(contrasts, 1), alpha=1.0 - interval))


def measure(
    tables: Mapping[str, Sequence[Predictions]],
    *,
    groups: TailGroups,
    resamples: int,
    interval: float = 0.95,
    seed: int = 0,
) -> Measured:
    """Measure every arm in the same resamples of patients and training seeds.

    Args:
        tables: Arm → one table a training seed, all of the same images, in the order of the seeds.
        groups: Which classes are head and tail.
        resamples: B.
        interval: Level of the intervals.
        seed: Of the resamples.

    Returns:
        The metrics of all arms.

    Raises:
        MedtailError: Tables are of different images, an arm has other seeds than the first, or an image is not of
            exactly one class.
    """
    counts = {arm: len(own) for arm, own in tables.items()}
    if len(set(counts.values())) != 1:
        raise MedtailError(f"arms: found {counts} training seeds; expected the same seeds in every arm.")
    paired = pair_rows({f"{arm}, seed {s}": table for arm, own in tables.items() for s, table in enumerate(own)})
    truth = next(iter(paired.values()))
    true = true_classes(truth.targets)
    if (true < 0).any():
        raise MedtailError(
            f"{truth.name}: {int((true < 0).sum())} images are not of exactly one class; expected one each."
        )
    patients, num_patients = number_patients(truth.patients)
    weights = draw_weights(num_patients, resamples=resamples, seed=stream_seed(seed, "genaug"))
    num_seeds = next(iter(counts.values()))
    seeds = draw_seed_weights(num_seeds, resamples=resamples, seed=stream_seed(seed, "genaug", "seeds"))
    names = truth.labels.class_names
    found = {}
    for arm, own in tables.items():
        parts = [
            _metrics(paired[f"{arm}, seed {s}"], true, patients, num_patients, weights, groups) for s in range(len(own))
        ]
        points = {name: np.array([part[name][0] for part in parts]) for name in parts[0]}
        drawn = {name: _weighted(np.stack([part[name][1] for part in parts]), seeds) for name in parts[0]}
        found[arm] = Resampled(points, drawn)
    members = {f"recall:{name}": [c] for c, name in enumerate(names)}
    members |= {f"{g}_recall": [c for c, n in enumerate(names) if groups.group_of[n] == g] for g in ("tail", "head")}
    patients_of = {metric: len(np.unique(patients[np.isin(true, own)])) for metric, own in members.items() if own}
    return Measured(found, interval, num_patients, resamples, tuple(names), patients_of)


def _weighted(values: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Average over seeds; one that is not drawn may be undefined."""
    return np.asarray(np.where(seeds > 0, values * seeds, 0.0).sum(axis=0))


def _metrics(
    table: Predictions,
    true: np.ndarray,
    patients: np.ndarray,
    num_patients: int,
    weights: PatientWeights,
    groups: TailGroups,
) -> dict[str, tuple[float, np.ndarray]]:
    """Return each metric's value and its resamples, float64 [B]."""
    names = table.labels.class_names
    classes = len(names)
    called = table.scores.argmax(axis=1)
    cells = np.zeros((len(true), classes * classes))
    cells[np.arange(len(true)), true * classes + called] = 1.0
    sums = patient_sums(cells, patients, num_patients)
    whole = PatientWeights(np.ones((1, num_patients, weights.blocks.shape[2]), dtype=np.uint8), 1, weights.scheme)
    ranked = [rank_rows(table.scores[:, c], (true == c).astype(float), patients) for c in range(classes)]
    results: list[dict[str, np.ndarray]] = []
    for drawn, auroc in (
        (whole, np.array([[rank_values(rows)[1]] for rows in ranked])), (weights, resample_ranked(ranked, weights)[1])
    ):  # fmt: skip
        matrix = resample_sums(sums, drawn).reshape(classes, classes, -1)
        right, there, said = matrix[np.arange(classes), np.arange(classes)], matrix.sum(axis=1), matrix.sum(axis=0)
        recall = ratio(right, there)
        f1 = np.where(there > 0, ratio(2 * right, there + said), np.nan)
        result = {
            "macro_f1": mean_of_defined(f1),
            "macro_auroc": mean_of_defined(auroc),
            "balanced_accuracy": mean_of_defined(recall),
        }
        for group in ("tail", "head"):
            rows = [c for c, name in enumerate(names) if groups.group_of[name] == group]
            result[f"{group}_recall"] = ratio(right[rows].sum(axis=0), there[rows].sum(axis=0))
        result |= {f"recall:{name}": recall[c] for c, name in enumerate(names)}
        results.append(result)
    return {name: (float(results[0][name][0]), results[1][name]) for name in results[0]}


def answer(measured: Measured, contrasts: Sequence[Contrast]) -> list[Difference]:
    """Answer every contrast, corrected after Holm for all of them together.

    Args:
        measured: The arms.
        contrasts: What was asked, each once.

    References:
        holm1979.
    """
    found = [measured.difference(one.arm, one.against, one.metric) for one in contrasts]
    corrected = holm(np.array([p for _, p in found]))
    return [
        Difference(one, figure, p, float(adjusted))
        for one, (figure, p), adjusted in zip(contrasts, found, corrected, strict=True)
    ]
