"""`medtail bench` prints a line a setting, and JSON for machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medtail.cli.main import call


def test_every_setting_has_a_line(exported_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["bench", str(exported_run), "--batches", "1,4", "--threads", "1", "--rounds", "3"]) == 0
    said = capsys.readouterr().out
    assert [line.split()[:3] for line in said.splitlines()[1:5]] == [
        ["torch", "1", "1"], ["torch", "4", "1"], ["onnx", "1", "1"], ["onnx", "4", "1"],
    ]  # fmt: skip
    assert "3 calls each, in turns" in said
    assert call(["bench", str(exported_run), "--engines", "onnx", "--batches", "2", "--threads", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["engine"], row["calls"]) for row in found["timings"]] == [("onnx", 20)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engines", "jax"], "--engines: found 'jax'; expected torch, onnx, int8"),
        (["--batches", "one"], "--batches 'one': expected whole numbers"),
        (["--threads", "0"], "--threads: found 0; expected at least 1"),
        (["--engines", "int8"], "Make it with `medtail export"),
    ],
)
def test_wrong_use_is_said(
    words: list[str], message: str, exported_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["bench", str(exported_run), *words]) == 2
    assert message in capsys.readouterr().err
