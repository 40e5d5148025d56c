"""Outer folds: every patient is tested once, and inside each fold the rest is train, tune and reward.

A cross-validation whose every fold is a whole experiment: a generator, a policy and a classifier are made from its
train rows, the policy is rewarded on `reward`, thresholds are set on `tune`, and `test` is opened once. Every class is
in test, in tune and in train of every fold; where its patients are too few for that, it is refused by name.
"""

from __future__ import annotations

import numpy as np

from medtail.errors import MedtailError, Problems
from medtail.seeding import stream_seed
from medtail.tables.folds import cross_validation_folds
from medtail.tables.manifest import Manifest
from medtail.tables.splits import counted_noun, split_manifest


def outer_folds(
    manifest: Manifest,
    *,
    num_folds: int = 5,
    tune: float = 0.1,
    reward: float = 0.1,
    seed: int = 0,
    duplicate_groups: np.ndarray | None = None,
) -> list[Manifest]:
    """Make the tables of an outer cross-validation.

    Patients are dealt so that each class is shared out alike (`splits`). In fold k its own patients are `test`; of the
    others a share of the images becomes `tune`, a share `reward` and the rest `train`. A class with too few patients
    for four folds is in train and tune first; it may have none in reward.

    Args:
        manifest: Real rows; folds they have are forgotten.
        num_folds: How many, at least 2.
        tune: Share of the rows outside test, in (0, 1).
        reward: The same, in [0, 1); 0 makes no such fold.
        seed: Chooses among equally good splits.
        duplicate_groups: Group of each row, [images], of images that show the same picture; None if not looked for.

    Returns:
        One table a fold, with the same rows in the same order.

    Raises:
        MedtailError: A class is missing from test, tune or train of a fold: all such are named, with their patients.

    Example:
        >>> import pandas as pd
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> table = manifest_from_frame(pd.DataFrame({"image_id": range(40), "path": "x.png",
        ...     "patient_id": [n // 2 for n in range(40)], "type=a": [int(n < 28) for n in range(40)],
        ...     "type=b": [int(n >= 28) for n in range(40)]}))
        >>> parts = outer_folds(table, num_folds=4)
        >>> sum((part.folds == "test").astype(int) for part in parts).tolist() == [1] * 40
        True
    """
    if not (0 < tune < 1 and 0 <= reward < 1 and tune + reward < 1):
        raise MedtailError(
            f"outer folds: found tune {tune} and reward {reward}; expected shares that leave train some."
        )
    if not manifest.is_real.all():
        raise MedtailError(
            f"{manifest.name}: holds {counted_noun(int((~manifest.is_real).sum()), 'synthetic row')}; expected real"
            " rows only. Make the folds first, then a generator for each."
        )
    bare = manifest.with_folds(np.full(len(manifest), "", dtype=object))
    _refuse_few(bare, num_folds)
    parts = cross_validation_folds(
        bare, num_folds=num_folds, seed=seed, min_positives=1, duplicate_groups=duplicate_groups
    )
    shares = {"train": 1 - tune - reward, "tune": tune, "reward": reward}
    made = []
    for k, part in enumerate(parts):
        inner = bare.with_folds(np.where(part.folds == "tune", "test", ""))
        dealt = split_manifest(
            inner,
            fractions={fold: share for fold, share in shares.items() if share > 0},
            seed=stream_seed(seed, "outer", k) % 2**31,
            min_positives=1,
            duplicate_groups=duplicate_groups,
        )
        made.append(dealt.manifest)
    _check(made)
    return made


def _refuse_few(manifest: Manifest, num_folds: int) -> None:
    """Refuse classes that cannot be in test, tune and train of every fold, before anything is searched for."""
    problems = Problems(manifest.name)
    for c, name in enumerate(manifest.labels.class_names):
        have = len(set(manifest.patients[manifest.targets[:, c] == 1]))
        needed = max(num_folds, 3)
        if have < needed:
            advice = f"Ask for {have} folds, or leave the class out." if have >= 3 else "Leave the class out."
            problems.add(
                f"class {name!r}: {counted_noun(have, 'patient')} with it; {num_folds} outer folds with one each in"
                f" test, tune and train need {needed}. {advice}"
            )
    problems.raise_if_any()


def _check(parts: list[Manifest]) -> None:
    problems = Problems(parts[0].name)
    for k, part in enumerate(parts):
        for c, name in enumerate(part.labels.class_names):
            positive = part.targets[:, c] == 1
            missing = [fold for fold in ("test", "tune", "train") if not (positive & (part.folds == fold)).any()]
            if missing:
                problems.add(
                    f"class {name!r}: none in {' and '.join(missing)} of outer fold {k}, where near-duplicates or other"
                    " classes of the same patients bind it. Ask for fewer folds, or leave the class out."
                )
    problems.raise_if_any()
