"""Calibration errors and misses: values equal to the slow formula, resamples equal to repeated rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from medtail.challenges.cxr_lt_errors import calibration_errors, miss_rates, pooled_error
from medtail.judging.bootstrap import draw_weights
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions


def table(rows: int = 90, classes: int = 3, *, seed: int = 0) -> tuple[Predictions, np.ndarray]:
    random = np.random.default_rng(seed)
    scores = random.random((rows, classes)).astype(np.float32).astype(float)
    targets = (random.random(scores.shape) < scores**2).astype(float)
    targets[:5, 1] = np.nan
    ids = np.arange(rows).astype(str).astype(object)
    patients = random.integers(0, 30, rows)
    labels = LabelSpace(tuple(f"c{c}" for c in range(classes)))
    return Predictions(ids, ids, scores, targets, labels, ids), patients.astype(np.int32)


def slow(s: np.ndarray, y: np.ndarray, bins: int, mode: str) -> float:
    hit = y if mode == "reliability" else ((s >= 0.5) == (y == 1)).astype(float)
    at = np.clip(np.ceil(s * bins).astype(int) - 1, 0, bins - 1)
    return sum((at == b).mean() * abs(hit[at == b].mean() - s[at == b].mean()) for b in range(bins) if (at == b).any())


@pytest.mark.parametrize("mode", ["reliability", "leaderboard"])
def test_readings_are_those_of_the_specification(mode):
    predictions, patients = table()
    weights = draw_weights(30, resamples=0)
    point, draws = calibration_errors(predictions, patients=patients, weights=weights, mode=mode)
    for c in range(3):
        known = ~np.isnan(predictions.targets[:, c])
        expected = slow(predictions.scores[known, c], predictions.targets[known, c], 10, mode)
        assert point[c] == pytest.approx(expected, abs=1e-12)
    assert draws.shape == (3, 0)


def test_reliability_equals_torchmetrics_and_pooling_is_flattening():
    predictions, patients = table()
    weights = draw_weights(30, resamples=4)
    point, _ = calibration_errors(predictions, patients=patients, weights=weights, mode="reliability")
    s, y = torch.tensor(predictions.scores[:, 0]), torch.tensor(predictions.targets[:, 0]).long()
    assert point[0] == pytest.approx(float(binary_calibration_error(s, y, n_bins=10, norm="l1")), abs=1e-6)
    known = ~np.isnan(predictions.targets)
    expected = slow(predictions.scores[known], predictions.targets[known], 15, "reliability")
    value, draws = pooled_error(predictions, patients=patients, weights=weights)
    assert value == pytest.approx(expected, abs=1e-12)
    assert draws.shape == (4,)


def test_where_all_gaps_share_a_sign_the_leaderboard_reading_needs_no_bins():
    predictions, patients = table()
    low = Predictions(
        predictions.image_ids, predictions.patients, predictions.scores * 0.1, np.zeros_like(predictions.scores),
        predictions.labels, predictions.folds,
    )  # fmt: skip
    point, _ = calibration_errors(low, patients=patients, weights=draw_weights(30, resamples=0), mode="leaderboard")
    assert point == pytest.approx(np.abs(1.0 - low.scores.mean(axis=0)), abs=1e-12)


@pytest.mark.parametrize("mode", ["reliability", "leaderboard", "confidence"])
def test_a_resample_is_the_rows_repeated(mode):
    predictions, patients = table()
    weights = draw_weights(30, resamples=3)
    times = weights.matrix()[patients, 2].astype(int)
    _, draws = calibration_errors(predictions, patients=patients, weights=weights, mode=mode)
    repeated = Predictions(
        *(np.repeat(column, times, axis=0) for column in (predictions.image_ids, predictions.patients,
                                                         predictions.scores, predictions.targets)),
        predictions.labels, np.repeat(predictions.folds, times),
    )  # fmt: skip
    nobody = draw_weights(30, resamples=0)
    again, _ = calibration_errors(repeated, patients=np.repeat(patients, times), weights=nobody, mode=mode)
    assert draws[:, 2] == pytest.approx(again, abs=1e-9)
    _, pooled = pooled_error(predictions, patients=patients, weights=weights)
    flat, _ = pooled_error(repeated, patients=np.repeat(patients, times), weights=nobody)
    assert pooled[2] == pytest.approx(flat, abs=1e-9)


def test_misses_at_thresholds_are_counted_and_resampled():
    predictions, patients = table()
    weights = draw_weights(30, resamples=3)
    limits = np.array([0.2, 0.5, 0.9])
    point, draws = miss_rates(predictions, limits, patients=patients, weights=weights)
    times = weights.matrix()[patients, 0]
    for c, limit in enumerate(limits):
        positive = predictions.targets[:, c] == 1
        missed = predictions.scores[positive, c] < limit
        assert point[c] == pytest.approx(missed.mean())
        assert draws[c, 0] == pytest.approx(np.average(missed, weights=times[positive]))
