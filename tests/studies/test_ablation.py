"""Studies of real trainings, from the plan to the tables: resumed, spread, failing, killed, always the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from medtail.config import dump_yaml, read_yaml
from medtail.errors import MedtailError, UsageError
from medtail.runs import read_json
from medtail.studies.ablation import ablation_study, raise_for_failures, run_study, show_study
from medtail.studies.arms import check_budgets
from medtail.studies.cells import state_of
from medtail.studies.claims import read_claim
from medtail.studies.config import CrossValidationFolds, EqualConfig, ExternalConfig, JudgeConfig
from medtail.tables.manifest import Manifest

TABLES = ("tables.csv", "differences.csv")
ARMS: dict[str, dict[str, Any]] = {"full": {}, "focal": {"loss.kind": "focal"}}


def tables(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in TABLES}


def test_a_study_runs_from_plan_to_tables_and_is_never_run_twice(make_real, tmp_path: Path) -> None:
    study = make_real(ARMS, judge=JudgeConfig(fold="test", bootstrap=50))
    outcome = run_study(study, tmp_path / "out", quiet=True)
    root = outcome.root
    for name in (*TABLES, "costs.csv", "study.json", "study.md", "study.html", "plan.json", "opened.json"):
        assert (root / name).stat().st_size > 0, name
    assert [one.name for one in outcome.judged] == ["test", "tune"]
    assert "focal" in outcome.summary
    before = {path: path.stat().st_mtime_ns for path in (root / "cells").rglob("*")}
    kept = tables(root)
    again = run_study(study, tmp_path / "out", quiet=True)
    assert {path: path.stat().st_mtime_ns for path in (root / "cells").rglob("*")} == before
    assert tables(root) == kept
    assert again.summary == outcome.summary
    # a run of a cell is an ordinary run
    assert (root / "cells/full/seed_0/fold_0/model/card.json").exists()
    with pytest.raises(MedtailError, match="would be those of arms made afterwards"):
        run_study(make_real({**ARMS, "late": {"loss.kind": "asl"}}, judge=study.judge), root, quiet=True)


@pytest.mark.slow
def test_a_failing_arm_leaves_the_others_judged_and_test_shut(make_real, tmp_path: Path) -> None:
    wrong = {**ARMS, "huge": {"optimizer.learning_rate": 1e30, "optimizer.gradient_clip": None}}
    study = make_real(wrong, judge=JudgeConfig(fold="test", bootstrap=50))
    outcome = run_study(study, tmp_path / "out", quiet=True)
    assert list(outcome.failures) == ["huge/seed_0/fold_0"]
    assert [one.name for one in outcome.judged] == ["tune"]
    assert not (outcome.root / "opened.json").exists()
    assert set(pd.read_csv(outcome.root / "tables.csv")["arm"]) == {"full", "focal"}
    record = read_json(outcome.root / "study.json")
    assert record["cells"]["huge/seed_0/fold_0"] == "failed"
    assert any("1 cells failed, such as huge/seed_0/fold_0" in caution for caution in record["cautions"])
    with pytest.raises(MedtailError, match="1 cell failed:\n  huge/seed_0/fold_0: "):
        raise_for_failures(outcome)
    # without the arm that cannot be trained, everything is finished and test is opened
    again = run_study(make_real(ARMS, judge=study.judge), tmp_path / "out", quiet=True)
    assert [one.name for one in again.judged] == ["test", "tune"]


def test_a_study_is_shown_while_it_runs_without_opening_anything(make_real, tmp_path: Path) -> None:
    study = make_real(ARMS, seeds=(0, 1), judge=JudgeConfig(fold="test", bootstrap=50))
    run_study(replace(study, seeds=(0,), judge=JudgeConfig(bootstrap=50)), tmp_path / "out", quiet=True)
    (tmp_path / "out" / "cells/focal/seed_0/fold_0/cell.json").unlink()
    before = sorted((tmp_path / "out").rglob("*"))
    shown, cells, text = show_study(tmp_path / "out")
    assert [state_of(cell) for cell in cells] == ["finished", "begun"]
    assert list(shown.arms) == ["full", "focal"]
    assert "full" in text.splitlines()[2]
    assert "focal: not finished" in text
    assert sorted((tmp_path / "out").rglob("*")) == before


def test_an_unfair_study_is_refused_before_any_step(make_real, tmp_path: Path) -> None:
    study = make_real({"full": {}, "long": {"optimizer.epochs": 3}})
    with pytest.raises(UsageError, match="arm 'long', steps: found 6 steps; 'full' has 4 steps"):
        run_study(study, tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# the further kinds of study have files of their own form
STUDIES = sorted(path for path in CONFIGS.glob("*/*.yaml") if {"arms", "track"} & set(read_yaml(path)) == {"arms"})


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_of_the_repository_resolves_and_is_fair(path: Path) -> None:
    study = ablation_study(path)
    assert study.reference in study.arms
    check_budgets(study.arms, reference=study.reference, equal=study.equal, train_rows=1000, where=path.name)


def write_study(folder: Path, manifest: Manifest, *, epochs: int = 2, **more: Any) -> Path:
    manifest.write(folder / "toy.csv")
    train = {
        "manifest": "toy.csv", "classes": ["bright", "shape=*"], "pixels": {"size_px": 32},
        "backbone": {"kind": "resnet"}, "cache": "cache", "threads": 1, "accelerator": "cpu",
        "optimizer": {"epochs": epochs, "batch_size": 18, "learning_rate": 0.005},
    }  # fmt: skip
    values = {"train": train, "arms": ARMS, "seeds": [0], "judge": {"bootstrap": 50}, **more}
    (folder / "study.yaml").write_text(dump_yaml(values), encoding="utf-8")
    return folder / "study.yaml"


def test_a_studys_file_becomes_a_study(toy_manifest: Manifest, tmp_path: Path) -> None:
    path = write_study(tmp_path, toy_manifest, title="Losses", equal={"unless": {"focal": ["batch"]}})
    study = ablation_study(path, seeds=(7,), overrides=["judge.fold=test"])
    assert (study.title, study.seeds, study.reference, study.judge.fold) == ("Losses", (7,), "full", "test")
    assert study.arms["focal"].config.loss.kind == "focal"
    assert study.equal == EqualConfig(unless={"focal": ("batch",)})
    assert study.manifest.labels.class_names[0] == "bright"


@pytest.mark.slow
def test_a_cross_validated_study_with_external_images_in_spawned_processes(
    make_real, toy_manifest: Manifest, tmp_path: Path
) -> None:
    frame = toy_manifest.frame.head(12).assign(fold="")
    frame = frame.assign(image_id="x" + frame["image_id"], patient_id="x" + frame["patient_id"])
    replace(toy_manifest, frame=frame).write(tmp_path / "far.csv")
    study = make_real(
        ARMS,
        seeds=(0, 1),
        folds=CrossValidationFolds(num_folds=2),
        judge=JudgeConfig(fold="test", bootstrap=50),
        external={"far": ExternalConfig(manifest=str(tmp_path / "far.csv"))},
    )
    outcome = run_study(study, tmp_path / "two", workers=2, quiet=True)
    assert [one.name for one in outcome.judged] == ["test", "tune", "external_far"]
    run_study(study, tmp_path / "one", quiet=True)
    assert tables(tmp_path / "one") == tables(tmp_path / "two")


def kill_in_the_middle(root: Path) -> Path | None:
    """Kill the process of a cell with an epoch done and the run not, and return the cell's folder."""
    for state in (root / "cells").rglob("state.safetensors"):
        cell = state.parent.parent
        claim = read_claim(root / "claims" / f"{cell.relative_to(root / 'cells')}.claim")
        if claim is not None and not (cell / "run.json").exists():
            os.kill(claim.pid, signal.SIGKILL)
            return cell
    return None


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_study_killed_in_the_middle_of_a_cell_ends_in_the_same_tables(
    toy_manifest: Manifest, tmp_path: Path, workers: int
) -> None:
    more = {"folds": {"kind": "cross_validation", "num_folds": 2, "duplicates": False}}
    path = write_study(tmp_path, toy_manifest, epochs=8, **more)
    run_study(ablation_study(path), tmp_path / "whole", quiet=True)

    command = [sys.executable, "-c", "import sys; from medtail.cli.main import run; run()"]
    command += ["study", "ablate", str(path), "--out", str(tmp_path / "cut"), "--workers", str(workers), "--quiet"]
    victim = None
    with subprocess.Popen(command) as process:
        until = time.monotonic() + 900
        while victim is None and process.poll() is None and time.monotonic() < until:
            victim = kill_in_the_middle(tmp_path / "cut")
        code = process.wait(timeout=300)
    assert victim is not None, "no cell was met in its middle"
    if workers == 1:
        assert code == -signal.SIGKILL
        assert not (victim / "cell.json").exists()
        assert not (tmp_path / "cut" / "tables.csv").exists()
    else:
        assert code == 0, "another process took the cell up"
    run_study(ablation_study(path), tmp_path / "cut", quiet=True)
    assert (victim / "cell.json").exists()
    assert tables(tmp_path / "cut") == tables(tmp_path / "whole")
    assert not list((tmp_path / "cut" / "claims").rglob("*.claim"))
    assert json.loads((tmp_path / "cut" / "study.json").read_text())["failed"] == {}
