"""The learning curve: nested shares of patients, everything else alike, and laws from what was measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medtail.config import dump_yaml
from medtail.errors import UsageError
from medtail.studies.arms import budgets
from medtail.studies.learning_curve import (
    Curve,
    arm_name,
    curve_cells,
    growths,
    load_curve,
    patient_shares,
    positive_patients,
    run_curve,
)
from medtail.studies.protocol import begin, check_study
from medtail.studies.scores import tune_set, whole_seeds
from medtail.tables.manifest import Manifest, read_manifest

Write = Callable[..., Path]
SHARES = [0.25, 0.5, 1.0]


@pytest.fixture
def write(made_up: Manifest, tmp_path: Path) -> Write:
    """Write a curve's file on the made-up table, and return its path."""

    def make(**keys: Any) -> Path:
        train = {"manifest": "made_up.csv", "optimizer": {"epochs": 4, "batch_size": 16}}
        values = {"train": train, "fractions": SHARES, "seeds": [0, 1], "judge": {"bootstrap": 100}} | keys
        (tmp_path / "curve.yaml").write_text(dump_yaml(values), encoding="utf-8")
        return tmp_path / "curve.yaml"

    return make


def begun(curve: Curve, root: Path) -> list[Any]:
    begin(curve.study, root)
    return curve_cells(curve, root)


@pytest.mark.parametrize("seed", range(3))
def test_shares_are_nested_whole_patients_and_every_class_in_proportion(made_up: Manifest, seed: int) -> None:
    dealt = patient_shares(made_up, [0.25, 0.5, 0.75, 1.0], seed=seed)
    train = made_up.folds == "train"
    assert not dealt[~train].any()
    for patient in set(made_up.patients[train]):
        assert len(set(dealt[train & (made_up.patients == patient)])) == 1
    for number, share in enumerate((0.25, 0.5, 0.75, 1.0)):
        inside = train & (dealt <= number)
        assert inside.sum() == pytest.approx(share * train.sum(), abs=3)
        for column in range(2):
            whole = (made_up.targets[train, column] == 1).sum()
            assert (made_up.targets[inside, column] == 1).sum() == pytest.approx(share * whole, abs=2.01)


def test_seeds_deal_the_patients_out_differently(made_up: Manifest) -> None:
    dealt = [patient_shares(made_up, SHARES, seed=seed) for seed in (0, 0, 1)]
    assert (dealt[0] == dealt[1]).all()
    assert (dealt[0] != dealt[2]).any()


def test_synthetic_rows_belong_to_the_whole_alone(made_up: Manifest) -> None:
    frame = made_up.frame.copy()
    rows = np.flatnonzero(made_up.folds == "train")[:5]
    frame.loc[rows, "origin"] = "synthetic"
    from dataclasses import replace

    dealt = patient_shares(replace(made_up, frame=frame), SHARES, seed=0)
    assert (dealt[rows] == 2).all()


def test_cells_differ_in_their_train_rows_alone(write: Write, tmp_path: Path) -> None:
    curve = load_curve(write())
    cells = begun(curve, tmp_path / "out")
    whole = read_manifest(tmp_path / "made_up.csv")
    by_key = {(cell.arm, cell.seed): read_manifest(cell.config.manifest) for cell in cells}
    assert len(by_key) == 6
    for seed in (0, 1):
        before: set[str] = set()
        for share in SHARES:
            table = by_key[arm_name(share), seed]
            assert table.frame.drop(columns=["fold", "path"]).equals(whole.frame.drop(columns=["fold", "path"]))
            assert [str(p.resolve()) for p in table.image_paths()] == [str(p.resolve()) for p in whole.image_paths()]
            kept = whole.folds != "train"
            assert (table.folds[kept] == whole.folds[kept]).all()
            inside = set(table.patients[table.folds == "train"])
            assert before < inside
            before = inside
        assert by_key["share_100", seed].digest == whole.digest
    settings = [{k: v for k, v in cell.config.__dict__.items() if k not in ("manifest", "seed")} for cell in cells]
    assert all(one == settings[0] for one in settings)


def test_tables_of_the_shares_are_written_once(write: Write, tmp_path: Path) -> None:
    curve = load_curve(write())
    first = begun(curve, tmp_path / "out")
    times = {cell.config.manifest: Path(cell.config.manifest).stat().st_mtime_ns for cell in first}
    again = begun(curve, tmp_path / "out")
    assert times == {cell.config.manifest: Path(cell.config.manifest).stat().st_mtime_ns for cell in again}
    assert [cell.digest for cell in first] == [cell.digest for cell in again]


def test_every_share_takes_the_steps_of_the_whole_unless_epochs_are_asked_for(write: Write) -> None:
    found = {}
    for budget in ("steps", "epochs"):
        study = load_curve(write(budget=budget)).study
        found[budget] = [
            budgets(arm.config, train_rows=rows)["steps"]
            for arm, rows in zip(study.arms.values(), (12, 24, 45), strict=True)
        ]
    assert found == {"steps": ["12 steps"] * 3, "epochs": ["4 steps", "8 steps", "12 steps"]}


