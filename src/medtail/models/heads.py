"""Heads: a feature map becomes one logit a class.

Contract: `(feature map [B, D, h, w]) -> logits [B, C]`, and for objectives that need more than logits the whole
`HeadAnswer`. A head knows neither losses nor links.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, assert_never, final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from medtail.config import CLOSED
from medtail.models.class_attention import ClassAttentionConfig, ClassAttentionHead
from medtail.models.contract import Head, HeadAnswer
from medtail.models.csasn import CsasnConfig, CsasnHead
from medtail.models.csra import CsraConfig, CsraHead
from medtail.models.experts import ExpertsConfig, ExpertsHead
from medtail.models.glori import GloriConfig, GloriHead
from medtail.models.label_graph import LabelGraphConfig, LabelGraphHead
from medtail.models.ml_decoder import MlDecoderConfig, MlDecoderHead
from medtail.models.syntus import SyntusHead, SyntusHeadConfig
from medtail.models.text_query import TextQueryConfig, TextQueryHead

__all__ = ["Head", "HeadAnswer", "HeadConfig", "LinearHead", "LinearHeadConfig", "SyntusHeadConfig", "build_head"]


@final
@dataclass(frozen=True, kw_only=True)
class LinearHeadConfig:
    """Average over the map, then one linear layer.

    Attributes:
        dropout: Chance of dropping a pooled feature while training.
        prior_bias: Start from the train fold's class frequencies rather than from one half, so that the first
            epochs are not spent on learning that rare classes are rare.
        scales: Give each class a learnt factor on its logit, from 1; what the second stage `scales` learns.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["linear"] = "linear"
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    prior_bias: bool = True
    scales: bool = False


HeadConfig = Annotated[
    LinearHeadConfig
    | CsasnConfig
    | ClassAttentionConfig
    | SyntusHeadConfig
    | CsraConfig
    | MlDecoderConfig
    | LabelGraphConfig
    | ExpertsConfig
    | TextQueryConfig
    | GloriConfig,
    Field(discriminator="kind"),
]


@final
class LinearHead(Head):
    """Global average pooling, dropout, linear layer: [B, D, h, w] → [B, C].

    Args:
        feature_dim: D.
        num_classes: C.
        dropout: Chance of dropping a pooled feature while training, in [0, 1).
        bias: Initial bias, one value a class; 0 if None.
        scales: Whether each class's logit has a learnt factor.
    """

    def __init__(
        self,
        feature_dim: int,
        num_classes: int,
        *,
        dropout: float = 0.0,
        bias: Sequence[float] | None = None,
        scales: bool = False,
    ) -> None:
        super().__init__()
        self.scales = nn.Parameter(torch.ones(num_classes)) if scales else None
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(feature_dim, num_classes)
        # small weights let the bias, the class frequencies, speak first
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)
        if bias is not None:
            with torch.no_grad():
                self.linear.bias.copy_(torch.tensor(list(bias)))

    def answer(self, features: Tensor) -> HeadAnswer:
        """Pool, drop, classify."""
        pooled = features.mean(dim=(2, 3))
        logits = self.linear(self.dropout(pooled))
        return HeadAnswer(logits=logits if self.scales is None else self.scales * logits, pooled=pooled)


def build_head(
    config: HeadConfig,
    *,
    feature_dim: int,
    num_classes: int,
    prior: Sequence[float] | None = None,
    groups: Sequence[Sequence[int]] = (),
    feature_parts: Sequence[int] | None = None,
    grid: tuple[int, int] | None = None,
    together: np.ndarray | None = None,
    texts: np.ndarray | None = None,
) -> Head:
    """Build the head a config names.

    Args:
        config: Which head.
        feature_dim: Channels of the feature map.
        num_classes: Classes.
        prior: Log prior of each class on the scale of its logit (log π in a softmax, logit π for a sigmoid); used
            if the config asks for it.
        groups: Columns of each softmax group; every other class has a sigmoid.
        feature_parts: Channels of the map that come from one branch each; all from one if None.
        grid: Height and width of the map, for what can be checked before the first image; None if not known.
        together: Train rows that show both of two classes, [C, C]; for heads with a graph over the labels. None where
            loaded weights will bring it.
        texts: Text vectors of the classes, [C, T]; for heads that are asked by text. None where loaded weights will
            bring them.

    Returns:
        The head.

    Raises:
        MedtailError: The config does not fit the map; the nearest values that would are named.

    Example:
        >>> head = build_head(LinearHeadConfig(), feature_dim=8, num_classes=2, prior=[-1.0, -3.0])
        >>> head.eval()(torch.zeros(1, 8, 2, 2)).tolist()
        [[-1.0, -3.0]]
    """
    bias = prior if config.prior_bias else None
    match config:
        case LinearHeadConfig():
            return LinearHead(feature_dim, num_classes, dropout=config.dropout, bias=bias, scales=config.scales)
        case CsasnConfig():
            parts = (feature_dim,) if feature_parts is None else tuple(feature_parts)
            return CsasnHead(parts, num_classes, config=config, groups=groups, grid=grid, bias=bias)
        case ClassAttentionConfig():
            return ClassAttentionHead(feature_dim, num_classes, config=config, bias=bias)
        case SyntusHeadConfig():
            return SyntusHead(feature_dim, num_classes, config=config, bias=bias)
        case CsraConfig():
            return CsraHead(feature_dim, num_classes, config=config, bias=bias)
        case MlDecoderConfig():
            return MlDecoderHead(feature_dim, num_classes, config=config, bias=bias)
        case LabelGraphConfig():
            return LabelGraphHead(feature_dim, num_classes, config=config, together=together, bias=bias)
        case ExpertsConfig():
            return ExpertsHead(feature_dim, num_classes, config=config, bias=bias)
        case TextQueryConfig():
            return TextQueryHead(feature_dim, num_classes, config=config, texts=texts, bias=bias)
        case GloriConfig():
            parts = (feature_dim,) if feature_parts is None else tuple(feature_parts)
            return GloriHead(parts, num_classes, config=config, bias=bias)
        case _:
            assert_never(config)
