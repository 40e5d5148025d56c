"""Resampling patients: what a metric would have been with other patients from the same clinic.

Drawing K patients of K with replacement only changes the weights of rows, so scores are sorted once and every
resample is a pass over the same order. Two engines share one table of weights: the *ranked* one for AP and AUROC,
the *additive* one for everything that is a function of sums over rows (confusion counts, Brier, bins of an ECE).
All sums are sums of whole numbers or exact in fixed point, so neither the number of threads, nor the order of rows,
nor the BLAS in use changes a byte.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar, final

import numpy as np
import pandas as pd

from medtail.errors import MedtailError
from medtail.seeding import stream

Item = TypeVar("Item")
Result = TypeVar("Result")
Scheme = Literal["multinomial", "bayesian"]
Engine = Literal["auto", "compiled", "numpy"]
LANES = 64
"""Resamples side by side: one cache line of 8-bit weights."""
BAYESIAN_UNIT = 256
"""Exponential weights are kept as whole numbers of this many per unit: ratios do not care, and sums stay exact."""
COMPILED_FROM = 200_000_000
"""Row visits (rows x classes x resamples) from which loading and compiling the kernel pays (`benchmarks/bootstrap.py`).

Below it NumPy is done before the compiler is.
"""
POSITIVE, FIRST, LAST = 1, 2, 4


@final
@dataclass(frozen=True)
class PatientWeights:
    """How often each patient stands in each resample.

    Attributes:
        blocks: Unsigned [ceil(B / 64), K, 64]; columns past the last resample are 0. `multinomial` counts are uint8,
            `bayesian` weights uint16 in units of 1 / 256.
        resamples: B.
        scheme: How they were drawn.
    """

    blocks: np.ndarray
    resamples: int
    scheme: Scheme

    @property
    def num_patients(self) -> int:
        """K."""
        return int(self.blocks.shape[1])

    @cached_property
    def heaviest(self) -> int:
        """The largest weight of any patient in any resample."""
        return int(self.blocks.max(initial=0))

    def matrix(self) -> np.ndarray:
        """Return the weights as unsigned [K, B]."""
        side_by_side = np.moveaxis(self.blocks, 0, 1).reshape(self.num_patients, -1)
        return side_by_side[:, : self.resamples]


def draw_weights(
    num_patients: int,
    *,
    resamples: int,
    scheme: Scheme = "multinomial",
    seed: int = 0,
    strata: np.ndarray | None = None,
    threads: int | None = None,
) -> PatientWeights:
    """Draw patient weights, the same for every metric, class and system that is to be compared.

    `multinomial` counts how often a patient is drawn when K are drawn of K with replacement. `bayesian` gives every
    patient an exponential weight above 0, so that no class ever loses all its positives. Each block of 64 resamples
    has a random stream of its own: more resamples leave the first ones as they were. Inside `strata` each stratum is
    resampled for itself and keeps its size (`bayesian`: its total weight) in every resample.

    Args:
        num_patients: K >= 1.
        resamples: B >= 0.
        scheme: `multinomial` or `bayesian`.
        seed: The run's seed.
        strata: Stratum of each patient, int [K] >= 0, as from `strata.rarest_strata`; one stratum if None.
        threads: Worker threads; as many as the process may use if None. The draw does not depend on it.

    Returns:
        The weights.

    Raises:
        MedtailError: Unknown scheme, or a negative number of resamples.

    Example:
        >>> draw_weights(5, resamples=3).matrix().sum(axis=0).tolist()
        [5, 5, 5]

    References:
        efron1979, rubin1981.
    """
    if scheme not in ("multinomial", "bayesian"):
        raise MedtailError(f"bootstrap scheme {scheme!r}: expected multinomial or bayesian.")
    if resamples < 0:
        raise MedtailError(f"bootstrap {resamples!r}: expected a number of resamples >= 0.")
    assert num_patients >= 1, "there is a patient to draw"
    assert strata is None or strata.shape == (num_patients,), "one stratum a patient"
    kind = np.uint8 if scheme == "multinomial" else np.uint16
    blocks = np.zeros((-(-resamples // LANES), num_patients, LANES), dtype=kind)
    layers = None if strata is None else _Layers.of(strata)

    def fill(number: int) -> None:
        purpose = (scheme,) if layers is None else (scheme, "strata")
        random = stream(seed, "bootstrap", *purpose, number)
        draw = _draw_counts if scheme == "multinomial" else _draw_exponential
        for lane in range(min(LANES, resamples - number * LANES)):
            blocks[number, :, lane] = draw(random, num_patients, layers)

    in_threads(fill, range(len(blocks)), threads=threads)
    return PatientWeights(blocks, resamples, scheme)


@final
@dataclass(frozen=True)
class _Layers:
    """Patients laid out stratum by stratum.

    Attributes:
        stratum: int [K].
        members: Patients ordered by stratum, int [K].
        first: Of each place in that order, where its stratum starts, int [K].
        size: Of each place, its stratum's size, float64 [K].
    """

    stratum: np.ndarray
    members: np.ndarray
    first: np.ndarray
    size: np.ndarray

    @staticmethod
    def of(strata: np.ndarray) -> _Layers:
        sizes = np.bincount(strata)
        starts = np.cumsum(sizes) - sizes
        return _Layers(
            strata, np.argsort(strata, kind="stable"), np.repeat(starts, sizes), np.repeat(sizes, sizes) * 1.0
        )


def _draw_counts(random: np.random.Generator, num_patients: int, layers: _Layers | None) -> np.ndarray:
    if layers is None:
        return np.bincount(random.integers(0, num_patients, size=num_patients), minlength=num_patients)
    within = np.minimum((random.random(num_patients) * layers.size).astype(np.int64), layers.size.astype(np.int64) - 1)
    return np.bincount(layers.members[layers.first + within], minlength=num_patients)


def _draw_exponential(random: np.random.Generator, num_patients: int, layers: _Layers | None) -> np.ndarray:
    weight = random.exponential(size=num_patients)
    if layers is not None:
        sizes = np.bincount(layers.stratum)
        total = np.bincount(layers.stratum, weights=weight)
        weight *= np.divide(sizes, total, out=np.ones(len(total)), where=total > 0)[layers.stratum]
    # 16 bits hold a weight of 255, which an exponential exceeds once in 10^110 draws
    return np.asarray(np.clip(np.rint(weight * BAYESIAN_UNIT), 1.0, 65_535.0).astype(np.int64))


def in_threads(work: Callable[[Item], Result], items: Iterable[Item], *, threads: int | None) -> list[Result]:
    """Do independent pieces of work, several at once where NumPy or compiled code lets go of the interpreter.

    Args:
        work: Called once an item; shares nothing but what it may write to by item.
        items: In the order of the results.
        threads: Worker threads; as many as the process may use if None.

    Returns:
        What `work` returned, in order.

    Example:
        >>> in_threads(abs, [-1, 2], threads=2)
        [1, 2]
    """
    listed = list(items)
    workers = min(threads or usable_threads(), len(listed))
    if workers <= 1:
        return [work(item) for item in listed]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, listed))


def number_patients(patients: np.ndarray) -> tuple[np.ndarray, int]:
    """Number the patients by name, so that the order of rows does not matter.

    Returns:
        Patient of each row as int32 [N], and how many there are.

    Example:
        >>> codes, count = number_patients(np.array(["b", "a", "b"], dtype=object))
        >>> codes.tolist(), count
        ([1, 0, 1], 2)
    """
    # hashing finds the names, so that only the distinct ones are sorted
    codes, names = pd.factorize(patients.astype(str).astype(object))
    rank = np.empty(len(names), dtype=np.int32)
    rank[np.argsort(names.astype(str), kind="stable")] = np.arange(len(names), dtype=np.int32)
    return rank[codes], len(names)


@final
@dataclass(frozen=True)
class RankedRows:
    """A class's assessed rows from the highest score down.

    Attributes:
        patients: int32 [n].
        flags: uint8 [n]: 1 positive; 2 first and 4 last row of a run of equal scores that holds a positive.
    """

    patients: np.ndarray
    flags: np.ndarray


def rank_rows(scores: np.ndarray, targets: np.ndarray, patients: np.ndarray) -> RankedRows:
    """Sort one class's assessed rows once, for every resample.

    Args:
        scores: float [N].
        targets: [N] in {0, 1, NaN}.
        patients: Patient numbers, int [N].

    Example:
        >>> rank_rows(np.array([0.1, 0.9, 0.1]), np.array([1.0, 0, 0]), np.array([0, 1, 2])).flags.tolist()
        [0, 3, 4]
    """
    kept = np.flatnonzero(~np.isnan(targets))
    # the order inside a run of equal scores changes nothing: the quickest sort will do
    kept = kept[np.argsort(-scores[kept])]
    ordered, positive = scores[kept], targets[kept] == 1
    flags = positive.astype(np.uint8)
    if len(kept):
        starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
        ends = np.append(starts[1:], len(kept)) - 1
        holding = np.add.reduceat(positive, starts, dtype=np.int64) > 0
        flags[starts[holding]] |= FIRST
        flags[ends[holding]] |= LAST
    return RankedRows(patients[kept].astype(np.int32), flags)


def resample_ranked(
    classes: Sequence[RankedRows], weights: PatientWeights, *, threads: int | None = None, engine: Engine = "auto"
) -> tuple[np.ndarray, np.ndarray]:
    """Compute AP and AUROC of every class in every resample.

    Args:
        classes: C classes' ranked rows.
        weights: Of the patients the rows name.
        threads: Worker threads; as many as the process may use if None. The result does not depend on it.
        engine: `numpy`, `compiled`, or the faster one for this size (`auto`); both give the same bytes.

    Returns:
        AP and AUROC, float64 [C, B] each, NaN where a resample cannot define them.

    Example:
        >>> rows = rank_rows(np.array([0.9, 0.8, 0.1]), np.array([1.0, 0, 1]), np.array([0, 1, 2]))
        >>> ap, auroc = resample_ranked([rows], draw_weights(3, resamples=5))
        >>> ap.shape, auroc.shape
        ((1, 5), (1, 5))
    """
    padded = len(weights.blocks) * LANES
    ap, auroc = np.full((len(classes), padded), np.nan), np.full((len(classes), padded), np.nan)
    visits = sum(len(rows.flags) for rows in classes) * padded
    compiled = engine == "compiled" or (engine == "auto" and pays_to_compile(visits))
    run = _compiled_block() if compiled else _numpy_block

    def work(task: tuple[int, int]) -> None:
        block, c = task
        lanes = slice(block * LANES, (block + 1) * LANES)
        rows = classes[c]
        if (rows.flags & POSITIVE).any():
            ap[c, lanes], auroc[c, lanes] = run(rows, weights.blocks[block], weights.heaviest)

    # block by block: the classes find its weights in the cache
    tasks = [(block, c) for block in range(len(weights.blocks)) for c in range(len(classes))]
    # many small NumPy calls hold the interpreter's lock: threads only make them wait for each other
    in_threads(work, tasks, threads=threads if compiled else 1)
    return ap[:, : weights.resamples], auroc[:, : weights.resamples]


def rank_values(rows: RankedRows) -> tuple[float, float]:
    """Compute AP and AUROC of the rows as they are, from the order already there.

    Returns:
        What `metrics.average_precision` and `metrics.auroc` say, to the last digit.

    Example:
        >>> rank_values(rank_rows(np.array([0.9, 0.8, 0.1]), np.array([1.0, 0, 1]), np.array([0, 1, 2])))
        (0.8333333333333333, 0.5)
    """
    if not (rows.flags & POSITIVE).any():
        return float("nan"), float("nan")
    one = RankedRows(np.zeros_like(rows.patients), rows.flags)
    ap, auroc = _numpy_block(one, np.ones((1, 1), dtype=np.uint8), 1)
    return float(ap[0]), float(auroc[0])


def pays_to_compile(visits: int) -> bool:
    """Say whether the compiled loop is done first: from `COMPILED_FROM` visits, or any once the compiler is loaded."""
    return visits >= COMPILED_FROM or "medtail.judging.kernels" in sys.modules


def usable_threads() -> int:
    """Return how many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else (os.cpu_count() or 1)


