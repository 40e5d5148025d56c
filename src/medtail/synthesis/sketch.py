"""The sketch of an image: its strongest smooth edges, found without weights and without anybody's marks.

A generator is told by it where borders lie. Speckle is the trouble: edges are looked for at a coarse scale, and an
image's own noise sets how strong an edge must be. An iso-echoic lesion has no border to be found and an image without
one has an empty sketch: facts to be counted, not to be hidden. Numpy and scipy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, final

import numpy as np
from pydantic import Field
from scipy import ndimage

from medtail.config import CLOSED
from medtail.errors import MedtailError
from medtail.synthesis.median import median5

REFERENCE_PX = 64
"""The size that the default scale is meant for; it grows with the image."""
SIGMA_AT_REFERENCE = 2.8
BLOCK_PIXELS = 1 << 18
"""Pixels worked on at a time; bounds the memory, changes nothing else."""
LINE_LEVEL = 0.5
"""A map above it is a line again: it leaves about the pixels that were blurred."""

IN_PLANE = np.zeros((3, 3, 3), dtype=bool)
"""Neighbours of a pixel: the eight of its own image."""
IN_PLANE[1] = True


@final
@dataclass(frozen=True, kw_only=True)
class SketchConfig:
    """How edges are found.

    Attributes:
        kappa: Sobel's answer (its weights 1, 2, 1) at an edge, in robust standard deviations of the image's noise; 0
            ignores the noise, larger keeps fewer edges.
        sigma: Width of the smoothing in pixels; None is 2.8 at 64 pixels and in proportion.
        percentile: An edge is also stronger than this share of the image's pixels, in percent.
        low: Weaker edges count where they continue one: share of the threshold, in (0, 1].
        min_piece: Pieces of fewer pixels are dropped.
        blur: Width of the line's final blur in pixels; 0 leaves it thin.
        empty_below: An image whose lines cover a smaller share of its pixels has an empty sketch.

    Example:
        >>> SketchConfig().kappa
        1.0
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    kappa: Annotated[float, Field(ge=0.0)] = 1.0
    sigma: Annotated[float, Field(gt=0.0)] | None = None
    percentile: Annotated[float, Field(ge=0.0, le=100.0)] = 90.0
    low: Annotated[float, Field(gt=0.0, le=1.0)] = 0.7
    min_piece: Annotated[int, Field(ge=1)] = 8
    blur: Annotated[float, Field(ge=0.0)] = 0.7
    empty_below: Annotated[float, Field(ge=0.0, le=1.0)] = 0.005


@final
@dataclass(frozen=True, eq=False)
class Sketches:
    """Sketches of a stack of images.

    Attributes:
        maps: float32 [N, H, W] in [0, 1]; what a network is given. Each map's largest value is 1, or 0 without edges.
        density: Share of an image's pixels on a line, float64 [N].
        empty: bool [N]; the sketch says nothing and counts as not given.
        lines: bool [N, H, W], the thin lines that were blurred.
    """

    maps: np.ndarray
    density: np.ndarray
    empty: np.ndarray
    lines: np.ndarray

    def __len__(self) -> int:
        return len(self.maps)


