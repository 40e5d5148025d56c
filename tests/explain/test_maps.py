from __future__ import annotations

import pytest
import torch

from medtail.errors import MedtailError
from medtail.explain.examples import tiny_diagnoser
from medtail.explain.maps import branches_of, heat_maps, methods_for, raw_maps, scale_maps
from medtail.models.backbones import DualConfig, ResNetConfig
from medtail.models.csasn import CsasnConfig
from medtail.models.diagnoser import build_diagnoser
from medtail.models.heads import LinearHeadConfig
from medtail.models.rmsc import Batch, RmscConfig
from medtail.tables.labels import LabelSpace

FAMILIES = ("cnn", "vit", "dual", "queries")
CASES = [
    pytest.param(family, method, branch, marks=pytest.mark.slow if (family, method) == ("dual", "occlusion") else ())
    for family in FAMILIES
    for branch in branches_of(tiny_diagnoser(family))
    for method in methods_for(tiny_diagnoser(family), branch=branch)
]


def images(count=1):
    return torch.rand(count, 1, 64, 64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(("family", "method", "branch"), CASES)
def test_maps_are_in_range_not_constant_and_differ_between_classes(family, method, branch):
    maps = heat_maps(tiny_diagnoser(family), images(), classes=[0, 2], method=method, branch=branch)
    assert maps.shape == (1, 2, 64, 64)
    assert maps.dtype == torch.float32
    assert (float(maps.min()), float(maps.max())) == (0.0, 1.0)
    assert (maps.std(dim=(2, 3)) > 0.01).all()
    assert float((maps[:, 0] - maps[:, 1]).abs().mean()) > 1e-3


@pytest.mark.parametrize("method", ["layer_cam", "occlusion"])
def test_the_hottest_place_is_where_the_evidence_was_planted(planted, planted_images, method):
    maps = heat_maps(planted, planted_images, classes=[0, 1], method=method)
    for image in maps:
        for heat, place in zip(image, ((1, 1), (6, 4)), strict=True):
            row, column = divmod(int(heat.argmax()), 64)
            assert (row // 8, column // 8) == place


def test_grad_cam_cannot_tell_classes_apart_that_read_the_same_channel(planted, planted_images):
    """Why it is not the default: its gradient is averaged over positions."""
    maps = heat_maps(planted, planted_images, classes=[0, 1], method="grad_cam")
    torch.testing.assert_close(maps[:, 0], maps[:, 1])


def test_branches_of_a_dual_model_differ():
    model = tiny_diagnoser("dual")
    cnn, vit = (heat_maps(model, images(), classes=[2], branch=branch) for branch in ("cnn", "vit"))
    assert float((cnn - vit).abs().mean()) > 0.02


def test_an_image_has_the_same_map_alone_and_in_a_batch():
    model, pixels = tiny_diagnoser("vit"), images(2)
    together = heat_maps(model, pixels, classes=[1])
    torch.testing.assert_close(together[1:2], heat_maps(model, pixels[1:2], classes=[1]), atol=1e-4, rtol=1e-3)


def test_works_from_inference_mode_and_leaves_the_model_as_it_was():
    model = tiny_diagnoser("cnn").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        pixels = images()
        maps = heat_maps(model, pixels, classes=[1])
    assert float(maps.max()) == 1.0
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_bars_are_cold_and_have_no_say_in_the_scale():
    raw = torch.tensor([[[[9.0, 0.0, 1.0, 2.0]]]])
    content = torch.tensor([[[[False, True, True, True]]]])
    assert scale_maps(raw, size=(1, 4), content=content).tolist() == [[[[0.0, 0.0, 0.5, 1.0]]]]


def test_what_speaks_against_a_class_is_cut_off():
    assert scale_maps(torch.tensor([[[[-3.0, 0.0, 2.0]]]]), size=(1, 3)).tolist() == [[[[0.0, 0.0, 1.0]]]]


def test_a_raw_map_that_is_the_same_everywhere_gives_no_heat():
    assert scale_maps(torch.full((1, 1, 2, 2), 3.0), size=(4, 4)).sum() == 0
    assert scale_maps(torch.full((1, 1, 2, 2), -3.0), size=(4, 4)).sum() == 0


def test_heat_that_is_everywhere_is_taken_off():
    assert scale_maps(torch.tensor([[[[5.0, 6.0, 7.0]]]]), size=(1, 3)).tolist() == [[[[0.0, 0.5, 1.0]]]]


def test_heat_is_larger_where_the_raw_map_is():
    raw = torch.rand(1, 1, 64, 64)
    heat = scale_maps(raw, size=(64, 64))
    assert torch.equal(heat.flatten().argsort(), raw.flatten().argsort())


def test_methods_of_a_trunk_that_joins_after_pooling_are_those_without_a_joint_map():
    model = build_diagnoser(
        backbone=DualConfig(fusion="pooled"), head=CsasnConfig.of_size("tiny"), labels=LabelSpace(("a", "b")),
        link="sigmoid", channels=1, size_px=64,
    ).eval()  # fmt: skip
    assert methods_for(model) == ("occlusion",)
    assert methods_for(model, branch="vit") == ("rollout", "occlusion")
    found = heat_maps(model, images(), classes=[0], branch="vit")
    assert float(found.std()) > 0
    with pytest.raises(MedtailError, match="method: found 'rollout'; for this model and branch 'joint'"):
        heat_maps(model, images(), classes=[0], method="rollout")


def test_what_does_not_suit_the_model_is_refused():
    model = tiny_diagnoser("cnn")
    with pytest.raises(MedtailError, match=r"method: found 'rollout'.*expected one of layer_cam, grad_cam, occlusion"):
        heat_maps(model, images(), classes=[0], method="rollout")
    with pytest.raises(MedtailError, match="branch: found 'vit'"):
        heat_maps(model, images(), classes=[0], branch="vit")
    for wrong in ([3], [-1], []):
        with pytest.raises(MedtailError, match="expected columns from 0 to 2, at least one"):
            heat_maps(model, images(), classes=wrong)


def test_a_model_whose_images_look_at_each_other_is_refused():
    head = CsasnConfig(rmsc=RmscConfig(attend=Batch(at_test="mates"), width=16, heads=2, hidden=(8, 8)))
    model = build_diagnoser(
        backbone=ResNetConfig(), head=head, labels=LabelSpace(("a",)), link="sigmoid", channels=1, size_px=64
    )
    with pytest.raises(MedtailError, match="images of a batch attend to each other"):
        raw_maps(model, images(), classes=[0])


def test_an_all_negative_map_is_shown_relative():
    model = build_diagnoser(
        backbone=ResNetConfig(), head=LinearHeadConfig(), labels=LabelSpace(("a",)), link="sigmoid", channels=1,
        size_px=64,
    ).eval()  # fmt: skip
    with torch.no_grad():
        model.head.linear.weight.copy_(-model.head.linear.weight.abs() - 1.0)
    raw = raw_maps(model, images(), classes=[0], method="occlusion")
    heat = heat_maps(model, images(), classes=[0], method="occlusion")
    assert float(heat.max()) == 1.0
    assert int(heat.argmax()) == int(raw.argmax())
