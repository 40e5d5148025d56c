"""What is kept of a calibration: strict JSON, complete, and only for the classes it was fitted to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtail.errors import MedtailError
from medtail.judging.calibration_maps import AffineMap, AnyMap, BetaMap, IdentityMap, IsotonicMap, SoftmaxMap
from medtail.judging.calibration_record import CalibrationMap, read_calibration
from medtail.judging.objectives import Sensitivity
from medtail.judging.thresholds import ThresholdChoice, ThresholdConfig
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions

LABELS = LabelSpace.from_columns(["a", "shape=oval", "shape=round", "b", "c", "d"])
MAPS: tuple[AnyMap, ...] = (
    AffineMap(class_name="a", alpha=0.25, beta=-1.0, positive_patients=12),
    SoftmaxMap(group="shape", classes=("shape=oval", "shape=round"), alpha=-0.1, bias=(0.5, -0.5)),
    BetaMap(class_name="b", rise=0.1, fall=0.2, shift=0.3),
    IsotonicMap(class_name="c", knots=(0.1, 0.5), values=(0.2, 0.4), note="ties"),
    IdentityMap(class_name="d", note="left"),
)
CHOICE = ThresholdChoice(
    values=dict.fromkeys(LABELS.class_names, 0.25),
    config=ThresholdConfig(objective=Sensitivity(at_least=0.9), shrink_to="half"),
    rows="cd",
    promised=("a",),
    notes={"b": "cannot be promised"},
)
STORED = CalibrationMap(
    labels=LABELS,
    maps=MAPS,
    method="auto",
    kappa=float("inf"),
    rows="ab",
    num_rows=100,
    num_patients=40,
    kappa_losses={"10": 0.25, "inf": 0.2},
    model="ef",
    thresholds=CHOICE,
)


def rows(labels: LabelSpace = LABELS, **changes: Any) -> Predictions:
    ids = np.array(["i0", "i1"], dtype=object)
    scores = np.full((2, labels.num_classes), 0.5)
    made = Predictions(ids, ids, scores, np.zeros(scores.shape), labels, np.array(["test"] * 2, dtype=object))
    return replace(made, **changes)


def test_a_calibration_comes_back_as_it_was(tmp_path: Path) -> None:
    STORED.write(tmp_path / "calibration.json")
    back = read_calibration(tmp_path / "calibration.json")
    assert back == STORED
    assert back.digest == STORED.digest
    assert set(STORED.to_json()["maps"][0]) == {"kind", "class_name", "alpha", "beta", "positive_patients", "note"}


@settings(max_examples=12)
@given(alpha=st.floats(-10, 10), beta=st.floats(-100, 100))
def test_numbers_come_back_to_the_last_digit(alpha: float, beta: float) -> None:
    made = replace(STORED, maps=(AffineMap(class_name="a", alpha=alpha, beta=beta), *MAPS[1:]))
    assert CalibrationMap.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_scores_are_put_through_their_own_maps_row_by_row() -> None:
    scores = np.array([[0.2, 0.3, 0.7, 0.1, 0.3, 0.9], [0.5, 0.5, 0.5, 0.5, 0.5, 0.5]])
    made = STORED.apply(scores)
    np.testing.assert_array_equal(made[:, 0], MAPS[0].apply(scores[:, 0]))
    np.testing.assert_array_equal(made[:, 1:3], MAPS[1].apply(scores[:, 1:3]))
    np.testing.assert_array_equal(made[:, 5], scores[:, 5])
    np.testing.assert_array_equal(STORED.apply(scores[1:]), made[1:])
    assert scores[0, 0] == 0.2, "the given scores are not changed"


def test_calibrated_predictions_name_the_calibration_and_its_thresholds() -> None:
    made = STORED.calibrate(rows(digests={"model": "ef", "scores": "old"}, thresholds={"a": 0.9}))
    assert made.digests == {"model": "ef", "calibration": STORED.digest}
    assert made.thresholds == dict(CHOICE.values)
    assert replace(STORED, thresholds=None).calibrate(rows(thresholds={"a": 0.9})).thresholds is None


def test_twice_is_refused() -> None:
    with pytest.raises(MedtailError, match=r"calibrated already.*twice is once too often"):
        STORED.calibrate(STORED.calibrate(rows()))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (LabelSpace.from_columns(["a", "shape=oval", "shape=round", "b", "c"]), "lacks d"),
        (LabelSpace.from_columns(["a", "shape=oval", "shape=round", "b", "c", "d", "e"]), "has e"),
        (LabelSpace.from_columns(["shape=oval", "shape=round", "a", "b", "c", "d"]), "another order"),
        (LabelSpace(LABELS.class_names), "exclusive groups: found none; the calibration was fitted with shape"),
    ],
)
def test_other_classes_or_groups_are_refused(labels: LabelSpace, said: str) -> None:
    with pytest.raises(MedtailError, match=said):
        STORED.calibrate(rows(labels))


def test_scores_of_another_shape_or_range_are_refused() -> None:
    with pytest.raises(MedtailError, match=r"expected \[N, 6\]"):
        STORED.apply(np.zeros((2, 5)))
    with pytest.raises(MedtailError, match="outside"):
        STORED.apply(np.full((2, 6), np.nan))


def damaged(**changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(json.dumps(STORED.to_json()))
    return {**value, **changes}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (damaged(format="medtail-calibration/9"), "format 'medtail-calibration/9' is unknown"),
        (damaged(surprise=1), "surprise: unknown key"),
        (damaged(kappa=-1), "kappa"),
        (damaged(maps=[{"kind": "python", "class_name": "a"}]), "expected identity"),
        (damaged(maps=[{"kind": "platt", "class_name": "a", "alpha": 99.0}]), "alpha 99.0"),
        (damaged(maps=[{"kind": "platt", "class_name": "a", "alpha": float("nan")}]), "alpha"),
        (damaged(maps=[]), "class 'a': 0 maps; expected one"),
        (damaged(thresholds={"values": {"a": 2.0}, "config": {}, "rows": ""}), "values.a"),
        (damaged(thresholds={"values": {"a": 0.2}, "config": {}, "rows": ""}), "not of the calibration's classes"),
        (damaged(labels={}), "label space"),
    ],
)
def test_damaged_files_are_refused_with_the_reason(value: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(MedtailError, match=said) as caught:
        read_calibration(path)
    assert str(caught.value).startswith(str(path))
    assert type(caught.value) is MedtailError, "a damaged file is no misuse of the command line"


def test_a_softmax_over_half_a_group_is_refused() -> None:
    labels = LabelSpace.from_columns(["g=a", "g=b", "g=c"])
    maps = (
        SoftmaxMap(group="g", classes=("g=a", "g=b"), alpha=0.0, bias=(0.0, 0.0)),
        IdentityMap(class_name="g=c"),
    )
    with pytest.raises(MedtailError, match="not over the group's classes"):
        replace(STORED, labels=labels, maps=maps, thresholds=None)
