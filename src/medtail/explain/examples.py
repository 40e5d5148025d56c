"""Small untrained models of every family, for the examples in docstrings and for a first try without a run."""

from __future__ import annotations

from typing import Literal, assert_never

import torch

from medtail.models.backbones import BackboneConfig, DualConfig, ResNetConfig, ViTConfig
from medtail.models.class_attention import ClassAttentionConfig
from medtail.models.csasn import CsasnConfig
from medtail.models.diagnoser import Diagnoser, build_diagnoser
from medtail.models.heads import HeadConfig, LinearHeadConfig
from medtail.tables.labels import LabelSpace

Family = Literal["cnn", "vit", "dual", "queries"]


def tiny_diagnoser(family: Family = "cnn", *, seed: int = 0) -> Diagnoser:
    """Build a tiny diagnoser of three classes (`shape=oval`, `shape=round`, `halo`) for gray images of 64 px.

    Args:
        family: `cnn`, `vit`, `dual` (with CSASN's head) or `queries` (class attention on a convolutional network).
        seed: Of the weights.

    Returns:
        The model in eval mode; torch's random numbers are left as they were.

    Example:
        >>> tiny_diagnoser("vit")(torch.zeros(1, 1, 64, 64)).shape
        torch.Size([1, 3])
    """
    backbone: BackboneConfig
    head: HeadConfig
    match family:
        case "cnn":
            backbone, head = ResNetConfig(), LinearHeadConfig()
        case "vit":
            backbone, head = ViTConfig(), LinearHeadConfig()
        case "dual":
            backbone, head = DualConfig(), CsasnConfig.of_size("tiny")
        case "queries":
            backbone, head = ResNetConfig(), ClassAttentionConfig(width=32, rank=4)
        case _:
            assert_never(family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        diagnoser = build_diagnoser(
            backbone=backbone,
            head=head,
            labels=LabelSpace.from_columns(["shape=oval", "shape=round", "halo"]),
            link="softmax",
            channels=1,
            size_px=64,
        )
    return diagnoser.eval()
