"""Timings take turns, count what was asked, and say whether the engines agreed."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from medtail.errors import MedtailError
from medtail.exchange import speed
from medtail.exchange.speed import Timing, check_settings, measure_speed

pytest.importorskip("onnxruntime")


def test_every_setting_is_timed_and_the_engines_agree(small_run: Path, small_file: Path) -> None:
    before = torch.get_num_threads()
    found = measure_speed(small_run, {"onnx": small_file}, batches=(1, 3), threads=(1,), rounds=4)
    assert torch.get_num_threads() == before
    assert [(row.engine, row.batch, row.threads, row.calls) for row in found.timings] == [
        ("torch", 1, 1, 4), ("torch", 3, 1, 4), ("onnx", 1, 1, 4), ("onnx", 3, 1, 4),
    ]  # fmt: skip
    for row in found.timings:
        assert 0 < row.fastest_ms <= row.median_ms <= row.p95_ms
        assert row.images_per_s == pytest.approx(1e3 * row.batch / row.median_ms)
    assert found.differences["onnx"] < 1e-5
    assert found.to_json()["timings"][0]["engine"] == "torch"
    assert "Largest difference from torch on probabilities: onnx" in found.text()


def test_settings_take_turns_and_warm_up_is_not_counted(
    small_run: Path, small_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, int, int]] = []

    class Slow:
        def __init__(self, path: Path, *, threads: int) -> None:
            self.name, self.threads = Path(path).name, threads
            self.record = speed.TorchDiagnoser(small_run).card.parts  # has `pixels`, as a record does

        def probabilities(self, images: np.ndarray, content: np.ndarray | None = None) -> np.ndarray:
            calls.append((self.name, len(images), self.threads))
            time.sleep(0.004 if self.name == "b" else 0.001)
            return np.zeros((len(images), 5))

    monkeypatch.setattr(speed, "OnnxDiagnoser", Slow)
    files = {"onnx": Path("a"), "int8": Path("b")}
    found = measure_speed(small_run, files, engines=("onnx", "int8"), batches=(1,), threads=(1, 2), rounds=5)  # type: ignore[arg-type]
    timed = calls[: 4 * (speed.WARM_UP + 5)]
    rounds = [timed[start : start + 4] for start in range(0, len(timed), 4)]
    assert all(len(set(turn)) == 4 for turn in rounds), "each setting once a round"
    assert len({tuple(turn) for turn in rounds}) > 1, "in changing order"
    slow = [row.fastest_ms for row in found.timings if row.engine == "int8"]
    assert min(slow) >= 4.0
    assert [row.calls for row in found.timings] == [5] * 4


def test_a_slow_call_shows_in_the_95th_percentile_and_not_in_the_median() -> None:
    made = Timing.of("torch", 2, 1, [0.010] * 18 + [0.5] * 2)
    assert made.median_ms == pytest.approx(10.0)
    assert made.p95_ms > 400
    assert made.images_per_s == pytest.approx(200.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((["jax"], [1], [1], 1), "engines: found 'jax'"),
        ((["onnx", "onnx"], [1], [1], 1), "each once"),
        (([], [1], [1], 1), "one or more"),
        ((["onnx"], [0], [1], 1), "batches: found 0; expected at least 1"),
        ((["onnx"], [1], [], 1), "threads"),
        ((["onnx"], [1], [1], 0), "rounds: found 0"),
    ],
)  # fmt: skip
def test_mistakes_are_named(given: tuple[list[str], list[int], list[int], int], message: str) -> None:
    with pytest.raises(MedtailError, match=message):
        check_settings(*given)


def test_an_engine_without_its_file_is_named(small_run: Path) -> None:
    with pytest.raises(MedtailError, match="engine 'int8': has no file"):
        measure_speed(small_run, {}, engines=("int8",), batches=(1,), threads=(1,), rounds=1)
