"""Pseudo-labels: what a trained model thinks of labels that an external set does not have.

A set that was labelled for other findings leaves cells empty. A teacher's scores for them are kept beside the table, in
columns of their own (`meta_pseudo:CLASS`), and only in train rows: the class columns keep what people said, so nothing
that counts, splits, judges or reports ever takes a guess for a label. A training that asks for them learns from both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np

from medtail.errors import MedtailError, Problems, listing
from medtail.tables.manifest import META_PREFIX, Manifest
from medtail.tables.predictions import Predictions

PSEUDO_PREFIX = META_PREFIX + "pseudo:"
TEACHER = META_PREFIX + "pseudo_teacher"
"""Column that says which model made a row's pseudo-labels: the digest of its weights."""
DIGITS = 6


@final
@dataclass(frozen=True)
class PseudoLabels:
    """A manifest with pseudo-labels, and how many they are.

    Attributes:
        manifest: The table, with the columns `meta_pseudo:CLASS` and `meta_pseudo_teacher`.
        filled: Cells that got a pseudo-label, class → count.
        undecided: Cells within the margin that stayed empty, class → count.
        kept_out: Empty cells of rows outside train that were scored, and left as they are.
        hard: Whether they are 0 and 1.
    """

    manifest: Manifest
    filled: dict[str, int]
    undecided: dict[str, int]
    kept_out: int
    hard: bool

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "filled": self.filled,
            "undecided": self.undecided,
            "kept_out": self.kept_out,
            "hard": self.hard,
            "images": len(self.manifest),
        }


def add_pseudo_labels(
    manifest: Manifest,
    predictions: Predictions,
    *,
    hard: bool = False,
    margin: float = 0.5,
    sites: Sequence[str] | None = None,
) -> PseudoLabels:
    """Put a teacher's scores where train rows have empty cells.

    Only cells that nobody assessed, of train rows, of images and classes that were scored. An exclusive group is filled
    where all of it is empty. Hard ones are 1 at t + m (1 - t) or more and 0 at t - m t or less, t the teacher's
    threshold of the class and m the margin; in a group the highest score becomes 1 and the others 0 if it is at least
    m. In between a cell stays empty.

    Args:
        manifest: The table; one that has pseudo-labels already gets new ones.
        predictions: The teacher's scores, by image id.
        hard: Write 0 and 1 instead of scores, for losses that are made for them.
        margin: m in [0, 1); of hard ones only.
        sites: Fill only rows of these values of `site`; all train rows if None.

    Returns:
        The table and the counts.

    Raises:
        MedtailError: No image or no class in common, an unknown site, a margin out of range, or nothing to fill.

    Example:
        >>> import pandas as pd
        >>> from medtail.tables.labels import LabelSpace
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> table = manifest_from_frame(pd.DataFrame({"image_id": ["a", "b"], "path": "x", "patient_id": ["1", "2"],
        ...                                           "fold": ["train", "test"], "Hernia": [None, None]}))
        >>> ids, none = np.array(["a", "b"], dtype=object), np.full((2, 1), np.nan)
        >>> scored = Predictions(ids, ids, np.array([[0.7], [0.7]]), none, LabelSpace(("Hernia",)), ids)
        >>> add_pseudo_labels(table, scored).manifest.frame["meta_pseudo:Hernia"].tolist()
        ['0.7', '']
    """
    if not 0.0 <= margin < 1.0:
        raise MedtailError(f"pseudo-labels, margin: found {margin!r}; expected at least 0 and below 1.")
    names = [name for name in manifest.labels.class_names if name in predictions.labels.class_names]
    rows, place = _common_rows(manifest, predictions)
    problems = Problems("pseudo-labels")
    if not names:
        known = listing([repr(name) for name in predictions.labels.class_names])
        problems.add(f"{predictions.name}: no class in common with {manifest.name}; it scores {known}.")
    if not len(rows):
        problems.add(f"{predictions.name}: no image in common with {manifest.name}; expected scores of its images.")
    is_wanted = _of_sites(manifest, sites, problems)
    problems.raise_if_any()

    scores = np.full((len(manifest), len(names)), np.nan)
    columns = [predictions.labels.index(name) for name in names]
    scores[rows] = predictions.scores[place][:, columns]
    own = manifest.targets[:, [manifest.labels.index(name) for name in names]]
    is_empty = np.isnan(own) & ~np.isnan(scores)
    groups = [
        [names.index(name) for name in group.classes]
        for group in manifest.labels.groups
        if set(group.classes) <= set(names)
    ]
    torn = [
        names.index(name)
        for group in manifest.labels.groups
        for name in group.classes
        if name in names and not set(group.classes) <= set(names)
    ]
    is_empty[:, torn] = False  # half a group cannot be told
    for group in groups:
        is_empty[:, group] = is_empty[:, group].all(axis=1, keepdims=True)
    is_train = manifest.folds == "train"
    kept_out = int(is_empty[~is_train].sum())
    is_filled = is_empty & (is_train & is_wanted)[:, None]
    if not is_filled.any():
        raise MedtailError(
            f"{manifest.name}: no empty cell in train rows that {predictions.name} has a score for; expected external"
            " rows in fold 'train' with classes that nobody assessed."
        )
    values = scores
    if hard:
        limits = predictions.threshold_array[columns]
        values = _decided(scores, limits, margin=margin, groups=groups)
    undecided = is_filled & np.isnan(values)
    written = np.where(is_filled, values, np.nan)
    frame = manifest.frame.drop(columns=[name for name in manifest.frame.columns if name.startswith(PSEUDO_PREFIX)])
    added = {
        PSEUDO_PREFIX + name: ["" if np.isnan(value) else f"{value:.{DIGITS}g}" for value in written[:, column]]
        for column, name in enumerate(names)
        if not np.isnan(written[:, column]).all()
    }
    teacher = str(predictions.digests.get("model", predictions.digest))[:16]
    added[TEACHER] = np.where(~np.isnan(written).all(axis=1), teacher, "").tolist()
    classes = list(manifest.labels.class_names)
    ready = frame.drop(columns=[TEACHER], errors="ignore").assign(**added)
    metadata = [column for column in ready.columns if column not in classes]
    return PseudoLabels(
        manifest=replace(manifest, frame=ready[[*metadata, *classes]].astype(dict.fromkeys(added, str))),
        filled={name: int((~np.isnan(written[:, column])).sum()) for column, name in enumerate(names)},
        undecided={name: int(undecided[:, column].sum()) for column, name in enumerate(names)} if hard else {},
        kept_out=kept_out,
        hard=hard,
    )


