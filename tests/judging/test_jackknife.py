from __future__ import annotations

import numpy as np
import pytest

from medtail.judging.jackknife import acceleration, leave_out_weights


def test_every_patient_is_left_out_exactly_once() -> None:
    matrix = leave_out_weights(250).matrix()
    assert matrix.shape == (250, 100)
    assert (matrix == 0).sum(axis=1).tolist() == [1] * 250
    assert set((matrix == 0).sum(axis=0)) == {2, 3}


def test_few_patients_are_left_out_one_by_one() -> None:
    assert sorted(np.flatnonzero(leave_out_weights(7).matrix().ravel() == 0) // 7) == list(range(7))


def test_bayesian_weights_have_their_own_unit() -> None:
    matrix = leave_out_weights(5, scheme="bayesian").matrix()
    assert matrix.dtype == np.uint16
    assert set(matrix.ravel().tolist()) == {0, 256}


def test_the_acceleration_of_a_mean_is_a_sixth_of_its_skewness() -> None:
    # exponential: skewness 2, so a = 2 / (6 sqrt n); groups of patients must say the same as single patients
    n = 20_000
    values = np.random.default_rng(0).exponential(size=n)
    total = values.sum()
    groups = leave_out_weights(n).matrix() == 0
    by_group = np.array([(total - values[out].sum()) / (n - out.sum()) for out in groups.T])
    one_by_one = (total - values) / (n - 1)
    assert acceleration(one_by_one) == pytest.approx(2 / (6 * np.sqrt(n)), rel=0.1)
    assert acceleration(by_group) == pytest.approx(2 / (6 * np.sqrt(n)), abs=0.01)


def test_undefined_values_are_left_aside_and_no_spread_is_no_acceleration() -> None:
    known = np.array([0.1, 0.5, 0.2])
    assert acceleration(np.append(known, np.nan)) == acceleration(known) != 0.0
    assert acceleration(np.array([np.nan, 0.4])) == acceleration(np.full(9, 0.4)) == 0.0
