"""Maps of chosen images and classes by all members of a model, and every check that needs the model again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from medtail.explain.faithfulness import Faithfulness, chance_maps, faithfulness
from medtail.explain.maps import Branch, HeatMethod, raw_maps, scale_maps
from medtail.explain.randomisation import DEPTHS, Depth, randomised, rank_correlation, structural_similarity
from medtail.models.diagnoser import Diagnoser

CHANCE_DRAWS = 3
Tick = Callable[[int, int], None]


@final
@dataclass(frozen=True)
class Asked:
    """What is to be explained: a map is a pair of an image and a class.

    Attributes:
        images: Float [N, channels, S, S] in [0, 1].
        content: Where there is image, bool [N, 1, S, S].
        rows: Image of each map, M numbers.
        columns: Class of each map, M of them.
    """

    images: Tensor
    content: Tensor
    rows: tuple[int, ...]
    columns: tuple[int, ...]


@final
@dataclass(frozen=True)
class HeatSet:
    """Maps of one method.

    Attributes:
        heat: Float32 [M, S, S] in [0, 1].
        speaks: Whether anything in the image speaks for the class, bool [M]; if not, the map is relative.
    """

    heat: Tensor
    speaks: np.ndarray

    @property
    def flat(self) -> np.ndarray:
        """Whether a map is the same everywhere, bool [M]."""
        return np.asarray((self.heat.amax(dim=(1, 2)) == 0).cpu())


@final
@dataclass(frozen=True)
class Checks:
    """What the checks found, a value a map.

    Attributes:
        own: Deletion and insertion by the map.
        chance_gap: Mean gap of maps of chance on the same image and class, float64 [M].
        alike: Rank correlation with the map of the randomised model, by depth, float64 [M].
        ssim: Structural similarity with the map of the fully randomised model, float64 [M].
        randomised_gap: Gap of the fully randomised model's map, judged by the model itself, float64 [M].
        randomised_heat: Maps of the fully randomised model, float32 [M, S, S].
    """

    own: Faithfulness
    chance_gap: np.ndarray
    alike: dict[Depth, np.ndarray]
    ssim: np.ndarray
    randomised_gap: np.ndarray
    randomised_heat: Tensor


def heat_of(
    members: Sequence[Diagnoser],
    asked: Asked,
    *,
    method: HeatMethod,
    branch: Branch = "joint",
    progress: Tick | None = None,
) -> HeatSet:
    """Make the maps; those of an ensemble are the mean of its members', scaled again.

    Example:
        >>> from medtail.explain.examples import tiny_diagnoser
        >>> asked = Asked(torch.rand(1, 1, 64, 64), torch.ones(1, 1, 64, 64, dtype=torch.bool), (0, 0), (0, 2))
        >>> found = heat_of([tiny_diagnoser("cnn"), tiny_diagnoser("cnn", seed=1)], asked, method="layer_cam")
        >>> found.heat.shape, found.flat.tolist()
        (torch.Size([2, 64, 64]), [False, False])
    """
    size = (asked.images.shape[-2], asked.images.shape[-1])
    heat = torch.zeros(len(asked.rows), *size)
    speaks = np.zeros(len(asked.rows), dtype=bool)
    rows = sorted(set(asked.rows))
    for done, row in enumerate(rows, start=1):
        places = [place for place, own in enumerate(asked.rows) if own == row]
        image, content = asked.images[row : row + 1], asked.content[row : row + 1]
        total = torch.zeros(len(places), *size)
        for member in members:
            columns = [asked.columns[place] for place in places]
            raw = raw_maps(member, image, classes=columns, method=method, branch=branch, content=content)
            total += scale_maps(raw, size=size, content=content)[0].cpu()
            speaks[places] |= np.asarray((raw[0].amax(dim=(1, 2)) > 0).cpu())
        heat[places] = scale_maps(total[None], size=size, content=content.cpu())[0]
        if progress is not None:
            progress(done, len(rows))
    return HeatSet(heat, speaks)


def check_maps(
    members: Sequence[Diagnoser],
    asked: Asked,
    found: HeatSet,
    *,
    method: HeatMethod,
    branch: Branch = "joint",
    seed: int = 0,
    progress: Tick | None = None,
) -> Checks:
    """Check maps by covering and showing, and by what is left of them in randomised copies of the model.

    Args:
        members: The networks, in eval mode.
        asked: What was explained.
        found: Its maps.
        method: How they were made.
        branch: Of which branch.
        seed: Of chance maps and randomised models.
        progress: Called with (steps done, steps).

    Example:
        >>> from medtail.explain.examples import tiny_diagnoser
        >>> asked = Asked(torch.rand(1, 1, 64, 64), torch.ones(1, 1, 64, 64, dtype=torch.bool), (0, 0), (0, 2))
        >>> model = tiny_diagnoser("cnn")
        >>> found = heat_of([model], asked, method="layer_cam")
        >>> checks = check_maps([model], asked, found, method="layer_cam")
        >>> sorted(checks.alike), checks.own.gap.shape
        (['all', 'half', 'head'], (2,))
    """
    rows = list(asked.rows)
    images, content = asked.images[rows], asked.content[rows]
    inside = np.asarray(content[:, 0].cpu())
    size = (images.shape[-2], images.shape[-1])
    steps, done = CHANCE_DRAWS + len(DEPTHS) + 2, 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, steps)

    def faith(heat: Tensor) -> Faithfulness:
        heat = heat.to(images.device)
        made = faithfulness(members, images, heat, columns=asked.columns, content=content, seed=seed)
        tick()
        return made

    own = faith(found.heat)
    chance = [faith(chance_maps(len(rows), size=size, seed=seed + draw)).gap for draw in range(CHANCE_DRAWS)]
    alike: dict[Depth, np.ndarray] = {}
    others = found
    for depth in DEPTHS:
        forgotten = [randomised(member, depth=depth, seed=seed + number) for number, member in enumerate(members)]
        others = heat_of(forgotten, asked, method=method, branch=branch)
        pairs = zip(found.heat.numpy(), others.heat.numpy(), inside, strict=True)
        alike[depth] = np.array([rank_correlation(mine, other, inside=where) for mine, other, where in pairs])
        tick()
    ssim = structural_similarity(found.heat, others.heat).double().numpy()
    return Checks(
        own=own,
        chance_gap=np.mean(chance, axis=0),
        alike=alike,
        ssim=ssim,
        randomised_gap=faith(others.heat).gap,
        randomised_heat=others.heat,
    )
