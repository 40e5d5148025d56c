from __future__ import annotations

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.synthesis.fidelity import called, class_control, judge_entropy
from medtail.tables.labels import LabelSpace

GROUP = LabelSpace.from_columns(["type=a", "type=b", "type=c"])
FREE = LabelSpace(("x", "y"))


def tune(recall: float, patients: int, labels: LabelSpace = GROUP):
    """Tune images of class 0, of which a share is called, and as many of class 1, all called."""
    targets = np.zeros((2 * patients, labels.num_classes))
    targets[:patients, 0], targets[patients:, 1] = 1, 1
    scores = targets * 0.8 + 0.1
    wrong = patients - round(recall * patients)
    scores[:wrong, 0], scores[:wrong, 1] = 0.1, 0.9
    return {"tune_scores": scores, "tune_targets": targets, "tune_patients": np.arange(2 * patients).astype(str)}


def test_the_share_and_mean_score_of_each_class_are_given():
    scores = np.array([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.1, 0.8, 0.1]])
    found = class_control(scores, np.array([0, 0, 1]), labels=GROUP, **tune(0.8, 10))
    assert found["type=a"].share == 0.5
    assert found["type=a"].score == pytest.approx(0.55)
    assert found["type=a"].recall == pytest.approx(0.8)
    assert found["type=a"].relative == pytest.approx(0.5 / 0.8)
    assert found["type=b"].share == 1.0
    assert "type=c" not in found


@pytest.mark.parametrize(("recall", "patients", "blind"), [
    (0.2, 10, "recalls 0.20"), (0.3, 10, ""), (1.0, 4, "4 tune patients"), (1.0, 5, ""),
])  # fmt: skip
def test_a_judge_that_cannot_see_a_class_says_nothing(recall, patients, blind):
    found = class_control(np.array([[0.9, 0.1, 0.0]]), np.array([0]), labels=GROUP, **tune(recall, patients))["type=a"]
    assert blind in found.blind
    assert bool(found.blind) == bool(blind)
    assert np.isnan(found.share) == np.isnan(found.score) == np.isnan(found.relative) == bool(blind)


def test_many_images_of_few_patients_are_few():
    rows = tune(1.0, 10)
    rows["tune_patients"] = np.array(["p"] * 20)
    found = class_control(np.array([[0.9, 0.1, 0.0]]), np.array([0]), labels=GROUP, **rows)
    assert "1 tune patients" in found["type=a"].blind


def test_classes_without_a_group_are_called_at_their_threshold():
    scores = np.array([[0.35, 0.9]])
    assert called(scores, FREE).tolist() == [[False, True]]
    assert called(scores, FREE, thresholds=np.array([0.3, 0.95])).tolist() == [[True, False]]
    found = class_control(scores, np.array([0]), labels=FREE, thresholds=np.array([0.3, 0.5]), **tune(1.0, 6, FREE))
    assert found["x"].share == 1.0


def test_of_an_exclusive_group_only_the_highest_is_called():
    assert called(np.array([[0.6, 0.7, 0.1], [0.2, 0.1, 0.3]]), GROUP).tolist() == [
        [False, True, False],
        [False, False, True],
    ]


def test_labels_that_were_not_assessed_are_neither_hits_nor_misses():
    rows = tune(1.0, 6)
    rows["tune_targets"][3:6, 0] = np.nan
    found = class_control(np.array([[0.9, 0.1, 0.0]]), np.array([0]), labels=GROUP, **rows)["type=a"]
    assert found.patients == 3


def test_the_cross_entropy_is_finite_at_zero():
    values = judge_entropy(np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([0, 1]))
    assert values[0] == pytest.approx(np.log(2))
    assert np.isfinite(values[1])
    assert values[1] > 20


def test_scores_of_another_table_are_refused():
    with pytest.raises(MedtailError, match="expected a row an image and a column a class"):
        class_control(np.zeros((2, 2)), np.array([0, 1]), labels=GROUP, **tune(1.0, 5))
