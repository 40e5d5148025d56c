"""Which rows of a manifest a training may know."""

from __future__ import annotations

import numpy as np

from medtail.errors import MedtailError, Problems
from medtail.losses.build import takes_soft_targets
from medtail.losses.objectives import uses_loss
from medtail.tables.generators import check_generator_leaks
from medtail.tables.manifest import Manifest
from medtail.tables.pseudo_labels import has_pseudo_labels, with_pseudo_targets
from medtail.training.config import TrainConfig


def usable_rows(manifest: Manifest, *, with_reward: bool = False, with_pseudo: bool = False) -> Manifest:
    """Check the folds; keep the rows of train and tune on which at least one class was assessed.

    Args:
        manifest: The table, with folds.
        with_reward: Keep the rows of `reward` too, for a sampler that reads them as training goes.
        with_pseudo: Keep train rows too of which there are only pseudo-labels.

    Returns:
        The rows that a training may know; never those of test.

    Raises:
        MedtailError: A fold is missing or useless, a patient is in two, or a generator has seen patients it must not.
    """
    manifest.check_folds("train", "tune")
    check_generator_leaks(manifest)
    folds, is_assessed = manifest.folds, ~np.isnan(manifest.targets)
    needed = ("train", "tune", "reward") if with_reward else ("train", "tune")
    is_known = is_assessed.any(axis=1)
    if with_pseudo:
        is_known = is_known | ~np.isnan(with_pseudo_targets(manifest)).all(axis=1)
    kept = manifest.take(np.isin(folds.astype(str), needed) & is_known)
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


def learnt_targets(manifest: Manifest, config: TrainConfig) -> np.ndarray:
    """Return what a training learns from: the labels, and pseudo-labels in their empty cells if it asks for them.

    Args:
        manifest: The rows of the training.
        config: Its config.

    Returns:
        float32 [rows, classes] in [0, 1], NaN where there is nothing to learn from.

    Raises:
        MedtailError: It asks for pseudo-labels and the table has none, or has soft ones that the loss cannot take.
    """
    if not config.pseudo_labels:
        return manifest.targets
    if not has_pseudo_labels(manifest):
        raise MedtailError(
            f"{manifest.name}: has no pseudo-labels, which pseudo_labels: true asks for; make them with"
            " `medtail data pseudo-label PREDICTIONS MANIFEST --out NEW`."
        )
    targets = with_pseudo_targets(manifest)
    is_soft = (targets > 0.0) & (targets < 1.0)
    if is_soft.any() and uses_loss(config.objective) and not takes_soft_targets(config.loss):
        raise MedtailError(
            f"{manifest.name}: has {int(is_soft.sum())} soft pseudo-labels, and loss {config.loss.kind!r} is made for 0"
            " and 1; expected hard ones. Make them with `medtail data pseudo-label --hard`, or choose another loss,"
            " such as 'asl'."
        )
    return targets
