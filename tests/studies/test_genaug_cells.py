"""Trainings become cells; tune chooses among the settings of an arm, and test is opened once, when all are there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError, UsageError
from medtail.runs import write_json
from medtail.sampling.replay import ReplaySamplerConfig
from medtail.studies.cells import Cell
from medtail.studies.genaug_arms import GenaugPlan, plan_arms
from medtail.studies.genaug_cells import cell_of, cells_of, check_opened, choose_on_tune, open_test, pooled
from medtail.studies.genaug_config import BreastTrack, GenaugConfig
from medtail.tables.manifest import Manifest, manifest_from_frame
from medtail.tables.predictions import Predictions

NAMES = ["t=a", "t=b"]
ARMS = ("real", "fill", "fixed_best")


def study(**changes: Any) -> GenaugConfig:
    policy = {"rounds": 1, "copies": 2, "steps": 2, "warmup_steps": 0}
    given = {
        "track": BreastTrack(),
        "policy": policy,
        "final_steps": 4,
        "epoch_steps": 2,
        "arms": ARMS,
        "seeds": (0, 1),
    }
    return GenaugConfig(**(given | {"curve": False} | changes))


def table(folder: Path, fold: int) -> Path:
    rows = 40
    frame = pd.DataFrame({"image_id": [f"i{n}" for n in range(rows)], "path": "x.png", "patient_id": np.arange(rows)})
    dealt = ["test" if n % 2 == fold else ("tune" if n % 4 < 2 else "train") for n in range(rows)]
    labels = {"t=a": (np.arange(rows) % 3 > 0).astype(float), "t=b": (np.arange(rows) % 3 == 0).astype(float)}
    manifest_from_frame(frame.assign(fold=dealt, **labels)).write(folder / f"fold_{fold}.csv")
    return folder / f"fold_{fold}.csv"


@pytest.fixture
def cells(tmp_path: Path) -> tuple[GenaugPlan, list[Cell]]:
    paths = [table(tmp_path, k) for k in range(2)]
    plan = plan_arms(study(), NAMES)
    made = cells_of(
        study(), list(plan.trainings.values()), table=lambda _, k: paths[k], root=tmp_path / "study", folds=2
    )
    return plan, made


def score(cell: Cell, rows: Manifest, what: str, *, skill: float) -> None:
    noise = np.random.default_rng([cell.seed, cell.fold]).normal(size=rows.targets.shape)
    scores = 1 / (1 + np.exp(-skill * (2 * rows.targets - 1) - 0.5 * noise))
    Predictions(
        rows.frame["image_id"].to_numpy(dtype=object), rows.patients, scores.astype(float),
        rows.targets.astype(float), rows.labels, rows.folds,
    ).write(cell.predictions(what))  # fmt: skip


def finish(cells: list[Cell], skill: Callable[[Cell], float]) -> None:
    from medtail.tables.manifest import read_manifest

    for cell in cells:
        rows = read_manifest(cell.config.manifest)
        for what in ("tune", "test"):
            score(cell, rows.in_fold(what), what, skill=skill(cell))
        write_json(cell.record, {"config_digest": cell.digest})


def test_every_training_has_a_cell_a_seed_and_fold(cells: tuple[GenaugPlan, list[Cell]]) -> None:
    plan, made = cells
    assert len(made) == len(plan.trainings) * 4
    assert len({cell.name for cell in made}) == len(made)
    assert {Path(cell.config.manifest).name for cell in made if cell.fold == 1} == {"fold_1.csv"}
    assert all(cell.config.optimizer.epoch_rows == 2 * cell.config.optimizer.batch_size for cell in made)


def test_keys_of_the_study_reach_the_training_and_wrong_ones_are_named(tmp_path: Path) -> None:
    config = study(train={"optimizer": {"batch_size": 16}, "backbone": {"size": "small"}})
    plan = plan_arms(config, NAMES)
    cell = cell_of(config, plan.trainings["real"], manifest=tmp_path / "m.csv", root=tmp_path, seed=3, fold=0)
    assert (cell.config.optimizer.batch_size, cell.config.seed) == (16, 3)
    assert cell.config.loss.kind == "cross_entropy"
    wrong = study(train={"optimiser": {}})
    with pytest.raises(UsageError, match="arm 'real', optimiser: unknown key"):
        cell_of(wrong, plan.trainings["real"], manifest=tmp_path / "m.csv", root=tmp_path, seed=0, fold=0)


def test_a_replay_reads_the_schedule_of_its_own_seed_and_fold(tmp_path: Path) -> None:
    config = study(arms=("real", "rl", "frozen"))
    plan = plan_arms(config, NAMES)
    cell = cell_of(config, plan.trainings["frozen"], manifest=tmp_path / "m.csv", root=tmp_path, seed=1, fold=0)
    assert isinstance(cell.config.sampler, ReplaySamplerConfig)
    assert Path(cell.config.sampler.schedule) == tmp_path / "cells/rl/seed_1/fold_0/policy/schedule.json"
    assert cell.config.sampler.order == "frozen"


def test_tune_chooses_the_setting_of_each_seed(cells: tuple[GenaugPlan, list[Cell]]) -> None:
    plan, made = cells
    best = {0: "level_0.5", 1: "level_1"}
    finish(made, lambda cell: 2.0 if cell.arm == best[cell.seed] else -1.0)
    chosen = choose_on_tune(plan, made, (0, 1))
    assert chosen["fixed_best"] == best
    assert chosen["fill"] == {0: "fill", 1: "fill"}


def test_test_is_opened_when_all_is_there_and_not_for_later_arms(cells: tuple[GenaugPlan, list[Cell]]) -> None:
    plan, made = cells
    root = made[0].root
    with pytest.raises(MedtailError, match=r"24 cells are not finished .* test is not opened"):
        open_test(plan, made, root, (0, 1))
    assert not (root / "opened.json").exists()
    finish(made, lambda cell: 1.0)
    scored = open_test(plan, made, root, (0, 1))
    assert set(scored["arms"]) == set(ARMS)
    assert [len(table) for table in scored["arms"]["fixed_best"]] == [40, 40]
    check_opened(root, list(plan.arms))
    with pytest.raises(MedtailError, match="without rl; scores of arms made"):
        check_opened(root, [*plan.arms, "rl"])


def test_folds_are_pooled_once_each(cells: tuple[GenaugPlan, list[Cell]]) -> None:
    _, made = cells
    finish(made, lambda cell: 1.0)
    parts = [next(c for c in made if c.arm == "real" and c.fold == k).scores("test") for k in range(2)]
    assert len(pooled(parts, name="x")) == 40
    with pytest.raises(MedtailError, match="an image is in two outer folds"):
        pooled([parts[0], parts[0]], name="x")
