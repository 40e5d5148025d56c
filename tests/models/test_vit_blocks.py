from __future__ import annotations

import pytest
import torch

from medtail.errors import MedtailError
from medtail.models.backbones import Backbone, BlocksConfig, ViTConfig, branch_configs, build_backbone, map_weights
from medtail.models.vit_blocks import BlocksBackbone, build_blocks


def made(blocks: int = 2) -> BlocksBackbone:
    torch.manual_seed(0)
    config = BlocksConfig(blocks=blocks)
    trunk = build_backbone(config, channels=1, size_px=64)
    assert isinstance(trunk, BlocksBackbone)
    return trunk.eval()


def test_the_last_block_and_the_token_are_those_of_the_plain_backbone() -> None:
    trunk, images = made(), torch.rand(2, 1, 64, 48)
    plain = trunk.vit
    assert isinstance(plain, Backbone)
    with torch.inference_mode():
        features = trunk(images)
        torch.testing.assert_close(features[:, 64:128], plain(images))
        token = features[:, 128:]
        torch.testing.assert_close(token[:, :, 0, 0], plain.vector(images))
    assert features.shape == (2, 192, 4, 3)
    assert torch.equal(token, token[:, :, :1, :1].expand_as(token))


def test_the_block_before_is_the_state_it_left_normalised() -> None:
    trunk, images = made(), torch.rand(1, 1, 64, 64)
    network = trunk.vit.network
    seen: list[torch.Tensor] = []
    layers = [module for name, module in network.named_modules() if name.endswith(("layer.0", "layers.0"))]
    assert len(layers) == 1
    handle = layers[0].register_forward_hook(lambda m, i, o: seen.append(o[0] if isinstance(o, tuple) else o))
    with torch.inference_mode():
        features = trunk(images)
        handle.remove()
        expected = network.model.layernorm(seen[0].reshape(1, -1, 64))[:, 1:]
    torch.testing.assert_close(features[:, :64].flatten(2).transpose(1, 2), expected)
    assert (features[:, :64] - features[:, 64:128]).abs().max() > 1e-3


def test_every_parameter_is_in_one_group_and_gets_a_gradient() -> None:
    trunk = made().train()
    names = [name for group in trunk.layer_groups() for name in group]
    assert sorted(names) == sorted(name for name, _ in trunk.named_parameters())
    trunk(torch.rand(2, 1, 64, 64)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in trunk.parameters())


def test_configs_of_it_are_found_by_those_who_look_for_weights() -> None:
    config = BlocksConfig(vit=ViTConfig(weights="vit"))
    assert [branch.kind for branch in branch_configs(config)] == ["vit"]
    changed = map_weights(config, lambda name: f"/models/{name}")
    assert isinstance(changed, BlocksConfig)
    assert changed.vit.weights == "/models/vit"


def test_too_many_blocks_and_networks_without_blocks_are_refused() -> None:
    with pytest.raises(MedtailError, match=r"backbone\.blocks: found 4; this transformer has 2"):
        build_blocks(BlocksConfig(), channels=1, size_px=64, architecture=None, load_weights=False)
    from medtail.models.backbones import ResNetConfig

    resnet = build_backbone(ResNetConfig(), channels=1, size_px=64)
    assert isinstance(resnet, Backbone)
    with pytest.raises(MedtailError, match="is no plain vision transformer"):
        BlocksBackbone(resnet, blocks=1)
