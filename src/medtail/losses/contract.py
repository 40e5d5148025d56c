"""What a loss is, and the one reducer that knows about labels that were not assessed.

A loss turns logits and targets into a value a cell; `masked_mean` (and its parts) decides which cells count and
averages them. No loss looks for NaN, and nothing else averages. The members of the family are in `multiclass`,
`multilabel` and `margin`; `build` makes one from its config.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor, nn

from medtail.errors import MedtailError, Problems
from medtail.tables.labels import LabelSpace
from medtail.tables.tail import ClassCounts

Link = Literal["softmax", "sigmoid"]
"""`softmax`: classes of an exclusive group share a softmax, free classes have a sigmoid each. `sigmoid`: all do."""


@final
@dataclass(frozen=True)
class DrawnCounts:
    """How often a sampler is expected to show each class in an epoch; not whole numbers.

    Attributes:
        positives: Draws that show each class.
        assessed: Draws where the class was assessed.
    """

    positives: tuple[float, ...]
    assessed: tuple[float, ...]


@final
@dataclass(frozen=True)
class LossContext:
    """What a loss may know of the train fold.

    Attributes:
        positives: Train images showing each class, one count a class.
        assessed: Train images where the class was assessed.
        groups: Column indices of each exclusive group; no column is in two.
        num_images: Images of the train fold.
        labels: The classes and groups by name, for logs and messages; None where nobody said.
        drawn: What the sampler is expected to draw in an epoch; None where nobody said.
        num_domains: Sites (or other domains) with at least two train images; None where nobody counted.
        num_rows: Rows of the table that steps number, other folds included; None where nobody counted.

    Example:
        >>> context = LossContext(positives=(30, 10, 4), assessed=(40, 40, 20), groups=((0, 1),), num_images=40)
        >>> context.blocks("softmax"), context.blocks("sigmoid")
        (((0, 1), (2,)), ((0, 1, 2),))
        >>> context.prevalence.tolist()
        [0.75, 0.25, 0.2]
    """

    positives: tuple[int, ...]
    assessed: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]
    num_images: int
    labels: LabelSpace | None = None
    drawn: DrawnCounts | None = None
    num_domains: int | None = None
    num_rows: int | None = None

    def __post_init__(self) -> None:
        problems = Problems("loss context")
        if len(self.positives) != len(self.assessed):
            problems.add(
                f"counts: found {len(self.positives)} of positives and {len(self.assessed)} of assessed;"
                " expected one of each a class."
            )
        for positives, assessed in zip(self.positives, self.assessed, strict=False):
            if not 0 <= positives <= assessed <= self.num_images:
                problems.add(
                    f"counts: found {positives} positives, {assessed} assessed, {self.num_images} images;"
                    " expected 0 <= positives <= assessed <= images."
                )
        grouped = [column for group in self.groups for column in group]
        if len(set(grouped)) < len(grouped) or any(not 0 <= column < self.num_classes for column in grouped):
            problems.add(
                f"groups: found {self.groups!r}; expected columns from 0 to {self.num_classes - 1}, each in one group."
            )
        problems.raise_if_any()

    @staticmethod
    def from_counts(counts: ClassCounts, *, labels: LabelSpace, num_images: int) -> LossContext:
        """Gather the context from the train fold's class counts.

        Args:
            counts: From `count_classes`, in the order of `labels`.
            labels: The classes and their exclusive groups.
            num_images: Images that were counted.

        Raises:
            MedtailError: The counts are of other classes.
        """
        if counts.class_names != labels.class_names:
            raise MedtailError(
                f"loss context: counts are of {counts.class_names!r}; expected the classes {labels.class_names!r}."
            )
        return LossContext(counts.images, counts.assessed, labels.group_indices, num_images, labels)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.positives)

    @property
    def prevalence(self) -> np.ndarray:
        """Share of the assessed train images that show each class, float64 [classes]; 0 where none was assessed."""
        positives, assessed = np.array(self.positives, dtype=float), np.array(self.assessed, dtype=float)
        return np.asarray(np.divide(positives, assessed, out=np.zeros_like(positives), where=assessed > 0))

    def blocks(self, link: Link) -> tuple[tuple[int, ...], ...]:
        """Return the columns that form one problem each: every softmax group, and all sigmoid classes together.

        Class weights and margins are scaled inside a block, so that a group of common classes is not switched
        off by a rare class elsewhere in the table.
        """
        groups = self.groups if link == "softmax" else ()
        grouped = {column for group in groups for column in group}
        free = tuple(column for column in range(self.num_classes) if column not in grouped)
        return (*groups, free) if free else groups


@final
class GroupLayout(nn.Module):
    """The columns of the softmax groups, as tensors that follow the loss to its device.

    Groups of differing sizes are padded to one rectangle, so that all of them are normalised in one call.
    """

    is_grouped: Tensor
    _members: Tensor
    _is_member: Tensor
    _group_of: Tensor
    _place: Tensor

    def __init__(self, groups: Sequence[Sequence[int]], *, num_classes: int) -> None:
        super().__init__()
        self.num_groups = len(groups)
        width = max((len(group) for group in groups), default=0)
        members = torch.zeros(len(groups), width, dtype=torch.long)
        is_member = torch.zeros(len(groups), width, dtype=torch.bool)
        group_of = torch.zeros(num_classes, dtype=torch.long)
        place = torch.zeros(num_classes, dtype=torch.long)
        is_grouped = torch.zeros(num_classes, dtype=torch.bool)
        for index, group in enumerate(groups):
            columns = torch.tensor(list(group), dtype=torch.long)
            members[index, : len(group)] = columns
            is_member[index, : len(group)] = True
            group_of[columns] = index
            place[columns] = index * width + torch.arange(len(group))
            is_grouped[columns] = True
        # derived from the context, so they have no business in a checkpoint
        self.register_buffer("is_grouped", is_grouped, persistent=False)
        self.register_buffer("_members", members, persistent=False)
        self.register_buffer("_is_member", is_member, persistent=False)
        self.register_buffer("_group_of", group_of, persistent=False)
        self.register_buffer("_place", place, persistent=False)

    def log_softmax(self, logits: Tensor) -> Tensor:
        """Return log-probabilities inside each group [B, C]; columns of free classes hold unusable numbers."""
        padded = logits[:, self._members].masked_fill(~self._is_member, -torch.inf)
        return torch.log_softmax(padded, dim=-1).flatten(1)[:, self._place]

    def sums(self, cells: Tensor) -> Tensor:
        """Add a [B, C] tensor up over each group, giving [B, groups]."""
        return torch.where(self._is_member, cells[:, self._members], 0).sum(dim=-1)

    def is_all(self, cells: Tensor) -> Tensor:
        """Say for boolean [B, C] where all classes of a group are true, giving [B, groups]."""
        return (cells[:, self._members] | ~self._is_member).all(dim=-1)

    def spread(self, terms: Tensor, free: Tensor) -> Tensor:
        """Return [B, C]: each grouped column its group's value from [B, groups], each free column that of `free`."""
        return torch.where(self.is_grouped, terms[:, self._group_of], free)


