from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.predictions import read_predictions
from medtail.tables.views import combine_views
from medtail.training.callbacks import tune_quality
from medtail.training.config import TrainConfig
from medtail.training.ensembles import train


def test_tune_quality_averages_only_classes_that_can_be_judged() -> None:
    scores = np.array([[0.9, 0.2, 0.5, 0.1], [0.4, 0.3, 0.5, 0.2], [0.6, 0.9, 0.5, 0.3]])
    nan = np.nan
    targets = np.array([[1, 0, 0, nan], [1, 0, 0, nan], [0, 1, nan, 1]])
    # class 0: precision 1 then 2/3; class 1: perfect; class 2 has no positive; class 3 no negative
    assert tune_quality(scores, targets) == (pytest.approx(((1 + 2 / 3) / 2 + 1) / 2), 2)


def test_without_a_class_to_judge_there_is_no_value() -> None:
    assert tune_quality(np.array([[0.5]]), np.array([[1.0]])) == (None, 0)


def test_epochs_may_be_compared_by_the_scores_of_studies(
    make_config: Callable[..., TrainConfig], toy_manifest: Manifest, tmp_path: Path
) -> None:
    frame = toy_manifest.frame.assign(study_id=[f"s{patient}" for patient in toy_manifest.frame["patient_id"]])
    replace(toy_manifest, frame=frame).write(tmp_path / "toy.csv")
    runs = {}
    for tune_by in ("image", "study"):
        config = make_config(optimizer={"tune_by": tune_by, "epochs": 1})
        runs[tune_by] = train(config, tmp_path / tune_by, quiet=True).tune_map
    scored = read_predictions(tmp_path / "study" / "predictions_tune.parquet")
    fused, _ = combine_views(scored, read_manifest(tmp_path / "toy.csv"))
    assert runs["study"] == pytest.approx(tune_quality(fused.scores, fused.targets)[0])
    assert runs["image"] == pytest.approx(tune_quality(scored.scores, scored.targets)[0])
    assert runs["image"] != runs["study"]
