"""GLoRI: each class asks the patches of several blocks what it needs, and hears the whole image beside it.

A global and a local answer a class, for foundation models that stay frozen: a query a class reads the patch tokens of
the last blocks, and what it found is joined with the class token before one linear layer a class. (Of the team's system
only this form is known; sizes and norms are ours.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medtail.config import CLOSED
from medtail.errors import MedtailError
from medtail.models.class_attention import SCORE_SCALE, sine_positions
from medtail.models.contract import Head, HeadAnswer

Natural = Annotated[int, Field(ge=1)]


@final
@dataclass(frozen=True, kw_only=True)
class GloriConfig:
    """A query a class over the parts of a map, joined with the mean of the last part.

    Made for the backbone `vit_blocks`, whose last part is the class token. Of any other backbone the last branch's mean
    takes its place; of a single one the map is both read and averaged.

    Attributes:
        width: Length of queries and tokens, a multiple of 4 and of `heads`.
        heads: Of attention.
        dropout: On what attention adds and on the joined vectors, while training.
        prior_bias: Start from the train fold's class frequencies rather than from one half.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["glori"] = "glori"
    width: Natural = 256
    heads: Natural = 8
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    prior_bias: bool = True

    def __post_init__(self) -> None:
        if self.width % 4 or self.width % self.heads:
            raise MedtailError(
                f"width {self.width}, heads {self.heads}: expected a width that is a multiple of 4 and of heads."
            )


@final
class GloriHead(Head):
    """[B, Σ D_i, h, w] → [B, C]: z_c = LN(q_c + MHA(q_c, tokens)), s_c = w_c · [z_c; LN(W g)] + b_c.

    Tokens are LN(W_i x_i) + part_i + position, of every part but the last; g is the mean of the last part.

    Args:
        feature_parts: D_i, channels of each part of the map.
        num_classes: C.
        config: Sizes.
        bias: First bias, one value a class; 0 if None.

    Example:
        >>> head = GloriHead((8, 8, 8), 5, config=GloriConfig(width=8, heads=2)).eval()
        >>> head(torch.zeros(2, 24, 4, 4)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        feature_parts: Sequence[int],
        num_classes: int,
        *,
        config: GloriConfig,
        bias: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.parts = tuple(feature_parts)
        local = self.parts[:-1] if len(self.parts) > 1 else self.parts
        self.embed = nn.ModuleList(nn.Sequential(nn.Linear(part, width), nn.LayerNorm(width)) for part in local)
        self.whole = nn.Sequential(nn.Linear(self.parts[-1], width), nn.LayerNorm(width))
        self.part_codes = nn.Parameter(0.02 * torch.randn(len(local), width))
        self.queries = nn.Parameter(torch.randn(num_classes, width))
        self.to_keys = nn.Linear(width, width)
        self.to_values = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        # small, so that the bias, the class frequencies, speaks first
        self.weight = nn.Parameter(SCORE_SCALE * torch.randn(num_classes, 2 * width))
        first = torch.zeros(num_classes) if bias is None else torch.tensor(list(bias), dtype=torch.float32)
        self.bias = nn.Parameter(first)

    def answer(self, features: Tensor) -> HeadAnswer:
        """Let every class read the patches; `pooled` is the vector of the whole image."""
        queries, keys, values = self._prepare(features)
        found = F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
        local = self.norm(self.queries + self.dropout(self.out(found)))
        whole = self.whole(features[:, -self.parts[-1] :].mean(dim=(2, 3)))
        joined = torch.cat([local, whole[:, None].expand_as(local)], dim=2)
        return HeadAnswer(logits=(self.dropout(joined) * self.weight).sum(dim=2) + self.bias, pooled=whole)

    def attention(self, features: Tensor) -> Tensor:
        """Return where each class looks, [B, heads, C, h · w], the parts added up; 1 over positions."""
        queries, keys, _ = self._prepare(features)
        shares = torch.softmax(queries @ keys.transpose(2, 3) / math.sqrt(keys.shape[-1]), dim=-1)
        batch, heads, classes, _ = shares.shape
        return shares.reshape(batch, heads, classes, len(self.embed), -1).sum(dim=3)

    def _prepare(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        height, width = features.shape[-2:]
        places = sine_positions(height, width, self.config.width).to(features)
        maps = torch.split(features, list(self.parts), dim=1)
        tokens = torch.cat(
            [
                embed(part.flatten(2).transpose(1, 2)) + code + places
                for embed, part, code in zip(self.embed, maps, self.part_codes, strict=False)
            ],
            dim=1,
        )
        queries = self.queries.expand(tokens.shape[0], -1, -1)
        return self._heads(queries), self._heads(self.to_keys(tokens)), self._heads(self.to_values(tokens))

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.reshape(*tokens.shape[:2], self.config.heads, -1).transpose(1, 2)