class Loss(nn.Module, ABC):
    """A loss a cell: values of logits and targets, not yet averaged.

    Attributes:
        context: What it knows of the train fold.
        link: How the model turns logits into scores: softmax inside exclusive groups or a sigmoid a class.
            Scores are made from the raw logits, without the loss's own margins or shifts.
        layout: The softmax groups (none under the sigmoid link).
    """

    def __init__(self, *, context: LossContext, link: Link) -> None:
        super().__init__()
        self.context = context
        self.link: Link = link
        groups = context.groups if link == "softmax" else ()
        self.layout = GroupLayout(groups, num_classes=context.num_classes)

    @abstractmethod
    def values(self, logits: Tensor, targets: Tensor, *, progress: float = 0.0) -> Tensor:
        """Compute the value of every cell.

        Args:
            logits: Real numbers, float [B, C]; finite results are promised at least up to ±50.
            targets: Float [B, C] in [0, 1], soft ones included; the reducer has put 0 where not assessed.
            progress: Share of training done, in [0, 1]; for losses that change on the way.

        Returns:
            Float [B, C]. In a softmax group a row's loss is the sum over the group's cells.
        """


def masked_sum(
    loss: Loss,
    logits: Tensor,
    targets: Tensor,
    *,
    progress: float = 0.0,
    row_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Add up a loss over the terms that count, and the weight of those terms.

    A *term* is an assessed cell of a sigmoid class, or a row's whole softmax group. A group counts only where
    all its cells are assessed (a gap would leak a gradient through the normaliser) and one of them is present:
    an all-zero row ("not applicable") says nothing about which class it is. To average over several processes
    or accumulated batches, add up both numbers and divide once.

    Args:
        loss: Any member of the family.
        logits: Float [B, C]; half precision is raised to float32 first.
        targets: Float [B, C] in [0, 1], NaN = not assessed.
        progress: Share of training done, in [0, 1].
        row_weights: Weights >= 0 [B], or None for 1 everywhere.

    Returns:
        Two scalars: the weighted sum of the counted terms' losses, and the sum of their weights.
    """
    values, counts, num_terms = _counted(loss, logits, targets, progress=progress)
    rows = torch.where(counts, values, 0).sum(dim=1)
    if row_weights is None:
        return rows.sum(), num_terms.sum()
    weights = row_weights.to(rows.dtype)
    return (weights * rows).sum(), (weights * num_terms).sum()


def masked_mean(
    loss: Loss,
    logits: Tensor,
    targets: Tensor,
    *,
    progress: float = 0.0,
    row_weights: Tensor | None = None,
) -> Tensor:
    """Average a loss over the terms that count; see `masked_sum` for what a term is.

    Every term weighs the same (times its row's weight), so a pure multi-class task has the mean over its rows,
    a pure multi-label one the mean over its assessed cells, and in a mixed task a group weighs as much as a
    free class. A label that was not assessed has exactly zero gradient.

    Args:
        loss: Any member of the family.
        logits: Float [B, C].
        targets: Float [B, C] in [0, 1], NaN = not assessed.
        progress: Share of training done, in [0, 1].
        row_weights: Weights >= 0 [B], or None for 1 everywhere; only their ratios matter.

    Returns:
        A scalar; 0 (with zero gradient) where no term counts.

    Example:
        >>> from medtail.losses.build import BceConfig, build_loss
        >>> loss = build_loss(BceConfig(), LossContext((5, 1), (10, 8), (), 10))
        >>> logits = torch.zeros(2, 2, requires_grad=True)
        >>> value = masked_mean(loss, logits, torch.tensor([[1.0, torch.nan], [0.0, 1.0]]))
        >>> value.backward()
        >>> round(value.item(), 4), logits.grad[0].tolist()
        (0.6931, [-0.1666666716337204, 0.0])
    """
    total, weight = masked_sum(loss, logits, targets, progress=progress, row_weights=row_weights)
    return torch.where(weight > 0, total / torch.where(weight > 0, weight, 1), 0 * total)


def masked_row_means(loss: Loss, logits: Tensor, targets: Tensor, *, progress: float = 0.0) -> Tensor:
    """Average a loss over the counted terms of each row, for samplers that observe how hard a row is.

    Args:
        loss: Any member of the family.
        logits: Float [B, C].
        targets: Float [B, C] in [0, 1], NaN = not assessed.
        progress: Share of training done, in [0, 1].

    Returns:
        Float [B] without gradient; NaN for a row of which no term counts.
    """
    with torch.no_grad():
        values, counts, num_terms = _counted(loss, logits, targets, progress=progress)
        return torch.where(counts, values, 0).sum(dim=1) / num_terms.where(num_terms > 0, torch.nan)


def _counted(loss: Loss, logits: Tensor, targets: Tensor, *, progress: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return values [B, C], which cells count [B, C], and the terms of each row [B] as floats."""
    assert logits.shape == targets.shape, f"logits {tuple(logits.shape)}, targets {tuple(targets.shape)}"
    assert logits.shape[1] == loss.context.num_classes, f"{logits.shape[1]} columns, {loss.context.num_classes} classes"
    assert 0.0 <= progress <= 1.0, progress
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    is_assessed = ~torch.isnan(targets)
    known = torch.where(is_assessed, targets, 0).to(logits.dtype)
    values = loss.values(logits, known, progress=progress)
    layout = loss.layout
    if not layout.num_groups:
        return values, is_assessed, is_assessed.sum(dim=1).to(values.dtype)
    group_counts = layout.is_all(is_assessed) & (layout.sums(known) > 0)
    counts = layout.spread(group_counts, is_assessed)
    num_terms = group_counts.sum(dim=1) + (is_assessed & ~layout.is_grouped).sum(dim=1)
    return values, counts, num_terms.to(values.dtype)
