from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.challenges.thyro_lmd_decoding import decode
from medtail.challenges.thyro_lmd_labels import LABELS
from medtail.cli.main import call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A table of 120 valid reports without folds."""
    random = np.random.default_rng(0)
    cells = decode(random.random((120, 20)) ** (1 / np.linspace(1.0, 0.1, 20)))
    frame = pd.DataFrame(cells.astype(int), columns=list(LABELS.class_names))
    frame.insert(0, "patient_id", [f"p{n // 2}" for n in range(120)])
    frame.insert(0, "path", "x.png")
    frame.insert(0, "image_id", [f"i{n}" for n in range(120)])
    frame.to_csv(tmp_path / "labels.csv", index=False)
    return tmp_path


def test_from_labels_to_a_score(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["thyro-lmd", "split", str(folder / "labels.csv"), "--out", str(folder / "thyro")]) == 0
    assert "patients in test 12, train 42, tune 6" in capsys.readouterr().out
    truth = str(folder / "thyro" / "labels.csv")
    assert call(["thyro-lmd", "template", truth, "--out", str(folder / "test.csv")]) == 0
    assert call(["thyro-lmd", "template", truth, "--fold", "tune", "--out", str(folder / "tune.csv")]) == 0
    for name in ("test", "tune"):
        frame = pd.read_csv(folder / f"{name}.csv")
        frame[list(LABELS.class_names)] = np.random.default_rng(1).random((len(frame), 20))
        frame.to_csv(folder / f"{name}.csv", index=False)
    capsys.readouterr()
    words = ["thyro-lmd", "score", str(folder / "test.csv"), "--truth", truth, "--tune", str(folder / "tune.csv")]
    words += ["--split", str(folder / "thyro" / "split.json"), "--bootstrap", "30"]
    assert call([*words, "--out", str(folder / "scored")]) == 0
    said = capsys.readouterr()
    assert "Tail-F1" in said.out
    assert "reports.csv" in said.err
    assert call([*words, "--out", str(folder / "scored")]) == 2
    capsys.readouterr()
    assert call([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["headline"] == json.loads((folder / "scored" / "score.json").read_text())
    assert call(["verify", str(folder / "scored")]) == 0
    frame = pd.read_csv(folder / "test.csv")
    frame[list(LABELS.class_names)] = frame[list(LABELS.class_names)].round()
    frame.to_csv(folder / "test.csv", index=False)
    assert call([*words, "--absent", "zero", "--out", str(folder / "hard")]) == 0
    assert call(["verify", str(folder / "hard")]) == 0


def test_a_table_with_broken_reports_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.read_csv(folder / "labels.csv")
    frame.loc[0, ["shape_wider", "shape_taller"]] = 0
    frame.to_csv(folder / "labels.csv", index=False)
    assert call(["thyro-lmd", "split", str(folder / "labels.csv"), "--out", str(folder / "thyro")]) == 1
    assert "group 'shape': found shape_wider 0, shape_taller 0" in capsys.readouterr().err
    assert not (folder / "thyro").exists()


@pytest.mark.parametrize("verb", ["score", "template", "split"])
def test_help_has_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["thyro-lmd", verb, "--help"]) == 0
    assert f"medtail thyro-lmd {verb}" in capsys.readouterr().out
