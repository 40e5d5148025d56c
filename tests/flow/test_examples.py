"""The examples run as they stand, from a folder of their own."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_run_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"scores_of_another_tool", "table_to_report"}


def test_scores_of_another_tool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = load("scores_of_another_tool").main(tmp_path)
    assert results.value("auroc", class_name="effusion") > 0.7
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert "mAP" in capsys.readouterr().out


def test_table_to_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = load("table_to_report").main(tmp_path)
    assert "malignant" in report.read_text()
    assert "mAP" in capsys.readouterr().out