def test_in_a_cross_validation_every_fold_has_its_own_shares(write: Write, tmp_path: Path) -> None:
    folds = {"kind": "cross_validation", "num_folds": 2, "duplicates": False, "min_positives": 0}
    curve = load_curve(write(folds=folds, seeds=[0]))
    for cell in begun(curve, tmp_path / "out"):
        table, fold = read_manifest(cell.config.manifest), read_manifest(tmp_path / f"out/folds/fold_{cell.fold}.csv")
        assert (table.folds[fold.folds == "tune"] == "tune").all()
        share = (table.folds == "train").sum() / (fold.folds == "train").sum()
        assert share == pytest.approx(curve.fractions[cell.arm], abs=0.08)


def test_a_trainings_own_file_will_do_and_options_take_the_place_of_keys(write: Write, tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text(dump_yaml({"manifest": "made_up.csv"}), encoding="utf-8")
    curve = load_curve(tmp_path / "train.yaml", fractions=[0.1, 1.0], targets={"auroc": 0.9}, seeds=[3])
    assert list(curve.fractions.items()) == [("share_10", 0.1), ("share_100", 1.0)]
    assert (curve.targets, curve.study.seeds, curve.study.judge.metrics) == ({"auroc": 0.9}, (3,), ("auroc",))
    own = load_curve(write())
    assert own.targets == {"recall": 0.8, "ap": 0.5}
    assert own.study.judge.thresholds.objective.kind == "specificity"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"fractions": [0.5, 0.25, 1.0]},
            r"fractions: found \[0.5, 0.25, 1.0\]; expected rising shares that end with 1",
        ),
        ({"fractions": [0.5, 0.75]}, "expected rising shares that end with 1"),
        ({"fractions": [0.5001, 0.50011, 1.0]}, "two of them round to the same percent"),
        ({"targets": {"ap": 1.5}}, "targets.ap: found 1.5; expected a value less than 1"),
        ({"targets": {"kappa": 0.5}}, "targets.kappa"),
        ({"targets": {"f1": 0.5}, "judge": {"metrics": ["ap"]}}, "targets: f1 is not among judge.metrics"),
        ({"fraction": [1.0]}, "fraction: unknown key; did you mean 'fractions'"),
    ],
)
def test_mistakes_are_named_before_any_step(write: Write, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_study(load_curve(write(**keys)).study)


def test_growth_is_measured_on_the_same_images_against_positive_patients(
    write: Write, finish: Any, tmp_path: Path
) -> None:
    curve = load_curve(write(targets={"auroc": 0.9}))
    cells = begun(curve, tmp_path / "out")
    for cell in curve.study.cells(tmp_path / "out"):
        finish(cell, skill={"share_25": 0.2, "share_50": 0.8, "share_100": 2.0})
    sizes = positive_patients(curve, cells)
    table = read_manifest(tmp_path / "made_up.csv").in_fold("train")
    assert sizes["share_100"][0] == len(set(table.patients[table.targets[:, 0] == 1]))
    assert sizes["share_100"][-1] == len(set(table.patients))
    scored = tune_set(curve.study, tmp_path / "out", whole_seeds(curve.study, tmp_path / "out"))
    found = {one.class_name: one for one in growths(curve, scored, sizes)}
    assert list(found) == ["", "FTC", "MTC", "ATC"]
    grown = found["FTC"].growth
    assert grown.sizes.tolist() == [sizes[arm][0] for arm in curve.fractions]
    assert grown.rise[0] > 0.2
    assert found[""].unit == "patients"
    from medtail.judging.metrics import auroc

    wanted = np.mean([auroc(t.scores[:, 0], t.targets[:, 0]) for t in scored.tables["share_50"]])
    assert grown.values[1] == pytest.approx(wanted)
    for column, name in enumerate(("FTC", "MTC", "ATC")):
        sides = [len(set(scored.truth.patients[scored.truth.targets[:, column] == side])) for side in (0, 1)]
        assert found[name].has_few_patients == (min(sides) < 5)


@pytest.mark.slow
def test_a_curve_of_real_trainings_runs_and_is_never_run_twice(toy_manifest: Manifest, tmp_path: Path) -> None:
    toy_manifest.write(tmp_path / "toy.csv")
    train = {
        "manifest": "toy.csv", "classes": ["bright"], "pixels": {"size_px": 32}, "backbone": {"kind": "resnet"},
        "cache": "cache", "threads": 1, "accelerator": "cpu",
        "optimizer": {"epochs": 1, "batch_size": 18, "learning_rate": 0.005},
    }  # fmt: skip
    (tmp_path / "train.yaml").write_text(dump_yaml(train), encoding="utf-8")

    def run() -> Any:
        curve = load_curve(tmp_path / "train.yaml", fractions=[0.4, 0.7, 1.0], seeds=[0], overrides=["judge.fold=test"])
        return run_curve(curve, tmp_path / "out", quiet=True)

    found = run()
    assert (found.judged, found.outcome.failures) == ("test", {})
    kept = (tmp_path / "out" / "curve.json").read_bytes()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").rglob("*")}
    run()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").rglob("*")} == before
    assert (tmp_path / "out" / "curve.json").read_bytes() == kept
