from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtail.errors import MedtailError
from medtail.judging.metrics import f1
from medtail.judging.thresholds import choose_thresholds, label_threshold, plug_in_threshold
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions


def tune_rows(scores: np.ndarray, targets: np.ndarray, *, folds: str | list[str] = "tune") -> Predictions:
    ids = np.array([f"i{row}" for row in range(len(scores))], dtype=object)
    named = [folds] * len(scores) if isinstance(folds, str) else folds
    labels = LabelSpace(tuple(f"c{c}" for c in range(scores.shape[1])))
    return Predictions(ids, ids, scores, targets, labels, np.array(named, dtype=object))


@pytest.mark.parametrize("fold", ["test", "train", "reward", ""])
def test_rows_outside_tune_are_refused(fold: str) -> None:
    rows = tune_rows(np.full((3, 1), 0.5), np.ones((3, 1)), folds=["tune", fold, "tune"])
    with pytest.raises(MedtailError, match=r"1 of 3 rows are not in fold 'tune'.*score the\n? ?tune fold"):
        choose_thresholds(rows)


def test_no_rows_and_negative_shrinkage_are_refused() -> None:
    rows = tune_rows(np.full((1, 1), 0.5), np.ones((1, 1)))
    with pytest.raises(MedtailError, match="no rows"):
        choose_thresholds(rows.take(np.zeros(1, dtype=bool)))
    with pytest.raises(MedtailError, match=">= 0"):
        choose_thresholds(rows, shrinkage_patients=-1)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), levels=st.sampled_from([1, 3, 1000]), rows=st.integers(1, 30))
def test_the_label_threshold_has_the_best_f1_of_all_cuts(seed: int, levels: int, rows: int) -> None:
    random = np.random.default_rng(seed)
    scores, targets = random.integers(1, levels + 1, rows) / (levels + 1), random.integers(0, 2, rows).astype(float)
    threshold = label_threshold(scores, targets)
    if not targets.any():
        assert np.isnan(threshold)
    else:
        best = max(f1(scores, targets, threshold=float(cut)) for cut in set(scores))
        assert f1(scores, targets, threshold=threshold) == best


def test_tiny_scores_of_a_rare_class_still_get_a_cut_between_them() -> None:
    scores, targets = np.array([1e-8, 1e-9, 1e-10]), np.array([1.0, 0.0, 0.0])
    assert 1e-9 < label_threshold(scores, targets) <= 1e-8


def test_the_plug_in_threshold_is_half_the_best_expected_f1_and_calls_that_very_set() -> None:
    scores = np.random.default_rng(0).beta(0.3, 3.0, 400)
    expected = {k: 2 * np.sort(scores)[::-1][:k].sum() / (k + scores.sum()) for k in range(1, 401)}
    best = max(expected, key=lambda k: expected[k])
    threshold = plug_in_threshold(scores)
    assert threshold == pytest.approx(expected[best] / 2)
    assert int((scores >= threshold).sum()) == best


def test_the_labels_weigh_as_many_as_there_are_positive_patients() -> None:
    random = np.random.default_rng(1)
    targets = np.zeros((200, 3))
    targets[:2, 0], targets[:20, 1], targets[:, 2] = 1, 1, np.nan
    scores = np.clip(random.random((200, 3)) * 0.6 + 0.3 * np.nan_to_num(targets), 0.01, 0.99)
    chosen = choose_thresholds(tune_rows(scores, targets))

    def logit(value: float) -> float:
        return float(np.log(value / (1 - value)))

    assert chosen["c0"] == pytest.approx(plug_in_threshold(scores[:, 0]))  # two patients choose nothing
    half_way = (logit(label_threshold(scores[:, 1], targets[:, 1])) + logit(plug_in_threshold(scores[:, 1]))) / 2
    assert logit(chosen["c1"]) == pytest.approx(half_way)
    assert chosen["c2"] == 0.5  # never assessed


def test_many_images_of_one_patient_are_one_patient() -> None:
    scores = np.concatenate([np.full(30, 0.9), np.linspace(0.05, 0.5, 60)])[:, None]
    targets = np.concatenate([np.ones(30), np.zeros(60)])[:, None]
    rows = tune_rows(scores, targets)
    patients = rows.patients.copy()
    patients[:30] = "one"
    together = Predictions(rows.image_ids, patients, scores, targets, rows.labels, rows.folds)
    assert choose_thresholds(together)["c0"] == pytest.approx(plug_in_threshold(scores[:, 0]))
    assert choose_thresholds(rows)["c0"] != pytest.approx(plug_in_threshold(scores[:, 0]))


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
def test_constant_scores_give_a_threshold_inside_the_unit_interval(value: float) -> None:
    targets = np.array([[1.0], [1.0], [1.0], [0.0]])
    assert 0 < choose_thresholds(tune_rows(np.full((4, 1), value), targets))["c0"] < 1


def test_shrinking_steadies_the_threshold_of_a_rare_class() -> None:
    random = np.random.default_rng(2)
    chosen: dict[float, list[float]] = {0.0: [], 20.0: []}
    for _ in range(60):
        scores = random.beta(0.15, 5.0, (300, 1))
        targets = (random.random((300, 1)) < scores).astype(float)
        if targets.sum() >= 3:
            for kappa, found in chosen.items():
                threshold = choose_thresholds(tune_rows(scores, targets), shrinkage_patients=kappa)["c0"]
                found.append(float(np.log(threshold / (1 - threshold))))
    assert np.std(chosen[20.0]) < 0.6 * np.std(chosen[0.0])
