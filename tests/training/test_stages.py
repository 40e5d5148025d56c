from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from medtail.errors import MedtailError
from medtail.judging.calibration_record import apply_maps
from medtail.judging.logit_adjustment import adjusting_maps, choose_tau, decided_f1
from medtail.models.backbones import ResNetConfig
from medtail.models.checkpoint import load_model
from medtail.models.diagnoser import build_diagnoser
from medtail.models.heads import LinearHeadConfig
from medtail.runs import read_json
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import read_manifest
from medtail.tables.predictions import read_predictions
from medtail.training.config import TrainConfig
from medtail.training.ensembles import train
from medtail.training.judged import judge_run
from medtail.training.module import TrainingModule
from medtail.training.predict import predict
from medtail.training.stages import normalise_weights

MakeConfig = Callable[..., TrainConfig]
_TINY = ResNetConfig()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_model(folder)[0].state_dict()


def moved(run: Path) -> set[str]:
    """Names of the tensors in which the second stage's model differs from the first's."""
    before, after = weights(run / "stages/first/model"), weights(run / "model")
    return {name for name in after if name not in before or not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    ("learn", "expected"),
    [
        ("classifier", {"head.linear.weight", "head.linear.bias"}),
        ("scales", {"head.scales"}),
    ],
)
def test_second_stage_moves_what_it_says_and_nothing_else(
    make_config: MakeConfig, tmp_path: Path, learn: str, expected: set[str]
) -> None:
    config = make_config(second={"kind": "retrain", "learn": learn, "epochs": 2})
    outcome = train(config, tmp_path / "run", quiet=True)
    assert moved(tmp_path / "run") == expected
    assert outcome.epochs_run == 4
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    assert log["epoch"].tolist() == [1, 2, 3, 4]
    assert log["stage"].tolist() == [1, 1, 2, 2]
    scored = read_predictions(tmp_path / "run" / "predictions_tune.parquet")
    again = predict(tmp_path / "run", read_manifest(tmp_path / "toy.csv"), fold="tune", quiet=True)
    assert again.digests["model"] == scored.digests["model"]
    assert abs(again.scores - scored.scores).max() < 1e-6
    assert len(judge_run(tmp_path / "run", quiet=True).predictions) > 0


def test_classifier_begins_anew_and_not_where_the_first_stage_ended(make_config: MakeConfig, tmp_path: Path) -> None:
    slow = {"kind": "retrain", "epochs": 1, "learning_rate": 1e-9}
    train(make_config(second=slow), tmp_path / "run", quiet=True)
    before, after = (weights(tmp_path / "run" / name) for name in ("stages/first/model", "model"))
    assert (before["head.linear.weight"] - after["head.linear.weight"]).abs().max() > 1e-3


