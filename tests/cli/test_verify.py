from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.cli.main import call


@pytest.fixture
def results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A results folder as `medtail evaluate` leaves it."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"image_id": [f"i{n}" for n in range(40)], "patient_id": [f"p{n // 2}" for n in range(40)]})
    for name, share in (("common", 0.5), ("rare", 0.1), ("absent", 0.0)):
        frame[name] = random.random(40).round(2)
        frame[f"target:{name}"] = (random.random(40) < share).astype(int)
    frame.to_csv(tmp_path / "s.csv", index=False)
    out = tmp_path / "results"
    assert call(["evaluate", str(tmp_path / "s.csv"), "--out", str(out), "--bootstrap", "20"]) == 0
    capsys.readouterr()
    return out


def test_a_results_folder_is_confirmed(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["verify", str(results)]) == 0
    said = capsys.readouterr().out
    assert "numbers confirmed by scikit-learn" in said
    assert "!" not in said


def test_a_run_folder_is_confirmed(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    (run / "results").mkdir(parents=True)
    shutil.copy(results / "predictions.parquet", run / "predictions_test.parquet")
    for ending in ("csv", "csv.json"):
        shutil.copy(results / f"results.{ending}", run / "results" / f"test.{ending}")
    assert call(["verify", str(run)]) == 0
    assert f"{run}/results/test.csv: " in capsys.readouterr().out
    (run / "predictions_test.parquet").unlink()
    assert call(["verify", str(run)]) == 1
    assert "predictions_test.parquet" in capsys.readouterr().err


def test_a_changed_number_exits_with_1_and_is_named(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.read_csv(results / "results.csv")
    row = (frame["metric"] == "ap") & (frame["class"] == "rare")
    frame.loc[row, "value"] += 0.01
    frame.to_csv(results / "results.csv", index=False)
    assert call(["verify", str(results)]) == 1
    assert "! ap of rare: stored 0." in capsys.readouterr().out
    assert call(["verify", str(results), "--tolerance", "0.1"]) == 0


def test_changed_predictions_are_named_even_where_the_numbers_agree(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dataclasses import replace

    from medtail.tables.predictions import read_predictions

    path = results / "predictions.parquet"
    predictions = read_predictions(path)
    path.unlink()
    replace(predictions, patients=predictions.image_ids).write(path)
    assert call(["verify", str(results)]) == 1
    assert "is not the table that was judged" in capsys.readouterr().out


def test_json_lists_every_check(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["verify", str(results), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record[0]["same_predictions"] is True
    assert len(record[0]["checks"]) > 30
    assert not any(check["differs"] for check in record[0]["checks"])


def test_a_folder_without_results_is_a_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["verify", str(tmp_path)]) == 2
    assert "judge first with `medtail evaluate`" in capsys.readouterr().err
    (tmp_path / "results.csv").write_text("metric\n")
    assert call(["verify", str(tmp_path)]) == 1
    assert "no predictions.parquet" in capsys.readouterr().err


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["verify", "--help"]) == 0
    assert "medtail verify results" in capsys.readouterr().out
