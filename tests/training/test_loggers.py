"""Loggers get what they need; tried for real with TensorBoard, MLflow and W&B (LOG.md), here with stand-ins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch.loggers as loggers
import pytest

from medtail.training.config import LoggingConfig
from medtail.training.loggers import build_loggers, close_loggers


class Kept:
    def __init__(self, **settings: Any) -> None:
        self.settings = settings


def test_nothing_is_logged_elsewhere_unless_asked(tmp_path: Path) -> None:
    assert build_loggers(LoggingConfig(), tmp_path) is False


def test_mlflow_keeps_its_database_in_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "MLFlowLogger", Kept)
    found = build_loggers(LoggingConfig(to=("mlflow",)), tmp_path)
    assert isinstance(found, list)
    # MLflow 3 refuses the plain folder of files that it once wrote by default
    assert found[0].settings["tracking_uri"] == f"sqlite:///{tmp_path}/mlflow.db"


def test_a_tracking_server_is_used_as_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "MLFlowLogger", Kept)
    found = build_loggers(LoggingConfig(to=("mlflow", "mlflow"), uri="http://tracking:5000"), tmp_path)
    assert isinstance(found, list)
    assert len(found) == 1
    assert found[0].settings["tracking_uri"] == "http://tracking:5000"


def test_a_wandb_run_ends_with_its_training(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []

    class Experiment:
        def finish(self) -> None:
            ended.append(self)

    class WandbLogger:
        experiment = Experiment()

    close_loggers([WandbLogger(), Kept()])
    assert len(ended) == 1
