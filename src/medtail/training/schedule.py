"""Learning rates as pure functions: of the step (warm-up, cosine) and of the depth (layer-wise factors).

Nothing here has state, so a resumed run needs only the number of its next step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from medtail.training.config import OptimConfig


def rate_factor(step: int, *, total_steps: int, warmup: float, final_rate: float) -> float:
    """Return the factor on the peak learning rate at a step: a linear rise, then half a cosine down.

    Args:
        step: From 0.
        total_steps: Steps of the whole training, at least 1.
        warmup: Share of them that rise, in [0, 1).
        final_rate: Factor at the last step, in [0, 1].

    Returns:
        A factor in (0, 1].

    Example:
        >>> [round(rate_factor(s, total_steps=11, warmup=0.2, final_rate=0.0), 3) for s in (0, 1, 2, 6, 10)]
        [0.333, 0.667, 1.0, 0.5, 0.0]
    """
    rising = round(warmup * total_steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    done = (step - rising) / max(1, total_steps - 1 - rising)
    return final_rate + (1.0 - final_rate) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def depth_factors(num_groups: int, *, layer_decay: float, backbone_factor: float) -> list[float]:
    """Return the factor on the learning rate of each group in depth order, the head last with 1.

    The backbone's last block has `backbone_factor`, every block before it `layer_decay` times the next one's.

    Example:
        >>> depth_factors(4, layer_decay=0.5, backbone_factor=0.8)
        [0.2, 0.4, 0.8, 1.0]
    """
    return [backbone_factor * layer_decay ** (num_groups - 2 - depth) for depth in range(num_groups - 1)] + [1.0]


def parameter_groups(groups: Sequence[Mapping[str, nn.Parameter]], config: OptimConfig) -> list[dict[str, Any]]:
    """Turn layers in depth order into an optimizer's parameter groups, each with its `peak_rate`.

    Biases and norms (parameters of one axis) are not decayed: pulling a gain to zero switches its channel off.

    Args:
        groups: Names and parameters in depth order, the head last.
        config: Rates and decay.

    Returns:
        Groups in depth order, at most two a layer; no parameter is left out or in two.
    """
    factors = depth_factors(len(groups), layer_decay=config.layer_decay, backbone_factor=config.backbone_factor)
    result: list[dict[str, Any]] = []
    for group, factor in zip(groups, factors, strict=True):
        rate = config.learning_rate * factor
        for is_decayed in (True, False):
            members = [p for p in group.values() if (p.ndim > 1) == is_decayed]
            if members:
                decay = config.weight_decay if is_decayed else 0.0
                result.append({"params": members, "lr": rate, "peak_rate": rate, "weight_decay": decay})
    return result
