"""Heads: a feature map becomes one logit a class.

Contract: `(feature map [B, D, h, w]) -> logits [B, C]`. A head knows neither losses nor links.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from medtail.config import CLOSED


@final
@dataclass(frozen=True, kw_only=True)
class LinearHeadConfig:
    """Average over the map, then one linear layer.

    Attributes:
        dropout: Chance of dropping a pooled feature while training.
        prior_bias: Start from the train fold's class frequencies rather than from one half, so that the first
            epochs are not spent on learning that rare classes are rare.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["linear"] = "linear"
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    prior_bias: bool = True


HeadConfig = LinearHeadConfig


@final
class LinearHead(nn.Module):
    """Global average pooling, dropout, linear layer: [B, D, h, w] → [B, C].

    Args:
        feature_dim: D.
        num_classes: C.
        dropout: Chance of dropping a pooled feature while training, in [0, 1).
        bias: Initial bias, one value a class; 0 if None.
    """

    def __init__(
        self, feature_dim: int, num_classes: int, *, dropout: float = 0.0, bias: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(feature_dim, num_classes)
        # small weights let the bias, the class frequencies, speak first
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)
        if bias is not None:
            with torch.no_grad():
                self.linear.bias.copy_(torch.tensor(list(bias)))

    def forward(self, features: Tensor) -> Tensor:
        """Turn a feature map into logits."""
        logits = self.linear(self.dropout(features.mean(dim=(2, 3))))
        assert isinstance(logits, Tensor)
        return logits


def build_head(
    config: HeadConfig, *, feature_dim: int, num_classes: int, prior: Sequence[float] | None = None
) -> LinearHead:
    """Build the head a config names.

    Args:
        config: Which head.
        feature_dim: Channels of the feature map.
        num_classes: Classes.
        prior: Log prior of each class on the scale of its logit (log π in a softmax, logit π for a sigmoid); used
            if the config asks for it.

    Returns:
        The head.

    Example:
        >>> head = build_head(LinearHeadConfig(), feature_dim=8, num_classes=2, prior=[-1.0, -3.0])
        >>> head.eval()(torch.zeros(1, 8, 2, 2)).tolist()
        [[-1.0, -3.0]]
    """
    bias = prior if config.prior_bias else None
    return LinearHead(feature_dim, num_classes, dropout=config.dropout, bias=bias)
