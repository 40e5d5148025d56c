from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medtail.synthesis.median import median5


@pytest.mark.parametrize("shape", [(1, 8, 8), (5, 9, 31), (3, 64, 64), (0, 8, 8)])
def test_the_network_equals_a_filter_that_sorts_each_neighbourhood(shape):
    images = np.random.default_rng(0).random(shape).astype(np.float32)
    wanted = ndimage.median_filter(images, size=(1, 5, 5)) if shape[0] else images
    assert np.array_equal(median5(images), wanted)


def test_ties_and_borders_are_no_exception():
    images = np.random.default_rng(1).integers(0, 3, (4, 11, 12)).astype(np.float32)
    assert np.array_equal(median5(images), ndimage.median_filter(images, size=(1, 5, 5)))


def test_images_given_are_left_alone():
    images = np.random.default_rng(2).random((2, 16, 16)).astype(np.float32)
    before = images.copy()
    median5(images)
    assert np.array_equal(images, before)
