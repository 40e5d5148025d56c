"""Contact sheets: many small gray images in one, as a picture file or inside a page.

Images are chosen by rule, never by eye; a caption says which row shows what.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup
from PIL import Image

from medtail.reporting.svg import element
from medtail.runs import atomic_path

GAP_PX = 2
EMPTY = 0.5
"""Gray of the gaps, and of a place without an image."""
TILE_PX = 128
"""Larger images are shrunk to this on a page."""
SMALL_PX = 64
"""Images up to this side are embedded without loss and shown at twice their size."""


def contact_sheet(rows: Sequence[Sequence[np.ndarray | None]]) -> np.ndarray:
    """Put images of one size into rows.

    Args:
        rows: float [H, W] in [0, 1] each; None leaves a place empty.

    Returns:
        float32 [height, width]; rows may have different lengths.

    Example:
        >>> tile = np.ones((4, 4))
        >>> contact_sheet([[tile, tile], [None, tile]]).shape
        (10, 10)
    """
    shapes = {image.shape for row in rows for image in row if image is not None}
    assert len(shapes) <= 1, f"images of one size, not {shapes}"
    height, width = next(iter(shapes)) if shapes else (1, 1)
    across = max((len(row) for row in rows), default=0)
    sheet = np.full(
        (max(0, len(rows) * (height + GAP_PX) - GAP_PX), max(0, across * (width + GAP_PX) - GAP_PX)),
        EMPTY,
        dtype=np.float32,
    )
    for down, row in enumerate(rows):
        for place, image in enumerate(row):
            if image is not None:
                top, left = down * (height + GAP_PX), place * (width + GAP_PX)
                sheet[top : top + height, left : left + width] = image
    return sheet


def evenly(count: int, *, limit: int) -> np.ndarray:
    """Return up to `limit` positions spread evenly over 0 to count - 1.

    Example:
        >>> evenly(100, limit=4).tolist(), evenly(2, limit=4).tolist()
        ([0, 33, 66, 99], [0, 1])
    """
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, limit)).round().astype(np.int64))


def shrunk(image: np.ndarray, *, side_px: int = TILE_PX) -> np.ndarray:
    """Shrink an image so that its longer side fits, float32 [h, w]; smaller ones are returned as they are."""
    longest = max(image.shape)
    if longest <= side_px:
        return image.astype(np.float32)
    size = tuple(max(1, round(side * side_px / longest)) for side in reversed(image.shape))
    picture = Image.fromarray(image.astype(np.float32)).resize((size[0], size[1]), Image.Resampling.LANCZOS)
    return np.clip(np.asarray(picture, dtype=np.float32), 0.0, 1.0)


def sheet_markup(sheet: np.ndarray, *, alt: str, tile_px: int) -> Markup:
    """Return a sheet as an `img` with a data URI.

    Args:
        sheet: float [H, W] in [0, 1].
        alt: What it shows, for readers who cannot see it.
        tile_px: Side of its images; small ones are kept without loss and shown at twice their size.

    Example:
        >>> sheet_markup(np.zeros((4, 4)), alt="two images", tile_px=4)[:36]
        Markup('<img src="data:image/png;base64,iVBO')
    """
    small = tile_px <= SMALL_PX
    buffer = io.BytesIO()
    if small:
        _picture(sheet).save(buffer, format="PNG", optimize=True)
    else:
        _picture(sheet).save(buffer, format="JPEG", quality=85, optimize=True)
    source = f"data:image/{'png' if small else 'jpeg'};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    height, width = ((2 if small else 1) * side for side in sheet.shape)
    return element("img", src=source, alt=alt, width=width, height=height, class_="sheet")


def write_sheet(path: Path, sheet: np.ndarray) -> None:
    """Write a sheet as a PNG file, atomically."""
    with atomic_path(path) as temporary:
        _picture(sheet).save(temporary)


def _picture(sheet: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(np.clip(sheet, 0.0, 1.0) * 255.0).astype(np.uint8))
