"""Which rows of a manifest a training may know."""

from __future__ import annotations

import numpy as np

from medtail.errors import Problems
from medtail.tables.generators import check_generator_leaks
from medtail.tables.manifest import Manifest


def usable_rows(manifest: Manifest, *, with_reward: bool = False) -> Manifest:
    """Check the folds; keep the rows of train and tune on which at least one class was assessed.

    Args:
        manifest: The table, with folds.
        with_reward: Keep the rows of `reward` too, for a sampler that reads them as training goes.

    Returns:
        The rows that a training may know; never those of test.

    Raises:
        MedtailError: A fold is missing or useless, a patient is in two, or a generator has seen patients it must not.
    """
    manifest.check_folds("train", "tune")
    check_generator_leaks(manifest)
    folds, is_assessed = manifest.folds, ~np.isnan(manifest.targets)
    needed = ("train", "tune", "reward") if with_reward else ("train", "tune")
    kept = manifest.take(np.isin(folds.astype(str), needed) & is_assessed.any(axis=1))
    problems = Problems(manifest.name)
    for fold, purpose in (("train", "nothing can be learnt"), ("tune", "no epoch can be told from another")):
        targets = kept.targets[kept.folds == fold]
        if not ((targets == 1).any(axis=0) & (targets == 0).any(axis=0)).any():
            problems.add(
                f"fold {fold!r}: no class has both images that show it and images that do not, so {purpose}; expected"
                f" at least one such class among {manifest.labels.num_classes}. Check labels and folds with"
                f" `medtail data check {manifest.name}`."
            )
    problems.raise_if_any()
    return kept
