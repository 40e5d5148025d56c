"""`medtail export --format onnx` prints what it checked, and int8 is kept only within the loss accepted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from medtail.cli.main import call


def test_the_export_lies_in_the_run_and_is_not_made_twice(
    exported_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (exported_run / "model.onnx").is_file()
    assert call(["export", str(exported_run), "--format", "onnx"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_int8_is_measured_on_tune_and_kept_or_refused(
    exported_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "moved" / "run"
    shutil.copytree(exported_run.parent, run.parent)
    words = ["export", str(run), "--format", "onnx", "--int8"]
    assert call([*words, "--accept-loss", "1"]) == 0
    said = capsys.readouterr()
    assert "On 20 tune images of 20 patients: macro AP" in said.out
    assert f"Written: {run}/model.int8.onnx" in said.err
    out = tmp_path / "dynamic.onnx"
    assert call([*words, "--scheme", "dynamic", "--accept-loss", "1", "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scheme"] == "dynamic"
    assert found["path"] == str(out)
    assert found["bytes_after"] < found["bytes_before"]


def test_a_loss_that_is_not_shown_to_be_small_fails(
    exported_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from medtail.exchange import quantise

    monkeypatch.setattr(quantise.Quantised, "accepted", property(lambda made: False))
    out = tmp_path / "int8.onnx"
    words = ["export", str(exported_run), "--format", "onnx", "--int8", "--scheme", "dynamic", "--out", str(out)]
    assert call(words) == 1
    said = capsys.readouterr()
    assert "macro AP" in said.out
    assert "not written. At worst it would lose" in said.err
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "--format", "onnx"], "nowhere: no run"),
        (["RUN", "toy.csv", "--format", "onnx"], "takes no images"),
        (["RUN/model", "--format", "onnx", "--int8"], "needs the whole run"),
    ],
)
def test_wrong_use_is_said(
    words: list[str], message: str, exported_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["export", *(word.replace("RUN", str(exported_run)) for word in words)]) == 2
    assert message in capsys.readouterr().err
