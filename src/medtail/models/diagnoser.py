"""The diagnoser: a backbone, a head, and how logits become scores.

What training trains, checkpoints keep and prediction runs. Scores come from raw logits: a softmax inside exclusive
groups under the `softmax` link, a sigmoid for every other class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from medtail.losses.contract import Link
from medtail.models.backbones import Backbone, BackboneConfig, build_backbone
from medtail.models.heads import HeadConfig, build_head
from medtail.tables.labels import LabelSpace

__all__ = ["Diagnoser", "Link", "build_diagnoser"]


@final
class Diagnoser(nn.Module):
    """Images in [0, 1] to one score a class.

    In eval mode an image gets the same scores alone, in any batch and in any order (to rounding).

    Args:
        backbone: Images to feature map.
        head: Feature map to logits.
        labels: The classes, in the order of the logits, and their exclusive groups.
        link: `softmax` inside exclusive groups, or `sigmoid` everywhere.
    """

    def __init__(self, backbone: Backbone, head: nn.Module, *, labels: LabelSpace, link: Link) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.labels = labels
        self.link: Link = link

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, C] of images [B, channels, H, W] in [0, 1]."""
        logits = self.head(self.backbone(images))
        assert isinstance(logits, Tensor)
        return logits

    def scores(self, images: Tensor) -> Tensor:
        """Return scores [B, C] in [0, 1], float32; those of a softmax group add up to 1."""
        return link_scores(self(images), labels=self.labels, link=self.link)

    def layer_groups(self) -> list[dict[str, nn.Parameter]]:
        """Return the parameters in depth order, the head last; names as in `named_parameters`."""
        groups = [
            {f"backbone.{name}": parameter for name, parameter in group.items()}
            for group in self.backbone.layer_groups()
        ]
        return [*groups, {f"head.{name}": parameter for name, parameter in self.head.named_parameters()}]


def link_scores(logits: Tensor, *, labels: LabelSpace, link: Link) -> Tensor:
    """Turn logits [B, C] into scores [B, C] in [0, 1], float32.

    Example:
        >>> space = LabelSpace.from_columns(["shape=oval", "shape=round", "halo"])
        >>> link_scores(torch.zeros(1, 3), labels=space, link="softmax").tolist()
        [[0.5, 0.5, 0.5]]
    """
    logits = logits.float()
    scores = torch.sigmoid(logits)
    if link == "softmax":
        for indices in labels.group_indices:
            columns = list(indices)
            scores[:, columns] = torch.softmax(logits[:, columns], dim=1)
    return scores


def build_diagnoser(
    *,
    backbone: BackboneConfig,
    head: HeadConfig,
    labels: LabelSpace,
    link: Literal["softmax", "sigmoid"],
    channels: int,
    size_px: int,
    prior: Sequence[float] | None = None,
    architecture: Mapping[str, Any] | None = None,
    load_weights: bool = True,
) -> Diagnoser:
    """Build a diagnoser from its configs; see `build_backbone` and `build_head` for arguments and errors.

    Example:
        >>> from medtail.models.backbones import EfficientNetLite0Config
        >>> from medtail.models.heads import LinearHeadConfig
        >>> model = build_diagnoser(backbone=EfficientNetLite0Config(weights=None), head=LinearHeadConfig(),
        ...                         labels=LabelSpace(("halo",)), link="sigmoid", channels=1, size_px=64)
        >>> model(torch.zeros(2, 1, 64, 64)).shape
        torch.Size([2, 1])
    """
    trunk = build_backbone(
        backbone, channels=channels, size_px=size_px, architecture=architecture, load_weights=load_weights
    )
    top = build_head(head, feature_dim=trunk.feature_dim, num_classes=labels.num_classes, prior=prior)
    return Diagnoser(trunk, top, labels=labels, link=link)
