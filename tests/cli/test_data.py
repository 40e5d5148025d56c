"""`medtail data import`: NIH as CXR-LT, and CXR-LT itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from medtail.cli.main import call
from medtail.sources.nih_cxr import FINDINGS
from medtail.tables.manifest import read_manifest


def nih(folder: Path) -> Path:
    lines = [f"image,patient,{','.join(FINDINGS)}"]
    for n in range(60):
        labels = ["1" if (n + c) % 7 == 0 else "0" for c in range(14)]
        lines.append(f"{n // 2 + 1:08d}_{n % 2:03d}.png,{n // 2 + 1},{','.join(labels)}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


def test_nih_is_written_as_cxr_lt_and_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "nih14"
    assert call(["data", "import", "nih_cxr", str(nih(tmp_path)), "--as", "cxr-lt", "--out", str(out)]) == 0
    assert "as CXR-LT edition nih14" in capsys.readouterr().out
    manifest = tmp_path / "m.csv"
    assert call(["data", "import", "cxr_lt", str(out), "--edition", "nih14", "--out", str(manifest)]) == 0
    assert "60 images, 30 patients, 15 classes" in capsys.readouterr().out
    assert set(read_manifest(manifest).folds) == {"train", "tune", "test"}
    assert call(["data", "import", "cxr_lt", str(out), "--task", "3", "--out", str(tmp_path / "t3.csv")]) == 0
    assert read_manifest(tmp_path / "t3.csv").labels.class_names == ("Fibrosis", "Hernia", "Pneumonia")


def test_only_nih_can_be_written_as_cxr_lt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = str(nih(tmp_path))
    for words in (["nih_cxr", table, "--as", "mimic"], ["busi", table, "--as", "cxr-lt"]):
        assert call(["data", "import", *words, "--out", str(tmp_path / "x")]) == 2
        assert "expected `data import nih_cxr PATH --as cxr-lt`" in capsys.readouterr().err
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").write_text("x")
    assert call(["data", "import", "nih_cxr", table, "--as", "cxr-lt", "--out", str(full)]) == 2
    assert "is not empty" in capsys.readouterr().err
