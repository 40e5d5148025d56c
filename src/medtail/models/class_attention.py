"""Class attention: each label looks for its own evidence in the map, with a question that depends on the image.

A query a label is moved by a summary of the image, attends over the map's positions, and becomes a vector that is then
compared with those of the other labels: which findings go together is read off the image, not off a fixed graph.
Without the conditioning this is a plain query decoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medtail.config import CLOSED
from medtail.errors import MedtailError
from medtail.models.contract import Head, HeadAnswer

Natural = Annotated[int, Field(ge=1)]
FIRST_LAMBDA = 0.3
"""First weight of the whole image beside what a label attends to."""
SCORE_SCALE = 0.01
"""Standard deviation of the first scores' weights: small, so that the bias, the class frequencies, speaks first."""


@final
@dataclass(frozen=True, kw_only=True)
class ClassAttentionConfig:
    """A vector a label by attention over the map.

    Attributes:
        width: d, a multiple of 4 and of `heads`.
        heads: H.
        rank: r of the conditioning.
        conditioning: Move each label's query by a summary of the image.
        mixing: Compare the labels' vectors with each other.
        dropout: On what attention adds, while training.
        prior_bias: Start from the train fold's class frequencies rather than from one half.
        sham: A control that must not help: `stranger` conditions on another image, in training on a neighbour in the
            batch, afterwards on one of the last batch seen in training.

    References:
        liu2021, whose decoder is this one without conditioning and mixing.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["class_attention"] = "class_attention"
    width: Natural = 256
    heads: Natural = 4
    rank: Natural = 16
    conditioning: bool = True
    mixing: bool = True
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    prior_bias: bool = True
    sham: Literal["stranger"] | None = None

    def __post_init__(self) -> None:
        if self.width % 4 or self.width % self.heads:
            raise MedtailError(
                f"width {self.width}, heads {self.heads}: expected a width that is a multiple of 4 and of heads."
            )
        if self.sham is not None and not self.conditioning:
            raise MedtailError(f"sham: {self.sham!r} changes a conditioning that `conditioning: false` switched off.")


@lru_cache(maxsize=16)
def sine_positions(height: int, width: int, channels: int) -> Tensor:
    """Return the fixed code of a grid's positions, float32 [height · width, channels]: half for rows, half for columns.

    Example:
        >>> sine_positions(2, 3, 8).shape
        torch.Size([6, 8])
    """
    quarter = channels // 4
    rates = torch.exp(-math.log(10_000.0) * torch.arange(quarter) / quarter)

    def code(length: int) -> Tensor:
        angles = torch.arange(length)[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    rows, columns = code(height), code(width)
    both = [rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)]
    return torch.cat(both, dim=2).flatten(0, 1)


@final
class SelfAttention(nn.Module):
    """x + dropout(MHSA(LN x)) along the second axis of [N, L, d].

    Args:
        width: d.
        heads: H.
        dropout: Chance of dropping what attention adds, while training.

    Example:
        >>> sum(weight.numel() for weight in SelfAttention(256, heads=4).parameters())
        263680
    """

    def __init__(self, width: int, *, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, *, partners: Tensor | None = None) -> Tensor:
        """Compare tokens [N, L, d] with each other, or with other tokens of the same shape."""
        normed = self.norm(tokens)
        queries, keys, values = self._split(normed)
        if partners is not None:
            _, keys, values = self._split(self.norm(partners))
        found = F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
        added: Tensor = self.dropout(self.out(found))
        return tokens + added

    def _split(self, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        split = self.project(normed).reshape(*normed.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return split[0], split[1], split[2]


@final
class ClassAttention(nn.Module):
    """A map to a vector a label: [B, D, h, w] → [B, C, d], and the summary of the image, [B, d].

    E = conv1x1(X), g = mean E; K = (E + pos) W_K, V = E W_V; q_c = Q_c + tanh(U_c V_r g);
    z_c = (softmax(q_c Kᵀ / √(d/H)) V) W_O, then z + MHSA over labels.

    Args:
        feature_dim: D.
        num_classes: C.
        config: Sizes and switches.

    Example:
        >>> encoder = ClassAttention(8, 3, config=ClassAttentionConfig(width=8, rank=2)).eval()
        >>> vectors, summary = encoder(torch.zeros(2, 8, 4, 4))
        >>> vectors.shape, summary.shape
        (torch.Size([2, 3, 8]), torch.Size([2, 8]))

    References:
        liu2021.
    """

    last_seen: Tensor

    def __init__(self, feature_dim: int, num_classes: int, *, config: ClassAttentionConfig) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.embed = nn.Conv2d(feature_dim, width, 1)
        self.queries = nn.Parameter(torch.randn(num_classes, width))
        self.conditioned = config.conditioning
        if config.conditioning:
            # U = 0: it begins as an unconditioned decoder. Were V_r 0 too, neither would ever move.
            self.spread = nn.Parameter(torch.zeros(num_classes, width, config.rank))
            self.squeeze = nn.Parameter(torch.randn(config.rank, width) / math.sqrt(width))
        if config.sham == "stranger":
            self.register_buffer("last_seen", torch.zeros(width))
        self.to_keys = nn.Linear(width, width)
        self.to_values = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)
        self.mixing = SelfAttention(width, heads=config.heads, dropout=config.dropout) if config.mixing else None

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors [B, C, d] and summaries [B, d] of a map [B, D, h, w]."""
        queries, keys, values, summary = self._prepare(features)
        found = F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
        vectors = self.dropout(self.out(found))
        return vectors if self.mixing is None else self.mixing(vectors), summary

    def attention(self, features: Tensor) -> Tensor:
        """Return where each label looks, [B, H, C, h · w], adding up to 1 over positions."""
        queries, keys, _, _ = self._prepare(features)
        return torch.softmax(queries @ keys.transpose(2, 3) / math.sqrt(keys.shape[-1]), dim=-1)

    def _prepare(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        embedded = self.embed(features)
        height, width = embedded.shape[-2:]
        tokens = embedded.flatten(2).transpose(1, 2)
        summary = tokens.mean(dim=1)
        places = sine_positions(height, width, self.config.width).to(tokens)
        queries = self.queries.expand(tokens.shape[0], -1, -1)
        if self.conditioned:
            squeezed = self._condition(summary) @ self.squeeze.T
            queries = queries + torch.tanh(torch.einsum("cdr,br->bcd", self.spread, squeezed))
        return (
            self._heads(queries),
            self._heads(self.to_keys(tokens + places)),
            self._heads(self.to_values(tokens)),
            summary,
        )

    def _condition(self, summary: Tensor) -> Tensor:
        if self.config.sham is None:
            return summary
        if not self.training:  # a neighbour in the batch would make the answer depend on the batch
            return self.last_seen.expand_as(summary)
        self.last_seen.copy_(summary[0].detach())
        return summary.roll(1, dims=0)

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.reshape(*tokens.shape[:2], self.config.heads, -1).transpose(1, 2)


@final
class LabelScores(nn.Module):
    """A last layer: s_c = w_c · z_c + λ w_c · g + b_c, with λ learnt; without g the middle term is left out.

    Args:
        width: Length of the vectors.
        num_classes: C.
        bias: First bias, one value a class; 0 if None.
        has_summary: Whether there is a g.
    """

    def __init__(self, width: int, num_classes: int, *, bias: Sequence[float] | None, has_summary: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(SCORE_SCALE * torch.randn(num_classes, width))
        first = torch.zeros(num_classes) if bias is None else torch.tensor(list(bias), dtype=torch.float32)
        self.bias = nn.Parameter(first)
        if has_summary:
            self.share = nn.Parameter(torch.tensor(FIRST_LAMBDA))
        self.has_summary = has_summary

    def forward(self, vectors: Tensor, summary: Tensor | None = None) -> Tensor:
        """Score vectors a label [B, C, d], or one for all labels [B, 1, d], giving [B, C]."""
        logits = (vectors * self.weight).sum(dim=2) + self.bias
        if self.has_summary:
            assert summary is not None
            logits = logits + self.share * (summary @ self.weight.T)
        return logits


@final
class ClassAttentionHead(Head):
    """Class attention as a head by itself: [B, D, h, w] → [B, C].

    Args:
        feature_dim: D.
        num_classes: C.
        config: Sizes and switches.
        bias: First bias, one value a class; 0 if None.

    Example:
        >>> head = ClassAttentionHead(2048, 20, config=ClassAttentionConfig())
        >>> sum(weight.numel() for weight in head.parameters())
        1081877
    """

    def __init__(
        self, feature_dim: int, num_classes: int, *, config: ClassAttentionConfig, bias: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.encoder = ClassAttention(feature_dim, num_classes, config=config)
        self.scores = LabelScores(config.width, num_classes, bias=bias, has_summary=True)

    def answer(self, features: Tensor) -> HeadAnswer:
        """Attend, compare, score; `pooled` is the summary of the image."""
        vectors, summary = self.encoder(features)
        return HeadAnswer(logits=self.scores(vectors, summary), pooled=summary)

    def attention(self, features: Tensor) -> Tensor:
        """Return where each label looks, [B, H, C, h · w], for heat maps."""
        return self.encoder.attention(features)
