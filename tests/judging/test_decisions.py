from __future__ import annotations

import numpy as np

from medtail.judging.decisions import decide
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions


def test_exactly_one_class_of_a_group_is_called_and_ties_go_to_the_lowest_index() -> None:
    scores = np.array([[0.1, 0.1, 0.9], [0.2, 0.3, 0.1], [0.9, 0.9, 0.5]])
    called = decide(scores, groups=[(0, 1)])
    assert called.tolist() == [[True, False, True], [False, True, False], [True, False, True]]


def test_thresholds_decide_outside_groups_only() -> None:
    scores = np.array([[0.4, 0.2, 0.1]])
    called = decide(scores, thresholds=np.array([0.4, 0.9, 0.9]), groups=[(1, 2)])
    assert called.tolist() == [[True, True, False]]


def test_predictions_bring_their_own_thresholds_and_groups() -> None:
    ids = np.array(["a"], dtype=object)
    labels = LabelSpace.from_columns(["t=x", "t=y", "halo"])
    predictions = Predictions(
        ids, ids, np.array([[0.1, 0.3, 0.3]]), np.zeros((1, 3)), labels, ids, thresholds={"halo": 0.25}
    )
    assert decide(predictions).tolist() == [[False, True, True]]
    assert decide(predictions, thresholds=np.full(3, 0.5)).tolist() == [[False, True, False]]
    assert decide(predictions, groups=[]).tolist() == [[False, False, True]]


def test_a_score_at_its_threshold_is_called_unless_asked_otherwise() -> None:
    scores = np.array([[0.5, 0.5, 0.3]])
    assert decide(scores).tolist() == [[True, True, False]]
    assert decide(scores, decision=">").tolist() == [[False, False, False]]
    assert decide(scores, decision=">", groups=[(0, 1)]).tolist() == [[True, False, False]]
