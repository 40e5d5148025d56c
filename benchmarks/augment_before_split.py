"""What augmenting before splitting does to the figure one prints: optimism, never a model's score.

    python benchmarks/augment_before_split.py --data ../shared/data/bus_bra

The task is rare malignant histologies against benign lesions on BUS-BRA, by a ridge classifier on frozen features of
an ImageNet network, so that minutes suffice and nothing is tuned. Each repetition first sets a fifth of the
patients aside (fresh). The rest becomes train and internal test, nine to one, in three ways:

    patients   split by patient, then nine augmented copies of each malignant train image
    images     split by image, so that a patient's other view may be in train, then copies as above
    copies     nine augmented copies first, each with a patient_id of its own (that is the mistake), then split by image

Printed is the AUROC of the internal test (what would be claimed), that of the same classifier on the fresh patients
(what is true), and their difference, the optimism: means over repetitions with the range of 95 % of them, and for the
optimism a 95 % t interval of the mean, which speaks of the choice of split on this data set, not of other data sets.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from medtail.models.backbones import EfficientNetLite0Config, build_backbone
from medtail.pixels.augment import AugmentConfig, apply_augmentation, draw_augmentation
from medtail.pixels.dataset import to_float
from medtail.pixels.settings import PixelConfig
from medtail.pixels.store import open_store
from medtail.sources.bus_bra import import_bus_bra
from medtail.tables.manifest import Manifest

COPIES = 9
COMMON = "histology=invasive ductal carcinoma"
SEED = 0
RIDGE = 100.0
ARMS = ("patients", "images", "copies")


def task(data: Path) -> tuple[Manifest, np.ndarray]:
    """Benign lesions, and malignant ones other than the common carcinoma; 1 for the latter."""
    manifest = import_bus_bra(data)
    malignant, common = (manifest.frame[name].to_numpy() == 1 for name in ("malignant", COMMON))
    kept = manifest.take(np.flatnonzero(~(malignant & common)))
    return kept, (kept.frame["malignant"].to_numpy() == 1).astype(int)


def features(manifest: Manifest, labels: np.ndarray, *, size_px: int, profile: str) -> tuple[np.ndarray, np.ndarray]:
    """Features of every image [n, D], and of the copies of malignant ones [n, COPIES, D] (NaN elsewhere)."""
    store = open_store(manifest, PixelConfig(size_px=size_px, crop="roi"))
    network = build_backbone(EfficientNetLite0Config(), channels=1, size_px=size_px).eval()
    generator = torch.Generator().manual_seed(SEED)
    config = AugmentConfig(profile=profile)  # type: ignore[arg-type]

    def of(images: torch.Tensor) -> np.ndarray:
        with torch.inference_mode():
            return np.concatenate([network(part).mean(dim=(2, 3)).numpy() for part in images.split(64)])

    images = to_float(torch.from_numpy(store.images(np.arange(len(manifest)))))
    plain = of(images)
    copies = np.full((len(manifest), COPIES, plain.shape[1]), np.nan, dtype=np.float32)
    malignant = np.flatnonzero(labels == 1)
    for k in range(COPIES):
        drawn = draw_augmentation(len(malignant), config, generator=generator, size_px=size_px)
        copies[malignant, k] = of(apply_augmentation(images[malignant], drawn))
    return plain, copies


def auroc(train: tuple[np.ndarray, np.ndarray], *judged: tuple[np.ndarray, np.ndarray]) -> list[float]:
    """Fit on one set and judge on others."""
    scale = StandardScaler().fit(train[0])
    model = RidgeClassifier(alpha=RIDGE).fit(scale.transform(train[0]), train[1])
    return [float(roc_auc_score(labels, model.decision_function(scale.transform(rows)))) for rows, labels in judged]


def repetition(
    plain: np.ndarray, copies: np.ndarray, labels: np.ndarray, patients: np.ndarray, *, seed: int
) -> dict[str, tuple[float, float]]:
    """Return claimed and true AUROC of each arm for one choice of splits."""

    random = np.random.default_rng([SEED, seed])

    def deal(rows: np.ndarray, groups: np.ndarray, share: float) -> np.ndarray:
        """Choose whole groups at random, the same share of those with and without a malignant image."""
        names, member = np.unique(groups, return_inverse=True)
        is_malignant = np.bincount(member, weights=labels[rows]) > 0
        chosen = np.zeros(len(names), dtype=bool)
        for kind in (True, False):
            of_kind = random.permutation(np.flatnonzero(is_malignant == kind))
            chosen[of_kind[: round(share * len(of_kind))]] = True
        return chosen[member]

    is_fresh = deal(np.arange(len(labels)), patients, 0.2)
    fresh, pool = np.flatnonzero(is_fresh), np.flatnonzero(~is_fresh)
    found = {}
    for arm in ARMS:
        if arm == "copies":
            # every copy is an image, and a patient, of its own: what splitting last amounts to
            positive = pool[labels[pool] == 1]
            rows = np.concatenate([pool, np.repeat(positive, COPIES)])
            table = np.concatenate([plain[pool], copies[positive].reshape(-1, plain.shape[1])])
            in_test = deal(rows, np.arange(len(rows)), 0.1)
            train, test = (table[~in_test], labels[rows[~in_test]]), (table[in_test], labels[rows[in_test]])
        else:
            in_test = deal(pool, patients[pool] if arm == "patients" else pool, 0.1)
            rows = pool[~in_test]
            positive = rows[labels[rows] == 1]
            table = np.concatenate([plain[rows], copies[positive].reshape(-1, plain.shape[1])])
            train = (table, np.concatenate([labels[rows], np.ones(len(positive) * COPIES, dtype=int)]))
            test = (plain[pool[in_test]], labels[pool[in_test]])
        claimed, true = auroc(train, test, (plain[fresh], labels[fresh]))
        found[arm] = (claimed, true)
    return found


def summary(values: np.ndarray) -> dict[str, float]:
    """Mean over repetitions, the range of 95 % of them, and the t interval of the mean."""
    low, high = np.quantile(values, [0.025, 0.975])
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    mean = values.mean()
    return {"mean": mean, "range_low": low, "range_high": high, "mean_low": mean - half, "mean_high": mean + half}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--size-px", type=int, default=96)
    parser.add_argument("--augment", default="literal", help="profile of the copies")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    manifest, labels = task(options.data)
    plain, copies = features(manifest, labels, size_px=options.size_px, profile=options.augment)
    patients = manifest.patients
    print(
        f"{len(labels)} images of {len(set(patients))} patients; malignant {labels.sum()} images of"
        f" {len(set(patients[labels == 1]))} patients; features after {time.perf_counter() - started:.0f} s",
        flush=True,
    )
    runs = [repetition(plain, copies, labels, patients, seed=seed) for seed in range(options.repetitions)]
    figures = {}
    print(f"{'arm':10} {'claimed':26} {'fresh patients':26} optimism (t interval of the mean)")
    for arm in ARMS:
        claimed, true = np.array([run[arm] for run in runs]).T
        figures[arm] = {
            name: summary(values)
            for name, values in (("claimed", claimed), ("fresh", true), ("optimism", claimed - true))
        }
        cells = [
            "{mean:.3f} ({range_low:.3f}-{range_high:.3f})".format(**figures[arm][n]) for n in ("claimed", "fresh")
        ]
        o = figures[arm]["optimism"]
        print(f"{arm:10} {cells[0]:26} {cells[1]:26} {o['mean']:+.3f} [{o['mean_low']:+.3f}, {o['mean_high']:+.3f}]")
    print(f"{options.repetitions} repetitions, copies by {options.augment!r}; {time.perf_counter() - started:.0f} s")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
