"""A training with a noise model: it learns by row, is judged by scores alone and resumes with what it knew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from medtail.errors import MedtailError
from medtail.losses.objective import ObjectiveValue, Step
from medtail.losses.sop import Sop
from medtail.tables.manifest import Manifest
from medtail.training.config import TrainConfig
from medtail.training.ensembles import train
from medtail.training.judged import methods_of

MakeConfig = Callable[..., TrainConfig]
SOP = {"kind": "sop", "learn_from": 0.0, "start": 0.1}


def test_a_run_that_was_cut_off_goes_on_to_the_same_bytes(
    make_config: MakeConfig, toy_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(objective=SOP, optimizer={"epochs": 3})
    genuine, epochs = Sop.forward, []

    def cut_off(self: Sop, step: Step) -> ObjectiveValue:
        epochs.append(step.epoch)
        if epochs.count(1) == 2:  # in the middle of the second epoch
            raise KeyboardInterrupt
        return genuine(self, step)

    monkeypatch.setattr(Sop, "forward", cut_off)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(config, tmp_path / "cut", quiet=True)
    monkeypatch.undo()
    train(config, tmp_path / "cut", resume=True, quiet=True)
    train(config, tmp_path / "whole", quiet=True)
    for name in ("model/model.safetensors", "model/card.json", "predictions_tune.parquet"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    states = [load_file(tmp_path / run / "last" / "state.safetensors") for run in ("cut", "whole")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    u, v = (states[1][f"objective/{name}"].numpy() for name in ("u", "v"))
    usable = toy_manifest.in_fold("train", "tune")
    is_train = usable.folds == "train"
    np.testing.assert_array_equal(u != np.float32(0.1), (usable.targets == 1) & is_train[:, None])
    np.testing.assert_array_equal(v != np.float32(0.1), (usable.targets == 0) & is_train[:, None])
    log = pd.read_csv(tmp_path / "whole" / "log.csv")
    assert log["train_explained"].is_monotonic_increasing
    assert "liu2022c" in methods_of(config)


def test_images_of_several_rows_and_several_processes_are_refused(make_config: MakeConfig) -> None:
    with pytest.raises(MedtailError, match="mix, tail_mix: found images made of several rows"):
        make_config(objective=SOP, mix={"kind": "mixup"})
    with pytest.raises(MedtailError, match="found 2 processes; expected one"):
        make_config(objective=SOP, devices=2)


def test_a_frozen_transformer_under_glori_trains_its_head_alone(make_config: MakeConfig, tmp_path: Path) -> None:
    from medtail.models.checkpoint import load_model

    config = make_config(
        backbone={"kind": "vit_blocks", "blocks": 2},
        head={"kind": "glori", "width": 16, "heads": 2},
        optimizer={"epochs": 1, "freeze_epochs": 1, "ema_decay": None},
    )
    train(config, tmp_path / "one", quiet=True)
    other = make_config(
        backbone={"kind": "vit_blocks", "blocks": 2},
        head={"kind": "glori", "width": 16, "heads": 2},
        optimizer={"epochs": 2, "freeze_epochs": 2, "ema_decay": None, "keep": "last"},
    )
    train(other, tmp_path / "two", quiet=True)
    first, second = (load_model(tmp_path / name / "model")[0].state_dict() for name in ("one", "two"))
    moved = {name for name in first if not torch.equal(first[name], second[name])}
    assert moved
    assert all(name.startswith("head.") for name in moved)
