"""`medtail study systems` with real trainings on toy images, from a file to a submission."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from medtail.cli.main import call
from medtail.sources.cxr_lt import edition
from medtail.tables.manifest import Manifest, manifest_from_frame

NAMES = edition("nih14").task(1).class_names


@pytest.fixture
def table(toy_manifest: Manifest, tmp_path: Path) -> Path:
    """The toy images in the challenge's layout: two views a study, `Mass` is what can be learnt from the pixels."""
    frame = toy_manifest.frame
    random = np.random.default_rng(0)
    labels = {name: (random.random(len(frame)) < 0.4).astype(int) for name in NAMES}
    labels["Mass"] = frame["bright"].astype(float).astype(int).to_numpy()
    kept = frame[["image_id", "path", "patient_id", "fold"]].reset_index(drop=True)
    seen = kept.assign(study_id="s" + kept["patient_id"], view=np.where(kept.index % 2 == 0, "PA", "LL"))
    rows = pd.concat([seen, pd.DataFrame(labels)], axis=1)
    path = tmp_path / "table.csv"
    manifest_from_frame(rows, name="table.csv", root=tmp_path).write(path)
    return path


def write(folder: Path, **changes: Any) -> Path:
    value: dict[str, Any] = {
        "edition": "nih14",
        "train": {
            "manifest": "table.csv",
            "cache": "cache",
            "threads": 1,
            "pixels": {"size_px": 32},
            "optimizer": {"epochs": 1},
            "second": None,
            "tta": None,
        },
        "members": {
            "plain": {"recipe": "cxrlt_baseline/tiny"},
            "fused": {"recipe": "cxrlt_chexfusion/tiny", "second": {"kind": "study_fusion", "epochs": 1}},
        },
        "systems": {"plain": {}, "both": {"members": ["plain", "fused"], "views": "frontal", "how": "logits"}},
        "judge": {"bootstrap": 100},
    }
    (folder / "systems.yaml").write_text(yaml.safe_dump(value | changes, sort_keys=False), encoding="utf-8")
    return folder / "systems.yaml"


@pytest.mark.slow
def test_systems_are_trained_judged_and_can_be_handed_in(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = write(tmp_path), tmp_path / "out"
    assert call(["study", "systems", str(file), "--out", str(out), "--quiet"]) == 0
    told = capsys.readouterr()
    assert "Systems on test" in told.out
    assert "Ensembles against their best member" in told.out
    assert f"Written: {out}/systems.html" in told.err
    for name in ("systems.html", "systems.md", "systems.json", "systems.csv", "differences.csv", "opened.json"):
        assert (out / name).exists()
    scores = out / "systems" / "both" / "predictions_test.parquet"
    both = pd.read_parquet(scores)
    paired = both.assign(study=both["patient_id"]).groupby("study")["Mass"].nunique()
    assert (paired == 1).all(), "both views have their study's score"
    assert call(["study", "systems", str(file), "--out", str(out), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["finished"], record["failed"]) == (2, {})
    assert record["tables"][0]["rows"][1]["system"] == "both"
    packed = tmp_path / "submission.zip"
    ids = tmp_path / "test.csv"
    pd.DataFrame({"dicom_id": both["image_id"]}).to_csv(ids, index=False)
    arguments = ["cxr-lt", "pack", str(scores), "--out", str(packed), "--test", str(ids), "--edition", "nih14"]
    assert call(arguments) == 0
    assert packed.exists()


def test_a_training_that_fails_is_named_and_nothing_is_judged(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images" / "003.png").unlink()
    out = tmp_path / "out"
    assert call(["study", "systems", str(write(tmp_path)), "--out", str(out), "--quiet"]) == 1
    told = capsys.readouterr()
    assert "2 trainings failed:" in told.err
    assert "003.png" in told.err
    assert "Nothing was judged" in told.err
    assert not (out / "opened.json").exists()


def test_a_wrong_file_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, systems={"plian": {}})
    assert call(["study", "systems", str(file), "--out", str(tmp_path / "out")]) == 2
    assert "did you mean 'plain'" in capsys.readouterr().err
