from __future__ import annotations

import numpy as np
from sklearn.metrics import confusion_matrix

from medtail.judging.confusion import group_confusions
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
