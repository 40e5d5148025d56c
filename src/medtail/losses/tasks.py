"""The objective of CSASN: four terms a task, and learnt weights over the tasks.

A *task* is a class by itself (a sigmoid), or an exclusive group as a whole (a softmax, under the `softmax` link). With
m_t the rows that were assessed for it:

    L_t = λ1 focal_t + λ2 CE_t + λ3 MMD_t + λ4 BSS        total = Σ_t ½ e^{−s_t} L_t + ½ s_t

Focal loss and cross-entropy are those of `multiclass`, one instance a task; `domain` has MMD, `spectral` BSS and
`weighting` the weights s_t. A task nobody assessed in a batch is left out of that step.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from medtail.config import CLOSED
from medtail.errors import MedtailError
from medtail.losses.contract import DrawnCounts, Link, LossContext, masked_mean
from medtail.losses.domain import (
    Block,
    Cross,
    block_mmds,
    domain_blocks,
    shuffle_within_labels,
    squared_distances,
)
from medtail.losses.multiclass import Beta, CrossEntropy, Gamma
from medtail.losses.objective import Objective, ObjectiveValue, Step
from medtail.losses.spectral import SpectrumForm, is_spectrum_short, smallest_singular_values
from medtail.losses.weighting import UncertaintyForm, UncertaintyWeights
from medtail.losses.weights import effective_number_weights
from medtail.seeding import stream_seed

Share = Annotated[float, Field(ge=0.0, le=1.0)]


@final
@dataclass(frozen=True, kw_only=True)
class TasksObjectiveConfig:
    """Focal loss, cross-entropy, MMD between sites and batch spectral shrinkage a task; learnt weights over tasks.

    Attributes:
        link: `softmax` makes one task of each exclusive group and of each free class; `sigmoid` of every class.
        lambda1: Share of the focal loss.
        lambda2: Share of the cross-entropy.
        lambda3: Share of MMD. All four shares add up to 1; or it is 1 and the other three do, as the paper prints it.
        lambda4: Share of batch spectral shrinkage.
        gamma: Focus of the focal loss, >= 0.
        beta: Overlap between images in the focal loss's class weights, in [0, 1); at 0 all classes weigh 1. They are
            made from what the sampler is expected to draw, so that the two do not balance the same classes twice.
        domain_column: The manifest's column whose values MMD compares: `site`, or any other metadata.
        cross: `over_b` is MMD's cross term as printed; it goes far below 0, and is then kept outside the weights.
        kernel_sum: Add MMD's five kernels up instead of averaging them.
        shuffle_domains: A sham: MMD between sites dealt out at random among a label's rows.
        bss: `literal` is shrinkage as printed, 0 for batches smaller than the features.
        bss_count: Singular values that are shrunk.
        bss_eta: Factor on their squares.
        uncertainty: Weights over tasks as in `kendall`'s paper or in the CSASN paper's form; None adds tasks up as
            they are.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    kind: Literal["tasks"] = "tasks"
    link: Link = "softmax"
    lambda1: Share = 0.4
    lambda2: Share = 0.4
    lambda3: Share = 0.1
    lambda4: Share = 0.1
    gamma: Gamma = 2.0
    beta: Beta = 0.999
    domain_column: Annotated[str, Field(min_length=1)] = "site"
    cross: Cross = "mean"
    kernel_sum: bool = False
    shuffle_domains: bool = False
    bss: SpectrumForm = "smallest"
    bss_count: Annotated[int, Field(ge=1)] = 1
    bss_eta: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 1e-3
    uncertainty: UncertaintyForm | None = "kendall"

    def __post_init__(self) -> None:
        total = math.fsum((self.lambda1, self.lambda2, self.lambda3, self.lambda4))
        is_literal = math.isclose(self.lambda3, 1.0) and math.isclose(total, 2.0, abs_tol=1e-6)
        if not (is_literal or math.isclose(total, 1.0, abs_tol=1e-6)):
            raise MedtailError(
                f"lambda1 to lambda4: found {self.lambda1!r}, {self.lambda2!r}, {self.lambda3!r} and {self.lambda4!r},"
                f" which add up to {total:.6g}; expected 1 (or lambda3 = 1 and the other three adding up to 1). To"
                " leave a term out, set it to 0 and give its share to another."
            )


