"""How fast a run answers: seconds a call by engine, batch size and threads, measured in turns.

A call is from prepared bytes to calibrated probabilities; reading and letterboxing files is the same for every
engine and left out. All settings take turns, in a new order every round, so that a machine that slows down or warms up
slows all of them alike.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, final

import numpy as np
import torch

from medtail.errors import MedtailError
from medtail.exchange.onnx import check_images
from medtail.exchange.onnx_engine import OnnxDiagnoser
from medtail.exchange.torch_engine import TorchDiagnoser
from medtail.pixels.settings import PixelConfig
from medtail.runs import versions
from medtail.seeding import stream

Engine = Literal["torch", "onnx", "int8"]
ENGINES: tuple[Engine, ...] = ("torch", "onnx", "int8")
WARM_UP = 3
"""Calls of each setting that are not counted."""
Tick = Callable[[int, int], None]


class Answers(Protocol):
    """An engine."""

    def probabilities(self, images: np.ndarray, content: np.ndarray | None = None) -> np.ndarray:
        """Return probabilities [N, C] of prepared pixels uint8 [N, channels, S, S]."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class Timing:
    """What one setting took.

    Attributes:
        engine: `torch`, `onnx` or `int8`.
        batch: Images a call.
        threads: Threads a call.
        calls: Calls counted.
        median_ms: Median milliseconds a call.
        p95_ms: 95th percentile.
        fastest_ms: The fastest call, which a busy machine disturbs least.
        images_per_s: Throughput at the median.
    """

    engine: str
    batch: int
    threads: int
    calls: int
    median_ms: float
    p95_ms: float
    fastest_ms: float
    images_per_s: float

    @staticmethod
    def of(engine: str, batch: int, threads: int, seconds: Sequence[float]) -> Timing:
        """Sum up calls.

        Example:
            >>> made = Timing.of("torch", 4, 1, [0.02, 0.01, 0.03])
            >>> made.median_ms, made.fastest_ms, made.images_per_s
            (20.0, 10.0, 200.0)
        """
        median = float(np.median(seconds))
        return Timing(
            engine=engine,
            batch=batch,
            threads=threads,
            calls=len(seconds),
            median_ms=1e3 * median,
            p95_ms=1e3 * float(np.quantile(seconds, 0.95)),
            fastest_ms=1e3 * min(seconds),
            images_per_s=batch / median,
        )


@final
@dataclass(frozen=True, kw_only=True)
class Speed:
    """Timings of a run, and whether the engines agreed while they were taken.

    Attributes:
        timings: One a setting.
        differences: Engine → largest difference from the first engine on probabilities of the largest batch.
        machine: Cores, load when it ended, and versions.
    """

    timings: tuple[Timing, ...]
    differences: Mapping[str, float]
    machine: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        rows = [{name: getattr(row, name) for name in row.__dataclass_fields__} for row in self.timings]
        return {"timings": rows, "differences": dict(self.differences), "machine": dict(self.machine)}

    def text(self) -> str:
        """Return a table for people."""
        lines = [
            f"{'engine':8s}{'batch':>6s}{'threads':>9s}{'median ms':>11s}{'p95 ms':>9s}{'fastest':>9s}{'images/s':>10s}"
        ]
        for row in self.timings:
            lines.append(
                f"{row.engine:8s}{row.batch:6d}{row.threads:9d}{row.median_ms:11.2f}{row.p95_ms:9.2f}"
                f"{row.fastest_ms:9.2f}{row.images_per_s:10.1f}"
            )
        said = ", ".join(f"{name} {value:.2g}" for name, value in self.differences.items())
        calls = self.timings[0].calls
        lines += ["", f"{calls} calls each, in turns; {self.machine['cores']} cores, load {self.machine['load']:.1f}."]
        if said:
            lines.append(f"Largest difference from {self.timings[0].engine} on probabilities: {said}.")
        return "\n".join(lines)


