"""Where the limits of conformal sets come from: a class's own patients, a cluster's, a tail group's, everybody's.

Below `conformal`. Everything rests on *cells*: a finding an image truly has, and the score it got. In a multi-class
task an image has one, in a multi-label task any number; the pools are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

from medtail.seeding import stream
from medtail.tables.predictions import Predictions

ROUNDING = 1e-9
"""α(n+1) is compared with whole numbers: .29 x 100 must not become 28."""
CLUSTER_LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Quantiles of 1 - score by which classes are alike, beside 1 - α."""
FEWEST_TO_CLUSTER = 3
"""A class with fewer patients in the part for clusters joins none."""
RESTARTS = 10

Limit = tuple[float, str, int]
"""The limit, what it rests on, and the patients behind it."""


def patients_needed(alpha: float) -> int:
    """Return how many patients a class needs for a limit of its own, ⌈1/α⌉ - 1.

    Example:
        >>> patients_needed(0.1), patients_needed(0.05)
        (9, 19)
    """
    return int(np.ceil(1.0 / alpha - ROUNDING)) - 1


def lower_limit(scores: np.ndarray, *, alpha: float) -> float:
    """Return the ⌊α(n+1)⌋-th smallest score: a new one lies below it with probability at most α.

    The same number as the ⌈(n+1)(1-α)⌉-th smallest of 1 - s, the way it is written for softmax scores.

    Args:
        scores: Scores of the class in n patients who have it, float [n].
        alpha: In (0, 1).

    Returns:
        The limit; 0 (always in the set) where n is too small for a promise.

    Example:
        >>> lower_limit(np.linspace(0.1, 0.9, 9), alpha=0.1), lower_limit(np.linspace(0.1, 0.8, 8), alpha=0.1)
        (0.1, 0.0)

    References:
        vovk2012.
    """
    rank = int(np.floor(alpha * (len(scores) + 1) + ROUNDING))
    return float(np.partition(scores, rank - 1)[rank - 1]) if rank >= 1 else 0.0


@final
@dataclass(frozen=True)
class Cells:
    """The findings that calibration images truly have, within one exclusive group or the free classes.

    Attributes:
        scores: float64 [m].
        classes: Column index of the finding, int64 [m].
        patients: Patient numbers, int64 [m]; cells stand in the order of patient, image and class.
        images: Image numbers, int64 [m].
        alpha: Share of findings that may be missed.
        draws: Times one cell a patient is drawn.
        seed: Of the draws.
    """

    scores: np.ndarray
    classes: np.ndarray
    patients: np.ndarray
    images: np.ndarray
    alpha: float
    draws: int
    seed: int

    def limit(self, among: np.ndarray, level: str, *, scaled: np.ndarray | None = None) -> Limit:
        """Return the limit from some cells, one a patient, averaged over the draws.

        Args:
            among: Mask of cells, bool [m].
            level: What they are, for the record.
            scaled: Numbers to use in place of the scores, float64 [m].
        """
        values, patients = (self.scores if scaled is None else scaled)[among], self.patients[among]
        _, starts, sizes = np.unique(patients, return_index=True, return_counts=True)
        if not len(starts) or len(starts) < patients_needed(self.alpha):
            return 0.0, "always", len(starts)
        repeated = self.draws if sizes.max() > 1 else 1
        found = []
        for number in range(repeated):
            random = stream(self.seed, "conformal", number)
            found.append(lower_limit(values[starts + random.integers(0, sizes)], alpha=self.alpha))
        # the mean of equal numbers may round above them, and shut out the very score it is to accept
        return (found[0] if len(set(found)) == 1 else float(np.mean(found))), level, len(starts)

    def of(self, *classes: int) -> np.ndarray:
        """Return the mask of some classes' cells."""
        return np.isin(self.classes, classes)


