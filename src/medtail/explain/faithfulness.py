"""Deletion and insertion: does a class fall when its hottest places are covered, and rise when only they are shown?

The curves ask the model about images that no clinic makes, so their height says little by itself; what counts is
whether a map does better than a blob of chance on the same image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medtail.explain.evidence import log_odds
from medtail.explain.occlusion import mean_gray
from medtail.models.diagnoser import Diagnoser
from medtail.seeding import stream

STEPS = 8
"""Parts in which an image is covered or shown."""
AT_ONCE = 64
CHANCE_GRID = 7
"""Positions a side of a map of chance, as coarse as the maps it stands beside."""


@final
@dataclass(frozen=True)
class Faithfulness:
    """What covering and showing by the order of a map does to the score of its class; a value a map.

    Attributes:
        deletion: Mean score while the hottest places are covered more and more, float64 [M] in [0, 1]; low is good.
        insertion: Mean score while the hottest places are shown more and more, float64 [M] in [0, 1]; high is good.
        gap: Insertion less deletion on the scale of log-odds, float64 [M]; 0 for an order that says nothing.
    """

    deletion: np.ndarray
    insertion: np.ndarray
    gap: np.ndarray


def faithfulness(
    diagnosers: Sequence[Diagnoser],
    images: Tensor,
    heat: Tensor,
    *,
    columns: Sequence[int],
    content: Tensor | None = None,
    steps: int = STEPS,
    seed: int = 0,
) -> Faithfulness:
    """Cover and show images in the order of their maps.

    After k of n steps the hottest k / n of the content is covered with mean gray (deletion), or alone is not
    (insertion). The values are means over k = 1 … n - 1: at both ends the orders agree.

    Args:
        diagnosers: One network, or the members of an ensemble, whose log-odds are averaged; in eval mode.
        images: Float [M, channels, H, W] in [0, 1], an image a map.
        heat: Float [M, H, W].
        columns: The class of each map, M of them.
        content: Where there is image, [M, 1, H, W]; None where all is.
        steps: n >= 2.
        seed: Breaks ties between equally hot pixels.

    Returns:
        A value a map.

    Example:
        >>> from medtail.explain.examples import tiny_diagnoser
        >>> model, images = tiny_diagnoser("cnn"), torch.rand(2, 1, 64, 64)
        >>> found = faithfulness([model], images, torch.rand(2, 64, 64), columns=[0, 2])
        >>> found.gap.shape, bool((np.abs(found.gap) < 1).all())
        ((2,), True)

    References:
        petsiuk2018, with mean gray in the place of black and of blur.
    """
    count = len(images)
    inside = torch.ones_like(images[:, :1]) if content is None else content.to(images)
    gray = torch.where(inside.bool(), mean_gray(images, content), images)  # bars stay what they are
    random = stream(seed, "explain.ties")
    ties = torch.from_numpy(random.random((count, heat[0].numel()))).to(images.device)
    flat = heat.reshape(count, -1).double().masked_fill(inside.reshape(count, -1) == 0, -1.0)
    order = (flat + 1e-9 * ties).argsort(dim=1, descending=True).argsort(dim=1)
    place = order.reshape(count, 1, *heat.shape[-2:]) / inside.sum(dim=(2, 3), keepdim=True)
    shown = []
    for step in range(1, steps):
        hot = (place < step / steps).to(images)
        shown.append((images * (1 - hot) + gray * hot, images * hot + gray * (1 - hot)))
    odds = torch.stack([torch.stack([_odds(diagnosers, image, content, columns) for image in pair]) for pair in shown])
    scores = torch.sigmoid(odds).mean(dim=0).cpu().numpy()
    gap = (odds[:, 1] - odds[:, 0]).mean(dim=0).cpu().numpy()
    return Faithfulness(deletion=scores[0], insertion=scores[1], gap=gap)


def _odds(diagnosers: Sequence[Diagnoser], images: Tensor, content: Tensor | None, columns: Sequence[int]) -> Tensor:
    found = []
    with torch.no_grad():
        for start in range(0, len(images), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            own = None if content is None else content[part]
            wanted = torch.as_tensor(list(columns[part]), device=images.device)[:, None]
            odds = [log_odds(m(images[part], own), labels=m.labels, link=m.link).double() for m in diagnosers]
            found.append(torch.stack(odds).mean(dim=0).gather(1, wanted)[:, 0])
    return torch.cat(found)


def chance_maps(count: int, *, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Return smooth maps that know nothing of image or model, float32 [count, H, W] in [0, 1].

    Example:
        >>> chance_maps(3, size=(8, 8)).shape
        torch.Size([3, 8, 8])
    """
    drawn = stream(seed, "explain.chance").random((count, 1, CHANCE_GRID, CHANCE_GRID))
    maps = F.interpolate(torch.from_numpy(drawn).float(), size=size, mode="bilinear", align_corners=False)
    low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    return ((maps - low) / (high - low))[:, 0]
