from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medtail.cli.main import call
from medtail.serving.settings import ServeSettings


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the verb asked the server for, instead of serving."""
    found: dict[str, Any] = {}

    def pretend(run: Path, settings: ServeSettings, *, say: Any, **named: Any) -> None:
        found.update(run=run, settings=settings, **named)
        say(settings)

    monkeypatch.setattr("medtail.serving.server.serve", pretend)
    monkeypatch.delenv("MEDTAIL_TOKEN", raising=False)
    return found


def test_the_defaults_are_those_of_the_settings(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["serve", "runs/x"]) == 0
    assert asked["settings"] == ServeSettings()
    assert asked["run"] == Path("runs/x")
    assert asked["similar"] is None
    assert capsys.readouterr().out == "runs/x: open http://127.0.0.1:8000/\n"


def test_listening_elsewhere_without_a_token_is_wrong_use(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["serve", "runs/x", "--host", "0.0.0.0"]) == 2
    assert "expected a token" in capsys.readouterr().err
    assert not asked


def test_a_new_token_is_made_and_told_in_the_address(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["serve", "runs/x", "--host", "0.0.0.0", "--token", "new"]) == 0
    token = asked["settings"].token
    assert len(token) > 30
    printed = capsys.readouterr()
    assert f"#token={token}" in printed.out
    assert "Without encryption" in printed.err


def test_a_token_from_the_environment_is_kept_out_of_the_output(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDTAIL_TOKEN", "a-token-of-24-characters")
    assert call(["serve", "runs/x"]) == 0
    assert asked["settings"].token == "a-token-of-24-characters"
    printed = capsys.readouterr()
    assert "a-token" not in printed.out + printed.err


def test_every_option_reaches_the_settings(asked: dict[str, Any]) -> None:
    words = "--port 9 --allow-host a.example --allow-host b.example --no-heat --max-mb 2 --max-pixels 1000 --timeout 3"
    more = "--queue 4 --rate 5 --burst 6 --decoders 7 --threads 8 --similar-cases m.csv --engine onnx"
    assert call(["serve", "runs/x", *words.split(), *more.split()]) == 0
    assert asked["settings"] == ServeSettings(
        port=9, allow_hosts=("a.example", "b.example"), heat_maps=False, max_mb=2.0, max_pixels=1000, timeout_s=3.0,
        queue=4, rate=5.0, burst=6, decoders=7, threads=8, engine="onnx",
    )  # fmt: skip
    assert asked["similar"] == Path("m.csv")
    assert call(["serve", "runs/x", "--no-rate-limit"]) == 0
    assert asked["settings"].rate is None


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["serve", str(tmp_path), "--port", "0", "--no-heat"]) == 1
    assert "card.json" in capsys.readouterr().err