def gather_cells(predictions: Predictions, columns: tuple[int, ...], *, alpha: float, draws: int, seed: int) -> Cells:
    """Gather the findings of some columns.

    Args:
        predictions: Calibration rows.
        columns: Column indices: one exclusive group, or the free classes.
        alpha: Share of findings that may be missed.
        draws: Times one cell a patient is drawn.
        seed: Of the draws.
    """
    rows, at = np.nonzero(predictions.targets[:, list(columns)] == 1)
    classes = np.array(columns, dtype=np.int64)[at]
    images = np.unique(predictions.image_ids.astype(str), return_inverse=True)[1]
    patients = np.unique(predictions.patients.astype(str), return_inverse=True)[1]
    # by name, so that neither the order of rows nor of columns changes a draw
    names = np.argsort(np.argsort(np.array(predictions.labels.class_names)))
    order = np.lexsort((names[classes], images[rows], patients[rows]))
    rows, classes = rows[order], classes[order]
    return Cells(predictions.scores[rows, classes], classes, patients[rows], images[rows], alpha, draws, seed)


def by_chain(
    cells: Cells, columns: tuple[int, ...], *, tail_group_of: Mapping[int, str], own_class: bool
) -> tuple[list[Limit], dict[int, int]]:
    """Give each class the narrowest pool that is large enough: class, cluster, tail group, everybody, nobody.

    Args:
        cells: Of the columns.
        columns: The classes.
        tail_group_of: Class → head, medium or tail, where known.
        own_class: Begin with the class's own patients; with its cluster otherwise.

    Returns:
        A limit a class, and the cluster of each class that joined one.
    """
    # a class with a limit of its own loses nothing to the clusters, so half of the patients may form them
    clusters, for_limits = _clusters(cells, columns, share=0.5 if own_class else None)
    found = []
    for c in columns:
        pools = [(cells.of(c), "class")] if own_class else []
        if c in clusters:
            together = [other for other, number in clusters.items() if number == clusters[c]]
            pools.append((cells.of(*together) & for_limits, "cluster"))
        if c in tail_group_of:
            group = [other for other in columns if tail_group_of.get(other) == tail_group_of[c]]
            pools.append((cells.of(*group), "tail group"))
        pools.append((np.ones(len(cells.scores), dtype=bool), "marginal"))
        tried = [cells.limit(among, level) for among, level in pools]
        found.append(next((limit for limit in tried if limit[1] != "always"), tried[-1]))
    return found, clusters


def interpolated(cells: Cells, columns: tuple[int, ...], *, weight: float) -> list[Limit]:
    """Mix each class's own limit with the marginal one; an own limit that cannot be had counts as 0.

    Example:
        >>> some = Cells(np.linspace(0.1, 0.9, 9), np.zeros(9, dtype=int), np.arange(9), np.arange(9), 0.1, 1, 0)
        >>> interpolated(some, (0, 1), weight=0.5)
        [(0.1, 'interpolated', 9), (0.05, 'interpolated', 0)]

    References:
        ding2025.
    """
    everybody, level, _ = cells.limit(np.ones(len(cells.scores), dtype=bool), "interpolated")
    found = []
    for c in columns:
        own, _, patients = cells.limit(cells.of(c), "class")
        found.append((everybody if own == everybody else weight * own + (1.0 - weight) * everybody, level, patients))
    return found


def prevalence_adjusted(cells: Cells, columns: tuple[int, ...], shares: np.ndarray) -> list[Limit]:
    """Set one limit on score / share, which lowers the limit of rare classes.

    Args:
        cells: Of the columns.
        columns: The classes.
        shares: How common each is in training, float64 [len(columns)] > 0.

    References:
        ding2025.
    """
    share_of = dict(zip(columns, shares, strict=True))
    scaled = cells.scores / np.array([share_of[int(c)] for c in cells.classes], dtype=np.float64)
    limit, level, patients = cells.limit(np.ones(len(scaled), dtype=bool), "marginal", scaled=scaled)
    # multiplying back must not round above the score the limit came from
    return [(limit * float(share) * (1.0 - 1e-12), level, patients) for share in shares]


