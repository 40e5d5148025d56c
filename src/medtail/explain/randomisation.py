"""Randomised copies of a model, from the head down, and how alike two maps are.

A map that stays the same when the model has forgotten all it learnt shows the image, not the model.
"""

from __future__ import annotations

import copy
from typing import Literal

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from medtail.models.diagnoser import Diagnoser
from medtail.seeding import stream_seed

Depth = Literal["head", "half", "all"]
DEPTHS: tuple[Depth, ...] = ("head", "half", "all")


def randomised(diagnoser: Diagnoser, *, depth: Depth = "all", seed: int = 0) -> Diagnoser:
    """Return a copy of a model that has forgotten what it learnt, from its head down to some depth.

    The values of each tensor of weights are shuffled: their sizes stay those of a trained network, so signals pass as
    before, but nothing learnt is left. Running statistics of normalisations stay.

    Args:
        diagnoser: The model; it is not changed.
        depth: The `head`, the head and the later `half` of the trunk's blocks, or `all`.
        seed: Of the shuffling.

    Returns:
        The copy, in eval mode.

    Example:
        >>> from medtail.explain.examples import tiny_diagnoser
        >>> model = tiny_diagnoser("cnn")
        >>> other = randomised(model, depth="head")
        >>> same = [bool((a == b).all()) for a, b in zip(model.parameters(), other.parameters())]
        >>> same[0], torch.equal(model.head.linear.weight, other.head.linear.weight)
        (True, False)

    References:
        adebayo2018 (cascading randomisation; there weights are drawn afresh).
    """
    other = copy.deepcopy(diagnoser).eval()
    groups = other.layer_groups()
    count = {"head": 1, "half": 1 + len(groups[:-1]) // 2, "all": len(groups)}[depth]
    generator = torch.Generator().manual_seed(stream_seed(seed, "explain.randomised"))
    with torch.no_grad():
        for group in reversed(groups[len(groups) - count :]):
            for value in group.values():
                flat = value.detach().cpu().flatten()
                shuffled = flat[torch.randperm(len(flat), generator=generator)]
                value.copy_(shuffled.reshape(value.shape).to(value))
    return other


def rank_correlation(first: np.ndarray, second: np.ndarray, *, inside: np.ndarray | None = None) -> float:
    """Return Spearman's rank correlation of two maps over the content; NaN where a map is the same everywhere.

    Args:
        first: Float [H, W].
        second: Float [H, W].
        inside: bool [H, W]; None for all of it.

    Example:
        >>> rank_correlation(np.array([[0.0, 0.5, 1.0]]), np.array([[0.0, 0.9, 1.0]]))
        1.0
    """
    chosen = np.ones(first.shape, dtype=bool) if inside is None else inside
    a, b = rankdata(first[chosen]), rankdata(second[chosen])
    if a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def structural_similarity(first: Tensor, second: Tensor) -> Tensor:
    """Return the structural similarity of maps [M, H, W] in [0, 1], float [M] in [-1, 1]; 1 for equal maps.

    Example:
        >>> maps = torch.rand(2, 16, 16)
        >>> structural_similarity(maps, maps).tolist()
        [1.0, 1.0]

    References:
        wang2004.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    found = structural_similarity_index_measure(
        first[:, None].float(), second[:, None].float(), data_range=1.0, reduction="none"
    )
    assert isinstance(found, Tensor)
    return found.reshape(len(first))
