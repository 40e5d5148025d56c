from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, roc_auc_score

from medtail.challenges.medmnist_official import official_acc, official_auc, official_class_auc
from medtail.challenges.medmnist_sets import SETS, MedmnistTask
from medtail.errors import MedtailError
from medtail.judging.metrics import auroc

TASKS: tuple[MedmnistTask, ...] = ("multi-class", "multi-label, binary-class", "binary-class", "ordinal-regression")


def auc_as_stated(labels: np.ndarray, scores: np.ndarray, task: MedmnistTask) -> float:
    """What spec and package say of AUC, through scikit-learn."""
    y, s = labels.squeeze(), scores.squeeze()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one class only: scikit-learn warns and answers nan
        if task == "binary-class":
            return float(roc_auc_score(y, s if s.ndim == 1 else s[:, -1]))
        total = 0.0
        for c in range(s.shape[1]):
            total += roc_auc_score(y[:, c] if task.startswith("multi-label") else (y == c).astype(float), s[:, c])
        return float(total / s.shape[1])


def acc_as_stated(labels: np.ndarray, scores: np.ndarray, task: MedmnistTask) -> float:
    """What spec and package say of ACC, through scikit-learn."""
    y, s = labels.squeeze(), scores.squeeze()
    if task == "binary-class":
        return float(accuracy_score(y, (s if s.ndim == 1 else s[:, -1]) > 0.5))
    if task == "multi-label, binary-class":
        total = 0.0
        for c in range(y.shape[1]):
            total += accuracy_score(y[:, c], s[:, c] > 0.5)
        return float(total / y.shape[1])
    return float(accuracy_score(y, np.argmax(s, axis=-1)))


@pytest.mark.parametrize("task", TASKS)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(2, 80),
    classes=st.integers(2, 6),
    decimals=st.sampled_from([0, 1, 2, 4, 16]),
    scale=st.sampled_from([1.0, 8.0]),
)
def test_both_figures_are_the_official_ones_to_the_last_bit(
    task: MedmnistTask, seed: int, rows: int, classes: int, decimals: int, scale: float
) -> None:
    random = np.random.default_rng(seed)
    is_multilabel, columns = task.startswith("multi-label"), classes
    labels = random.integers(0, 2 if is_multilabel else classes, (rows, classes if is_multilabel else 1))
    if task == "binary-class":
        labels, columns = labels % 2, int(random.integers(1, 3))
    scores = np.round(random.random((rows, columns)), decimals) * scale
    expected = auc_as_stated(labels, scores, task)
    found = official_auc(labels, scores, task=task)
    assert found == expected or (np.isnan(found) and np.isnan(expected))
    assert official_acc(labels, scores, task=task) == acc_as_stated(labels, scores, task)


def test_three_decimals_are_rounded_as_officially_where_the_exact_figure_would_not_be() -> None:
    random = np.random.default_rng(0)
    apart = 0
    for _ in range(300):
        labels, scores = random.integers(0, 2, 80), random.random(80)
        ours, official = auroc(scores, labels), official_auc(labels, scores, task="binary-class")
        assert ours == pytest.approx(official, abs=1e-12)
        assert official == roc_auc_score(labels, scores)
        apart += ours != official
    assert apart > 0  # else the second arithmetic would be of no use


def test_a_score_of_exactly_half_is_no_call() -> None:
    labels = np.array([[1, 0], [1, 1]])
    assert official_acc(labels, np.full((2, 2), 0.5), task="multi-label, binary-class") == 0.25
    assert official_acc(np.array([[1], [0]]), np.array([[0.5], [0.5]]), task="binary-class") == 0.5
    assert official_acc(np.array([[1], [0]]), np.array([[0.5], [0.51]]), task="binary-class") == 0.0


def test_a_binary_set_looks_at_the_last_column_only() -> None:
    labels = np.array([[0], [1], [1]])
    scores = np.array([[0.9, 0.1], [0.9, 0.8], [0.9, 0.7]])
    assert official_auc(labels, scores, task="binary-class") == 1.0
    assert official_acc(labels, scores, task="binary-class") == 1.0
    assert official_auc(labels, scores[:, :1], task="binary-class") == 0.5


def test_ties_of_the_highest_score_go_to_the_lowest_class() -> None:
    labels = np.array([[0], [1]])
    assert official_acc(labels, np.full((2, 3), 1 / 3), task="multi-class") == 0.5


@pytest.mark.parametrize("absent", [0, 2])
def test_an_absent_class_makes_the_mean_nan_and_the_others_are_still_told(absent: int) -> None:
    random = np.random.default_rng(1)
    labels = np.array([n for n in (0, 1, 2) if n != absent] * 5)[:, None]
    scores = random.random((10, 3))
    assert np.isnan(official_auc(labels, scores, task="multi-class"))
    each = official_class_auc(labels, scores, task="multi-class")
    assert np.flatnonzero(np.isnan(each)).tolist() == [absent]


def test_the_official_dummy_one_column_short_gives_a_mean_over_the_columns_there_are() -> None:
    random = np.random.default_rng(2)
    labels, scores = random.integers(0, 4, (50, 1)), random.random((50, 3))
    assert official_auc(labels, scores, task="multi-class") == auc_as_stated(labels, scores, "multi-class")


@pytest.mark.parametrize(
    ("labels", "scores", "task"),
    [
        (np.zeros((3, 2), int), np.zeros((3, 3)), "multi-label, binary-class"),
        (np.zeros((3, 1), int), np.zeros((2, 3)), "multi-class"),
        (np.zeros((3, 1), int), np.zeros((3, 1)), "multi-class"),
        (np.zeros((1, 1), int), np.zeros((1, 3)), "multi-class"),
    ],
)
def test_shapes_the_official_evaluator_would_trip_over_are_refused(
    labels: np.ndarray, scores: np.ndarray, task: MedmnistTask
) -> None:
    with pytest.raises(MedtailError, match="do not fit the task"):
        official_auc(labels, scores, task=task)


def test_every_task_of_the_collection_is_known() -> None:
    assert {dataset.task for dataset in SETS.values()} == set(TASKS)
