"""The protocol of a cross-validated study: a test fold taken first of all, then folds of the rest.

A patient, joined with those whose images are near-duplicates of theirs, is in one fold only; classes and sites are
shared out alike (`splits` has the search). Whoever runs a study reads from here which rows it may learn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from medtail.errors import MedtailError, Problems
from medtail.tables.manifest import FOLDS, Manifest
from medtail.tables.splits import (
    SplitOutcome,
    assign_groups,
    check_enough_patients,
    counted_noun,
    following_folds,
    joint_patients,
    site_strata,
    split_manifest,
)


def merged_patients(manifest: Manifest, duplicate_groups: np.ndarray) -> Manifest:
    """Make one patient of those whose images are near-duplicates, so that whatever follows keeps them together.

    Args:
        manifest: The rows, their patients known.
        duplicate_groups: Group of each row, [images], of images that show the same picture; see `duplicates`.

    Returns:
        The same rows, where joined patients carry the first of their ids. What was there is in `meta_patient`.

    Raises:
        MedtailError: Patients are not known, or there are not as many groups as rows.

    Example:
        >>> import pandas as pd
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> table = manifest_from_frame(pd.DataFrame(
        ...     {"image_id": list("abc"), "path": "x.png", "patient_id": ["p", "q", "r"], "Hernia": 1}))
        >>> merged_patients(table, np.array([0, 1, 0])).patients.tolist()
        ['p', 'q', 'p']
    """
    if not manifest.has_patients:
        raise MedtailError(
            f"{manifest.name}, column 'patient_id': empty, so no patients can be joined; expected a patient in every"
            " row. (`medtail data split` keeps near-duplicate images in one fold without them.)"
        )
    names = joint_patients(manifest, duplicate_groups)
    frame = manifest.frame.assign(patient_id=pd.Series(names, index=manifest.frame.index, dtype=str))
    if "meta_patient" not in frame.columns:
        frame.insert(list(frame.columns).index("patient_id") + 1, "meta_patient", manifest.frame["patient_id"])
    return replace(manifest, frame=frame)


def hold_out_test(
    manifest: Manifest,
    *,
    share: float = 0.1,
    seed: int = 0,
    min_positives: int = 1,
    duplicate_groups: np.ndarray | None = None,
) -> SplitOutcome:
    """Take the test fold, before anything else is done with the images.

    Args:
        manifest: Real images without folds.
        share: Part of the images to take, by patients, in (0, 1).
        seed: Chooses among equally good splits.
        min_positives: Positive images every class should have in the test fold, where its patients suffice.
        duplicate_groups: Group of each row, [images], of images that show the same picture; None if not looked for.

    Returns:
        The manifest with `test` in the rows taken and no fold in the others, and a message for each class that is
        short on either side.

    Raises:
        MedtailError: The share is outside (0, 1), a row has a fold already, or a row is synthetic.

    Example:
        >>> import pandas as pd
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> table = manifest_from_frame(pd.DataFrame({"image_id": range(40), "path": "x.png",
        ...     "patient_id": [n // 2 for n in range(40)], "Hernia": [int(n < 16) for n in range(40)]}))
        >>> taken = hold_out_test(table, share=0.25).manifest
        >>> taken.frame.groupby("fold")["Hernia"].agg(["size", "sum"]).astype(int).values.tolist()
        [[30, 12], [10, 4]]
    """
    if not 0 < share < 1:
        raise MedtailError(f"share: found {share!r}; expected a part of the images between 0 and 1, such as 0.1.")
    assigned = manifest.folds != ""
    if assigned.any():
        raise MedtailError(
            f"{manifest.name}, column 'fold': {counted_noun(int(assigned.sum()), 'row')} with one already (first:"
            f" row {int(np.flatnonzero(assigned)[0]) + 2}); the test fold is taken first of all. Empty the column, or"
            " keep the test fold that is there and make folds of the rest."
        )
    if not manifest.is_real.all():
        raise MedtailError(
            f"{manifest.name}, column 'origin': {counted_noun(int((~manifest.is_real).sum()), 'synthetic row')}; the"
            " test fold is taken before images are generated. Remove them."
        )
    outcome = split_manifest(
        manifest,
        fractions={"train": 1 - share, "test": share},
        seed=seed,
        min_positives=min_positives,
        duplicate_groups=duplicate_groups,
    )
    taken = np.where(outcome.manifest.folds == "test", "test", "")
    return SplitOutcome(manifest.with_folds(taken), outcome.messages)


def hold_out_reward(
    manifest: Manifest,
    *,
    share: float = 0.1,
    seed: int = 0,
    min_positives: int = 1,
    duplicate_groups: np.ndarray | None = None,
) -> SplitOutcome:
    """Take patients out of train who only reward a sampler that learns; the other folds stay as they are.

    A class with a single train patient stays in train and is told of. Do this before a generator is trained: one that
    has seen these patients cannot be used with the fold.

    Args:
        manifest: Rows with folds, none of them `reward`.
        share: Part of the real train images to take, by patients, in (0, 1).
        seed: Chooses among equally good splits.
        min_positives: Positive images every class should have in the fold, where its patients suffice.
        duplicate_groups: Group of each row, [images], of images that show the same picture; None if not looked for.

    Returns:
        The manifest with `reward` in the rows taken, and a message for each class that is short on either side.

    Raises:
        MedtailError: The share is outside (0, 1), there is a reward fold already, or nothing to take it from.

    Example:
        >>> import pandas as pd
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> table = manifest_from_frame(pd.DataFrame({"image_id": range(40), "path": "x.png", "fold": "train",
        ...     "patient_id": [n // 2 for n in range(40)], "Hernia": [int(n < 16) for n in range(40)]}))
        >>> taken = hold_out_reward(table, share=0.25).manifest
        >>> taken.frame.groupby("fold")["Hernia"].agg(["size", "sum"]).astype(int).values.tolist()
        [[10, 4], [30, 12]]
    """
    if not 0 < share < 1:
        raise MedtailError(f"reward share: found {share!r}; expected a part of the train images between 0 and 1.")
    folds = manifest.folds
    if (folds == "reward").any():
        raise MedtailError(
            f"{manifest.name}, column 'fold': {counted_noun(int((folds == 'reward').sum()), 'row')} in 'reward'"
            " already; keep that fold, or empty its cells first."
        )
    rows = np.flatnonzero((folds == "train") & manifest.is_real)
    if not len(rows):
        raise MedtailError(
            f"{manifest.name}, column 'fold': no real row is in 'train', from which the reward fold is taken; make"
            f" folds with `medtail data split {manifest.name}`."
        )
    part = manifest.take(rows)
    outcome = split_manifest(
        part.with_folds(np.full(len(part), "", dtype=object)),
        fractions={"train": 1 - share, "reward": share},
        seed=seed,
        min_positives=min_positives,
        duplicate_groups=None if duplicate_groups is None else np.asarray(duplicate_groups)[rows],
    )
    taken = folds.copy()
    taken[rows] = outcome.manifest.folds
    return SplitOutcome(manifest.with_folds(taken), outcome.messages)


def cross_validation_folds(
    manifest: Manifest,
    *,
    num_folds: int = 10,
    seed: int = 0,
    min_positives: int = 1,
    duplicate_groups: np.ndarray | None = None,
) -> list[Manifest]:
    """Make the manifests of a cross-validation: fold k is `tune` in the k-th, the rest is `train`.

    An existing `test` (and `reward`) fold stays as it is in all of them; every other row is dealt anew, by patient,
    balanced over classes and, where the table names several sites, over class x site. Synthetic rows are in train.

    Args:
        manifest: The rows.
        num_folds: How many, at least 2.
        seed: Chooses among equally good splits.
        min_positives: Positive images every class must have in every fold; 0 accepts folds without a class.
        duplicate_groups: Group of each row, [images], of images that show the same picture; None if not looked for.

    Returns:
        One manifest a fold, with the same rows in the same order.

    Raises:
        MedtailError: Fewer patients than folds; a class whose patients cannot fill every fold (named, with the
            largest number of folds that works); a synthetic row that carries the id of a real patient to be dealt.

    Example:
        >>> import pandas as pd
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> table = manifest_from_frame(pd.DataFrame({"image_id": range(12), "path": "x.png",
        ...     "patient_id": [n // 2 for n in range(12)], "Hernia": [int(n < 6) for n in range(12)]}))
        >>> [part.folds.tolist().count("tune") for part in cross_validation_folds(table, num_folds=3)]
        [4, 4, 4]
    """
    if num_folds < 2:
        raise MedtailError(f"folds {num_folds}: expected at least 2.")
    names = joint_patients(manifest, duplicate_groups)
    synthetic = ~manifest.is_real
    base = following_folds(manifest.with_folds(np.where(manifest.folds == "tune", "train", manifest.folds)), names)
    dealt = np.flatnonzero(~np.isin(base.astype(str), ("test", "reward")) & ~synthetic)
    borrowed = synthetic & np.isin(names, names[dealt])
    if borrowed.any():
        raise MedtailError(
            f"{manifest.name}: {int(borrowed.sum())} synthetic rows (first: row {int(np.flatnonzero(borrowed)[0]) + 2})"
            " carry the id of a real patient, who would be in train and in tune; expected ids of their own."
            " Make the folds first and generate for each from its train rows."
        )
    check_enough_patients(manifest, names[dealt], num_folds)
    targets = manifest.targets[dealt].astype(float)
    chosen = assign_groups(
        targets,
        names[dealt],
        fractions=[1 / num_folds] * num_folds,
        seed=seed,
        min_positives=min_positives,
        extra=site_strata(manifest, names, rows=dealt),
    )
    _check_every_fold(manifest, targets, names[dealt], chosen, num_folds=num_folds, min_positives=min_positives)
    made = []
    for k in range(num_folds):
        column = base.copy()
        column[dealt] = np.where(chosen == k, "tune", "train")
        made.append(manifest.with_folds(column))
    return made


def protocol_record(folds: Sequence[Manifest], *, seed: int) -> dict[str, Any]:
    """Describe the folds of a study so that anybody can check that they are the very same ones.

    Args:
        folds: From `cross_validation_folds`.
        seed: The seed they were made with.

    Returns:
        Plain values: the seed, digests of the table without folds, of the test rows and of each fold's table, and the
        images and patients each table has in each fold.

    Example:
        >>> import pandas as pd
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> table = manifest_from_frame(pd.DataFrame({"image_id": range(4), "path": "x.png",
        ...     "patient_id": range(4), "Hernia": [1, 1, 0, 0]}))
        >>> record = protocol_record(cross_validation_folds(table, num_folds=2), seed=0)
        >>> record["test_digest"], record["folds"][0]["tune"]
        (None, {'images': 2, 'patients': 2})
    """
    first = folds[0]
    test = first.in_fold("test")
    return {
        "format": "medtail-folds/1",
        "seed": seed,
        "manifest_digest": first.with_folds(np.full(len(first), "", dtype=object)).digest,
        "test_digest": test.digest if len(test) else None,
        "folds": [{"digest": part.digest, **_sizes(part)} for part in folds],
    }


def _sizes(manifest: Manifest) -> dict[str, dict[str, int]]:
    there = {fold: manifest.folds == fold for fold in FOLDS}
    return {
        fold: {"images": int(rows.sum()), "patients": len(set(manifest.patients[rows]))}
        for fold, rows in there.items()
        if rows.any()
    }


def _check_every_fold(
    manifest: Manifest,
    targets: np.ndarray,
    names: np.ndarray,
    chosen: np.ndarray,
    *,
    num_folds: int,
    min_positives: int,
) -> None:
    short = []
    for c, class_name in enumerate(manifest.labels.class_names):
        positive = targets[:, c] == 1
        have = np.bincount(chosen[positive], minlength=num_folds)
        if positive.any() and have.min() < min_positives:
            short.append((class_name, len(set(names[positive])), int(positive.sum())))
    works = min([num_folds - 1, *(min(patients, images // max(1, min_positives)) for _, patients, images in short)])
    advice = f"Ask for {works} folds" if works > 1 else "Leave the class out"
    problems = Problems(manifest.name)
    for class_name, patients, images in short:
        problems.add(
            f"class {class_name!r}: {counted_noun(patients, 'patient')} with it ({counted_noun(images, 'image')});"
            f" {num_folds} folds with at least {min_positives} positive each were not found. {advice}, or give"
            " min_positives=0 to accept folds without it."
        )
    problems.raise_if_any()
