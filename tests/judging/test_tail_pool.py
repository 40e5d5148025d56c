from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from medtail.judging.bootstrap import draw_weights
from medtail.judging.jackknife import leave_out_weights
from medtail.judging.tail_pool import any_finding, pool_tail


def rare(rows: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    targets = (random.random((rows, 4)) < 0.01).astype(float)
    scores = np.clip(0.05 * random.random((rows, 4)) + 0.04 * targets, 0, 1)
    targets[random.random((rows, 4)) < 0.05] = np.nan
    return scores, targets, random.integers(0, rows // 2, rows)


def test_some_finding_is_unknown_only_where_none_is_known_and_one_could_be() -> None:
    targets = np.array([[1, np.nan], [0, 0], [0, np.nan], [np.nan, np.nan], [1, 1]], dtype=float)
    _, y = any_finding(np.zeros((5, 2)), targets)
    assert y.tolist() == pytest.approx([1, 0, np.nan, np.nan, 1], nan_ok=True)


def test_tiny_scores_keep_their_order() -> None:
    scores = np.array([[1e-20, 2e-20], [1e-20, 1e-20], [1.0, 0.3]])
    s, _ = any_finding(scores, np.zeros((3, 2)))
    assert s[0] == pytest.approx(3e-20)
    assert s[0] > s[1]
    assert s[2] == pytest.approx(1.0)


def test_pooled_metrics_equal_scikit_learn_on_the_rows_and_in_a_resample() -> None:
    scores, targets, patients = rare()
    weights = draw_weights(200, resamples=70)
    found = pool_tail(scores, targets, patients=patients, weights=weights, left_out=leave_out_weights(200))
    s, y = any_finding(scores, targets)
    kept = ~np.isnan(y)
    assert found["any_finding_ap"].value == pytest.approx(average_precision_score(y[kept], s[kept]), abs=1e-12)
    assert found["any_finding_auroc"].value == pytest.approx(roc_auc_score(y[kept], s[kept]), abs=1e-12)
    cells = ~np.isnan(targets)
    assert found["micro_ap"].value == pytest.approx(average_precision_score(targets[cells], scores[cells]), abs=1e-12)
    assert found["micro_ap"].support == (targets == 1).sum()
    times = weights.matrix()[patients, 5].astype(float)
    spread = np.repeat(times, 4).reshape(-1, 4)
    expected = average_precision_score(targets[cells], scores[cells], sample_weight=spread[cells])
    assert found["micro_ap"].resampled[5] == pytest.approx(expected, abs=1e-12)
    expected = roc_auc_score(y[kept], s[kept], sample_weight=times[kept])
    assert found["any_finding_auroc"].resampled[5] == pytest.approx(expected, abs=1e-12)
    left_out = found["any_finding_auroc"].left_out
    assert left_out is not None
    assert left_out.shape == (100,)


def test_a_tail_without_a_positive_is_undefined() -> None:
    found = pool_tail(np.zeros((3, 2)), np.zeros((3, 2)), patients=np.arange(3), weights=draw_weights(3, resamples=2))
    assert all(np.isnan(estimate.value) and estimate.support == 0 for estimate in found.values())
