"""Settings of the BUS-BRA recipe compared by cross-validation on the official folds 1-3; fold 4 is never opened.

    python benchmarks/bus_bra_folds.py --data ../shared/data/bus_bra adjusted:0 plain:0 adjusted:1
    python benchmarks/bus_bra_folds.py --data ../shared/data/bus_bra --table adjusted:0 plain:0 adjusted:0+adjusted:1

A cell is CANDIDATE:SEED. Each is trained three times, on two of the folds (a tenth of them tune), and scored on the
third. Finished cells are kept, so a run may be cut off and several may share one folder. `--table` prints, over the
three held-out folds, macro AUROC, mAP and macro-F1 of the histologies; `a+b` averages the scores of cells.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bus_bra import PIXELS, figures, plain_script

from medtail.pixels.store import open_store
from medtail.sources.bus_bra import import_bus_bra
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.splits import split_manifest
from medtail.training.config import merge, train_config
from medtail.training.ensembles import train
from medtail.training.predict import predict

FOLDS = ("1", "2", "3")
BASE: dict[str, Any] = {
    "recipe": "long_tail_finetune",
    "classes": ["malignant", "histology=*"],
    "pixels": {"size_px": 128, "crop": "roi", "margin": 0.15},
    "optimizer": {"epochs": 14},
    "test_time_flip": True,
}
CANDIDATES: dict[str, dict[str, Any]] = {
    "adjusted": {},
    "unadjusted": {"loss": {"kind": "cross_entropy"}},
    "half_rate": {"optimizer": {"learning_rate": 5e-4}},
    "histology_only": {"classes": ["histology=*"]},
    "light_augment": {"augment": {"profile": "none", "flip": 0.5, "gain": 0.15}},
    "px160": {"pixels": {"size_px": 160}},
}


def held_out(data: Path, out: Path, fold: str) -> Manifest:
    """Folds 1-3 with one of them as test and a tenth of the others, by patient, as tune."""
    path = out / f"fold_{fold}.csv"
    if not path.exists():
        manifest = import_bus_bra(data)
        official = manifest.frame["meta_fold5"].to_numpy()
        rest = manifest.take(np.isin(official, FOLDS))
        folds = np.where(rest.frame["meta_fold5"].to_numpy() == fold, "test", "")
        split_manifest(rest.with_folds(folds), fractions={"train": 0.9, "tune": 0.1}, seed=0).manifest.write(path)
    return read_manifest(path)


def scores_of(cell: str, manifest: Manifest, fold: str, out: Path) -> np.ndarray:
    """Train a cell on one split and return its scores of the histologies on the held-out fold."""
    path = out / f"{cell.replace(':', '_')}_{fold}.npy"
    if path.exists():
        return np.load(path)
    started = time.perf_counter()
    name, seed = cell.split(":")
    histologies = [n for n in manifest.labels.class_names if n.startswith("histology=")]
    is_test = manifest.folds == "test"
    if name == "plain":
        images = open_store(manifest, PIXELS).images(np.arange(len(manifest)))
        targets = manifest.with_classes(histologies).targets
        found = plain_script(
            images, targets, np.flatnonzero(~is_test), np.flatnonzero(is_test), epochs=18, seed=int(seed)
        )
    else:
        values = merge(
            merge(BASE, CANDIDATES[name]), {"manifest": str((out / f"fold_{fold}.csv").resolve()), "seed": int(seed)}
        )
        run = out / path.stem
        shutil.rmtree(run, ignore_errors=True)
        train(train_config(values), run, quiet=True)
        predictions = predict(run, manifest, fold="test", quiet=True)
        found = predictions.scores[:, [predictions.labels.index(n) for n in histologies]]
        shutil.rmtree(run)
    np.save(path, found)
    print(f"{cell} fold {fold}: {(time.perf_counter() - started) / 60:.1f} min", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/bus_bra_folds"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="print what is finished; train nothing")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    manifests = {fold: held_out(options.data, options.out, fold) for fold in FOLDS}
    for entry in options.cells:
        rows = []
        for fold, manifest in manifests.items():
            cells = entry.split("+")
            missing = [c for c in cells if not (options.out / f"{c.replace(':', '_')}_{fold}.npy").exists()]
            if options.table and missing:
                continue
            scores = np.mean([scores_of(c, manifest, fold, options.out) for c in cells], axis=0)
            histologies = [n for n in manifest.labels.class_names if n.startswith("histology=")]
            targets = manifest.with_classes(histologies).targets[manifest.folds == "test"]
            rows.append(figures(scores, targets, (tuple(range(len(histologies))),)))
        if rows:
            means = {name: np.mean([row[name] for row in rows]) for name in rows[0]}
            text = "  ".join(f"{n} {m:.3f} ({' '.join(f'{row[n]:.3f}' for row in rows)})" for n, m in means.items())
            print(f"{entry:40} {len(rows)} folds  {text}", flush=True)


if __name__ == "__main__":
    main()
