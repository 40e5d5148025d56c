"""`medtail data pseudo-label`: the verb over files, and its refusals."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.cli.main import call as call_main
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import read_manifest
from medtail.tables.predictions import Predictions


def call(line: str) -> int:
    return call_main(shlex.split(line))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    ids = [f"i{n}" for n in range(6)]
    pd.DataFrame(
        {
            "image_id": ids, "path": "x.png", "patient_id": list("123456"), "site": ["own"] * 2 + ["nih"] * 4,
            "fold": ["train", "tune", "train", "train", "test", "train"], "Hernia": [1, 0, None, None, None, None],
        }
    ).to_csv("both.csv", index=False)  # fmt: skip
    values = np.array([[0.9], [0.1], [0.97], [0.6], [0.9], [0.02]])
    array = np.array(ids, dtype=object)
    Predictions(array, array, values, np.full((6, 1), np.nan), LabelSpace(("Hernia",)), array).write("teacher.parquet")
    return tmp_path


def test_soft_and_hard_ones_are_written_and_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("data pseudo-label teacher.parquet both.csv --sites nih --out soft.csv") == 0
    out = capsys.readouterr()
    assert "Hernia" in out.out
    assert "1 scored empty cells outside train stay empty" in out.out
    assert "pseudo_labels=true" in out.err
    soft = read_manifest(folder / "soft.csv").frame
    assert soft["meta_pseudo:Hernia"].tolist() == ["", "", "0.97", "0.6", "", "0.02"]
    assert call("data pseudo-label teacher.parquet both.csv --hard --margin 0.9 --json --out hard.csv") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["filled"] == {"Hernia": 2}
    assert value["undecided"] == {"Hernia": 1}
    hard = read_manifest(folder / "hard.csv").frame
    assert hard["meta_pseudo:Hernia"].tolist() == ["", "", "1", "", "", "0"]
    assert hard["Hernia"].isna().sum() == 4, "labels stay as people wrote them"


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("teacher.parquet both.csv --margin 0.3 --out x.csv", 2, "use it with --hard"),
        ("teacher.parquet both.csv --sites own --out x.csv", 1, "no empty cell in train rows"),
        ("teacher.parquet both.csv --sites elsewhere --out x.csv", 1, "site 'elsewhere': no row"),
        ("teacher.parquet both.csv --out both.csv", 2, "both.csv"),
    ],
)
def test_what_cannot_be_done_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str], line: str, code: int, message: str
) -> None:
    assert call(f"data pseudo-label {line}") == code
    assert message in capsys.readouterr().err
