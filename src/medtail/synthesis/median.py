"""The median of every 5 × 5 neighbourhood of a stack of images, by a sorting network.

A fixed list of comparisons sorts 25 planes, one plane a place of the neighbourhood, so that whole images are compared
at once. Comparisons that the middle one does not depend on are left out. Several times faster than a filter that
sorts pixel by pixel, and exact.
"""

from __future__ import annotations

from functools import cache

import numpy as np

SIDE = 5
BLOCK_PIXELS = 8192
"""Pixels worked on at a time, so that 25 copies of them stay in the processor's cache."""


def median5(images: np.ndarray) -> np.ndarray:
    """Take the median of 5 × 5 pixels around each pixel; images are mirrored at their borders.

    Args:
        images: float32 [N, H, W], no NaN.

    Returns:
        float32 [N, H, W], equal to `scipy.ndimage.median_filter(images, size=(1, 5, 5))`.

    Example:
        >>> image = np.zeros((1, 8, 8), dtype=np.float32)
        >>> image[0, 3, 3] = 1.0  # a speck
        >>> float(median5(image).max())
        0.0
    """
    count, height, width = images.shape
    padded = np.pad(images, ((0, 0), (SIDE // 2, SIDE // 2), (SIDE // 2, SIDE // 2)), mode="symmetric")
    medians = np.empty_like(images)
    block = max(1, BLOCK_PIXELS // (height * width))
    for start in range(0, count, block):
        part = padded[start : start + block]
        planes = [
            part[:, down : down + height, across : across + width].copy()
            for down in range(SIDE)
            for across in range(SIDE)
        ]
        spare = np.empty_like(planes[0])
        for low, high, low_needed, high_needed in _comparisons():
            if low_needed and high_needed:
                np.minimum(planes[low], planes[high], out=spare)
                np.maximum(planes[low], planes[high], out=planes[high])
                planes[low], spare = spare, planes[low]
            elif low_needed:
                np.minimum(planes[low], planes[high], out=planes[low])
            else:
                np.maximum(planes[low], planes[high], out=planes[high])
        medians[start : start + block] = planes[SIDE * SIDE // 2]
    return medians


@cache
def _comparisons() -> tuple[tuple[int, int, bool, bool], ...]:
    """Return the comparisons of Batcher's merge exchange that the middle of 25 depends on.

    References:
        batcher1968.
    """
    count = SIDE * SIDE
    top = 1 << ((count - 1).bit_length() - 1)
    pairs = []
    step = top
    while step:
        far, remainder, distance = top, 0, step
        while True:
            pairs += [(place, place + distance) for place in range(count - distance) if place & step == remainder]
            if far == step:
                break
            distance, far, remainder = far - step, far // 2, step
        step //= 2
    needed, kept = {count // 2}, []
    for low, high in reversed(pairs):
        if low in needed or high in needed:
            kept.append((low, high, low in needed, high in needed))
            needed |= {low, high}
    return tuple(reversed(kept))
