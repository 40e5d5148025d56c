"""A rule is kept where tune shows a gain, and left out where it hurts or nothing is shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.judging.metrics import average_precision
from medtail.judging.post_rule_trials import read_rules, try_rules
from medtail.tables.labels import LabelSpace
from medtail.tables.post_rules import HierarchyConfig, NormalGateConfig, apply_rules
from medtail.tables.predictions import Predictions

NAMES = ("Normal", "Mass", "Fracture", "Rib Fracture")
RIBS = HierarchyConfig(implies={"Rib Fracture": ("Fracture",)})


def table(*, normal_knows: bool, fold: str = "tune", rows: int = 800) -> Predictions:
    """A model whose Normal score tells findings apart, or says nothing."""
    random = np.random.default_rng(0)
    mass, fracture = random.random(rows) < 0.1, random.random(rows) < 0.15
    rib = fracture & (random.random(rows) < 0.5)
    targets = np.column_stack([~(mass | fracture), mass, fracture, rib]).astype(float)
    normal = np.where(targets[:, 0] == 1, 0.9, 0.1) if normal_knows else 1 - 0.9 * (1 - targets[:, 0])[::-1]
    fractures = np.clip(0.5 * fracture + 0.5 * random.random(rows), 0, 1)
    scores = np.column_stack([normal, random.random(rows), fractures, random.random(rows)])
    ids = np.array([f"i{k}" for k in range(rows)], dtype=object)
    folds = np.array([fold] * rows, dtype=object)
    return Predictions(ids, ids, scores, targets, LabelSpace(NAMES), folds, digests={"model": "m"}, name="t")


def test_a_rule_that_helps_is_kept_and_its_change_is_the_difference_of_the_means() -> None:
    given = table(normal_knows=True)
    found = try_rules(given, [NormalGateConfig(), RIBS], bootstrap=200)
    gate, ribs = found.trials
    after = apply_rules(given, [NormalGateConfig()])

    def mean(scored: Predictions) -> float:
        return float(np.mean([average_precision(scored.scores[:, c], scored.targets[:, c]) for c in range(4)]))

    assert gate.change == pytest.approx(mean(after) - mean(given))
    assert gate.before == pytest.approx(mean(given))
    assert gate.low <= gate.change <= gate.high
    assert gate.accepted
    assert "Mass" in gate.better
    # the second was tried on top of the first
    assert ribs.before == pytest.approx(mean(after))
    assert ribs.change == pytest.approx(mean(apply_rules(given, [NormalGateConfig(), RIBS])) - mean(after))
    assert found.accepted[0] == NormalGateConfig()


def test_a_gate_by_a_normal_score_that_misleads_is_left_out() -> None:
    found = try_rules(table(normal_knows=False), [NormalGateConfig(alpha=2.0)], bootstrap=200)
    assert not found.trials[0].accepted
    assert found.trials[0].change < 0
    assert found.accepted == ()
    assert "left out" in found.text()


def test_a_rule_that_changes_nothing_is_left_out_without_an_interval() -> None:
    found = try_rules(table(normal_knows=True), [NormalGateConfig(alpha=0.0)], bootstrap=50)
    assert found.trials[0].change == 0.0
    assert not found.trials[0].accepted
    assert "no change" in found.text()
    assert found.to_json()["trials"][0]["low"] is None


def test_kept_rules_travel_as_a_file(tmp_path: Path) -> None:
    found = try_rules(table(normal_knows=True), [NormalGateConfig(), RIBS], bootstrap=100)
    found.write(tmp_path / "rules.json")
    assert read_rules(tmp_path / "rules.json") == found.accepted
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(MedtailError, match="holds no rules"):
        read_rules(tmp_path / "other.json")


def test_rules_are_not_tried_on_the_test_fold_and_not_without_rules() -> None:
    with pytest.raises(MedtailError, match=r"not in fold 'tune'.*Rules kept"):
        try_rules(table(normal_knows=True, fold="test"), [RIBS])
    with pytest.raises(MedtailError, match="rules: none to try"):
        try_rules(table(normal_knows=True), [])
    with pytest.raises(MedtailError, match="no such class"):
        try_rules(table(normal_knows=True), [replace(RIBS, implies={"Rib": ("Fracture",)})])
