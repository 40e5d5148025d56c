from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from medtail.tables.manifest import read_manifest
from medtail.training.policy_rounds import learn_schedule


@pytest.fixture(scope="module")
def direction() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "policy_direction.py"
    spec = importlib.util.spec_from_file_location("benchmarks_policy_direction", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_halves_change_places_and_only_the_corrupted_half_is_wrong(direction: ModuleType, tmp_path: Path) -> None:
    assert set(direction.corrupted_classes(0)) | set(direction.corrupted_classes(1)) == set(range(6))
    counts = dict.fromkeys(direction.CLASS_NAMES, 20)
    path = direction.make_pool(tmp_path, seed=1, size_px=32, counts=counts)
    made = read_manifest(path).frame.query("origin == 'synthetic'")
    wrong = (made["meta_class"] != made["meta_shown"]).groupby(made["meta_class"]).mean()
    for c, name in enumerate(direction.CLASS_NAMES):
        assert (wrong[name] > 0.1) == (c in direction.corrupted_classes(1))


@pytest.mark.slow
def test_the_smallest_run_goes_from_pools_to_levels(direction: ModuleType, tmp_path: Path) -> None:
    path = direction.make_pool(tmp_path, seed=0, size_px=32, counts=dict.fromkeys(direction.CLASS_NAMES, 4))
    config = direction.policy_config(
        path, seed=0, size_px=32, overrides=["sampler.size=tiny", "optimizer.batch_size=8"]
    )
    learn_schedule(config, tmp_path, quiet=True)
    levels = direction.final_levels(pd.read_csv(tmp_path / "policy" / "rounds.csv"))
    assert levels.shape == (6,)
    assert ((levels > 0) & (levels < 1)).all()
    assert (levels != 0.5).any(), "two rounds move the policy a little"


def test_the_summary_counts_seeds_that_went_the_right_way(
    direction: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    right = np.where(np.isin(np.arange(6), direction.corrupted_classes(0)), 0.3, 0.8)
    direction.summary({0: right, 2: 1 - right, 4: np.where(right > 0.5, 0.9, 0.6)})
    assert "corrupted below: 1 of 3 seeds; oracle above corrupted: 2" in capsys.readouterr().out
