"""Objectives that compare a row's labels, or a label's rows, with each other instead of cell by cell.

Each asks that what is present scores above what is absent: every present one above every absent one, through
`log Σ exp`. What counts is a difference of two logits, so a label a thousand times rarer than another weighs no less.
Which cells are absent and which were not assessed must be told apart, which a loss a cell cannot; so these are
objectives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from medtail.config import CLOSED
from medtail.losses.objective import Objective, ObjectiveValue, Step

Temperature = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


@final
@dataclass(frozen=True, kw_only=True)
class TwoWayConfig:
    """Two-way loss: present above absent along each row's labels, and along each label's rows of the batch.

    Attributes:
        positive_temperature: T_p > 0; near 0 only the worst present cell counts, large ones count all alike.
        negative_temperature: T_n > 0, of the absent cells.
        labelwise: Whether the half along a label's rows is used; without it no cell depends on other rows.

    References:
        kobayashi2023.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["two_way"] = "two_way"
    positive_temperature: Temperature = 4.0
    negative_temperature: Temperature = 1.0
    labelwise: bool = True


@final
@dataclass(frozen=True, kw_only=True)
class ZlprConfig:
    """ZLPR: in each row present labels above 0 and absent ones below, hence above each other.

    References:
        su2022.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["zlpr"] = "zlpr"


def soft_extreme(values: Tensor, weights: Tensor, *, dim: int, temperature: float) -> Tensor:
    """Compute T log Σ w exp(v / T): near the largest value of weight 1, and -inf where all weights are 0.

    Args:
        values: Float [B, C].
        weights: Float [B, C] in [0, 1].
        dim: Axis to go along.
        temperature: T > 0.

    Returns:
        Float [C] or [B]; where no weight is above 0 it is -inf, with zero gradient.

    Example:
        >>> values = torch.tensor([[0.0, 0.0, 9.0]])
        >>> soft_extreme(values, torch.tensor([[1.0, 1.0, 0.0]]), dim=1, temperature=2.0).exp()  # 2 ** 2
        tensor([4.])
    """
    is_in = weights > 0
    # a row of -inf alone would have a gradient of NaN: such rows are computed on zeros and replaced
    is_any = is_in.any(dim=dim, keepdim=True)
    shifted = values / temperature + torch.where(is_in, weights, 1).log()
    filled = torch.where(is_in, shifted, torch.where(is_any, -torch.inf, 0.0))
    found = temperature * torch.logsumexp(filled, dim=dim)
    return torch.where(is_any.squeeze(dim), found, -torch.inf)


@final
class TwoWay(Objective):
    """softplus(T_n log Σ_absent e^{z / T_n} + T_p log Σ_present e^{-z / T_p}), means over rows plus over labels.

    A row takes part that has an assessed present and an assessed absent label; a label likewise among the batch's rows.
    Soft targets weigh a cell's two sides by y and 1 - y.

    Example:
        >>> objective = TwoWay(TwoWayConfig(labelwise=False, positive_temperature=1.0))
        >>> logits = torch.tensor([[1.0, 0.0]])
        >>> round(objective(Step.of(logits, torch.tensor([[1.0, 0.0]]))).total.item(), 4)  # log(1 + e^-1)
        0.3133

    References:
        kobayashi2023.
    """

    def __init__(self, config: TwoWayConfig) -> None:
        super().__init__()
        self.link = "sigmoid"
        self._config = config
        self.part_names = ("rows", "labels") if config.labelwise else ("rows",)

    def forward(self, step: Step) -> ObjectiveValue:
        """Compare along rows, and along labels."""
        parts = {"rows": self._along(step, dim=1)}
        if self._config.labelwise:
            parts["labels"] = self._along(step, dim=0)
        total = torch.stack([torch.where(part.isnan(), 0.0 * step.logits.sum(), part) for part in parts.values()]).sum()
        return ObjectiveValue(total=total, parts={name: part.detach() for name, part in parts.items()})

    def _along(self, step: Step, *, dim: int) -> Tensor:
        """Return the mean over the lines that have both sides; NaN where none has."""
        is_assessed = ~step.targets.isnan()
        present = torch.where(is_assessed, step.targets, 0.0)
        absent = torch.where(is_assessed, 1.0 - step.targets, 0.0)
        high, low = self._config.positive_temperature, self._config.negative_temperature
        counts = (present > 0).any(dim=dim) & (absent > 0).any(dim=dim)
        worst_present = soft_extreme(-step.logits, present, dim=dim, temperature=high)
        worst_absent = soft_extreme(step.logits, absent, dim=dim, temperature=low)
        margins = torch.where(counts, worst_present, 0.0) + torch.where(counts, worst_absent, 0.0)
        found = torch.where(counts, softplus(margins), 0.0).sum()
        number = counts.sum()
        return torch.where(number > 0, found / number.clamp_min(1), torch.nan)


@final
class Zlpr(Objective):
    """log(1 + Σ_present e^{-z}) + log(1 + Σ_absent e^{z}) of each row, the mean over rows with an assessed label.

    With one label it is binary cross-entropy. Soft targets weigh a cell's two sides by y and 1 - y.

    Example:
        >>> objective = Zlpr()
        >>> round(objective(Step.of(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]]))).total.exp().item(), 4)  # 2 · 3
        6.0

    References:
        su2022.
    """

    def __init__(self) -> None:
        super().__init__()
        self.link = "sigmoid"

    def forward(self, step: Step) -> ObjectiveValue:
        """Compare every label of a row with 0."""
        is_assessed = ~step.targets.isnan()
        present = torch.where(is_assessed, step.targets, 0.0)
        absent = torch.where(is_assessed, 1.0 - step.targets, 0.0)
        rows = softplus(_finite(soft_extreme(-step.logits, present, dim=1, temperature=1.0)))
        rows = rows + softplus(_finite(soft_extreme(step.logits, absent, dim=1, temperature=1.0)))
        counts = is_assessed.any(dim=1)
        found = torch.where(counts, rows, 0.0).sum() / counts.sum().clamp_min(1)
        return ObjectiveValue(total=found)


def _finite(extremes: Tensor) -> Tensor:
    """Put a number in the place of -inf whose softplus is 0 and whose gradient is no NaN."""
    return torch.where(extremes.isinf(), -1e4, extremes)
