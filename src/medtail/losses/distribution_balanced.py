"""Distribution-balanced loss: re-balanced for labels that come together, and lenient to easy negatives.

A row that was drawn for a rare label brings its common ones along. The loss weighs each cell by how much of the row's
chance of being drawn its own label accounts for, and stops pressing a negative down once it is low enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from medtail.config import CLOSED
from medtail.losses.contract import DrawnCounts, Loss, LossContext

Finite = Annotated[float, Field(allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


@final
@dataclass(frozen=True, kw_only=True)
class DistributionBalancedConfig:
    """Distribution-balanced focal loss, a sigmoid a class.

    Attributes:
        alpha: Least weight of a cell, >= 0.
        beta: How steeply the weight rises with the label's share of the row's chance of being drawn, >= 0.
        mu: The share at which it has risen half way.
        kappa: How far a rare label's logit is shifted while training, >= 0; scores are made without the shift.
        scale: λ: negatives are judged by λ logit and count 1 / λ, so that easy ones stop mattering sooner; > 0.
        gamma: Focus on hard cells, >= 0.
        bias_over_scale: Divide the shift by λ, as in the authors' code; later descendants of it do not.
        sham: A control that must not help: `permute_weights` deals the weights of a label out over the batch's rows.

    References:
        wu2020.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    kind: Literal["distribution_balanced"] = "distribution_balanced"
    alpha: NotNegative = 0.1
    beta: NotNegative = 10.0
    mu: Finite = 0.3
    kappa: NotNegative = 0.05
    scale: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 5.0
    gamma: NotNegative = 2.0
    bias_over_scale: bool = True
    sham: Literal["permute_weights"] | None = None


def rebalancing_weights(targets: Tensor, inverse: Tensor, *, alpha: float, beta: float, mu: float) -> Tensor:
    """Weigh cells: r = (1/n_c) / Σ_k y_k/n_k, the label's share of the row's chance under class-aware draws, smoothed.

    Args:
        targets: Float [B, C] in [0, 1]; 0 where not assessed.
        inverse: 1 / n_c, float [C].
        alpha: Least weight.
        beta: Steepness.
        mu: Where it has risen half way.

    Returns:
        α + σ(β (r − μ)), float [B, C]; a row without a positive has r = 1.

    Example:
        >>> inverse = 1 / torch.tensor([600.0, 50.0, 10.0])
        >>> rebalancing_weights(torch.tensor([[1.0, 1.0, 0.0]]), inverse, alpha=0.1, beta=10.0, mu=0.3)
        tensor([[0.1970, 1.0980, 1.1000]])

    References:
        wu2020, eq. 4-6.
    """
    chance = (targets * inverse).sum(dim=1, keepdim=True)
    ratio = torch.where(chance > 0, inverse / torch.where(chance > 0, chance, 1), 1)
    return alpha + torch.sigmoid(beta * (ratio - mu))


def lenient_cross_entropy(logits: Tensor, targets: Tensor, *, scale: float, gamma: float) -> Tensor:
    """Compute y (1−p)^γ (−log p) + (1−y) q^γ (−log(1−q)) / λ with p = σ(z), q = σ(λ z), float [B, C].

    References:
        wu2020, eq. 8-9.
    """
    stretched = scale * logits
    present = targets * torch.exp(gamma * logsigmoid(-logits)) * softplus(-logits)
    absent = (1 - targets) * torch.exp(gamma * logsigmoid(stretched)) * softplus(stretched) / scale
    return present + absent


@final
class DistributionBalanced(Loss):
    """Twice the weighed, lenient cross-entropy of each cell: 2 r̂ ℓ(z + b), b_c = −κ ln(N/n_c − 1) / λ.

    The weight of a cell depends on which labels of its row are known to be present: emptying a positive cell changes
    the weights of the row's other cells, emptying a negative one changes nothing.

    Args:
        config: Its numbers.
        context: Counts of the train fold.

    Example:
        >>> loss = DistributionBalanced(DistributionBalancedConfig(),
        ...                             context=LossContext((600, 50, 10), (1000, 1000, 1000), (), 1000))
        >>> loss.values(torch.tensor([[1.0, -0.5, -1.0]]), torch.tensor([[1.0, 1.0, 0.0]]))[0, :2]
        tensor([0.0088, 0.8633])

    References:
        wu2020.
    """

    _inverse: Tensor
    _shift: Tensor

    def __init__(self, config: DistributionBalancedConfig, *, context: LossContext) -> None:
        super().__init__(context=context, link="sigmoid")
        self._config = config
        empty = torch.zeros(context.num_classes)
        self.register_buffer("_inverse", empty, persistent=False)
        self.register_buffer("_shift", empty.clone(), persistent=False)
        self.set_counts(DrawnCounts(context.positives, context.assessed))

    def set_counts(self, counts: DrawnCounts) -> None:
        """Take other counts than the train fold's: those of what a sampler's stream shows, so that loss and sampler do
        not both balance the same labels. Only positives among themselves, and positives over assessed, matter."""
        config = self._config
        assessed = np.maximum(np.array(counts.assessed, dtype=float), 1.0)
        positives = np.clip(np.array(counts.positives, dtype=float), 0.5, assessed - 0.5)
        divisor = config.scale if config.bias_over_scale else 1.0
        shift = -config.kappa * np.log(assessed / positives - 1.0) / divisor
        for buffer, values in ((self._inverse, 1.0 / positives), (self._shift, shift)):
            buffer.copy_(torch.from_numpy(values).to(buffer))

    def values(self, logits: Tensor, targets: Tensor, *, progress: float = 0.0) -> Tensor:
        """Compute the value of every cell; see `Loss.values`."""
        config = self._config
        weights = rebalancing_weights(targets, self._inverse, alpha=config.alpha, beta=config.beta, mu=config.mu)
        if config.sham == "permute_weights":
            weights = weights.gather(0, torch.rand(weights.shape, device="cpu").argsort(dim=0).to(weights.device))
        cells = lenient_cross_entropy(logits + self._shift, targets, scale=config.scale, gamma=config.gamma)
        return 2 * weights * cells
