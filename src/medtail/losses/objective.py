"""What a training step minimises: one number made of everything the step knows.

A *loss* gives a value a cell and knows nothing else. An *objective* may also use the pooled features, the site an
image comes from, which of two streams drew it and how hard it has been so far; it may have parameters that learn
beside the model's. `PlainObjective` is a loss and nothing more; `objectives` builds every member from its config.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn

from medtail.losses.contract import DrawnCounts, Link, Loss, masked_sum
from medtail.tables.domains import UNKNOWN_DOMAIN


@final
@dataclass(frozen=True, kw_only=True)
class Step:
    """What one training step knows.

    Attributes:
        logits: Float [B, C].
        targets: Float [B, C] in [0, 1], NaN = not assessed; soft where images were mixed.
        pooled: Float [B, D], the head's vector of each image before its classifier.
        further: Name → logits [B, C] by other routes of the head; see `models.heads.HeadAnswer`.
        domains: int64 [B], number of the site (or of the column the config names), `UNKNOWN_DOMAIN` where empty.
        streams: int64 [B], which stream of the sampler drew the row; 0 everywhere for samplers with one.
        hardness: Float [B] in [0, 1], share of the train rows that have been no harder than this one so far; NaN
            where the sampler keeps no account or has not seen the row.
        progress: Share of the training done, in [0, 1).
        epoch: From 0.
        rows: int64 [B], the row of the table each image is from; None where nobody said or images were mixed.
        drawn: What each stream of the sampler is expected to draw in this epoch, the same object in all its steps;
            empty where nobody said.
    """

    logits: Tensor
    targets: Tensor
    pooled: Tensor
    domains: Tensor
    streams: Tensor
    hardness: Tensor
    further: Mapping[str, Tensor] = field(default_factory=dict)
    progress: float = 0.0
    epoch: int = 0
    drawn: Sequence[DrawnCounts] = ()
    rows: Tensor | None = None

    @staticmethod
    def of(logits: Tensor, targets: Tensor, *, pooled: Tensor | None = None, progress: float = 0.0) -> Step:
        """Make a step of which nothing further is known: no domains, one stream, no account of hardness.

        Example:
            >>> Step.of(torch.zeros(2, 3), torch.ones(2, 3)).domains.tolist()
            [-1, -1]
        """
        count = len(logits)
        return Step(
            logits=logits,
            targets=targets,
            pooled=logits.new_zeros(count, 1) if pooled is None else pooled,
            domains=torch.full((count,), UNKNOWN_DOMAIN, dtype=torch.long, device=logits.device),
            streams=torch.zeros(count, dtype=torch.long, device=logits.device),
            hardness=torch.full((count,), torch.nan, device=logits.device),
            progress=progress,
        )


@final
@dataclass(frozen=True, kw_only=True)
class ObjectiveValue:
    """A step's value and what it is made of.

    Attributes:
        total: The scalar to minimise.
        parts: Name → scalar without gradient, one for each of the objective's `part_names`; NaN where the part had
            nothing to work on in this batch. `log.csv` has their means over the epoch.
        weight: Weight of the terms that `total` averages, a scalar, so that several processes can average theirs
            rightly; None where it is no plain mean, and each process's share of a batch weighs the same.
    """

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    weight: Tensor | None = None


class Objective(nn.Module, ABC):
    """What a step minimises.

    Its parameters, if any, learn at the head's rate without decay, and are kept for resuming, not in the model.

    Attributes:
        link: How the model turns logits into scores.
        part_names: Names of the parts it logs, the same in every step.
        domain_column: Column of the manifest whose values are the domains of `Step`; None if it asks for none.
        keeps_rows: Whether it keeps something for each row, by `Step.rows`; such a training mixes no images and runs
            in one process.
    """

    link: Link
    part_names: tuple[str, ...] = ()
    domain_column: str | None = None
    keeps_rows: bool = False

    @abstractmethod
    def forward(self, step: Step) -> ObjectiveValue:
        """Compute the value of a step.

        A cell that was not assessed moves nothing. Where no cell counts the total is 0 with zero gradient.
        """

    def learn(self) -> None:
        """Learn from the step just made what the optimizer does not; called after it. Most have nothing, as here."""


@final
class PlainObjective(Objective):
    """The masked mean of a loss and nothing more.

    Args:
        loss: Any member of the family of losses.

    Example:
        >>> from medtail.losses.build import BceConfig, build_loss
        >>> from medtail.losses.contract import LossContext
        >>> objective = PlainObjective(build_loss(BceConfig(), LossContext((5,), (10,), (), 10)))
        >>> round(objective(Step.of(torch.zeros(4, 1), torch.ones(4, 1))).total.item(), 4)
        0.6931
    """

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss
        self.link: Link = loss.link

    def forward(self, step: Step) -> ObjectiveValue:
        """Average the loss over the cells that count."""
        total, weight = masked_sum(self.loss, step.logits, step.targets, progress=step.progress)
        mean = torch.where(weight > 0, total / torch.where(weight > 0, weight, 1), 0 * total)
        return ObjectiveValue(total=mean, weight=weight.detach())
