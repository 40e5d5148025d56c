"""Labels that may be wrong, each with a number that learns how far: the over-parameterised noise model.

What a network cannot explain early in training is often a wrong label. Every cell of every row has a u for a label that
claims a finding and a v for one that denies it; they begin near 0, grow only where score and label keep disagreeing,
and take the disagreement off the network's shoulders. Rare findings disagree for long too: the later u and v begin to
learn, the fewer of them are explained away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from medtail.config import CLOSED
from medtail.errors import MedtailError, Problems
from medtail.losses.contract import LossContext
from medtail.losses.objective import Objective, ObjectiveValue, Step

Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
SMALLEST = 1e-6
"""u and v stay at least this far from 0, where they could never leave it again."""


@final
@dataclass(frozen=True, kw_only=True)
class SopConfig:
    """Binary cross-entropy of p + u² y − v² (1 − y); each cell of the train rows has a u and a v of its own.

    Attributes:
        rate: Step of u and v on their own cell's loss, > 0; it depends neither on the batch nor on the network's rate.
        start: Their first value, in (0, 1).
        learn_from: Share of training, in [0, 1], from which they learn; the network learns from the first step.

    References:
        liu2022c.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["sop"] = "sop"
    rate: Positive = 0.05
    start: Annotated[float, Field(gt=0.0, lt=1.0)] = 1e-3
    learn_from: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2

    def check(self, *, mixes: bool, processes: int) -> None:
        """Check that a training shows whole rows, in one process.

        Raises:
            MedtailError: It does not.
        """
        problems = Problems("objective.kind 'sop', which keeps numbers for each row")
        if mixes:
            problems.add("mix, tail_mix: found images made of several rows; expected `mix: null, tail_mix: null`.")
        if processes > 1:
            problems.add(f"devices, num_nodes: found {processes} processes; expected one.")
        problems.raise_if_any()


def explained_cross_entropy(logits: Tensor, targets: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Compute −y log min(1, p + u²) − (1 − y) log min(1, 1 − p + v²) for every cell, p = sigmoid(logit).

    Args:
        logits: Float [B, C].
        targets: Float [B, C] in [0, 1].
        u: Float [B, C], not 0.
        v: Float [B, C], not 0.

    Returns:
        Float [B, C], >= 0.

    Example:
        >>> half = torch.full((1, 1), 0.5)
        >>> explained_cross_entropy(torch.zeros(1, 1), torch.ones(1, 1), half, half).exp()  # 1 / (0.5 + 0.25)
        tensor([[1.3333]])

    References:
        liu2022c, eq. 3, with a sigmoid in the place of the softmax.
    """
    present = torch.logaddexp(logsigmoid(logits), 2 * u.abs().log()).clamp_max(0.0)
    absent = torch.logaddexp(logsigmoid(-logits), 2 * v.abs().log()).clamp_max(0.0)
    return -targets * present - (1 - targets) * absent


@final
class Sop(Objective):
    """The masked mean of `explained_cross_entropy`, and after each step u ← u − rate ∂ℓ/∂u for the cells it showed.

    Scores are made from p alone: the network answers what it would say of a row, not what its label says. u and v are
    no parameters of the optimizer, whose moments would drown them, but part of the state a resumed run takes over.

    Args:
        config: Rate and start.
        context: Knows how many rows the table has.

    Raises:
        MedtailError: Nobody said how many rows there are.

    Example:
        >>> from dataclasses import replace
        >>> objective = Sop(SopConfig(), context=LossContext((5,), (10,), (), 10, num_rows=10))
        >>> step = replace(Step.of(torch.zeros(1, 1), torch.ones(1, 1)), rows=torch.tensor([3]))
        >>> round(objective(step).total.item(), 4)
        0.6931

    References:
        liu2022c.
    """

    part_names = ("explained",)
    keeps_rows = True
    u: Tensor
    v: Tensor

    def __init__(self, config: SopConfig, *, context: LossContext) -> None:
        super().__init__()
        self.link = "sigmoid"
        self._config = config
        if context.num_rows is None:
            raise MedtailError("objective 'sop': needs to know how many rows the table has; expected `num_rows`.")
        shape = (context.num_rows, context.num_classes)
        self.register_buffer("u", torch.full(shape, config.start))
        self.register_buffer("v", torch.full(shape, config.start))
        self._last: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def forward(self, step: Step) -> ObjectiveValue:
        """Average over assessed cells; `explained` is the mean of u² y + v² (1 − y) over them."""
        is_assessed = ~step.targets.isnan()
        targets = torch.where(is_assessed, step.targets, 0.0)
        if step.rows is None:  # rows nobody numbered have nothing to explain them
            u = v = torch.full_like(step.logits, SMALLEST)
            rows = None
        else:
            rows = step.rows.to(self.u.device)
            u, v = self.u[rows].clone().requires_grad_(True), self.v[rows].clone().requires_grad_(True)
        cells = torch.where(is_assessed, explained_cross_entropy(step.logits, targets, u, v), 0.0)
        count = is_assessed.sum()
        total = cells.sum() / count.clamp_min(1)
        self._last = None
        if rows is not None and step.progress >= self._config.learn_from:
            self._last = rows, u, v, count.clamp_min(1)
        amount = (u.square() * targets + v.square() * (1 - targets)).detach()
        part = torch.where(is_assessed, amount, 0.0).sum() / count.clamp_min(1)
        return ObjectiveValue(total=total, parts={"explained": torch.where(count > 0, part, torch.nan)})

    def learn(self) -> None:
        """Move u and v of the rows of the last step down the slope of their own cells' losses."""
        if self._last is None:
            return
        rows, u, v, count = self._last
        self._last = None
        if u.grad is None or v.grad is None:
            return
        with torch.no_grad():
            shown, place = torch.unique(rows, return_inverse=True)  # a sampler may show a row twice in a step
            for kept, leaf in ((self.u, u), (self.v, v)):
                assert leaf.grad is not None
                slope = torch.zeros(len(shown), kept.shape[1], device=kept.device)
                # the mean over the step's cells is undone: a cell moves as if it had been alone
                slope.index_add_(0, place, leaf.grad * count)
                kept[shown] = (kept[shown] - self._config.rate * slope).clamp(SMALLEST, 1.0)
