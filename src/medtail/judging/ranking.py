"""Who stands before whom, and which places are noise: ranks, share of first places, tied blocks.

Works on values where a higher one is better; `comparison` turns the sign of the others round. Ties share their
places and their wins.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def ranks(values: np.ndarray) -> np.ndarray:
    """Rank systems along the first axis, 1 for the highest value, ties taking the mean of their places.

    Args:
        values: float [S] or [S, B].

    Returns:
        float64 of the same shape; NaN for every system where any is undefined: a missing system has no place, and
        the others' places depend on it.

    Example:
        >>> ranks(np.array([0.3, 0.5, 0.5])).tolist()
        [3.0, 1.5, 1.5]
    """
    above = (values[None] > values[:, None]).sum(axis=1)
    equal = (values[None] == values[:, None]).sum(axis=1)
    found = above + (equal + 1.0) / 2.0
    return np.where(np.isnan(values).any(axis=0), np.nan, found)


def first_shares(values: np.ndarray) -> np.ndarray:
    """Return the share of resamples in which each system ranks first, systems that tie there sharing the win.

    Args:
        values: float [S, B], higher is better; resamples in which any system is undefined do not count.

    Returns:
        float64 [S], summing to 1; NaN without a defined resample.

    Example:
        >>> first_shares(np.array([[0.9, 0.5], [0.8, 0.5]])).tolist()
        [0.75, 0.25]
    """
    known = values[:, ~np.isnan(values).any(axis=0)]
    if not known.shape[1]:
        return np.full(len(values), np.nan)
    winners = known == known.max(axis=0)
    return np.asarray((winners / winners.sum(axis=0)).mean(axis=1))


def tied_blocks(order: Sequence[int], tied: np.ndarray) -> list[list[int]]:
    """Split a ranking into blocks: neighbours that cannot be told apart stand in one.

    Args:
        order: Systems from the best to the worst.
        tied: bool [S, S], whether two systems cannot be told apart.

    Returns:
        Systems block by block, best first. The first and last of a long block may well be told apart.

    Example:
        >>> apart = np.array([[0, 0, 1], [0, 0, 0], [1, 0, 0]], dtype=bool)
        >>> tied_blocks([0, 1, 2], ~apart)
        [[0, 1, 2]]
    """
    blocks: list[list[int]] = []
    for place, system in enumerate(order):
        if place and tied[order[place - 1], system]:
            blocks[-1].append(system)
        else:
            blocks.append([system])
    return blocks


def tied_runs(order: Sequence[int], tied: np.ndarray) -> list[list[int]]:
    """Return the longest runs of neighbours in which *every* pair is tied: the bars of a critical-difference picture.

    Args:
        order: Systems from the best to the worst.
        tied: bool [S, S].

    Returns:
        Runs of two or more systems, none inside another; they may overlap.

    Example:
        >>> apart = np.array([[0, 0, 1], [0, 0, 0], [1, 0, 0]], dtype=bool)
        >>> tied_runs([0, 1, 2], ~apart)
        [[0, 1], [1, 2]]
    """
    runs: list[list[int]] = []
    reach = 0
    for start in range(len(order)):
        stop = start + 1
        while stop < len(order) and all(tied[order[stop], order[before]] for before in range(start, stop)):
            stop += 1
        if stop - start > 1 and stop > reach:
            runs.append([order[place] for place in range(start, stop)])
            reach = stop
    return runs
