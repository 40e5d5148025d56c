"""Structural similarity at several scales (MS-SSIM), as a measure of how alike the images of a class are.

Pairs of generated images that are more alike than pairs of real ones tell of a generator that repeats itself. Small
images have room for fewer scales; the weights of those used are scaled to add up to one.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from medtail.errors import MedtailError

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


def multiscale_similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compare images pair by pair.

    Args:
        first: float [N, H, W] in [0, 1], at least 11 pixels a side.
        second: float [N, H, W].

    Returns:
        float64 [N] in [0, 1], 1 for equal images. Scales at which a window of 11 pixels no longer fits are left out;
        a negative contrast counts as 0.

    Raises:
        MedtailError: Shapes differ or images are too small.

    Example:
        >>> image = np.random.default_rng(0).random((1, 32, 32))
        >>> multiscale_similarity(image, image).round(6).tolist()
        [1.0]

    References:
        wang2003
    """
    if first.shape != second.shape or first.ndim != 3 or min(first.shape[1:]) < WINDOW:
        raise MedtailError(
            f"similarity: found shapes {first.shape} and {second.shape}; expected the same [images, height, width] with"
            f" {WINDOW} pixels or more a side."
        )
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    scales = scales_of(min(a.shape[1:]))
    weights = np.array(WEIGHTS[:scales]) / sum(WEIGHTS[:scales])
    total = np.ones(len(a))
    for scale in range(scales):
        whole, contrast = _similarity(a, b)
        part = whole if scale == scales - 1 else contrast
        total *= np.clip(part, 0.0, None) ** weights[scale]
        if scale < scales - 1:
            a, b = _halved(a), _halved(b)
    return total


def scales_of(side_px: int) -> int:
    """Return how many scales images of a side have room for.

    Example:
        >>> scales_of(64), scales_of(256)
        (3, 5)
    """
    return max(1, sum(1 for scale in range(len(WEIGHTS)) if side_px >> scale >= WINDOW))


def pairwise_similarity(images: np.ndarray, *, pairs: int, random: np.random.Generator) -> float:
    """Return the mean similarity of random pairs of different images; NaN with fewer than two.

    Args:
        images: float [N, H, W] in [0, 1].
        pairs: Pairs to draw; all of them are used where there are no more.
        random: Draws them.

    Example:
        >>> pairwise_similarity(np.full((4, 16, 16), 0.5), pairs=3, random=np.random.default_rng(0))
        1.0
    """
    left, right = np.triu_indices(len(images), 1)
    if not len(left):
        return float("nan")
    if len(left) > pairs:
        chosen = random.choice(len(left), size=pairs, replace=False)
        left, right = left[chosen], right[chosen]
    return float(multiscale_similarity(images[left], images[right]).mean())


def _similarity(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the means over the image of luminance times contrast, and of contrast alone."""
    mean_a, mean_b = _window(a), _window(b)
    variance = _window(a * a) - mean_a**2 + _window(b * b) - mean_b**2
    covariance = _window(a * b) - mean_a * mean_b
    contrast = (2 * covariance + C2) / (variance + C2)
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    return (luminance * contrast).mean(axis=(1, 2)), contrast.mean(axis=(1, 2))


def _window(images: np.ndarray) -> np.ndarray:
    """Average in a Gaussian window, only where it fits into the image."""
    reach = WINDOW // 2
    smooth = ndimage.gaussian_filter(images, (0, SIGMA, SIGMA), radius=(0, reach, reach))
    return np.asarray(smooth[:, reach:-reach, reach:-reach])


def _halved(images: np.ndarray) -> np.ndarray:
    height, width = (side // 2 * 2 for side in images.shape[1:])
    return np.asarray(images[:, :height, :width].reshape(len(images), height // 2, 2, width // 2, 2).mean(axis=(2, 4)))
