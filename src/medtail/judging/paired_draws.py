"""The same resamples of patients for every system: values of each question on the rows and in every resample.

Patient weights are drawn once and shared, so what is luck of the patients falls on all systems alike and cancels in
their difference. Where a system was trained with several seeds, seeds are drawn too; scores are never averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from medtail.judging.bootstrap import PatientWeights, Scheme, draw_weights
from medtail.judging.counts import EceMode
from medtail.judging.decisions import Decider, decide
from medtail.judging.estimates import GROUP_METRICS, Estimates, estimate, pool
from medtail.judging.questions import CLASS_METRICS, POOLED_METRICS, Question
from medtail.seeding import stream, stream_seed
from medtail.tables.predictions import Predictions

SeedDraw = Literal["hierarchical", "fixed"]
Further = Callable[[Predictions, np.ndarray, PatientWeights], Mapping[tuple[str, str], tuple[float, np.ndarray]]]
"""Numbers that the judge does not know, of a table, its patients' numbers and their weights: (metric, class) of a
question → value on the rows, and float64 [B] in the resamples."""
BATCH = 4096
"""Resamples held in memory together; the first batch is what `evaluate` draws with the same seed."""


@final
@dataclass(frozen=True)
class Answer:
    """A question's values for S systems.

    Attributes:
        values: float64 [S], means over a system's seeds.
        resampled: float64 [S, B].
        by_seed: A system's seeds: (values [R], resampled [R, B]) for each of the S.
        support: Positive rows of a class, or the number of classes averaged.
        class_values: float64 [S, classes averaged], what a mean is the mean of; no columns for pooled values.
    """

    values: np.ndarray
    resampled: np.ndarray
    by_seed: tuple[tuple[np.ndarray, np.ndarray], ...]
    support: int
    class_values: np.ndarray


@final
@dataclass(frozen=True)
class _Kept:
    """What is kept of a table's estimates: arrays [C] and [C, B] a class metric, a number and [B] for the others."""

    values: dict[str, np.ndarray]
    resampled: dict[str, np.ndarray]
    single: dict[Question, tuple[float, np.ndarray]]


@final
@dataclass(frozen=True)
class PairedDraws:
    """All systems' values and resampled values; `answer` reads one question off them.

    Attributes:
        kept: One list of tables (seeds) a system.
        seed_weights: Weight of each seed in each resample, float64 [R, B] a system, summing to 1.
        positives: Positive rows, int64 [C].
    """

    kept: tuple[tuple[_Kept, ...], ...]
    seed_weights: tuple[np.ndarray, ...]
    positives: np.ndarray

    def answer(self, question: Question) -> Answer:
        """Return one question's values, on the rows and in every resample, for every system."""
        if question.metric not in CLASS_METRICS:
            by_seed = [
                (
                    np.array([part.single[question][0] for part in parts]),
                    np.stack([part.single[question][1] for part in parts]),
                )
                for parts in self.kept
            ]
            support = len(question.among)
            return self._averaged(by_seed, support, np.empty((len(self.kept), 0)))
        among, metric = list(question.among), question.metric
        values = [np.stack([part.values[metric][among] for part in parts]) for parts in self.kept]
        resampled = [np.stack([part.resampled[metric][among] for part in parts]) for parts in self.kept]
        fixed = ~np.isnan(np.concatenate(values)).any(axis=0)
        # a class undefined for one system in a resample leaves that resample's mean of all of them
        usable = ~np.isnan(np.concatenate(resampled)[:, fixed]).any(axis=0)
        by_seed = []
        for points, draws in zip(values, resampled, strict=True):
            point = points[:, fixed].mean(axis=1) if fixed.any() else np.full(len(points), np.nan)
            total = np.where(usable, draws[:, fixed], 0.0).sum(axis=1)
            count = usable.sum(axis=0)
            mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
            by_seed.append((point, mean))
        support = int(self.positives[among[0]]) if question.level == "class" else int(fixed.sum())
        behind = np.stack([points[:, fixed].mean(axis=0) for points in values])
        return self._averaged(by_seed, support, behind)

    def _averaged(self, by_seed: list[tuple[np.ndarray, np.ndarray]], support: int, behind: np.ndarray) -> Answer:
        values = np.array([points.mean() for points, _ in by_seed])
        weighted = zip(by_seed, self.seed_weights, strict=True)
        resampled = np.stack([(draws * weights).sum(axis=0) for (_, draws), weights in weighted])
        return Answer(values, resampled, tuple(by_seed), support, behind)