@final
class Task(nn.Module):
    """One problem of its own: the columns it covers, and its focal loss and cross-entropy.

    Args:
        columns: Columns of the label space, ascending as in the group; one makes a sigmoid, more a softmax.
        name: What the log calls it.
        context: Counts of the train fold.
        gamma: Focus of the focal loss.
        beta: Overlap in the focal loss's class weights.

    Example:
        >>> context = LossContext(positives=(9, 1), assessed=(10, 10), groups=((0, 1),), num_images=10)
        >>> task = Task((0, 1), name="type", context=context, gamma=2.0, beta=0.999)
        >>> task.labels(torch.tensor([[0.0, 1.0], [torch.nan, 1.0], [0.0, 0.0], [0.3, 0.7]])).tolist()
        [1, -1, -1, -1]
    """

    def __init__(self, columns: tuple[int, ...], *, name: str, context: LossContext, gamma: float, beta: float) -> None:
        super().__init__()
        self.columns = columns
        self.name = name
        is_group = len(columns) > 1
        link: Link = "softmax" if is_group else "sigmoid"
        own = LossContext(
            positives=tuple(context.positives[column] for column in columns),
            assessed=tuple(context.assessed[column] for column in columns),
            groups=(tuple(range(len(columns))),) if is_group else (),
            num_images=context.num_images,
        )
        self.cross_entropy = CrossEntropy(context=own, link=link)
        sides = side_weights(context, columns, beta=beta)
        if is_group:
            self.focal = CrossEntropy(context=own, link=link, gamma=gamma, weights=sides)
        else:  # absent and present; CrossEntropy's alpha is the share of the second, their sum its weight
            self.focal = CrossEntropy(
                context=own,
                link=link,
                gamma=gamma,
                alpha=float(sides[1] / sides.sum()),
                weights=sides.sum(keepdims=True),
            )

    def labels(self, targets: Tensor) -> Tensor:
        """Say which label each row certainly has, to compare rows of one label.

        Args:
            targets: Float [B, C] of all classes.

        Returns:
            int64 [B]: 1 present or 0 absent, or the number of the class inside the group; −1 where the row is not
            (wholly) assessed, has no class of the group, or is a mixture of labels.
        """
        own = targets[:, list(self.columns)]
        if len(self.columns) == 1:
            label = own[:, 0]
        else:
            label = torch.where((own == 1).sum(dim=1) == 1, own.argmax(dim=1), -1).to(own.dtype)
            label = torch.where(torch.isnan(own).any(dim=1), torch.nan, label)
        is_certain = label == label.round()  # NaN is not
        return torch.where(is_certain, label, -1).long()

    def counts(self, targets: Tensor) -> Tensor:
        """Say which rows the task's losses count, bool [B]; see `contract.masked_sum`."""
        own = targets[:, list(self.columns)]
        is_assessed = ~torch.isnan(own).any(dim=1)
        return is_assessed if len(self.columns) == 1 else is_assessed & (own.nan_to_num(0).sum(dim=1) > 0)


def side_weights(context: LossContext, columns: tuple[int, ...], *, beta: float) -> np.ndarray:
    """Weigh a task's labels by the inverse of their effective number of draws, mean 1 over the labels ever drawn.

    Args:
        context: Counts of the train fold; those of the sampler are used where they are known.
        columns: The task's columns.
        beta: Overlap between images, in [0, 1).

    Returns:
        Float64: absent and present for one column, else one a class of the group. All 1 if no label is ever drawn.

    Example:
        >>> context = LossContext(positives=(10,), assessed=(1010,), groups=(), num_images=1010)
        >>> side_weights(context, (0,), beta=0.99).round(2)
        array([0.17, 1.83])
    """
    counts = context.drawn or DrawnCounts(context.positives, context.assessed)
    numbers = np.array([counts.positives[column] for column in columns], dtype=float)
    if len(columns) == 1:
        numbers = np.array([max(counts.assessed[columns[0]] - numbers[0], 0.0), numbers[0]])
    weights = effective_number_weights(numbers, beta=beta)
    return weights if weights.any() else np.ones_like(weights)


def task_columns(context: LossContext, *, link: Link) -> tuple[tuple[int, ...], ...]:
    """Return the columns of each task: every softmax group and every other class, in the order of first columns.

    Example:
        >>> context = LossContext((5, 3, 2, 1), (9, 9, 9, 9), ((1, 3),), 9)
        >>> task_columns(context, link="softmax"), task_columns(context, link="sigmoid")
        (((0,), (1, 3), (2,)), ((0,), (1,), (2,), (3,)))
    """
    groups = context.groups if link == "softmax" else ()
    grouped = {column for group in groups for column in group}
    free = tuple((column,) for column in range(context.num_classes) if column not in grouped)
    return tuple(sorted((*groups, *free), key=min))


def task_name(columns: tuple[int, ...], *, context: LossContext) -> str:
    """Return a class's or a group's name; `task_` and its first column where the context has no names."""
    labels = context.labels
    if labels is None:
        return f"task_{columns[0]}"
    names = {indices: group.name for indices, group in zip(labels.group_indices, labels.groups, strict=True)}
    return names[columns] if len(columns) > 1 else labels.class_names[columns[0]]


