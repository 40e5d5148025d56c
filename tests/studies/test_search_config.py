"""A search's file: what it may say, and every mistake told before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medtail.config import dump_yaml
from medtail.errors import UsageError
from medtail.studies.search_config import ChoiceRange, FloatRange, load_search, points_of

RATE = {"kind": "float", "low": 1e-4, "high": 1e-1, "log": True}


def load(folder: Path, **changes: Any) -> Any:
    values = {"train": {"manifest": "a.csv"}, "space": {"optimizer.learning_rate": RATE}, "trials": 3} | changes
    (folder / "s.yaml").write_text(dump_yaml({k: v for k, v in values.items() if v is not None}), encoding="utf-8")
    return load_search(folder / "s.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": None}, "trials: missing; say how many"),
        ({"space": {}}, "space: found no key"),
        ({"space": {"manifest": RATE}}, "manifest: cannot be searched: one study is about one table"),
        ({"space": {"classes": RATE}}, "classes: cannot be searched: trials of other classes"),
        ({"space": {"optimizer.learning_rat": RATE}}, "unknown key; did you mean 'learning_rate'"),
        ({"space": {"optimizer.ema_decay": {"kind": "float", "low": 0.5, "high": 1.5}}}, r"ema_decay: 1\.5 is refused"),
        ({"space": {"optimizer.epochs": {"kind": "int", "low": 4, "high": 4}}}, "expected low below high"),
        ({"space": {"loss.kind": {"kind": "choice", "values": ["bce"]}}}, "expected at least two, each once"),
        ({"space": {"loss.kind": {"kind": "choice", "values": ["bce", "fokal"]}}}, "'fokal'"),
        ({"space": {"optimizer.learning_rate": {**RATE, "steps": 3}}}, "steps: unknown key"),
        ({"space": {"optimizer.learning_rate": {**RATE, "when": {"loss.kind": ["bce"]}}}}, "expected a choice that"),
        ({"objective": {"metric": "ap", "level": "class"}}, "`of` names the group or class"),
        ({"objective": {"metric": "apx"}}, "objective.metric: found 'apx'"),
        ({"judge": {"fold": "test"}}, "a search looks at tune only"),
        ({"objective": {"metric": "ece"}, "pruner": {"kind": "median"}}, "says little of a calibration error"),
        ({"train": {"manifest": "a.csv", "members": 2}, "pruner": {"kind": "median"}}, "no one course of epochs"),
        ({"seeds": [1, 1]}, "expected at least one, each once"),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(tmp_path, **changes)


def test_a_grid_leaves_out_what_is_not_there(tmp_path: Path) -> None:
    space = {
        "loss.kind": {"kind": "choice", "values": ["bce", "focal"]},
        "loss.gamma": {"kind": "float", "low": 1.0, "high": 3.0, "when": {"loss.kind": ["focal"]}},
    }
    search = load(tmp_path, space=space, sampler={"kind": "grid", "points": 3}, trials=None)
    assert search.config.grid() == [
        {"loss.kind": "bce"},
        {"loss.kind": "focal", "loss.gamma": 1.0},
        {"loss.kind": "focal", "loss.gamma": 2.0},
        {"loss.kind": "focal", "loss.gamma": 3.0},
    ]
    assert search.config.total == 5


def test_points_reach_both_ends() -> None:
    assert points_of(FloatRange(low=0.1, high=0.3), 3) == [0.1, 0.2, 0.3]
    assert points_of(ChoiceRange(values=(None, {"kind": "mixup"})), 9) == [None, {"kind": "mixup"}]
