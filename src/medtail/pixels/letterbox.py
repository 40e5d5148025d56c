"""Crop an image and fit it into a square, keeping its aspect ratio.

In ultrasound, height against width is a finding (taller-than-wide), so nothing here scales the axes differently.
Work stays in float until the last rounding, so 16-bit and DICOM images lose nothing before it. Pure functions
from arrays to arrays; reading files is `decode`'s business, keeping results `store`'s.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from medtail.errors import MedtailError
from medtail.pixels.decode import LUMA
from medtail.pixels.settings import PixelConfig

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are the first pixels outside."""


def crop_box(height: int, width: int, *, roi: Box, margin: float, square: bool) -> Box:
    """Find the part of an image to keep around a region of interest.

    Args:
        height: Of the image, pixels.
        width: Of the image, pixels.
        roi: The region as (x, y, width, height), pixels, as in the manifest.
        margin: Added on each side, as a fraction of the region's longer side, and clipped at the border.
        square: Then grow the shorter side to the longer one, moving inwards where the image ends.

    Returns:
        The box to keep, inside the image and at least a pixel wide and high.

    Raises:
        MedtailError: The region has no pixel inside the image.

    Example:
        >>> crop_box(100, 200, roi=(50, 40, 20, 10), margin=0.1, square=False)
        (48, 38, 72, 52)
        >>> crop_box(100, 200, roi=(0, 40, 20, 10), margin=0.1, square=True)
        (0, 34, 22, 56)
    """
    x, y, roi_width, roi_height = roi
    if roi_width <= 0 or roi_height <= 0 or x >= width or y >= height or x + roi_width <= 0 or y + roi_height <= 0:
        raise MedtailError(
            f"roi (x {x}, y {y}, width {roi_width}, height {roi_height}) has no pixel in an image of width {width} and"
            f" height {height}; expected a box in the pixels of this file."
        )
    around = round(margin * max(roi_width, roi_height))
    left, right = max(0, x - around), min(width, x + roi_width + around)
    top, bottom = max(0, y - around), min(height, y + roi_height + around)
    if square:
        side = max(right - left, bottom - top)
        left, right = _grow(left, right, to=side, within=width)
        top, bottom = _grow(top, bottom, to=side, within=height)
    return left, top, right, bottom


def _grow(start: int, stop: int, *, to: int, within: int) -> tuple[int, int]:
    length = min(to, within)
    start = min(max(0, start - (length - (stop - start)) // 2), within - length)
    return start, start + length


def letterbox(pixels: np.ndarray, *, config: PixelConfig, roi: Box | None = None) -> tuple[np.ndarray, Box]:
    """Crop, scale and centre an image in a square of bytes, both axes by the same factor.

    With crop h x w and side S, everything is scaled by f = S / max(h, w), antialiased (Lanczos). The shorter side
    gets floor(f * short) pixels, taken from the exactly matching, centred part of the crop: rounding never becomes
    a stretch, at the price of less than a pixel of the square at the edges.

    Args:
        pixels: float32 [H, W] or [H, W, 3] in [0, 1].
        config: Size, channels, crop and fill.
        roi: Region of interest (x, y, width, height) in pixels, or None for the whole image.

    Returns:
        uint8 [channels, S, S], and the box of the square that holds image rather than bars.

    Raises:
        MedtailError: The region is outside the image, or missing where `config` calls for one.

    Example:
        >>> square, content = letterbox(np.ones((20, 40), np.float32), config=PixelConfig(size_px=16))
        >>> square.shape, content, int(square[0, 0, 0]), int(square[0, 8, 8])
        ((1, 16, 16), (0, 4, 16, 12), 0, 255)
    """
    height, width = pixels.shape[:2]
    box: Box = (0, 0, width, height)
    if config.crop == "roi":
        if roi is not None:
            box = crop_box(height, width, roi=roi, margin=config.margin, square=config.square_roi)
        elif config.missing_roi == "error":
            raise MedtailError("no roi; expected one for crop 'roi' (or set pixels.missing_roi to 'whole').")
    planes = _planes(pixels, channels=config.channels)
    scaled = np.stack([_scale(plane, box, size_px=config.size_px) for plane in planes])
    scaled_bytes = np.rint(np.clip(scaled, 0.0, 1.0) * 255.0).astype(np.uint8)
    square, content = _centre(scaled_bytes, config=config)
    return np.broadcast_to(square, config.shape).copy() if len(square) != config.channels else square, content


def _planes(pixels: np.ndarray, *, channels: int) -> list[np.ndarray]:
    """Return the planes that must be scaled; gray is scaled once even when three channels are wanted."""
    if pixels.ndim == 2:
        return [pixels]
    if channels == 1:
        return [pixels.astype(np.float32, copy=False) @ LUMA]
    return [pixels[..., index] for index in range(3)]


def _scale(plane: np.ndarray, box: Box, *, size_px: int) -> np.ndarray:
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    factor = size_px / max(width, height)
    out_width = max(1, int(width * factor + 1e-6))
    out_height = max(1, int(height * factor + 1e-6))
    # cut first: Pillow's own `box` would let the filter reach over the crop's border
    crop = np.ascontiguousarray(plane[top:bottom, left:right], dtype=np.float32)
    # the part of the crop whose shape is exactly the output's; less than a pixel of the output is lost
    spare_x = max(0.0, (width - out_width / factor) / 2)
    spare_y = max(0.0, (height - out_height / factor) / 2)
    source = (spare_x, spare_y, width - spare_x, height - spare_y)
    size = (out_width, out_height)
    scaled = Image.fromarray(crop).resize(size, Image.Resampling.LANCZOS, box=source, reducing_gap=3.0)
    return np.asarray(scaled)


def _centre(scaled: np.ndarray, *, config: PixelConfig) -> tuple[np.ndarray, Box]:
    _, height, width = scaled.shape
    top, left = (config.size_px - height) // 2, (config.size_px - width) // 2
    bars = ((0, 0), (top, config.size_px - height - top), (left, config.size_px - width - left))
    square = np.pad(scaled, bars, mode="constant" if config.fill == "black" else "symmetric")
    return square, (left, top, left + width, top + height)
