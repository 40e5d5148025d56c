"""Training with the objective of tasks: its weights learn, its parts are logged, a run that was cut off goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from medtail.losses.objective import ObjectiveValue, Step
from medtail.losses.tasks import TasksObjective
from medtail.tables.manifest import read_manifest
from medtail.training.config import TrainConfig
from medtail.training.ensembles import train
from medtail.training.predict import predict

MakeConfig = Callable[..., TrainConfig]
THETA = "objective/weights.theta"


def with_sites(folder: Path, sites: Callable[[int], str] = lambda row: ("north", "south", "")[row % 7 % 3]) -> None:
    """Give the toy table a column `site`."""
    table = pd.read_csv(folder / "toy.csv")
    table.insert(3, "site", [sites(row) for row in range(len(table))])
    table.to_csv(folder / "toy.csv", index=False)


def tasks_config(make_config: MakeConfig, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {"objective": {"kind": "tasks"}, "sampler": {"kind": "sites"}}
    return make_config(**{**settings, **changes})


def theta(run: Path) -> torch.Tensor:
    return load_file(run / "last" / "state.safetensors")[THETA]


def test_weights_over_tasks_learn_and_the_log_has_every_part(make_config: MakeConfig, tmp_path: Path) -> None:
    config = tasks_config(make_config, optimizer={"epochs": 10})
    with_sites(tmp_path)
    train(config, tmp_path / "run", quiet=True)
    assert theta(tmp_path / "run").shape == (3,), "bright, rare, and the group shape"
    assert (theta(tmp_path / "run").abs() > 1e-3).all()
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    names = ["focal", "ce", "mmd", "mmd_shuffled", "mmd_skipped", "bss", "bss_zero"]
    names += [f"weight_{task}" for task in ("bright", "rare", "shape")]
    for name in names:
        assert np.isfinite(log[f"train_{name}"]).all(), name
    assert (log["train_mmd"] > 0).all()
    assert (log["train_mmd_skipped"] < 1).all()
    assert log["train_ce"].iloc[-1] < log["train_ce"].iloc[0]
    learnt = 4 * np.tanh(theta(tmp_path / "run").numpy() / 4)
    # the log has the mean over the last epoch's steps, the state what followed them
    assert log["train_weight_bright"].iloc[-1] == pytest.approx(np.exp(-learnt[0]), rel=0.1)

    scored = predict(tmp_path / "run", read_manifest(tmp_path / "toy.csv"), fold="test", quiet=True)
    shape = [scored.labels.index(f"shape={value}") for value in ("irregular", "oval", "round")]
    np.testing.assert_allclose(scored.scores[:, shape].sum(axis=1), 1.0, atol=1e-6)


def test_a_run_that_was_cut_off_goes_on_to_the_same_bytes(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tasks_config(make_config, optimizer={"epochs": 4})
    with_sites(tmp_path)
    genuine, steps = TasksObjective.forward, []

    def cut_off(self: TasksObjective, step: Step) -> ObjectiveValue:
        steps.append(step.epoch)
        if steps.count(2) == 2:  # in the middle of the third epoch
            raise KeyboardInterrupt
        return genuine(self, step)

    monkeypatch.setattr(TasksObjective, "forward", cut_off)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(config, tmp_path / "cut", quiet=True)
    monkeypatch.undo()
    assert not (tmp_path / "cut" / "run.json").exists()
    half_way = theta(tmp_path / "cut")
    train(config, tmp_path / "cut", resume=True, quiet=True)
    train(config, tmp_path / "whole", quiet=True)
    assert not torch.equal(theta(tmp_path / "whole"), half_way)
    for name in ("model/model.safetensors", "model/card.json", "predictions_tune.parquet"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    states = [load_file(tmp_path / run / "last" / "state.safetensors") for run in ("cut", "whole")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    logs = [pd.read_csv(tmp_path / run / "log.csv").drop(columns="seconds") for run in ("cut", "whole")]
    pd.testing.assert_frame_equal(*logs)
    assert len(logs[0]) == 4


def test_a_table_without_sites_is_trained_with_a_word_to_the_user(make_config: MakeConfig, tmp_path: Path) -> None:
    config = tasks_config(make_config, optimizer={"epochs": 1})
    with pytest.warns(UserWarning, match=r"found 0 values of 'site' .* its share 0\.1 goes to the cross-entropy"):
        train(config, tmp_path / "run", quiet=True)
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    assert log["train_mmd"].isna().all()
    assert (log["train_mmd_skipped"] == 1).all()


def test_a_centre_of_one_image_is_no_second_site(make_config: MakeConfig, tmp_path: Path) -> None:
    config = tasks_config(make_config, optimizer={"epochs": 1})
    with_sites(tmp_path, lambda row: "lone" if row == 0 else "north")
    with pytest.warns(UserWarning, match=r"found 1 values of 'site'"):
        train(config, tmp_path / "run", quiet=True)


def test_a_domain_column_that_is_not_there_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    config = tasks_config(make_config, objective={"kind": "tasks", "domain_column": "meta_scanner"})
    with pytest.raises(ValueError, match=r"toy\.csv, column 'meta_scanner': is not there"):
        train(config, tmp_path / "run", quiet=True)


def test_mixed_images_and_literal_readings_train_too(make_config: MakeConfig, tmp_path: Path) -> None:
    literal = {"lambda1": 0.5, "lambda2": 0.4, "lambda3": 1.0, "lambda4": 0.1, "cross": "over_b", "bss": "literal"}
    config = tasks_config(
        make_config,
        objective={"kind": "tasks", **literal, "uncertainty": "paper_form"},
        sampler={"kind": "copies", "classes": ["rare", "shape=irregular"], "copies": 9},
        optimizer={"epochs": 2},
        mix={"kind": "mixup", "alpha": 0.4},
    )
    with_sites(tmp_path)
    train(config, tmp_path / "run", quiet=True)
    assert np.isfinite(pd.read_csv(tmp_path / "run" / "log.csv")["train_loss"]).all()
