"""How long the search for an ensemble takes at the size of the CXR-LT test set, and what it finds there.

    python benchmarks/ensemble_search.py [--quick] [--method class_greedy]

12 members x 40 findings (30 % ... 0.05 %) x 78,946 images of 45,000 patients, all made up: members share most of
their mistakes, three are clearly worse, and one is good at the rare findings alone. Timed is `fit_ensemble` with its
guard (the search repeated in two patient folds, and a paired bootstrap), on 2 threads, after the kernels are compiled.
What was chosen is judged on fresh images. `--quick` runs a tenth of the size; only the full size has a limit.
Exits 1 where the limit is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import numpy as np

from medtail.judging.ensemble_fitting import METHODS, EnsembleConfig, fit_ensemble
from medtail.judging.metrics import average_precision, per_class
from medtail.tables.combine import combine_predictions
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions

MEMBERS, CLASSES, IMAGES, PATIENTS, THREADS = 12, 40, 78_946, 45_000, 2
LIMIT_SECONDS = 60.0


def made_up(images: int, patients: int, fold: str, seed: int) -> list[Predictions]:
    random = np.random.default_rng(seed)
    prevalence = np.geomspace(0.3, 0.0005, CLASSES)
    targets = (random.random((images, CLASSES)) < prevalence).astype(float)
    targets[0] = 1.0  # every finding is there at least once, also in the quick run
    shared = random.normal(size=targets.shape)
    owners = random.permutation(np.concatenate([np.arange(patients), random.integers(0, patients, images - patients)]))
    prior = np.log(prevalence / (1 - prevalence))
    tables = []
    for member in range(MEMBERS):
        skill = np.full(CLASSES, 1.0 if member in (2, 5, 9) else 2.0)
        if member == 7:
            skill = np.where(prevalence < 0.01, 3.0, 1.0)
        logits = prior - 1 + skill * targets + shared + 0.7 * random.normal(size=targets.shape)
        tables.append(
            Predictions(
                image_ids=np.array([f"image{row:06d}" for row in range(images)], dtype=object),
                patients=np.array([f"p{owner:06d}" for owner in owners], dtype=object),
                scores=1 / (1 + np.exp(-logits)),
                targets=targets,
                labels=LabelSpace(tuple(f"finding {c:02d}" for c in range(CLASSES))),
                folds=np.array([fold] * images, dtype=object),
                name=f"member {member}",
            )
        )
    return tables


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a tenth of the size, no limit checked")
    parser.add_argument("--method", choices=METHODS, default="class_greedy")
    arguments = parser.parse_args()
    tenth = 10 if arguments.quick else 1
    images, patients = IMAGES // tenth, PATIENTS // tenth
    print(f"{THREADS} threads; load before the run {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    config = EnsembleConfig(method=arguments.method)
    started = time.perf_counter()
    fit_ensemble(made_up(2000, 1000, "tune", 2), config=config, threads=THREADS)
    print(f"compiling, or loading from the cache, and a small fit: {time.perf_counter() - started:.1f} s")
    tune = made_up(images, patients, "tune", 0)
    started, used = time.perf_counter(), time.process_time()
    found = fit_ensemble(tune, config=config, threads=THREADS)
    seconds, cpu = time.perf_counter() - started, time.process_time() - used
    print(
        f"{MEMBERS} members x {CLASSES} classes x {images:,} images, {arguments.method}: {seconds:.1f} s"
        f" ({cpu:.0f} s of CPU)"
    )
    guard = found.evidence.get("guard")
    if guard is not None:
        print(
            f"guard: {guard['change']:+.4f} [{guard['low']:+.4f}, {guard['high']:+.4f}], accepted {guard['accepted']}"
        )
    del tune
    fresh = made_up(images, patients, "test", 1)

    def value(table: Predictions) -> float:
        return float(np.nanmean(per_class(average_precision, table.scores, table.targets)))

    best = max(range(MEMBERS), key=lambda member: found.evidence["member_macro_ap"][member])
    print(
        f"fresh images, mAP: best member {value(fresh[best]):.4f}, mean {value(combine_predictions(fresh)):.4f},"
        f" {found.method} {value(found.combine(fresh)):.4f}"
    )
    if not arguments.quick and seconds >= LIMIT_SECONDS:
        print(f"MISSED: {seconds:.1f} s, limit {LIMIT_SECONDS:.0f}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
