"""`medtail calibrate` on a table of scores: its files, its refusals, and what it does not load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.cli.main import call
from medtail.judging.calibration_record import read_calibration
from medtail.tables.predictions import read_predictions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`scores.csv`, somebody's scores without labels, and `manifest.csv`, the labels and folds."""
    random = np.random.default_rng(0)
    truth = random.uniform(0.02, 0.6, (240, 2))
    targets = (random.random(truth.shape) < truth).astype(int)
    ids = [f"i{row}" for row in range(240)]
    pd.DataFrame({"image_id": ids, "cyst": truth[:, 0] ** 2, "rare": truth[:, 1] ** 3}).to_csv(
        tmp_path / "scores.csv", index=False
    )
    pd.DataFrame(
        {
            "image_id": ids,
            "path": [f"{name}.png" for name in ids],
            "patient_id": [f"p{row // 2}" for row in range(240)],
            "fold": [("tune", "test", "train")[row // 2 % 3] for row in range(240)],
            "cyst": targets[:, 0],
            "rare": targets[:, 1],
        }
    ).to_csv(tmp_path / "manifest.csv", index=False)
    return tmp_path


def test_somebodys_scores_become_calibrated_ones(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["calibrate", f"{folder}/scores.csv", "--truth", f"{folder}/manifest.csv", "--fit", "tune"]
    assert call([*words, "--bootstrap", "20", "--out", f"{folder}/out"]) == 0
    said = capsys.readouterr()
    assert "judged on 80 images of the test fold, held out" in said.out
    assert "Written:" in said.err
    back = read_predictions(folder / "out" / "predictions.parquet")
    assert len(back) == 240
    assert back.digests["calibration"] == read_calibration(folder / "out" / "calibration.json").digest
    assert call([*words, "--out", f"{folder}/out"]) == 2, "a folder is never overwritten"
    again = ["calibrate", f"{folder}/out/predictions.parquet", "--fit", "tune", "--out", f"{folder}/twice"]
    assert call(again) == 1
    assert "calibrated already" in capsys.readouterr().err


def test_machines_read_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["calibrate", f"{folder}/scores.csv", "--truth", f"{folder}/manifest.csv", "--json", "--kappa", "inf"]
    assert call([*words, "--threshold", "sensitivity@0.95", "--bootstrap", "0", "--out", f"{folder}/out"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["kappa"] == "inf"
    assert value["thresholds"]["config"]["objective"]["kind"] == "sensitivity"
    assert {row["metric"] for row in value["effect"]} >= {"log_loss", "brier", "ece"}


def test_calibrated_scores_are_evaluated_like_any(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["calibrate", f"{folder}/scores.csv", "--truth", f"{folder}/manifest.csv", "--bootstrap", "0"]
    assert call([*words, "--out", f"{folder}/out"]) == 0
    judged = ["evaluate", f"{folder}/out/predictions.parquet", "--bootstrap", "10", "--out", f"{folder}/results"]
    assert call(judged) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--fit", "test", "--out", "o"], 2, "--fit 'test': expected tune"),
        ([], 2, "--out: missing"),
        (["--out", "o", "--kappa", "lots"], 2, "--kappa 'lots'"),
        (["--out", "o", "--kappa", "-3"], 2, "kappa -3"),
        (["--out", "o", "--threshold", "sensitivty@0.9"], 2, "did you mean 'sensitivity'"),
        (["--out", "o", "--method", "plat"], 2, "platt"),
        (["--out", "o", "--replace"], 2, "--replace: is for runs"),
        (["--out", "o"], 1, "no targets"),
    ],
)
def test_wrong_requests_say_what_is_right(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], code: int,
    said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(folder)
    assert call(["calibrate", "scores.csv", *words]) == code
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (folder / "o").exists(), "nothing is left behind"


def test_options_of_scores_are_no_options_of_a_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "run" / "model").mkdir(parents=True)
    assert call(["calibrate", f"{folder}/run", "--out", "o", "--scores", "logits"]) == 2
    assert "--out, --scores" in capsys.readouterr().err
    assert call(["calibrate", str(folder)]) == 2
    assert "a folder without model/" in capsys.readouterr().err
    assert call(["calibrate", f"{folder}/run"]) == 1
    assert "no model/card.json" in capsys.readouterr().err


def test_it_loads_no_torch(folder: Path) -> None:
    code = (
        "import sys; from medtail.cli.main import call;"
        f"assert call(['calibrate', {str(folder / 'scores.csv')!r}, '--truth', {str(folder / 'manifest.csv')!r},"
        f" '--bootstrap', '0', '--out', {str(folder / 'out')!r}]) == 0;"
        "assert 'torch' not in sys.modules and 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
