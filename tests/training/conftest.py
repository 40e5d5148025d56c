"""A small training on made-up images, shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medtail.tables.manifest import Manifest
from medtail.training.config import TrainConfig, merge, train_config

MakeConfig = Callable[..., TrainConfig]


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
