"""Where the lesion of an image is, as the manifest tells: a mask, or else a box."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from medtail.errors import MedtailError
from medtail.pixels.decode import read_image
from medtail.pixels.letterbox import letterbox
from medtail.pixels.settings import PixelConfig
from medtail.tables.manifest import Manifest
from medtail.tables.places import place_of


def lesion_of(manifest: Manifest, row: int, *, shape: tuple[int, int], config: PixelConfig) -> np.ndarray | None:
    """Return the lesion of an image in the image's own pixels.

    The mask of the column `mask_path` where there is one; else the region of interest, unless the model was cut to it
    and sees little besides.

    Args:
        manifest: The table.
        row: Which row.
        shape: Height and width of the image.
        config: How the model's square is made.

    Returns:
        bool [H, W]; None where the manifest tells nothing, or the mask is empty.

    Raises:
        MedtailError: The mask cannot be read, or has another shape than its image.
    """
    named = str(manifest.frame["mask_path"].iloc[row]) if "mask_path" in manifest.frame.columns else ""
    if named:
        mask = read_image(place_of(named, root=manifest.root))
        mask = mask if mask.ndim == 2 else mask.max(axis=2)
        if mask.shape != shape:
            raise MedtailError(
                f"{manifest.name}, row {row + 2}, column 'mask_path': {named!r} has {mask.shape[0]} x {mask.shape[1]}"
                f" pixels; expected {shape[0]} x {shape[1]}, as its image."
            )
        found = mask >= 0.5
    else:
        box = manifest.roi(row)
        if box is None or config.crop == "roi":
            return None
        x, y, width, height = box
        found = np.zeros(shape, dtype=bool)
        found[max(0, y) : max(0, y + height), max(0, x) : max(0, x + width)] = True
    return found if found.any() else None


def in_square(lesion: np.ndarray, *, config: PixelConfig, roi: tuple[int, int, int, int] | None) -> np.ndarray:
    """Bring a lesion bool [H, W] into the model's square, bool [S, S]; at least half of a pixel must be inside.

    Example:
        >>> in_square(np.ones((2, 4), dtype=bool), config=PixelConfig(size_px=8), roi=None).sum(axis=0).tolist()
        [4, 4, 4, 4, 4, 4, 4, 4]
    """
    plain = replace(config, channels=1, fill="black")
    square, _ = letterbox(lesion.astype(np.float32), config=plain, roi=roi)
    inside: np.ndarray = square[0] >= 128
    return inside
