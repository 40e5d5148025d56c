"""The dual trunk of CSASN: a transformer and a convolutional network on the same images, joined channel by channel.

Each branch is an ordinary backbone with its own weights and its own normalisation, and ends in a layer norm over
channels, so that neither drowns the other. Alone, a branch is treated just as beside the other one: that is what an
ablation compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medtail.errors import MedtailError
from medtail.models.backbones import Backbone, DualConfig, HubConfig, SingleConfig, ViTConfig, build_backbone
from medtail.models.contract import Trunk

PATCH_PX = 16
"""Patch of a ViT that starts without weights."""


@final
class ChannelNorm(nn.Module):
    """Layer norm over the channels of a map, at every position: [B, D, h, w] → the same.

    Args:
        channels: D.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, features: Tensor) -> Tensor:
        """Normalise."""
        normed: Tensor = self.norm(features.permute(0, 2, 3, 1))
        return normed.permute(0, 3, 1, 2)


@final
class DualBackbone(Trunk):
    """Join the maps of a transformer and of a convolutional network, or give one of them alone.

    Args:
        vit: The transformer branch; None if it is off.
        cnn: The convolutional branch; None if it is off.
        patch_px: Side of the transformer's patches; the map has one position a patch, also without that branch.
        fusion: `map` brings the convolutional map to the transformer's grid (bilinear); `pooled` joins the class
            token and the pooled convolutional features.
        pretrained: The branches that start from weights.

    References:
        li2025, sec. 2.
    """

    def __init__(
        self,
        *,
        vit: Backbone | None,
        cnn: Backbone | None,
        patch_px: int,
        fusion: Literal["map", "pooled"] = "map",
        pretrained: frozenset[Literal["vit", "cnn"]] = frozenset(),
    ) -> None:
        super().__init__()
        branches = [branch for branch in (vit, cnn) if branch is not None]
        assert branches, "at least one branch is on"
        self.vit, self.cnn = vit, cnn
        self.vit_norm = None if vit is None else ChannelNorm(vit.feature_dim)
        self.cnn_norm = None if cnn is None else ChannelNorm(cnn.feature_dim)
        self.patch_px, self.fusion = patch_px, fusion
        self.feature_parts = tuple(branch.feature_dim for branch in branches)
        self.feature_dim = sum(self.feature_parts)
        self.channels = branches[0].channels
        self.is_convolutional = cnn is not None
        self.architecture: Mapping[str, Any] = {
            "vit": None if vit is None else vit.architecture,
            "cnn": None if cnn is None else cnn.architecture,
            "patch_px": patch_px,
        }
        if pretrained:
            kept = tuple(f"{name}." for name in pretrained)
            self.untaught = frozenset(name for name, _ in self.named_parameters() if not name.startswith(kept))

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, channels, H, W] in [0, 1] to [B, D, H / patch, W / patch], or to [B, D, 1, 1] if pooled.

        The transformer's channels come first.
        """
        parts = []
        if self.vit is not None and self.vit_norm is not None:
            parts.append(self.vit_norm(self._branch(self.vit, images)))
        if self.cnn is not None and self.cnn_norm is not None:
            features = self._branch(self.cnn, images)
            if self.fusion == "map":
                grid = (images.shape[-2] // self.patch_px, images.shape[-1] // self.patch_px)
                features = F.interpolate(features, size=grid, mode="bilinear", align_corners=False)
            parts.append(self.cnn_norm(features))
        return torch.cat(parts, dim=1)

    def _branch(self, branch: Backbone, images: Tensor) -> Tensor:
        if self.fusion == "pooled":
            return branch.vector(images)[:, :, None, None]
        features: Tensor = branch(images)
        return features

    def grid(self, size_px: int) -> tuple[int, int]:
        """Return height and width of the map of images of that side."""
        side = 1 if self.fusion == "pooled" else size_px // self.patch_px
        return side, side

    def layer_groups(self) -> list[dict[str, nn.Parameter]]:
        """Return the parameters by block, the branches side by side and aligned at their ends.

        The last blocks of both form the last group, and so on backwards, so that under layer-wise rates each branch
        learns as it would alone, however many blocks the other has.
        """
        by_branch = [
            [{f"{name}.{key}": value for key, value in group.items()} for group in branch.layer_groups()]
            for name, branch in (("vit", self.vit), ("cnn", self.cnn))
            if branch is not None
        ]
        depth = max(len(groups) for groups in by_branch)
        merged: list[dict[str, nn.Parameter]] = [{} for _ in range(depth)]
        for groups in by_branch:
            for place, group in enumerate(groups, start=depth - len(groups)):
                merged[place] |= group
        norms = (("vit_norm", self.vit_norm), ("cnn_norm", self.cnn_norm))
        for name, norm in norms:
            if norm is not None:
                merged[-1] |= {f"{name}.{key}": value for key, value in norm.named_parameters()}
        return merged


def build_dual(
    config: DualConfig,
    *,
    channels: int,
    size_px: int,
    architecture: Mapping[str, Any] | None,
    load_weights: bool,
) -> DualBackbone:
    """Build the dual trunk; see `backbones.build_backbone` for arguments and errors.

    Raises:
        MedtailError: As the branches, and where the images do not divide into whole patches.

    Example:
        >>> trunk = build_dual(DualConfig(), channels=3, size_px=64, architecture=None, load_weights=False)
        >>> trunk(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 384, 4, 4])
    """
    patch_px = _patch_px(config.chosen_vit) if architecture is None else int(architecture["patch_px"])
    check_patches(size_px, patch_px=patch_px)

    def build(branch: SingleConfig, name: str) -> Backbone:
        kept = None if architecture is None else architecture[name]
        built = build_backbone(branch, channels=channels, size_px=size_px, architecture=kept, load_weights=load_weights)
        assert isinstance(built, Backbone)
        return built

    cnn = None if config.chosen_cnn is None else build(config.chosen_cnn, "cnn")
    vit = None if config.branches == "cnn" else build(config.chosen_vit, "vit")
    if vit is not None and isinstance(config.chosen_vit, HubConfig):
        _check_tokens(vit, config.chosen_vit, size_px=size_px, patch_px=patch_px)
    pretrained: set[Literal["vit", "cnn"]] = set()
    if vit is not None and config.chosen_vit.weights is not None:
        pretrained.add("vit")
    if config.chosen_cnn is not None and config.chosen_cnn.weights is not None:
        pretrained.add("cnn")
    return DualBackbone(vit=vit, cnn=cnn, patch_px=patch_px, fusion=config.fusion, pretrained=frozenset(pretrained))


def check_size(config: DualConfig, *, size_px: int) -> None:
    """Check the images' size where the config alone tells the patch; weights are asked only when built.

    Raises:
        MedtailError: As `check_patches`.
    """
    if config.chosen_vit.weights is None:
        check_patches(size_px, patch_px=PATCH_PX)


def check_patches(size_px: int, *, patch_px: int) -> None:
    """Check that images divide into whole patches.

    Raises:
        MedtailError: They are smaller than one, or leave a rest.

    Example:
        >>> check_patches(100, patch_px=16)
        Traceback (most recent call last):
        medtail.errors.MedtailError: pixels.size_px: found 100; the transformer branch cuts images into patches of \
