"""The head of SynTUS-Net: class attention, batch mixer, and a last layer for each of two streams.

Each of the three can be switched off; without class attention the map is averaged, so that the other two work behind
any backbone. Training sees every route to the labels, prediction the mean of the last layers without the mixer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from medtail.config import CLOSED
from medtail.errors import MedtailError
from medtail.models.batch_mixer import BatchMixer, BatchMixerConfig
from medtail.models.class_attention import ClassAttention, ClassAttentionConfig, LabelScores
from medtail.models.contract import Head, HeadAnswer


@final
@dataclass(frozen=True, kw_only=True)
class SyntusHeadConfig:
    """SynTUS-Net's head; None or false switches a part off.

    Attributes:
        attention: B1, a vector a label; None averages the map into one vector for all.
        batch_mixer: B2, only while training.
        two_layers: C2's last layers, one learning from each stream; false has one for all rows.
        dropout: On the averaged map where `attention` is off.
        prior_bias: Start from the train fold's class frequencies rather than from one half.

    References:
        zhang2026, whose modules these are a reading of.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["syntus"] = "syntus"
    attention: ClassAttentionConfig | None = field(default_factory=ClassAttentionConfig)
    batch_mixer: BatchMixerConfig | None = field(default_factory=BatchMixerConfig)
    two_layers: bool = True
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    prior_bias: bool = True

    def __post_init__(self) -> None:
        heads = 1 if self.batch_mixer is None else self.batch_mixer.heads
        if self.attention is not None and self.attention.width % heads:
            raise MedtailError(
                f"attention.width {self.attention.width}: expected a multiple of batch_mixer.heads {heads}."
            )
        if self.attention is not None and not self.attention.prior_bias:
            raise MedtailError("attention.prior_bias: belongs to a head of class attention alone; set prior_bias.")

    @staticmethod
    def of_size(size: Literal["tiny", "small", "base"]) -> SyntusHeadConfig:
        """Return the head that goes with a backbone of that size.

        Example:
            >>> SyntusHeadConfig.of_size("tiny").attention.width
            64
        """
        width, rank = {"tiny": (64, 8), "small": (128, 16), "base": (256, 16)}[size]
        return replace(SyntusHeadConfig(), attention=ClassAttentionConfig(width=width, rank=rank))


@final
class SyntusHead(Head):
    """[B, D, h, w] → [B, C], the mean of one or two last layers.

    While training, `further` has the logits of the last layers, `u` and `r`, where there are two; and those of the
    mixed vectors, `mixed_u` and `mixed_r`, or `mixed`, where there is a mixer.

    Args:
        feature_dim: D.
        num_classes: C.
        config: What is switched on.
        bias: First bias, one value a class; 0 if None.

    Raises:
        MedtailError: The mixer's heads do not divide the vectors.

    Example:
        >>> head = SyntusHead(16, 3, config=SyntusHeadConfig.of_size("tiny"))
        >>> answer = head.train().answer(torch.zeros(4, 16, 2, 2))
        >>> answer.logits.shape, sorted(answer.further)
        (torch.Size([4, 3]), ['mixed_r', 'mixed_u', 'r', 'u'])
        >>> sorted(head.eval().answer(torch.zeros(4, 16, 2, 2)).further)
        []
    """

    def __init__(
        self, feature_dim: int, num_classes: int, *, config: SyntusHeadConfig, bias: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        attention, mixer = config.attention, config.batch_mixer
        width = feature_dim if attention is None else attention.width
        if mixer is not None and width % mixer.heads:
            raise MedtailError(
                f"head.batch_mixer.heads: found {mixer.heads} for a map of {width} channels; expected a divisor of it."
            )
        self.encoder = None if attention is None else ClassAttention(feature_dim, num_classes, config=attention)
        self.dropout = nn.Dropout(config.dropout)
        self.mixer = None if mixer is None else BatchMixer(width, config=mixer)
        self.layers = nn.ModuleList(
            LabelScores(width, num_classes, bias=bias, has_summary=attention is not None)
            for _ in range(2 if config.two_layers else 1)
        )

    def answer(self, features: Tensor) -> HeadAnswer:
        """Score by every route; `pooled` is the summary of the image."""
        if self.encoder is None:
            pooled = features.mean(dim=(2, 3))
            vectors, summary = self.dropout(pooled)[:, None], None
        else:
            vectors, pooled = self.encoder(features)
            summary = pooled
        routes = [layer(vectors, summary) for layer in self.layers]
        logits = torch.stack(routes).mean(dim=0)
        if not self.training:
            return HeadAnswer(logits=logits, pooled=pooled)
        further = dict(zip(("u", "r"), routes, strict=True)) if len(routes) > 1 else {}
        if self.mixer is not None:
            mixed = self.mixer(vectors)
            names = ("mixed_u", "mixed_r") if len(routes) > 1 else ("mixed",)
            further |= {name: layer(mixed, summary) for name, layer in zip(names, self.layers, strict=True)}
        return HeadAnswer(logits=logits, pooled=pooled, further=further)

    def attention(self, features: Tensor) -> Tensor:
        """Return where each label looks, [B, H, C, h · w], for heat maps.

        Raises:
            MedtailError: Class attention is switched off.
        """
        if self.encoder is None:
            raise MedtailError("head.attention: is switched off, so no label looks anywhere in particular.")
        return self.encoder.attention(features)
