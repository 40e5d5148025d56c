"""Several last layers on one trunk; their logits are averaged.

What each of them learns is an objective's business (`losses.experts`): streams of differently drawn rows, or
differently common classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from medtail.config import CLOSED
from medtail.losses.experts import route
from medtail.models.contract import Head, HeadAnswer


@final
@dataclass(frozen=True, kw_only=True)
class ExpertsConfig:
    """Several linear layers, each with a hidden layer of its own if asked.

    Attributes:
        count: Experts, 2 to 8.
        width: Of each expert's hidden layer; None has none, and experts differ in their last layer alone.
        dropout: Chance of dropping a pooled feature while training.
        prior_bias: Start from the train fold's class frequencies rather than from one half.

    References:
        zhou2020b; guo2021; zhang2022.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["experts"] = "experts"
    count: Annotated[int, Field(ge=2, le=8)] = 3
    width: Annotated[int, Field(ge=1)] | None = None
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    prior_bias: bool = True


@final
class ExpertsHead(Head):
    """[B, D, h, w] → mean over experts of their logits, [B, C]; while training `further` has each one's.

    Args:
        feature_dim: D.
        num_classes: C.
        config: Count and sizes.
        bias: First bias, one value a class; 0 if None.

    Example:
        >>> head = ExpertsHead(8, 3, config=ExpertsConfig(count=2))
        >>> sorted(head.train().answer(torch.zeros(2, 8, 4, 4)).further)
        ['expert_0', 'expert_1']
    """

    def __init__(
        self, feature_dim: int, num_classes: int, *, config: ExpertsConfig, bias: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        inner = feature_dim if config.width is None else config.width
        self.hidden = nn.ModuleList(
            nn.Identity() if config.width is None else nn.Sequential(nn.Linear(feature_dim, inner), nn.ReLU())
            for _ in range(config.count)
        )
        self.layers = nn.ModuleList(nn.Linear(inner, num_classes) for _ in range(config.count))
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            # small weights let the bias, the class frequencies, speak first
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
            if bias is not None:
                with torch.no_grad():
                    layer.bias.copy_(torch.tensor(list(bias)))

    def answer(self, features: Tensor) -> HeadAnswer:
        """Pool, let every expert score, average."""
        pooled = features.mean(dim=(2, 3))
        given = self.dropout(pooled)
        routes = [layer(hidden(given)) for hidden, layer in zip(self.hidden, self.layers, strict=True)]
        logits = torch.stack(routes).mean(dim=0)
        further = {route(number): found for number, found in enumerate(routes)} if self.training else {}
        return HeadAnswer(logits=logits, pooled=pooled, further=further)
