"""How fast and how even the splits are: on the full NIH label table, and against scikit-learn on one label.

    python benchmarks/splits.py --data ../shared/data [--seeds 5]

Prints, for five folds and for 70/15/15 of `nih14_labels_full.csv.gz` (112,120 images, 30,805 patients, 14 findings),
the time and each class's worst relative deviation from its target share in any fold, beside the best that whole images
allow (227 images do not divide by five). Then, label by label, the worst deviation of our five folds and of
scikit-learn's StratifiedGroupKFold with the same seeds.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from medtail.tables.splits import assign_groups

FIVE = (0.2,) * 5


def counts_by_fold(targets: np.ndarray, fold: np.ndarray, folds: int) -> np.ndarray:
    return np.array([(targets[fold == k] == 1).sum(axis=0) for k in range(folds)])


def deviations(targets: np.ndarray, fold: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Worst relative deviation of each class's images from its share in any fold, [classes]."""
    counts = counts_by_fold(targets, fold, len(shares))
    wanted = counts.sum(axis=0) * np.asarray(shares)[:, None]
    return np.abs(counts / wanted - 1).max(axis=0)


def best_possible(total: int, shares: Sequence[float]) -> float:
    """Worst relative deviation of `total` whole images shared out as evenly as can be (bisection on the bound)."""
    wanted = total * np.asarray(shares)
    low, high = 0.0, 1.0
    for _ in range(50):
        bound = (low + high) / 2
        least, most = np.ceil(wanted * (1 - bound) - 1e-9), np.floor(wanted * (1 + bound) + 1e-9)
        works = bool((least <= most).all()) and least.sum() <= total <= most.sum()
        low, high = (low, bound) if works else (bound, high)
    return high


def patient_counts(targets: np.ndarray, owner: np.ndarray, fold: np.ndarray, folds: int) -> np.ndarray:
    return np.array(
        [[len(np.unique(owner[(fold == k) & (column == 1)])) for column in targets.T] for k in range(folds)]
    )


def measure_full(data: Path, seeds: int) -> None:
    table = pd.read_csv(data / "nih_cxr" / "nih14_labels_full.csv.gz")
    names = [c for c in table.columns if c not in ("image", "patient")]
    targets, owner = table[names].to_numpy(dtype=float), table["patient"].to_numpy()
    print(f"{len(table):,} images of {len(np.unique(owner)):,} patients, {len(names)} classes")
    for shares in (FIVE, (0.7, 0.15, 0.15)):
        for seed in range(seeds):
            start, cpu = time.perf_counter(), time.process_time()
            fold = assign_groups(targets, owner, fractions=shares, seed=seed)
            took, cpu = time.perf_counter() - start, time.process_time() - cpu
            worst = deviations(targets, fold, shares)
            sizes = np.abs(np.bincount(fold) / len(fold) / np.asarray(shares) - 1).max()
            patients = patient_counts(targets, owner, fold, len(shares))
            people = np.abs(patients / (patients.sum(axis=0) * np.asarray(shares)[:, None]) - 1).max()
            rarest = int(np.argmax(worst))
            bound = best_possible(int(targets[:, rarest].sum()), shares)
            print(
                f"  {len(shares)} folds, seed {seed}: {took:.2f} s ({cpu:.2f} s of processor); worst class"
                f" {names[rarest]} {worst[rarest]:.2%} (whole images allow {bound:.2%}), next"
                f" {np.sort(worst)[-2]:.2%}, fold size {sizes:.3%}, positive patients {people:.2%}"
            )


def sklearn_folds(label: np.ndarray, owner: np.ndarray, seed: int) -> np.ndarray:
    fold = np.empty(len(label), dtype=int)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        oracle = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        for k, (_, rows) in enumerate(oracle.split(np.zeros(len(label)), label, owner)):
            fold[rows] = k
    return fold


def compare(data: Path, seeds: int) -> None:
    bus, cxr = (pd.read_csv(data / name / "labels.csv") for name in ("bus_bra", "nih_cxr"))
    full = pd.read_csv(data / "nih_cxr" / "nih14_labels_full.csv.gz")
    cases = [("bus_bra", bus, column) for column in ("pathology", "birads", "device", "histology")]
    cases += [("nih_cxr", cxr, column) for column in cxr.columns[3:]]
    cases += [("nih14 full", full, column) for column in ("Effusion", "Hernia")]
    print("one label, 5 folds: worst relative deviation of a class's images, mean over seeds (ours / scikit-learn)")
    better = equal = worse = 0
    for name, table, column in cases:
        label, owner = table[column].astype(str).to_numpy(), table["patient"].to_numpy()
        one_hot = (label[:, None] == np.unique(label)).astype(float)
        pairs = []
        for seed in range(seeds if len(table) < 10_000 else 1):
            ours = deviations(one_hot, assign_groups(one_hot, owner, fractions=FIVE, seed=seed), FIVE).max()
            pairs.append((ours, deviations(one_hot, sklearn_folds(label, owner, seed), FIVE).max()))
        ours_mean, theirs_mean = np.mean(pairs, axis=0)
        better += sum(a < b - 1e-9 for a, b in pairs)
        equal += sum(abs(a - b) <= 1e-9 for a, b in pairs)
        worse += sum(a > b + 1e-9 for a, b in pairs)
        print(f"  {name:10} {column:20} {ours_mean:8.2%} / {theirs_mean:8.2%}")
    print(f"  ours better in {better}, equal in {equal}, worse in {worse} of {better + equal + worse} splits")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder holding bus_bra/ and nih_cxr/")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    measure_full(arguments.data, arguments.seeds)
    compare(arguments.data, arguments.seeds)


if __name__ == "__main__":
    main()
