"""Losses of classes that stand for themselves: a sigmoid a class, every cell alone.

Binary cross-entropy with an optional focus on hard cells, and the asymmetric loss. Everything is computed from
`logsigmoid`, never from the logarithm of a probability, so that a logit of ±50 costs no digits.
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
class BceConfig:
    """Binary cross-entropy of every class by itself, exclusive groups included."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    kind: Literal["bce"] = "bce"


@final
@dataclass(frozen=True, kw_only=True)
class AslConfig:
    """Asymmetric loss: negatives that are already easy lose their weight faster than positives.

    Attributes:
        gamma_negative: Focus on hard negatives, >= 0; 0 is none.
        gamma_positive: Focus on hard positives, >= 0.
        clip: Score in [0, 1) up to which a negative counts as solved and has no gradient; 0 is off.
        prior_weights: Weigh positives by e^(1-π) and negatives by e^π, π = the class's train prevalence.
        detach_focus: Let no gradient through the focusing factors, as in the authors' code by default.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    kind: Literal["asl"] = "asl"
    gamma_negative: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 4.0
    gamma_positive: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 1.0
    clip: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    prior_weights: bool = False
    detach_focus: bool = False


def binary_cross_entropy(logits: Tensor, targets: Tensor, *, gamma: float = 0.0, alpha: float | None = None) -> Tensor:
    """Compute -y (1-p)^γ log p - (1-y) p^γ log(1-p) for every cell, p = sigmoid(logit).

    Args:
        logits: Float [B, C].
        targets: Float [B, C] in [0, 1].
        gamma: Focus on hard cells, >= 0; 0 is plain binary cross-entropy.
        alpha: Weight of the positive side in [0, 1], the negative side getting the rest; None = 1 for both.

    Returns:
        Float [B, C], >= 0.

    Example:
        >>> binary_cross_entropy(torch.zeros(1, 1), torch.ones(1, 1), gamma=2.0).item()  # log(2) / 4
        0.1732867956161499

    References:
        lin2017, eq. 5.
    """
    log_p, log_q = logsigmoid(logits), logsigmoid(-logits)
    present, absent = -targets * log_p, -(1 - targets) * log_q
    if gamma:
        present, absent = present * torch.exp(gamma * log_q), absent * torch.exp(gamma * log_p)
    if alpha is not None:
        present, absent = alpha * present, (1 - alpha) * absent
    return present + absent


def asymmetric_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma_negative: float,
    gamma_positive: float,
    clip: float,
    detach_focus: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute the two sides of the asymmetric loss, -y (1-p)^γ₊ log p and -(1-y) q^γ₋ log(1-q), q = max(p - clip, 0).

    Args:
        logits: Float [B, C].
        targets: Float [B, C] in [0, 1].
        gamma_negative: γ₋ >= 0.
        gamma_positive: γ₊ >= 0.
        clip: Shift of negatives' scores, in [0, 1).
        detach_focus: Let no gradient through (1-p)^γ₊ and q^γ₋.

    Returns:
        The positive and the negative side, float [B, C] each, >= 0.

    References:
        ridnik2021, eq. 7.
    """
    log_p, log_q = logsigmoid(logits), logsigmoid(-logits)
    if clip:
        # at q = 0 itself a fractional power's slope is infinite while its factor log(1 - q) is 0
        shifted = (torch.sigmoid(logits) - clip).clamp_min(torch.finfo(logits.dtype).tiny)
        log_rest, focus_negative = torch.log((torch.sigmoid(-logits) + clip).clamp_max(1.0)), shifted**gamma_negative
    else:
        log_rest, focus_negative = log_q, torch.exp(gamma_negative * log_p)
    focus_positive = torch.exp(gamma_positive * log_q)
    if detach_focus:
        focus_positive, focus_negative = focus_positive.detach(), focus_negative.detach()
    return -targets * focus_positive * log_p, -(1 - targets) * focus_negative * log_rest


@final
class AsymmetricLoss(Loss):
    """The asymmetric loss, every class by itself; exclusive groups are treated a cell at a time."""

    _positive_weights: Tensor
    _negative_weights: Tensor

    def __init__(self, config: AslConfig, *, context: LossContext) -> None:
        super().__init__(context=context, link="sigmoid")
        self._config = config
        prevalence = torch.as_tensor(context.prevalence, dtype=torch.float32)
        one = torch.ones_like(prevalence)
        weighted = config.prior_weights
        self.register_buffer("_positive_weights", torch.exp(1 - prevalence) if weighted else one, persistent=False)
        self.register_buffer("_negative_weights", torch.exp(prevalence) if weighted else one, persistent=False)

    def values(self, logits: Tensor, targets: Tensor, *, progress: float = 0.0) -> Tensor:
        """Compute the value of every cell; see `Loss.values`."""
        present, absent = asymmetric_cross_entropy(
            logits,
            targets,
            gamma_negative=self._config.gamma_negative,
            gamma_positive=self._config.gamma_positive,
            clip=self._config.clip,
            detach_focus=self._config.detach_focus,
        )
        return self._positive_weights * present + self._negative_weights * absent
