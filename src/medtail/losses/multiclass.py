"""Cross-entropy where classes exclude each other: softmax inside a group, a sigmoid for each free class.

One loss, `CrossEntropy`, serves four configs: plain (`cross_entropy`, and `bce` with the sigmoid link), focal,
and class-balanced. Losses that move the logits first are in `margin`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from medtail.config import CLOSED
from medtail.losses.contract import GroupLayout, Link, Loss, LossContext
from medtail.losses.multilabel import binary_cross_entropy

Gamma = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Beta = Annotated[float, Field(ge=0.0, lt=1.0)]


@final
@dataclass(frozen=True, kw_only=True)
class CrossEntropyConfig:
    """Softmax cross-entropy in exclusive groups, binary cross-entropy for free classes.

    Attributes:
        smoothing: Share of a target that is spread, in [0, 1); 0 is off.
        toward: Where to: `even` over the group's classes (over present and absent for a free class), which with many
            rare labels invents findings; or the class's frequency in the train fold, the `prior`.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    kind: Literal["cross_entropy"] = "cross_entropy"
    smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    toward: Literal["even", "prior"] = "even"


@final
@dataclass(frozen=True, kw_only=True)
class FocalConfig:
    """Focal loss: cells that are already right count less.

    Attributes:
        gamma: Focus, >= 0; 0 is plain cross-entropy.
        alpha: Weight of the positive side of a sigmoid class in [0, 1], the negative side getting the rest; None
            = 1 for both. A softmax group has one side only, so it is not weighed.
        link: `softmax` inside exclusive groups, or `sigmoid` for every class by itself.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    kind: Literal["focal"] = "focal"
    gamma: Gamma = 2.0
    alpha: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    link: Link = "softmax"


@final
@dataclass(frozen=True, kw_only=True)
class ClassBalancedConfig:
    """Cross-entropy or focal loss, each class weighed by the inverse of its effective number of images.

    In a softmax group a row weighs what its class weighs; a sigmoid class weighs alike in its positive and
    negative cells.

    Attributes:
        beta: Overlap between images, in [0, 1). At 0 all classes weigh 1; near 1, about 1 / n.
        gamma: Focus, >= 0; 0 is plain cross-entropy.
        link: `softmax` inside exclusive groups, or `sigmoid` for every class by itself.
        reweight_from: Share of training, in [0, 1], from which classes are weighed: deferred re-weighting above 0.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    kind: Literal["class_balanced"] = "class_balanced"
    beta: Beta = 0.999
    gamma: Gamma = 0.0
    link: Link = "softmax"
    reweight_from: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0


def cross_entropy_cells(
    logits: Tensor, targets: Tensor, *, layout: GroupLayout, gamma: float = 0.0, alpha: float | None = None
) -> Tensor:
    """Compute (focal) cross-entropy cell by cell: softmax in the layout's groups, sigmoid elsewhere.

    A grouped cell is -y (1-p)^γ log p with p from the softmax of its group; a free one is as in
    `binary_cross_entropy`.

    Args:
        logits: Float [B, C].
        targets: Float [B, C] in [0, 1].
        layout: The softmax groups.
        gamma: Focus, >= 0; 0 is plain cross-entropy.
        alpha: Weight of a free class's positive side, or None.

    Returns:
        Float [B, C], >= 0.

    Example:
        >>> layout = GroupLayout([(0, 1)], num_classes=3)
        >>> cross_entropy_cells(torch.zeros(1, 3), torch.tensor([[0.0, 1.0, 0.0]]), layout=layout).round(decimals=4)
        tensor([[0.0000, 0.6931, 0.6931]])

    References:
        lin2017, eq. 4.
    """
    free = binary_cross_entropy(logits, targets, gamma=gamma, alpha=alpha)
    if not layout.num_groups:
        return free
    log_p = torch.where(layout.is_grouped, layout.log_softmax(logits), 0)
    grouped = -targets * log_p
    if gamma:
        # at p = 1 the slope of a fractional power is infinite while its factor log p is 0
        grouped = grouped * (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny) ** gamma
    return torch.where(layout.is_grouped, grouped, free)


def smoothed(targets: Tensor, *, layout: GroupLayout, smoothing: float, prior: Tensor | None = None) -> Tensor:
    """Move a share of each target to another distribution; a group keeps its sum, so "none of them" stays none.

    Args:
        targets: Float [B, C] in [0, 1].
        layout: The softmax groups.
        smoothing: The share, in [0, 1).
        prior: That distribution, float [C]: shares of each group's rows, prevalence of each free class. None is even.

    Returns:
        Float [B, C] in [0, 1].

    Example:
        >>> layout = GroupLayout([(0, 1)], num_classes=3)
        >>> smoothed(torch.tensor([[0.0, 1.0, 0.0]]), layout=layout, smoothing=0.2)
        tensor([[0.1000, 0.9000, 0.1000]])
    """
    given = torch.full_like(targets, 0.5) if prior is None else prior.expand_as(targets).to(targets.dtype)
    if layout.num_groups:
        inside = torch.ones_like(targets) if prior is None else given
        share = inside / layout.spread(layout.sums(inside), torch.ones_like(targets))
        given = torch.where(layout.is_grouped, share * layout.spread(layout.sums(targets), targets), given)
    return (1 - smoothing) * targets + smoothing * given


@final
class CrossEntropy(Loss):
    """Cross-entropy with an optional focus, class weights and label smoothing."""

    _weights: Tensor
    _prior: Tensor | None

    def __init__(
        self,
        *,
        context: LossContext,
        link: Link,
        gamma: float = 0.0,
        alpha: float | None = None,
        smoothing: float = 0.0,
        prior: np.ndarray | None = None,
        weights: np.ndarray | None = None,
        reweight_from: float = 0.0,
    ) -> None:
        super().__init__(context=context, link=link)
        self._gamma, self._alpha, self._smoothing = gamma, alpha, smoothing
        self._reweight_from = reweight_from
        known = None if prior is None else torch.as_tensor(prior, dtype=torch.float32)
        self.register_buffer("_prior", known, persistent=False)
        given = np.ones(context.num_classes) if weights is None else weights
        self.register_buffer("_weights", torch.as_tensor(given, dtype=torch.float32), persistent=False)

    def values(self, logits: Tensor, targets: Tensor, *, progress: float = 0.0) -> Tensor:
        """Compute the value of every cell; see `Loss.values`."""
        if self._smoothing:
            targets = smoothed(targets, layout=self.layout, smoothing=self._smoothing, prior=self._prior)
        cells = cross_entropy_cells(logits, targets, layout=self.layout, gamma=self._gamma, alpha=self._alpha)
        return cells if progress < self._reweight_from else self._weights * cells
