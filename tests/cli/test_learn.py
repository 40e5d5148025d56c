"""`medtail train | predict`: versions of an image at prediction, and runs that read studies."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from medtail.cli.main import call as call_main
from medtail.tables.manifest import Manifest
from medtail.tables.predictions import read_predictions

CONFIG = {
    "manifest": "toy.csv",
    "pixels": {"size_px": 32},
    "backbone": {"kind": "resnet"},
    "optimizer": {"epochs": 1, "batch_size": 18},
    "cache": "cache",
    "threads": 1,
    "accelerator": "cpu",
}


def call(line: str) -> int:
    return call_main(shlex.split(line))


@pytest.fixture
def folder(toy_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    frame = toy_manifest.frame
    view = np.where(np.arange(len(frame)) % 2 == 0, "PA", "LL")
    study = [f"s{patient}" for patient in frame["patient_id"]]
    replace(toy_manifest, frame=frame.assign(view=view, study_id=study)).write(tmp_path / "toy.csv")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path


def test_versions_are_averaged_as_asked_and_cautions_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train config.yaml --out run --quiet") == 0
    for name, more in (("plain", ""), ("logits", "--tta flip"), ("scores", "--tta flip --tta-average scores")):
        assert call(f"predict run toy.csv --fold test {more} --out {name}.parquet --quiet") == 0
    plain, logits, scores = (read_predictions(folder / f"{n}.parquet").scores for n in ("plain", "logits", "scores"))
    assert np.abs(logits - plain).max() > 0
    assert 0 < np.abs(logits - scores).max() < 0.1
    capsys.readouterr()
    assert call("predict run toy.csv --fold test --tta flip_rotate_scale --out more.parquet --quiet") == 0
    assert "shadow stays below its lesion" in capsys.readouterr().err
    assert call("predict run toy.csv --tta rotate --out x.parquet") == 2
    assert "--tta: found 'rotate'; expected none, flip" in capsys.readouterr().err


@pytest.mark.slow
def test_studies_are_fused_predicted_and_reported_by_the_usual_verbs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fusion = {"width": 16, "heads": 2, "inner": 16, "decoder": {"kind": "linear"}}
    second = {"kind": "study_fusion", "fusion": fusion, "epochs": 1, "batch_size": 8}
    (folder / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "second": second}))
    assert call("train config.yaml --out run --quiet") == 0
    assert call("predict run toy.csv --fold test --tta flip --out test.parquet --quiet") == 0
    assert call("calibrate run --fit tune") == 0
    assert call("report run --out report.html --quiet") == 0
    page = (folder / "report.html").read_text()
    assert "CheXFusion" in page
    assert call("train config.yaml --set second.init=run --out again --quiet") == 1
    assert "is no single image model" in capsys.readouterr().err
