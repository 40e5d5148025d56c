"""The head of CSASN: squeeze-and-excitation, CBAM, residual multiscale classifier, one after the other.

`refine` re-weighs the map, `read` classifies it. The mean of the refined map over its positions is the vector that
objectives compare images by. Beside the head stands the dual trunk (`dual`); either works without the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medtail.config import CLOSED
from medtail.errors import MedtailError
from medtail.models.attention import Cbam, SqueezeExcitation
from medtail.models.contract import Head, HeadAnswer
from medtail.models.rmsc import Batch, RmscConfig, build_reading

NORM_MOMENTUM = 0.1
"""Share of the new batch in BatchNorm's running statistics."""
OUTPUT_SCALE = 0.01
"""Standard deviation of the first output weights: small, so that the bias, the class frequencies, speaks first."""


@final
@dataclass(frozen=True, kw_only=True)
class CsasnConfig:
    """CSASN's head; each of its three parts can be switched off.

    Attributes:
        se: Whether channels are re-weighed by squeeze-and-excitation.
        cbam: How positions are re-weighed: not at all, by the `spatial` half of CBAM, by the `full` module, or as
            the paper prints it (`literal`).
        reduction: r of the bottlenecks in both.
        rmsc: The classifier behind them; `attend: {kind: none}` takes its attention out.
        prior_bias: Start from the train fold's class frequencies rather than from one half.

    References:
        li2025, sec. 2.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["csasn"] = "csasn"
    se: bool = True
    cbam: Literal["none", "spatial", "full", "literal"] = "spatial"
    reduction: Annotated[int, Field(ge=1)] = 16
    rmsc: RmscConfig = field(default_factory=RmscConfig)
    prior_bias: bool = True

    @staticmethod
    def of_size(size: Literal["tiny", "small", "base"]) -> CsasnConfig:
        """Return the head that goes with a trunk of that size.

        Example:
            >>> CsasnConfig.of_size("tiny").rmsc.width
            64
        """
        width, heads, hidden = {
            "tiny": (64, 4, (64, 32)),
            "small": (384, 8, (256, 128)),
            "base": (512, 8, (256, 128)),
        }[size]
        return CsasnConfig(rmsc=RmscConfig(width=width, heads=heads, hidden=hidden))

    @staticmethod
    def literal() -> CsasnConfig:
        """Return the head as printed, for `DualConfig.literal()`: attention across the batch at the map's full width.

        Example:
            >>> CsasnConfig.literal().rmsc.attend
            Batch(kind='batch', at_test='mates')
        """
        rmsc = RmscConfig(attend=Batch(at_test="mates"), scale="model", width=None)
        return replace(CsasnConfig(), cbam="literal", rmsc=rmsc, prior_bias=False)


@final
class Outputs(nn.Module):
    """The last layer: two outputs a class on its own, one output a class inside a softmax group.

    The softmax over a pair of outputs is the sigmoid of their difference, so the class's logit is that difference.

    Args:
        width: Length of the vector before it.
        num_classes: C.
        groups: Columns of each softmax group.
        bias: First value of each logit; 0 if None.
    """

    order: Tensor

    def __init__(
        self, width: int, num_classes: int, *, groups: Sequence[Sequence[int]], bias: Sequence[float] | None
    ) -> None:
        super().__init__()
        grouped = [column for group in groups for column in group]
        free = [column for column in range(num_classes) if column not in set(grouped)]
        self.pairs = nn.Linear(width, 2 * len(free)) if free else None
        self.groups = nn.Linear(width, len(grouped)) if grouped else None
        for layer in (self.pairs, self.groups):
            if layer is not None:
                nn.init.normal_(layer.weight, std=OUTPUT_SCALE)
                nn.init.zeros_(layer.bias)
        if bias is not None:
            first = torch.tensor(list(bias))
            with torch.no_grad():
                if self.pairs is not None:
                    self.pairs.bias.copy_(torch.stack([-first[free] / 2, first[free] / 2], dim=1).flatten())
                if self.groups is not None:
                    self.groups.bias.copy_(first[grouped])
        self.register_buffer("order", torch.tensor([*free, *grouped]).argsort(), persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Turn vectors [B, width] into logits [B, C]."""
        found = []
        if self.pairs is not None:
            pairs = self.pairs(vectors).reshape(vectors.shape[0], -1, 2)
            found.append(pairs[..., 1] - pairs[..., 0])
        if self.groups is not None:
            found.append(self.groups(vectors))
        return torch.cat(found, dim=1)[:, self.order]


