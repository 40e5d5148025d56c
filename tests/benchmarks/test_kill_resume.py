"""The trial by kills: that it compares what it says, that its fuse ends a process, and a short trial."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "kill_resume.py"


@pytest.fixture(scope="module")
def trial() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_kill_resume", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def lay(folder: Path, *, seconds: float = 1.0, weight: float = 0.5, score: str = "0.25", epochs: int = 3) -> Path:
    (folder / "last").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"seconds": seconds, "finished": str(seconds), "epochs_run": epochs}))
    (folder / "log.csv").write_text(f"epoch,tune_map,seconds\n1,0.5,{seconds}\n")
    (folder / "scores.csv").write_text(f"image_id,bright\na,{score}\n")
    facts = {"progress": json.dumps({"seconds": seconds, "log": [{"seconds": seconds, "epoch": 1}], "epochs_done": 1})}
    save_file({"w": torch.tensor([weight])}, folder / "last" / "state.safetensors", metadata=facts)
    return folder


def test_pace_may_differ_and_nothing_else(trial: ModuleType, tmp_path: Path) -> None:
    whole = lay(tmp_path / "whole")
    assert trial.differences(lay(tmp_path / "slower", seconds=2.0), whole) == []
    for number, change in enumerate(({"weight": 0.25}, {"score": "0.26"}, {"epochs": 4})):
        assert len(trial.differences(lay(tmp_path / str(number), **change), whole)) == 1
    (whole / ".config.tmp-0").write_text("half")
    (whole / "claims").mkdir()
    found = trial.differences(tmp_path / "slower", whole)
    assert found == [".config.tmp-0: only in one", "claims: only in one"]
    assert trial.differences(tmp_path / "slower", whole, except_for=("claims", ".config")) == []


def test_every_verb_has_a_share_of_fifty_kills(trial: ModuleType) -> None:
    assert sum(verb.share for verb in trial.VERBS.values()) == 50


@pytest.mark.slow
def test_five_kills_leave_the_same_bytes() -> None:
    own = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(PROGRAM), "--kills", "5", "--verbs", "train,two_stage", "--seed", "1"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=own)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 kills survived with the same bytes." in done.stdout
