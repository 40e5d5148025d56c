"""Cross-validation of one training: a study with a single arm."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from medtail.config import apply_overrides, read_yaml
from medtail.studies.arms import resolve_arms
from medtail.studies.config import CrossValidationFolds, ExternalConfig, JudgeConfig, with_absolute_paths
from medtail.studies.protocol import Study


def cross_validation_study(
    path: Path | str,
    *,
    num_folds: int = 10,
    seeds: int = 3,
    folds_seed: int = 0,
    min_positives: int = 1,
    duplicates: bool = True,
    judge: JudgeConfig | None = None,
    external: Mapping[str, ExternalConfig] | None = None,
    overrides: Sequence[str] = (),
) -> Study:
    """Make the study that cross-validates one training.

    Args:
        path: A training's YAML file; its name is the arm's.
        num_folds: Folds.
        seeds: Number of training seeds, 0, 1, …
        folds_seed: Seed of the folds.
        min_positives: Positive images every class must have in each fold; 0 accepts folds without a class.
        duplicates: Keep near-duplicate images in one fold.
        judge: How to judge; the defaults if None.
        external: Name → other images, scored once at the end.
        overrides: Texts such as `optimizer.epochs=5`, laid over the training's keys.

    Returns:
        The study, for `ablation.run_study`.

    Raises:
        UsageError: The file has mistakes; all are named.
    """
    path = Path(path)
    arm = re.sub(r"[^A-Za-z0-9_.+-]", "_", path.stem).lstrip("_.+-") or "model"
    values = apply_overrides(with_absolute_paths(read_yaml(path), folder=path.parent), overrides)
    arms = resolve_arms(with_absolute_paths(values, folder=Path()), {arm: {}}, where=path.name)
    return Study(
        name=path.name,
        title=f"{num_folds}-fold cross-validation of {path.stem.replace('_', ' ')}",
        kind="cross_validation",
        arms=arms,
        reference=arm,
        seeds=tuple(range(seeds)),
        folds=CrossValidationFolds(
            num_folds=num_folds, seed=folds_seed, min_positives=min_positives, duplicates=duplicates
        ),
        judge=judge or JudgeConfig(),
        external=external or {},
    )
