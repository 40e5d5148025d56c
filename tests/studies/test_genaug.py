"""A study of generated images from end to end, cut off and taken up again, and refused where it is not the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import numpy as np
import pandas as pd
import pytest
import torch

from medtail.config import dump_yaml
from medtail.errors import MedtailError, UsageError
from medtail.runs import read_json
from medtail.sources.phantom_breast import breast_manifest
from medtail.studies.genaug import GenaugOutcome, run_genaug
from medtail.studies.genaug_config import GenaugConfig, TableTrack, load_genaug
from medtail.tables.manifest import Manifest

ARMS = ["real", "oversampling", "fill", "fixed_best", "logit_adjusted", "rl", "frozen", "shuffled", "synthetic_only"]


def small_table(folder: Path) -> Path:
    """Write 32 px phantoms: 24, 12, 6, 4, 3 and 2 to train on, a few of each class for the other folds."""
    table = breast_manifest(folder / "real", size_px=32, balanced=24)
    wanted = {"train": [24, 12, 6, 4, 3, 2], "tune": [3] * 6, "reward": [3] * 6, "test": [6] * 6}
    classes = table.targets.argmax(axis=1)
    place = pd.DataFrame({"fold": table.folds, "class": classes}).groupby(["fold", "class"]).cumcount().to_numpy()
    kept = np.array([place[n] < wanted[str(table.folds[n])][classes[n]] for n in range(len(table))])
    path = folder / "table.csv"
    Manifest(table.frame[kept].reset_index(drop=True), table.labels, "table.csv", table.root).write(path)
    return path


def study_file(folder: Path) -> Path:
    values = {
        "track": {"kind": "table", "manifest": str(small_table(folder))},
        "generator": {
            "size": "tiny", "threads": 1, "cache": str(folder / "cache"),
            "autoencoder": {"steps": 2}, "denoiser": {"steps": 2},
        },
        "pool": {"solver_steps": 2},
        "train": {
            "pixels": {"size_px": 32}, "optimizer": {"batch_size": 8}, "threads": 1, "accelerator": "cpu",
            "cache": str(folder / "cache"),
        },
        "policy": {"rounds": 1, "copies": 2, "steps": 1, "warmup_steps": 1},
        "final_steps": 1,
        "epoch_steps": 1,
        "arms": ARMS,
        "curve": False,
        "seeds": [0],
        "judge": {"bootstrap": 60},
    }  # fmt: skip
    (folder / "study.yaml").write_text(dump_yaml(values), encoding="utf-8")
    return folder / "study.yaml"


@final
@dataclass(frozen=True)
class Done:
    """A finished study that nobody may change."""

    config: GenaugConfig
    root: Path
    outcome: GenaugOutcome


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Done:
    folder = tmp_path_factory.mktemp("genaug")
    config = load_genaug(study_file(folder))
    return Done(config, folder / "out", run_genaug(config, folder / "out", quiet=True))


@pytest.mark.slow
def test_every_arm_is_trained_judged_and_told(done: Done) -> None:
    outcome = done.outcome
    assert outcome.failures == {}
    assert outcome.evidence is not None
    assert list(outcome.evidence.measured.arms) == ARMS
    assert outcome.evidence.measured.patients == 36
    arms = pd.read_csv(done.root / "arms.csv")
    assert set(arms["arm"]) == set(ARMS)
    assert {"macro_f1", "tail_recall"} <= set(arms["metric"])
    value = read_json(done.root / "genaug.json")
    verdicts = {row["part"]: row["verdict"] for row in value["plan"]}
    assert verdicts["splits"] == "works"
    assert verdicts["sampler learns"] == "not measured here"
    assert "rl" in outcome.summary


@pytest.mark.slow
def test_the_page_stands_alone_and_shows_every_arm(done: Done) -> None:
    page = (done.root / "genaug.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "data:image/jpeg" in page
    for arm in ARMS:
        assert arm in page
    assert "independent implementation of the idea" in page
    assert (done.root / "genaug.md").read_text(encoding="utf-8").startswith("# study")


@pytest.mark.slow
def test_run_again_it_does_nothing_and_says_the_same(done: Done) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.root.rglob("*.safetensors")}
    told = (done.root / "arms.csv").read_bytes()
    again = run_genaug(done.config, done.root, quiet=True)
    assert again.summary == done.outcome.summary
    assert {path: path.stat().st_mtime_ns for path in done.root.rglob("*.safetensors")} == before
    assert (done.root / "arms.csv").read_bytes() == told


@pytest.mark.slow
def test_another_study_in_the_same_folder_and_late_arms_are_refused(done: Done) -> None:
    with pytest.raises(UsageError, match="final_steps: found 2; the study began with 1"):
        run_genaug(replace(done.config, final_steps=2), done.root)
    with pytest.raises(MedtailError, match=r"test was opened on .* without reversed"):
        run_genaug(replace(done.config, arms=(*ARMS, "reversed")), done.root)


@pytest.mark.slow
def test_gates_are_measured_once_on_tune(done: Done) -> None:
    gate = read_json(done.root / "gates" / "ab" / "fold_0.json")
    assert {name: len(values) for name, values in gate.items()} == {"real": 1, "reconstructed": 1}
    assert not (done.root / "gates" / "ab" / "reconstructed").exists()
    quality = read_json(done.root / "pools" / "ab" / "fold_0" / "quality.json")
    assert quality["judge"] == "fold_0"  # the run folder of the arm logit_adjusted


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_numbers(tmp_path: Path, done: Done) -> None:
    """The same study by the command line, killed twice without a word, ends with the very same table."""
    out = tmp_path / "out"
    script = "import sys; from medtail.cli.main import call; sys.exit(call(sys.argv[1:]))"
    study = str(done.root.parent / "study.yaml")
    command = [sys.executable, "-c", script, "study", "genaug", study, "--out", str(out), "-q"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for wanted in ("pools/ab/fold_0/plan.json", "cells/fill/seed_0/fold_0/config.yaml"):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 500
        while not (out / wanted).exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        assert (out / wanted).exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = subprocess.run(
        [*command, "--json"], env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["failed"] == {}
    assert (out / "arms.csv").read_bytes() == (done.root / "arms.csv").read_bytes()
    assert (out / "differences.csv").read_bytes() == (done.root / "differences.csv").read_bytes()


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    config = GenaugConfig(track=TableTrack(manifest=str(tmp_path / "t.csv")))
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="is not empty and holds no such study"):
        run_genaug(config, tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        run_genaug(config, tmp_path / "notes.txt")
