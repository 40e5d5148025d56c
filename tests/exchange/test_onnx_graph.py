"""The calibration and the decisions in an exported graph are those of the judge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medtail.exchange.onnx_graph import Calibrating, Deciding, soft_limit
from medtail.judging import calibration_maps
from medtail.judging.calibration_maps import AffineMap, AnyMap, BetaMap, IdentityMap, IsotonicMap, SoftmaxMap
from medtail.judging.calibration_record import apply_maps
from medtail.judging.decisions import decide
from medtail.tables.labels import LabelSpace

LABELS = LabelSpace.from_columns(["a", "shape=oval", "b", "shape=round", "c", "d", "e"])
MAPS: tuple[AnyMap, ...] = (
    IsotonicMap(class_name="c", knots=(0.1, 0.1001, 0.5, 0.9), values=(0.0, 0.2, 0.2, 1.0)),
    SoftmaxMap(group="shape", classes=("shape=oval", "shape=round"), alpha=0.7, bias=(1.5, -1.5)),
    AffineMap(class_name="d", kind="temperature", alpha=-1.2),
    IdentityMap(class_name="e"),
    BetaMap(class_name="b", rise=0.5, fall=-0.8, shift=0.3),
    AffineMap(class_name="a", alpha=2.0, beta=-3.0),
)
EXTREME = np.array([0.0, 1e-300, 1e-9, 0.1, 0.10005, 0.5, 0.9, 1 - 1e-7, 1.0])


def scores_of(column: np.ndarray) -> np.ndarray:
    """The same score in every class, and shares that add up to 1 in the group."""
    scores = np.repeat(column[:, None], LABELS.num_classes, axis=1)
    first, second = LABELS.group_indices[0]
    scores[:, second] = 1 - scores[:, first]
    return scores


@pytest.mark.parametrize("part", MAPS, ids=lambda part: part.kind)
def test_each_kind_of_map_gives_what_the_judge_gives_at_the_ends_too(part: AnyMap) -> None:
    names = part.classes if isinstance(part, SoftmaxMap) else (part.class_name,)
    maps = [part, *(IdentityMap(class_name=name) for name in LABELS.class_names if name not in names)]
    scores = scores_of(EXTREME)
    found = Calibrating(maps, labels=LABELS)(torch.from_numpy(scores)).numpy()
    np.testing.assert_allclose(found, apply_maps(maps, scores, LABELS), rtol=0, atol=1e-12)
    if part.kind != "identity":
        assert np.abs(found - scores).max() > 0.05, "a map that changes nothing would pass trivially"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_all_maps_together_give_what_the_judge_gives(column: list[float]) -> None:
    scores = scores_of(np.array(column))
    found = Calibrating(MAPS, labels=LABELS)(torch.from_numpy(scores)).numpy()
    np.testing.assert_allclose(found, apply_maps(MAPS, scores, LABELS), rtol=0, atol=1e-12)


def test_an_isotonic_map_of_one_knot_gives_one_value() -> None:
    maps = [IsotonicMap(class_name="x", knots=(0.4,), values=(0.7,))]
    made = Calibrating(maps, labels=LabelSpace(("x",)))(torch.tensor([[0.1], [0.9]], dtype=torch.float64))
    assert made.flatten().tolist() == [0.7, 0.7]


def test_logits_are_limited_as_by_the_judge() -> None:
    logits = np.array([-750.0, -15.0, 0.0, 3.0, 15.5, 40.0])
    np.testing.assert_allclose(soft_limit(torch.from_numpy(logits)).numpy(), calibration_maps.soft_limit(logits))


@given(st.lists(st.sampled_from([0.0, 0.2, 0.3, 0.5, 1.0]), min_size=7, max_size=7))
def test_decisions_are_the_judges_at_thresholds_and_at_ties(row: list[float]) -> None:
    thresholds = np.array([0.3, 0.9, 0.5, 0.9, 0.2, 1.0, 0.0])
    scores = np.array([row])
    found = Deciding(LABELS, thresholds=thresholds)(torch.from_numpy(scores)).numpy()
    np.testing.assert_array_equal(found, decide(scores, thresholds=thresholds, groups=LABELS.group_indices))