def draw_systems(
    systems: Mapping[str, Sequence[Predictions]],
    questions: Sequence[Question],
    *,
    patients: np.ndarray,
    resamples: int,
    scheme: Scheme,
    seed: int,
    seed_draw: SeedDraw,
    ece_mode: EceMode,
    ece_bins: int,
    threads: int | None = None,
    decider: Decider = decide,
    further: Further | None = None,
) -> PairedDraws:
    """Judge every table of every system in the same resamples.

    Args:
        systems: System → paired tables, one a training seed.
        questions: What will be asked; nothing else is kept.
        patients: Patient numbers of the shared rows, int [N].
        resamples: B >= 0.
        scheme: Of the patient weights.
        seed: Of patients and seeds.
        seed_draw: `hierarchical` draws training seeds in every resample, `fixed` averages over all of them.
        ece_mode: Reading of the ECE.
        ece_bins: Its bins.
        threads: Worker threads; no effect on the result.
        decider: From scores to decisions.
        further: Makes the numbers of questions whose metric the judge does not know.

    Returns:
        The draws.
    """
    num_patients = int(patients.max(initial=0)) + 1
    gathered: dict[tuple[str, int], list[_Kept]] = {
        (name, r): [] for name, tables in systems.items() for r in range(len(tables))
    }
    for number, start in enumerate(range(0, max(resamples, 1), BATCH)):
        batch_seed = seed if number == 0 else stream_seed(seed, "comparison", "batch", number)
        weights = draw_weights(num_patients, resamples=min(BATCH, resamples - start), scheme=scheme, seed=batch_seed)
        for name, tables in systems.items():
            for r, table in enumerate(tables):
                found = estimate(
                    table,
                    called=decider(table),
                    patients=patients,
                    weights=weights,
                    ece_mode=ece_mode,
                    ece_bins=ece_bins,
                    threads=threads,
                )
                numbers = further(table, patients, weights) if further is not None else {}
                gathered[name, r].append(_keep(found, questions, table, numbers))
    truth = next(iter(systems.values()))[0].targets
    return PairedDraws(
        kept=tuple(tuple(_joined(gathered[name, r]) for r in range(len(tables))) for name, tables in systems.items()),
        seed_weights=tuple(
            draw_seed_weights(len(tables), resamples=resamples, draw=seed_draw, seed=stream_seed(seed, "system", name))
            for name, tables in systems.items()
        ),
        positives=(truth == 1).sum(axis=0),
    )


def draw_seed_weights(seeds: int, *, resamples: int, draw: SeedDraw = "hierarchical", seed: int = 0) -> np.ndarray:
    """Draw how much each training seed counts in each resample.

    `hierarchical` draws R - 1 of the R seeds with replacement and averages them: with R - 1 instead of R the variance
    of the drawn mean is exactly the unbiased estimate s^2 / R, where drawing R would fall short by (R - 1) / R, half
    of it for two seeds. A single seed always counts fully; its luck is then in no interval.

    Args:
        seeds: R >= 1.
        resamples: B.
        draw: `hierarchical`, or `fixed` for equal weights in every resample.
        seed: Of the draw.

    Returns:
        float64 [R, B], columns sum to 1.

    Example:
        >>> weights = draw_seed_weights(3, resamples=4)
        >>> weights.sum(axis=0).tolist(), sorted(set(weights.ravel().tolist()))
        ([1.0, 1.0, 1.0, 1.0], [0.0, 0.5, 1.0])

    References:
        rao1988.
    """
    if draw == "fixed" or seeds == 1:
        return np.full((seeds, resamples), 1.0 / seeds)
    drawn = stream(seed, "training seeds").integers(0, seeds, size=(seeds - 1, resamples))
    counts = (drawn[None] == np.arange(seeds)[:, None, None]).sum(axis=1)
    return np.asarray(counts / (seeds - 1.0))


def _keep(
    found: Estimates,
    questions: Sequence[Question],
    table: Predictions,
    numbers: Mapping[tuple[str, str], tuple[float, np.ndarray]],
) -> _Kept:
    metrics = {question.metric for question in questions if question.metric in CLASS_METRICS}
    single: dict[Question, tuple[float, np.ndarray]] = {}
    for question in questions:
        if question.metric in GROUP_METRICS:
            single[question] = found.groups[question.class_name][question.metric]
        elif question.metric in POOLED_METRICS:
            among = np.isin(np.arange(table.labels.num_classes), question.among)
            point, drawn = pool(found.sums, among), pool(found.resampled_sums, among)
            single[question] = (float(point[question.metric]), drawn[question.metric])
        elif question.metric not in CLASS_METRICS:
            single[question] = numbers[question.metric, question.class_name]
    return _Kept(
        {metric: found.values[metric] for metric in metrics},
        {metric: found.resampled[metric] for metric in metrics},
        single,
    )


def _joined(parts: Sequence[_Kept]) -> _Kept:
    """Put the batches of one table behind one another."""
    first = parts[0]
    return _Kept(
        first.values,
        {metric: np.concatenate([part.resampled[metric] for part in parts], axis=1) for metric in first.resampled},
        {
            question: (value, np.concatenate([part.single[question][1] for part in parts]))
            for question, (value, _) in first.single.items()
        },
    )
