"""A small training on made-up images, shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from medtail.tables.manifest import Manifest, manifest_from_frame
from medtail.training.config import TrainConfig, merge, train_config

MakeConfig = Callable[..., TrainConfig]
ROUNDS = {"kind": "policy", "size": "tiny"}


@pytest.fixture
def make_config(toy_manifest: Manifest, tmp_path: Path) -> MakeConfig:
    """Write the toy manifest; return a maker of tiny configs for it, with sections laid over the defaults."""
    toy_manifest.write(tmp_path / "toy.csv")
    defaults: dict[str, Any] = {
        "manifest": "toy.csv",
        "pixels": {"size_px": 32},
        "backbone": {"kind": "resnet"},
        "optimizer": {"epochs": 2, "batch_size": 18, "learning_rate": 0.005},
        "cache": "cache",
        "threads": 1,
        "accelerator": "cpu",
    }

    def make(**changes: Any) -> TrainConfig:
        return train_config(merge(defaults, changes), where="test.yaml", folder=tmp_path)

    return make


@pytest.fixture
def make_policy_config(toy_manifest: Manifest, tmp_path: Path) -> MakeConfig:
    """Write the toy manifest with a reward fold and generated rows; return a maker of tiny configs with a policy.

    The classes of the exclusive group and the free class `bright` have pools of 6 to 12 images, copies of train images.
    """
    frame = toy_manifest.frame
    train = sorted(set(frame.loc[frame["fold"] == "train", "patient_id"]))
    frame = frame.assign(fold=frame["fold"].where(~frame["patient_id"].isin(train[1::4]), "reward"), meta_class="")
    parts = [frame]
    for number, name in enumerate(("bright", "shape=irregular", "shape=oval", "shape=round")):
        rows = frame[(frame["fold"] == "train") & (frame[name] == 1)]
        count = 6 + 2 * number
        made = rows.iloc[[place % len(rows) for place in range(count)]].assign(
            image_id=[f"syn{number}_{place}" for place in range(count)],
            patient_id=[f"syn:{number}:{place}" for place in range(count)],
            origin="synthetic",
            meta_class=name,
        )
        parts.append(made)
    joined = pd.concat(parts, ignore_index=True)
    manifest_from_frame(joined, name="pool.csv", root=tmp_path).write(tmp_path / "pool.csv")
    defaults: dict[str, Any] = {
        "manifest": "pool.csv",
        "pixels": {"size_px": 32},
        "loss": {"kind": "cross_entropy"},
        "sampler": ROUNDS,
        "backbone": {"kind": "resnet"},
        "optimizer": {"epochs": 2, "batch_size": 12, "learning_rate": 0.005},
        "cache": "cache",
        "threads": 1,
        "accelerator": "cpu",
    }

    def make(**changes: Any) -> TrainConfig:
        return train_config(merge(defaults, changes), where="test.yaml", folder=tmp_path)

    return make
