from __future__ import annotations

import numpy as np
import torch

from medtail.explain.faithfulness import chance_maps, faithfulness


def planted_map(place):
    heat = torch.zeros(64, 64)
    heat[8 * place[0] : 8 * place[0] + 8, 8 * place[1] : 8 * place[1] + 8] = 1.0
    return heat


def test_the_right_place_beats_chance_and_the_wrong_order_loses(planted, planted_images):
    pixels = planted_images[:1].expand(4, -1, -1, -1)
    right = planted_map((1, 1))
    heat = torch.stack([right, 1 - right, planted_map((6, 4)), chance_maps(1, size=(64, 64))[0]])
    found = faithfulness([planted], pixels, heat, columns=[0] * 4)
    assert found.gap[0] > found.gap[3] + 1
    assert found.gap[1] < 0
    assert found.gap[0] > found.gap[2]
    assert found.insertion[0] > found.insertion[1]
    assert found.deletion[0] < found.deletion[1]


def test_values_agree_with_a_slow_loop(planted, planted_images):
    heat = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(1))
    image = planted_images[:1]
    found = faithfulness([planted], image, heat, columns=[1], steps=4)
    order = np.argsort(-heat[0].numpy().ravel())
    gaps = []
    for step in range(1, 4):
        hot = np.zeros(64 * 64, dtype=bool)
        hot[order[: step * 64 * 64 // 4]] = True
        mask = torch.from_numpy(hot.reshape(1, 1, 64, 64))
        covered, shown = torch.where(mask, image.mean(), image), torch.where(mask, image, image.mean())
        with torch.no_grad():
            gaps.append(float((planted(shown) - planted(covered))[0, 1]))
    assert abs(found.gap[0] - np.mean(gaps)) < 1e-4


def test_bars_are_neither_covered_nor_shown(planted, planted_images):
    content = torch.ones(1, 1, 64, 64, dtype=torch.bool)
    content[..., :16] = False  # the planted square of class 0 lies in the bar
    found = faithfulness([planted], planted_images[:1], planted_map((1, 1))[None], columns=[0], content=content)
    other = faithfulness([planted], planted_images[:1], torch.rand(1, 64, 64), columns=[0], content=content)
    assert abs(float(found.gap[0])) < 1e-5
    assert abs(float(other.gap[0])) < 1e-5


def test_a_flat_map_orders_pixels_by_chance_not_by_place(planted, planted_images):
    found = faithfulness([planted], planted_images[:1], torch.zeros(1, 64, 64), columns=[0])
    assert abs(float(found.gap[0])) < 0.5


def test_members_of_an_ensemble_are_averaged(planted, planted_images):
    heat = planted_map((1, 1))[None]
    one = faithfulness([planted], planted_images[:1], heat, columns=[0])
    two = faithfulness([planted, planted], planted_images[:1], heat, columns=[0])
    np.testing.assert_allclose(one.gap, two.gap)


def test_chance_maps_follow_the_seed():
    assert torch.equal(chance_maps(2, size=(9, 9), seed=1), chance_maps(2, size=(9, 9), seed=1))
    assert not torch.equal(chance_maps(1, size=(9, 9), seed=1), chance_maps(1, size=(9, 9), seed=2))
