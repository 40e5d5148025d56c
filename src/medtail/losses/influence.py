"""Influence-balanced training: images that move the last layer most count less, late in the training.

Once common findings are learnt, what still bends the boundary is a handful of images with large gradients, mostly of
rare classes or wrong labels. Dividing each image's loss by the size of its gradient keeps them from being learnt by
heart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from medtail.config import CLOSED
from medtail.losses.contract import Loss, masked_mean
from medtail.losses.objective import Objective, ObjectiveValue, Step

SMALLEST = 1e-3
"""Added to an influence, so that an image learnt by heart does not count for all others."""


@final
@dataclass(frozen=True, kw_only=True)
class InfluenceBalancedConfig:
    """The training's `loss`, from a point on with each image weighed by the inverse of its influence.

    Attributes:
        balance_from: Share of training, in [0, 1], from which images are weighed.

    References:
        park2021; class weights are those of the `loss`, such as `class_balanced`.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["influence_balanced"] = "influence_balanced"
    balance_from: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5


def influences(step: Step) -> Tensor:
    """Return the L1 norm of binary cross-entropy's gradient by the last layer: Σ_c |σ(z_c) − y_c| · ‖h‖₁, float [B].

    Only assessed cells count. No gradient goes through it.

    Example:
        >>> step = Step.of(torch.zeros(1, 2), torch.tensor([[1.0, torch.nan]]), pooled=torch.tensor([[3.0, -1.0]]))
        >>> influences(step)
        tensor([2.])

    References:
        park2021.
    """
    with torch.no_grad():
        # masked by what was assessed, so that a logit that is no number is not taken for a perfect one
        errors = (torch.sigmoid(step.logits) - step.targets).abs().masked_fill(torch.isnan(step.targets), 0.0)
        return errors.sum(dim=1) * step.pooled.abs().sum(dim=1)


@final
class InfluenceBalanced(Objective):
    """The masked mean of a loss, each row weighed by 1 / (influence / mean influence + 0.001) from a point on.

    Example:
        >>> from medtail.losses.build import BceConfig, build_loss
        >>> from medtail.losses.contract import LossContext
        >>> loss = build_loss(BceConfig(), LossContext((5,), (10,), (), 10))
        >>> objective = InfluenceBalanced(InfluenceBalancedConfig(), loss=loss)
        >>> round(objective(Step.of(torch.zeros(2, 1), torch.ones(2, 1))).total.item(), 4)
        0.6931

    References:
        park2021.
    """

    def __init__(self, config: InfluenceBalancedConfig, *, loss: Loss) -> None:
        super().__init__()
        self.loss = loss
        self.link = loss.link
        self._from = config.balance_from

    def forward(self, step: Step) -> ObjectiveValue:
        """Average the loss over the cells that count."""
        weights = None
        if step.progress >= self._from:
            found, counts = influences(step), ~step.targets.isnan().all(dim=1)
            mean = torch.where(counts, found, 0.0).sum() / counts.sum().clamp_min(1)
            weights = 1.0 / (found / torch.where(mean > 0, mean, 1.0) + SMALLEST)
        total = masked_mean(self.loss, step.logits, step.targets, progress=step.progress, row_weights=weights)
        return ObjectiveValue(total=total)
