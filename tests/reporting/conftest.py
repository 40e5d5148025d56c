"""A judged long tail with everything awkward in it: an absent class, unassessed labels, markup in names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medtail.judging.evaluation import EvaluationConfig, evaluate
from medtail.tables.manifest import Manifest, manifest_from_frame
from medtail.tables.predictions import Predictions, scores_from_logits
from medtail.tables.results import Results
from medtail.tables.tail import count_classes

EVIL = '<script>alert("x")</script>&'
NAMES = ("common", "shape=oval", "shape=round", "shape=odd", "rare", EVIL, "absent")


@dataclass(frozen=True)
class Judged:
    manifest: Manifest
    predictions: Predictions
    results: Results
    evil: str = EVIL


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    """400 images of 200 patients, half of them judged; the class `rare` ranks well, the evil one at random."""
    root = tmp_path_factory.mktemp("judged")
    random = np.random.default_rng(3)
    rows, logits = [], []
    for index in range(400):
        patient = index // 2
        shape = ("oval", "oval", "oval", "round")[patient % 4]
        row = {
            "image_id": f"<b>i{index:03d}</b>" if index == 203 else f"i{index:03d}",
            "path": f"{index % 6}.png",
            "patient_id": f"p{patient:03d}",
            "fold": "train" if patient < 90 else ("tune" if patient < 100 else "test"),
            "site": ("north", "south")[patient % 3 == 0],
            "common": int(patient % 2 == 0),
            **{f"shape={value}": int(value == shape) for value in ("oval", "round", "odd")},
            "rare": np.nan if patient % 9 == 8 else int(patient % 12 == 1),
            EVIL: int(patient % 16 == 3),
            "absent": int(patient == 5),
        }
        rows.append(row)
        noise = random.normal(size=len(NAMES))
        skill = (1.0, 1.0, 1.0, 0.0, 3.0, 0.0, 0.0)
        logits.append([noise[c] - 1 + skill[c] * np.nan_to_num(row[name]) for c, name in enumerate(NAMES)])
    frame = pd.DataFrame(rows)
    manifest = manifest_from_frame(frame, name="judged.csv", root=root)
    for number in range(6):
        pixels = random.integers(0, 255, (300, 240)).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
    test = manifest.folds == "test"
    labels = manifest.labels
    order = [NAMES.index(name) for name in labels.class_names]
    scores = scores_from_logits(np.array(logits)[:, order], labels.group_indices)
    kept = manifest.take(test)
    predictions = Predictions(
        image_ids=kept.frame["image_id"].to_numpy(dtype=object),
        patients=kept.patients,
        scores=scores[test],
        targets=kept.targets.astype(float),
        labels=labels,
        folds=kept.folds,
        thresholds=dict.fromkeys(labels.class_names, 0.4),
        train_counts=count_classes(manifest),
        digests={"manifest": manifest.digest},
    )
    results = evaluate(predictions, config=EvaluationConfig(bootstrap=128, tail_cuts=(0.3, 0.11)))
    return Judged(manifest, predictions, results)


@pytest.fixture
def read_gray() -> object:
    """Read an image file to float [H, W] in [0, 1]."""

    def read(path: Path) -> np.ndarray:
        return np.asarray(Image.open(path).convert("L"), dtype=float) / 255.0

    return read
