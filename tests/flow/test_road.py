"""Every verb, for real, on the breast-ultrasound images that come with the package: one road from table to report."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pandas as pd
import pytest

from medtail.cli.main import call

CONFIG = """
manifest: split.csv
classes: [malignant, halo, 'shape=*', 'margin_*', calcification_intraductal]
pixels: {size_px: 32, crop: roi, missing_roi: whole}
backbone: {kind: resnet, size: tiny}
loss: {kind: logit_adjusted}
optimizer: {epochs: 2, batch_size: 32, learning_rate: 1e-3}
"""


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which import, split and train have been run through the command line."""
    folder = tmp_path_factory.mktemp("road")
    data = str(files("medtail") / "quickstart_data")
    assert call(["data", "import", "breast_usg", data, "--out", str(folder / "manifest.csv")]) == 0
    split = ["data", "split", str(folder / "manifest.csv"), "--out", str(folder / "split.csv"), "--no-duplicates"]
    assert call(split) == 0
    (folder / "config.yaml").write_text(CONFIG)
    assert call(["train", str(folder / "config.yaml"), "--out", str(folder / "run"), "--quiet"]) == 0
    return folder


def test_check_finds_nothing_that_invalidates_and_speaks_json(road: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["data", "check", str(road / "split.csv"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["findings"]


def test_no_patient_is_in_two_folds(road: Path) -> None:
    table = pd.read_csv(road / "split.csv")
    assert (table.groupby("patient_id")["fold"].nunique() == 1).all()
    assert set(table["fold"]) == {"train", "tune", "test"}


def test_kfold_writes_a_manifest_a_fold_whose_tune_parts_are_disjoint(road: Path) -> None:
    arguments = ["data", "split", str(road / "manifest.csv"), "--kfold", "4", "--no-duplicates", "--min-positives", "0"]
    assert call([*arguments, "--out", str(road / "folds")]) == 0
    parts = [pd.read_csv(road / "folds" / f"fold{k}.csv") for k in range(4)]
    tune = [set(part.loc[part["fold"] == "tune", "image_id"]) for part in parts]
    assert sum(map(len, tune)) == len(set.union(*tune)) == 256


def test_a_reward_fold_is_taken_out_of_train(road: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "split", str(road / "split.csv"), "--reward", "0.2", "--no-duplicates"]
    assert call([*arguments, "--out", str(road / "reward.csv")]) == 0
    assert "reward" in capsys.readouterr().out
    before, after = (pd.read_csv(road / name).set_index("image_id")["fold"] for name in ("split.csv", "reward.csv"))
    moved = before != after.reindex(before.index)
    assert 0 < moved.sum() < (before == "train").sum()
    assert set(before[moved]) == {"train"}
    assert set(after.reindex(before.index)[moved]) == {"reward"}
    arguments = ["data", "split", str(road / "manifest.csv"), "--test", "0.2", "--reward", "0.2", "--no-duplicates"]
    assert call([*arguments, "--out", str(road / "none.csv")]) == 2


def test_predictions_are_evaluated_and_reported(road: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = road / "predictions.parquet"
    arguments = ["predict", str(road / "run"), str(road / "split.csv"), "--fold", "test", "--quiet"]
    assert call([*arguments, "--out", str(scores)]) == 0
    capsys.readouterr()
    assert call(["evaluate", str(scores), "--bootstrap", "100", "--out", str(road / "results")]) == 0
    said = capsys.readouterr().out
    for group in ("head", "medium", "tail", "all"):
        assert f"\n{group}" in f"\n{said}"
    results = pd.read_csv(road / "results" / "results.csv")
    assert {"ap", "auroc", "f1", "ece", "n_pos_patients"} <= set(results["metric"])
    arguments = ["report", str(road / "results"), "--manifest", str(road / "split.csv")]
    assert call([*arguments, "--out", str(road / "results.html")]) == 0
    page = (road / "results.html").read_text()
    assert "calcification_intraductal" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_the_report_of_a_run_predicts_the_test_fold_itself(road: Path) -> None:
    assert call(["report", str(road / "run"), "--out", str(road / "run.html"), "--quiet"]) == 0
    assert "Research use only" in (road / "run.html").read_text()
    assert (road / "run" / "results" / "test.csv").exists()


def test_scores_of_another_tool_get_the_same_numbers(road: Path) -> None:
    ours = road / "same.parquet"
    arguments = ["predict", str(road / "run"), str(road / "split.csv"), "--fold", "test", "--quiet"]
    assert call([*arguments, "--out", str(ours)]) == 0
    frame = pd.read_parquet(ours)
    classes = [name for name in frame if f"target:{name}" in frame]
    frame[["image_id", *classes]].to_csv(road / "theirs.csv", index=False)
    kept = ["image_id", "path", "patient_id", "fold", *classes]
    pd.read_csv(road / "split.csv", dtype=str)[kept].to_csv(road / "truth.csv", index=False)
    common = ["--bootstrap", "50", "--out"]
    assert call(["evaluate", str(ours), *common, str(road / "ours")]) == 0
    arguments = ["evaluate", str(road / "theirs.csv"), "--truth", str(road / "truth.csv"), "--fold", "test"]
    assert call([*arguments, *common, str(road / "theirs")]) == 0
    first, second = (pd.read_csv(road / name / "results.csv") for name in ("ours", "theirs"))
    for metric in ("ap", "auroc", "ece", "f1_at_half"):
        left, right = (table.loc[table["metric"] == metric].reset_index(drop=True) for table in (first, second))
        pd.testing.assert_frame_equal(left, right, rtol=1e-12)


def test_dry_run_prints_the_resolved_config_and_makes_nothing(road: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", str(road / "config.yaml"), "--dry-run", "--set", "optimizer.epochs=7"]
    assert call([*arguments, "--out", str(road / "dry")]) == 0
    assert "epochs: 7" in capsys.readouterr().out
    assert not (road / "dry").exists()