def measure_speed(
    run: Path | str,
    files: Mapping[Engine, Path],
    *,
    engines: Sequence[Engine] = ("torch", "onnx"),
    batches: Sequence[int] = (1, 7, 32),
    threads: Sequence[int] = (1, 2),
    rounds: int = 20,
    seed: int = 0,
    progress: Tick | None = None,
) -> Speed:
    """Time a run by engine, batch size and threads.

    Args:
        run: A run folder, for `torch`.
        files: The exported files of `onnx` and `int8`.
        engines: Which; the first is what the others are compared with.
        batches: Images a call.
        threads: Threads a call.
        rounds: Calls counted of each setting, >= 1.
        seed: Of the order of turns.
        progress: Called with (rounds done, rounds).

    Returns:
        Timings in the order asked.

    Raises:
        MedtailError: An engine without its file, or numbers below 1.
    """
    check_settings(engines, batches, threads, rounds)
    reference = TorchDiagnoser(run) if "torch" in engines else None
    sessions: dict[tuple[Engine, int], Answers] = {}
    pixels: PixelConfig | None = None if reference is None else reference.card.parts.pixels
    for engine in engines:
        for count in threads:
            if engine == "torch":
                assert reference is not None
                sessions[engine, count] = reference
            else:
                if engine not in files:
                    raise MedtailError(f"engine {engine!r}: has no file; export one with `medtail export`.")
                opened = OnnxDiagnoser(files[engine], threads=count)
                sessions[engine, count] = opened
                pixels = opened.record.pixels
    assert pixels is not None, "at least one engine"
    given = {batch: check_images(pixels, batch) for batch in batches}
    settings = [(engine, batch, count) for engine in engines for batch in batches for count in threads]
    seconds: dict[tuple[Engine, int, int], list[float]] = {setting: [] for setting in settings}
    random = stream(seed, "bench")
    with _threads_kept():
        for number in range(-WARM_UP, rounds):
            for place in random.permutation(len(settings)):
                engine, batch, count = settings[place]
                if engine == "torch" and torch.get_num_threads() != count:
                    torch.set_num_threads(count)
                start = time.perf_counter()
                sessions[engine, count].probabilities(*given[batch])
                taken = time.perf_counter() - start
                if number >= 0:
                    seconds[engine, batch, count].append(taken)
            if progress is not None and number >= 0:
                progress(number + 1, rounds)
        largest = given[max(batches)]
        found = {engine: sessions[engine, threads[0]].probabilities(*largest) for engine in engines}
    first = found[engines[0]]
    return Speed(
        timings=tuple(Timing.of(*setting, seconds[setting]) for setting in settings),
        differences={name: float(np.abs(found[name] - first).max()) for name in engines[1:]},
        machine={"cores": os.cpu_count() or 1, "load": os.getloadavg()[0], "versions": versions()},
    )


def check_settings(engines: Sequence[str], batches: Sequence[int], threads: Sequence[int], rounds: int) -> None:
    """Check what is to be timed.

    Raises:
        MedtailError: Nothing to time, an unknown or repeated engine, or a number below 1.

    Example:
        >>> check_settings(["torch", "tensorflow"], [1], [1], 5)
        Traceback (most recent call last):
        medtail.errors.MedtailError: engines: found 'tensorflow'; expected torch, onnx, int8.
    """
    for engine in engines:
        if engine not in ENGINES:
            raise MedtailError(f"engines: found {engine!r}; expected {', '.join(ENGINES)}.")
    for name, values in (("engines", engines), ("batches", batches), ("threads", threads)):
        if not values or len(set(values)) != len(values):
            raise MedtailError(f"{name}: found {list(values)}; expected one or more, each once.")
    for name, numbers in (("batches", batches), ("threads", threads), ("rounds", [rounds])):
        if min(numbers) < 1:
            raise MedtailError(f"{name}: found {min(numbers)}; expected at least 1.")


@contextmanager
def _threads_kept() -> Iterator[None]:
    """Give torch back the threads it had."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
