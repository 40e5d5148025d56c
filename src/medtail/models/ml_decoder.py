"""ML-Decoder: fixed queries read the map by cross-attention, each answering for a group of classes.

A transformer decoder without what multi-label recognition does not need: queries do not attend to each other and are
not learnt, so its cost grows with the number of groups, not with the square of the number of classes.
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
from medtail.models.contract import Head, HeadAnswer

Natural = Annotated[int, Field(ge=1)]


@final
@dataclass(frozen=True, kw_only=True)
class MlDecoderConfig:
    """One layer of queries that read the map.

    Attributes:
        groups: Queries K, at most as many as classes; None is one a class. Class c belongs to query c // ceil(C / K).
        width: Length of queries and tokens; a multiple of `heads`. The paper's is 768.
        heads: Of attention.
        inner: Width of the feed-forward block; the paper's is 2048.
        dropout: While training, of attention too.
        prior_bias: Start from the train fold's class frequencies rather than from one half.

    References:
        ridnik2023.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["ml_decoder"] = "ml_decoder"
    groups: Natural | None = None
    width: Natural = 256
    heads: Natural = 8
    inner: Natural = 1024
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    prior_bias: bool = True

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise MedtailError(f"width {self.width}, heads {self.heads}: expected a width that is a multiple of heads.")


@final
class MlDecoderHead(Head):
    """[B, D, h, w] → K group vectors → [B, C].

    Args:
        feature_dim: D.
        num_classes: C.
        config: Sizes.
        bias: First bias, one value a class; 0 if None.

    Raises:
        MedtailError: More groups than classes.

    Example:
        >>> head = MlDecoderHead(16, 5, config=MlDecoderConfig(groups=2, width=8, inner=16)).eval()
        >>> head(torch.zeros(2, 16, 4, 4)).shape
        torch.Size([2, 5])

    References:
        ridnik2023.
    """

    queries: Tensor

    def __init__(
        self, feature_dim: int, num_classes: int, *, config: MlDecoderConfig, bias: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        groups = num_classes if config.groups is None else config.groups
        if groups > num_classes:
            raise MedtailError(f"head.groups: found {groups}; expected at most {num_classes}, the number of classes.")
        width = config.width
        self.config = config
        self.num_classes = num_classes
        self.embed = nn.Linear(feature_dim, width)
        self.register_buffer("queries", torch.randn(groups, width))  # not learnt, but part of the model
        self.query_norm = nn.LayerNorm(width)
        self.to_queries = nn.Linear(width, width)
        self.to_keys = nn.Linear(width, width)
        self.to_values = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.read_norm = nn.LayerNorm(width)
        self.inner = nn.Sequential(
            nn.Linear(width, config.inner), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(config.inner, width)
        )
        self.last_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        size = math.ceil(num_classes / groups)
        # smaller than the authors' start, so that the bias, the class frequencies, speaks first
        self.weight = nn.Parameter(nn.init.xavier_normal_(torch.empty(groups * width, size)).view(groups, width, size))
        first = torch.zeros(num_classes) if bias is None else torch.tensor(list(bias), dtype=torch.float32)
        self.bias = nn.Parameter(first)

    def answer(self, features: Tensor) -> HeadAnswer:
        """Let the queries read the map; `pooled` is the mean of the embedded map."""
        return self.answer_tokens(features.flatten(2).transpose(1, 2))

    def answer_tokens(self, tokens: Tensor, is_there: Tensor | None = None) -> HeadAnswer:
        """Let the queries read tokens that are no single map, such as those of several views.

        Args:
            tokens: Float [B, L, D].
            is_there: Which tokens there are, bool [B, L], at least one a row; None for all. The others change nothing.
        """
        tokens = torch.relu(self.embed(tokens))
        # the paper adds the dropped queries to themselves in place of self-attention
        queries = self.query_norm(self.queries + self.dropout(self.queries)).expand(tokens.shape[0], -1, -1)
        found = F.scaled_dot_product_attention(
            self._heads(self.to_queries(queries)),
            self._heads(self.to_keys(tokens)),
            self._heads(self.to_values(tokens)),
            attn_mask=None if is_there is None else is_there[:, None, None, :],
            dropout_p=self.config.dropout if self.training else 0.0,
        )
        read = self.read_norm(queries + self.dropout(self.out(found.transpose(1, 2).flatten(2))))
        vectors = self.last_norm(read + self.dropout(self.inner(read)))
        scores = torch.einsum("bkd,kdn->bkn", vectors, self.weight).flatten(1)[:, : self.num_classes]
        if is_there is None:
            return HeadAnswer(logits=scores + self.bias, pooled=tokens.mean(dim=1))
        kept = torch.where(is_there[:, :, None], tokens, 0.0).sum(dim=1)
        return HeadAnswer(logits=scores + self.bias, pooled=kept / is_there.sum(dim=1, keepdim=True))

    def attention(self, features: Tensor) -> Tensor:
        """Return where each query looks, [B, heads, K, h · w], adding up to 1 over positions; without dropout."""
        tokens = torch.relu(self.embed(features.flatten(2).transpose(1, 2)))
        queries = self._heads(self.to_queries(self.query_norm(2 * self.queries)).expand(len(tokens), -1, -1))
        keys = self._heads(self.to_keys(tokens))
        return torch.softmax(queries @ keys.transpose(2, 3) / math.sqrt(keys.shape[-1]), dim=-1)

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.reshape(*tokens.shape[:2], self.config.heads, -1).transpose(1, 2)
