from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.config import config_to_dict, dump_yaml
from medtail.errors import MedtailError
from medtail.runs import read_json
from medtail.tables.manifest import read_manifest
from medtail.training.config import TrainConfig, load_train_config
from medtail.training.ensembles import train
from medtail.training.fit import config_digest_of
from medtail.training.judged import report_run
from medtail.training.predict import predict

MakeConfig = Callable[..., TrainConfig]


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


def test_level_zero_is_plain_training_byte_for_byte(make_policy_config: MakeConfig, tmp_path: Path) -> None:
    table = read_manifest(tmp_path / "pool.csv")
    table.take(table.is_real).write(tmp_path / "real.csv")
    settings = {"optimizer": {"ema_decay": 0.9}, "augment": {"profile": "ultrasound"}}
    train(make_policy_config(manifest="real.csv", sampler={"kind": "uniform"}, **settings), tmp_path / "a", quiet=True)
    train(make_policy_config(sampler={"kind": "mixture", "levels": 0.0}, **settings), tmp_path / "b", quiet=True)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    train(make_policy_config(sampler={"kind": "mixture", "levels": 0.25}, **settings), tmp_path / "c", quiet=True)
    assert weights(tmp_path / "c") != weights(tmp_path / "a")


def test_a_policy_trains_what_a_replay_of_its_schedule_trains(make_policy_config: MakeConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    outcome = train(make_policy_config(), run, quiet=True)
    assert outcome.epochs_run == 2
    schedule = str(run / "policy" / "schedule.json")
    train(make_policy_config(sampler={"kind": "replay", "schedule": schedule}), tmp_path / "again", quiet=True)
    assert weights(run) == weights(tmp_path / "again")
    log = pd.read_csv(run / "log.csv")
    assert {"synthetic_share", "level_bright", "level_shape=round"} <= set(log.columns)
    assert load_train_config(run / "config.yaml") == make_policy_config()

    # the copy that went through all rounds is a model too
    carried = predict(run / "policy" / "carried", read_manifest(tmp_path / "pool.csv"), fold="test", quiet=True)
    assert carried.thresholds is not None
    page = report_run(run, tmp_path / "report.html", quiet=True).read_text(encoding="utf-8")
    assert '<section id="generated"' in page
    assert "Subtyping Breast Lesions via Generative Augmentation" in page
    rounds = pd.read_csv(run / "policy" / "rounds.csv")
    assert (rounds.groupby("round")["team_tune"].nunique() == 1).all()
    assert rounds["team_tune"].between(-1, 1).all()
    assert not (run / "policy" / "kept").exists()
    facts = read_json(run / "policy" / "carried" / "tune.json")
    assert 0 <= facts["tune_map"] <= 1
    assert 0 <= facts["tune_macro_f1"] <= 1


def test_a_closed_loop_chooses_levels_in_the_states_of_the_new_training(
    make_policy_config: MakeConfig, tmp_path: Path
) -> None:
    sampler = {"kind": "policy", "size": "tiny", "order": "closed_loop"}
    train(make_policy_config(sampler=sampler), tmp_path / "run", quiet=True)
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    levels = log[[name for name in log.columns if name.startswith("level_")]]
    assert set(levels.to_numpy().ravel()) <= {0.0, 0.25, 0.5, 0.75, 1.0}
    assert (log["synthetic_share"] > 0).all() == (levels.sum(axis=1) > 0).all()
    table = read_manifest(tmp_path / "pool.csv")
    table.with_folds(np.where(table.folds == "reward", "", table.folds)).write(tmp_path / "none.csv")
    schedule = str(tmp_path / "run" / "policy" / "schedule.json")
    again = {"kind": "replay", "schedule": schedule, "order": "closed_loop"}
    with pytest.raises(MedtailError, match=r"no row is in 'reward', whose states a closed loop reads"):
        train(make_policy_config(sampler=again, manifest="none.csv"), tmp_path / "other", quiet=True)


def test_where_a_schedule_lies_changes_no_digest_and_its_content_does(
    make_policy_config: MakeConfig, tmp_path: Path
) -> None:
    from medtail.sampling.replay import Schedule

    names = ("bright", "rare", "shape=irregular", "shape=oval", "shape=round")
    for folder, level in (("x", 0.5), ("y", 0.5), ("z", 0.25)):
        Schedule(names, np.full((2, 5), level)).write(tmp_path / folder / "schedule.json")
    found = [
        config_digest_of(make_policy_config(sampler={"kind": "replay", "schedule": f"{folder}/schedule.json"}))
        for folder in "xyz"
    ]
    assert found[0] == found[1] != found[2]


SCRIPT = """
import sys
from medtail.training.config import load_train_config
from medtail.training.ensembles import train
train(load_train_config(sys.argv[1]), sys.argv[2], quiet=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", ["policy/rounds.csv", "last/state.safetensors"])
def test_a_killed_run_resumes_to_the_same_bytes(make_policy_config: MakeConfig, tmp_path: Path, stop_at: str) -> None:
    config = make_policy_config(
        sampler={"kind": "policy", "size": "tiny", "rounds": 6, "order": "closed_loop"}, optimizer={"epochs": 6}
    )
    path, killed = tmp_path / "c.yaml", tmp_path / "killed"
    path.write_text(dump_yaml(config_to_dict(config)), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(path), str(killed)], env=environment)
    try:
        deadline = time.monotonic() + 300
        while not (killed / stop_at).exists():
            assert process.poll() is None, "it finished or failed before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (killed / "run.json").exists(), "it must have been cut off"
    train(load_train_config(killed / "config.yaml"), killed, resume=True, quiet=True)
    train(config, tmp_path / "whole", quiet=True)
    for name in ("model/model.safetensors", "model/card.json", "policy/schedule.json", "policy/rounds.csv"):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
