from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medtail.cli.main import call
from medtail.explain.examples import tiny_diagnoser
from medtail.models.backbones import ResNetConfig
from medtail.models.checkpoint import ModelCard, ModelParts, save_model
from medtail.models.heads import LinearHeadConfig
from medtail.pixels.settings import PixelConfig


@pytest.fixture
def paths(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDTAIL_CACHE", str(tmp_path / "cache"))
    diagnoser = tiny_diagnoser("cnn")
    parts = ModelParts(pixels=PixelConfig(size_px=64), backbone=ResNetConfig(), head=LinearHeadConfig(), link="softmax")
    save_model(tmp_path / "run" / "model", diagnoser, ModelCard(labels=diagnoser.labels, parts=parts))
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)).save(tmp_path / "a.png")
    frame = pd.DataFrame([{"image_id": "a", "path": "a.png", "patient_id": "1", "shape=oval": 1, "shape=round": 0,
                           "halo": 1}])  # fmt: skip
    frame.to_csv(tmp_path / "manifest.csv", index=False)
    return tmp_path


def test_explain_writes_a_folder_and_says_what_it_found(paths, capsys):
    out = paths / "out"
    assert call(["explain", str(paths / "run"), str(paths / "manifest.csv"), "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "2 maps by layer_cam (joint)" in printed.out
    assert "randomisation check not told: maps of 1 patients" in printed.out
    assert "Written:" in printed.err
    assert (out / "explain.html").is_file()


def test_explain_prints_json_alone(paths, capsys):
    words = ["explain", str(paths / "run"), str(paths / "manifest.csv"), "--out", str(paths / "out"), "--json"]
    assert call([*words, "--classes", "halo", "--method", "grad_cam"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [row["class"] for row in record["maps"]] == ["halo"]
    assert record["method"] == "grad_cam"


def test_a_method_that_does_not_suit_the_model_is_an_error(paths, capsys):
    words = ["explain", str(paths / "run"), str(paths / "manifest.csv"), "--out", str(paths / "out")]
    assert call([*words, "--method", "rollout"]) == 1
    assert "expected one of layer_cam, grad_cam, occlusion" in capsys.readouterr().err
    assert not (paths / "out").exists()
