"""Training cases that look alike to the model: the nearest by the features its head pools.

Only where the person who starts the server names a manifest, for whoever may open the page then sees its images. The
features are computed once, at the start; the cases' pixels stay in the store they were trained from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from medtail.errors import MedtailError
from medtail.pixels.store import PixelStore, open_store
from medtail.serving.diagnosis import Diagnosis
from medtail.tables.manifest import Manifest, read_manifest

SHOWN = 5
BATCH_SIZE = 32
Progress = Callable[[int, int], None]


@final
@dataclass(frozen=True, eq=False)
class SimilarCases:
    """Labelled images and their features.

    Attributes:
        manifest: The rows.
        store: Their pixels.
        features: float32 [N, D], each of length 1.
    """

    manifest: Manifest
    store: PixelStore
    features: np.ndarray

    def __len__(self) -> int:
        return len(self.manifest)

    def nearest(self, features: np.ndarray, *, count: int = SHOWN) -> list[tuple[int, float]]:
        """Return the rows of the nearest cases with their cosine similarity, the nearest first; one a patient.

        Args:
            features: float32 [D] of length 1.
            count: At most so many.
        """
        likeness = self.features @ features
        found: list[tuple[int, float]] = []
        patients: set[str] = set()
        for row in np.argsort(-likeness, kind="stable"):
            patient = str(self.manifest.patients[row])
            if patient not in patients:  # five views of one lesion would say little
                patients.add(patient)
                found.append((int(row), float(likeness[row])))
            if len(found) == count:
                break
        return found

    def describe(self, row: int, likeness: float) -> dict[str, Any]:
        """Return what to show of a case: its labels, never its patient."""
        targets = self.manifest.targets[row]
        names = self.manifest.labels.class_names
        return {
            "image_id": str(self.manifest.frame["image_id"].iloc[row]),
            "similarity": round(likeness, 4),
            "present": [name for name, value in zip(names, targets, strict=True) if value == 1],
        }

    def picture(self, row: int) -> np.ndarray:
        """Return what the model saw of a case, uint8 [S, S] or [S, S, 3]."""
        square = self.store.images([row])[0]
        return np.ascontiguousarray(square[0] if len(square) == 1 else np.moveaxis(square, 0, -1))


def read_cases(path: Path, diagnosis: Diagnosis, *, progress: Progress | None = None) -> SimilarCases:
    """Read a manifest and compute the features of its train fold, or of all real rows where it has no folds.

    Args:
        path: The manifest, with the model's classes.
        diagnosis: The model.
        progress: Called with (images done, images).

    Raises:
        MedtailError: The manifest is wrong, lacks classes or has no rows to show.
    """
    manifest = read_manifest(path)
    rows = manifest.is_real
    if (manifest.folds != "").any():
        rows = rows & (manifest.folds == "train")
    if not rows.any():
        raise MedtailError(f"{path.name}: has no real row in the train fold; nothing to show as similar cases.")
    manifest = diagnosis.check_manifest(manifest.take(np.asarray(rows, dtype=bool)))
    store = open_store(manifest, diagnosis.pixels)
    features = []
    for first in range(0, len(manifest), BATCH_SIZE):
        part = np.arange(first, min(first + BATCH_SIZE, len(manifest)))
        features.append(diagnosis.features(store.images(part), store.content_boxes[part]))
        if progress is not None:
            progress(int(part[-1]) + 1, len(manifest))
    return SimilarCases(manifest, store, np.concatenate(features))
