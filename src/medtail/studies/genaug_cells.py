"""The trainings of a study of generated images as cells of the study runner, and the scores they leave.

    DIR/cells/TRAINING/seed_S/fold_K/   ordinary run folders     DIR/opened.json   when test was opened, for which arms

Tune chooses among the settings of an arm that is the best of several; test is opened once, when every cell is finished.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medtail.errors import MedtailError, listing
from medtail.judging.logit_adjustment import decided_f1
from medtail.runs import read_json, write_json
from medtail.studies.cells import Cell
from medtail.studies.genaug_arms import ArmPlan, GenaugPlan
from medtail.studies.genaug_config import GenaugConfig
from medtail.studies.scores import OPENED, TEST, TUNE
from medtail.tables.manifest import read_manifest
from medtail.tables.predictions import Predictions
from medtail.training.config import merge, train_config

BASE: Mapping[str, Any] = {
    "pixels": {"size_px": 64, "missing_roi": "whole"},
    "backbone": {"kind": "resnet", "size": "tiny"},
    "loss": {"kind": "cross_entropy"},
    "optimizer": {"batch_size": 64, "learning_rate": 2e-3},
}
"""What `train` is laid over: a small network and plain cross-entropy, so that the sampler is the only re-balancing."""
SCHEDULE = Path("policy") / "schedule.json"
Tick = Callable[[int, int], None]


def cell_of(config: GenaugConfig, plan: ArmPlan, *, manifest: Path, root: Path, seed: int, fold: int) -> Cell:
    """Return one training as a cell.

    Args:
        config: The study.
        plan: The training.
        manifest: The table it learns from.
        root: The study's folder.
        seed: Its training seed.
        fold: Its outer fold.

    Raises:
        UsageError: Keys of the training are wrong.
        MedtailError: It replays a schedule that is not there yet.
    """
    values = merge(merge(BASE, config.train), plan.keys)
    optimizer = dict(values["optimizer"])
    optimizer["epoch_rows"] = config.epoch_steps * int(optimizer["batch_size"])
    values |= {"manifest": str(manifest), "optimizer": optimizer, "seed": seed}
    if plan.replays:
        schedule = root / "cells" / plan.replays / f"seed_{seed}" / f"fold_{fold}" / SCHEDULE
        values = merge(values, {"sampler": {"schedule": str(schedule)}})
    return Cell(plan.name, seed, fold, train_config(values, where=f"arm {plan.name!r}"), root)


def cells_of(
    config: GenaugConfig, plans: Sequence[ArmPlan], *, table: Callable[[ArmPlan, int], Path], root: Path, folds: int
) -> list[Cell]:
    """Return the cells of some trainings, the seeds one after another.

    Args:
        config: The study.
        plans: The trainings.
        table: The table a training learns from, in an outer fold.
        root: The study's folder.
        folds: Outer folds.
    """
    return [
        cell_of(config, plan, manifest=table(plan, fold), root=root, seed=seed, fold=fold)
        for seed in config.seeds
        for fold in range(folds)
        for plan in plans
    ]


def pooled(parts: Sequence[Predictions], *, name: str) -> Predictions:
    """Put the rows of several outer folds behind one another.

    Raises:
        MedtailError: An image is in two of them.
    """
    first = parts[0]
    if len(parts) == 1:
        return replace(first, name=name, thresholds=None)
    ids = np.concatenate([part.image_ids for part in parts])
    if len(set(ids)) < len(ids):
        raise MedtailError(f"{name}: an image is in two outer folds; the folds were not made by one cross-validation.")
    return replace(
        first,
        image_ids=ids,
        patients=np.concatenate([part.patients for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        targets=np.concatenate([part.targets for part in parts]),
        folds=np.concatenate([part.folds for part in parts]),
        thresholds=None,
        name=name,
    )


def choose_on_tune(plan: GenaugPlan, cells: Sequence[Cell], seeds: Sequence[int]) -> dict[str, dict[int, str]]:
    """Choose, for each arm and seed, the training with the best macro-F1 on the tune rows of all folds together.

    Returns:
        Arm → seed → training.
    """
    by = {(cell.arm, cell.seed, cell.fold): cell for cell in cells}
    folds = sorted({cell.fold for cell in cells})

    def quality(training: str, seed: int) -> float:
        tune = [by[training, seed, k].scores(TUNE) for k in folds]
        scores, targets = (np.concatenate([getattr(part, what) for part in tune]) for what in ("scores", "targets"))
        return decided_f1(scores, targets, groups=tune[0].labels.group_indices)

    found: dict[str, dict[int, str]] = {}
    for arm, candidates in plan.arms.items():
        found[arm] = {}
        for seed in seeds:
            qualities = [quality(name, seed) if len(candidates) > 1 else 0.0 for name in candidates]
            found[arm][seed] = candidates[int(np.argmax(qualities))]
    return found


def check_opened(root: Path, arms: Sequence[str]) -> None:
    """Refuse arms that come after the test scores were seen.

    Raises:
        MedtailError: Test has been opened for other arms.
    """
    if not (root / OPENED).exists():
        return
    record = read_json(root / OPENED)[TEST]
    late = [arm for arm in arms if arm not in record["arms"]]
    if late:
        raise MedtailError(
            f"{root}: test was opened on {record['time']} without {listing(late)}; scores of arms made afterwards prove"
            " nothing. Begin a new study with all arms."
        )


def open_test(
    plan: GenaugPlan, cells: Sequence[Cell], root: Path, seeds: Sequence[int], *, tick: Tick | None = None
) -> dict[str, dict[str, list[Predictions]]]:
    """Score test with every training and gather the tables of every arm and training.

    Args:
        plan: The arms.
        cells: All, finished.
        root: The study's folder.
        seeds: Training seeds.
        tick: Told (cells scored, cells).

    Returns:
        `arms` and `trainings`: name → one table a seed, of the test rows of all folds.

    Raises:
        MedtailError: A cell is not finished, or an arm is new since test was opened.
    """
    from medtail.training.predict import predict

    missing = [cell.name for cell in cells if not cell.record.exists()]
    if missing:
        raise MedtailError(f"{root}: {len(missing)} cells are not finished ({listing(missing)}); test is not opened.")
    check_opened(root, list(plan.arms))
    chosen = choose_on_tune(plan, cells, seeds)
    for number, cell in enumerate(cells):
        if not cell.predictions(TEST).exists():
            manifest = read_manifest(cell.config.manifest)
            predict(cell.folder, manifest, fold=TEST, allow_batch_dependent=True, quiet=True).write(
                cell.predictions(TEST)
            )
        if tick is not None:
            tick(number + 1, len(cells))
    if not (root / OPENED).exists():
        told = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        write_json(root / OPENED, {TEST: {"time": told, "arms": list(plan.arms)}})
    by: dict[tuple[str, int], list[Cell]] = {}
    for cell in sorted(cells, key=lambda one: one.fold):
        by.setdefault((cell.arm, cell.seed), []).append(cell)
    tables = {
        key: pooled([cell.scores(TEST) for cell in own], name=f"{key[0]}, seed {key[1]}") for key, own in by.items()
    }
    return {
        "arms": {arm: [tables[chosen[arm][seed], seed] for seed in seeds] for arm in plan.arms},
        "trainings": {name: [tables[name, seed] for seed in seeds] for name in plan.trainings},
    }
