from __future__ import annotations

import numpy as np

from medtail.judging.bootstrap import draw_weights
from medtail.judging.strata import rarest_strata


def many_patients() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    targets = (random.random((600, 3)) < [0.5, 0.1, 0.02]).astype(float)
    targets[::7, 0] = np.nan
    return targets, np.repeat(np.arange(300), 2)


def test_each_patient_is_in_the_stratum_of_the_rarest_finding() -> None:
    targets, patients = many_patients()
    strata = rarest_strata(targets, patients, num_patients=300)
    for patient in range(300):
        has = (targets[patients == patient] == 1).any(axis=0)
        expected = 1 if has[2] else 2 if has[1] else 3 if has[0] else 0
        assert strata[patient] == expected


def test_classes_of_equal_frequency_keep_their_order() -> None:
    targets = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert rarest_strata(targets, np.array([0, 1]), num_patients=3).tolist() == [1, 3, 0]


def test_every_resample_keeps_the_size_of_every_stratum() -> None:
    targets, patients = many_patients()
    strata = rarest_strata(targets, patients, num_patients=300)
    matrix = draw_weights(300, resamples=100, strata=strata).matrix()
    for stratum in range(4):
        assert (matrix[strata == stratum].sum(axis=0) == (strata == stratum).sum()).all()
    # and inside a stratum it is an ordinary draw: 1/e of its patients are left out
    assert abs(np.mean(matrix[strata == 0] == 0) - np.exp(-1)) < 0.03


def test_bayesian_weights_keep_the_total_of_every_stratum_and_never_vanish() -> None:
    targets, patients = many_patients()
    strata = rarest_strata(targets, patients, num_patients=300)
    matrix = draw_weights(300, resamples=70, scheme="bayesian", strata=strata).matrix() / 256
    assert matrix.min() > 0
    for stratum in range(4):
        size = (strata == stratum).sum()
        assert np.abs(matrix[strata == stratum].sum(axis=0) / size - 1).max() < 0.01


def test_the_stratified_draw_does_not_depend_on_threads_and_differs_from_the_plain_one() -> None:
    strata = np.arange(50) % 3
    one, two = (draw_weights(50, resamples=200, strata=strata, threads=threads).blocks for threads in (1, 2))
    assert one.tobytes() == two.tobytes()
    assert one.tobytes() != draw_weights(50, resamples=200).blocks.tobytes()
