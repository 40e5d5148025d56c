from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medtail.errors import MedtailError
from medtail.sampling.mixture import find_pool
from medtail.sampling.policy_state import RewardConfig
from medtail.tables.manifest import Manifest, read_manifest
from medtail.training.config import TrainConfig
from medtail.training.policy_course import Course, open_course, reward_rows

MakeConfig = Callable[..., TrainConfig]
NO_ROWS = np.zeros(0, dtype=np.int64)


def weights(course: Course) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in course.tensors().items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_copy_that_is_set_back_trains_as_if_it_had_never_gone_on(make_policy_config: MakeConfig) -> None:
    course = open_course(make_policy_config(optimizer={"ema_decay": 0.9}))
    zero, half = np.zeros(5), np.full(5, 0.5)
    course.train(zero, steps=2, out=NO_ROWS, purpose=("warm-up",))
    here = course.snapshot()
    course.train(half, steps=2, out=NO_ROWS, purpose=(0, 0))
    once = weights(course)
    course.train(zero, steps=1, out=NO_ROWS, purpose=(0, 1))
    assert course.steps_done == 5
    course.restore(here)
    assert course.steps_done == 2
    course.train(half, steps=2, out=NO_ROWS, purpose=(0, 0))
    assert_same(weights(course), once)


def test_copies_have_data_of_their_own(make_policy_config: MakeConfig) -> None:
    course = open_course(make_policy_config())
    here = course.snapshot()
    found = []
    for copy in (0, 1):
        course.restore(here)
        course.train(np.zeros(5), steps=1, out=NO_ROWS, purpose=(0, copy))
        found.append(weights(course)["module/diagnoser.head.linear.weight"])
    assert not torch.equal(*found)


def test_levels_change_what_is_learnt(make_policy_config: MakeConfig) -> None:
    course = open_course(make_policy_config())
    here = course.snapshot()
    found = []
    for level in (0.0, 1.0):
        course.restore(here)
        course.train(np.full(5, level) * (course.pool.sizes > 0), steps=1, out=NO_ROWS, purpose=(0, 0))
        found.append(weights(course)["module/diagnoser.head.linear.weight"])
    assert not torch.equal(*found)


def test_only_rows_of_train_and_reward_are_there(make_policy_config: MakeConfig, tmp_path: Path) -> None:
    table = read_manifest(tmp_path / "pool.csv")
    for path in table.take(np.isin(table.folds.astype(str), ("tune", "test"))).image_paths():
        path.unlink()  # whoever touched them would fail
    course = open_course(make_policy_config())
    assert set(course.manifest.folds) == {"train", "reward"}
    reading = course.read(0)
    assert reading.gain.shape == (5,)
    states = course.states(reading, before=None, levels=np.zeros(5), progress=0.0)
    assert states.shape == (5, 10)
    assert states.dtype == np.float32
    assert (states[course.pool.sizes > 0, 5] > 0).all(), "the loss on generated rows is read"


def test_the_objective_of_the_config_is_what_the_copies_minimise(make_policy_config: MakeConfig) -> None:
    found = []
    for loss in ({"kind": "cross_entropy"}, {"kind": "focal", "gamma": 3.0}):
        course = open_course(make_policy_config(loss=loss))
        course.train(np.zeros(5), steps=1, out=NO_ROWS, purpose=(0, 0))
        found.append(weights(course)["module/diagnoser.head.linear.weight"])
    assert not torch.equal(*found)


def test_a_manifest_without_a_reward_fold_is_told_how_to_make_one(
    make_policy_config: MakeConfig, tmp_path: Path
) -> None:
    table = read_manifest(tmp_path / "pool.csv")
    table.with_folds(np.where(table.folds == "reward", "train", table.folds)).write(tmp_path / "none.csv")
    with pytest.raises(MedtailError, match=r"no row is in 'reward'.*medtail data split none.csv --reward 0.1"):
        open_course(make_policy_config(manifest="none.csv"))


def prepared(tmp_path: Path) -> Manifest:
    table = read_manifest(tmp_path / "pool.csv")
    return table.in_fold("train", "reward")


def test_a_class_that_cannot_be_rewarded_is_named(make_policy_config: MakeConfig, tmp_path: Path) -> None:
    del make_policy_config
    table = prepared(tmp_path)
    keep = ~((table.folds == "reward") & (table.targets[:, table.labels.index("bright")] == 1))
    few = table.take(keep)
    with pytest.raises(MedtailError, match=r"fold 'reward': no image of 'bright'.*, whose agents cannot be paid"):
        reward_rows(few, find_pool(few), RewardConfig(), seed=0)


def test_rotation_lends_a_third_of_the_patients_of_rare_classes(make_policy_config: MakeConfig, tmp_path: Path) -> None:
    del make_policy_config
    table = prepared(tmp_path)
    pool = find_pool(table)
    config = RewardConfig(source="rotate", rotate_below=1000)
    lent = reward_rows(table, pool, config, seed=0)
    assert lent.rows(0).tolist() == lent.rows(3).tolist()
    patients = [set(table.patients[lent.out(number)]) for number in range(3)]
    bright = table.labels.index("bright")
    for number in range(3):
        inside = set(table.patients[np.setdiff1d(pool.real, lent.out(number))])
        assert not inside & patients[number], "who rewards is not learnt from"
        assert (table.targets[lent.rows(number), bright] == 1).any()
        assert table.is_real[lent.rows(number)].all()
    everybody = set(table.patients[pool.real][(table.targets[pool.real][:, pool_columns(pool)] == 1).any(axis=1)])
    assert patients[0] | patients[1] | patients[2] == everybody
    common = reward_rows(table, pool, replace(config, rotate_below=1), seed=0)
    assert len(common.out(0)) == 0, "classes with patients enough stay in the mixture"


def pool_columns(pool: object) -> list[int]:
    return [c for c, rows in enumerate(pool.members) if len(rows)]  # type: ignore[attr-defined]


def test_a_missing_gpu_is_named(make_policy_config: MakeConfig) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(MedtailError, match=r"accelerator: found 'gpu', but torch sees no CUDA device"):
        open_course(make_policy_config(accelerator="gpu"))
