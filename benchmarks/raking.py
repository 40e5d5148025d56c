"""How long raking takes at the size of the largest public chest sets, and how near it comes to what is wanted.

    python benchmarks/raking.py [--rows 300000] [--labels 45] [--repeats 5]

Two tables of labels from 40 % down to 0.2 %: one in which every label is drawn by itself, so that few rows are equal
(the worst case, since equal rows share all arithmetic), and one in which labels lean on six hidden traits, as findings
do. For each and for the start, middle and end of a training: seconds (the least of the repeats, and all of them), the
largest weight in units of an equal share, the share of rows the weights are worth, κ, and the worst relative miss of
any label. Misses above 2 % come from the cap of ten times an equal share, not from the solver.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from medtail.sampling.raking import rake, wanted_shares


def independent(rows: int, labels: int, *, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.random((rows, labels)) < np.geomspace(0.4, 0.002, labels)


def leaning(rows: int, labels: int, *, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    traits = random.normal(size=(rows, 6))
    lean = traits @ random.normal(scale=0.8, size=(6, labels)) + random.logistic(size=(rows, labels))
    cuts = [np.quantile(lean[:, c], 1 - share) for c, share in enumerate(np.geomspace(0.4, 0.002, labels))]
    return lean > np.array(cuts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--labels", type=int, default=45)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    print(f"{given.rows:,} rows x {given.labels} labels")
    for make in (independent, leaning):
        table = make(given.rows, given.labels)
        print(f"{make.__name__}: {len(np.unique(np.packbits(table, axis=1), axis=0)):,} different rows")
        for progress in (0.0, 0.5, 1.0):
            seconds = []
            for _ in range(given.repeats):
                began = time.perf_counter()
                wanted, steered = wanted_shares(table, progress=progress)
                raked = rake(table, wanted, steered=steered)
                seconds.append(time.perf_counter() - began)
            miss = np.abs(raked.reached / raked.wanted - 1).max()
            print(
                f"  progress {progress}: {min(seconds):.2f} s ({', '.join(f'{value:.2f}' for value in seconds)});"
                f" largest weight {raked.largest:.1f}, worth {raked.ess / given.rows:.0%} of the rows,"
                f" kappa {raked.kappa:g}, worst miss {miss:.1%}"
            )


if __name__ == "__main__":
    main()
