from __future__ import annotations

import numpy as np
import torch

from medtail.explain.checking import Asked, check_maps, heat_of
from medtail.explain.examples import tiny_diagnoser
from medtail.explain.maps import heat_maps


def asked_of(images, pairs):
    content = torch.ones(len(images), 1, 64, 64, dtype=torch.bool)
    return Asked(images, content, tuple(row for row, _ in pairs), tuple(column for _, column in pairs))


def test_maps_come_in_the_order_asked():
    model, images = tiny_diagnoser("cnn"), torch.rand(2, 1, 64, 64)
    found = heat_of([model], asked_of(images, [(1, 2), (0, 0), (1, 0)]), method="layer_cam")
    torch.testing.assert_close(found.heat[0], heat_maps(model, images, classes=[2])[1, 0])
    torch.testing.assert_close(found.heat[2], heat_maps(model, images, classes=[0])[1, 0])


def test_maps_of_an_ensemble_are_the_mean_of_its_members():
    members = [tiny_diagnoser("cnn", seed=seed) for seed in (0, 1)]
    images = torch.rand(1, 1, 64, 64)
    found = heat_of(members, asked_of(images, [(0, 1)]), method="layer_cam")
    mean = sum(heat_maps(member, images, classes=[1])[0, 0] for member in members)
    torch.testing.assert_close(found.heat[0], (mean - mean.min()) / (mean.max() - mean.min()))


def test_the_planted_model_passes_and_its_forgetting_copy_has_lost_the_place(planted, planted_images):
    """Shuffling the head moves the squares that classes read."""
    asked = asked_of(planted_images, [(0, 0), (1, 1)])
    found = heat_of([planted], asked, method="layer_cam")
    checks = check_maps([planted], asked, found, method="layer_cam")
    assert (checks.own.gap > checks.chance_gap + 0.5).all()
    assert (checks.own.gap > checks.randomised_gap + 0.5).all()
    assert not (checks.alike["all"] >= 0.5).any()  # NaN where the copy no longer reads anything
    assert not found.flat.any()
    assert found.speaks.all()


def test_checks_follow_the_seed(planted, planted_images):
    asked = asked_of(planted_images, [(0, 0)])
    found = heat_of([planted], asked, method="layer_cam")
    first, again = (check_maps([planted], asked, found, method="layer_cam", seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.chance_gap, again.chance_gap)
    np.testing.assert_array_equal(first.alike["all"], again.alike["all"])