@final
class TasksObjective(Objective):
    """Focal loss, cross-entropy, MMD and BSS of every task, weighed over tasks; see the module.

    Its parts, for the log: the mean `focal`, `ce` and `mmd` over the tasks that had them; `mmd_shuffled`, the same
    after dealing the sites out at random; `mmd_skipped`, the share of tasks in which no two sites could be compared;
    `bss` and `bss_zero`, the share of batches in which it was 0 to rounding; `weight_TASK`, e^{−s}, if learnt.

    Args:
        config: The shares and readings.
        context: Counts, groups and names of the train fold.

    References:
        li2025, eq. 7 to 10; cui2019 (class weights), long2015 (MMD), chen2019 (BSS), kendall2018 (weights).

    Example:
        >>> context = LossContext(positives=(5, 2), assessed=(10, 8), groups=(), num_images=10)
        >>> objective = TasksObjective(TasksObjectiveConfig(beta=0.0), context=context)
        >>> value = objective(Step.of(torch.zeros(4, 2), torch.ones(4, 2)))
        >>> [f"{name} {part.item():.3f}" for name, part in value.parts.items() if not part.isnan()][:4]
        ['focal 0.173', 'ce 0.693', 'mmd_skipped 1.000', 'bss 0.000']
    """

    def __init__(self, config: TasksObjectiveConfig, *, context: LossContext) -> None:
        super().__init__()
        self.link: Link = config.link
        self.config = config
        self.shares = term_shares(config, context=context)
        self.tasks = nn.ModuleList(
            Task(
                columns,
                name=task_name(columns, context=context),
                context=context,
                gamma=config.gamma,
                beta=config.beta,
            )
            for columns in task_columns(context, link=config.link)
        )
        self.weights = _uncertainty(config, num_tasks=len(self.tasks))
        has_mmd, has_bss = config.lambda3 > 0, config.lambda4 > 0
        self.domain_column = config.domain_column if has_mmd else None
        self.part_names = (
            "focal",
            "ce",
            *(("mmd", "mmd_shuffled", "mmd_skipped") if has_mmd else ()),
            *(("bss", "bss_zero") if has_bss else ()),
            *((f"weight_{task.name}" for task in self._tasks) if self.weights is not None else ()),
        )

    @property
    def _tasks(self) -> list[Task]:
        return [task for task in self.tasks if isinstance(task, Task)]

    def forward(self, step: Step) -> ObjectiveValue:
        """Compute the value of a step.

        Raises:
            MedtailError: A task's loss is below 0, which none of its terms can be.
        """
        parts = {name: step.logits.new_full((), torch.nan) for name in self.part_names}
        targets = step.targets.detach().cpu()
        present = [number for number, task in enumerate(self._tasks) if bool(task.counts(targets).any())]
        parts |= self._shown_weights()
        if not present:
            return ObjectiveValue(
                total=0 * (step.logits.sum() + self._add_up(step.logits.new_zeros(0), [])), parts=parts
            )
        focal, cross_entropy = [], []
        for task in (self._tasks[number] for number in present):
            columns = list(task.columns)
            logits, known = step.logits[:, columns], step.targets[:, columns]
            focal.append(masked_mean(task.focal, logits, known))
            cross_entropy.append(masked_mean(task.cross_entropy, logits, known))
        lambda1, lambda2, lambda3, lambda4 = self.shares
        losses = lambda1 * torch.stack(focal) + lambda2 * torch.stack(cross_entropy)
        parts["focal"] = torch.stack(focal).detach().mean()
        parts["ce"] = torch.stack(cross_entropy).detach().mean()
        outside = losses.new_zeros(())
        if "mmd_skipped" in parts:
            parts["mmd_skipped"] = losses.new_ones(())
        if self.config.lambda4 > 0:
            is_read = torch.stack([task.counts(targets) for task in self._tasks]).any(dim=0)
            pooled = step.pooled if bool(is_read.all()) else step.pooled[is_read.to(step.pooled.device)]
            shrunk, parts["bss"], parts["bss_zero"] = self._shrinkage(pooled)
            losses = losses + lambda4 * shrunk.to(losses.dtype)
        if lambda3 > 0:
            discrepancies, found = self._discrepancies(step, targets, present)
            parts |= found
            if self.config.cross == "over_b":  # far below 0: a learnt weight would run away with it
                outside = lambda3 * discrepancies.sum().to(losses.dtype)
            else:
                losses = losses + lambda3 * discrepancies.to(losses.dtype)
        return ObjectiveValue(total=self._add_up(losses, present) + outside, parts=parts)

    def _add_up(self, losses: Tensor, present: list[int]) -> Tensor:
        return losses.sum() if self.weights is None else self.weights(losses, tasks=present)

    def _shown_weights(self) -> dict[str, Tensor]:
        if self.weights is None:
            return {}
        learnt = torch.exp(-self.weights.log_variances.detach())
        return {f"weight_{task.name}": weight for task, weight in zip(self._tasks, learnt, strict=True)}

    def _shrinkage(self, pooled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return BSS of the rows somebody assessed, the same for the log, and whether it is 0 to rounding."""
        config = self.config
        values = smallest_singular_values(pooled, count=config.bss_count, form=config.bss)
        shrunk = config.bss_eta * values.square().sum() + 0 * pooled.sum()
        is_zero = is_spectrum_short(pooled, values, form=config.bss)
        return shrunk, shrunk.detach().float(), is_zero.float()

    def _discrepancies(self, step: Step, targets: Tensor, present: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return MMD between sites, one a present task, and its parts for the log."""
        distances = squared_distances(step.pooled)
        domains = step.domains.cpu()
        # a function of the step alone, so that a run that was cut off deals as it would have dealt
        generator = torch.Generator().manual_seed(stream_seed(0, "shuffled domains", step.epoch, step.progress))
        blocks, dealt_blocks = [], []
        for task in (self._tasks[number] for number in present):
            labels = task.labels(targets)
            dealt = shuffle_within_labels(domains, labels, generator=generator)
            blocks.append(domain_blocks(labels.tolist(), domains.tolist()))
            dealt_blocks.append(domain_blocks(labels.tolist(), dealt.tolist()))
        learnt, other = (dealt_blocks, blocks) if self.config.shuffle_domains else (blocks, dealt_blocks)
        values = self._mean_mmds(distances, learnt)
        shown = values.detach(), self._mean_mmds(distances.detach(), other)
        real, dealt_values = reversed(shown) if self.config.shuffle_domains else shown
        has_blocks = torch.tensor([bool(found) for found in blocks], device=values.device)
        return values, {  # the mean of nothing is NaN, as it should be
            "mmd": real[has_blocks].mean(),
            "mmd_shuffled": dealt_values[has_blocks].mean(),
            "mmd_skipped": 1 - has_blocks.to(values.dtype).mean(),
        }

    def _mean_mmds(self, distances: Tensor, blocks: list[list[Block]]) -> Tensor:
        """Return the mean MMD² over each task's blocks, [tasks]; 0 for a task without any."""
        listed = [block for found in blocks for block in found]
        values = block_mmds(distances, listed, kernel_sum=self.config.kernel_sum, cross=self.config.cross)
        parts = torch.split(values, [len(found) for found in blocks])
        return torch.stack([part.mean() if len(part) else part.sum() for part in parts])


def term_shares(config: TasksObjectiveConfig, *, context: LossContext) -> tuple[float, float, float, float]:
    """Return λ1 to λ4; where the train fold has no two sites to compare, the share of MMD goes to the cross-entropy.

    Example:
        >>> context = LossContext((5,), (10,), (), 10, num_domains=2)
        >>> term_shares(TasksObjectiveConfig(), context=context)
        (0.4, 0.4, 0.1, 0.1)
    """
    lambda1, lambda2, lambda3, lambda4 = config.lambda1, config.lambda2, config.lambda3, config.lambda4
    if lambda3 == 0 or context.num_domains is None or context.num_domains > 1:
        return lambda1, lambda2, lambda3, lambda4
    # in the printed form the other three add up to 1 without it
    given = lambda3 if lambda1 + lambda2 + lambda3 + lambda4 < 1.5 else 0.0
    warnings.warn(
        f"objective.lambda3: found {context.num_domains} values of {config.domain_column!r} with two train images or"
        f" more; MMD compares at least two, so it is left out and its share {given:g} goes to the cross-entropy. Name"
        f" another objective.domain_column; or, to silence this, set lambda3: 0 and lambda2: {lambda2 + given:g}.",
        stacklevel=2,
    )
    return lambda1, lambda2 + given, 0.0, lambda4


def _uncertainty(config: TasksObjectiveConfig, *, num_tasks: int) -> UncertaintyWeights | None:
    if config.uncertainty is None:
        return None
    if num_tasks == 1:
        warnings.warn(
            "objective.uncertainty: there is one task, whose learnt weight would only change the learning rate; it is"
            " switched off. To silence this, set uncertainty: null.",
            stacklevel=2,
        )
        return None
    return UncertaintyWeights(num_tasks, form=config.uncertainty)
