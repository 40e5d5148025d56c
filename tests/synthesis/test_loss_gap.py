from __future__ import annotations

import numpy as np
import pytest
import torch

from medtail.synthesis.inspection import inspect_pool
from medtail.synthesis.loss_gap import MOST, chosen_rows, denoising_losses, gap_of
from medtail.synthesis.pool import make_pool


def images(count: int):
    drawn = torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    present = torch.zeros(count, 6)
    present[:, 0] = 1
    return drawn, present


def test_an_images_loss_depends_on_no_other_image(generator):
    drawn, present = images(5)
    together = denoising_losses(generator, drawn, present)
    alone = [denoising_losses(generator, drawn[i : i + 1], present[i : i + 1])[0] for i in range(5)]
    assert together == pytest.approx(alone, rel=1e-4)
    assert together.shape == (5,)
    assert (together > 0).all()


def test_the_same_noise_is_used_each_time_and_another_seed_has_other_noise(generator):
    drawn, present = images(3)
    first = denoising_losses(generator, drawn, present)
    assert np.array_equal(first, denoising_losses(generator, drawn, present))
    assert not np.allclose(first, denoising_losses(generator, drawn, present, seed=1))


def test_the_class_is_given(generator):
    drawn, present = images(3)
    other = torch.roll(present, 1, dims=1)
    assert not np.allclose(denoising_losses(generator, drawn, present), denoising_losses(generator, drawn, other))


def test_the_gap_is_relative_and_its_error_covers_it():
    random = np.random.default_rng(0)
    gaps = [gap_of(random.normal(2, 0.3, 20), random.normal(2.2, 0.3, 30)) for _ in range(400)]
    assert np.mean([found.gap for found in gaps]) == pytest.approx(0.1, abs=0.01)
    assert np.std([found.gap for found in gaps]) == pytest.approx(np.mean([found.error for found in gaps]), rel=0.1)


def test_one_image_gives_no_gap():
    assert np.isnan([gap_of(np.ones(1), np.ones(9)).gap, gap_of(np.ones(9), np.ones(1)).error]).all()


def test_at_most_so_many_images_are_used_spread_evenly():
    rows = chosen_rows(np.arange(1000) * 2)
    assert len(rows) == MOST
    assert (rows[0], rows[-1]) == (0, 1998)
    assert len(chosen_rows(np.arange(0))) == 0


def test_a_made_pool_is_inspected_with_the_gap_of_each_class(generator, generator_folder, tmp_path):
    make_pool(generator, tmp_path / "pool", per_class=2)
    found = inspect_pool(tmp_path / "pool", generator=generator_folder)
    first = found.classes[0].loss_gap
    assert first is not None
    assert (first.train, first.tune) == (8, 1)  # one tune image: no gap
    assert np.isnan(first.gap)
