"""The pixel store as it grows: images x1, x4, x16; and what sharding, checksums and safe writing cost.

    python benchmarks/store_growth.py [--images 500] [--source-px 512] [--size-px 128] [--rounds 5]

Made-up gray PNG files (speckle on a gradient, every one different) are prepared into a store, opened again and read for
an epoch in random order, each size in a process of its own. Printed are seconds, CPU seconds, and the peak of resident
memory beyond what the process had before, of each step, and how much each has grown.

Then, in one process and in turns, four ways of doing the same work with one thread:
    bare            decode and letterbox every file, and assign it to a row of one np.memmap: nothing else
    slots           the same pixels through the store's writer: shards, checksums, records, syncing
    open_store      all of it: also the check that files are there, SHA-256 of every file, and a check of the result
    again           open_store with a digest remembered for every file, but no pixels
The claim: `slots` costs at most 3 % of CPU time over `bare`, which is synced too. Exits 1 where it costs more, or where
CPU time or memory grows by more than 1.15 times the number of images.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from medtail.pixels import store as stores
from medtail.pixels.dataset import PixelBatches
from medtail.pixels.decode import read_image
from medtail.pixels.letterbox import letterbox
from medtail.pixels.settings import PixelConfig
from medtail.pixels.slots import SlotFiles
from medtail.pixels.store import open_store
from medtail.tables.manifest import Manifest, manifest_from_frame

WORSE, ASKED = 1.15, 0.03
SHARD_BYTES = 4 << 20
"""Small, so that there are many."""


def make_images(folder: Path, *, count: int, side_px: int) -> Manifest:
    random = np.random.default_rng(0)
    slope = np.linspace(40, 160, side_px)[:, None]
    speckle = random.normal(0, 25, (side_px, 2 * side_px))
    long_ago = time.time() - 3600
    for number in range(count):
        start = int(random.integers(0, side_px))
        pixels = slope + speckle[:, start : start + side_px] + number % 17
        pixels[0, :8] = [number >> 8 * k & 255 for k in range(8)]
        path = folder / f"{number:06d}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, compress_level=1)
        os.utime(path, (long_ago, long_ago))  # a file changed this moment is not remembered
    ids = [f"{number:06d}" for number in range(count)]
    frame = {"image_id": ids, "path": [f"{name}.png" for name in ids], "patient_id": ids, "x": np.arange(count) % 2}
    return manifest_from_frame(pd.DataFrame(frame), root=folder)


def memory(name: str) -> float:
    """Peak (VmHWM) or present (VmRSS) resident memory in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def measured(step: Callable[[], Any]) -> tuple[Any, list[float]]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
    before, wall, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
    result = step()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return result, [wall, cpu, memory("VmHWM") - before]


def one_size(folder: Path, count: int, side_px: int, config: PixelConfig) -> dict[str, list[float]]:
    stores.SHARD_BYTES = SHARD_BYTES
    found: dict[str, list[float]] = {}
    table = make_images(folder, count=count, side_px=side_px)
    cache = folder / "cache"
    open_store(table.take(np.arange(2)), config, cache=folder / "warm", workers=1)  # libraries are loaded
    store, found["build"] = measured(lambda: open_store(table, config, cache=cache, workers=1))
    store, found["open"] = measured(lambda: open_store(table, config, cache=cache, workers=1))
    order = np.random.default_rng(0).permutation(count)

    def epoch() -> None:
        for _ in PixelBatches(store, table.targets, batch_size=32, rows=order):
            pass

    _, found["read an epoch"] = measured(epoch)
    found["store"] = [store.files.size_bytes / 2**20, store.files.shards, 0.0]
    return found


def bare(table: Manifest, config: PixelConfig, file: Path) -> None:
    pixels = np.memmap(file, np.uint8, mode="w+", shape=(len(table), *config.shape))
    for row, path in enumerate(table.image_paths()):
        pixels[row] = letterbox(read_image(path), config=config)[0]
    pixels.flush()


