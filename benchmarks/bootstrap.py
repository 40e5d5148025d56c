"""How fast the ranked bootstrap is, against a loop over scikit-learn in the same run.

    python benchmarks/bootstrap.py [--full]

Prints the seconds of the two sizes people meet (a 5,000-row table with 1,000 resamples; a fortieth of the CXR-LT
test set) and of one whole evaluation; `--full` adds the CXR-LT test set itself. The scikit-learn loop is timed on a
few resamples and its per-resample time multiplied. Exits 1 where the fortieth takes half a second or more.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from medtail.judging.bootstrap import Engine, PatientWeights, RankedRows, draw_weights, rank_rows, resample_ranked
from medtail.judging.evaluation import EvaluationConfig, evaluate
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions

LIMIT_S = 0.5
LOOPED = 3


def made_up(rows: int, classes: int, patients: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    targets = (random.random((rows, classes)) < np.geomspace(0.3, 0.003, classes)).astype(float)
    scores = 1 / (1 + np.exp(2 - 1.5 * targets - random.normal(size=(rows, classes))))
    return scores, targets, random.integers(0, patients, rows)


def ranked(scores: np.ndarray, targets: np.ndarray, owners: np.ndarray) -> list[RankedRows]:
    return [rank_rows(scores[:, c], targets[:, c], owners) for c in range(scores.shape[1])]


def loop_seconds(scores: np.ndarray, targets: np.ndarray, owners: np.ndarray, weights: PatientWeights) -> float:
    started = time.perf_counter()
    for b in range(LOOPED):
        weight = weights.blocks[0][owners, b]
        for c in range(scores.shape[1]):
            average_precision_score(targets[:, c], scores[:, c], sample_weight=weight)
            roc_auc_score(targets[:, c], scores[:, c], sample_weight=weight)
    return (time.perf_counter() - started) / LOOPED * weights.resamples


def measure(rows: int, classes: int, patients: int, resamples: int, engines: tuple[Engine, ...]) -> dict[Engine, float]:
    scores, targets, owners = made_up(rows, classes, patients)
    started = time.perf_counter()
    weights = draw_weights(patients, resamples=resamples)
    drawn = time.perf_counter()
    order = ranked(scores, targets, owners)
    sorted_at = time.perf_counter()
    print(f"\n{rows:,} rows x {classes} classes, {patients:,} patients, {resamples:,} resamples")
    print(f"  draw {drawn - started:.3f} s, sort and flag {sorted_at - drawn:.3f} s")
    loop = loop_seconds(scores, targets, owners, weights)
    print(f"  scikit-learn loop {loop:.1f} s (from {LOOPED} resamples)")
    seconds: dict[Engine, float] = {}
    for engine in engines:
        started = time.perf_counter()
        resample_ranked(order, weights, engine=engine)
        first = time.perf_counter() - started
        repeated = []
        for _ in range(3):
            started = time.perf_counter()
            resample_ranked(order, weights, engine=engine)
            repeated.append(time.perf_counter() - started)
        seconds[engine] = min(repeated)
        total = (sorted_at - drawn) + seconds[engine]
        print(
            f"  {engine:8s} {seconds[engine]:.3f} s (first call {first:.3f} s);"
            f" with sorting {loop / total:,.0f} times the loop's speed"
        )
    return seconds


def whole_evaluation() -> None:
    scores, targets, owners = made_up(5000, 14, 5000)
    ids = np.array([f"i{row}" for row in range(5000)], dtype=object)
    labels = LabelSpace(tuple(f"class {c}" for c in range(14)))
    owned = np.array([f"p{owner}" for owner in owners], dtype=object)
    predictions = Predictions(ids, owned, scores, targets, labels, np.array(["test"] * 5000, dtype=object))
    started = time.perf_counter()
    evaluate(predictions, config=EvaluationConfig(bootstrap=1000))
    print(f"\nevaluate, 5,000 rows x 14 classes, 1,000 resamples, all metrics: {time.perf_counter() - started:.2f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--full", action="store_true", help="also 78,946 rows x 40 classes x 1,024 resamples")
    arguments = parser.parse_args()
    measure(5000, 14, 5000, 1000, ("numpy", "compiled"))
    fortieth = measure(8000, 40, 1300, 256, ("numpy", "compiled"))["compiled"]
    if arguments.full:
        measure(78_946, 40, 13_000, 1024, ("compiled",))
    whole_evaluation()
    print(f"\nfortieth size, after compilation: {fortieth:.3f} s; limit {LIMIT_S} s")
    return int(fortieth >= LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
