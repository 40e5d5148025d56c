"""Robust asymmetric loss: the asymmetric loss with gentler tails, for positives that may be wrong and hard negatives.

A positive's -log p gets its first two Taylor terms changed; a negative is weighed by a hill that comes down again for
negatives scored so high that their label is doubtful.
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

NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


@final
@dataclass(frozen=True, kw_only=True)
class RalConfig:
    """Robust asymmetric loss, every class by itself.

    Attributes:
        gamma_negative: Focus on hard negatives, >= 0.
        gamma_positive: Focus on hard positives, >= 0.
        clip: Score in [0, 1) up to which a negative counts as solved and has no gradient; 0 is off.
        linear: What is taken off the first Taylor term of a positive, in [0, 1]; 0 is off.
        quadratic: What is added to its second, >= 0; 0 is off.
        hill: λ of the negatives' hill (λ - p)(λ - 1 + q) p², at least 1; None is off.

    References:
        park2023.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    kind: Literal["ral"] = "ral"
    gamma_negative: NotNegative = 4.0
    gamma_positive: NotNegative = 0.0
    clip: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    linear: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    quadratic: NotNegative = 1.25
    hill: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] | None = 1.5


@final
class RobustAsymmetric(Loss):
    """y (1-p)^γ₊ [-log p - a (1-p) + b (1-p)²] - (1-y) q^γ₋ (λ-p)(λ-1+q) p² log(1-q), q = max(p - clip, 0).

    The authors add up over cells, medtail averages: their learning rates are not ours.

    Example:
        >>> loss = RobustAsymmetric(RalConfig(), context=LossContext((5,), (10,), (), 10))
        >>> round(loss.values(torch.zeros(1, 1), torch.ones(1, 1)).item(), 4)  # log 2 - 0.5 + 1.25 * 0.25
        0.5056

    References:
        park2023.
    """

    def __init__(self, config: RalConfig, *, context: LossContext) -> None:
        super().__init__(context=context, link="sigmoid")
        self._config = config

    def values(self, logits: Tensor, targets: Tensor, *, progress: float = 0.0) -> Tensor:
        """Compute the value of every cell; see `Loss.values`."""
        config = self._config
        p, rest = torch.sigmoid(logits), torch.sigmoid(-logits)
        present = -logsigmoid(logits) - config.linear * rest + config.quadratic * rest**2
        if config.gamma_positive:
            present = torch.exp(config.gamma_positive * logsigmoid(-logits)) * present
        # at q = 0 itself a fractional power's slope is infinite while log(1 - q) is 0
        q = (p - config.clip).clamp_min(torch.finfo(p.dtype).tiny)
        log_rest = torch.log((rest + config.clip).clamp_max(1.0)) if config.clip else logsigmoid(-logits)
        absent = -log_rest * q**config.gamma_negative
        if config.hill is not None:
            absent = absent * (config.hill - p) * (config.hill - 1.0 + q) * p**2
        return targets * present + (1 - targets) * absent
