"""The diagnoser: a band filter where one is asked for, a backbone, a head, and how logits become scores.

What training trains, checkpoints keep and prediction runs. Scores come from raw logits: a softmax inside exclusive
groups under the `softmax` link, a sigmoid for every other class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, final

import numpy as np
import torch
from torch import Tensor, nn

from medtail.losses.contract import Link
from medtail.models.backbones import BackboneConfig, build_backbone
from medtail.models.contract import Head, HeadAnswer, Trunk
from medtail.models.heads import HeadConfig, build_head
from medtail.pixels.frequency import CHANNELS, BandConfig, BandFilter
from medtail.tables.labels import LabelSpace

__all__ = ["Diagnoser", "Link", "build_diagnoser"]


@final
class Diagnoser(nn.Module):
    """Images in [0, 1] to one score a class.

    In eval mode an image gets the same scores alone, in any batch and in any order (to rounding), unless it is
    `batch_dependent`.

    Args:
        backbone: Images to feature map.
        head: Feature map to logits.
        labels: The classes, in the order of the logits, and their exclusive groups.
        link: `softmax` inside exclusive groups, or `sigmoid` everywhere.
        band: Makes what the backbone sees of the images; None shows it the images themselves.
    """

    def __init__(
        self, backbone: Trunk, head: Head, *, labels: LabelSpace, link: Link, band: BandFilter | None = None
    ) -> None:
        super().__init__()
        self.band = band
        self.backbone = backbone
        self.head = head
        self.labels = labels
        self.link: Link = link

    @property
    def batch_dependent(self) -> bool:
        """Whether an image's scores depend on the other images of its batch; `predict` refuses such a model."""
        return self.head.batch_dependent

    def forward(self, images: Tensor, content: Tensor | None = None) -> Tensor:
        """Return logits [B, C] of images [B, channels, H, W] in [0, 1] and their content; see `inputs`."""
        return self.answer(images, content).logits

    def answer(self, images: Tensor, content: Tensor | None = None) -> HeadAnswer:
        """Return logits and what the head made on the way, of images in [0, 1] and their content; see `inputs`."""
        return self.answer_inputs(self.inputs(images, content))

    def inputs(self, images: Tensor, content: Tensor | None = None) -> Tensor:
        """Return what the backbone sees: the images themselves, or with a band filter three channels made of them.

        Args:
            images: Float [B, channels, H, W] in [0, 1].
            content: True or 1 where there is image and not bar, [B, 1, H, W]; None where all is. Only a band filter
                asks.
        """
        return images if self.band is None else self.band(images, content)

    def answer_inputs(self, inputs: Tensor) -> HeadAnswer:
        """Return the answer to what `inputs` returned."""
        return self.head.answer(self.backbone(inputs))

    def scores(self, images: Tensor, content: Tensor | None = None) -> Tensor:
        """Return scores [B, C] in [0, 1], float32; those of a softmax group add up to 1."""
        return link_scores(self(images, content), labels=self.labels, link=self.link)

    def layer_groups(self) -> list[dict[str, nn.Parameter]]:
        """Return the parameters in depth order, the head last; names as in `named_parameters`.

        With the head go those of the backbone that start from nothing beside others that were pretrained.
        """
        untaught = self.backbone.untaught
        groups: list[dict[str, nn.Parameter]] = []
        last: dict[str, nn.Parameter] = {}
        for group in self.backbone.layer_groups():
            groups.append({f"backbone.{name}": value for name, value in group.items() if name not in untaught})
            last |= {f"backbone.{name}": value for name, value in group.items() if name in untaught}
        last |= {f"head.{name}": parameter for name, parameter in self.head.named_parameters()}
        return [*(group for group in groups if group), last]


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
    band: BandConfig | None = None,
    architecture: Mapping[str, Any] | None = None,
    load_weights: bool = True,
    together: np.ndarray | None = None,
    texts: np.ndarray | None = None,
) -> Diagnoser:
    """Build a diagnoser from its configs; see `build_backbone`, `build_head` and `BandFilter` for arguments and errors.

    Example:
        >>> from medtail.models.backbones import EfficientNetLite0Config
        >>> from medtail.models.heads import LinearHeadConfig
        >>> model = build_diagnoser(backbone=EfficientNetLite0Config(weights=None), head=LinearHeadConfig(),
        ...                         labels=LabelSpace(("halo",)), link="sigmoid", channels=1, size_px=64)
        >>> model(torch.zeros(2, 1, 64, 64)).shape
        torch.Size([2, 1])
    """
    shown = None if band is None or band.kind == "none" else BandFilter(band, size_px=size_px)
    channels = channels if shown is None else CHANNELS
    trunk = build_backbone(
        backbone, channels=channels, size_px=size_px, architecture=architecture, load_weights=load_weights
    )
    top = build_head(
        head,
        feature_dim=trunk.feature_dim,
        num_classes=labels.num_classes,
        prior=prior,
        groups=labels.group_indices if link == "softmax" else (),
        feature_parts=trunk.feature_parts,
        grid=trunk.grid(size_px),
        together=together,
        texts=texts,
    )
    return Diagnoser(trunk, top, labels=labels, link=link, band=shown)
