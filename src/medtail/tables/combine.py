"""Ensembles: an average of Predictions, and nothing else.

Members may be made by our models or by anybody's. Nothing downstream knows that scores were averaged; the digests
say whose they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medtail.errors import MedtailError, Problems, listing
from medtail.runs import digest_bytes
from medtail.tables.predictions import Predictions


def average_predictions(members: Sequence[Predictions]) -> Predictions:
    """Average the scores of several systems on the same images.

    Inside an exclusive group the averaged scores still sum to 1. Thresholds of the members do not fit their average,
    so it has none: choose them anew on tune.

    Args:
        members: At least one; rows may be in different orders.

    Returns:
        Scores averaged with equal weight, in the first member's order; everything else as the first member has it,
        with a `model` digest made from all of theirs.

    Raises:
        MedtailError: No members, or they differ in images, classes, groups or targets; all differences are named.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> ids, fold = np.array(["a", "b"], dtype=object), np.array(["test"] * 2, dtype=object)
        >>> one, two = (
        ...     Predictions(ids, ids, np.array(s), np.array([[1.0], [0.0]]), LabelSpace(("Hernia",)), fold)
        ...     for s in ([[0.9], [0.2]], [[0.7], [0.0]])
        ... )
        >>> average_predictions([one, two]).scores.tolist()
        [[0.8], [0.1]]
    """
    if not members:
        raise MedtailError("ensemble: no members; expected at least one table of scores.")
    first = members[0]
    position = {image_id: row for row, image_id in enumerate(first.image_ids)}
    total = first.scores.astype(np.float64, copy=True)
    problems = Problems("ensemble")
    for number, member in enumerate(members[1:], start=2):
        where = f"member {number} ({member.name})"
        rows = _rows_of(member, first, position, where, problems)
        if rows is not None:
            total[rows] += member.scores
    problems.raise_if_any()
    digests = dict(first.digests)
    if len(members) > 1:  # an average of calibrated scores is calibrated by nobody
        digests.pop("calibration", None)
    if all("model" in member.digests for member in members) and len(members) > 1:
        digests["model"] = digest_bytes(*(member.digests["model"].encode() for member in members))
    return replace(first, scores=np.clip(total / len(members), 0.0, 1.0), thresholds=None, digests=digests)


def _rows_of(
    member: Predictions, first: Predictions, position: dict[str, int], where: str, problems: Problems
) -> np.ndarray | None:
    """Return where a member's rows stand in the first one's order; None and a note where they do not fit."""
    before = len(problems)
    if member.labels != first.labels:
        problems.add(
            f"{where}: classes or groups differ from {first.name}'s; expected the same in the same order, found"
            f" {listing(member.labels.class_names)}."
        )
    strange = [image_id for image_id in member.image_ids if image_id not in position]
    missing = sorted(position.keys() - set(member.image_ids))
    if strange:
        problems.add(f"{where}: scores {len(strange)} images that {first.name} does not: {listing(strange)}.")
    if missing:
        problems.add(f"{where}: has no scores for {len(missing)} images of {first.name}: {listing(missing)}.")
    if len(problems) > before:
        return None
    rows = np.array([position[image_id] for image_id in member.image_ids], dtype=np.int64)
    if not np.array_equal(member.targets, first.targets[rows], equal_nan=True):
        differing = (~_same(member.targets, first.targets[rows])).any(axis=1)
        ids = [str(image_id) for image_id in member.image_ids[differing]]
        problems.add(f"{where}: other targets than {first.name}'s in {len(ids)} images: {listing(ids)}.")
        return None
    return rows


def _same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray((a == b) | (np.isnan(a) & np.isnan(b)))
