from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.config import config_to_dict, dump_yaml
from medtail.errors import MedtailError, UsageError
from medtail.processes import TORCHRUN
from medtail.tables.predictions import read_predictions
from medtail.training.config import TrainConfig
from medtail.training.ensembles import train
from medtail.training.sharing import compare_found
from medtail.training.state import read_state

MakeConfig = Callable[..., TrainConfig]
FILES = ("model/model.safetensors", "model/card.json", "predictions_tune.parquet")
SMALL = {"pixels": {"size_px": 16}, "optimizer": {"epochs": 3, "batch_size": 12}}
# no dropout, whose draws are a process's own, and no batch norm, whose statistics are those of its share on a CPU
EXACT = {**SMALL, "backbone": {"kind": "vit"}, "head": {"kind": "linear", "dropout": 0.0}}


def log_of(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "log.csv").drop(columns="seconds")


def same_bytes(one: Path, other: Path) -> None:
    for name in FILES:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    pd.testing.assert_frame_equal(log_of(one), log_of(other))


def command(config: TrainConfig, folder: Path, out: Path) -> list[str]:
    path = folder / "c.yaml"
    path.write_text(dump_yaml(config_to_dict(config)), encoding="utf-8")
    return [str(Path(sys.executable).with_name("medtail")), "train", str(path), "--out", str(out)]


# --- refused before a process is started ----------------------------------------------------------------------------


