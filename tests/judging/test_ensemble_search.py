"""The greedy search against a slow loop, and what it must find where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from medtail.judging.ensemble_search import (
    PATIENCE,
    class_rows,
    member_precision,
    search_class,
    search_classes,
    search_shared,
)
from medtail.judging.metrics import average_precision


def world(seed: int = 0, *, rows: int = 200, members: int = 4, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    targets = (random.random((rows, classes)) < [0.4, 0.15, 0.05][:classes]).astype(float)
    noise = random.normal(size=(members, rows, classes))
    return 1 / (1 + np.exp(-(targets + noise))), targets


def slow_search(space: np.ndarray, targets: np.ndarray, rounds: int) -> np.ndarray:
    counts, best, highest, waited = np.zeros(len(space)), None, -1.0, 0
    for _ in range(rounds):
        values = []
        for m in range(len(space)):
            tried = counts.copy()
            tried[m] += 1
            values.append(average_precision(np.tensordot(tried / tried.sum(), space, 1).clip(0, 1), targets))
        m = int(np.argmax(values))
        counts[m] += 1
        if values[m] > highest + 1e-15:
            highest, best, waited = values[m], counts.copy(), 0
        else:
            waited += 1
            if waited == PATIENCE:
                break
    assert best is not None
    return best / best.sum()


def test_members_ap_is_that_of_metrics_and_unassessed_rows_stay_out():
    space, targets = world()
    targets[::5, 1] = np.nan
    found = member_precision(class_rows(space, targets))
    expected = [[average_precision(space[m, :, c], targets[:, c]) for c in range(3)] for m in range(4)]
    np.testing.assert_allclose(found, expected, rtol=1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_search_finds_what_a_slow_loop_over_metrics_finds(seed):
    space, targets = world(seed)
    for c, rows in enumerate(class_rows(space, targets)):
        np.testing.assert_allclose(search_class(rows, rounds=8), slow_search(space[:, :, c], targets[:, c], 8))


def test_what_is_found_is_never_worse_on_these_rows_than_the_best_member():
    space, targets = world(5)
    rows = class_rows(space, targets)
    alone = member_precision(rows)
    for c, weights in enumerate(search_classes(rows, rounds=15).T):
        mixed = np.tensordot(weights, space[:, :, c], 1)
        assert weights.sum() == pytest.approx(1.0)
        assert average_precision(mixed.clip(0, 1), targets[:, c]) >= alone[:, c].max() - 1e-12


def test_a_perfect_member_is_chosen_alone_and_noise_gets_nothing():
    space, targets = world(1)
    space[2] = 0.1 + 0.8 * targets
    rows = class_rows(space, targets)
    assert search_classes(rows, rounds=10)[2].tolist() == [1.0] * 3
    assert search_shared(rows, rounds=10).tolist() == [0.0, 0.0, 1.0, 0.0]


def test_a_class_without_positives_gets_equal_shares_and_does_not_disturb_the_shared_search():
    space, targets = world(2)
    without = targets.copy()
    without[:, 1] = 0.0
    found = search_classes(class_rows(space, without), rounds=6)
    assert found[:, 1].tolist() == [0.25] * 4
    kept = search_shared(class_rows(space[:, :, [0, 2]], targets[:, [0, 2]]), rounds=6)
    assert np.array_equal(search_shared(class_rows(space, without), rounds=6), kept)
    nobody = class_rows(space, np.zeros_like(targets))
    assert search_shared(nobody, rounds=6).tolist() == [0.25] * 4


def test_neither_the_order_of_rows_nor_the_number_of_threads_matters():
    space, targets = world(3)
    order = np.random.default_rng(0).permutation(len(targets))
    found = search_classes(class_rows(space, targets), rounds=8, threads=1)
    assert np.array_equal(search_classes(class_rows(space[:, order], targets[order]), rounds=8, threads=3), found)
    columns = [2, 0, 1]
    moved = search_classes(class_rows(space[:, :, columns], targets[:, columns]), rounds=8)
    assert np.array_equal(moved, found[:, columns])
