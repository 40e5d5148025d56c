"""A heat map laid over its image, and brought back from the model's square into the image's own geometry.

NumPy only. Heat goes from purple over orange to pale yellow, which differ in lightness and so are told apart without
colour vision and in print; where there is no heat the image shows through untouched.
"""

from __future__ import annotations

import numpy as np

from medtail.errors import MedtailError
from medtail.pixels.letterbox import Box, crop_box
from medtail.pixels.settings import PixelConfig

# Lightness rises along the ramp; anchors of the inferno map, evenly spaced from 0 to 1.
RAMP = np.array(
    [[31, 12, 72], [85, 15, 109], [136, 34, 106], [186, 54, 85], [227, 89, 51], [249, 140, 10], [249, 201, 50],
     [252, 255, 164]],
    dtype=np.float32,
)  # fmt: skip


def overlay(image: np.ndarray, heat: np.ndarray, *, opacity: float = 0.45) -> np.ndarray:
    """Lay heat over an image.

    Args:
        image: uint8 [H, W] or [H, W, 3].
        heat: Float [H, W] in [0, 1].
        opacity: Share of colour in the hottest place, in [0, 1]; it falls with the heat to 0.

    Returns:
        uint8 [H, W, 3].

    Raises:
        MedtailError: Shapes or types do not fit, heat is no number, or the opacity is outside [0, 1].

    Example:
        >>> overlay(np.full((1, 2), 100, np.uint8), np.array([[0.0, 1.0]]), opacity=1.0).tolist()
        [[[100, 100, 100], [252, 255, 164]]]
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise MedtailError(f"image: found {image.dtype} {list(image.shape)}; expected uint8 [H, W] or [H, W, 3].")
    if heat.shape != image.shape[:2]:
        raise MedtailError(f"heat: found {list(heat.shape)}; expected {list(image.shape[:2])}, as the image.")
    if not 0 <= opacity <= 1:
        raise MedtailError(f"opacity: found {opacity!r}; expected 0 to 1.")
    if not np.isfinite(heat).all():
        raise MedtailError("heat: has values that are no numbers; expected [0, 1]. The model diverged: train again.")
    heat = np.clip(heat.astype(np.float32), 0.0, 1.0)
    place = heat * (len(RAMP) - 1)
    below = np.minimum(place.astype(np.int64), len(RAMP) - 2)
    colour = RAMP[below] + (place - below)[..., None] * (RAMP[below + 1] - RAMP[below])
    base = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    # the square root lets middling heat be seen without hiding the image under the hottest
    share = opacity * np.sqrt(heat)[..., None]
    blended: np.ndarray = np.rint(base * (1 - share) + colour * share).astype(np.uint8)
    return blended


def to_image(heat: np.ndarray, *, height: int, width: int, config: PixelConfig, roi: Box | None = None) -> np.ndarray:
    """Bring heat from the model's square back onto the image it was cut from: the inverse of `letterbox`.

    Args:
        heat: Float [S, S] on the square.
        height: Of the image, pixels.
        width: Of the image, pixels.
        config: How the square was made.
        roi: The region of interest (x, y, width, height) it was cut out by; None for the whole image.

    Returns:
        float32 [height, width], bilinear; 0 outside what the model saw.

    Raises:
        MedtailError: The heat is not a square of the config's side, or the region is outside the image.

    Example:
        >>> to_image(np.eye(8), height=4, width=8, config=PixelConfig(size_px=8)).argmax(axis=1).tolist()
        [2, 3, 4, 5]
    """
    side = config.size_px
    if heat.shape != (side, side):
        raise MedtailError(f"heat: found {list(heat.shape)}; expected {[side, side]}, the model's square.")
    left, top, right, bottom = seen_box(height, width, config=config, roi=roi)
    found = np.zeros((height, width), dtype=np.float32)
    factor = side / max(right - left, bottom - top)
    rows = _sampling(bottom - top, factor=factor, side=side)
    columns = _sampling(right - left, factor=factor, side=side)
    found[top:bottom, left:right] = rows @ heat.astype(np.float32) @ columns.T
    return found


def seen_box(height: int, width: int, *, config: PixelConfig, roi: Box | None) -> Box:
    """Return the part of an image that the model saw: left, top, right, bottom.

    Example:
        >>> seen_box(100, 200, config=PixelConfig(crop="roi", margin=0.1), roi=(50, 40, 20, 10))
        (48, 33, 72, 57)
    """
    if config.crop == "roi" and roi is not None:
        return crop_box(height, width, roi=roi, margin=config.margin, square=config.square_roi)
    return 0, 0, width, height


def _sampling(length: int, *, factor: float, side: int) -> np.ndarray:
    """Return float32 [length, side]: what each pixel of the crop takes, linearly, from the pixels of the square."""
    shown = max(1, int(length * factor + 1e-6))  # as `letterbox` rounds: whole pixels of the square, centred
    spare = max(0.0, (length - shown / factor) / 2)
    start = (side - shown) // 2
    place = (np.arange(length) + 0.5 - spare) * factor - 0.5 + start
    place = np.clip(place, start, start + shown - 1)  # never into the bars
    below = np.minimum(np.floor(place).astype(np.int64), max(side - 2, 0))
    weights = np.zeros((length, side), dtype=np.float32)
    weights[np.arange(length), below] = 1 - (place - below)
    weights[np.arange(length), np.minimum(below + 1, side - 1)] += place - below
    return weights
