from __future__ import annotations

import torch

from medtail.explain.examples import tiny_diagnoser
from medtail.explain.occlusion import mean_gray, occlusion_maps


def test_covering_the_planted_place_lowers_the_class_most(planted, planted_images):
    maps = occlusion_maps(planted, planted_images, None, classes=[0, 1], window_px=8)
    for image in maps:
        for heat, (row, column) in zip(image, ((1, 1), (6, 4)), strict=True):
            peak = divmod(int(heat.argmax()), 64)
            assert (peak[0] // 8, peak[1] // 8) == (row, column)


def test_a_map_does_not_depend_on_the_other_classes_or_images(planted, planted_images):
    together = occlusion_maps(planted, planted_images, None, classes=[0, 1], window_px=16)
    alone = occlusion_maps(planted, planted_images[1:], None, classes=[1], window_px=16)
    torch.testing.assert_close(together[1:, 1:], alone)


def test_a_branch_is_covered_while_the_other_sees_the_image():
    model, image = tiny_diagnoser("dual"), torch.rand(1, 1, 64, 64)
    maps = {
        branch: occlusion_maps(model, image, None, classes=[2], branch=branch, window_px=32)
        for branch in ("joint", "cnn", "vit")
    }
    assert not torch.allclose(maps["cnn"], maps["vit"])
    with torch.no_grad():  # with a dead branch nothing happens where only it is covered
        model.backbone.cnn_norm.norm.weight.zero_()
    dead = occlusion_maps(model, image, None, classes=[2], branch="cnn", window_px=32)
    assert float(dead.abs().max()) < 1e-5


def test_gray_is_the_mean_of_the_content_alone():
    image = torch.tensor([[[[0.0, 0.4], [0.8, 1.0]]]])
    content = torch.tensor([[[[0, 1], [1, 0]]]])
    torch.testing.assert_close(mean_gray(image, content), torch.full((1, 1, 2, 2), 0.6))
    torch.testing.assert_close(mean_gray(image, None), torch.full((1, 1, 2, 2), 0.55))
