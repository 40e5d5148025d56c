"""The additive engine for tables of challenge size: sums over rows, re-weighted in every resample.

Everything that is a function of sums (confusion counts, Brier, log loss, the bins of an ECE) becomes sparse columns
of (patient, value) entries: a row stands in one bin of fifteen, and a rare class has few positives, so going through
the entries costs a fraction of the full matrix product that `bootstrap.resample_sums` does. Values lie on the grid
of `fixed_point`, hence all sums are exact and no order, thread count or engine changes a byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from medtail.judging.bootstrap import LANES, Engine, PatientWeights, in_threads, pays_to_compile


@final
@dataclass(frozen=True)
class SparseColumns:
    """Several columns of per-patient values, only the entries that are not 0.

    Attributes:
        starts: Where each column's entries start, and where the last ends, int64 [m + 1].
        patients: int32 [n]; a patient may stand several times in a column.
        values: float64 [n], on the grid of `bootstrap.fixed_point`.
    """

    starts: np.ndarray
    patients: np.ndarray
    values: np.ndarray

    @property
    def num_columns(self) -> int:
        """How many columns, m."""
        return len(self.starts) - 1


def spread_columns(index: np.ndarray, patients: np.ndarray, values: np.ndarray, *, num_columns: int) -> SparseColumns:
    """Put each entry into the column its index names.

    Args:
        index: Column of each entry, int [n] in [0, num_columns).
        patients: Its patient, int [n].
        values: Its value, float64 [n], on the grid of `bootstrap.fixed_point`.
        num_columns: m.

    Example:
        >>> columns = spread_columns(np.array([1, 0, 1]), np.array([5, 6, 7]), np.array([1.0, 2, 3]), num_columns=2)
        >>> columns.starts.tolist(), columns.patients.tolist()
        ([0, 1, 3], [6, 5, 7])
    """
    starts = np.concatenate(([0], np.cumsum(np.bincount(index, minlength=num_columns))))
    narrow = np.uint8 if num_columns <= 256 else np.uint16 if num_columns <= 65_536 else np.int64
    order = np.argsort(index.astype(narrow), kind="stable")  # of narrow whole numbers: a radix sort
    return SparseColumns(starts.astype(np.int64), patients[order].astype(np.int32), values[order].astype(np.float64))


def stack_columns(parts: Sequence[SparseColumns]) -> SparseColumns:
    """Put columns beside each other.

    Example:
        >>> one = spread_columns(np.array([0]), np.array([5]), np.array([1.0]), num_columns=1)
        >>> stack_columns([one, one]).starts.tolist()
        [0, 1, 2]
    """
    starts = [np.zeros(1, dtype=np.int64)]
    for part in parts:
        starts.append(starts[-1][-1] + part.starts[1:])
    return SparseColumns(
        np.concatenate(starts),
        np.concatenate([part.patients for part in parts]),
        np.concatenate([part.values for part in parts]),
    )


def column_of(patients: np.ndarray, values: np.ndarray, *, num_patients: int) -> SparseColumns:
    """Make one column, adding up each patient's entries where that makes it shorter.

    Args:
        patients: int [n].
        values: float64 [n], on the grid of `bootstrap.fixed_point`.
        num_patients: K.

    Example:
        >>> column_of(np.array([1, 1, 0]), np.array([2.0, 3.0, 0.0]), num_patients=2).values.tolist()
        [5.0]
    """
    if 2 * len(patients) > num_patients:
        summed = np.bincount(patients, weights=values, minlength=num_patients)
        patients = np.flatnonzero(summed)
        values = summed[patients]
    starts = np.array([0, len(patients)], dtype=np.int64)
    return SparseColumns(starts, patients.astype(np.int32), values.astype(np.float64))


def resample_columns(
    parts: Sequence[SparseColumns], weights: PatientWeights, *, threads: int | None = None, engine: Engine = "auto"
) -> list[np.ndarray]:
    """Sum every column in every resample.

    Args:
        parts: Columns, in any grouping.
        weights: Of the patients the entries name.
        threads: Worker threads; as many as the process may use if None. The result does not depend on it.
        engine: `numpy`, `compiled`, or the faster one for this size (`auto`); both give the same bytes.

    Returns:
        float64 [m, B], one a part.

    Example:
        >>> from medtail.judging.bootstrap import draw_weights
        >>> column = column_of(np.arange(4), np.ones(4), num_patients=4)
        >>> resample_columns([column], draw_weights(4, resamples=2))[0].tolist()
        [[4.0, 4.0]]
    """
    padded = len(weights.blocks) * LANES
    results = [np.zeros((part.num_columns, padded)) for part in parts]
    visits = sum(len(part.values) for part in parts) * padded
    compiled = engine == "compiled" or (engine == "auto" and pays_to_compile(visits))
    if compiled:
        from medtail.judging.kernels import additive_block

        def work(task: tuple[int, int]) -> None:
            block, at = task
            part, sums = parts[at], np.zeros((parts[at].num_columns, LANES))
            additive_block(part.starts, part.patients, part.values, weights.blocks[block], sums)
            results[at][:, block * LANES : (block + 1) * LANES] = sums

        # block by block: the parts find its weights in the cache
        in_threads(work, [(b, at) for b in range(len(weights.blocks)) for at in range(len(parts))], threads=threads)
    else:
        dense = [_dense(part, weights.num_patients) for part in parts]
        for number, block in enumerate(weights.blocks):
            wide = block.astype(np.float64)
            for result, matrix in zip(results, dense, strict=True):
                result[:, number * LANES : (number + 1) * LANES] = matrix @ wide
    return [result[:, : weights.resamples] for result in results]


def _dense(part: SparseColumns, num_patients: int) -> np.ndarray:
    columns = np.repeat(np.arange(part.num_columns), np.diff(part.starts))
    at = columns * num_patients + part.patients
    summed = np.bincount(at, weights=part.values, minlength=part.num_columns * num_patients)
    return np.asarray(summed.reshape(part.num_columns, num_patients))
