from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def toy() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "policy_toy.py"
    spec = importlib.util.spec_from_file_location("benchmarks_policy_toy", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_best_levels_of_the_game_are_paid_one_and_the_others_less(toy: ModuleType) -> None:
    for seed in range(5):
        pays = toy.game(seed)
        np.testing.assert_array_equal(pays.max(axis=1), 1.0)
        assert ((pays == 1.0).sum(axis=1) == 1).all()


def test_agents_end_far_above_chance_and_a_table_at_the_top(toy: ModuleType) -> None:
    chance = np.mean([toy.game(seed).mean() for seed in range(4)])
    learnt = np.mean([toy.METHODS["half"](seed) for seed in range(4)])
    assert chance < 0.6
    assert learnt > 0.85
    assert toy.METHODS["table"](0) > 0.95


@pytest.mark.slow
def test_the_shares_of_the_specification_are_reproduced(toy: ModuleType) -> None:
    for name, claimed in toy.CLAIMED.items():
        share = np.mean([toy.METHODS[name](seed) for seed in range(30)])
        assert share == pytest.approx(claimed, abs=toy.TOLERANCE), name
