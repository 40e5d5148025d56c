"""Folds that keep a patient together and every class balanced, both at once.

Stands between the sources (a manifest without folds) and everything that learns. Patients, joined where their images
are near-duplicates, are dealt out one by one, rarest class first, each to the fold that lacks most of what it brings;
then single moves and swaps lower what imbalance is left. The same seed gives the same folds whatever the row order.
Which images are duplicates is found elsewhere (`duplicates`); whether the folds are fit for use, too (`audit`);
cross-validation and the test fold that is taken first are in `folds`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from medtail.errors import MedtailError, Problems, did_you_mean
from medtail.tables.balance import FREE, Balance, Need
from medtail.tables.duplicates import merge_groups
from medtail.tables.manifest import FOLDS, Manifest

FRACTIONS: Mapping[str, float] = {"train": 0.7, "tune": 0.15, "test": 0.15}
# who gets a class that has fewer patients than there are folds: it must be learnt, then measured, then thresholded
_PRIORITY = {"train": 3.0, "test": 2.0, "tune": 1.0, "reward": 0.0}
_PATIENT_WEIGHT = 1.0
_PATIENT_WEIGHT_LAST = 0.01
_ASSESSED_WEIGHT = 0.1


@final
@dataclass(frozen=True)
class SplitOutcome:
    """A manifest with its folds, and what could not be had.

    Attributes:
        manifest: The same rows with every fold filled in.
        messages: One sentence for each class and fold without enough positives, and the like; empty if all went well.
    """

    manifest: Manifest
    messages: tuple[str, ...]


def split_manifest(
    manifest: Manifest,
    *,
    fractions: Mapping[str, float] = FRACTIONS,
    seed: int = 0,
    min_positives: int = 1,
    duplicate_groups: np.ndarray | None = None,
) -> SplitOutcome:
    """Deal the patients into folds, balanced over all classes, sites and the number of images at once.

    Rows that have a fold keep it, and their patients follow. An existing test fold (or `reward`) is closed: the
    remaining patients are shared by the other folds in their proportions. Synthetic rows go to train.

    Args:
        manifest: The rows; a fold column may be filled, partly filled or empty.
        fractions: Fold → its share of the images, summing to 1; 0 = no such fold.
        seed: Chooses among equally good splits.
        min_positives: Positive images every class should have in every fold, where its patients suffice.
        duplicate_groups: Group of each row, [images], of images that show the same picture; None if not looked for.

    Returns:
        The manifest with folds, and messages naming classes that a fold lacks and why.

    Raises:
        MedtailError: Unusable fractions; a patient or duplicate group that already is in two folds; fewer patients
            than folds to fill.

    Example:
        >>> import pandas as pd
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> table = pd.DataFrame({"image_id": range(40), "path": "x.png", "patient_id": [n // 2 for n in range(40)],
        ...                       "Hernia": [int(n < 16) for n in range(40)]})
        >>> outcome = split_manifest(manifest_from_frame(table), fractions={"train": 0.5, "tune": 0.25, "test": 0.25})
        >>> outcome.manifest.frame.groupby("fold")["Hernia"].agg(["size", "sum"]).astype(int).values.tolist()
        [[10, 4], [20, 8], [10, 4]]
    """
    _check_fractions(fractions)
    fractions = {fold: share for fold, share in fractions.items() if share > 0}
    names = joint_patients(manifest, duplicate_groups)
    folds = following_folds(manifest, names)
    synthetic = ~manifest.is_real
    closed = {str(fold) for fold in set(folds) if fold in ("test", "reward") or fold not in ("", *fractions)}
    open_folds = [fold for fold in fractions if fold not in closed]
    free = folds == ""
    if free.any():
        if not open_folds:
            raise MedtailError(
                f"{manifest.name}, column 'fold': {int(free.sum())} rows have none, and every fold asked for"
                f" ({', '.join(fractions)}) is closed because it is there already. Ask for another fold as well."
            )
        dealt = ~np.isin(folds.astype(str), sorted(closed))
        there = set(folds[dealt]) - {""}
        check_enough_patients(manifest, names[free], len([fold for fold in open_folds if fold not in there]))
        total = sum(fractions[fold] for fold in open_folds)
        number = {fold: index for index, fold in enumerate(open_folds)}
        rows = np.flatnonzero(dealt)
        chosen = assign_groups(
            manifest.targets[rows],
            names[rows],
            fractions=[fractions[fold] / total for fold in open_folds],
            seed=seed,
            min_positives=min_positives,
            fixed=np.array([number.get(str(fold), FREE) for fold in folds[rows]]),
            priority=[_PRIORITY[fold] for fold in open_folds],
            counted=~synthetic[rows],
            extra=site_strata(manifest, names, rows=rows),
        )
        folds = folds.copy()
        folds[rows] = np.array(open_folds, dtype=object)[chosen]
    result = manifest.with_folds(folds)
    wanted = [fold for fold in FOLDS if fold in fractions or (folds == fold).any()]
    return SplitOutcome(result, tuple(_messages(result, names, folds=wanted, min_positives=min_positives)))


def assign_groups(
    targets: np.ndarray,
    groups: np.ndarray,
    *,
    fractions: Sequence[float],
    seed: int,
    extra: np.ndarray | None = None,
    min_positives: int = 1,
    fixed: np.ndarray | None = None,
    priority: Sequence[float] | None = None,
    counted: np.ndarray | None = None,
) -> np.ndarray:
    """Assign whole groups to folds so that every class is shared out in the given fractions.

    Minimises, over folds k and quantities d (images; positive images and positive groups of each class; assessed
    images where some are not), Σ w_d (n_kd - f_k n_d)² / (f_k n_d²): the squared relative deviation from the target,
    weighted by the size of the fold. Positives missing to `min_positives` cost more than any imbalance.

    Args:
        targets: Labels [rows, classes]: 1, 0, NaN = not assessed.
        groups: What must stay together [rows], text or numbers; patients.
        fractions: Share of each fold, [folds], summing to 1.
        seed: Chooses among equally good assignments.
        extra: Further quantities to balance [rows, quantities], >= 0, such as one-hot sites; None for none.
        min_positives: Positive rows each class should have in each fold where it has groups enough.
        fixed: Fold of rows already assigned [rows], -1 where free; None if all are free. A group's rows must agree.
        priority: Which fold comes first where a class cannot be in all, [folds], higher first; all alike if None.
        counted: Rows that count towards the balance [rows]; None if all do.

    Returns:
        Fold number of each row, int64 [rows].

    Example:
        >>> targets = np.array([[1], [1], [0], [0], [1], [0], [1], [0]])
        >>> patients = np.array(["a", "b", "c", "d", "e", "f", "g", "h"])
        >>> fold = assign_groups(targets, patients, fractions=[0.5, 0.5], seed=0)
        >>> [int(targets[fold == k].sum()) for k in (0, 1)], np.bincount(fold).tolist()
        ([2, 2], [4, 4])
    """
    targets = np.asarray(targets, dtype=float)
    share = np.asarray(fractions, dtype=float)
    assert share.min() > 0
    assert abs(share.sum() - 1) < 1e-6
    if not len(targets):
        return np.zeros(0, dtype=np.int64)
    labels, member = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    # an order that depends on the ids and the seed alone, never on the rows' order
    shuffled = sorted(range(len(labels)), key=lambda g: hashlib.sha256(f"{seed}\x1f{labels[g]}".encode()).digest())
    place = np.empty(len(labels), dtype=np.int64)
    place[shuffled] = np.arange(len(labels))
    member = place[member]
    weight = np.ones(len(targets)) if counted is None else counted.astype(float)
    per_row = _Quantities.of_rows(targets, weight, extra)
    amounts = np.stack([np.bincount(member, weights=column, minlength=len(labels)) for column in per_row.columns], 1)
    num_classes = targets.shape[1]
    positives = amounts[:, :num_classes]
    amounts = np.hstack([amounts, positives > 0])
    weights = np.concatenate([per_row.weights, np.full(num_classes, _PATIENT_WEIGHT)])
    image_weights = np.concatenate([per_row.weights, np.full(num_classes, _PATIENT_WEIGHT_LAST)])
    start = np.full(len(labels), FREE)
    if fixed is not None:
        known = fixed != FREE
        start[member[known]] = fixed[known]
    need = Need.of(positives, min_positives, share, priority)
    balance = Balance(amounts, weights, share, need, start)
    balance.deal()
    balance.improve()
    # patients first, so that no fold's share of a class is one person's many images; then the images, exactly
    balance.weigh(image_weights)
    balance.improve()
    return balance.fold[member]


@final
@dataclass(frozen=True)
class _Quantities:
    """What is balanced, a column each; the first are the positives of the classes."""

    columns: list[np.ndarray]
    weights: np.ndarray

    @staticmethod
    def of_rows(targets: np.ndarray, counted: np.ndarray, extra: np.ndarray | None) -> _Quantities:
        assessed = ~np.isnan(targets)
        columns = [(targets[:, c] == 1) * counted for c in range(targets.shape[1])]
        weights = [1.0] * len(columns)
        columns.append(counted)
        weights.append(1.0)
        partly = np.flatnonzero(((counted > 0)[:, None] & ~assessed).any(axis=0))
        columns += [assessed[:, c] * counted for c in partly]
        weights += [_ASSESSED_WEIGHT] * len(partly)
        if extra is not None:
            columns += [np.asarray(column, dtype=float) * counted for column in np.asarray(extra).T]
            weights += [1.0] * np.asarray(extra).shape[1]
        return _Quantities(columns, np.array(weights))


def _check_fractions(fractions: Mapping[str, float]) -> None:
    problems = Problems("fractions")
    for fold, share in fractions.items():
        if fold not in FOLDS:
            problems.add(f"fold {fold!r}: unknown{did_you_mean(fold, FOLDS) or '; expected ' + ', '.join(FOLDS)}")
        if not 0 <= share <= 1:
            problems.add(f"fold {fold!r}: found {share}; expected a share from 0 (no such fold) to 1.")
    total = sum(fractions.values())
    if not problems.found and abs(total - 1) > 1e-3:
        problems.add(f"sum: found {total:g}; expected 1.")
    problems.raise_if_any()


def joint_patients(manifest: Manifest, duplicate_groups: np.ndarray | None) -> np.ndarray:
    """Name what stays together: the patient, or the first of the patients that duplicates join.

    Args:
        manifest: The rows.
        duplicate_groups: Group of each row, [images], of images that show the same picture; None if not looked for.

    Returns:
        A name a row, text [images].

    Raises:
        MedtailError: There are not as many duplicate groups as rows.

    Example:
        >>> import pandas as pd
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> table = manifest_from_frame(pd.DataFrame(
        ...     {"image_id": list("abc"), "path": "x.png", "patient_id": ["p", "q", "r"], "Hernia": 1}))
        >>> joint_patients(table, np.array([0, 1, 0])).tolist()
        ['p', 'q', 'p']
    """
    patients = manifest.patients.astype(str)
    if duplicate_groups is None:
        return patients
    if len(duplicate_groups) != len(manifest):
        raise MedtailError(
            f"{manifest.name}: {len(duplicate_groups)} duplicate groups for {len(manifest)} rows; expected one a row."
        )
    joint = merge_groups(patients, duplicate_groups)
    order = np.lexsort((patients, joint))
    first = order[np.unique(joint[order], return_index=True)[1]]
    return np.asarray(patients[first][joint])


def site_strata(manifest: Manifest, names: np.ndarray, *, rows: np.ndarray) -> np.ndarray | None:
    """Count each row's part of a patient in its stratum: the patient's rarest class, and the row's site.

    A patient with two classes is counted under the one that fewer patients have; one without any class under "none".

    Args:
        manifest: The table.
        names: What stays together, text [images].
        rows: Row numbers that are dealt out, integers [n].

    Returns:
        float64 [n, strata], where the rows of a patient add up to 1; None where the table names fewer than two sites.

    Example:
        >>> import pandas as pd
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> table = manifest_from_frame(pd.DataFrame({"image_id": list("abc"), "path": "x.png", "site": list("XXY"),
        ...     "patient_id": ["p", "p", "q"], "Hernia": [1, 0, 0]}))
        >>> site_strata(table, table.patients, rows=np.arange(3)).tolist()
        [[0.5, 0.0], [0.5, 0.0], [0.0, 1.0]]
    """
    if "site" not in manifest.frame.columns:
        return None
    site = np.unique(manifest.frame["site"].to_numpy(dtype=str)[rows], return_inverse=True)[1]
    if site.max(initial=0) == 0:
        return None
    member, size = np.unique(names[rows].astype(str), return_inverse=True, return_counts=True)[1:]
    has = np.zeros((len(size), manifest.labels.num_classes + 1), dtype=bool)
    np.logical_or.at(has, member, np.pad(manifest.targets[rows] == 1, ((0, 0), (0, 1))))
    has[:, -1] = ~has.any(axis=1)
    rarest = np.where(has, has.sum(axis=0), len(size) + 1).argmin(axis=1)
    stratum = np.unique(np.stack([rarest[member], site]), axis=1, return_inverse=True)[1].ravel()
    strata = np.zeros((len(rows), stratum.max(initial=0) + 1))
    strata[np.arange(len(rows)), stratum] = 1 / size[member]
    return strata


def following_folds(manifest: Manifest, names: np.ndarray) -> np.ndarray:
    """Return the folds with every group's free rows following its assigned ones, and synthetic rows in train.

    Args:
        manifest: The rows.
        names: What stays together, text [images].

    Raises:
        MedtailError: A patient, or a group of duplicates, is in two folds already; a synthetic row is outside train.
    """
    folds = manifest.folds.copy()
    folds[~manifest.is_real & (folds == "")] = "train"
    try:
        manifest.with_folds(folds).check_folds()
    except MedtailError as error:
        raise MedtailError(
            f"{error}\n  Folds that are there are kept: first empty the fold cells to be remade."
        ) from error
    problems = Problems(manifest.name)
    assigned = np.flatnonzero(folds != "")
    fold_of: dict[str, tuple[str, int]] = {}
    for row in assigned:
        fold, first = fold_of.setdefault(names[row], (folds[row], int(row)))
        if fold != folds[row]:
            problems.add(
                f"rows {first + 2} and {row + 2}: show the same picture or patient, yet are in {fold} and {folds[row]}."
                " Empty the fold of one of them, or remove it."
            )
    problems.raise_if_any()
    for row in np.flatnonzero(folds == ""):
        folds[row] = fold_of.get(names[row], ("", 0))[0]
    return folds


def check_enough_patients(manifest: Manifest, names: np.ndarray, needed: int) -> None:
    """Check that there are as many patients to deal out as folds to fill.

    Args:
        manifest: The table, for its name.
        names: What stays together, text, for the rows that are dealt out.
        needed: Folds to fill.

    Raises:
        MedtailError: There are fewer.
    """
    found = len(set(names))
    if found < needed:
        rows = f"{len(names)} rows without a fixed fold"
        these = f"all {rows} are one patient ({str(names[0])!r})" if found == 1 else f"{rows} are {found} patients"
        raise MedtailError(
            f"{manifest.name}, column 'patient_id': {these}; {needed} folds need at least {needed} patients,"
            " because a patient is in one fold only. Add patients or ask for fewer folds."
        )


def counted_noun(number: int, noun: str) -> str:
    """Return a number and its noun.

    Example:
        >>> counted_noun(1, "patient"), counted_noun(0, "image")
        ('1 patient', '0 images')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _messages(manifest: Manifest, names: np.ndarray, *, folds: Sequence[str], min_positives: int) -> list[str]:
    inside = {fold: manifest.folds == fold for fold in folds}
    said = [
        f"no row is in {fold!r}: every row had a fold already, and those are kept. Empty the fold cells to share out."
        for fold in folds
        if not inside[fold].any()
    ]
    real = manifest.is_real
    for c, class_name in enumerate(manifest.labels.class_names):
        positive = (manifest.targets[:, c] == 1) & real
        if not positive.any():
            said.append(f"class {class_name!r}: no image shows it; it can be neither learnt nor judged.")
            continue
        have = {fold: int((positive & inside[fold]).sum()) for fold in folds}
        lacking = [f"{n or 'none'} in {fold}" for fold, n in have.items() if n < min_positives]
        if not lacking:
            continue
        patients, images = len(set(names[positive])), int(positive.sum())
        if patients < len(folds):
            why = f"{counted_noun(patients, 'patient')} with it; {len(folds)} folds cannot each have one"
        elif images < min_positives * len(folds):
            why = f"{images} images with it; {len(folds)} folds cannot each have {min_positives}"
        else:
            why = (
                f"{patients} patients with it; folds assigned before, or how it comes with other classes and in how few"
                " patients, leave too few"
            )
        said.append(f"class {class_name!r}: {why}; it has {' and '.join(lacking)}.")
    return said
