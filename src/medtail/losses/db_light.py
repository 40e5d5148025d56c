"""DB-light: what a winner of CXR-LT 2026 kept of the distribution-balanced loss.

A margin on positives that is widest for common classes, the reverse of LDAM's, and a class weight whose square root is
taken, on both sides of the cross-entropy. Common classes are asked for more certainty, rare ones count for more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from medtail.config import CLOSED
from medtail.losses.contract import Loss, LossContext
from medtail.losses.multiclass import Beta
from medtail.losses.multilabel import binary_cross_entropy
from medtail.losses.weights import effective_number_weights


@final
@dataclass(frozen=True, kw_only=True)
class DbLightConfig:
    """Binary cross-entropy with a margin that grows with the class, weighed by the root of its effective number.

    Attributes:
        max_margin: Margin of the most common class in logits, >= 0; the others' are (n_c / n_max)^¼ of it, which is
            ours: of the winner's only the bound .2 and the direction are known. 0 is off.
        beta: Overlap between images for the weights, in [0, 1); 0 weighs all classes alike.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    kind: Literal["db_light"] = "db_light"
    max_margin: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.2
    beta: Beta = 0.9999


def head_margins(positives: np.ndarray, *, max_margin: float) -> np.ndarray:
    """Compute margins that are widest for common classes: max_margin · (n_c / n_max)^¼.

    Args:
        positives: Images showing each class in the train fold, counts >= 0 [classes].
        max_margin: Margin of the most common class, >= 0.

    Returns:
        Float64 [classes] in [0, max_margin]; 0 for a class never seen.

    Example:
        >>> head_margins(np.array([1600, 100, 0]), max_margin=0.2)
        array([0.2, 0.1, 0. ])
    """
    counts = np.asarray(positives, dtype=float)
    return np.asarray(max_margin * (counts / max(float(counts.max(initial=0.0)), 1.0)) ** 0.25)


@final
class DbLight(Loss):
    """√w_c · BCE(z_c − y m_c, y), w_c the effective-number weight, of mean 1 over the classes seen.

    A class never seen weighs nothing. Scores are made from the raw logits, without the margin.

    Example:
        >>> loss = DbLight(DbLightConfig(max_margin=0.5, beta=0.0), context=LossContext((8,), (10,), (), 10))
        >>> round(loss.values(torch.full((1, 1), 0.5), torch.ones(1, 1)).item(), 4)  # log 2
        0.6931

    References:
        wu2020 (the loss it is made from); cui2019 (the weights).
    """

    _margins: Tensor
    _weights: Tensor

    def __init__(self, config: DbLightConfig, *, context: LossContext) -> None:
        super().__init__(context=context, link="sigmoid")
        counts = np.array(context.positives, dtype=float)
        margins = head_margins(counts, max_margin=config.max_margin)
        weights = np.sqrt(effective_number_weights(counts, beta=config.beta))
        self.register_buffer("_margins", torch.as_tensor(margins, dtype=torch.float32), persistent=False)
        self.register_buffer("_weights", torch.as_tensor(weights, dtype=torch.float32), persistent=False)

    def values(self, logits: Tensor, targets: Tensor, *, progress: float = 0.0) -> Tensor:
        """Compute the value of every cell; see `Loss.values`."""
        return self._weights * binary_cross_entropy(logits - targets * self._margins, targets)
