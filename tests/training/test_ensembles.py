"""Several networks trained from one config, and judged as one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError, UsageError
from medtail.models.ensembles import load_members
from medtail.tables.manifest import read_manifest
from medtail.tables.predictions import read_predictions
from medtail.training import ensembles
from medtail.training.config import TrainConfig, load_train_config
from medtail.training.ensembles import member_seed, train
from medtail.training.fit import TrainOutcome
from medtail.training.judged import judge_run, report_run
from medtail.training.predict import predict

MakeConfig = Callable[..., TrainConfig]


def contents(folder: Path) -> dict[str, bytes]:
    """All files that must repeat: not logs, records and the state to resume from, which hold times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.parent.name != "last" and (path.suffix in (".safetensors", ".parquet") or path.name == "card.json")
    }


def test_scores_are_the_mean_of_the_members_own(make_config: MakeConfig, tmp_path: Path) -> None:
    outcome = train(make_config(members=2), tmp_path / "run", quiet=True)
    table = read_manifest(tmp_path / "toy.csv")
    joined = predict(tmp_path / "run", table, fold="test", quiet=True)
    alone = [predict(tmp_path / "run" / "members" / f"member_{k}", table, fold="test", quiet=True) for k in (0, 1)]
    assert not np.allclose(alone[0].scores, alone[1].scores)
    np.testing.assert_allclose(joined.scores, (alone[0].scores + alone[1].scores) / 2, atol=1e-12)
    assert outcome.epochs_run == 4

    tune = read_predictions(tmp_path / "run" / "predictions_tune.parquet")
    assert set(tune.folds) == {"tune"}
    _, card = load_members(tmp_path / "run" / "model")
    assert card.thresholds == tune.thresholds == joined.thresholds
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["members"] == 2
    assert facts["weights_digest"] == card.digests["weights"] == joined.digests["model"] == tune.digests["model"]
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    assert log.groupby("member")["epoch"].apply(list).tolist() == [[1, 2], [1, 2]]


def test_first_member_is_the_network_of_the_same_seed(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config(members=2, seed=5), tmp_path / "two", quiet=True)
    train(make_config(seed=5), tmp_path / "one", quiet=True)
    weights = "model/model.safetensors"
    assert (tmp_path / "two/members/member_0" / weights).read_bytes() == (tmp_path / "one" / weights).read_bytes()
    assert len({member_seed(5, number) for number in range(50)}) == 50


def test_one_network_has_no_members_folder(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config(), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "members").exists()


def test_a_run_cut_off_between_members_resumes_to_the_same_bytes(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(members=3)
    train(config, tmp_path / "whole", quiet=True)
    genuine, trained = ensembles.train_one, []

    def killed_in_the_second(config: TrainConfig, out: Path, **how: Any) -> TrainOutcome:
        if len(trained) == 1:
            out.mkdir(parents=True)
            raise KeyboardInterrupt
        trained.append(out)
        return genuine(config, out, **how)

    monkeypatch.setattr(ensembles, "train_one", killed_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "cut", quiet=True)
    monkeypatch.undo()
    assert not (tmp_path / "cut" / "model").exists()
    first = (tmp_path / "cut/members/member_0/run.json").read_bytes()
    train(load_train_config(tmp_path / "cut" / "config.yaml"), tmp_path / "cut", resume=True, quiet=True)
    assert (tmp_path / "cut/members/member_0/run.json").read_bytes() == first, "a finished member is left alone"
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_run_cut_off_while_joining_is_joined_by_resuming(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(members=2)
    train(config, tmp_path / "run", quiet=True)
    before = contents(tmp_path / "run")
    (tmp_path / "run" / "run.json").unlink()
    (tmp_path / "run" / "predictions_tune.parquet").unlink()
    (tmp_path / "run" / "model" / "card.json").unlink()
    outcome = train(config, tmp_path / "run", resume=True, quiet=True)
    assert contents(tmp_path / "run") == before
    again = train(config, tmp_path / "run", resume=True, quiet=True)
    assert again.tune_map == pytest.approx(outcome.tune_map)


def test_resuming_with_another_number_of_members_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config(members=2), tmp_path / "run", quiet=True)
    with pytest.raises(UsageError, match=r"members: found 3; the run began with 2"):
        train(make_config(members=3), tmp_path / "run", resume=True, quiet=True)


def test_a_finished_run_with_a_damaged_member_does_not_pass(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(members=2)
    train(config, tmp_path / "run", quiet=True)
    shutil.rmtree(tmp_path / "run" / "model" / "member_1")
    with pytest.raises(MedtailError, match="member_1"):
        train(config, tmp_path / "run", resume=True, quiet=True)


def test_an_ensemble_is_judged_and_reported_like_a_network(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config(members=2), tmp_path / "run", quiet=True)
    judgement = judge_run(tmp_path / "run", quiet=True)
    assert judgement.results.header["thresholds"]["source"] == "tune"
    page = report_run(tmp_path / "run", tmp_path / "report.html", quiet=True).read_text()
    assert "Deep Ensembles" in page


def test_progress_says_which_member(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(make_config(members=2), tmp_path / "run")
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line.split(",")[0].split(":")[0] for line in lines] == [
        "member 1 of 2", "epoch 1/2", "epoch 2/2", "member 2 of 2", "epoch 1/2", "epoch 2/2",
    ]  # fmt: skip
