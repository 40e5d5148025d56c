"""Overlays as PNG files with a caption under them, so that a picture that travels alone keeps its warning."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medtail.explain.overlay import overlay
from medtail.runs import atomic_path

LEAST_PX, MOST_PX = 320, 960
"""Width of a picture: smaller images are enlarged by a whole number, larger ones shrunk."""
FONT_PX = 13
LINE_PX = 17
MARGIN_PX = 8
PAPER, INK, ALARM = (255, 255, 255), (20, 20, 20), (160, 0, 0)
OUTLINE = (90, 220, 255)


def to_bytes(pixels: np.ndarray) -> np.ndarray:
    """Turn decoded pixels [H, W] or [H, W, 3] in [0, 1] into uint8.

    Example:
        >>> to_bytes(np.array([[0.0, 1.0]], dtype=np.float32)).tolist()
        [[0, 255]]
    """
    found: np.ndarray = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return found


def outline(mask: np.ndarray) -> np.ndarray:
    """Return the border of a mask, bool [H, W]: pixels inside with a neighbour outside.

    Example:
        >>> mask = np.zeros((5, 5), dtype=bool); mask[1:4, 1:4] = True
        >>> int(outline(mask).sum())
        8
    """
    padded = np.pad(mask, 1)
    within = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    border: np.ndarray = mask & ~within
    return border


def write_picture(
    path: Path,
    image: np.ndarray,
    heat: np.ndarray,
    *,
    lines: Sequence[str],
    warnings: Sequence[str] = (),
    lesion: np.ndarray | None = None,
    opacity: float = 0.45,
) -> Path:
    """Write image and overlay side by side, with words under them.

    Args:
        path: The PNG file.
        image: uint8 [H, W] or [H, W, 3].
        heat: Float [H, W] in [0, 1].
        lines: Words in black.
        warnings: Words in red, above them.
        lesion: bool [H, W]; its border is drawn on the overlay.
        opacity: Of the hottest place.

    Returns:
        `path`.
    """
    base = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    hot = overlay(image, heat, opacity=opacity)
    if lesion is not None:
        hot[outline(lesion)] = OUTLINE
    both = np.concatenate([base, np.full((len(base), max(2, base.shape[1] // 50), 3), 255, np.uint8), hot], axis=1)
    picture = _fitted(Image.fromarray(both))
    font = ImageFont.load_default(size=FONT_PX)
    across = max(20, int((picture.width - 2 * MARGIN_PX) / (0.56 * FONT_PX)))
    words = [(part, ALARM) for line in warnings for part in textwrap.wrap(line, across)]
    words += [(part, INK) for line in lines for part in textwrap.wrap(line, across)]
    sheet = Image.new("RGB", (picture.width, picture.height + 2 * MARGIN_PX + LINE_PX * len(words)), PAPER)
    sheet.paste(picture, (0, 0))
    pen = ImageDraw.Draw(sheet)
    for number, (line, ink) in enumerate(words):
        pen.text((MARGIN_PX, picture.height + MARGIN_PX + number * LINE_PX), line, fill=ink, font=font)
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)
    return path


def _fitted(picture: Image.Image) -> Image.Image:
    if picture.width < LEAST_PX * 2:
        times = -(-LEAST_PX * 2 // picture.width)
        return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    if picture.width > MOST_PX * 2:
        height = max(1, round(picture.height * MOST_PX * 2 / picture.width))
        return picture.resize((MOST_PX * 2, height), Image.Resampling.LANCZOS)
    return picture
