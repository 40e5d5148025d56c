from __future__ import annotations

import torch

from medtail.synthesis.config import MoveConfig
from medtail.synthesis.learning import moved
from medtail.synthesis.schedules import generator_for

STILL = MoveConfig(flip=0, rotation_deg=0, scale=0, shift=0)


def test_a_sketch_moves_as_its_image_does() -> None:
    spot = torch.zeros(6, 1, 33, 33)
    spot[:, :, 14:17, 18:21] = 1.0  # far enough from the border to stay inside
    images, sketches = moved(spot, spot.clone(), MoveConfig(), generator=generator_for(0))
    inner = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    assert torch.allclose(images[inner], sketches[inner], atol=1e-5)
    assert not torch.allclose(images, spot)


def test_nothing_comes_into_a_sketch_from_outside() -> None:
    edge = torch.zeros(32, 1, 32, 32)
    edge[:, :, :, :3] = 1.0
    images, sketches = moved(edge, edge.clone(), MoveConfig(flip=0, scale=0.3), generator=generator_for(1))
    assert float(sketches.sum()) < float(images.sum())


def test_without_movement_the_very_same_images_come_back() -> None:
    images, sketches = torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16)
    found, lines = moved(images, sketches, STILL, generator=generator_for(0))
    assert found is images
    assert lines is sketches


def test_movement_repeats_with_its_chance() -> None:
    images = torch.rand(3, 1, 16, 16)
    first, again, other = (moved(images, None, MoveConfig(), generator=generator_for(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
