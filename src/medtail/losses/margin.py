"""Losses that move the logits by what is known of a class's frequency, then take cross-entropy.

Logit adjustment adds the log prior while training, so that the raw logits come out as if all classes were
equally common. LDAM asks a wider margin of rare classes, and weighs them more near the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from medtail.config import CLOSED
from medtail.losses.contract import Link, Loss, LossContext
from medtail.losses.multiclass import Beta, cross_entropy_cells
from medtail.losses.weights import block_weights, ldam_margins, prior_shifts


@final
@dataclass(frozen=True, kw_only=True)
class LogitAdjustedConfig:
    """Logit adjustment; with `tau` 1 in one exclusive group it is balanced softmax.

    Attributes:
        tau: Strength, >= 0; 0 is plain cross-entropy, 1 makes raw scores those of equally common classes.
        link: `softmax` inside exclusive groups, or `sigmoid` for every class by itself.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    kind: Literal["logit_adjusted"] = "logit_adjusted"
    tau: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 1.0
    link: Link = "softmax"


@final
@dataclass(frozen=True, kw_only=True)
class LdamConfig:
    """Label-distribution-aware margins with deferred re-weighting.

    Attributes:
        max_margin: Margin of the rarest class in logits, >= 0; 0 is off.
        scale: Factor on the logits after the margin, > 0. 1 suits an ordinary linear head; the paper's 30 is for
            heads whose logits are cosines, and leaves raw scores too flat until calibrated.
        reweight_from: Share of training, in [0, 1], from which classes are weighed by their effective number;
            None = never.
        beta: Overlap between images for those weights, in [0, 1).
        link: `softmax` inside exclusive groups, or `sigmoid` for every class by itself.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    kind: Literal["ldam"] = "ldam"
    max_margin: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.5
    scale: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1.0
    reweight_from: Annotated[float, Field(ge=0.0, le=1.0)] | None = 0.8
    beta: Beta = 0.9999
    link: Link = "softmax"


@final
class LogitAdjusted(Loss):
    """Cross-entropy of logits shifted by `tau` times the class's log prior.

    Scores from the raw logits are balanced: they rank as if classes were equally common. For probabilities that
    match the train fold's prevalence, score `prior_correction(logits)` instead.

    References:
        menon2021, eq. 10; ren2020 (balanced softmax).
    """

    _shifts: Tensor

    def __init__(self, config: LogitAdjustedConfig, *, context: LossContext) -> None:
        super().__init__(context=context, link=config.link)
        shifts = config.tau * prior_shifts(context, link=config.link)
        self.register_buffer("_shifts", torch.as_tensor(shifts, dtype=torch.float32), persistent=False)

    def prior_correction(self, logits: Tensor) -> Tensor:
        """Put the prior back: logits whose scores are as common as the classes were in training.

        Args:
            logits: The model's raw output, float [B, C].

        Returns:
            Float [B, C]: logit + τ log π in a softmax group, logit + τ log(π / (1-π)) for a sigmoid class.

        Example:
            >>> context = LossContext((30, 10), (40, 40), ((0, 1),), 40)
            >>> loss = LogitAdjusted(LogitAdjustedConfig(), context=context)
            >>> torch.softmax(loss.prior_correction(torch.zeros(1, 2)), dim=1)
            tensor([[0.7500, 0.2500]])
        """
        return logits + self._shifts

    def values(self, logits: Tensor, targets: Tensor, *, progress: float = 0.0) -> Tensor:
        """Compute the value of every cell; see `Loss.values`."""
        return cross_entropy_cells(logits + self._shifts, targets, layout=self.layout)


@final
class Ldam(Loss):
    """Cross-entropy of scale * (logit - target * margin), classes weighed from a point of training on.

    References:
        cao2019, section 3.2 and algorithm 1; the sigmoid form takes the margin off positives only.
    """

    _margins: Tensor
    _weights: Tensor

    def __init__(self, config: LdamConfig, *, context: LossContext) -> None:
        super().__init__(context=context, link=config.link)
        self._config = config
        margins = ldam_margins(context, link=config.link, max_margin=config.max_margin)
        weights = block_weights(context, link=config.link, beta=config.beta)
        self.register_buffer("_margins", torch.as_tensor(margins, dtype=torch.float32), persistent=False)
        self.register_buffer("_weights", torch.as_tensor(weights, dtype=torch.float32), persistent=False)

    def values(self, logits: Tensor, targets: Tensor, *, progress: float = 0.0) -> Tensor:
        """Compute the value of every cell; see `Loss.values`."""
        moved = self._config.scale * (logits - targets * self._margins)
        cells = cross_entropy_cells(moved, targets, layout=self.layout)
        start = self._config.reweight_from
        return cells if start is None or progress < start else self._weights * cells
