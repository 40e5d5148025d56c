"""The last blocks of a vision transformer side by side, and its class token: one map for heads that read them all.

Deep blocks know what is there, earlier ones where. A head that looks for small findings can use both; a frozen
foundation model gives them for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from medtail.errors import MedtailError
from medtail.models.backbones import Backbone, BlocksConfig, build_backbone
from medtail.models.contract import Trunk
from medtail.models.hub import TransformersNetwork


@final
class BlocksBackbone(Trunk):
    """Join the patch tokens of a transformer's last blocks and its class token: [B, (n + 1) · D, h, w].

    The channels of the earliest block come first; the last D are the class token, the same at every position (the mean
    over patches where the network has none). Every block is normalised by the network's last layer norm.

    Args:
        vit: A transformer of one token a patch.
        blocks: n.

    Raises:
        MedtailError: It is no plain transformer, or has fewer blocks.
    """

    def __init__(self, vit: Backbone, *, blocks: int) -> None:
        super().__init__()
        network = vit.network
        norm = getattr(network.model, "layernorm", None) if isinstance(network, TransformersNetwork) else None
        layers = getattr(getattr(getattr(network, "model", None), "config", None), "num_hidden_layers", None)
        if not isinstance(network, TransformersNetwork) or network.patch_px is None or not isinstance(norm, nn.Module):
            raise MedtailError(
                "backbone.vit: is no plain vision transformer; expected one such as ViT, DeiT or DINOv2, whose blocks"
                " each give a token a patch."
            )
        if layers is None or blocks > int(layers):
            raise MedtailError(f"backbone.blocks: found {blocks}; this transformer has {layers}. Ask for fewer.")
        self.vit, self.blocks = vit, blocks
        self.feature_parts = (vit.feature_dim,) * (blocks + 1)
        self.feature_dim = sum(self.feature_parts)
        self.channels = vit.channels
        self.is_convolutional = False
        self.architecture: Mapping[str, Any] | None = vit.architecture

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, channels, H, W] in [0, 1] to [B, (n + 1) · D, h, w]."""
        network = self.vit.network
        assert isinstance(network, TransformersNetwork)
        asked = {"interpolate_pos_encoding": True} if network.interpolates else {}
        found = network.model(self.vit.normalised(images), output_hidden_states=True, **asked)
        last = found.last_hidden_state
        # the last state is normalised already, and in some versions stands in the list so
        norm = network.model.layernorm
        assert isinstance(norm, nn.Module)
        states = [norm(state) for state in found.hidden_states[-self.blocks : -1]] + [last]
        assert network.patch_px is not None
        down, across = images.shape[-2] // network.patch_px, images.shape[-1] // network.patch_px
        patches = [state[:, state.shape[1] - down * across :] for state in states]
        token = last[:, 0] if last.shape[1] > down * across else last.mean(dim=1)
        parts = [part.transpose(1, 2).reshape(images.shape[0], -1, down, across) for part in patches]
        return torch.cat([*parts, token[:, :, None, None].expand(-1, -1, down, across)], dim=1)

    def layer_groups(self) -> list[dict[str, nn.Parameter]]:
        """Return the transformer's parameters by block."""
        return [{f"vit.{name}": value for name, value in group.items()} for group in self.vit.layer_groups()]


def build_blocks(
    config: BlocksConfig, *, channels: int, size_px: int, architecture: Mapping[str, Any] | None, load_weights: bool
) -> BlocksBackbone:
    """Build the trunk; see `backbones.build_backbone` for arguments and errors.

    Example:
        >>> trunk = build_blocks(BlocksConfig(blocks=2), channels=1, size_px=64, architecture=None, load_weights=False)
        >>> trunk(torch.zeros(2, 1, 64, 64)).shape, trunk.feature_parts
        (torch.Size([2, 192, 4, 4]), (64, 64, 64))
    """
    vit = build_backbone(
        config.vit, channels=channels, size_px=size_px, architecture=architecture, load_weights=load_weights
    )
    assert isinstance(vit, Backbone)
    return BlocksBackbone(vit, blocks=config.blocks)
