"""Objectives that make something of cells nobody assessed, instead of leaving them out.

Left out is the default everywhere, and the only choice that assumes nothing. Where most cells are empty because people
note what is present and rarely what is absent, it wastes what is known: these two say so in the open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from pydantic import Field

from medtail.config import CLOSED
from medtail.losses.contract import Loss, masked_mean, masked_sum
from medtail.losses.objective import Objective, ObjectiveValue, Step


@final
@dataclass(frozen=True, kw_only=True)
class PartialLabelsConfig:
    """The training's `loss` on the assessed cells, and an assumption about the others in assessed rows.

    Attributes:
        unknown: `negative` assumes absent, with a small weight since some are not; `expected` asks of each class that
            its mean score over the batch's empty cells be as its prevalence among the assessed ones.
        weight: Of the assumption: of each cell assumed absent (1 is "not mentioned is absent"), or of the mean squared
            distance of the scores.

    References:
        cole2021, who give negatives 1 / (C − 1), and expect one number of positives an image over all classes.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["partial_labels"] = "partial_labels"
    unknown: Literal["negative", "expected"] = "negative"
    weight: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.1


@final
class PartialLabels(Objective):
    """L(assessed) with empty cells as weak negatives, or + w · mean_c (mean σ(z_c) over empty cells − π_c)².

    Rows where nothing was assessed stay out, and so do cells of exclusive groups under a softmax: a group's other
    classes say all there is to say of them.

    Args:
        config: Which assumption, how strong.
        loss: Of the assessed cells.

    Example:
        >>> from medtail.losses.build import BceConfig, build_loss
        >>> from medtail.losses.contract import LossContext
        >>> loss = build_loss(BceConfig(), LossContext((5, 1), (10, 10), (), 10))
        >>> step = Step.of(torch.zeros(1, 2), torch.tensor([[1.0, torch.nan]]))
        >>> value = PartialLabels(PartialLabelsConfig(unknown="expected", weight=1.0), loss=loss)(step)
        >>> round(value.parts["unknown"].item(), 4)  # (0.5 - 0.1) ** 2
        0.16

    References:
        cole2021.
    """

    part_names = ("known", "unknown")
    _prevalence: torch.Tensor

    def __init__(self, config: PartialLabelsConfig, *, loss: Loss) -> None:
        super().__init__()
        self.loss = loss
        self.link = loss.link
        self._config = config
        prevalence = torch.as_tensor(loss.context.prevalence, dtype=torch.float32)
        self.register_buffer("_prevalence", prevalence, persistent=False)

    def forward(self, step: Step) -> ObjectiveValue:
        """Average over assessed cells, and add what is assumed of the others."""
        is_assessed = ~step.targets.isnan()
        is_assumed = ~is_assessed & is_assessed.any(dim=1, keepdim=True) & ~self.loss.layout.is_grouped
        known = masked_mean(self.loss, step.logits, step.targets, progress=step.progress)
        if self._config.unknown == "negative":
            return self._as_negatives(step, is_assumed, known)
        count = is_assumed.sum(dim=0)
        means = torch.where(is_assumed, torch.sigmoid(step.logits), 0.0).sum(dim=0) / count.clamp_min(1)
        squares = torch.where(count > 0, (means - self._prevalence).square(), 0.0)
        number = (count > 0).sum()
        unknown = squares.sum() / number.clamp_min(1)
        part = torch.where(number > 0, unknown.detach(), torch.nan)
        return ObjectiveValue(
            total=known + self._config.weight * unknown, parts={"known": known.detach(), "unknown": part}
        )

    def _as_negatives(self, step: Step, is_assumed: torch.Tensor, known: torch.Tensor) -> ObjectiveValue:
        """Average over assessed cells and, each counting `weight` of a cell, those assumed absent."""
        absent = torch.where(is_assumed, 0.0, torch.nan).to(step.logits.dtype)
        total, cells = masked_sum(self.loss, step.logits, step.targets, progress=step.progress)
        more, further = masked_sum(self.loss, step.logits, absent, progress=step.progress)
        weight = self._config.weight
        divisor = cells + weight * further
        mean = (total + weight * more) / torch.where(divisor > 0, divisor, 1.0)
        part = torch.where(further > 0, more.detach() / further.clamp_min(1), torch.nan)
        return ObjectiveValue(total=mean, parts={"known": known.detach(), "unknown": part})
