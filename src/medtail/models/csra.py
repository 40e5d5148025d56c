"""CSRA: the mean score over the map plus a share of its score where the class scores most.

A finding may fill a hundredth of the image; the mean over the map hides it. Each class attends to its own positions,
without any weights beyond those of the linear layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medtail.config import CLOSED
from medtail.models.contract import Head, HeadAnswer

TEMPERATURES = {1: (1,), 2: (1,), 4: (1, 2, 4), 6: (1, 2, 3, 4, 5), 8: (1, 2, 3, 4, 5, 6, 7)}
"""Temperatures of the paper's numbers of heads; with two or more the last head takes the largest score."""


@final
@dataclass(frozen=True, kw_only=True)
class CsraConfig:
    """Class-specific residual attention.

    Attributes:
        heads: Scores added up: one by one temperature, or several, the last of them by the largest score.
        share: λ of the attended score beside the mean, >= 0; 0 is average pooling.
        dropout: Chance of dropping a channel of the map while training.
        prior_bias: Start from the train fold's class frequencies rather than from one half.

    References:
        zhu2021.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["csra"] = "csra"
    heads: Literal[1, 2, 4, 6, 8] = 1
    share: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.1
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    prior_bias: bool = True


@final
class CsraHead(Head):
    """[B, D, h, w] → [B, C]: Σ over heads of mean s + λ Σ softmax(T s) s, plus a bias; s = X w_c / ‖w_c‖.

    Args:
        feature_dim: D.
        num_classes: C.
        config: Heads and share.
        bias: First bias, one value a class; 0 if None. The paper has none.

    Example:
        >>> head = CsraHead(8, 3, config=CsraConfig())
        >>> head(torch.zeros(2, 8, 4, 4)).shape
        torch.Size([2, 3])

    References:
        zhu2021.
    """

    def __init__(
        self, feature_dim: int, num_classes: int, *, config: CsraConfig, bias: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.config = config
        count = config.heads
        # as a convolution's in the authors' code: only directions count, and a step turns short weights further
        self.weight = nn.Parameter(torch.empty(count, num_classes, feature_dim))
        nn.init.uniform_(self.weight, -(feature_dim**-0.5), feature_dim**-0.5)
        first = torch.zeros(num_classes) if bias is None else torch.tensor(list(bias), dtype=torch.float32)
        self.bias = nn.Parameter(first)
        self.dropout = nn.Dropout2d(config.dropout)

    def answer(self, features: Tensor) -> HeadAnswer:
        """Score every position, then pool the scores; `pooled` is the mean of the map."""
        tokens = self.dropout(features).flatten(2)
        directions = F.normalize(self.weight, dim=2)
        logits = self.bias.expand(tokens.shape[0], -1)
        for number, direction in enumerate(directions):
            scores = direction @ tokens  # [B, C, h · w]
            logits = logits + scores.mean(dim=2) + self.config.share * self._attended(scores, number)
        return HeadAnswer(logits=logits, pooled=features.mean(dim=(2, 3)))

    def _attended(self, scores: Tensor, number: int) -> Tensor:
        temperatures = TEMPERATURES[self.config.heads]
        if number == len(temperatures):
            return scores.amax(dim=2)
        return (scores * torch.softmax(temperatures[number] * scores, dim=2)).sum(dim=2)
