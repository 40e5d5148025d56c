from __future__ import annotations

import pytest
import torch
from torch import nn

from medtail.explain.evidence import log_odds
from medtail.explain.examples import tiny_diagnoser
from medtail.explain.gradients import evidence_shares, gradient_maps, layer_of
from medtail.models.backbones import EfficientNetConfig, EfficientNetLite0Config
from medtail.models.diagnoser import build_diagnoser
from medtail.models.heads import LinearHeadConfig
from medtail.tables.labels import LabelSpace


def images(count=2):
    return torch.rand(count, 1, 64, 64, generator=torch.Generator().manual_seed(3))


def by_hand(model, layer, pixels, column):
    """Value and gradient of a layer, without captum."""
    kept = []
    handle = layer.register_forward_hook(lambda module, arguments, output: kept.append(output))
    odds = log_odds(model(pixels), labels=model.labels, link=model.link)
    handle.remove()
    (gradient,) = torch.autograd.grad(odds[:, column].sum(), kept[0])
    return kept[0].detach(), gradient


def test_grad_cam_is_channels_by_their_mean_gradient():
    model, pixels = tiny_diagnoser("cnn"), images()
    value, gradient = by_hand(model, layer_of(model, model.backbone, pixels[:1]), pixels, 1)
    expected = (gradient.mean(dim=(2, 3), keepdim=True) * value).sum(dim=1)
    found = gradient_maps(model, pixels, None, classes=[1], form="grad_cam")[:, 0]
    torch.testing.assert_close(found, expected)


def test_layer_cam_is_channels_by_their_positive_gradient_at_each_position():
    model, pixels = tiny_diagnoser("cnn"), images()
    value, gradient = by_hand(model, layer_of(model, model.backbone, pixels[:1]), pixels, 2)
    found = gradient_maps(model, pixels, None, classes=[0, 2], form="layer_cam")[:, 1]
    torch.testing.assert_close(found, (gradient.relu() * value).sum(dim=1))


def test_the_last_layer_fine_enough_is_explained():
    model = tiny_diagnoser("cnn")
    assert gradient_maps(model, images(), None, classes=[0]).shape[-2:] == (8, 8)
    assert model.backbone(images()).shape[-2:] == (2, 2)


def test_a_transformer_of_few_patches_is_explained_at_its_end():
    model = tiny_diagnoser("vit")
    assert layer_of(model, model.backbone, images(1)) is model.backbone


def test_a_layer_that_only_pads_is_not_explained():
    """transformers' EfficientNet pads before a strided convolution: a grid one position too large, and shifted."""
    model = build_diagnoser(
        backbone=EfficientNetConfig(), head=LinearHeadConfig(), labels=LabelSpace(("a",)), link="sigmoid",
        channels=1, size_px=64,
    ).eval()  # fmt: skip
    assert any(isinstance(module, nn.ZeroPad2d) for module in model.modules())
    layer = layer_of(model, model.backbone, images(1))
    assert not isinstance(layer, nn.ZeroPad2d)
    assert gradient_maps(model, images(1), None, classes=[0]).shape[-1] == 8


def test_layers_that_work_in_place_do_not_spoil_the_map():
    model = build_diagnoser(
        backbone=EfficientNetLite0Config(weights=None), head=LinearHeadConfig(), labels=LabelSpace(("a",)),
        link="sigmoid", channels=1, size_px=64,
    ).eval()  # fmt: skip
    found = gradient_maps(model, images(1), None, classes=[0], form="layer_cam")
    again = gradient_maps(model, images(1), None, classes=[0], form="layer_cam")
    assert torch.equal(found, again)
    assert float(found.std()) > 0


def test_shares_of_the_branches_add_up_to_one():
    shares = evidence_shares(tiny_diagnoser("dual"), images(), None, classes=[0, 1, 2])
    torch.testing.assert_close(shares["cnn"] + shares["vit"], torch.ones(2, 3))
    assert float(shares["cnn"].min()) >= 0


def test_the_joint_map_holds_each_branch_with_its_share():
    model, pixels = tiny_diagnoser("dual"), images(1)
    joint = gradient_maps(model, pixels, None, classes=[0])
    share = evidence_shares(model, pixels, None, classes=[0])
    expected = torch.zeros_like(joint)
    for branch in ("vit", "cnn"):
        own = gradient_maps(model, pixels, None, classes=[0], branch=branch).relu()
        own = nn.functional.interpolate(own, size=joint.shape[-2:], mode="bilinear", align_corners=False)
        expected += share[branch][..., None, None] * own / own.sum(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(joint, expected)
    assert float(joint.sum()) == pytest.approx(1.0, abs=1e-5)
