"""Thinning: a band of perceived pixels becomes a line one pixel wide, as an extracted sketch is."""

from __future__ import annotations

import numpy as np


def thin(masks: np.ndarray) -> np.ndarray:
    """Thin masks to lines, each by itself, by the two alternating passes of Guo and Hall.

    A border pixel goes if its neighbours stay connected without it. (The older rule of Zhang and Suen erases squares of
    two pixels and leaves steps two pixels thick.)

    Args:
        masks: bool [N, H, W].

    Returns:
        bool [N, H, W], a part of the masks, with as many pieces.

    Example:
        >>> band = np.zeros((1, 9, 9), dtype=bool)
        >>> band[0, 3:6, 1:8] = True
        >>> thin(band)[0].sum(axis=0).tolist()
        [0, 0, 1, 1, 1, 1, 1, 0, 0]

    References:
        guo1989
    """
    kept = np.pad(np.asarray(masks, dtype=bool), ((0, 0), (1, 1), (1, 1)))
    changed = True
    while changed:
        changed = False
        for first in (True, False):
            north, north_east, east, south_east, south, south_west, west, north_west = _neighbours(kept)
            pieces = (
                (~north & (north_east | east)).astype(np.int8)
                + (~east & (south_east | south))
                + (~south & (south_west | west))
                + (~west & (north_west | north))
            )
            pairs = np.minimum(
                (north_west | north).astype(np.int8) + (north_east | east) + (south_east | south) + (south_west | west),
                (north | north_east).astype(np.int8) + (east | south_east) + (south | south_west) + (west | north_west),
            )
            if first:
                blocked = (north | north_east | ~south_east) & east
            else:
                blocked = (south | south_west | ~north_west) & west
            inner = kept[:, 1:-1, 1:-1]
            gone = inner & (pieces == 1) & (pairs >= 2) & (pairs <= 3) & ~blocked
            if gone.any():
                changed = True
                inner[gone] = False
    return np.ascontiguousarray(kept[:, 1:-1, 1:-1])


def _neighbours(kept: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the eight neighbours of every inner pixel, clockwise from above, bool [N, H, W] each."""
    around = ((0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0), (0, 0))
    height, width = kept.shape[1] - 2, kept.shape[2] - 2
    return tuple(kept[:, y : y + height, x : x + width] for y, x in around)