def through_slots(table: Manifest, config: PixelConfig, folder: Path) -> None:
    files = SlotFiles(folder, len(table), config.shape, shard_bytes=SHARD_BYTES)
    files.allocate()
    with files.writing() as writer:
        for row, path in enumerate(table.image_paths()):
            writer.put(row, *letterbox(read_image(path), config=config))


def overhead(folder: Path, count: int, side_px: int, config: PixelConfig, rounds: int) -> float:
    table = make_images(folder, count=count, side_px=side_px)

    def whole(*, again: bool) -> None:
        if not again:
            shutil.rmtree(folder / "cache", ignore_errors=True)
        for part in (folder / "cache").glob("*/*") if again else ():
            part.unlink()
        open_store(table, config, cache=folder / "cache", workers=1)

    ways: dict[str, Callable[[], None]] = {
        "bare": lambda: bare(table, config, folder / "bare"),
        "slots": lambda: through_slots(table, config, folder / "slots"),
        "open_store": lambda: whole(again=False),
        "again": lambda: whole(again=True),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in list(ways) if number % 2 else reversed(ways):
            shutil.rmtree(folder / "slots", ignore_errors=True)
            (folder / "bare").unlink(missing_ok=True)
            cpu = time.process_time()
            ways[name]()
            if number:  # the first is to warm up
                times[name].append(time.process_time() - cpu)
    print(f"\n{count} images of {side_px} px to {config.size_px} px, {rounds} rounds in turns, ms of CPU an image")
    for name, values in times.items():
        ratio = statistics.median(v / b for v, b in zip(values, times["bare"], strict=True)) - 1
        fastest = min(values) / min(times["bare"]) - 1
        print(
            f"  {name:12s}{1e3 * statistics.median(values) / count:8.3f}   {ratio:+7.2%} (median of rounds)"
            f" {fastest:+7.2%} (fastest)"
        )
    return min(times["slots"]) / min(times["bare"]) - 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500, help="of the smallest size")
    parser.add_argument("--source-px", type=int, default=512)
    parser.add_argument("--size-px", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    config = PixelConfig(size_px=given.size_px)
    if given.one is not None:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(one_size(Path(folder), given.one, given.source_px, config)))
        return 0
    print(f"load before the run {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    sizes, found, missed = [given.images * factor for factor in (1, 4, 16)], [], []
    print(f"{'images':>8s}{'step':>16s}{'s':>9s}{'CPU s':>9s}{'ms CPU/image':>14s}{'peak MB':>9s}{'growth CPU':>12s}")
    for size in sizes:
        command = [sys.executable, str(Path(__file__).resolve()), "--one", str(size)]
        command += ["--source-px", str(given.source_px), "--size-px", str(given.size_px)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        for name, (wall, cpu, peak) in found[-1].items():
            if name == "store":
                print(f"{size:8,d}{'on disk':>16s}   {wall:,.0f} MB of pixels in {int(cpu)} files")
                continue
            grown = cpu / found[-2][name][1] / 4 if len(found) > 1 else float("nan")
            print(
                f"{size:8,d}{name:>16s}{wall:9.2f}{cpu:9.2f}{1e3 * cpu / size:14.3f}{peak:9.1f}{grown:11.2f}x",
                flush=True,
            )
            if len(found) == 3 and cpu > 0.5 and grown > WORSE:
                missed.append(f"{name}: CPU time grew {grown:.2f} times as much as the images")
            if len(found) == 3 and peak > 50 and peak > WORSE * 4 * max(found[-2][name][2], 10.0):
                missed.append(f"{name}: peak memory grew from {found[-2][name][2]:.0f} to {peak:.0f} MB")
    with tempfile.TemporaryDirectory() as folder:
        cost = overhead(Path(folder), min(given.images, 400), given.source_px, config, given.rounds)
    if cost > ASKED:
        missed.append(f"slots cost {cost:.1%} over the bare path; at most {ASKED:.0%} asked")
    print("\n" + "\n".join(missed or ["every limit held"]))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