def _compiled_block() -> Callable[[RankedRows, np.ndarray, int], tuple[np.ndarray, np.ndarray]]:
    from medtail.judging.kernels import ranked_block  # here, once: not in several threads at a time

    def run(rows: RankedRows, weights: np.ndarray, heaviest: int) -> tuple[np.ndarray, np.ndarray]:
        lanes = weights.shape[1]
        totals = np.zeros((4, lanes), dtype=_total_kind(len(rows.flags), heaviest))
        precision_sum, lost_sum = np.zeros(lanes), np.zeros(lanes)
        ranked_block(rows.patients, rows.flags, weights, totals, precision_sum, lost_sum)
        return _finish(precision_sum, lost_sum, totals[0], totals[1])

    return run


def _numpy_block(rows: RankedRows, weights: np.ndarray, heaviest: int) -> tuple[np.ndarray, np.ndarray]:
    """Do what the kernel does with segment sums: only runs that hold a positive need a total of their own."""
    kind = _total_kind(len(rows.flags), heaviest)
    starts = np.flatnonzero(rows.flags & FIRST)
    ends = np.flatnonzero(rows.flags & LAST) + 1
    cuts = np.union1d(starts, np.append(ends[ends < len(rows.flags)], 0))
    segments = np.add.reduceat(weights[rows.patients], cuts, axis=0, dtype=kind)
    seen = np.cumsum(segments, axis=0, dtype=kind)
    at = np.searchsorted(cuts, starts)
    positive = np.flatnonzero(rows.flags & POSITIVE)
    gained = np.add.reduceat(weights[rows.patients[positive]], np.searchsorted(positive, starts), axis=0, dtype=kind)
    true = np.cumsum(gained, axis=0, dtype=kind)
    after, before = seen[at], seen[at] - segments[at]
    false_before, false_after = before - (true - gained), after - true
    # cumsum adds row by row, in the kernel's order: the last digit agrees
    precision_sum = np.cumsum(gained * (true / np.maximum(after, 1)), axis=0)[-1]
    lost_sum = np.cumsum(gained.astype(np.float64) * (false_before + false_after), axis=0)[-1]
    return _finish(precision_sum, lost_sum, seen[-1], true[-1])


