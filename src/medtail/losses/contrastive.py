"""A contrastive objective: each present label against the absent ones of the same image, at stated odds.

A model whose classes are texts is asked afterwards for texts it was not trained on. What carries over is not whether
a logit is above 0, which every class learns for itself, but that the text that fits an image scores above those that
do not; that is what this asks for, beside the training's `loss`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from medtail.config import CLOSED
from medtail.losses.contract import Loss, masked_mean
from medtail.losses.objective import Objective, ObjectiveValue, Step


@final
@dataclass(frozen=True, kw_only=True)
class ContrastConfig:
    """Present labels against absent ones of the same image, beside the training's `loss`.

    Attributes:
        negatives: How many absent labels stand against a present one; an image that has fewer gives all it has.
        weight: Of the contrast; 0 leaves the loss alone.
        temperature: Logits are divided by it.

    References:
        vandenoord2018.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["contrast"] = "contrast"
    negatives: Annotated[int, Field(ge=1)] = 7
    weight: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 1.0
    temperature: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1.0


@final
class Contrast(Objective):
    """loss + weight · mean over present labels of −log(e^{z⁺/T} / (e^{z⁺/T} + m · mean_absent e^{z/T})).

    m is the number of negatives, at most that of the image's absent labels. Systems that draw m absent labels anew in
    every step have the same sum in expectation, with noise on top; here the expectation itself is used, so that a step
    has one value. Softly present labels (mixed images) count by their share and never stand as absent. An image
    without an absent label has nothing to be compared with and takes no part in the contrast.

    Args:
        config: Its settings.
        loss: Of the single cells.

    Example:
        >>> from medtail.losses.build import BceConfig, build_loss
        >>> from medtail.losses.contract import LossContext
        >>> loss = build_loss(BceConfig(), LossContext((5, 5), (10, 10), (), 10))
        >>> value = Contrast(ContrastConfig(), loss=loss)(Step.of(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])))
        >>> round(value.parts["contrast"].item(), 4), round(value.total.item(), 4)  # log 2, and twice that
        (0.6931, 1.3863)

    References:
        vandenoord2018.
    """

    def __init__(self, config: ContrastConfig, *, loss: Loss) -> None:
        super().__init__()
        self.loss = loss
        self.link = loss.link
        self.part_names = ("contrast",)
        self._config = config

    def forward(self, step: Step) -> ObjectiveValue:
        """Average the loss over the cells that count, and add the contrast."""
        plain = masked_mean(self.loss, step.logits, step.targets, progress=step.progress)
        contrast, is_any = self._contrast(step)
        total = plain + self._config.weight * contrast
        return ObjectiveValue(total=total, parts={"contrast": torch.where(is_any, contrast.detach(), torch.nan)})

    def _contrast(self, step: Step) -> tuple[Tensor, Tensor]:
        is_absent = step.targets == 0
        number = is_absent.sum(dim=1, keepdim=True)
        has_absent = number > 0
        logits = step.logits / self._config.temperature
        # a row of -inf alone would have a gradient of NaN: such rows are computed on zeros and weigh nothing
        absent = torch.where(is_absent, logits, torch.where(has_absent, -torch.inf, 0.0)).logsumexp(dim=1, keepdim=True)
        odds = (math.log(self._config.negatives) - number.clamp_min(1).log()).clamp_max(0.0)
        weights = torch.where(step.targets.isnan() | ~has_absent, 0.0, step.targets)
        total = weights.sum()
        is_any = total > 0
        found = (weights * softplus(absent + odds - logits)).sum() / torch.where(is_any, total, 1)
        return found, is_any
