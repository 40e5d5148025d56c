"""How much of a class's variety the generated images have: coverage and density, precision and recall, diversity.

Balls around the real images reach to their k-th neighbour. Density asks how many balls a generated image lies in, which
unlike precision an outlier among the real images cannot spoil; coverage asks how many balls hold one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from scipy.spatial.distance import cdist, pdist

NEIGHBOURS = 5


@final
@dataclass(frozen=True)
class Coverage:
    """How the generated images of a class lie among the real ones.

    Attributes:
        density: Mean number of real balls around a generated image, over k; about 1 for the same distribution, may
            exceed 1.
        coverage: Share of the real balls that hold a generated image, in [0, 1].
        precision: Share of generated images in any real ball.
        recall: Share of real images in any ball around a generated image.
        diversity: Mean distance between generated images over that between real ones; below 1 is less varied.
    """

    density: float
    coverage: float
    precision: float
    recall: float
    diversity: float


def coverage_of(generated: np.ndarray, real: np.ndarray, *, neighbours: int = NEIGHBOURS) -> Coverage:
    """Measure coverage, density, precision, recall and diversity.

    Args:
        generated: float [m, d].
        real: float [n, d], of the same space and class.
        neighbours: k >= 1; the ball of an image reaches to its k-th nearest of the same set.

    Returns:
        The five; NaN where a set has k or fewer images (for diversity, fewer than two).

    Example:
        >>> real = np.arange(20.0)[:, None]
        >>> found = coverage_of(real[:10] + 0.1, real)
        >>> found.precision, round(found.coverage, 2), round(found.diversity, 2)
        (1.0, 0.65, 0.52)

    References:
        naeem2020, eq. 3 and 4; kynkaanniemi2019
    """
    nan = float("nan")
    m, n = len(generated), len(real)
    density = covered = precision = recall = nan
    if n > neighbours and m:
        between = cdist(real, generated)
        inside = between < _radii(real, neighbours)[:, None]
        density = float(inside.sum(axis=0).mean() / neighbours)
        covered = float(inside.any(axis=1).mean())
        precision = float(inside.any(axis=0).mean())
        if m > neighbours:
            recall = float((between < _radii(generated, neighbours)[None, :]).any(axis=1).mean())
    spread, usual = mean_distance(generated), mean_distance(real)
    return Coverage(density, covered, precision, recall, spread / usual if usual > 0 else nan)


def mean_distance(features: np.ndarray) -> float:
    """Return the mean distance between two images of a set; NaN with fewer than two.

    Example:
        >>> round(mean_distance(np.array([[0.0], [1.0], [2.0]])), 3)
        1.333
    """
    return float(pdist(features).mean()) if len(features) >= 2 else float("nan")


def _radii(features: np.ndarray, neighbours: int) -> np.ndarray:
    # place 0 of a sorted row is the image itself
    return np.asarray(np.partition(cdist(features, features), neighbours, axis=1)[:, neighbours])
