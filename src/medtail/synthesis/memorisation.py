"""Does a generator copy? Distances from generated images to the nearest train image, against what is usual among
train images of different patients.

A generator that learnt a class puts its images as far from the train images as new patients would be. One that copies
puts them nearer, and rare classes are copied first; so classes are always judged alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import rankdata

from medtail.errors import MedtailError

COPYING_BELOW = -3.0
"""A C_T under this says copying: three standard errors."""
NEIGHBOURS = 20
"""Of a train image, for the copy ratio."""
FEWEST = 5
"""Train images of a class without which nothing is said of it."""
LOW_PERCENTILE = 5.0


@final
@dataclass(frozen=True, eq=False)
class Nearest:
    """The nearest train image of each image.

    Attributes:
        distance: float64 [N], the smaller of an image's own and its mirror image's; NaN where no train image was left.
        row: Row of that train image, integers [N]; -1 where none was left.
        ratio: `distance` over the mean distance of that train image to its own 20 nearest, float64 [N]; near 0 for a
            copy, around 1 for a stranger.
    """

    distance: np.ndarray
    row: np.ndarray
    ratio: np.ndarray


def nearest_train(
    features: np.ndarray,
    mirrored: np.ndarray,
    train: np.ndarray,
    *,
    patients: np.ndarray | None = None,
    train_patients: np.ndarray | None = None,
) -> Nearest:
    """Find the nearest train image of each image, itself or mirrored.

    Args:
        features: float [N, d].
        mirrored: Of the mirror images, float [N, d].
        train: Of the train images, float [T, d].
        patients: Patient of each image, text [N]; train images of the same patient are passed over. None for generated
            images, which have none.
        train_patients: Patient of each train image, text [T]; needed with `patients`, and for the neighbours of a train
            image to be of other patients.

    Returns:
        Distance, neighbour and copy ratio of each.

    Raises:
        MedtailError: The widths differ.

    Example:
        >>> found = nearest_train(np.array([[0.1]]), np.array([[5.0]]), np.array([[0.0], [1.0], [2.0]]))
        >>> found.row.tolist(), found.distance.round(3).tolist(), found.ratio.round(3).tolist()
        ([0], [0.1], [0.067])

    References:
        carlini2023
    """
    if not features.shape[1:] == mirrored.shape[1:] == train.shape[1:]:
        raise MedtailError(
            f"features: found widths {features.shape[1:]}, {mirrored.shape[1:]} and {train.shape[1:]}; expected one"
            " space."
        )
    own = np.arange(len(train)) if train_patients is None else np.asarray(train_patients)
    far = np.minimum(cdist(features, train), cdist(mirrored, train))
    if patients is not None:
        far[np.asarray(patients)[:, None] == own[None, :]] = np.inf
    if not len(train):
        nothing = np.full(len(features), np.nan)
        return Nearest(nothing, np.full(len(features), -1), nothing.copy())
    among = cdist(train, train)
    among[own[:, None] == own[None, :]] = np.inf
    kept = min(NEIGHBOURS, len(train))
    near = np.sort(np.partition(among, kept - 1, axis=1)[:, :kept], axis=1)
    finite = np.isfinite(near)
    sums, counts = np.where(finite, near, 0.0).sum(axis=1), finite.sum(axis=1)
    usual = np.divide(sums, counts, out=np.full(len(train), np.nan), where=counts > 0)
    row = far.argmin(axis=1)
    distance = far[np.arange(len(far)), row]
    lost = ~np.isfinite(distance)
    distance = np.where(lost, np.nan, distance)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = distance / usual[row]
    return Nearest(distance, np.where(lost, -1, row), ratio)


def copy_test(generated: np.ndarray, reference: np.ndarray) -> float:
    """Compare distances of generated images with those of train images: C_T.

    The rank test U = #{generated > reference}, as a standard normal: C_T = (U - mn/2) / sqrt(mn(m+n+1)/12). Around 0
    for new images of the same distribution, strongly negative for copies, strongly positive where the generator is
    somewhere else.

    Args:
        generated: Distance of each generated image to its nearest train image, float [m].
        reference: Distance of each train image to its nearest one of another patient, float [n].

    Returns:
        C_T; NaN with fewer than five of either (NaN distances are left out).

    Example:
        >>> reference = np.arange(1.0, 41.0)
        >>> round(copy_test(reference, reference), 6), copy_test(reference / 10, reference) < -3
        (0.0, True)

    References:
        meehan2020
    """
    generated, reference = generated[~np.isnan(generated)], reference[~np.isnan(reference)]
    m, n = len(generated), len(reference)
    if min(m, n) < FEWEST:
        return float("nan")
    ranks = rankdata(np.concatenate([generated, reference]))  # ties count one half
    larger = ranks[:m].sum() - m * (m + 1) / 2
    return float((larger - m * n / 2) / np.sqrt(m * n * (m + n + 1) / 12))


def low_ratio(reference: np.ndarray) -> float:
    """Return the 5th percentile of the copy ratios of train images; NaN with fewer than five.

    Example:
        >>> low_ratio(np.linspace(0, 1, 101))
        0.05
    """
    kept = reference[np.isfinite(reference)]
    return float(np.percentile(kept, LOW_PERCENTILE)) if len(kept) >= FEWEST else float("nan")
