"""Study fusion: the feature maps of a study's views become one answer for the study.

A small transformer reads the positions of up to four maps together, each knowing where it lies and which view it is
from; a decoder turns what it read into a logit a class. Views that are missing are masked: they change nothing, to the
last digit. The maps come from a backbone that was trained image by image and stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medtail.config import CLOSED
from medtail.errors import MedtailError
from medtail.models.class_attention import sine_positions
from medtail.models.contract import HeadAnswer
from medtail.models.heads import LinearHeadConfig, build_head
from medtail.models.ml_decoder import MlDecoderConfig, MlDecoderHead
from medtail.tables.studies import VIEW_KINDS

Natural = Annotated[int, Field(ge=1)]
DecoderConfig = Annotated[MlDecoderConfig | LinearHeadConfig, Field(discriminator="kind")]


@final
@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """The transformer over a study's views.

    Attributes:
        most_views: Images of a study that are read at most. Of larger studies training draws so many anew each time;
            afterwards frontal views go first, then lateral ones.
        width: Length of tokens, a multiple of 4 and of `heads`.
        layers: Encoder layers; 0 leaves only the decoder to look at all views.
        heads: Of attention.
        inner: Width of the feed-forward blocks.
        dropout: While training, of attention too.
        decoder: `ml_decoder` or `linear` (the mean over tokens).

    References:
        kim2023 (CheXFusion, whose maps go through a transformer and ML-Decoder).
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    most_views: Annotated[int, Field(ge=1, le=16)] = 4
    width: Natural = 256
    layers: Annotated[int, Field(ge=0, le=12)] = 2
    heads: Natural = 8
    inner: Natural = 1024
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    decoder: DecoderConfig = field(default_factory=MlDecoderConfig)

    def __post_init__(self) -> None:
        if self.width % 4 or self.width % self.heads:
            raise MedtailError(
                f"width {self.width}, heads {self.heads}: expected a width that is a multiple of 4 and of heads."
            )


@final
class MaskedLayer(nn.Module):
    """x + MHSA(LN x), then x + FFN(LN x), among the tokens that are there: [B, L, d] → [B, L, d].

    Args:
        config: Sizes.
    """

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        width, self.heads, self.rate = config.width, config.heads, config.dropout
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.inner = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, config.inner),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.inner, width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor, is_there: Tensor) -> Tensor:
        """Compare tokens [B, L, d] with those of their row that are there, bool [B, L]."""
        split = self.project(self.norm(tokens)).reshape(*tokens.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(
            split[0],
            split[1],
            split[2],
            attn_mask=is_there[:, None, None, :],
            dropout_p=self.rate if self.training else 0.0,
        )
        tokens = tokens + self.dropout(self.out(found.transpose(1, 2).flatten(2)))
        added: Tensor = self.dropout(self.inner(tokens))
        return tokens + added


@final
class StudyFusion(nn.Module):
    """Maps of a study's views to logits: [B, V, D, h, w] → [B, C].

    Tokens are LN(W x) + view + position, with a learnt vector a view kind and fixed sine positions; `layers` encoder
    layers compare those of all views of a study, a decoder reads them. The order of views does not matter (to
    rounding), only their kinds do.

    Args:
        feature_dim: D.
        num_classes: C.
        config: Sizes.
        bias: First bias, one value a class; 0 if None.

    Example:
        >>> fusion = StudyFusion(8, 3, config=FusionConfig(width=8, heads=2, inner=16,
        ...                      decoder=MlDecoderConfig(width=8, inner=16))).eval()
        >>> is_there = torch.tensor([[True, True], [True, False]])
        >>> fusion(torch.randn(2, 2, 8, 4, 4), torch.zeros(2, 2, dtype=torch.long), is_there).shape
        torch.Size([2, 3])

    References:
        kim2023; ridnik2023 (the decoder).
    """

    def __init__(
        self, feature_dim: int, num_classes: int, *, config: FusionConfig, bias: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(feature_dim, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.views = nn.Embedding(len(VIEW_KINDS), config.width)
        nn.init.normal_(self.views.weight, std=0.02)
        self.layers = nn.ModuleList(MaskedLayer(config) for _ in range(config.layers))
        self.last_norm = nn.LayerNorm(config.width)
        self.decoder = build_head(config.decoder, feature_dim=config.width, num_classes=num_classes, prior=bias)

    def forward(self, maps: Tensor, kinds: Tensor, is_there: Tensor) -> Tensor:
        """Return logits [B, C]; see `answer`."""
        return self.answer(maps, kinds, is_there).logits

    def answer(self, maps: Tensor, kinds: Tensor, is_there: Tensor) -> HeadAnswer:
        """Read a study's views together.

        Args:
            maps: Float [B, V, D, h, w]; anything, NaN included, where there is no view.
            kinds: Place of each view in `tables.studies.VIEW_KINDS`, integers [B, V].
            is_there: Which views there are, bool [B, V], at least one a study.

        Returns:
            Logits [B, C] and the decoder's vector of each study.
        """
        views = is_there.shape[1]
        height, width = maps.shape[-2:]
        maps = torch.where(is_there[:, :, None, None, None], maps, 0.0)
        tokens = self.norm(self.embed(maps.flatten(3).transpose(2, 3)))  # [B, V, h·w, d]
        places = sine_positions(height, width, self.config.width).to(tokens)
        kinds = torch.where(is_there, kinds, 0)
        tokens = (tokens + self.views(kinds)[:, :, None] + places).flatten(1, 2)
        known = is_there[:, :, None].expand(-1, views, height * width).flatten(1)
        for layer in self.layers:
            tokens = layer(tokens, known)
        tokens = self.last_norm(tokens)
        if isinstance(self.decoder, MlDecoderHead):
            return self.decoder.answer_tokens(tokens, known)
        kept = torch.where(known[:, :, None], tokens, 0.0).sum(dim=1) / known.sum(dim=1, keepdim=True)
        return self.decoder.answer(kept[:, :, None, None])