@final
class CsasnHead(Head):
    """Refine a map by cascaded attention, then classify it: [B, D, h, w] → [B, C].

    Args:
        parts: Channels of the map by branch; they add up to D.
        num_classes: C.
        config: Which parts, and their sizes.
        groups: Columns of each softmax group; every other class has two outputs of its own.
        grid: Height and width of the map, for checks; None if not known.
        bias: First value of each logit; 0 if None.

    Raises:
        MedtailError: The config does not fit the map.

    Example:
        >>> head = CsasnHead((64, 320), 3, config=CsasnConfig.of_size("tiny")).eval()
        >>> answer = head.answer(torch.zeros(2, 384, 4, 4))
        >>> answer.logits.shape, answer.pooled.shape
        (torch.Size([2, 3]), torch.Size([2, 384]))

    References:
        li2025, eq. 3-6; hu2018; woo2018; misra2019 (Mish).
    """

    def __init__(
        self,
        parts: Sequence[int],
        num_classes: int,
        *,
        config: CsasnConfig,
        groups: Sequence[Sequence[int]] = (),
        grid: tuple[int, int] | None = None,
        bias: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        channels = sum(parts)
        self.se = SqueezeExcitation(channels, reduction=config.reduction) if config.se else None
        self.cbam = None if config.cbam == "none" else Cbam(channels, form=config.cbam, reduction=config.reduction)
        rmsc = config.rmsc
        self.reading = build_reading(rmsc, parts=parts, grid=grid)
        self.batch_dependent = self.reading.batch_dependent
        first, second = rmsc.hidden
        self.first = nn.Linear(self.reading.vector_dim, first, bias=False)
        self.first_norm = nn.BatchNorm1d(first, momentum=NORM_MOMENTUM)
        self.second = nn.Linear(first, second, bias=False)
        self.second_norm = nn.BatchNorm1d(second, momentum=NORM_MOMENTUM)
        self.dropout = nn.Dropout(rmsc.dropout)
        self.outputs = Outputs(second, num_classes, groups=groups, bias=bias)

    def refine(self, features: Tensor) -> Tensor:
        """Re-weigh the channels, then the positions, of a map [B, D, h, w]."""
        excited = features if self.se is None else self.se(features)
        return excited if self.cbam is None else self.cbam(excited, before=features)

    def read(self, refined: Tensor) -> Tensor:
        """Classify a refined map [B, D, h, w]: logits [B, C].

        Raises:
            MedtailError: A training batch of one image, over which BatchNorm has nothing to average.
        """
        if self.training and len(refined) < 2:
            raise MedtailError(
                "head csasn: a training batch holds 1 image, and batch normalisation needs at least 2 (better 16);"
                " raise optimizer.batch_size."
            )
        hidden = F.mish(self.first_norm(self.first(self.reading(refined))))
        hidden = F.mish(self.second_norm(self.second(self.dropout(hidden))))
        logits: Tensor = self.outputs(self.dropout(hidden))
        return logits

    def answer(self, features: Tensor) -> HeadAnswer:
        """Refine, pool, classify; `pooled` is the mean of the refined map over its positions."""
        refined = self.refine(features)
        return HeadAnswer(logits=self.read(refined), pooled=refined.mean(dim=(2, 3)))