def has_pseudo_labels(manifest: Manifest) -> bool:
    """Say whether a table carries pseudo-labels."""
    return any(column.startswith(PSEUDO_PREFIX) for column in manifest.frame.columns)


def with_pseudo_targets(manifest: Manifest) -> np.ndarray:
    """Return what a training that asks for pseudo-labels learns from.

    Args:
        manifest: The table.

    Returns:
        float32 [rows, classes]: the labels, and where there is none the pseudo-label in [0, 1]; NaN where neither is.

    Raises:
        MedtailError: A pseudo-label is no number in [0, 1], stands beside a label or outside train: the table was
            changed by hand.

    Example:
        >>> import pandas as pd
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> table = manifest_from_frame(pd.DataFrame({"image_id": ["a", "b"], "path": "x", "patient_id": ["1", "2"],
        ...     "fold": "train", "meta_pseudo:Hernia": ["0.7", ""], "Hernia": [None, 1]}))
        >>> with_pseudo_targets(table).tolist()
        [[0.699999988079071], [1.0]]
    """
    targets = manifest.targets.copy()
    problems = Problems(manifest.name)
    for column, name in enumerate(manifest.labels.class_names):
        pseudo = PSEUDO_PREFIX + name
        if pseudo not in manifest.frame.columns:
            continue
        text = manifest.frame[pseudo].to_numpy(dtype=object)
        is_given = text != ""
        values = np.full(len(text), np.nan)
        values[is_given] = [_number(value) for value in text[is_given]]
        is_bad = is_given & ~((values >= 0.0) & (values <= 1.0))
        for what, rows, expected in (
            ("no score", is_bad, "numbers in [0, 1]"),
            ("a label beside it", is_given & ~np.isnan(targets[:, column]), "pseudo-labels only where nobody assessed"),
            ("a row outside train", is_given & (manifest.folds != "train"), "them in train rows alone"),
        ):
            if rows.any():
                first = int(np.flatnonzero(rows)[0])
                problems.add(
                    f"row {first + 2}, column {pseudo!r}: {what} ({int(rows.sum())} rows); expected {expected}. Make"
                    " them again with `medtail data pseudo-label`."
                )
        targets[is_given & ~is_bad, column] = values[is_given & ~is_bad]
    problems.raise_if_any()
    return targets


def _common_rows(manifest: Manifest, predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of the manifest that were scored, and where their scores are."""
    place = {image_id: row for row, image_id in enumerate(predictions.image_ids)}
    found = [(row, place[image]) for row, image in enumerate(manifest.frame["image_id"]) if image in place]
    both = np.array(found, dtype=np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _of_sites(manifest: Manifest, sites: Sequence[str] | None, problems: Problems) -> np.ndarray:
    if sites is None:
        return np.ones(len(manifest), dtype=bool)
    if "site" not in manifest.frame.columns:
        problems.add(f"{manifest.name}, column 'site': missing; expected it for {listing(list(sites))}.")
        return np.ones(len(manifest), dtype=bool)
    known = manifest.frame["site"].to_numpy(dtype=object)
    for site in sites:
        if not (known == site).any():
            problems.add(f"site {site!r}: no row; found {listing(sorted({str(value) for value in known}))}.")
    return np.isin(known.astype(str), list(sites))


def _decided(scores: np.ndarray, limits: np.ndarray, *, margin: float, groups: Sequence[Sequence[int]]) -> np.ndarray:
    """Return 1, 0 or NaN where the score is too near to the threshold."""
    present = scores >= limits + margin * (1.0 - limits)
    absent = scores <= limits - margin * limits
    # at margin 0 the threshold itself says present
    decided = np.where(present, 1.0, np.where(absent, 0.0, np.nan))
    for group in groups:
        inside = scores[:, group]
        highest = inside.max(axis=1)
        winner = np.eye(len(group))[inside.argmax(axis=1)]
        decided[:, group] = np.where((highest >= margin)[:, None], winner, np.nan)
    return np.asarray(decided)


def _number(text: object) -> float:
    try:
        return float(str(text))
    except ValueError:
        return float("inf")
