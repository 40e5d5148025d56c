from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtail.judging.additive import SparseColumns, column_of, resample_columns, spread_columns, stack_columns
from medtail.judging.bootstrap import draw_weights, fixed_point, patient_sums, resample_sums


def some_columns(*, entries: int, patients: int, columns: int, seed: int) -> tuple[SparseColumns, np.ndarray]:
    """The same values as sparse columns and as the dense [K, m] of the plain engine."""
    random = np.random.default_rng(seed)
    values = fixed_point(random.random(entries) * 2 - 1, rows=entries, heaviest=255)
    index, owners = random.integers(0, columns, entries), random.integers(0, patients, entries)
    dense = np.zeros((entries, columns))
    dense[np.arange(entries), index] = values
    return spread_columns(index, owners, values, num_columns=columns), patient_sums(dense, owners, patients)


@given(
    entries=st.integers(0, 80), patients=st.integers(1, 12), columns=st.integers(1, 6), resamples=st.integers(1, 130)
)
def test_sparse_sums_are_the_dense_ones_to_the_last_bit(
    entries: int, patients: int, columns: int, resamples: int
) -> None:
    sparse, dense = some_columns(entries=entries, patients=patients, columns=columns, seed=entries)
    weights = draw_weights(patients, resamples=resamples)
    expected = resample_sums(dense, weights)
    for engine in ("numpy", "compiled"):
        (found,) = resample_columns([sparse], weights, engine=engine, threads=1)
        assert found.tobytes() == expected.tobytes()


def test_the_number_of_threads_does_not_change_a_byte() -> None:
    parts = [some_columns(entries=3000, patients=200, columns=9, seed=seed)[0] for seed in range(4)]
    weights = draw_weights(200, resamples=200, scheme="bayesian")
    one, three = (resample_columns(parts, weights, engine="compiled", threads=threads) for threads in (1, 3))
    assert [found.tobytes() for found in one] == [found.tobytes() for found in three]


def test_the_compiled_loop_is_the_plain_one() -> None:
    from medtail.judging import kernels

    sparse, _ = some_columns(entries=50, patients=9, columns=3, seed=1)
    block = draw_weights(9, resamples=64).blocks[0]
    plain, compiled = np.zeros((3, 64)), np.zeros((3, 64))
    kernels._additive_block(sparse.starts, sparse.patients, sparse.values, block, plain)
    kernels.additive_block(sparse.starts, sparse.patients, sparse.values, block, compiled)
    assert plain.tobytes() == compiled.tobytes()


@pytest.mark.parametrize("patients", [5, 5000])
def test_a_column_adds_up_the_rows_of_a_patient_whether_merged_or_not(patients: int) -> None:
    owners, values = np.array([3, 3, 1, 0]), np.array([1.0, 2.0, 4.0, -8.0])
    column = column_of(owners, values, num_patients=patients)
    assert len(column.values) == (3 if patients == 5 else 4)
    assert np.bincount(column.patients, weights=column.values + 0.0, minlength=4).tolist() == [-8.0, 4.0, 0.0, 3.0]


def test_stacked_columns_keep_their_order_and_empty_ones_their_place() -> None:
    nothing = column_of(np.array([], dtype=int), np.array([]), num_patients=4)
    two = spread_columns(np.array([1, 0]), np.array([2, 3]), np.array([5.0, 7.0]), num_columns=2)
    found = resample_columns([stack_columns([nothing, two, nothing])], draw_weights(4, resamples=3), engine="numpy")[0]
    weights = draw_weights(4, resamples=3).matrix()
    assert found.tolist() == [[0.0] * 3, (7.0 * weights[3]).tolist(), (5.0 * weights[2]).tolist(), [0.0] * 3]
