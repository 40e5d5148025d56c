"""Equalisation: a common finding's rows do not push a rare one down.

Every image of a common finding is a negative for every rare one. Together these push a rare label's score down a
thousand times for each time its own images push it up. Equalisation leaves most of that push out where an image shows
something else, and keeps it where it shows nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from medtail.config import CLOSED
from medtail.losses.contract import Loss, LossContext


@final
@dataclass(frozen=True, kw_only=True)
class EqualizationConfig:
    """Equalisation loss in multi-label form, every class by itself.

    Attributes:
        rare_below: Train prevalence, in (0, 1], under which a class is rare.
        keep: Weight of a rare class's negative in an image that shows another class, in [0, 1]; 1 is plain binary
            cross-entropy. It is the expectation of the paper's draw. At 0, where every image shows something, nothing
            would hold a rare class's score down.

    References:
        tan2020.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    kind: Literal["equalization"] = "equalization"
    rare_below: Annotated[float, Field(gt=0.0, le=1.0)] = 0.05
    keep: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1


@final
class Equalization(Loss):
    """-y log p - w (1-y) log(1-p); w = 1 - (1 - keep) e for rare classes and 1 for others, e = 1 if the row shows any.

    What a row shows is part of the weight of its rare negatives, so emptying a row's only positive cell changes them.

    Example:
        >>> loss = Equalization(EqualizationConfig(), context=LossContext((50, 1), (100, 100), (), 100))
        >>> rows = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
        >>> (loss.values(torch.zeros(2, 2), rows) / torch.tensor(2.0).log()).round(decimals=3)
        tensor([[1.0000, 0.1000],
                [1.0000, 1.0000]])

    References:
        tan2020.
    """

    _is_rare: Tensor

    def __init__(self, config: EqualizationConfig, *, context: LossContext) -> None:
        super().__init__(context=context, link="sigmoid")
        self._keep = config.keep
        is_rare = torch.as_tensor(context.prevalence < config.rare_below, dtype=torch.float32)
        self.register_buffer("_is_rare", is_rare, persistent=False)

    def values(self, logits: Tensor, targets: Tensor, *, progress: float = 0.0) -> Tensor:
        """Compute the value of every cell; see `Loss.values`."""
        shown = targets.amax(dim=1, keepdim=True)
        weights = 1.0 - (1.0 - self._keep) * shown * self._is_rare
        return -targets * logsigmoid(logits) - weights * (1.0 - targets) * logsigmoid(-logits)
