"""Batch mixer: while training, each label's vectors of a batch's images are compared with each other.

A rare label's few images borrow from the others of the batch. Its scores are a second route to the same labels; the
first route, which prediction uses, never sees another image, so nothing in eval mode depends on the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from medtail.config import CLOSED
from medtail.models.class_attention import SelfAttention


@final
@dataclass(frozen=True, kw_only=True)
class BatchMixerConfig:
    """Attention along the batch, for each label alone.

    Attributes:
        heads: H; the vectors' length is a multiple of it.
        dropout: On what attention adds.
        sham: A control that must not help: `partners` compares a label's vector with vectors of labels dealt out at
            random in each image.

    References:
        hou2022.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    heads: Annotated[int, Field(ge=1)] = 4
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    sham: Literal["partners"] | None = None


@final
class BatchMixer(nn.Module):
    """Z' = Z + MHSA(LN Z) along the batch, one label at a time, all with the same weights.

    With several processes each mixes its own share of the batch.

    Args:
        width: d.
        config: Heads and control.

    Example:
        >>> BatchMixer(8, config=BatchMixerConfig())(torch.zeros(5, 3, 8)).shape
        torch.Size([5, 3, 8])

    References:
        hou2022.
    """

    def __init__(self, width: int, *, config: BatchMixerConfig) -> None:
        super().__init__()
        self.config = config
        self.attend = SelfAttention(width, heads=config.heads, dropout=config.dropout)

    def forward(self, vectors: Tensor) -> Tensor:
        """Mix vectors [B, C, d]; a batch of one image is returned as it is."""
        if len(vectors) < 2:
            return vectors
        partners = None
        if self.config.sham == "partners":
            # on the CPU, whose generator is set anew each step, so that every device deals alike
            dealt = torch.rand(vectors.shape[:2]).argsort(dim=1).to(vectors.device)
            partners = vectors.gather(1, dealt[:, :, None].expand_as(vectors)).transpose(0, 1)
        mixed: Tensor = self.attend(vectors.transpose(0, 1), partners=partners).transpose(0, 1)
        return mixed