def sketch_images(
    images: np.ndarray, config: SketchConfig | None = None, *, content_boxes: np.ndarray | None = None
) -> Sketches:
    """Sketch a stack of images, each by itself.

    Median, Gaussian, Sobel; ridges of the gradient's magnitude g along its direction; hysteresis between
    `low`·t and t with t = max(P90(g), kappa · sigma_r), where sigma_r is the robust standard deviation of what the
    smoothing took away; short pieces are dropped and the lines blurred.

    Args:
        images: float [N, H, W] in [0, 1].
        config: How; the default if None.
        content_boxes: Part of each image that is not the letterbox's bars, integers [N, 4] (left, top, right, bottom).
            Bars are filled with the nearest content and never sketched. None means there are no bars.

    Returns:
        The sketches, each independent of the other images.

    Raises:
        MedtailError: Not a stack of images, or values outside [0, 1].

    Example:
        >>> disc = np.hypot(*(np.mgrid[:64, :64] - 31.5)) < 16
        >>> sketch = sketch_images(np.where(disc, 0.2, 0.7)[None])
        >>> sketch.maps.shape, bool(sketch.empty[0]), bool(0.01 < sketch.density[0] < 0.1)
        ((1, 64, 64), False, True)
    """
    config = config if config is not None else SketchConfig()
    images = np.asarray(images)
    if images.ndim != 3 or min(images.shape[1:]) < 8:
        raise MedtailError(f"sketch: found an array of shape {images.shape}; expected [images, height, width] >= 8.")
    if images.size and not (float(images.min()) >= 0.0 and float(images.max()) <= 1.0):
        raise MedtailError(
            f"sketch: found values from {images.min():g} to {images.max():g}; expected gray values in [0, 1]."
        )
    count, height, width = images.shape
    maps = np.zeros(images.shape, dtype=np.float32)
    lines = np.zeros(images.shape, dtype=bool)
    block = max(1, BLOCK_PIXELS // (height * width))
    for start in range(0, count, block):
        part = slice(start, start + block)
        boxes = None if content_boxes is None else np.asarray(content_boxes)[part]
        lines[part] = _lines(images[part].astype(np.float32), config, boxes)
        maps[part] = draw_maps(lines[part], blur=config.blur)
    density = lines.mean(axis=(1, 2)) if count else np.zeros(0)
    return Sketches(maps, density, density < config.empty_below, lines)


def draw_maps(lines: np.ndarray, *, blur: float = 0.7) -> np.ndarray:
    """Blur thin lines into maps whose largest value is 1.

    Args:
        lines: bool [N, H, W].
        blur: Standard deviation in pixels; 0 for none.

    Returns:
        float32 [N, H, W] in [0, 1]; an image without lines stays 0.

    Example:
        >>> lines = np.zeros((1, 9, 9), dtype=bool)
        >>> lines[0, 4] = True
        >>> draw_maps(lines)[0, 2:7, 4].round(2)
        array([0.02, 0.36, 1.  , 0.36, 0.02], dtype=float32)
    """
    maps = lines.astype(np.float32)
    if blur > 0:
        maps = ndimage.gaussian_filter(maps, (0, blur, blur))
    highest = maps.max(axis=(1, 2), keepdims=True) if len(maps) else np.ones((0, 1, 1), dtype=np.float32)
    scaled: np.ndarray = np.clip(maps / np.where(highest > 0, highest, 1.0), 0.0, 1.0)
    return scaled


def lines_of(maps: np.ndarray) -> np.ndarray:
    """Return the lines of maps, as after reading them from files: bool [N, H, W].

    Example:
        >>> lines_of(np.array([[[0.2, 0.9]]])).tolist()
        [[[False, True]]]
    """
    return np.asarray(np.asarray(maps) > LINE_LEVEL)


def _lines(images: np.ndarray, config: SketchConfig, boxes: np.ndarray | None) -> np.ndarray:
    height, width = images.shape[1:]
    inside = np.ones(images.shape, dtype=bool)
    if boxes is not None:
        images, inside = _without_bars(images, boxes)
    sigma = SIGMA_AT_REFERENCE * min(height, width) / REFERENCE_PX if config.sigma is None else config.sigma
    smooth = ndimage.gaussian_filter(median5(images), (0, sigma, sigma))
    across, down = _sobel(smooth, axis=2), _sobel(smooth, axis=1)
    strength = np.hypot(across, down)
    noise = _robust_deviation(images - smooth, inside)
    floor = _share(strength, inside, config.percentile)
    threshold = np.maximum(floor, config.kappa * noise)[:, None, None]
    weak = _ridges(strength, across, down) & inside & (strength > 0) & (strength >= config.low * threshold)
    # all images are labelled at once; neighbours in the other images do not touch
    pieces, count = ndimage.label(weak, IN_PLANE)
    kept = np.bincount(pieces.ravel(), minlength=count + 1) >= config.min_piece
    strong = np.zeros(count + 1, dtype=bool)
    strong[pieces[weak & (strength >= threshold)]] = True
    kept &= strong
    kept[0] = False
    return np.asarray(kept[pieces])


def _without_bars(images: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    height, width = images.shape[1:]
    left, top, right, bottom = (boxes[:, [place]].astype(np.int64) for place in range(4))
    rows, columns = np.arange(height)[None], np.arange(width)[None]
    nearest_row, nearest_column = np.clip(rows, top, bottom - 1), np.clip(columns, left, right - 1)
    which = np.arange(len(images))[:, None, None]
    filled = images[which, nearest_row[:, :, None], nearest_column[:, None, :]]
    inside = ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None, :]
    return filled, inside


def _sobel(images: np.ndarray, *, axis: int) -> np.ndarray:
    # scipy's own would smooth along every other axis, which here includes the images'
    slope = ndimage.correlate1d(images, np.array([-1.0, 0.0, 1.0]), axis=axis)
    return np.asarray(ndimage.correlate1d(slope, np.array([1.0, 2.0, 1.0]), axis=3 - axis))


def _robust_deviation(residual: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return 1.4826 · MAD of each image's residual, float64 [N]."""
    flat, mask = residual.reshape(len(residual), -1), inside.reshape(len(residual), -1)
    if mask.all():
        centred = np.abs(flat - np.median(flat, axis=1, keepdims=True))
        return np.asarray(1.4826 * np.median(centred, axis=1))
    parts = [values[kept] for values, kept in zip(flat, mask, strict=True)]
    return np.array([1.4826 * np.median(np.abs(part - np.median(part))) for part in parts])


def _share(strength: np.ndarray, inside: np.ndarray, percentile: float) -> np.ndarray:
    flat, mask = strength.reshape(len(strength), -1), inside.reshape(len(strength), -1)
    if mask.all():
        return np.asarray(np.percentile(flat, percentile, axis=1))
    return np.array([np.percentile(values[kept], percentile) for values, kept in zip(flat, mask, strict=True)])


def _ridges(strength: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Say where the gradient is largest along its own direction, taken to the nearest of four."""
    height, width = strength.shape[1:]
    steps = (np.round(np.arctan2(down, across) / (np.pi / 4)).astype(np.int64)) % 4
    padded = np.pad(strength, ((0, 0), (1, 1), (1, 1)))
    ridges = np.zeros(strength.shape, dtype=bool)
    for number, (dy, dx) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        ahead = padded[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        behind = padded[:, 1 - dy : 1 - dy + height, 1 - dx : 1 - dx + width]
        # one of two equal neighbours is kept, not both
        ridges |= (steps == number) & (strength >= ahead) & (strength > behind)
    return ridges
