"""Tables at the size of the CXR-LT challenge: 377,110 images x 45 findings, read, checked, split, drawn from, judged.

    python benchmarks/challenge_size.py [--labels ../shared/data/nih_cxr/nih14_labels_full.csv.gz] [--images N]
                                        [--resamples N]

No images: a made-up table whose first 14 findings are those of real patients (drawn with replacement from the NIH
table, so that findings come together as they do), the other 31 rarer ones made up, down to 3 in 10,000; without the
file all are made up. A fifteenth of the cells of five findings is not assessed; studies have one to three images.
Paths name files that are there, empty, a thousand a folder.

Every step runs at n/16, n/4 and n, each size in a process of its own. Printed are seconds, CPU seconds and the peak of
resident memory of each step, and the exponent of growth between the two larger sizes (1 is linear). Exits 1 where a
step at n misses its limit of CPU seconds or memory, or where its CPU time or memory has grown by more than 1.15 times
the table's growth. CPU time, because a shared machine makes others longer; steps under half a second are not judged.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medtail.judging.evaluation import EvaluationConfig, evaluate
from medtail.sampling.build import build_sampler
from medtail.sampling.classic import (
    ClassBalancedSamplerConfig,
    ProgressiveSamplerConfig,
    RepeatFactorSamplerConfig,
    SquareRootSamplerConfig,
    UniformSamplerConfig,
)
from medtail.sampling.contract import Feedback, shard
from medtail.sampling.mixture import MixtureSamplerConfig
from medtail.sampling.streams import TwoStreamSamplerConfig
from medtail.tables import presence
from medtail.tables.audit import audit_manifest
from medtail.tables.manifest import Manifest, manifest_from_frame, read_manifest
from medtail.tables.predictions import Predictions, read_predictions
from medtail.tables.splits import split_manifest
from medtail.tables.tail import count_classes, tail_groups

IMAGES, CLASSES = 377_110, 45
WORSE = 1.15
JUDGED_FROM_S = 0.5
BASE_GB = 0.4
"""Python and the libraries; grows with nothing."""
# step -> CPU seconds at 377,110 images, peak GB
LIMITS = {
    "write CSV": (20.0, 2.0),
    "read and check CSV": (20.0, 2.0),
    "write Parquet": (10.0, 2.0),
    "read and check Parquet": (10.0, 2.0),
    "files are there": (10.0, 2.0),
    "files are there, one by one": (20.0, 2.0),
    "audit (data check --no-images)": (10.0, 2.0),
    "split by patients": (20.0, 2.0),
    "counts and tail groups": (2.0, 2.0),
    "digest": (5.0, 2.0),
    "evaluate": (60.0, 2.5),
}
SAMPLER_LIMIT = (10.0, 2.0)


def findings(images: int, labels: Path | None) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return targets [images, classes], owners [images] and class names."""
    random = np.random.default_rng(0)
    made = 1.0 * (random.random((images, CLASSES)) < np.geomspace(0.25, 0.0003, CLASSES))
    names = [f"Finding {c:02d}" for c in range(CLASSES)]
    if labels is None:
        owners = np.sort(random.integers(0, max(1, images * 65_379 // 377_110), images))
    else:
        table = pd.read_csv(labels)
        real = [name for name in table.columns if name not in ("image", "patient")]
        rows_of = list(table.groupby("patient", sort=False).indices.values())
        chosen, owners_of, total = [], [], 0
        while total < images:
            for pick in random.integers(0, len(rows_of), 1024):
                chosen.append(rows_of[pick])
                owners_of.append(np.full(len(rows_of[pick]), len(owners_of)))
                total += len(rows_of[pick])
        rows, owners = np.concatenate(chosen)[:images], np.concatenate(owners_of)[:images]
        made[:, : len(real)] = table[real].to_numpy(dtype=float)[rows]
        made[:, len(real) :] = random.random((images, CLASSES - len(real))) < np.geomspace(
            0.02, 0.0003, CLASSES - len(real)
        )
        names[: len(real)] = real
    made[:, 20:25][random.random((images, 5)) < 1 / 15] = np.nan
    return made, owners, names


def make_table(images: int, labels: Path | None, folder: Path) -> Manifest:
    targets, owners, names = findings(images, labels)
    study = np.cumsum(np.diff(owners, prepend=-1).astype(bool) | (np.arange(images) % 3 == 0))
    paths = [f"images/{row // 1000:04d}/{row:07d}.png" for row in range(images)]
    for row in range(0, images, 1000):
        (folder / paths[row]).parent.mkdir(parents=True)
    for path in paths:
        os.close(os.open(folder / path, os.O_CREAT | os.O_WRONLY))
    frame = pd.DataFrame(
        {
            "image_id": [f"i{row:07d}" for row in range(images)],
            "path": paths,
            "patient_id": [f"p{owner:07d}" for owner in owners],
            "study_id": [f"s{number:07d}" for number in study],
            "site": np.where(owners % 3 == 0, "east", "west"),
            "view": np.where(np.arange(images) % 4 == 0, "LATERAL", "PA"),
            "age": 20.0 + owners % 70,
            **{name: targets[:, c] for c, name in enumerate(names)},
        }
    )
    return manifest_from_frame(frame, name="table", root=folder)


def with_pool(table: Manifest) -> Manifest:
    """Add generated rows, a twentieth as many as there are train rows, for every finding alike."""
    train = np.flatnonzero(table.folds == "train")
    names = np.array(table.labels.class_names)
    count = len(train) // 20
    asked = np.arange(count) % len(names)
    made = table.frame.iloc[train[:count]].assign(
        image_id=[f"g{row:07d}" for row in range(count)],
        patient_id=[f"syn:{'0' * 12}:{row}" for row in range(count)],
        origin="synthetic",
        meta_class=names[asked],
        **{name: 1.0 * (asked == c) for c, name in enumerate(names)},
    )
    frame = pd.concat([table.frame.assign(meta_class=""), made], ignore_index=True)
    return manifest_from_frame(frame, name="table", root=table.root)


def made_up_scores(table: Manifest) -> Predictions:
    random = np.random.default_rng(1)
    targets = table.targets.astype(float)
    logits = -3.0 + 2.0 * np.nan_to_num(targets) + random.normal(size=targets.shape)
    return Predictions(
        image_ids=table.frame["image_id"].to_numpy(dtype=object),
        patients=table.patients,
        scores=1 / (1 + np.exp(-logits)),
        targets=targets,
        folds=table.folds,
        labels=table.labels,
    )


class Clock:
    """Times steps and tells the peak of the resident memory of each."""

    def __init__(self) -> None:
        self.found: dict[str, list[float]] = {}

    def run(self, name: str, step: Callable[[], Any]) -> Any:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
        wall, cpu = time.perf_counter(), time.process_time()
        result = step()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        status = Path("/proc/self/status").read_text()
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 2**20
        self.found[name] = [wall, cpu, peak]
        print(f"    {name:34s}{wall:8.2f} s {cpu:8.2f} s CPU {peak:6.2f} GB", file=sys.stderr, flush=True)
        return result


def measure(images: int, labels: Path | None, resamples: int, folder: Path) -> dict[str, list[float]]:
    clock = Clock()
    table = make_table(images, labels, folder)
    for kind in ("CSV", "Parquet"):
        file = folder / f"table.{kind.lower()}"
        clock.run(f"write {kind}", lambda file=file, table=table: table.write(file))
        table = clock.run(f"read and check {kind}", lambda file=file: read_manifest(file))
    clock.run("digest", lambda: table.digest)
    clock.run("files are there", table.check_files)
    listed, presence.LISTED_FROM = presence.LISTED_FROM, 1 << 60
    clock.run("files are there, one by one", table.check_files)
    presence.LISTED_FROM = listed
    table = clock.run("split by patients", lambda: split_manifest(table, seed=0).manifest)
    clock.run("audit (data check --no-images)", lambda: audit_manifest(table, check_images=False).text())
    clock.run("counts and tail groups", lambda: tail_groups(count_classes(table), labels=table.labels))
    configs: dict[str, Any] = {
        "uniform": UniformSamplerConfig(),
        "class-balanced": ClassBalancedSamplerConfig(),
        "square root": SquareRootSamplerConfig(),
        "progressive": ProgressiveSamplerConfig(),
        "repeat factor": RepeatFactorSamplerConfig(),
        "raking": TwoStreamSamplerConfig(ledger=False),
        "raking and ledger": TwoStreamSamplerConfig(from_epoch=0),
        "mixture": MixtureSamplerConfig(),
    }
    for name, config in configs.items():
        of = with_pool(table) if name == "mixture" else table

        def draw(config: Any = config, of: Manifest = of, name: str = name) -> None:
            sampler = build_sampler(config, of, seed=0, epochs=10)
            for epoch in (0, 9):
                drawn = sampler.draw(epoch)
                if name == "raking and ledger":
                    losses = np.random.default_rng(epoch).exponential(size=len(drawn))
                    sampler.observe(Feedback(drawn, losses, sampler.streams(epoch), epoch))
                    sampler.hardness()
                shard(drawn, rank=1, world_size=8, batch_size=32)

        clock.run(f"sampler {name}", draw)
    predictions = made_up_scores(table)
    predictions.write(folder / "predictions.parquet")
    del predictions

    def judge() -> None:
        evaluate(
            read_predictions(folder / "predictions.parquet"), config=EvaluationConfig(bootstrap=resamples), threads=1
        )

    clock.run("evaluate", judge)
    return clock.found


def exponent(small: float, large: float, factor: float) -> float:
    return math.log(max(large, 1e-9) / max(small, 1e-9)) / math.log(factor)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, help="nih14_labels_full.csv.gz, for findings as they are")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(given.one, given.labels, given.resamples, Path(folder))))
        return 0
    print(f"load before the run {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; labels {given.labels or 'made up'}")
    sizes = [given.images // 16, given.images // 4, given.images]
    found: list[dict[str, list[float]]] = []
    for size in sizes:
        print(f"  {size:,} images x {CLASSES}", file=sys.stderr, flush=True)
        command = [sys.executable, str(Path(__file__).resolve()), "--one", str(size)]
        command += ["--resamples", str(given.resamples)]
        command += [] if given.labels is None else ["--labels", str(given.labels)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    titles = "".join(f"{f'{size:,}':>24s}" for size in sizes)
    print(f"\n{'':34s}{titles}{'growth':>16s}\n{'':34s}{'s   CPU s     GB'.rjust(24) * 3}{'CPU     GB':>16s}")
    missed: list[str] = []
    factor = sizes[2] / sizes[1]
    for name in found[0]:
        cells = "".join(f"{part[name][0]:9.2f}{part[name][1]:8.2f}{part[name][2]:7.2f}" for part in found)
        (_, cpu_before, gb_before), (_, cpu, gb) = found[1][name], found[2][name]
        grown_gb = (gb - BASE_GB) / max(gb_before - BASE_GB, 0.01)
        print(f"{name:34s}{cells}{exponent(cpu_before, cpu, factor):9.2f}{exponent(1, grown_gb, factor):7.2f}")
        if cpu >= JUDGED_FROM_S and cpu / cpu_before > WORSE * factor:
            missed.append(f"{name}: CPU time grew {cpu / cpu_before:.2f} times for {factor:.0f} times the table")
        if gb > BASE_GB + 0.3 and grown_gb > WORSE * factor:
            missed.append(f"{name}: memory grew {grown_gb:.2f} times for {factor:.0f} times the table")
        if given.images == IMAGES:
            limit_cpu, limit_gb = LIMITS.get(name, SAMPLER_LIMIT)
            missed += [f"{name}: {cpu:.1f} s of CPU; at most {limit_cpu:g} wanted"] if cpu > limit_cpu else []
            missed += [f"{name}: {gb:.2f} GB; at most {limit_gb:g} wanted"] if gb > limit_gb else []
    print("\n" + "\n".join(missed or ["every limit held"]))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