def test_several_machines_are_not_reached_from_one(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"num_nodes: found 2, but this process was started alone; .*examples/cluster"):
        train(make_config(devices=2, num_nodes=2), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_torchrun_and_config_must_agree(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in zip(TORCHRUN, ("1", "2", "1", "localhost", "1"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=r"torchrun: started 2 processes; the config has devices 1 and num_nodes 1"):
        train(make_config(), tmp_path / "run", quiet=True)
    with pytest.raises(UsageError, match=r"expected 4, 4 on each of 1 machines"):
        train(make_config(devices=4), tmp_path / "run", quiet=True)


def test_a_process_that_sees_other_data_says_where() -> None:
    compare_found({"epochs": 1}, {"epochs": 1}, rank=1)
    with pytest.raises(MedtailError, match=r"process 1 on \S+, epochs: found 0; process 0 found 1\. Put the data"):
        compare_found({"epochs": 1}, {"epochs": 0}, rank=1)


# --- two processes --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_train_the_model_of_one(make_config: MakeConfig, tmp_path: Path) -> None:
    # a sampler that observes, labels nobody assessed, an odd number of tune rows: all of it is gathered
    config = {**EXACT, "sampler": {"kind": "two_streams", "from_epoch": 1}}
    train(make_config(**config), tmp_path / "one", quiet=True)
    outcome = train(make_config(**config, devices=2), tmp_path / "two", quiet=True)
    assert outcome.epochs_run == 3
    one, two = (read_predictions(tmp_path / name / "predictions_tune.parquet") for name in ("one", "two"))
    np.testing.assert_allclose(two.scores, one.scores, atol=1e-5)
    assert not (two.targets == two.targets).all(), "the toy has labels that were not assessed"
    columns = ["train_loss", "tune_map", "learning_rate"]
    np.testing.assert_allclose(log_of(tmp_path / "two")[columns], log_of(tmp_path / "one")[columns], atol=1e-5)
    states = [read_state(tmp_path / name / "last" / "state.safetensors") for name in ("one", "two")]
    for name, tensor in states[0][0].items():
        np.testing.assert_allclose(states[1][0][name].float(), tensor.float(), atol=1e-4, err_msg=name)


def children(pid: int) -> Mapping[int, int]:
    """Return the processes that another has started: rank → number."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                words = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            ranks = [int(word[5:]) for word in words if word.startswith(b"RANK=")]
            if parent == pid and ranks:
                found[ranks[0]] = int(folder.name)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_all_and_a_resume_ends_as_if_nothing_had_been(
    make_config: MakeConfig, tmp_path: Path, rank: int
) -> None:
    config = make_config(**{**SMALL, "optimizer": {"epochs": 40, "batch_size": 12}}, devices=2)
    killed = tmp_path / "killed"
    popen = subprocess.Popen(command(config, tmp_path, killed), stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 900
        while not (killed / "log.csv").exists():
            assert popen.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        crew = children(popen.pid)
        os.kill(crew[rank], signal.SIGKILL)
        _, words = popen.communicate(timeout=120)
    finally:
        if popen.poll() is None:
            popen.kill()
            popen.communicate()
    assert popen.returncode == 1
    assert "Traceback" not in words
    error = words.strip().splitlines()[-1]
    assert f"process {rank} of 2 was killed (SIGKILL" in error
    assert f"go on with `medtail train --resume {killed}`" in error
    assert not any(Path(f"/proc/{pid}").exists() for pid in crew.values())
    assert not (killed / "run.json").exists()

    train(config, killed, resume=True, quiet=True)
    train(config, tmp_path / "whole", quiet=True)
    same_bytes(killed, tmp_path / "whole")


@pytest.mark.slow
def test_torchrun_and_srun_start_the_same_training(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(**SMALL, devices=2)
    train(config, tmp_path / "own", quiet=True)
    medtail = command(config, tmp_path, tmp_path / "torchrun")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    done = subprocess.run([*launcher, *medtail], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("3 epochs, tune mAP") == 1, "one process speaks"
    same_bytes(tmp_path / "own", tmp_path / "torchrun")

    medtail = command(config, tmp_path, tmp_path / "srun")
    number = os.getpid()
    task = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_NODEID": "0", "SLURM_JOB_ID": f"{number}", "MASTER_ADDR": "127.0.0.1"}
    tasks = [
        subprocess.Popen(
            medtail, env={**os.environ, **task, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}, stdout=subprocess.DEVNULL
        )
        for rank in ("0", "1")
    ]
    assert [popen.wait(timeout=900) for popen in tasks] == [0, 0]
    same_bytes(tmp_path / "own", tmp_path / "srun")


@pytest.mark.slow
def test_a_policy_learns_in_the_first_process_and_all_train_what_it_chose(
    make_policy_config: MakeConfig, tmp_path: Path
) -> None:
    small = {"pixels": {"size_px": 16}, "optimizer": {"epochs": 2}}
    train(make_policy_config(**small, devices=2), tmp_path / "two", quiet=True)
    train(make_policy_config(**small), tmp_path / "one", quiet=True)
    for name in ("schedule.json", "carried.safetensors"):
        assert (tmp_path / "two/policy" / name).read_bytes() == (tmp_path / "one/policy" / name).read_bytes(), name
    loop = {"kind": "replay", "schedule": str(tmp_path / "one/policy/schedule.json"), "order": "closed_loop"}
    train(make_policy_config(**small, sampler=loop, devices=2), tmp_path / "loop", quiet=True)
    told = read_state(tmp_path / "loop/last/state.safetensors")[1].sampler
    assert told, "the levels it chose on the way, alike in both processes, or the draws would have been refused"


@pytest.mark.slow
def test_members_and_frozen_second_stages_are_shared_too(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(**SMALL, members=2, second={"kind": "retrain", "epochs": 1}, devices=2)
    outcome = train(config, tmp_path / "run", quiet=True)
    assert outcome.epochs_run == 8
    for member in ("member_0", "member_1"):
        stages = tmp_path / "run/members" / member / "stages"
        first = read_state(stages / "first/last/best.safetensors")[0]
        second = read_state(stages / "second/last/state.safetensors")[0]
        backbone = [name for name in first if name.startswith("backbone")]
        assert backbone
        assert all(second[f"model/{name}"].equal(first[name]) for name in backbone), "it was to be frozen"
    with pytest.raises(UsageError, match="is not empty; medtail never overwrites"):
        train(config, tmp_path / "run", quiet=True)
