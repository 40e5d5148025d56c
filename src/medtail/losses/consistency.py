"""Consistency of two last layers that learn from different streams: where one is sure, the other shall not contradict.

One layer learns from rows as they come, the other from rows in which rare labels are common. Each is drawn to what the
other says, as it says it, without drawing the other along.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def bernoulli_divergence(fixed: Tensor, moving: Tensor) -> Tensor:
    """Compute KL(p ‖ q) of two Bernoullis from their logits, p without gradient.

    Args:
        fixed: Logits of p, float of any shape.
        moving: Logits of q, same shape.

    Returns:
        Float of the same shape, >= 0.

    Example:
        >>> bernoulli_divergence(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.0]))
        tensor([0.0000, 0.1109])
    """
    fixed = fixed.detach()
    p, q = torch.sigmoid(fixed), torch.sigmoid(-fixed)
    return p * (logsigmoid(fixed) - logsigmoid(moving)) + q * (logsigmoid(-fixed) - logsigmoid(-moving))


def consistency(
    first: Tensor, second: Tensor, *, is_counted: Tensor | None = None, confidence: float = 0.7
) -> tuple[Tensor, Tensor]:
    """Average ½ [KL(sg p ‖ q) + KL(sg q ‖ p)] over the cells in which either is sure, max(p, 1 − p) > confidence.

    Args:
        first: Logits of one layer, float [B, C].
        second: Logits of the other, same shape.
        is_counted: Cells that may count, bool [B, C]; all if None.
        confidence: In [0.5, 1).

    Returns:
        The mean, 0 with zero gradient where no cell is sure; and the number of cells it is of.

    Example:
        >>> value, cells = consistency(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.1]]))
        >>> round(value.item(), 4), int(cells)
        (0.3808, 1)
    """
    sure = torch.maximum(first.detach().abs(), second.detach().abs())
    is_sure = torch.sigmoid(sure) > confidence
    if is_counted is not None:
        is_sure = is_sure & is_counted
    both = 0.5 * (bernoulli_divergence(first, second) + bernoulli_divergence(second, first))
    count = is_sure.sum()
    return torch.where(is_sure, both, 0).sum() / count.clamp_min(1), count
