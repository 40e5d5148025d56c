"""NIH goes from its table to a scored, packed submission."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medtail.cli.main import call
from medtail.sources.nih_cxr import FINDINGS
from medtail.tables.manifest import read_manifest
from medtail.tables.predictions import Predictions


def test_nih_runs_tasks_1_to_3_from_its_table_to_a_scored_zip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    lines = [f"image,patient,{','.join(FINDINGS)}"]
    for n in range(160):
        labels = ",".join("1" if value else "0" for value in random.random(14) < 0.2)
        lines.append(f"{n // 2 + 1:08d}_{n % 2:03d}.png,{n // 2 + 1},{labels}")
    (tmp_path / "nih.csv").write_text("\n".join(lines) + "\n")
    assert call(["data", "import", "nih_cxr", "nih.csv", "--as", "cxr-lt", "--out", "nih14"]) == 0
    for task in ("1", "2", "3"):
        truth = f"nih14/test_labeled_task{task}.csv"
        assert call(["data", "import", "cxr_lt", "nih14", "--task", task, "--out", f"m{task}.csv"]) == 0
        table = read_manifest(tmp_path / f"m{task}.csv").in_fold("test")
        scores = np.clip(0.5 * table.targets + 0.5 * random.random(table.targets.shape), 0, 1)
        Predictions(
            table.frame["image_id"].to_numpy(dtype=object), table.patients, scores, table.targets.astype(float),
            table.labels, table.folds,
        ).write(tmp_path / f"p{task}.parquet")  # fmt: skip
        edition = ["--edition", "nih14", "--task", task]
        assert call(["cxr-lt", "pack", f"p{task}.parquet", "--out", f"s{task}.zip", "--test", truth, *edition]) == 0
        assert call(["cxr-lt", "validate", f"s{task}.zip", "--test", truth, *edition]) == 0
        scoring = ["--truth", truth, "--bootstrap", "20", *edition]
        capsys.readouterr()
        assert call(["cxr-lt", "score", f"s{task}.zip", *scoring]) == 0, capsys.readouterr().err
        assert "mAP" in capsys.readouterr().out
