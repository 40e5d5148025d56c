from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import sklearn.metrics as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from medtail.errors import MedtailError
from medtail.judging import metrics, multiclass

Answers = tuple[np.ndarray, np.ndarray, np.ndarray, int]


@st.composite
def answers(draw: st.DrawFn) -> Answers:
    """True and called classes with absent ones, rows without a class, and weights of which some are 0."""
    size, num_classes = draw(st.integers(1, 40)), draw(st.integers(2, 5))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    true = random.integers(0, draw(st.integers(1, num_classes)), size)
    true[random.random(size) < draw(st.sampled_from([0.0, 0.2]))] = -1
    called = np.where(random.random(size) < 0.5, np.abs(true), random.integers(0, num_classes, size))
    return true, called, random.integers(0, 3, size) * random.choice([1.0, 0.37]), num_classes


def judged(rows: Answers) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the confusion, and the rows that count, for scikit-learn."""
    true, called, weights, num_classes = rows
    kept = (true >= 0) & (weights > 0)
    confusion = multiclass.confusion_matrix(true, called, num_classes=num_classes, weights=weights)
    return confusion, true[kept], called[kept], weights[kept]


def same(first: float, second: float) -> bool:
    return bool(np.isclose(first, second, rtol=0, atol=1e-12, equal_nan=True))


@settings(max_examples=60)
@given(rows=answers())
def test_confusion_and_accuracy_equal_scikit_learn(rows: Answers) -> None:
    confusion, true, called, weights = judged(rows)
    if not len(true):
        assert np.isnan(multiclass.accuracy(confusion))
        return
    theirs = oracle.confusion_matrix(true, called, labels=range(rows[3]), sample_weight=weights)
    assert confusion == pytest.approx(theirs, abs=1e-12)
    assert same(multiclass.accuracy(confusion), oracle.accuracy_score(true, called, sample_weight=weights))


@settings(max_examples=60)
@given(rows=answers())
def test_averages_over_supported_classes_equal_scikit_learn_told_which_those_are(rows: Answers) -> None:
    confusion, true, called, weights = judged(rows)
    if not len(true):
        assert np.isnan(multiclass.balanced_accuracy(confusion))
        assert np.isnan(multiclass.macro_f1(confusion))
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
        warnings.filterwarnings("ignore", message="A single label was found")
        theirs = oracle.balanced_accuracy_score(true, called, sample_weight=weights)
    supported = np.unique(true)
    assert same(multiclass.balanced_accuracy(confusion), theirs)
    f1 = oracle.f1_score(true, called, labels=supported, average="macro", sample_weight=weights)
    assert same(multiclass.macro_f1(confusion), f1)
    recall = oracle.recall_score(true, called, labels=supported, average=None, sample_weight=weights)
    assert same(multiclass.worst_recall(confusion), recall.min())
    assert same(multiclass.recall_geometric_mean(confusion), np.prod(recall) ** (1 / len(recall)))


@pytest.mark.parametrize("weighting", ["none", "linear", "quadratic"])
@settings(max_examples=60)
@given(rows=answers())
def test_kappa_equals_scikit_learn_wherever_two_classes_are_there(
    weighting: multiclass.KappaWeighting, rows: Answers
) -> None:
    confusion, true, called, weights = judged(rows)
    ours = multiclass.kappa(confusion, weighting=weighting)
    if len(np.unique(true)) < 2:
        assert np.isnan(ours)
        return
    theirs = oracle.cohen_kappa_score(
        true,
        called,
        labels=range(rows[3]),
        weights=None if weighting == "none" else weighting,
        sample_weight=weights,
    )
    assert same(ours, theirs)


@settings(max_examples=40)
@given(rows=answers(), seed=st.integers(0, 2**32 - 1))
def test_the_order_of_classes_matters_to_nothing_but_ordered_kappas(rows: Answers, seed: int) -> None:
    true, called, weights, num_classes = rows
    names = np.random.default_rng(seed).permutation(num_classes)
    first = multiclass.confusion_matrix(true, called, num_classes=num_classes, weights=weights)
    renamed = multiclass.confusion_matrix(
        np.where(true < 0, -1, names[true]), names[called], num_classes=num_classes, weights=weights
    )
    every: list[Callable[[np.ndarray], float]] = [
        multiclass.accuracy,
        multiclass.balanced_accuracy,
        multiclass.macro_f1,
        multiclass.recall_geometric_mean,
        multiclass.worst_recall,
        multiclass.kappa,
    ]
    for metric in every:
        assert same(metric(first), metric(renamed))
    # levels counted from the other end are as far apart as before
    turned = first[::-1, ::-1]
    for weighting in ("linear", "quadratic"):
        assert same(multiclass.kappa(first, weighting=weighting), multiclass.kappa(turned, weighting=weighting))


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1))
def test_top_k_equals_scikit_learn_without_ties(seed: int) -> None:
    random = np.random.default_rng(seed)
    size, num_classes = int(random.integers(1, 30)), int(random.integers(3, 7))
    scores = random.permutation(size * num_classes).reshape(size, num_classes) / (size * num_classes)
    true, weights = random.integers(0, num_classes, size), random.random(size) + 0.1
    for k in range(1, num_classes):
        theirs = oracle.top_k_accuracy_score(true, scores, k=k, labels=range(num_classes), sample_weight=weights)
        assert same(multiclass.top_k_accuracy(scores, true, k=k, weights=weights), theirs)
    assert multiclass.top_k_accuracy(scores, true, k=num_classes) == 1.0


def test_ties_at_the_kth_place_go_to_the_lowest_index() -> None:
    scores, true = np.full((3, 3), 0.5), np.array([0, 1, 2])
    assert [multiclass.top_k_accuracy(scores, true, k=k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert multiclass.top_k_accuracy(scores, np.array([0, 0, 2]), k=1) == 2 / 3
    called = scores.argmax(axis=1)
    assert multiclass.accuracy(multiclass.confusion_matrix(np.array([0, 0, 2]), called, num_classes=3)) == 2 / 3


def test_a_class_only_called_is_left_out_of_macro_f1_and_costs_the_others() -> None:
    # spec 15: scikit-learn and torchmetrics count it as 0
    true, called = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    confusion = multiclass.confusion_matrix(true, called, num_classes=3)
    assert multiclass.f1s(confusion) == pytest.approx(np.array([2 / 3, 1.0, np.nan]), nan_ok=True)
    assert multiclass.macro_f1(confusion) == pytest.approx(5 / 6)
    assert oracle.f1_score(true, called, average="macro") == pytest.approx(5 / 9)


def test_recall_averages_punish_a_class_always_missed() -> None:
    confusion = np.array([[99.0, 0.0], [1.0, 0.0]])
    assert multiclass.accuracy(confusion) == 0.99
    assert multiclass.balanced_accuracy(confusion) == 0.5
    assert multiclass.recall_geometric_mean(confusion) == multiclass.worst_recall(confusion) == 0.0


def test_kappa_agrees_with_the_one_class_form() -> None:
    random = np.random.default_rng(0)
    scores, targets = random.random(60), random.integers(0, 2, 60)
    confusion = multiclass.confusion_matrix(targets, (scores >= 0.5).astype(int), num_classes=2)
    from medtail.judging.operating import cohen_kappa

    assert multiclass.kappa(confusion) == pytest.approx(cohen_kappa(scores, targets), abs=1e-12)
    assert multiclass.balanced_accuracy(confusion) == pytest.approx(metrics.balanced_accuracy(scores, targets))


def test_wrong_input_is_refused() -> None:
    one = np.array([0])
    with pytest.raises(MedtailError, match="expected one \\[N\\]"):
        multiclass.confusion_matrix(one, np.array([0, 1]), num_classes=2)
    with pytest.raises(MedtailError, match="outside 0 … 1"):
        multiclass.confusion_matrix(one, np.array([2]), num_classes=2)
    with pytest.raises(MedtailError, match="negative or infinite"):
        multiclass.confusion_matrix(one, one, num_classes=2, weights=np.array([-1.0]))
    with pytest.raises(MedtailError, match="expected none, linear or quadratic"):
        multiclass.kappa(np.eye(2), weighting="cubic")  # type: ignore[arg-type]
    for k in (0, 4):
        with pytest.raises(MedtailError, match="expected 1 to that many"):
            multiclass.top_k_accuracy(np.full((1, 3), 0.5), one, k=k)
    with pytest.raises(MedtailError, match="top-k accuracy: scores"):
        multiclass.top_k_accuracy(np.full((2, 3), 0.5), one, k=1)
