"""How fast the judge is at the size of the CXR-LT test set, against an honest loop over scikit-learn in the same run.

    python benchmarks/bootstrap.py [--quick] [--huge]

78,946 images x 40 findings (30 % ... 0.05 %), 45,000 patients, 1,000 resamples of every metric with intervals by
class, tail group and overall, on 2 threads. The loop draws patients, takes their rows and calls scikit-learn for AP,
AUROC and F1 (and NumPy for the ECE) class by class; 10 resamples of it are timed and multiplied, and the first is
compared number by number. Then the whole command on CSV files in a fresh process, and growth over images and
findings. `--huge` adds 377,110 x 45 from Parquet; `--quick` runs a tenth of the size to see that all of it works.
Exits 1 and names the limit where one is missed (limits are not checked with `--quick`).
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from medtail.judging.bootstrap import draw_weights, number_patients, rank_rows, resample_ranked
from medtail.judging.decisions import decide
from medtail.judging.estimates import estimate
from medtail.judging.evaluation import EvaluationConfig, evaluate
from medtail.judging.metrics import expected_calibration_error
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions
from medtail.tables.tail import ClassCounts

RESAMPLES, THREADS, LOOPED = 1000, 2, 10
DESIGN = (78_946, 40, 45_000)
HUGE = (377_110, 45, 65_379)
LIMITS = {
    "evaluate, seconds": 4.0,
    "evaluate, peak GB": 2.0,
    "command on CSV files, seconds": 15.0,
    "fortieth size, ranked kernel, seconds": 0.5,
}
FASTER = 500.0


def made_up(rows: int, classes: int, patients: int) -> Predictions:
    """Scores of a decent, badly calibrated model; every patient has a row."""
    random = np.random.default_rng(0)
    prevalence = np.geomspace(0.3, 0.0005, classes)
    targets = (random.random((rows, classes)) < prevalence).astype(float)
    logits = np.log(prevalence / (1 - prevalence)) - 1 + 2 * targets + random.normal(size=(rows, classes))
    owners = random.permutation(np.concatenate([np.arange(patients), random.integers(0, patients, rows - patients)]))
    names = tuple(f"finding {c:02d}" for c in range(classes))
    seen = tuple(int(258_871 * share) for share in prevalence)
    return Predictions(
        image_ids=np.array([f"image{row:06d}" for row in range(rows)], dtype=object),
        patients=np.array([f"p{owner:06d}" for owner in owners], dtype=object),
        scores=1 / (1 + np.exp(-logits)),
        targets=targets,
        labels=LabelSpace(names),
        folds=np.array(["test"] * rows, dtype=object),
        thresholds={name: float(share) for name, share in zip(names, prevalence, strict=True)},
        train_counts=ClassCounts(names, seen, seen, (258_871,) * classes),
        name="made_up",
    )


def peak_gb(who: int = resource.RUSAGE_SELF) -> float:
    return resource.getrusage(who).ru_maxrss * 1024 / 1e9


def seconds_of(size: tuple[int, int, int]) -> float:
    predictions = made_up(*size)
    started = time.perf_counter()
    evaluate(predictions, config=EvaluationConfig(bootstrap=RESAMPLES), threads=THREADS)
    return time.perf_counter() - started


def warm_up() -> None:
    """Compile the kernels, or load them from the cache, on a table just large enough to need them."""
    started = time.perf_counter()
    predictions = made_up(9000, 30, 5000)
    evaluate(predictions, config=EvaluationConfig(bootstrap=RESAMPLES), threads=THREADS)
    print(f"loading and compilation (in a run of 9,000 x 30): {time.perf_counter() - started:.2f} s")


def parts(predictions: Predictions) -> None:
    started = time.perf_counter()
    patients, count = number_patients(predictions.patients)
    numbered = time.perf_counter()
    weights = draw_weights(count, resamples=RESAMPLES, threads=THREADS)
    drawn = time.perf_counter()
    called = decide(predictions)
    estimate(predictions, called=called, patients=patients, weights=weights, threads=THREADS)
    print(
        f"  of it: numbering {count:,} patients {numbered - started:.2f} s, drawing {drawn - numbered:.2f} s,"
        f" all metrics in all resamples {time.perf_counter() - drawn:.2f} s; the rest is intervals and rows"
    )


def loop_seconds(predictions: Predictions) -> float:
    """Time the honest loop for one resample, and hold its first numbers against ours."""
    scores, targets, limits = predictions.scores, predictions.targets, predictions.threshold_array
    patients, count = number_patients(predictions.patients)
    weights = draw_weights(count, resamples=LOOPED)
    order = np.argsort(patients, kind="stable")
    rows_of = np.split(order, np.cumsum(np.bincount(patients, minlength=count))[:-1])
    estimates = estimate(predictions, called=scores >= limits, patients=patients, weights=weights)
    matrix = weights.matrix()
    taken = 0.0
    for b in range(LOOPED):
        drawn = np.repeat(np.arange(count), matrix[:, b])
        started = time.perf_counter()
        rows = np.concatenate([rows_of[patient] for patient in drawn])
        s, y = scores[rows], targets[rows]
        for c, limit in enumerate(limits):
            if not 0 < y[:, c].sum() < len(y):
                continue  # scikit-learn would only warn
            found = {
                "ap": average_precision_score(y[:, c], s[:, c]),
                "auroc": roc_auc_score(y[:, c], s[:, c]),
                "f1": f1_score(y[:, c], s[:, c] >= limit),
                "ece": expected_calibration_error(s[:, c], y[:, c]),
            }
            if b == 0:
                for metric, value in found.items():
                    ours = float(estimates.resampled[metric][c, b])
                    assert abs(value - ours) < 1e-8, f"{metric} of finding {c}: loop {value}, medtail {ours}"
        taken += time.perf_counter() - started
    return taken / LOOPED


def command(arguments: list[str]) -> tuple[float, float]:
    """Run medtail in a fresh process; return seconds and peak GB."""
    program = "import sys; from medtail.cli.main import call; code = call(sys.argv[1:]);"
    program += " import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr);"
    program += " sys.exit(code)"
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(done.stderr)
    return seconds, int(done.stderr.split()[-1]) * 1024 / 1e9


def csv_command(predictions: Predictions, folder: Path) -> tuple[float, float]:
    names = predictions.labels.class_names
    pd.DataFrame(predictions.scores, columns=list(names)).assign(image_id=predictions.image_ids).to_csv(
        folder / "scores.csv", index=False
    )
    truth = pd.DataFrame(predictions.targets.astype(int), columns=list(names))
    truth = truth.assign(image_id=predictions.image_ids, path=predictions.image_ids, patient_id=predictions.patients)
    truth.assign(fold="test").to_csv(folder / "truth.csv", index=False)
    size = sum((folder / name).stat().st_size for name in ("scores.csv", "truth.csv")) / 1e6
    seconds, peak = command(
        ["evaluate", str(folder / "scores.csv"), "--truth", str(folder / "truth.csv"), "--out", str(folder / "csv")]
    )
    print(f"\nmedtail evaluate on CSV files ({size:.0f} MB), fresh process: {seconds:.1f} s, peak {peak:.2f} GB")
    return seconds, peak


def parquet_command(size: tuple[int, int, int], folder: Path) -> None:
    made_up(*size).write(folder / "predictions.parquet")
    seconds, peak = command(["evaluate", str(folder / "predictions.parquet"), "--out", str(folder / "huge")])
    print(
        f"\nmedtail evaluate from Parquet, {size[0]:,} x {size[1]}, {size[2]:,} patients, 1,000 resamples:"
        f" {seconds:.1f} s, peak {peak:.2f} GB"
    )


def fortieth() -> float:
    predictions = made_up(8000, 40, 1300)
    patients, count = number_patients(predictions.patients)
    weights = draw_weights(count, resamples=256)
    ranked = [rank_rows(predictions.scores[:, c], predictions.targets[:, c], patients) for c in range(40)]
    best = np.inf
    for _ in range(4):
        started = time.perf_counter()
        resample_ranked(ranked, weights, engine="compiled", threads=THREADS)
        best = min(best, time.perf_counter() - started)
    print(f"\n8,000 x 40, 256 resamples, ranked kernel alone: {best:.3f} s")
    return best


def growth(rows: int, classes: int, patients: int) -> None:
    print("\ngrowth (evaluate, 1,000 resamples):")
    for share in (8, 4, 2, 1):
        size = (rows // share, classes, patients // share)
        print(f"  {size[0]:7,} images x {size[1]:2d}: {seconds_of(size):6.2f} s")
    for count in (classes // 4, classes // 2):
        print(f"  {rows:7,} images x {count:2d}: {seconds_of((rows, count, patients)):6.2f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a tenth of the size, no limits checked")
    parser.add_argument("--huge", action="store_true", help="also 377,110 x 45 from Parquet")
    arguments = parser.parse_args()
    tenth = 10 if arguments.quick else 1
    design = (DESIGN[0] // tenth, DESIGN[1], DESIGN[2] // tenth)
    print(f"{THREADS} threads; load before the run {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    warm_up()
    predictions = made_up(*design)
    before = peak_gb()
    started = time.perf_counter()
    results = evaluate(predictions, config=EvaluationConfig(bootstrap=RESAMPLES), threads=THREADS)
    ours, peak = time.perf_counter() - started, peak_gb()
    print(
        f"\nevaluate, {design[0]:,} x {design[1]}, {design[2]:,} patients, 1,000 resamples: {ours:.2f} s,"
        f" {len(results):,} rows; peak {peak:.2f} GB ({before:.2f} before)"
    )
    parts(predictions)
    loop = loop_seconds(predictions)
    faster = loop * RESAMPLES / ours
    print(
        f"scikit-learn loop: {loop:.2f} s a resample (mean of {LOOPED}), so {loop * RESAMPLES:,.0f} s for 1,000"
        f" (extrapolated): {faster:,.0f} times slower"
    )
    with tempfile.TemporaryDirectory() as made:
        csv_seconds, _ = csv_command(predictions, Path(made))
        if arguments.huge:
            parquet_command((HUGE[0] // tenth, HUGE[1], HUGE[2] // tenth), Path(made))
    kernel = fortieth()
    growth(*design)
    if arguments.quick:
        return 0
    measured = dict(zip(LIMITS, (ours, peak, csv_seconds, kernel), strict=True))
    missed = [
        f"{name}: {measured[name]:.2f}, limit {limit}" for name, limit in LIMITS.items() if measured[name] >= limit
    ]
    if faster < FASTER:
        missed.append(f"{faster:.0f} times faster than the loop, expected {FASTER:.0f}")
    print("\n" + ("all limits kept" if not missed else "MISSED: " + "; ".join(missed)))
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
