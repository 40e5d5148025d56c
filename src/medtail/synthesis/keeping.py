"""An optional filter of a pool: images a judge does not believe in, near-copies of train images, and doubles.

Off by default. It makes a pool look better than its generator is, so the numbers of an inspection are always those of
the whole pool, and what was dropped is counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from scipy.spatial.distance import cdist

from medtail.errors import MedtailError


@final
@dataclass(frozen=True, eq=False)
class Kept:
    """What the filter keeps, and why it drops the others.

    Attributes:
        kept: bool [G].
        doubted: Dropped because the judge's cross-entropy is above the class's mean, bool [G].
        copied: Dropped because the copy ratio is below the usual, bool [G].
        doubled: Dropped because an image before it is nearly the same, bool [G].
    """

    kept: np.ndarray
    doubted: np.ndarray
    copied: np.ndarray
    doubled: np.ndarray

    @property
    def words(self) -> str:
        """How many are kept and dropped, and why; an image may be dropped for several reasons.

        Example:
            >>> Kept(np.array([True, False]), *np.array([[False, True], [False, True], [False, False]])).words
            'kept 1 of 2 images; dropped: 1 doubted by the judge, 1 near-copies, 0 doubles'
        """
        return (
            f"kept {int(self.kept.sum())} of {len(self.kept)} images; dropped: {int(self.doubted.sum())} doubted by the"
            f" judge, {int(self.copied.sum())} near-copies, {int(self.doubled.sum())} doubles"
        )


def choose_kept(
    asked: np.ndarray,
    *,
    entropy: np.ndarray | None,
    ratio: np.ndarray,
    ratio_limit: np.ndarray,
    features: np.ndarray,
    double_below: float,
    alpha: float = 1.0,
) -> Kept:
    """Choose which generated images to keep.

    Args:
        asked: Class of each, integers [G].
        entropy: The judge's cross-entropy, float [G]; None without a judge.
        ratio: Copy ratio, float [G].
        ratio_limit: Lowest ratio that is kept, a class's own at each of its images, float [G]; NaN keeps all.
        features: Where doubles are looked for, float [G, d].
        double_below: Images nearer to each other than this are doubles, and only the first is kept.
        alpha: An image is doubted if its cross-entropy is above alpha times its class's mean.

    Returns:
        The choice. A doubted or copied image makes no other one a double.

    Raises:
        MedtailError: alpha is not above 0.

    Example:
        >>> found = choose_kept(np.zeros(3, int), entropy=np.array([0.1, 0.1, 2.0]), ratio=np.ones(3),
        ...     ratio_limit=np.full(3, 0.5), features=np.array([[0.0], [0.01], [9.0]]), double_below=0.1)
        >>> found.kept.tolist(), found.doubted.tolist(), found.doubled.tolist()
        ([True, False, False], [False, False, True], [False, True, False])
    """
    if not alpha > 0:
        raise MedtailError(f"keep: alpha {alpha:g}; expected above 0.")
    doubted = np.zeros(len(asked), dtype=bool)
    if entropy is not None:
        for number in set(asked.tolist()):
            rows = asked == number
            doubted[rows] = entropy[rows] > alpha * entropy[rows].mean()
    copied = np.asarray(ratio < ratio_limit)
    doubled = np.zeros(len(asked), dtype=bool)
    near = cdist(features, features) < double_below
    for place in np.flatnonzero(~doubted & ~copied):
        earlier = near[place, :place] & ~(doubted | copied | doubled)[:place]
        doubled[place] = bool(earlier.any())
    return Kept(~(doubted | copied | doubled), doubted, copied, doubled)
