"""Masks of lesions in the squares of a pixel store: the same crop, the same scale, the same place.

Masks are a second store beside that of the images, made by the same code from the files in the column `mask_path`, so
a mask fits its image to the pixel. Only rows that have one, and only those asked for, are prepared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import numpy as np

from medtail.errors import MedtailError, Problems
from medtail.pixels.store import PixelStore, Progress, open_store
from medtail.tables.manifest import Manifest

INSIDE = 128
"""A pixel of which at least half lies inside is inside."""


@final
@dataclass(frozen=True, eq=False)
class MaskStore:
    """The masks of some rows of a manifest.

    Attributes:
        store: Prepared masks.
        places: For each row of the manifest its row in `store`, int64; -1 where it has no mask.
    """

    store: PixelStore
    places: np.ndarray

    def masks(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        """Read the masks of some rows.

        Args:
            rows: Row numbers of the manifest, integers [n], repeats allowed.

        Returns:
            bool [n, size, size]; nothing is inside where a row has no mask.
        """
        places = self.places[np.asarray(rows, dtype=np.int64)]
        size = self.store.config.size_px
        found = np.zeros((len(places), size, size), dtype=bool)
        known = np.flatnonzero(places >= 0)
        found[known] = self.store.images(places[known])[:, 0] >= INSIDE
        return found


def open_masks(
    manifest: Manifest,
    images: PixelStore,
    *,
    rows: np.ndarray,
    cache: Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> MaskStore:
    """Open the prepared masks of some rows, making what is not there yet.

    Args:
        manifest: The images, with a column `mask_path`: white (or any light value) inside the lesion, black outside.
        images: Their prepared pixels, row for row.
        rows: Rows whose masks are wanted, integers [n]; those without one are passed over.
        cache: Folder of the stores, as in `open_store`.
        workers: Threads, as in `open_store`.
        progress: Called as `progress(done, total)`.

    Returns:
        The masks.

    Raises:
        MedtailError: No row has a mask, a file is missing or no image, or a mask has another shape than its image.

    Example:
        >>> import tempfile
        >>> import pandas as pd
        >>> from PIL import Image
        >>> from medtail.pixels.settings import PixelConfig
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name, value in (("a", 90), ("mask", 255)):
        ...     Image.fromarray(np.full((16, 32), value, np.uint8)).save(folder / f"{name}.png")
        >>> frame = pd.DataFrame({"image_id": ["a"], "path": ["a.png"], "mask_path": ["mask.png"], "patient_id": ["1"],
        ...                       "Hernia": [1]})
        >>> table = manifest_from_frame(frame, root=folder)
        >>> store = open_store(table, PixelConfig(size_px=16), cache=folder / "cache")
        >>> open_masks(table, store, rows=np.array([0]), cache=folder / "cache").masks([0])[0, :, 0].sum()
        np.int64(8)
    """
    if "mask_path" not in manifest.frame.columns:
        raise MedtailError(f"{manifest.name}: no column 'mask_path'; expected the masks of lesions in it.")
    named = manifest.frame["mask_path"].astype(str).to_numpy()
    wanted = np.asarray(rows, dtype=np.int64)
    wanted = wanted[named[wanted] != ""]
    if not len(wanted):
        raise MedtailError(f"{manifest.name}, column 'mask_path': is empty in every row that needs a mask.")
    table = manifest.take(wanted)
    # bars of a mask hold nothing, whatever those of the images hold
    config = replace(images.config, channels=1, fill="black")
    of_masks = replace(table, frame=table.frame.assign(path=table.frame["mask_path"]))
    try:
        store = open_store(of_masks, config, cache=cache, workers=workers, progress=progress)
    except MedtailError as error:
        raise MedtailError(f"masks (column 'mask_path' stands for 'path' here): {error}") from error
    problems = Problems(manifest.name)
    for row, own, theirs in zip(wanted, store.content_boxes, images.content_boxes[wanted], strict=True):
        if (own != theirs).any():
            problems.add(
                f"row {row + 2}, column 'mask_path': {named[row]!r} has another shape than its image; expected a mask"
                " of the image's own width and height."
            )
    problems.raise_if_any()
    places = np.full(len(manifest), -1, dtype=np.int64)
    places[wanted] = np.arange(len(wanted))
    return MaskStore(store, places)
