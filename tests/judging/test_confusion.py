from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, multilabel_confusion_matrix

from medtail.judging.bootstrap import draw_weights, number_patients
from medtail.judging.confusion import (
    class_confusions,
    co_errors,
    diagonal_intervals,
    false_alarms_beside,
    group_confusions,
)
from medtail.judging.metrics import recall, specificity
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions


def grouped(scores: np.ndarray, targets: np.ndarray) -> Predictions:
    ids = np.array([f"i{row}" for row in range(len(scores))], dtype=object)
    columns = [*(f"t={c}" for c in range(scores.shape[1] - 1)), "halo"]
    return Predictions(ids, ids, scores, targets, LabelSpace.from_columns(columns), ids)


def test_counts_equal_scikit_learn() -> None:
    random = np.random.default_rng(0)
    true = random.integers(0, 4, 100)
    targets = np.column_stack([np.eye(4)[true], np.zeros(100)])
    scores = random.random((100, 5))
    found = group_confusions(grouped(scores, targets))
    assert [confusion.name for confusion in found] == ["t"]
    assert np.array_equal(found[0].counts, confusion_matrix(true, scores[:, :4].argmax(axis=1), labels=range(4)))
    assert np.allclose(found[0].by_true.sum(axis=1), 1)


def test_rows_where_no_class_is_known_to_be_present_have_no_place() -> None:
    targets = np.array([[1.0, 0, 0], [0, 0, 0], [np.nan, np.nan, 1], [np.nan, 1, 0]])
    (confusion,) = group_confusions(grouped(np.full((4, 3), 0.5), targets))
    assert confusion.counts.tolist() == [[1, 0], [1, 0]]


def test_absent_classes_are_flagged_and_their_shares_undefined() -> None:
    (confusion,) = group_confusions(grouped(np.array([[0.9, 0.1, 0.0]]), np.array([[1.0, 0, 0]])))
    assert confusion.absent == ("t=1",)
    assert np.isnan(confusion.by_true[1]).all()
    assert np.isnan(confusion.by_called[:, 1]).all()


def test_a_table_without_groups_has_no_confusions() -> None:
    ids = np.array(["a"], dtype=object)
    assert group_confusions(Predictions(ids, ids, np.ones((1, 1)), np.ones((1, 1)), LabelSpace(("halo",)), ids)) == ()


def test_each_class_has_the_two_by_two_table_of_scikit_learn() -> None:
    random = np.random.default_rng(1)
    targets, called, weights = random.integers(0, 2, (50, 3)), random.random((50, 3)) < 0.4, random.random(50)
    theirs = multilabel_confusion_matrix(targets, called, sample_weight=weights)
    assert class_confusions(called, targets, weights=weights) == pytest.approx(theirs, abs=1e-12)


def test_not_assessed_cells_have_no_place_in_a_table_of_their_class() -> None:
    targets = np.array([[1.0, np.nan], [np.nan, 0.0]])
    assert class_confusions(np.ones((2, 2), dtype=bool), targets).tolist() == [[[0, 0], [0, 1]], [[0, 1], [0, 0]]]


def test_co_errors_and_false_alarms_are_their_means_taken_slowly() -> None:
    random = np.random.default_rng(2)
    called, targets = random.random((60, 3)) < 0.4, random.integers(0, 2, (60, 3)).astype(float)
    targets[random.random(targets.shape) < 0.2] = np.nan
    together, alarms = co_errors(called, targets), false_alarms_beside(called, targets)
    for c in range(3):
        present, absent = targets[:, c] == 1, targets[:, c] == 0
        for d in range(3):
            assert together[c, d] == pytest.approx(called[present, d].mean() - called[absent, d].mean(), abs=1e-12)
            if c != d:
                assert alarms[c, d] == pytest.approx(called[present & (targets[:, d] == 0), d].mean(), abs=1e-12)
    assert np.isnan(np.diagonal(alarms)).all()
    youden = [
        recall(called[:, c] * 1.0, targets[:, c]) + specificity(called[:, c] * 1.0, targets[:, c]) for c in range(3)
    ]
    assert np.diagonal(together) == pytest.approx(np.array(youden) - 1, abs=1e-12)


def test_weighted_images_count_as_if_repeated_in_co_errors() -> None:
    random = np.random.default_rng(3)
    called, targets = random.random((40, 3)) < 0.5, random.integers(0, 2, (40, 3)).astype(float)
    times = random.integers(0, 3, 40)
    repeated = np.repeat(called, times, axis=0), np.repeat(targets, times, axis=0)
    for matrix in (co_errors, false_alarms_beside, class_confusions):
        assert matrix(called, targets, weights=times) == pytest.approx(matrix(*repeated), nan_ok=True, abs=1e-12)


def test_a_class_taken_for_another_stands_out_among_its_false_alarms() -> None:
    # Mass is called wherever Nodule is; Hernia has nothing to do with either
    targets = np.array([[1.0, 0, 0], [1, 0, 1], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
    called = np.array([[1, 1, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]) == 1
    alarms = false_alarms_beside(called, targets)
    assert alarms[0, 1] == 1.0
    assert alarms[2, 1] == 0.5
    assert np.nanmax(alarms[:, 2]) == 0.0


def test_a_diagonal_cells_interval_is_that_of_its_recall_and_precision_over_patients() -> None:
    random = np.random.default_rng(4)
    true = random.integers(0, 3, 90)
    scores = np.column_stack([random.dirichlet([1, 1, 1], 90) + 0.4 * np.eye(3)[true], np.zeros(90)]) / 2
    predictions = grouped(scores, np.column_stack([np.eye(3)[true], np.zeros(90)]))
    patients = np.array([f"p{row // 3}" for row in range(90)], dtype=object)
    predictions = replace(predictions, patients=patients)
    (found,) = diagonal_intervals(predictions, resamples=256, seed=5)
    codes, count = number_patients(patients)
    weights = draw_weights(count, resamples=256, seed=5).matrix()[codes]
    called = scores[:, :3].argmax(axis=1)
    for c in range(3):
        hit, row, column = (called == c) & (true == c), true == c, called == c
        by_true = [(w @ hit) / (w @ row) for w in weights.T]
        by_called = [(w @ hit) / (w @ column) for w in weights.T]
        assert found.by_true[c] == pytest.approx(np.quantile(by_true, [0.025, 0.975]), abs=1e-12)
        assert found.by_called[c] == pytest.approx(np.quantile(by_called, [0.025, 0.975]), abs=1e-12)


def test_a_diagonal_without_spread_gets_the_rule_of_three_and_an_absent_class_none() -> None:
    scores = np.array([[0.9, 0.1, 0.0, 0]] * 4)
    predictions = grouped(scores, np.array([[1.0, 0, 0, 0]] * 4))
    (found,) = diagonal_intervals(predictions, resamples=10)
    assert found.by_true[0] == pytest.approx(np.array([0.05 ** (1 / 4), 1.0]))
    # four images of two patients are two experiences
    pairs = replace(predictions, patients=np.array(["p", "p", "q", "q"], dtype=object))
    (fewer,) = diagonal_intervals(pairs, resamples=10)
    assert fewer.by_true[0] == pytest.approx(np.array([0.05 ** (1 / 2), 1.0]))
    assert fewer.by_called[0] == pytest.approx(np.array([0.05 ** (1 / 2), 1.0]))
    assert np.isnan(found.by_true[1:]).all()
    assert np.isnan(found.by_called[1:]).all()
