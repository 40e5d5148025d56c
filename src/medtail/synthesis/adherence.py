"""Whether an image keeps to a sketch: lines compared with lines, give or take two pixels at 64.

Used three ways: lines against the true border of a lesion (how good the extractor is), of one lesion under two speckle
patterns (how repeatable), and of a generated image against the sketch it was asked for. Each number needs its
neighbour: two unrelated sketches agree somewhat, too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np
from scipy import ndimage

from medtail.errors import MedtailError
from medtail.synthesis.sketch import REFERENCE_PX, SketchConfig, sketch_images

TOLERANCE_PX = 2.0
"""At 64 pixels; in proportion elsewhere."""
LOST_COVERAGE = 0.05
KAPPAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)


@final
@dataclass(frozen=True)
class KappaChoice:
    """How strict the sketch of a data set should be, from the masks of its train images.

    Attributes:
        kappa: The largest that keeps the mean coverage within 0.05 of that at 0.
        coverage: kappa → mean share of the masks' borders found.
        density: kappa → mean share of pixels on a line.
        images: Train images with a mask.
    """

    kappa: float
    coverage: dict[float, float]
    density: dict[float, float]
    images: int


def tolerance(side_px: int) -> float:
    """Return the distance within which lines agree, in pixels.

    Example:
        >>> tolerance(64), tolerance(256)
        (2.0, 8.0)
    """
    return TOLERANCE_PX * side_px / REFERENCE_PX


def boundaries(masks: np.ndarray) -> np.ndarray:
    """Return the outermost pixels of masks, bool [N, H, W]; a mask cut off by the image has no border there.

    Example:
        >>> mask = np.zeros((1, 5, 5), dtype=bool)
        >>> mask[0, 1:4, 1:4] = True
        >>> int(boundaries(mask).sum())
        8
    """
    masks = np.asarray(masks, dtype=bool)
    in_plane = np.zeros((3, 3, 3), dtype=bool)
    in_plane[1] = ndimage.generate_binary_structure(2, 1)
    return np.asarray(masks & ~ndimage.binary_erosion(masks, in_plane, border_value=1))


def found_share(lines: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the share of wanted pixels with a line near them.

    Args:
        lines: bool [N, H, W].
        wanted: bool [N, H, W].

    Returns:
        float64 [N] in [0, 1]; NaN where nothing is wanted.

    Example:
        >>> lines, wanted = np.zeros((2, 1, 64, 64), dtype=bool)
        >>> lines[0, 10], wanted[0, 12] = True, True
        >>> found_share(lines, wanted).tolist()
        [1.0]
    """
    near = _grown(lines)
    hits, total = (near & wanted).sum(axis=(1, 2)), wanted.sum(axis=(1, 2))
    return np.asarray(np.divide(hits, total, out=np.full(len(lines), np.nan), where=total > 0))


def boundary_f1(lines: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Compare lines with lines: the harmonic mean of both shares found.

    Args:
        lines: bool [N, H, W].
        wanted: bool [N, H, W].

    Returns:
        float64 [N] in [0, 1]; 0 where one of the two is empty, NaN where both are.

    Raises:
        MedtailError: The shapes differ.

    Example:
        >>> lines = np.zeros((1, 64, 64), dtype=bool)
        >>> lines[0, 10, 10:20] = True
        >>> boundary_f1(lines, np.roll(lines, 2, axis=1)).tolist(), boundary_f1(lines, ~lines & False).tolist()
        ([1.0], [0.0])
    """
    if lines.shape != wanted.shape or lines.ndim != 3:
        raise MedtailError(
            f"sketch: found lines of shapes {lines.shape} and {wanted.shape}; expected the same [N, H, W]."
        )
    recall, precision = found_share(lines, wanted), found_share(wanted, lines)
    nothing = np.isnan(recall) & np.isnan(precision)
    recall, precision = np.nan_to_num(recall), np.nan_to_num(precision)  # one of the two is empty: nothing agrees
    total = recall + precision
    f1: np.ndarray = np.divide(2 * recall * precision, total, out=np.zeros(len(lines)), where=total > 0)
    f1[nothing] = np.nan
    return f1


def choose_kappa(
    images: np.ndarray,
    borders: np.ndarray,
    *,
    config: SketchConfig | None = None,
    content_boxes: np.ndarray | None = None,
    kappas: tuple[float, ...] = KAPPAS,
) -> KappaChoice:
    """Choose how strict the sketch is on images of the train fold that have masks.

    Masks serve this check only: no sketch is ever made from one.

    Args:
        images: float [N, H, W] in [0, 1], of the train fold.
        borders: bool [N, H, W], the masks' borders.
        config: The other settings.
        content_boxes: See `sketch_images`.
        kappas: Tried; must hold 0.

    Returns:
        The choice, with coverage and density at each.

    Raises:
        MedtailError: No image has a border.
    """
    shown = borders.any(axis=(1, 2))
    if not shown.any():
        raise MedtailError("sketch: no train image has a mask with a border; kappa cannot be chosen. Keep its default.")
    config = config if config is not None else SketchConfig()
    boxes = None if content_boxes is None else content_boxes[shown]
    coverage, density = {}, {}
    for kappa in sorted({0.0, *kappas}):
        found = sketch_images(images[shown], replace(config, kappa=kappa), content_boxes=boxes)
        coverage[kappa] = float(found_share(found.lines, borders[shown]).mean())
        density[kappa] = float(found.density.mean())
    kept = [kappa for kappa, share in coverage.items() if share >= coverage[0.0] - LOST_COVERAGE]
    return KappaChoice(max(kept), coverage, density, int(shown.sum()))


def _grown(lines: np.ndarray) -> np.ndarray:
    reach = tolerance(min(lines.shape[1:]))
    side = np.arange(-int(reach), int(reach) + 1)
    disc = np.hypot(side[:, None], side[None, :]) <= reach
    return np.asarray(ndimage.binary_dilation(lines, disc[None]))
