from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.cli.main import call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An archive of the chest set with scores beside it."""
    random = np.random.default_rng(0)
    labels = {f"{split}_labels": (random.random((60, 14)) < 0.2).astype(np.uint8) for split in ("train", "test")}
    np.savez(tmp_path / "chestmnist.npz", **labels)
    pd.DataFrame(random.random((60, 14))).to_csv(tmp_path / "scores.csv", header=False)
    return tmp_path


def test_a_score_file_is_scored_and_its_files_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["medmnist", "score", str(folder / "scores.csv"), "--truth", str(folder / "chestmnist.npz")]
    assert call([*words, "--bootstrap", "20", "--out", str(folder / "out"), "--run", "a1"]) == 0
    said = capsys.readouterr()
    assert "official AUC 0." in said.out
    assert "ACC rewards predicting nothing" in said.out
    assert "@a1.csv" in said.err
    assert len(list((folder / "out").glob("chestmnist_test_*@a1.csv"))) == 1
    assert call([*words, "--out", str(folder / "out")]) == 2
    assert call(["verify", str(folder / "out")]) == 0


def test_json_holds_both_kinds_of_figures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["medmnist", "score", str(folder / "scores.csv"), "--truth", str(folder / "chestmnist.npz")]
    assert call([*words, "--bootstrap", "0", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert 0 < record["official"]["AUC"] < 1
    assert len(record["class_auc"]) == 14
    assert any(row["metric"] == "ap" and row["class"] == "hernia" for row in record["results"])


def test_the_sets_are_listed_with_what_their_labels_mean(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["medmnist", "sets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 18
    assert any(line.startswith("breastmnist") and "0 malignant; 1 normal, benign" in line for line in lines)


@pytest.mark.parametrize("verb", ["score", "sets"])
def test_help_has_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["medmnist", verb, "--help"]) == 0
    assert f"medtail medmnist {verb}" in capsys.readouterr().out
