"""`medtail conformal` on scores of any tool: sets, limits and coverage, and every way to ask for too much."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.cli.main import call
from medtail.judging.conformal import ConformalSets
from medtail.runs import read_json
from medtail.tables.predictions import read_predictions
from medtail.tables.results import read_results


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """400 images of 200 patients in tune and test, one common and one rare finding."""
    random = np.random.default_rng(0)
    targets = random.random((400, 2)) < [0.4, 0.02]
    table = pd.DataFrame({"image_id": [f"i{i}" for i in range(400)], "patient_id": [f"p{i // 2}" for i in range(400)]})
    table["fold"] = ["tune"] * 200 + ["test"] * 200
    for c, name in enumerate(("common", "rare")):
        table[name] = 1 / (1 + np.exp(-random.normal(3 * targets[:, c] - 1.5)))
        table[f"target:{name}"] = targets[:, c] * 1
    table.to_csv(tmp_path / "scores.csv", index=False)
    return tmp_path / "scores.csv"


def test_sets_limits_and_coverage_are_written_and_agree(scores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = scores.parent / "sets"
    assert call(["conformal", str(scores), "--out", str(out), "--bootstrap", "50"]) == 0
    said = capsys.readouterr().out
    assert "a finding is missed at most 10% of the time (class conditional)" in said
    assert "marginal (" in said
    assert "on average over all findings, not for each: rare (" in said
    table = pd.read_csv(out / "sets.csv", keep_default_na=False)
    judged = read_predictions(scores, fold="test")
    inside = ConformalSets.from_json(read_json(out / "conformal.json")).apply(judged)
    assert table["image_id"].tolist() == judged.image_ids.tolist()
    assert table[["common", "rare"]].to_numpy().tolist() == inside.astype(int).tolist()
    for members, row in zip(table["set"], inside, strict=True):
        assert [name for name in members.split("; ") if name] == [
            name for name, there in zip(("common", "rare"), row, strict=True) if there
        ]
    results = read_results(out / "results.csv")
    positive = judged.targets[:, 0] == 1
    assert results.value("coverage", class_name="common") == pytest.approx(inside[positive, 0].mean())


def test_two_files_half_of_tune_and_json(scores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.read_csv(scores)
    for fold in ("tune", "test"):
        table[table["fold"] == fold].to_csv(scores.parent / f"{fold}.csv", index=False)
    files = [str(scores.parent / "test.csv"), str(scores.parent / "tune.csv")]
    whole, half = scores.parent / "whole", scores.parent / "half"
    assert call(["conformal", *files, "--out", str(whole), "--bootstrap", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["header"]["conformal"]["alpha"] == 0.1
    assert call(["conformal", *files, "--out", str(half), "--bootstrap", "0", "--half"]) == 0
    patients = [read_json(folder / "conformal.json")["classes"]["common"]["patients"] for folder in (whole, half)]
    assert 0.35 * patients[0] < patients[1] < 0.65 * patients[0]


def test_labels_and_folds_may_come_from_a_manifest(scores: Path) -> None:
    table = pd.read_csv(scores)
    truth = table[["image_id", "patient_id", "fold"]].assign(
        path=table["image_id"], common=table["target:common"], rare=table["target:rare"]
    )
    truth.to_csv(scores.parent / "truth.csv", index=False)
    table[["image_id", "common", "rare"]].to_csv(scores.parent / "bare.csv", index=False)
    both = []
    for name, more in (("scores.csv", []), ("bare.csv", ["--truth", str(scores.parent / "truth.csv")])):
        out = scores.parent / f"of_{name}"
        assert call(["conformal", str(scores.parent / name), *more, "--out", str(out), "--bootstrap", "0"]) == 0
        both.append(read_json(out / "conformal.json")["classes"])
    assert both[0] == both[1]


def test_a_run_is_read_from_its_folder(scores: Path) -> None:
    run = scores.parent / "run"
    (run / "model").mkdir(parents=True)
    for fold in ("tune", "test"):
        read_predictions(scores, fold=fold).write(run / f"predictions_{fold}.parquet")
    assert call(["conformal", str(run), "--out", str(scores.parent / "sets"), "--bootstrap", "0"]) == 0
    (run / "predictions_test.parquet").unlink()
    assert call(["conformal", str(run), "--out", str(scores.parent / "other"), "--bootstrap", "0"]) == 1


def test_wrong_requests_write_nothing(scores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = scores.parent / "sets"
    table = pd.read_csv(scores)
    table.assign(fold="test").to_csv(scores.parent / "no_tune.csv", index=False)
    assert call(["conformal", str(scores.parent / "no_tune.csv"), "--out", str(out)]) == 1
    assert "no row is in fold 'tune'; found test" in capsys.readouterr().err
    assert call(["conformal", str(scores), "--fold", "tune", "--out", str(out)]) == 2
    assert call(["conformal", str(scores), "--alpha", "1.5", "--out", str(out)]) == 1
    assert "alpha 1.5" in capsys.readouterr().err
    assert call(["conformal", str(scores), str(scores), "--out", str(out)]) == 1
    assert "200 images stand in more than one file" in capsys.readouterr().err
    assert not out.exists()
    assert call(["conformal", str(scores), "--out", str(scores.parent), "--bootstrap", "0"]) == 2
