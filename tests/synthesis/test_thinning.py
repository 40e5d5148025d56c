from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medtail.synthesis.thinning import thin

EIGHT = np.ones((3, 3), dtype=int)


def ring(radius: float, width: float) -> np.ndarray:
    y, x = np.mgrid[:48, :48] - 23.5
    return np.abs(np.hypot(x, y) - radius) < width / 2


@pytest.mark.parametrize("width", [2.0, 3.0, 5.0, 7.0])
def test_a_thick_ring_becomes_one_thin_ring(width: float) -> None:
    mask = ring(15, width)
    line = thin(mask[None])[0]
    assert not (line & ~mask).any()
    assert ndimage.label(line, EIGHT)[1] == 1
    assert ndimage.label(~line)[1] == 2  # inside and outside stay apart
    y, x = np.nonzero(line)
    assert np.abs(np.hypot(x - 23.5, y - 23.5) - 15).max() < 1.5
    assert line.sum() < 2 * np.pi * 15 + 1


def test_pieces_stay_as_many_in_every_image() -> None:
    random = np.random.default_rng(0)
    masks = np.stack([ndimage.gaussian_filter(random.standard_normal((40, 40)), 2) > 0.05 for _ in range(8)])
    lines = thin(masks)
    for mask, line in zip(masks, lines, strict=True):
        assert ndimage.label(line, EIGHT)[1] == ndimage.label(mask, EIGHT)[1]
    assert np.array_equal(thin(lines), lines)
    assert np.array_equal(thin(masks[3:4])[0], lines[3])


def test_nothing_stays_nothing() -> None:
    assert not thin(np.zeros((2, 8, 8), dtype=bool)).any()
