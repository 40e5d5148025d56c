"""Objectives for several last layers on one trunk, each of which learns another distribution of classes.

`branches`: one layer learns rows as they come, the other rows a sampler balanced; the first counts less and less.
`skill_diverse`: three layers see the same rows, but learn as if classes were as common as they are, all alike, and
upside down. At test time the layers' logits are averaged (see `models.experts`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from medtail.config import CLOSED
from medtail.errors import MedtailError
from medtail.losses.contract import Link, Loss, LossContext, masked_mean
from medtail.losses.multiclass import CrossEntropy
from medtail.losses.objective import Objective, ObjectiveValue, Step
from medtail.losses.weights import prior_shifts

NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


def route(number: int) -> str:
    """Return the name of an expert's logits in `HeadAnswer.further`.

    Example:
        >>> route(0)
        'expert_0'
    """
    return f"expert_{number}"


def expert_logits(step: Step, *, count: int) -> list[Tensor]:
    """Return each expert's logits; the answer's own for all, where the head has no experts.

    Raises:
        MedtailError: The head has experts, but another number.
    """
    names = [route(number) for number in range(count)]
    found = [name for name in step.further if name.startswith("expert_")]
    if not found:
        return [step.logits] * count
    if sorted(found) != names:
        raise MedtailError(f"head.count: found {len(found)} experts; the objective expected {count}.")
    return [step.further[name] for name in names]


@final
@dataclass(frozen=True, kw_only=True)
class BranchesConfig:
    """The training's `loss` in two layers: one learns the sampler's first stream, the other its second.

    Needs the head `experts` with `count: 2` and a sampler with two streams (`two_branches`).

    Attributes:
        schedule: Weight a of the first layer: `parabolic` 1 − t² with t the share of training done, so that features
            come first and rare classes last; or `equal`, ½ throughout.
        consistency: Weight of the mean squared distance of the layers' scores on all rows, >= 0.

    References:
        zhou2020b (schedule `parabolic`, without mixing of features); guo2021 (`equal`, with consistency: of scores,
        not of logits, and without their learnt compensation of logits).
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["branches"] = "branches"
    schedule: Literal["parabolic", "equal"] = "parabolic"
    consistency: NotNegative = 0.0


@final
class Branches(Objective):
    """a L(layer 0, stream 0) + (1 − a) L(layer 1, stream 1) + w · mean (p₀ − p₁)².

    Args:
        config: Schedule and consistency.
        loss: Of either layer.

    Example:
        >>> from medtail.losses.build import BceConfig, build_loss
        >>> loss = build_loss(BceConfig(), LossContext((5,), (10,), (), 10))
        >>> objective = Branches(BranchesConfig(), loss=loss)
        >>> step = Step.of(torch.zeros(2, 1), torch.ones(2, 1))  # at the start all weight is on the first stream
        >>> round(objective(step).total.item(), 4)
        0.6931

    References:
        zhou2020b; guo2021.
    """

    part_names = ("natural", "balanced", "consistency")

    def __init__(self, config: BranchesConfig, *, loss: Loss) -> None:
        super().__init__()
        self.loss = loss
        self.link = loss.link
        self._config = config

    def forward(self, step: Step) -> ObjectiveValue:
        """Give each stream its layer."""
        routes = expert_logits(step, count=2)
        share = 1.0 - step.progress**2 if self._config.schedule == "parabolic" else 0.5
        parts, total = {}, 0.0 * step.logits.sum()
        for number, (name, weight) in enumerate((("natural", share), ("balanced", 1.0 - share))):
            is_own = (step.streams == number)[:, None]
            targets = torch.where(is_own, step.targets, torch.nan)
            value = masked_mean(self.loss, routes[number], targets, progress=step.progress)
            total = total + weight * value
            parts[name] = torch.where(targets.isnan().all(), torch.nan, value.detach())
        is_assessed = ~step.targets.isnan()
        apart = (self._shares(routes[0]) - self._shares(routes[1])).square()
        distance = torch.where(is_assessed, apart, 0.0).sum() / is_assessed.sum().clamp_min(1)
        if self._config.consistency:
            total = total + self._config.consistency * distance
        parts["consistency"] = torch.where(is_assessed.any(), distance.detach(), torch.nan)
        return ObjectiveValue(total=total, parts=parts)

    def _shares(self, logits: Tensor) -> Tensor:
        layout, free = self.loss.layout, torch.sigmoid(logits)
        if not layout.num_groups:
            return free
        return torch.where(layout.is_grouped, torch.where(layout.is_grouped, layout.log_softmax(logits), 0).exp(), free)


@final
@dataclass(frozen=True, kw_only=True)
class SkillDiverseConfig:
    """Three layers with three skills: classes as common as they are, all alike, and upside down.

    Needs the head `experts` with `count: 3`. Leaves `loss` unused.

    Attributes:
        inverse: How far the third layer goes beyond balance, >= 0; 0 makes it a second balanced one.
        link: `softmax` inside exclusive groups, or `sigmoid` for every class by itself.

    References:
        zhang2022.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["skill_diverse"] = "skill_diverse"
    inverse: NotNegative = 2.0
    link: Link = "softmax"


def inverse_shifts(context: LossContext, *, link: Link) -> np.ndarray:
    """Compute log priors of the upside-down world: a group's classes trade shares by rank, a free class its log-odds.

    Returns:
        Float64 [classes].

    Example:
        >>> context = LossContext((30, 10, 20), (40, 40, 60), ((0, 1),), 60)
        >>> inverse_shifts(context, link="softmax").round(3).tolist()  # log 0.25, log 0.75, log 2
        [-1.386, -0.288, 0.693]

    References:
        zhang2022.
    """
    shifts = prior_shifts(context, link=link)
    turned = -shifts
    for group in context.groups if link == "softmax" else ():
        columns = np.array(group)
        order = columns[np.argsort(shifts[columns], kind="stable")]
        turned[order] = shifts[order[::-1]]
    return turned


@final
class SkillDiverse(Objective):
    """CE(z₀) + CE(z₁ + log π) + CE(z₂ + log π − λ log π̄), π̄ the inverse prior: each the masked mean over cells.

    Example:
        >>> context = LossContext((30, 10), (40, 40), ((0, 1),), 40)
        >>> objective = SkillDiverse(SkillDiverseConfig(), context=context)
        >>> value = objective(Step.of(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]])))
        >>> [round(part.item(), 3) for part in value.parts.values()]  # log 2, log 4, log (1 + 3 · 3 ** 2)
        [0.693, 1.386, 3.332]

    References:
        zhang2022.
    """

    part_names = ("natural", "balanced", "inverse")
    _shifts: Tensor

    def __init__(self, config: SkillDiverseConfig, *, context: LossContext) -> None:
        super().__init__()
        self.link = config.link
        self.loss = CrossEntropy(context=context, link=config.link)
        prior = prior_shifts(context, link=config.link)
        turned = prior - config.inverse * inverse_shifts(context, link=config.link)
        shifts = torch.as_tensor(np.stack([np.zeros_like(prior), prior, turned]), dtype=torch.float32)
        self.register_buffer("_shifts", shifts, persistent=False)

    def forward(self, step: Step) -> ObjectiveValue:
        """Let each layer learn its own world."""
        values = [
            masked_mean(self.loss, logits + shift, step.targets, progress=step.progress)
            for logits, shift in zip(expert_logits(step, count=3), self._shifts, strict=True)
        ]
        parts = {name: value.detach() for name, value in zip(self.part_names, values, strict=True)}
        return ObjectiveValue(total=torch.stack(values).sum(), parts=parts)
