from __future__ import annotations

import numpy as np
import pytest

from medtail.synthesis.coverage import coverage_of, mean_distance


def test_a_grid_gives_the_closed_form():
    # on the line 0..9 with k = 1 every ball has radius 1, open: it holds its centre's neighbourhood (i - 1, i + 1)
    real = np.arange(10.0)[:, None]
    generated = np.array([[0.0], [4.5], [4.5]])
    found = coverage_of(generated, real, neighbours=1)
    assert found.density == pytest.approx((1 + 2 + 2) / 3)
    assert found.coverage == pytest.approx(3 / 10)  # the balls of 0, 4 and 5
    assert found.precision == 1.0
    assert found.diversity == pytest.approx(3.0 / mean_distance(real))


def test_the_same_images_cover_everything():
    real = np.random.default_rng(0).normal(size=(40, 3))
    found = coverage_of(real, real)
    assert found.coverage == 1.0
    assert found.recall == found.precision == found.diversity == 1.0
    # an image is in its own ball, and in each it is one of the k nearest of, but not on the border
    assert found.density == pytest.approx(1.0)


def test_the_same_distribution_has_density_one_and_its_expected_coverage():
    random = np.random.default_rng(1)
    found = [coverage_of(random.normal(size=(200, 4)), random.normal(size=(200, 4))) for _ in range(20)]
    assert np.mean([f.density for f in found]) == pytest.approx(1.0, abs=0.05)
    # with as many generated as real images no ball is empty but with probability 2^-k
    assert np.mean([f.coverage for f in found]) == pytest.approx(1 - 2**-5, abs=0.01)


def test_far_images_cover_nothing():
    random = np.random.default_rng(2)
    found = coverage_of(random.normal(50, 1, (30, 2)), random.normal(size=(30, 2)))
    assert (found.density, found.coverage, found.precision, found.recall) == (0, 0, 0, 0)


def test_an_outlier_spoils_precision_but_not_density():
    random = np.random.default_rng(3)
    real = np.concatenate([random.normal(size=(50, 2)), [[40.0, 40.0]]])
    wrong = random.uniform(5, 30, (50, 2))
    found = coverage_of(wrong, real)
    assert found.precision > 0.5
    assert found.density < 0.3


def test_one_image_again_and_again_is_not_varied():
    real = np.random.default_rng(4).normal(size=(30, 2))
    found = coverage_of(np.repeat(real[:1], 30, axis=0), real)
    assert found.diversity == 0
    assert found.coverage < 0.5


def test_too_few_images_give_no_number():
    real = np.random.default_rng(5).normal(size=(5, 2))
    found = coverage_of(real, real)
    assert np.isnan([found.density, found.coverage, found.precision, found.recall]).all()
    assert found.diversity == 1.0
    assert np.isnan(mean_distance(real[:1]))
