"""A made-up edition of the CXR-LT challenge: 12 classes, 400 images, 150 patients, a long tail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.sources.cxr_lt import ChallengeClass, ChallengeTask, Edition

COUNTS = (420, 400, 300, 200, 120, 100, 60, 40, 30, 8, 5, 4)
NAMES = ("Support Devices", "Edema", "Effusion", "Opacity", "Pneumonia", "Normal", "Nodule", "Mass", "Hernia",
         "Fibrosis", "Pneumothorax", "Pneumomediastinum")  # fmt: skip


@dataclass(frozen=True)
class World:
    """An edition, its truth and a system's scores, as tables and as files."""

    edition: Edition
    truth: pd.DataFrame
    scores: pd.DataFrame
    folder: Path
    write: Callable[..., Path]

    @property
    def names(self) -> list[str]:
        return list(NAMES)

    @property
    def targets(self) -> np.ndarray:
        return self.truth[list(NAMES)].to_numpy(dtype=float)

    @property
    def values(self) -> np.ndarray:
        return self.scores[list(NAMES)].to_numpy(dtype=float)


@pytest.fixture
def world(tmp_path: Path) -> World:
    random = np.random.default_rng(7)
    images, patients = 400, 150
    share = np.clip(np.array(COUNTS) / 1000, 0.02, None)
    who = np.concatenate([np.arange(patients), random.integers(0, patients, images - patients)])
    logits = np.log(share / (1 - share)) + random.normal(size=(patients, 1))[who] + random.normal(size=(images, 12))
    targets = (logits + random.logistic(size=logits.shape) > 0).astype(int)
    targets[:3] = 1  # every class has positives, of three patients
    scores = 1 / (1 + np.exp(-(logits + random.normal(size=logits.shape))))
    ids = [f"img{number:04d}" for number in random.permutation(images)]
    truth = pd.DataFrame(targets, columns=list(NAMES))
    truth.insert(0, "dicom_id", ids)
    truth.insert(1, "subject_id", [f"{10_000_000 + patient}" for patient in who])
    table = pd.DataFrame(scores, columns=list(NAMES))
    table.insert(0, "dicom_id", ids)
    edition = Edition(
        name="made-up",
        classes=tuple(
            ChallengeClass(name, count, aliases=("No Finding",) if name == "Normal" else ())
            for name, count in zip(NAMES, COUNTS, strict=True)
        ),
        tasks={1: ChallengeTask(1, "made up", NAMES, images)},
        train_images=1000,
    )

    def write(frame: pd.DataFrame, name: str = "scores.csv") -> Path:
        path = tmp_path / name
        frame.to_csv(path, index=False)
        return path

    return World(edition, truth, table, tmp_path, write)
