from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from medtail.config import config_to_dict, dump_yaml
from medtail.errors import MedtailError, UsageError
from medtail.judging.metrics import average_precision
from medtail.models.checkpoint import load_model
from medtail.runs import write_json
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.predictions import read_predictions
from medtail.training.config import TrainConfig, load_train_config
from medtail.training.ensembles import train
from medtail.training.predict import predict

MakeConfig = Callable[..., TrainConfig]
WHOLE = {"model", "last", "config.yaml", "run.json", "log.csv", "predictions_tune.parquet"}


def test_a_table_whose_generator_has_seen_a_test_patient_is_refused_before_anything_is_trained(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(optimizer={"epochs": 1})
    table = read_manifest(config.manifest)
    made = int(np.flatnonzero(table.folds == "train")[0])
    seen = str(table.patients[table.folds == "test"][0])
    origin = ["synthetic" if row == made else "real" for row in range(len(table))]
    patients = [f"syn:{'0' * 12}:1" if row == made else patient for row, patient in enumerate(table.patients)]
    table.frame.assign(origin=origin, patient_id=patients).to_csv(config.manifest, index=False)
    write_json(Path(config.manifest).parent / "record.json", {"generator_digest": "0" * 64, "train_patients": [seen]})
    with pytest.raises(MedtailError, match=rf"has learnt from patient '{seen}' whose images are in test"):
        train(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "model").exists()
    write_json(Path(config.manifest).parent / "record.json", {"generator_digest": "0" * 64, "train_patients": []})
    train(config, tmp_path / "allowed", quiet=True)


def test_finding_in_the_pixels_is_learnt(make_config: MakeConfig, tmp_path: Path) -> None:
    outcome = train(make_config(optimizer={"epochs": 12}), tmp_path / "run", quiet=True)
    scored = read_predictions(tmp_path / "run" / "predictions_tune.parquet")
    bright = scored.labels.index("bright")
    assert average_precision(scored.scores[:, bright], scored.targets[:, bright]) > 0.9
    assert {path.name for path in (tmp_path / "run").iterdir()} == WHOLE
    assert set(scored.folds) == {"tune"}
    assert outcome.epochs_run == 12
    assert 0 < outcome.tune_map <= 1

    log = pd.read_csv(tmp_path / "run" / "log.csv")
    assert log["epoch"].tolist() == list(range(1, 13))
    assert log["tune_map"].max() == pytest.approx(outcome.tune_map)
    assert log["tune_map"].idxmax() + 1 == outcome.best_epoch
    assert log["train_loss"].iloc[-1] < log["train_loss"].iloc[0]

    facts = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert facts["manifest_digest"] == read_manifest(tmp_path / "toy.csv").digest
    _, card = load_model(tmp_path / "run" / "model")
    assert card.digests["weights"] == facts["weights_digest"] == scored.digests["model"]
    assert card.thresholds == scored.thresholds
    assert set(card.thresholds or ()) == set(card.labels.class_names)
    assert card.train_counts is not None
    assert card.train_counts.images[card.labels.index("bright")] == 12

    again = predict(tmp_path / "run", read_manifest(tmp_path / "toy.csv"), fold="tune", quiet=True)
    np.testing.assert_allclose(again.scores, scored.scores, atol=1e-6)
    assert load_train_config(tmp_path / "run" / "config.yaml") == make_config(optimizer={"epochs": 12})


def test_same_seed_gives_the_same_bytes_and_another_seed_others(make_config: MakeConfig, tmp_path: Path) -> None:
    def weights(name: str, seed: int) -> bytes:
        torch.manual_seed(hash(name) % 1000)  # what the caller's generator holds must not matter
        train(make_config(seed=seed), tmp_path / name, quiet=True)
        return (tmp_path / name / "model" / "model.safetensors").read_bytes()

    first = weights("one", 0)
    assert weights("two", 0) == first
    assert weights("three", 1) != first
    cards = [(tmp_path / name / "model" / "card.json").read_bytes() for name in ("one", "two")]
    assert cards[0] == cards[1]


def test_caller_keeps_generator_and_threads(make_config: MakeConfig, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    train(make_config(optimizer={"epochs": 1}), tmp_path / "run", quiet=True)
    assert torch.equal(torch.rand(1), expected)
    assert torch.get_num_threads() == threads


SCRIPT = """
import sys
from medtail.training.config import load_train_config
from medtail.training.ensembles import train
train(load_train_config(sys.argv[1]), sys.argv[2], quiet=True)
"""


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_bytes(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(
        sampler={"kind": "class_balanced"},
        loss={"kind": "logit_adjusted"},
        optimizer={"epochs": 16, "freeze_epochs": 1, "layer_decay": 0.8},
        mix={"kind": "mixup", "alpha": 0.4},
    )
    path = tmp_path / "c.yaml"
    path.write_text(dump_yaml(config_to_dict(config)), encoding="utf-8")
    killed = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(path), str(killed)])
    try:
        deadline = time.monotonic() + 120
        while not ((killed / "log.csv").exists() and len((killed / "log.csv").read_text().splitlines()) > 3):
            assert process.poll() is None, "it finished or failed before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (killed / "run.json").exists(), "it must have been cut off"
    assert not (killed / "model").exists()

    train(load_train_config(killed / "config.yaml"), killed, resume=True, quiet=True)
    train(config, tmp_path / "whole", quiet=True)
    for name in ("model/model.safetensors", "model/card.json", "predictions_tune.parquet"):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    logs = [pd.read_csv(run / "log.csv").drop(columns="seconds") for run in (killed, tmp_path / "whole")]
    pd.testing.assert_frame_equal(*logs)
    assert len(logs[0]) == 16


def test_resuming_a_finished_run_changes_nothing(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config()
    outcome = train(config, tmp_path / "run", quiet=True)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    again = train(config, tmp_path / "run", resume=True, quiet=True)
    assert (again.tune_map, again.best_epoch, again.epochs_run) == (
        outcome.tune_map,
        outcome.best_epoch,
        outcome.epochs_run,
    )
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_run_cut_off_while_finishing_is_finished_by_resuming(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config(), tmp_path / "run", quiet=True)
    weights = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    (tmp_path / "run" / "run.json").unlink()
    (tmp_path / "run" / "predictions_tune.parquet").unlink()
    train(make_config(), tmp_path / "run", resume=True, quiet=True)
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == weights
    assert {path.name for path in (tmp_path / "run").iterdir()} == WHOLE


def test_resuming_with_another_config_names_what_differs(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config(), tmp_path / "run", quiet=True)
    with pytest.raises(UsageError, match=r"--resume .*, seed: found 3; the run began with 0"):
        train(make_config(seed=3), tmp_path / "run", resume=True, quiet=True)


def test_nothing_to_resume_is_said(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no config\.yaml; expected the folder of a run that was cut off"):
        train(make_config(), tmp_path / "nowhere", resume=True, quiet=True)


def test_folder_in_use_is_refused_and_left_alone(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("precious")
    with pytest.raises(UsageError, match="is not empty"):
        train(make_config(), tmp_path / "run", quiet=True)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_training_stops_early_and_keeps_the_best_epoch(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(optimizer={"epochs": 60, "patience": 2, "learning_rate": 1e-7, "ema_decay": None})
    outcome = train(config, tmp_path / "run", quiet=True)
    assert outcome.epochs_run < 60
    assert outcome.epochs_run == outcome.best_epoch + 2
    assert train(config, tmp_path / "run", resume=True, quiet=True).epochs_run == outcome.epochs_run


def test_loss_that_is_no_number_names_the_batch_and_keeps_the_last_epoch(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medtail.losses import objective

    genuine = objective.masked_sum
    calls = []

    def diverge(*arguments: object, **settings: object) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(1)
        total, weight = genuine(*arguments, **settings)  # type: ignore[arg-type]
        return total * torch.nan if len(calls) == 4 else total, weight

    monkeypatch.setattr(objective, "masked_sum", diverge)
    with pytest.raises(MedtailError, match=r"epoch 2, step 2: the loss is nan.*images 'i0.*toy\.csv"):
        train(make_config(optimizer={"epochs": 3}), tmp_path / "run", quiet=True)
    assert len(pd.read_csv(tmp_path / "run" / "log.csv")) == 1
    assert (tmp_path / "run" / "last" / "state.safetensors").exists()
    assert not (tmp_path / "run" / "model").exists()
    monkeypatch.undo()
    assert train(make_config(optimizer={"epochs": 3}), tmp_path / "run", resume=True, quiet=True).epochs_run == 3


def test_one_batch_can_be_learnt_by_heart(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(
        augment={"profile": "none"},
        head={"kind": "linear", "dropout": 0.0},
        optimizer={"epochs": 40, "batch_size": 64, "ema_decay": None, "weight_decay": 0.0, "learning_rate": 0.01},
    )
    train(config, tmp_path / "run", quiet=True)
    assert pd.read_csv(tmp_path / "run" / "log.csv")["train_loss"].iloc[-1] < 0.05


def test_test_fold_is_never_opened(make_config: MakeConfig, toy_manifest: Manifest, tmp_path: Path) -> None:
    config = make_config()
    for row in np.flatnonzero(toy_manifest.folds == "test"):
        toy_manifest.image_path(int(row)).unlink()
    assert train(config, tmp_path / "run", quiet=True).epochs_run == 2


def test_classes_can_be_chosen_and_make_the_task(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config(classes=["shape=*"], loss={"kind": "cross_entropy"}), tmp_path / "run", quiet=True)
    scored = read_predictions(tmp_path / "run" / "predictions_tune.parquet")
    assert scored.labels.task == "multiclass"
    np.testing.assert_allclose(scored.scores.sum(axis=1), 1.0, atol=1e-6)


def test_missing_folds_and_unlearnable_labels_are_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config()
    table = pd.read_csv(tmp_path / "toy.csv")
    table[table["fold"] != "tune"].to_csv(tmp_path / "toy.csv", index=False)
    with pytest.raises(MedtailError, match=r"toy\.csv, column 'fold': no row is in 'tune'"):
        train(config, tmp_path / "one", quiet=True)
    table.assign(**{name: 0 for name in table.columns if name in ("bright", "rare") or "=" in name}).to_csv(
        tmp_path / "toy.csv", index=False
    )
    with pytest.raises(MedtailError) as caught:
        train(config, tmp_path / "two", quiet=True)
    assert "fold 'train': no class has both images that show it and images that do not" in str(caught.value)
    assert "fold 'tune': no class" in str(caught.value)


def test_missing_logger_package_names_its_command(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lightning.pytorch.loggers as loggers

    def missing(*arguments: object, **settings: object) -> None:
        raise ModuleNotFoundError("No module named 'mlflow'")

    monkeypatch.setattr(loggers, "MLFlowLogger", missing)
    with pytest.raises(MedtailError, match=r"logging\.to: found 'mlflow'.*pip install 'medtail\[mlflow\]'"):
        train(make_config(logging={"to": ["mlflow"]}), tmp_path / "run", quiet=True)


def test_gpu_that_is_not_there_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(MedtailError, match="torch sees no CUDA device"):
        train(make_config(accelerator="gpu"), tmp_path / "run", quiet=True)


def test_progress_is_a_line_an_epoch_on_stderr(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(make_config(), tmp_path / "run")
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert "tune mAP" in lines[0]


def test_weights_named_in_the_config_are_read_once(make_config: MakeConfig, tmp_path: Path) -> None:
    """Resuming, finishing and predicting need neither the folder nor the Hub again."""
    import shutil

    from transformers import ResNetConfig, ResNetModel

    shape = ResNetConfig(embedding_size=8, hidden_sizes=[8, 24], depths=[1, 1], layer_type="basic", num_channels=1)
    ResNetModel(shape).save_pretrained(tmp_path / "weights")
    backbone = {"kind": "resnet", "weights": str(tmp_path / "weights"), "mean": [0.3], "std": [0.2]}
    config = make_config(backbone=backbone)
    train(config, tmp_path / "run", quiet=True)
    weights = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "weights")
    (tmp_path / "run" / "run.json").unlink()
    train(load_train_config(tmp_path / "run" / "config.yaml"), tmp_path / "run", resume=True, quiet=True)
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == weights
    assert len(predict(tmp_path / "run", read_manifest(tmp_path / "toy.csv"), fold="test", quiet=True)) == 12
