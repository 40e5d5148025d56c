"""The search's inner loop gives the AP of `metrics`, ties and all, compiled or not."""

from __future__ import annotations

import numpy as np
import pytest

from medtail.judging.ensemble_kernels import _candidate_precision, candidate_precision
from medtail.judging.metrics import average_precision


@pytest.mark.parametrize("loop", [_candidate_precision, candidate_precision], ids=["plain", "compiled"])
@pytest.mark.parametrize("grid", [3, 17, 0])
def test_every_candidates_ap_is_that_of_the_mixture(loop, grid):
    random = np.random.default_rng(grid)
    for positives, negatives in ((1, 1), (1, 40), (7, 0), (30, 60), (90, 300)):
        values = random.random((4, positives + negatives)) ** 3
        gathered = random.random(positives + negatives)
        if grid:  # few distinct values: ties inside and between the two kinds of rows
            values, gathered = np.round(values * grid) / grid, np.round(gathered * grid) / grid
        targets = (np.arange(positives + negatives) < positives).astype(float)
        found = np.full(4, np.nan)
        total = gathered + values
        loop(
            np.sort(total[:, :positives], axis=1), gathered[positives:],
            np.ascontiguousarray(values[:, positives:]), found,
        )  # fmt: skip
        expected = [average_precision(row / 4.0, targets) for row in total]
        np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_scores_that_differ_in_the_last_digit_are_different_scores():
    positive = np.array([[0.3, np.nextafter(0.3, 1), 0.9]])
    negative = np.array([[0.3, np.nextafter(0.3, 0), np.nextafter(0.9, 0), 0.1]])
    found = np.empty(1)
    candidate_precision(positive, np.zeros(4), negative, found)
    scores, targets = np.concatenate([positive[0], negative[0]]), np.array([1.0, 1, 1, 0, 0, 0, 0])
    assert found[0] == pytest.approx(average_precision(scores, targets), rel=1e-15)
    assert found[0] == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
