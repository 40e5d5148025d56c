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
from medtail.losses.contract import GroupLayout, Loss, masked_mean, masked_sum
from medtail.losses.objective import Objective, ObjectiveValue, Step

SMALLEST = 1e-3
"""Added to an influence, so that an image learnt by heart does not count for all others."""


@final
@dataclass(frozen=True, kw_only=True)
class InfluenceBalancedConfig:
    """The training's `loss`, from a point on with each image weighed by the inverse of its influence.

    Where the paper has a factor α to choose, the batch's mean influence stands here.

    Attributes:
        balance_from: Share of training, in [0, 1], from which images are weighed.

    References:
        park2021; class weights are those of the `loss`, such as `class_balanced`.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["influence_balanced"] = "influence_balanced"
    balance_from: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5


def influences(step: Step, *, layout: GroupLayout | None = None) -> Tensor:
    """Return the L1 norm of cross-entropy's gradient by the last layer: Σ_c |p_c − y_c| · ‖h‖₁, float [B].

    p is a softmax in the layout's groups and a sigmoid elsewhere. Only assessed cells count, and of a group only where
    all of it was assessed and one class is present. No gradient goes through it; in the authors' code one does.

    Args:
        step: Logits, targets and pooled features.
        layout: The softmax groups; None where every class has a sigmoid.

    Returns:
        Float [B], >= 0.

    Example:
        >>> step = Step.of(torch.zeros(1, 2), torch.tensor([[1.0, torch.nan]]), pooled=torch.tensor([[3.0, -1.0]]))
        >>> influences(step)
        tensor([2.])

    References:
        park2021.
    """
    with torch.no_grad():
        scores = torch.sigmoid(step.logits)
        if layout is not None and layout.num_groups:
            scores = torch.where(layout.is_grouped, layout.log_softmax(step.logits).exp(), scores)
        # masked by what was assessed, so that a logit that is no number is not taken for a perfect one
        errors = (scores - step.targets).abs().masked_fill(~_counted(step.targets, layout), 0.0)
        return errors.sum(dim=1) * step.pooled.abs().sum(dim=1)


def _counted(targets: Tensor, layout: GroupLayout | None) -> Tensor:
    """Say which cells count, bool [B, C]: the assessed ones, of a group all or none."""
    is_assessed = ~targets.isnan()
    if layout is None or not layout.num_groups:
        return is_assessed
    is_shown = layout.is_all(is_assessed) & (layout.sums(targets.nan_to_num(0.0)) > 0)
    return layout.spread(is_shown, is_assessed)


@final
class InfluenceBalanced(Objective):
    """Σ w ℓ / number of terms, w = 1 / (influence / mean influence + 0.001) from a point on and 1 before it.

    Each image then pulls about alike, and all of them together as much as without weights.

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
        if step.progress < self._from:
            return ObjectiveValue(total=masked_mean(self.loss, step.logits, step.targets, progress=step.progress))
        found, counts = influences(step, layout=self.loss.layout), _counted(step.targets, self.loss.layout).any(dim=1)
        mean = torch.where(counts, found, 0.0).sum() / counts.sum().clamp_min(1)
        weights = torch.where(mean > 0, 1.0 / (found / torch.where(mean > 0, mean, 1.0) + SMALLEST), 1.0)
        total, _ = masked_sum(self.loss, step.logits, step.targets, progress=step.progress, row_weights=weights)
        with torch.no_grad():
            # over the terms, not over the weights: one image learnt by heart would switch the others of its batch off
            _, terms = masked_sum(self.loss, step.logits, step.targets, progress=step.progress)
        return ObjectiveValue(total=torch.where(terms > 0, total / terms.clamp_min(1), 0 * total))
