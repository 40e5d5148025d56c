"""Rules on top of scores: what each formula says, and that it does nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtail.config import build_config
from medtail.errors import MedtailError, UsageError
from medtail.tables.labels import LabelSpace
from medtail.tables.post_rules import (
    ExclusiveNormalConfig,
    HierarchyConfig,
    NormalGateConfig,
    RulesConfig,
    apply_rules,
    implied_order,
)
from medtail.tables.predictions import Predictions

NAMES = ("Normal", "Fracture", "Rib Fracture", "Mass", "Support Devices")
RIBS = HierarchyConfig(implies={"Rib Fracture": ("Fracture",)})


def table(scores: list[list[float]], names: tuple[str, ...] = NAMES) -> Predictions:
    values = np.array(scores, dtype=float)
    ids = np.array([f"i{k}" for k in range(len(values))], dtype=object)
    return Predictions(ids, ids, values, np.zeros(values.shape), LabelSpace.from_columns(names), ids, name="t")


def test_the_normal_gate_is_its_formula_and_spares_normal_and_devices() -> None:
    found = apply_rules(table([[0.75, 0.4, 0.2, 0.8, 0.6]]), [NormalGateConfig(alpha=0.5)])
    np.testing.assert_allclose(found.scores, [[0.75, 0.2, 0.1, 0.4, 0.6]])


def test_a_gate_of_strength_0_changes_nothing() -> None:
    given_ = table([[0.75, 0.4, 0.2, 0.8, 0.6]])
    assert np.array_equal(apply_rules(given_, [NormalGateConfig(alpha=0.0)]).scores, given_.scores)


def test_exclusive_normal_lowers_normal_to_what_the_highest_finding_leaves() -> None:
    found = apply_rules(table([[0.75, 0.4, 0.2, 0.8, 0.95], [0.1, 0.0, 0.0, 0.0, 1.0]]), [ExclusiveNormalConfig()])
    np.testing.assert_allclose(found.scores[:, 0], [0.2, 0.1])
    assert np.array_equal(found.scores[:, 1:], [[0.4, 0.2, 0.8, 0.95], [0.0, 0.0, 0.0, 1.0]])


def test_hierarchy_lowers_the_child_or_raises_the_parent() -> None:
    given_ = table([[0.1, 0.3, 0.7, 0.5, 0.5]])
    assert apply_rules(given_, [RIBS]).scores[0, 1:3].tolist() == [0.3, 0.3]
    raised = apply_rules(given_, [replace(RIBS, direction="raise")])
    assert raised.scores[0, 1:3].tolist() == [0.7, 0.7]


def test_a_child_of_two_parents_is_at_most_the_smaller_and_chains_hold_whatever_their_order() -> None:
    names = ("Hydropneumothorax", "Pneumothorax", "Pleural Effusion", "Disease")
    both = HierarchyConfig(
        implies={"Hydropneumothorax": ("Pneumothorax", "Pleural Effusion"), "Pneumothorax": ("Disease",)}
    )
    swapped = HierarchyConfig(implies=dict(reversed(list(both.implies.items()))))
    for rule in (both, swapped):
        assert apply_rules(table([[0.9, 0.8, 0.6, 0.3]], names), [rule]).scores.tolist() == [[0.3, 0.3, 0.6, 0.3]]
    up = replace(swapped, direction="raise")
    assert apply_rules(table([[0.9, 0.8, 0.6, 0.3]], names), [up]).scores.tolist() == [[0.9, 0.9, 0.9, 0.9]]


@given(st.lists(st.lists(st.floats(0, 1), min_size=5, max_size=5), min_size=1, max_size=8))
def test_laws_of_rules(scores: list[list[float]]) -> None:
    given_ = table(scores)
    backwards = np.arange(len(given_))[::-1]
    order = [3, 1, 4, 0, 2]
    shuffled = replace(given_, scores=given_.scores[:, order], labels=LabelSpace(tuple(NAMES[c] for c in order)))
    rules = (NormalGateConfig(), ExclusiveNormalConfig(), RIBS, replace(RIBS, direction="raise"))
    for rule in rules:
        found = apply_rules(given_, [rule])
        assert ((found.scores >= 0) & (found.scores <= 1)).all()
        assert np.array_equal(apply_rules(given_.take(backwards), [rule]).scores, found.scores[backwards])
        assert np.array_equal(apply_rules(shuffled, [rule]).scores, found.scores[:, order])
        if rule.kind != "normal_gate":  # a gate applied twice gates twice
            assert np.array_equal(apply_rules(found, [rule]).scores, found.scores)
    assert (apply_rules(given_, [RIBS]).scores <= given_.scores).all()


def test_rules_apply_in_order_and_no_rule_returns_the_same_table() -> None:
    given_ = replace(table([[0.75, 0.4, 0.9, 0.8, 0.6]]), thresholds={"Mass": 0.1}, digests={"calibration": "c"})
    assert apply_rules(given_, []) is given_
    one = apply_rules(apply_rules(given_, [NormalGateConfig()]), [RIBS])
    both = apply_rules(given_, [NormalGateConfig(), RIBS])
    assert np.array_equal(one.scores, both.scores)
    assert both.thresholds is None
    assert both.digests == {}


def test_no_finding_is_normal_too_and_two_of_them_must_be_told_apart() -> None:
    found = apply_rules(table([[0.5, 0.5]], ("No Finding", "Mass")), [NormalGateConfig(alpha=1.0)])
    assert found.scores.tolist() == [[0.5, 0.25]]
    with pytest.raises(
        MedtailError, match=r"normal_gate: found 0 classes called Normal or No Finding.*Name it: normal"
    ):
        apply_rules(table([[0.5, 0.5]], ("Hernia", "Mass")), [NormalGateConfig()])
    named = NormalGateConfig(normal="Hernia", alpha=1.0)
    assert apply_rules(table([[0.5, 0.5]], ("Hernia", "Mass")), [named]).scores[0, 1] == 0.25


def test_bad_rules_are_refused_all_mistakes_at_once() -> None:
    given_ = table([[0.5] * 5])
    with pytest.raises(MedtailError) as caught:
        apply_rules(given_, [HierarchyConfig(implies={"Rib Fractur": ("Fracture",), "Mass": (), "Normal": ("X",)})])
    text = str(caught.value)
    assert "'Rib Fractur': no such class; did you mean 'Rib Fracture'?" in text
    assert "'Mass': implies nothing" in text
    assert "'X': no such class." in text
    with pytest.raises(MedtailError, match="hierarchy, 'implies' is empty"):
        apply_rules(given_, [HierarchyConfig()])
    circle = HierarchyConfig(implies={"Mass": ("Fracture",), "Fracture": ("Mass",)})
    with pytest.raises(MedtailError, match="hierarchy: Mass implies Fracture implies Mass, a circle"):
        apply_rules(given_, [circle])
    with pytest.raises(MedtailError, match=r"normal_gate.alpha -1"):
        NormalGateConfig(alpha=-1)
    grouped = table([[0.5, 0.5, 0.3]], ("g=Normal", "g=Mass", "Fracture"))
    with pytest.raises(MedtailError, match="'g=Normal' is in an exclusive group"):
        apply_rules(grouped, [NormalGateConfig(normal="g=Normal")])
    with pytest.raises(MedtailError, match="'g=Mass': is in an exclusive group"):
        apply_rules(grouped, [HierarchyConfig(implies={"Fracture": ("g=Mass",)})])


def test_rules_are_read_from_a_config_by_kind() -> None:
    found = build_config(
        RulesConfig,
        {"rules": [{"kind": "normal_gate", "alpha": 1}, {"kind": "hierarchy", "implies": {"a": ["b"]}}]},
        where="rules.yaml",
    )
    assert found.rules == (NormalGateConfig(alpha=1.0), HierarchyConfig(implies={"a": ("b",)}))
    with pytest.raises(UsageError, match="rules"):
        build_config(RulesConfig, {"rules": [{"kind": "gate"}]}, where="rules.yaml")


def test_order_is_most_special_first() -> None:
    labels = LabelSpace(("a", "b", "c"))
    assert implied_order({"b": ("c",), "a": ("b",)}, labels) == ["a", "b"]
    assert implied_order({"a": ("b",), "b": ("c",)}, labels) == ["a", "b"]
