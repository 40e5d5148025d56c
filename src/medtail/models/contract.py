"""What a network is made of: a trunk turns images into a feature map, a head turns the map into logits.

The members of the families are built by `backbones` and `heads`; nothing here knows them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

from torch import Tensor, nn


@final
@dataclass(frozen=True, kw_only=True)
class HeadAnswer:
    """What a head makes of a feature map.

    Attributes:
        logits: Float [B, C]; what prediction uses.
        pooled: Float [B, D'], one vector an image, as the head sees it just before its classifier; what objectives
            that compare images (MMD between sites, batch spectral shrinkage) work on.
        further: Name → logits [B, C] of the same images by other routes, for objectives that know them by name. Only
            while training: in eval mode a head spends nothing on them.
    """

    logits: Tensor
    pooled: Tensor
    further: Mapping[str, Tensor] = field(default_factory=dict)


class Head(nn.Module, ABC):
    """A feature map to logits.

    In eval mode an image's logits do not depend on the other images of the batch, unless the head says so.

    Attributes:
        batch_dependent: Whether they do. Scores of such a head are no function of the image; prediction refuses it
            unless it is asked for by name.
    """

    batch_dependent: bool = False

    @abstractmethod
    def answer(self, features: Tensor) -> HeadAnswer:
        """Turn a feature map [B, D, h, w] into logits and what came before them."""

    def forward(self, features: Tensor) -> Tensor:
        """Turn a feature map [B, D, h, w] into logits [B, C]."""
        return self.answer(features).logits


class Trunk(nn.Module, ABC):
    """Images in [0, 1] to a feature map; each normalises its own input.

    Attributes:
        feature_dim: D, channels of the map.
        feature_parts: Channels of the map that come from one branch each, in order; they add up to D.
        channels: Channels of the images given, 1 or 3.
        is_convolutional: Whether the channels-last memory layout helps.
        architecture: What `build_backbone` needs to make the same network without weights; None if the config
            alone says it.
        untaught: Names of parameters that start from nothing although others start from pretrained weights. They
            have nothing to keep and learn at the head's rate.
    """

    feature_dim: int
    feature_parts: tuple[int, ...]
    channels: int
    is_convolutional: bool
    architecture: Mapping[str, Any] | None
    untaught: frozenset[str] = frozenset()

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, channels, H, W] in [0, 1] to features [B, D, h, w]."""

    @abstractmethod
    def layer_groups(self) -> list[dict[str, nn.Parameter]]:
        """Return the parameters by block, from the images to the features, names as in `named_parameters`.

        Layer-wise learning rates shrink from the last group to the first.
        """

    def grid(self, size_px: int) -> tuple[int, int] | None:
        """Return height and width of the map of images of that side; None where only running it would tell."""
        del size_px
        return None
