"""Ensembles: several Predictions of the same images become one, and nothing else.

Members may be made by our models or by anybody's. Nothing downstream knows that scores were combined; the digests
say whose they were. Nothing is chosen here: weights come from `judging.ensemble_fitting`, which looks at tune alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from medtail.errors import MedtailError, Problems, UsageError, did_you_mean, listing
from medtail.runs import digest_bytes
from medtail.tables.predictions import Predictions, scores_from_logits

Pooling = Literal["mean", "logits", "rank", "median"]
POOLINGS: tuple[Pooling, ...] = ("mean", "logits", "rank", "median")
SCORE_FLOOR = 1e-12
"""Scores are kept this far from 0 and 1 before their logit is taken."""


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


def combine_predictions(
    members: Sequence[Predictions], *, how: Pooling = "mean", weights: np.ndarray | None = None
) -> Predictions:
    """Combine the scores of several systems on the same images.

    `mean` averages scores, `logits` their logits (inside an exclusive group the log scores, then a softmax), `rank`
    each class's ranks within a fold, scaled into (0, 1), and `median` takes the middle one. Ranks make members
    comparable whose scores mean different things; they say nothing about probability any more, and a rank depends on
    the other images of the table.

    Args:
        members: At least one; rows may be in different orders.
        how: What is averaged.
        weights: >= 0, [M], or [M, C] for a weight a class; they are scaled to sum to 1. Equal ones if None; `median`
            takes none.

    Returns:
        Combined scores in [0, 1] in the first member's order, without thresholds, with a `model` digest made from all
        of theirs and the weights.

    Raises:
        MedtailError: No members, or they differ in images, classes, groups or targets; unusable weights; ranks inside
            an exclusive group.
        UsageError: An unknown way to combine.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> ids, fold = np.array(["a", "b"], dtype=object), np.array(["test"] * 2, dtype=object)
        >>> one, two = (
        ...     Predictions(ids, ids, np.array(s), np.array([[1.0], [0.0]]), LabelSpace(("Hernia",)), fold)
        ...     for s in ([[0.9], [0.2]], [[0.5], [0.4]])
        ... )
        >>> combine_predictions([one, two], weights=np.array([3.0, 1.0])).scores.round(2).tolist()
        [[0.8], [0.25]]
        >>> combine_predictions([one, two], how="rank").scores.tolist()
        [[0.75], [0.25]]
    """
    if how not in POOLINGS:
        hint = did_you_mean(how, POOLINGS) or f"; expected {', '.join(POOLINGS)}."
        raise UsageError(f"ensemble: {how!r} is no way to combine{hint}")
    stack = aligned_scores(members)
    first = members[0]
    if how == "median":
        if weights is not None:
            raise MedtailError("ensemble: a median takes no weights; expected mean, logits or rank.")
        scores = _whole_groups(np.median(stack, axis=0), first.labels.group_indices)
        shares = np.full((len(members), first.labels.num_classes), 1.0 / len(members))
    else:
        shares = member_shares(weights, len(members), first.labels.num_classes)
        scores = pooled(to_space(stack, first, how=how), shares, first, how=how)
    digests = {key: value for key, value in first.digests.items() if key not in ("calibration", "model")}
    if all("model" in member.digests for member in members):
        parts = [member.digests["model"].encode() for member in members]
        digests["model"] = digest_bytes(how.encode(), np.ascontiguousarray(shares).tobytes(), *parts)
    return replace(first, scores=np.clip(scores, 0.0, 1.0), thresholds=None, digests=digests, name=f"{how} of members")


def switch_predictions(head: Predictions, rare: Predictions, *, rare_classes: Sequence[str]) -> Predictions:
    """Take the rare classes' scores from one system and all others from another.

    Args:
        head: Scores of the classes not named.
        rare: Scores of `rare_classes`.
        rare_classes: Which they are, such as the tail group of the train fold.

    Returns:
        Scores in `head`'s order.

    Raises:
        MedtailError: The tables differ in images, classes, groups or targets; a class does not exist, or an exclusive
            group would be torn.
    """
    labels = head.labels
    named = {labels.index(name) for name in rare_classes}
    for group, columns in zip(labels.groups, labels.group_indices, strict=True):
        if 0 < len(named & set(columns)) < len(columns):
            raise MedtailError(
                f"switch: the classes of {group.name!r} exclude each other and must come from one system; expected all"
                " of them among the rare classes, or none."
            )
    weights = np.zeros((2, labels.num_classes))
    weights[0], weights[1, sorted(named)] = 1.0, 1.0
    weights[0, sorted(named)] = 0.0
    return combine_predictions([head, rare], weights=weights)


def aligned_scores(members: Sequence[Predictions]) -> np.ndarray:
    """Return all members' scores in the first one's order, float64 [M, N, C].

    Raises:
        MedtailError: No members, or they differ in images, classes, groups or targets; all differences are named.
    """
    if not members:
        raise MedtailError("ensemble: no members; expected at least one table of scores.")
    first = members[0]
    position = {image_id: row for row, image_id in enumerate(first.image_ids)}
    problems = Problems("ensemble")
    stack = np.empty((len(members), *first.scores.shape))
    stack[0] = first.scores
    for number, member in enumerate(members[1:], start=2):
        rows = _rows_of(member, first, position, f"member {number} ({member.name})", problems)
        if rows is not None:
            stack[number - 1, rows] = member.scores
    problems.raise_if_any()
    return stack


def member_shares(weights: np.ndarray | None, members: int, classes: int) -> np.ndarray:
    """Return each member's share of each class, float64 [M, C], summing to 1 over the members.

    Raises:
        MedtailError: Another shape than [M] or [M, C], negative or infinite weights, or a class where all are 0.
    """
    if weights is None:
        return np.full((members, classes), 1.0 / members)
    given = np.asarray(weights, dtype=np.float64)
    if given.shape not in ((members,), (members, classes)):
        raise MedtailError(
            f"ensemble: weights of shape {given.shape}; expected {(members,)}, or {(members, classes)} for a weight a"
            " class."
        )
    if not np.isfinite(given).all() or (given < 0).any():
        raise MedtailError("ensemble: found a negative or infinite weight; expected finite weights >= 0.")
    full = np.repeat(given[:, None], classes, axis=1) if given.ndim == 1 else given
    total = full.sum(axis=0)
    if (total <= 0).any():
        raise MedtailError("ensemble: all weights of a class are 0; expected one above 0.")
    return np.asarray(full / total)


def to_space(stack: np.ndarray, table: Predictions, *, how: Pooling) -> np.ndarray:
    """Turn members' scores into what is averaged: themselves, logits or ranks.

    Args:
        stack: float64 [M, N, C] in [0, 1].
        table: Whose classes and folds they are.
        how: `mean`, `logits` or `rank`.

    Returns:
        float64 [M, N, C].

    Raises:
        MedtailError: Ranks inside an exclusive group.
    """
    if how == "mean":
        return stack
    if how == "rank":
        from scipy.stats import rankdata

        if table.labels.groups:
            raise MedtailError(
                f"ensemble: ranks inside the group {table.labels.groups[0].name!r}, whose scores share a sum of 1;"
                " expected mean or logits."
            )
        made = np.empty_like(stack)
        for fold in sorted(set(table.folds.astype(str))):
            rows = np.flatnonzero(table.folds.astype(str) == fold)
            made[:, rows] = (rankdata(stack[:, rows], method="average", axis=1) - 0.5) / max(len(rows), 1)
        return made
    kept = np.clip(stack, SCORE_FLOOR, 1.0 - SCORE_FLOOR)
    made = np.log(kept) - np.log1p(-kept)
    for columns in table.labels.group_indices:
        made[:, :, list(columns)] = np.log(kept[:, :, list(columns)])
    return np.asarray(made)


def pooled(space: np.ndarray, shares: np.ndarray, table: Predictions, *, how: Pooling) -> np.ndarray:
    """Average what `to_space` made and turn it back into scores.

    Args:
        space: float64 [M, N, C].
        shares: Each member's share of each class, float64 [M, C].
        table: Whose classes they are.
        how: As for `to_space`.

    Returns:
        float64 [N, C]; inside an exclusive group the scores sum to 1 as the members' do.
    """
    total = np.einsum("mnc,mc->nc", space, shares)
    if how == "logits":
        return scores_from_logits(total, table.labels.group_indices)
    return total if how == "rank" or bool((shares == shares[:, :1]).all()) else _torn_groups(space, total, table)


def _torn_groups(space: np.ndarray, total: np.ndarray, table: Predictions) -> np.ndarray:
    """Scale a group's scores, averaged with a weight a class, to the sum the members give it on average."""
    for columns in table.labels.group_indices:
        part = total[:, list(columns)]
        wanted = space[:, :, list(columns)].sum(axis=2).mean(axis=0)
        sums = part.sum(axis=1)
        total[:, list(columns)] = part * np.divide(wanted, sums, out=np.ones_like(sums), where=sums > 0)[:, None]
    return total


def _whole_groups(scores: np.ndarray, groups: Sequence[Sequence[int]]) -> np.ndarray:
    for columns in groups:
        part = scores[:, list(columns)]
        sums = part.sum(axis=1, keepdims=True)
        scores[:, list(columns)] = np.divide(part, sums, out=np.full_like(part, 1.0 / len(columns)), where=sums > 0)
    return scores


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
