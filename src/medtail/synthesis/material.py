"""What a generator learns from: real images of the train fold, their labels and their sketches.

Nothing else ever reaches it: rows of other folds and synthetic rows are left out here, before a pixel is read, and the
patients who are left are written into the generator's record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from medtail.errors import MedtailError
from medtail.pixels.dataset import to_float
from medtail.pixels.settings import PixelConfig
from medtail.pixels.store import PixelStore, open_store
from medtail.runs import digest_bytes
from medtail.seeding import stream
from medtail.synthesis.bank import SketchBank, bank_from_sketches
from medtail.synthesis.sketch import SketchConfig, Sketches, lines_of, sketch_images
from medtail.tables.manifest import Manifest

CHUNK = 256
Tick = Callable[[int, int], None]


@final
@dataclass(frozen=True, eq=False)
class Material:
    """The images a generator learns from.

    Attributes:
        manifest: Real rows of the train fold only.
        store: Their pixels.
        sketches: uint8 [N, S, S], 255 where a contour was found.
        has_sketch: False where the extractor found next to nothing, bool [N].
    """

    manifest: Manifest
    store: PixelStore
    sketches: np.ndarray
    has_sketch: np.ndarray

    @property
    def digest(self) -> str:
        """SHA-256 over pixels, labels and sketches."""
        parts = (self.manifest.targets, self.sketches, self.has_sketch)
        return digest_bytes(self.store.digest.encode(), *(np.ascontiguousarray(part).tobytes() for part in parts))

    def images(self, rows: np.ndarray) -> Tensor:
        """Return images, float32 [B, 1, S, S] in [0, 1]."""
        return to_float(torch.from_numpy(self.store.images(rows)))

    def sketch_maps(self, rows: np.ndarray) -> Tensor:
        """Return sketches, float32 [B, 1, S, S] in [0, 1]."""
        return to_float(torch.from_numpy(self.sketches[rows][:, None]))

    def bank(self) -> SketchBank:
        """Return the sketches as a bank that lends them, changed a little, to new images of the same class."""
        maps = self.sketches.astype(np.float32) / 255
        lines = lines_of(maps)
        ids = self.manifest.frame["image_id"].to_numpy(dtype=object)
        sketches = Sketches(maps, lines.mean(axis=(1, 2)), ~self.has_sketch, lines)
        return bank_from_sketches(sketches, targets=self.manifest.targets, image_ids=ids)

    def present(self, rows: np.ndarray) -> Tensor:
        """Return labels, float32 [B, classes] in {0, 1, NaN}."""
        return torch.from_numpy(self.manifest.targets[rows])


def train_part(manifest: Manifest) -> Manifest:
    """Return the rows a generator may learn from: real, in the train fold, with at least one class assessed.

    Raises:
        MedtailError: There are none, or a patient is in two folds.
    """
    manifest.check_folds("train")
    usable = (manifest.folds == "train") & manifest.is_real & (~np.isnan(manifest.targets)).any(axis=1)
    if not usable.any():
        raise MedtailError(
            f"{manifest.name}: no real image of the fold 'train' has a class assessed; a generator needs some. Make"
            f" folds with `medtail data split {manifest.name}`."
        )
    return manifest.take(usable)


def gather(
    manifest: Manifest, pixels: PixelConfig, sketch: SketchConfig, *, cache: Path | None, progress: Tick | None = None
) -> Material:
    """Prepare the train part of a manifest: pixels and sketches.

    Args:
        manifest: Any rows; those of `train_part` are used.
        pixels: How images are prepared, one channel.
        sketch: How sketches are extracted.
        cache: Folder of prepared pixels.
        progress: Called with (done, total) images.

    Returns:
        The material.

    Raises:
        MedtailError: No usable rows, or images that cannot be read.
    """
    part = train_part(manifest)
    assert bool((part.folds == "train").all()), "rows of another fold would leak into the generator"
    assert bool(part.is_real.all()), "a generator never learns from generated images"
    store = open_store(part, pixels, cache=cache, progress=progress)
    maps = np.zeros((len(part), pixels.size_px, pixels.size_px), dtype=np.uint8)
    empty = np.zeros(len(part), dtype=bool)
    for start in range(0, len(part), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(part)))
        found = sketch_images(
            store.images(rows)[:, 0].astype(np.float32) / 255, sketch, content_boxes=store.content_boxes[rows]
        )
        maps[rows], empty[rows] = np.rint(found.maps * 255).astype(np.uint8), found.empty
    return Material(part, store, maps, ~empty)


def class_counts(targets: np.ndarray) -> np.ndarray:
    """Return how many images show each class, int64 [classes]."""
    return np.asarray((targets == 1).sum(axis=0), dtype=np.int64)


def row_shares(targets: np.ndarray, *, power: float) -> np.ndarray:
    """Return the probability of drawing each row, so that a class is drawn with probability ∝ count ** power.

    A row with several classes counts as one of its rarest; rows that show none of the classes count as a class of
    their own.

    Args:
        targets: [N, C] in {0, 1, NaN}.
        power: 1 draws all rows alike, 0 all classes alike.

    Returns:
        float64 [N], summing to 1.

    Example:
        >>> targets = np.array([[1.0, 0.0]] * 4 + [[0.0, 1.0]])
        >>> row_shares(targets, power=0.5).round(3).tolist()
        [0.167, 0.167, 0.167, 0.167, 0.333]
    """
    counts = class_counts(targets).astype(float)
    sizes = np.where(targets == 1, counts, np.inf).min(axis=1)
    none = np.isinf(sizes)
    sizes[none] = none.sum()
    shares = sizes ** (power - 1)
    return np.asarray(shares / shares.sum())


def drawn_rows(shares: np.ndarray, count: int, *, seed: int, purpose: str, step: int) -> np.ndarray:
    """Draw the rows of one step, int64 [count], from the step's own stream, so that a resumed training repeats it."""
    return stream(seed, "synthesis", purpose, step).choice(len(shares), size=count, p=shares)
