"""How far two sets of images are apart in a feature space: KID, and FID where there are rows enough for it.

KID is unbiased at any number of rows, which is why it is the first number for small classes. Alone it means little: it
is read between a floor, two halves of the real images, and a ceiling, the nearest other class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
from scipy import linalg

from medtail.errors import MedtailError

FID_ROWS, FID_ROWS_PER_DIMENSION = 2000, 2
HALVES = 50
"""Random halvings of the real images for the floor."""


@final
@dataclass(frozen=True)
class KernelPosition:
    """A KID with what it is read against.

    Attributes:
        kid: Between generated and real images of a class; may be below 0 by chance. NaN with fewer than two of either.
        floor: Mean over halvings of the real images; NaN with fewer than four.
        floor_high: Of those halvings, 97.5 % are below.
        ceiling: Between this class and the nearest other class; NaN without one.
        nearest: Name of that class, "" without one.
    """

    kid: float
    floor: float
    floor_high: float
    ceiling: float
    nearest: str

    @property
    def position(self) -> float:
        """0 where two halves of the real images are, 1 where the nearest other class is; NaN without a scale.

        Example:
            >>> KernelPosition(0.25, 0.0, 0.2, 0.5, "cyst").position
            0.5
        """
        room = self.ceiling - self.floor
        return float((self.kid - self.floor) / room) if room > 0 else float("nan")


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Estimate the squared maximum mean discrepancy, unbiased, with k(a, b) = (a·b / d + 1)³.

    Args:
        first: float [m, d].
        second: float [n, d], of the same space.

    Returns:
        The estimate, around 0 for two samples of one distribution; NaN where m or n is below 2.

    Raises:
        MedtailError: The widths differ.

    Example:
        >>> round(kernel_distance(np.zeros((3, 2)), np.ones((3, 2))), 6)
        7.0

    References:
        binkowski2018, eq. 4.
    """
    first, second = _checked(first, second)
    m, n = len(first), len(second)
    if min(m, n) < 2:
        return float("nan")
    within_first = _kernel(first, first)
    within_second = _kernel(second, second)
    own = (within_first.sum() - np.trace(within_first)) / (m * (m - 1))
    other = (within_second.sum() - np.trace(within_second)) / (n * (n - 1))
    return float(own + other - 2 * _kernel(first, second).mean())


def kernel_position(
    generated: np.ndarray, real: np.ndarray, *, others: Mapping[str, np.ndarray], random: np.random.Generator
) -> KernelPosition:
    """Place the KID of a class between its floor and its ceiling.

    Args:
        generated: float [m, d], of one class.
        real: float [n, d], of the same class.
        others: Name → real features of each other class; the nearest is the ceiling.
        random: Halves the real images.

    Returns:
        The KID, floor and ceiling.
    """
    halves = []
    if len(real) >= 4:
        for _ in range(HALVES):
            order = random.permutation(len(real))
            halves.append(kernel_distance(real[order[: len(real) // 2]], real[order[len(real) // 2 :]]))
    away = {name: kernel_distance(features, real) for name, features in others.items()}
    away = {name: value for name, value in away.items() if not np.isnan(value)}
    nearest = min(away, key=lambda name: away[name]) if away else ""
    return KernelPosition(
        kid=kernel_distance(generated, real),
        floor=float(np.mean(halves)) if halves else float("nan"),
        floor_high=float(np.percentile(halves, 97.5)) if halves else float("nan"),
        ceiling=away[nearest] if nearest else float("nan"),
        nearest=nearest,
    )


def frechet_distance(first: np.ndarray, second: np.ndarray) -> tuple[float, str]:
    """Compute |μ - μ'|² + tr(Σ + Σ' - 2 (Σ Σ')^½), but only from rows enough for it.

    With few rows FID is far too large, by an amount that differs between methods; then there is none.

    Args:
        first: float [m, d].
        second: float [n, d].

    Returns:
        The distance and "", or NaN and the reason.

    Raises:
        MedtailError: The widths differ.

    Example:
        >>> frechet_distance(np.zeros((10, 2)), np.zeros((10, 2)))
        (nan, '10 rows; FID needs 2,000')

    References:
        heusel2017; chong2020
    """
    first, second = _checked(first, second)
    needed = max(FID_ROWS, FID_ROWS_PER_DIMENSION * first.shape[1])
    fewest = min(len(first), len(second))
    if fewest < needed:
        return float("nan"), f"{fewest:,} rows; FID needs {needed:,}"
    gap = first.mean(axis=0) - second.mean(axis=0)
    spread, other = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    # tr (Σ Σ')^½ is the sum of the roots of the eigenvalues of Σ Σ', which are real and >= 0
    roots = np.sqrt(np.clip(linalg.eigvals(np.atleast_2d(spread) @ np.atleast_2d(other)).real, 0.0, None))
    return float(gap @ gap + np.trace(np.atleast_2d(spread)) + np.trace(np.atleast_2d(other)) - 2 * roots.sum()), ""


def _kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.asarray((first @ second.T / first.shape[1] + 1.0) ** 3)


def _checked(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise MedtailError(
            f"features: found arrays of shapes {first.shape} and {second.shape}; expected [rows, width] of one space."
        )
    return first, second