def controlled_risk(cells: Cells) -> Limit:
    """Return the highest limit at which the mean share of findings missed in an image stays at most α.

    With R the mean share missed in n patients, one image each, the limit keeps (n R + 1) / (n + 1) <= α.

    References:
        angelopoulos2024.
    """
    # the cells of an image stand together, and so do those of a patient
    image_starts = np.sort(np.unique(cells.images, return_index=True)[1])
    findings = np.diff(np.append(image_starts, len(cells.scores)))
    kept, starts, sizes = np.unique(cells.patients[image_starts], return_index=True, return_counts=True)
    if len(kept) < patients_needed(cells.alpha):
        return 0.0, "always", len(kept)
    found = []
    for number in range(cells.draws if sizes.max() > 1 else 1):
        chosen = starts + stream(cells.seed, "conformal", number).integers(0, sizes)
        mine = np.isin(cells.images, cells.images[image_starts[chosen]])
        weight = 1.0 / np.repeat(findings, findings)[mine]
        scores = cells.scores[mine]
        order = np.argsort(scores, kind="stable")
        ordered, missed = scores[order], np.cumsum(weight[order]) - weight[order]
        first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
        allowed = cells.alpha * (len(kept) + 1) - 1.0
        found.append(float(ordered[first[missed[first] <= allowed + ROUNDING][-1]]))
    return (found[0] if len(set(found)) == 1 else float(np.mean(found))), "risk control", len(kept)


def _clusters(cells: Cells, columns: tuple[int, ...], *, share: float | None) -> tuple[dict[int, int], np.ndarray]:
    """Group classes whose scores look alike, from a part of the patients; return the mask of the others' cells.

    How many clusters, and the part of the patients where none is given, follow Ding et al. (2023).
    """
    nobody: tuple[dict[int, int], np.ndarray] = {}, np.ones(len(cells.scores), dtype=bool)
    needed = max(patients_needed(cells.alpha), 9)
    counts = {c: len(np.unique(cells.patients[cells.of(c)])) for c in columns}
    large = [c for c in columns if counts[c] >= needed]
    if len(large) < 2:
        return nobody
    part = len(large) / (75 + len(large)) if share is None else share
    number = min(int(part * min(counts[c] for c in large) / 2), len(large) // 2 if share is not None else len(large))
    if number < 2:
        return nobody
    people = np.unique(cells.patients)
    chosen = people[stream(cells.seed, "conformal", "clusters").random(len(people)) < part]
    inside = np.isin(cells.patients, chosen)
    levels = np.array([*CLUSTER_LEVELS, 1.0 - cells.alpha])
    scores = {c: cells.scores[cells.of(c) & inside] for c in columns}
    points = {c: np.quantile(1.0 - s, levels) for c, s in scores.items() if len(s) >= FEWEST_TO_CLUSTER}
    formed = [c for c in large if c in points]
    if len(formed) < number:
        return nobody
    weights = np.sqrt([len(scores[c]) for c in formed])
    centres = k_means(np.array([points[c] for c in formed]), weights, number=number, seed=cells.seed)
    nearest = {c: int(np.argmin(((centres - point) ** 2).sum(axis=1))) for c, point in points.items()}
    return nearest, ~inside


def k_means(points: np.ndarray, weights: np.ndarray, *, number: int, seed: int) -> np.ndarray:
    """Return the best of ten weighted k-means, each begun from spread-out points.

    Args:
        points: float64 [n, d].
        weights: float64 [n] > 0.
        number: Clusters, 1 to n.
        seed: Of the beginnings.

    Returns:
        Centres float64 [number, d].

    Example:
        >>> centres = k_means(np.array([[0.0], [0.2], [5.0]]), np.ones(3), number=2, seed=0)
        >>> sorted(centres[:, 0].tolist())
        [0.1, 5.0]
    """
    best, least = points[:number], np.inf
    for restart in range(RESTARTS):
        random = stream(seed, "k-means", restart)
        centres = points[[random.choice(len(points), p=weights / weights.sum())]]
        while len(centres) < number:
            far = weights * _squares(points, centres).min(axis=1)
            chance = far / far.sum() if far.sum() > 0 else weights / weights.sum()
            centres = np.concatenate([centres, points[[random.choice(len(points), p=chance)]]])
        for _ in range(100):
            nearest = _squares(points, centres).argmin(axis=1)
            moved = centres.copy()
            for k in np.unique(nearest):
                moved[k] = np.average(points[nearest == k], axis=0, weights=weights[nearest == k])
            if np.array_equal(moved, centres):
                break
            centres = moved
        spread = float((weights * _squares(points, centres).min(axis=1)).sum())
        if spread < least:
            best, least = centres, spread
    return best


def _squares(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return np.asarray(((points[:, None] - centres[None]) ** 2).sum(axis=2))