def _finish(
    precision_sum: np.ndarray, lost_sum: np.ndarray, seen: np.ndarray, positive: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    p, n = positive.astype(np.float64), (seen - positive).astype(np.float64)
    ap = np.divide(precision_sum, p, out=np.full(p.shape, np.nan), where=p > 0)
    pairs = 2.0 * p * n
    lost = np.divide(lost_sum, pairs, out=np.full(p.shape, np.nan), where=pairs > 0)
    return ap, 1.0 - lost


def _total_kind(rows: int, heaviest: int) -> type[np.signedinteger]:
    return np.int32 if rows * max(heaviest, 1) < 2**31 else np.int64


def patient_sums(columns: np.ndarray, patients: np.ndarray, num_patients: int) -> np.ndarray:
    """Sum rows within each patient.

    Args:
        columns: [N, m].
        patients: Patient numbers, int [N].
        num_patients: K.

    Returns:
        float64 [K, m].

    Example:
        >>> patient_sums(np.array([[1.0], [2.0], [4.0]]), np.array([0, 1, 0]), 2).tolist()
        [[5.0], [2.0]]
    """
    summed = [np.bincount(patients, weights=column, minlength=num_patients) for column in columns.T]
    return np.stack(summed, axis=1) if summed else np.zeros((num_patients, 0))


def fixed_point(columns: np.ndarray, *, rows: int, heaviest: int) -> np.ndarray:
    """Round values in [-1, 1] to the finest grid on which every resample's sum is still exact.

    Sums of multiples of 2^-q below 2^(53 - q) carry no rounding, in whatever order they are added. For 5,000 rows
    the grid is about 1e-11.

    Args:
        columns: Values in [-1, 1], any shape.
        rows: Rows that will be summed.
        heaviest: Largest weight of a row.

    Example:
        >>> fixed_point(np.array([0.5, 1 / 3]), rows=2**50, heaviest=1).tolist()
        [0.5, 0.25]
    """
    bits = 53 - max(rows * heaviest, 1).bit_length()
    assert bits > 0, "fewer than 2^52 weighted rows"
    return np.asarray(np.rint(columns * 2.0**bits) * 2.0**-bits)


def resample_sums(sums: np.ndarray, weights: PatientWeights) -> np.ndarray:
    """Weight per-patient sums by every resample.

    Args:
        sums: float64 [K, m], whole numbers or on the grid of `fixed_point`.
        weights: Of K patients.

    Returns:
        float64 [m, B].

    Example:
        >>> resample_sums(np.ones((4, 1)), draw_weights(4, resamples=2)).tolist()
        [[4.0, 4.0]]
    """
    result = np.empty((sums.shape[1], len(weights.blocks) * LANES))
    across = np.ascontiguousarray(sums.T)
    for number, block in enumerate(weights.blocks):
        result[:, number * LANES : (number + 1) * LANES] = across @ block.astype(np.float64)
    return result[:, : weights.resamples]
