"""Bringing several systems' predictions onto the same rows, or saying in one message why that is not possible.

Rows are joined by `image_id`, classes by name, so neither order matters. Nothing is dropped to make tables fit: a
comparison on the images that happen to be shared would be a comparison on somebody's choice of images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from medtail.errors import Problems, listing
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions


def pair_rows(tables: Mapping[str, Predictions]) -> dict[str, Predictions]:
    """Put every table's rows and classes into one order, refusing tables that do not describe the same rows.

    Args:
        tables: Name of the system (or seed) → its predictions; the first is what the others are held against.

    Returns:
        The tables, rows sorted by `image_id`, classes in the first table's order.

    Raises:
        MedtailError: Every difference of every table at once: images missing, extra or repeated, classes or
            exclusive groups that differ, targets that differ, patients that differ.

    Example:
        >>> ids, y = np.array(["b", "a"], dtype=object), np.array([[1.0], [0.0]])
        >>> one = Predictions(ids, ids, np.array([[0.9], [0.2]]), y, LabelSpace(("Hernia",)), ids)
        >>> paired = pair_rows({"A": one, "B": one.take(np.array([1, 0]))})
        >>> paired["A"].image_ids.tolist(), paired["B"].scores.tolist()
        (['a', 'b'], [[0.2], [0.9]])
    """
    names = list(tables)
    first = tables[names[0]]
    problems = Problems("compare")
    for name, table in tables.items():
        ids, counts = np.unique(table.image_ids.astype(str), return_counts=True)
        if (counts > 1).any():
            repeated = ids[counts > 1].tolist()
            problems.add(
                f"{name!r}: {len(repeated)} images stand twice: {listing(repeated)}; expected one row an image."
            )
    problems.raise_if_any()
    ordered = {
        name: table.take(np.argsort(table.image_ids.astype(str), kind="stable")) for name, table in tables.items()
    }
    labels = first.labels
    paired = {names[0]: ordered[names[0]]}
    for name in names[1:]:
        other = ordered[name]
        same_rows = _same_rows(paired[names[0]], other, names[0], name, problems)
        if not _same_classes(labels, other.labels, names[0], name, problems):
            continue
        paired[name] = _in_class_order(other, labels)
        if same_rows:
            _same_truth(paired[names[0]], paired[name], names[0], name, problems)
    problems.raise_if_any()
    return paired


def _same_rows(first: Predictions, other: Predictions, first_name: str, name: str, problems: Problems) -> bool:
    expected, found = first.image_ids.astype(str), other.image_ids.astype(str)
    missing = np.setdiff1d(expected, found, assume_unique=True).tolist()
    extra = np.setdiff1d(found, expected, assume_unique=True).tolist()
    if missing:
        problems.add(
            f"{name!r}: has no scores for {len(missing)} of the {len(expected)} images of {first_name!r}:"
            f" {listing(missing)}. Systems are compared on the same images: score them all."
        )
    if extra:
        problems.add(
            f"{name!r}: scores {len(extra)} images that {first_name!r} does not: {listing(extra)}. Remove them, or"
            f" judge the same fold of both."
        )
    return not missing and not extra


def _same_classes(first: LabelSpace, other: LabelSpace, first_name: str, name: str, problems: Problems) -> bool:
    missing = [c for c in first.class_names if c not in other.class_names]
    extra = [c for c in other.class_names if c not in first.class_names]
    if missing:
        problems.add(f"{name!r}: lacks {len(missing)} classes of {first_name!r}: {listing(missing)}.")
    if extra:
        problems.add(f"{name!r}: has {len(extra)} classes that {first_name!r} has not: {listing(extra)}.")
    if missing or extra:
        return False
    groups, others = (sorted((g.name, *sorted(g.classes)) for g in labels.groups) for labels in (first, other))
    if groups != others:
        problems.add(
            f"{name!r}: other exclusive groups than {first_name!r} (found {listing([g[0] for g in others]) or 'none'};"
            f" expected {listing([g[0] for g in groups]) or 'none'}). Give the labels of both with `--truth`."
        )
    return True


def _in_class_order(table: Predictions, labels: LabelSpace) -> Predictions:
    columns = [table.labels.class_names.index(name) for name in labels.class_names]
    counts = table.train_counts
    if counts is not None and set(labels.class_names) <= set(counts.class_names):
        counts = counts.select(labels.class_names)
    return replace(
        table,
        scores=table.scores[:, columns],
        targets=table.targets[:, columns],
        labels=labels,
        train_counts=counts,
    )


def _same_truth(first: Predictions, other: Predictions, first_name: str, name: str, problems: Problems) -> None:
    both_unknown = np.isnan(first.targets) & np.isnan(other.targets)
    differs = ~both_unknown & (first.targets != other.targets)
    if differs.any():
        classes = [c for c, any_row in zip(first.labels.class_names, differs.any(axis=0), strict=True) if any_row]
        images = first.image_ids[differs.any(axis=1)].tolist()
        problems.add(
            f"{name!r}: {int(differs.sum())} targets differ from those of {first_name!r}, in {len(images)} images"
            f" ({listing(images)}) and {len(classes)} classes ({listing(classes)}). Give one truth for all with"
            f" `--truth`."
        )
    if first.has_patients != other.has_patients:
        without, with_ids = (name, first_name) if first.has_patients else (first_name, name)
        problems.add(
            f"{without!r}: patients are unknown, but {with_ids!r} has them. Add a column 'patient_id', or give the"
            f" labels of both with `--truth`."
        )
    elif (moved := first.patients.astype(str) != other.patients.astype(str)).any():
        problems.add(
            f"{name!r}: {int(moved.sum())} images belong to other patients than in {first_name!r}:"
            f" {listing(first.image_ids[moved].tolist())}. Give one truth for all with `--truth`."
        )
