"""`medtail retarget` on folders made by `medtail evaluate`, and on everything else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.cli.main import call
from medtail.judging.decisions import decide
from medtail.tables.predictions import read_predictions
from medtail.tables.results import read_results


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """A folder of `medtail evaluate`: 300 images of 150 patients, a group and a free class."""
    random = np.random.default_rng(0)
    is_a, rare = random.random(300) < 0.4, random.random(300) < 0.15
    a = np.clip(0.4 + 0.3 * (is_a - 0.4) + random.normal(0, 0.1, 300), 0.01, 0.99)
    table = pd.DataFrame({"image_id": [f"i{i}" for i in range(300)], "patient_id": [f"p{i // 2}" for i in range(300)]})
    table["t=a"], table["t=b"] = a, 1 - a
    table["rare"] = np.clip(0.15 + 0.5 * (rare - 0.15) + random.normal(0, 0.25, 300), 0, 1)
    table["target:t=a"], table["target:t=b"], table["target:rare"] = is_a * 1, ~is_a * 1, rare * 1
    table.to_csv(tmp_path / "scores.csv", index=False)
    arguments = [str(tmp_path / "scores.csv"), "--out", str(tmp_path / "results"), "--bootstrap", "60", "--seed", "5"]
    assert call(["evaluate", *arguments]) == 0
    return tmp_path / "results"


def prevalence(folder: Path, text: str) -> str:
    path = folder.parent / "p.csv"
    path.write_text("class,prevalence,site\n" + text)
    return str(path)


def test_the_text_has_every_number_and_the_assumption(judged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert call(["retarget", str(judged), "--prevalence", prevalence(judged, "rare,0.01,ward\n")]) == 0
    said = capsys.readouterr().out
    recall = read_results(judged / "results.csv").value("recall", class_name="rare")
    for part in (
        "== ward",
        "-> 0.01 there",
        f"sensitivity {recall:.3f} [",
        "PPV 0.",
        "NPV 0.",
        "number needed",
        "missed",
    ):
        assert part in said
    assert "of 1,000: " in said
    assert "AP 0." in said
    assert "95% intervals from 60 resamples of patients" in said
    assert "P(image | class) unchanged" in said


def test_the_folder_holds_table_curves_and_scores_that_call_the_same(judged: Path) -> None:
    out = judged.parent / "there"
    table = prevalence(judged, "rare,0.01,\nt=a,0.1,\nt=b,0.9,\n")
    assert call(["retarget", str(judged), "--prevalence", table, "--out", str(out)]) == 0
    results = read_results(out / "retargeted.csv")
    assert results.value("target_prevalence", class_name="rare") == 0.01
    assert results.header["bootstrap"] == {**results.header["bootstrap"], "resamples": 60, "seed": 5}
    curves = pd.read_csv(out / "decision_curves.csv")
    assert len(curves) == 150
    assert set(curves["class"]) == {"rare", "t=a", "t=b"}
    assert (curves[curves["class"] == "rare"]["prevalence"] == 0.01).all()
    before, after = read_predictions(judged / "predictions.parquet"), read_predictions(out / "predictions.parquet")
    assert after.scores[:, 2].mean() < before.scores[:, 2].mean()
    assert decide(after)[:, 2].tolist() == decide(before)[:, 2].tolist()
    assert after.digests["retargeted_from"] == before.digest


def test_json_is_read_by_machines(judged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    table = prevalence(judged, "rare,0.01,\n")
    assert call(["retarget", str(judged), "--prevalence", table, "--bootstrap", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    ppv = [row for row in found["results"] if row["metric"] == "ppv" and row["class"] == "rare"]
    assert 0 < ppv[0]["value"] < 1
    assert ppv[0]["low"] is None


def test_prevalence_estimated_from_scores_says_so(judged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read_predictions(judged / "predictions.parquet").frame[["image_id", "patient_id", "t=a", "t=b", "rare"]].to_csv(
        judged.parent / "unlabelled.csv", index=False
    )
    capsys.readouterr()
    assert call(["retarget", str(judged), "--estimate", str(judged.parent / "unlabelled.csv")]) == 0
    said = capsys.readouterr().out
    assert "== estimated" in said
    assert "an estimate under an assumption, not a count" in said


def test_mistakes_of_the_table_come_at_once_and_nothing_is_written(
    judged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = prevalence(judged, "rar,0.01,\nrare,2,\nt=a,0.5,\n")
    assert call(["retarget", str(judged), "--prevalence", table, "--out", str(judged.parent / "there")]) == 1
    said = capsys.readouterr().err
    assert "did you mean 'rare'" in said
    assert "found '2'" in said
    assert not (judged.parent / "there").exists()


def test_wrong_requests(judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["retarget", str(judged)]) == 2
    assert "expected --prevalence" in capsys.readouterr().err
    table = prevalence(judged, "rare,0.01,\n")
    assert call(["retarget", str(tmp_path / "nowhere"), "--prevalence", table]) == 2
    assert "neither a folder of `medtail evaluate`" in capsys.readouterr().err
    assert call(["retarget", str(judged), "--prevalence", table, "--out", str(judged)]) == 2
    (tmp_path / "run" / "model").mkdir(parents=True)
    assert call(["retarget", str(tmp_path / "run"), "--prevalence", table]) == 1
    assert "its test fold has not been opened" in capsys.readouterr().err


def test_results_of_other_scores_are_refused(judged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions = read_predictions(judged / "predictions.parquet")
    predictions.take(np.arange(200)).write(judged / "predictions.parquet")
    assert call(["retarget", str(judged), "--prevalence", prevalence(judged, "rare,0.01,\n")]) == 1
    assert "was made from other scores" in capsys.readouterr().err