16 px, expected a multiple of that; the nearest are 96 and 112.
    """
    if size_px % patch_px:
        below, above = size_px // patch_px * patch_px, (size_px // patch_px + 1) * patch_px
        near = f"the nearest are {below} and {above}" if below else f"the smallest is {above}"
        raise MedtailError(
            f"pixels.size_px: found {size_px}; the transformer branch cuts images into patches of {patch_px} px,"
            f" expected a multiple of that; {near}."
        )


def _patch_px(config: ViTConfig | HubConfig) -> int:
    if config.weights is None:
        return PATCH_PX
    from medtail.models.hub import read_patch_px

    found = read_patch_px(config.weights)
    if found is None:
        raise MedtailError(
            f"backbone.vit: {config.weights!r} is no network of patches; expected a transformer such as ViT, DeiT or"
            " DINOv2. Convolutional networks go under backbone.cnn."
        )
    return found


def _check_tokens(vit: Backbone, config: HubConfig, *, size_px: int, patch_px: int) -> None:
    """Check that a model of the Hub gives one position a patch; some name a patch and then merge further."""
    was_training = vit.training
    with torch.no_grad():
        found = tuple(vit.eval()(torch.zeros(1, vit.channels, size_px, size_px)).shape[-2:])
    vit.train(was_training)
    side = size_px // patch_px
    if found != (side, side):
        raise MedtailError(
            f"backbone.vit: {config.weights!r} gives a map of {found[0]} x {found[1]} for images of {size_px} px, not"
            f" one position a patch ({side} x {side}); expected a plain vision transformer."
        )