def test_all_goes_on_with_the_whole_network_and_another_loss(make_config: MakeConfig, tmp_path: Path) -> None:
    second = {"kind": "retrain", "learn": "all", "epochs": 1, "loss": {"kind": "class_balanced"}}
    config = make_config(second=second, mix={"kind": "mixup"})
    assert config.second_stage().mix is None
    assert config.second_stage().loss.kind == "class_balanced"
    train(config, tmp_path / "run", quiet=True)
    changed = moved(tmp_path / "run")
    assert any(name.startswith("backbone.") and name.endswith("weight") for name in changed)
    assert "head.linear.weight" in changed


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_run_cut_off_in_either_stage_resumes_to_the_same_bytes(
    make_config: MakeConfig, tmp_path: Path, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(second={"kind": "retrain", "epochs": 2}, loss={"kind": "ldam"})
    whole, resumed = tmp_path / "whole", tmp_path / "cut"
    train(config, whole, quiet=True)
    starts = 0

    def stumble(module: TrainingModule) -> None:
        nonlocal starts
        if starts == cut:
            raise OSError("the power went")
        starts += 1
        normal(module)

    normal = TrainingModule.on_train_epoch_start
    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "on_train_epoch_start", stumble)
        with pytest.raises(OSError, match="the power went"):
            train(config, resumed, quiet=True)
    assert not (resumed / "run.json").exists()
    train(config, resumed, resume=True, quiet=True)
    for name in ("model/model.safetensors", "model/card.json", "predictions_tune.parquet"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes(), name
    logs = [pd.read_csv(run / "log.csv").drop(columns="seconds") for run in (whole, resumed)]
    pd.testing.assert_frame_equal(*logs)
    stamp = (resumed / "run.json").stat().st_mtime_ns
    train(config, resumed, resume=True, quiet=True)
    assert (resumed / "run.json").stat().st_mtime_ns == stamp, "a finished run is left as it is"


def test_tau_is_the_one_with_the_best_decisions_on_tune(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config(loss={"kind": "cross_entropy"}, second={"kind": "tau_norm"}), tmp_path / "run", quiet=True)
    assert moved(tmp_path / "run") <= {"head.linear.weight"}
    _, card = load_model(tmp_path / "run" / "model")
    tried = card.training["tune_f1_by_tau"]
    assert len(tried) == 11
    tau = card.training["tau"]
    assert tried[f"{tau:g}"] == max(tried.values())
    scored = read_predictions(tmp_path / "run" / "predictions_tune.parquet")
    found = decided_f1(scored.scores, scored.targets, groups=card.labels.group_indices)
    assert found == pytest.approx(tried[f"{tau:g}"])
    assert read_json(tmp_path / "run" / "run.json")["weights_digest"] == scored.digests["model"]


def test_log_priors_are_taken_off_what_the_model_predicts_and_the_network_stays(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(loss={"kind": "cross_entropy"}, second={"kind": "logit_adjustment"})
    run = tmp_path / "run"
    train(config, run, quiet=True)
    assert moved(run) == set()
    raw = read_predictions(run / "stages/first/predictions_tune.parquet")
    scored = read_predictions(run / "predictions_tune.parquet")
    groups = [(group.name, part) for group, part in zip(raw.labels.groups, raw.labels.group_indices, strict=True)]
    tau, tried = choose_tau(raw, groups=groups)
    expected = apply_maps(adjusting_maps(raw, tau=tau, groups=groups), raw.scores, raw.labels)
    assert abs(scored.scores - expected).max() < 1e-12
    assert decided_f1(scored.scores, raw.targets, groups=raw.labels.group_indices) == pytest.approx(tried[f"{tau:g}"])
    assert tried[f"{tau:g}"] == max(tried.values())
    # new images go the same way, with thresholds chosen after it
    table = read_manifest(tmp_path / "toy.csv")
    again = predict(run, table, fold="tune", quiet=True)
    assert abs(again.scores - scored.scores).max() < 1e-6
    assert again.thresholds == scored.thresholds
    assert again.digests["calibration"] == scored.digests["calibration"]
    assert len(judge_run(run, quiet=True).predictions) > 0
    with pytest.raises(MedtailError, match=r"'logit_adjustment' with members 2, whose scores are averaged"):
        make_config(second={"kind": "logit_adjustment"}, members=2)


def test_normalised_weights_are_equally_long_inside_a_group_and_their_mean_length_stays() -> None:
    labels = LabelSpace.from_columns(["halo", "shape=oval", "shape=round", "shape=odd", "spot"])
    model = build_diagnoser(
        backbone=_TINY, head=LinearHeadConfig(), labels=labels, link="softmax", channels=1, size_px=32
    )
    head: Any = model.head
    with torch.no_grad():
        head.linear.weight[0] *= 0.0
        head.linear.weight[2] *= 9.0
    before = head.linear.weight.norm(dim=1)
    normalise_weights(model, tau=0.0)
    torch.testing.assert_close(head.linear.weight.norm(dim=1), before)
    normalise_weights(model, tau=1.0)
    after = head.linear.weight.norm(dim=1)
    torch.testing.assert_close(after[1:4], before[1:4].log().mean().exp().expand(3))
    assert after[0] == 0
    assert after[4] == before[4]


@pytest.mark.parametrize("learn", ["scales", "tau"])
def test_head_without_one_linear_layer_is_refused_before_anything_is_trained(
    make_config: MakeConfig, learn: str
) -> None:
    second = {"kind": "tau_norm"} if learn == "tau" else {"kind": "retrain", "learn": "scales"}
    with pytest.raises(MedtailError, match=r"second: found head 'csra'; .* expected the head 'linear'"):
        make_config(head={"kind": "csra"}, second=second)


def test_members_go_through_both_stages(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(members=2, optimizer={"epochs": 1}, second={"kind": "retrain", "epochs": 1})
    train(config, tmp_path / "run", quiet=True)
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    assert log[["member", "stage"]].values.tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
