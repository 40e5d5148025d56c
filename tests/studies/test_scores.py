"""Scores: out of fold on tune, averaged elsewhere, and nothing opened before its time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError
from medtail.judging.thresholds import fit_thresholds
from medtail.studies.config import ExternalConfig, FixedFolds, JudgeConfig
from medtail.studies.protocol import begin
from medtail.studies.scores import check_unopened, final_sets, opened, tune_set, whole_seeds
from medtail.tables.manifest import Manifest


def test_each_image_is_scored_by_the_model_that_did_not_learn_from_it(make_study, fill, tmp_path: Path) -> None:
    study, root = make_study(), tmp_path / "out"
    begin(study, root)
    fill(study, root)
    found = tune_set(study, root, whole_seeds(study, root))
    own = {(c.arm, c.seed, c.fold): c.scores() for c in study.cells(root)}
    not_test = sorted(study.manifest.frame["image_id"][study.manifest.folds != "test"])
    for arm in study.arms:
        for r, seed in enumerate(study.seeds):
            table = found.tables[arm][r]
            assert table.image_ids.tolist() == not_test
            for k in range(3):
                part = own[arm, seed, k]
                rows = np.searchsorted(table.image_ids.astype(str), part.image_ids.astype(str))
                np.testing.assert_array_equal(table.scores[rows], part.scores)
            # chosen on the scores of all folds together
            assert table.thresholds == pytest.approx(dict(fit_thresholds(table).values))
            assert found.by_fold[1][arm][r].thresholds == table.thresholds
    counts = found.tables["full"][0].train_counts
    assert counts is not None
    assert counts.images[0] == int((study.manifest.targets[study.manifest.folds != "test"][:, 0] == 1).sum())


def test_only_seeds_with_every_fold_are_judged(make_study, fill, tmp_path: Path) -> None:
    study, root = make_study(), tmp_path / "out"
    begin(study, root)
    fill(study, root, only="full/")
    fill(study, root, only="twin/seed_0")
    fill(study, root, only="poor/seed_0/fold_0")
    seeds = whole_seeds(study, root)
    assert seeds == {"full": (0, 1), "twin": (0,), "poor": ()}
    found = tune_set(study, root, seeds)
    assert {arm: len(tables) for arm, tables in found.tables.items()} == {"full": 2, "twin": 1}
    with pytest.raises(MedtailError, match="no arm is finished yet"):
        tune_set(study, root, dict.fromkeys(study.arms, ()))


def test_classes_may_be_chosen(make_study, fill, tmp_path: Path) -> None:
    study, root = make_study(judge=JudgeConfig(classes=("MTC", "FTC"))), tmp_path / "out"
    begin(study, root)
    fill(study, root)
    found = tune_set(study, root, whole_seeds(study, root))
    assert found.truth.labels.class_names == ("MTC", "FTC")


def test_a_fixed_study_has_the_tune_fold_itself(make_study, fill, tmp_path: Path) -> None:
    study, root = make_study(folds=FixedFolds()), tmp_path / "out"
    begin(study, root)
    fill(study, root)
    found = tune_set(study, root, whole_seeds(study, root))
    assert len(found.truth) == int((study.manifest.folds == "tune").sum())
    assert len(found.by_fold) == 1


def test_test_is_opened_once_for_all_arms_and_that_is_written_down(make_study, fill, tmp_path: Path) -> None:
    study, root = make_study(judge=JudgeConfig(fold="test")), tmp_path / "out"
    begin(study, root)
    fill(study, root, only="full/")
    tune = tune_set(study, root, whole_seeds(study, root))
    with pytest.raises(MedtailError, match=r"12 cells are not finished .* nothing is opened"):
        final_sets(study, root, tune)
    assert opened(root) == {}
    fill(study, root, test=True)
    tune = tune_set(study, root, whole_seeds(study, root))
    (found,) = final_sets(study, root, tune)
    parts = [c.scores("test") for c in study.cells(root) if (c.arm, c.seed) == ("poor", 1)]
    order = np.argsort(parts[0].image_ids.astype(str))
    np.testing.assert_allclose(found.tables["poor"][1].scores, np.mean([p.scores[order] for p in parts], axis=0))
    # thresholds are those of tune, for the mean and for each model alone
    assert found.tables["poor"][1].thresholds == tune.tables["poor"][1].thresholds
    assert found.by_fold[2]["poor"][1].thresholds == tune.tables["poor"][1].thresholds
    record = opened(root)["test"]
    assert record["arms"] == ["full", "twin", "poor"]
    final_sets(study, root, tune)
    assert opened(root)["test"] == record, "the first opening stands"


def test_an_arm_that_comes_after_test_was_opened_is_refused(make_study, fill, tmp_path: Path) -> None:
    study, root = make_study(judge=JudgeConfig(fold="test")), tmp_path / "out"
    begin(study, root)
    fill(study, root, test=True)
    final_sets(study, root, tune_set(study, root, whole_seeds(study, root)))
    late = make_study(judge=JudgeConfig(fold="test"), overrides={"full": {}, "late": {"loss.kind": "asl"}})
    with pytest.raises(MedtailError, match=r"test was opened on .* for full, twin, poor; scores of late would be"):
        check_unopened(late, root)
    fill(late, root, only="late/", test=True)
    with pytest.raises(MedtailError, match="scores of late would be"):
        final_sets(late, root, tune_set(late, root, whole_seeds(late, root)))
    check_unopened(replace(late, judge=JudgeConfig(fold="tune")), root)  # tune may be looked at as often as one likes
    check_unopened(study, root)


def test_without_being_asked_nothing_beyond_tune_is_opened(make_study, fill, tmp_path: Path) -> None:
    study, root = make_study(), tmp_path / "out"
    begin(study, root)
    fill(study, root)
    assert final_sets(study, root, tune_set(study, root, whole_seeds(study, root))) == []
    assert not list(root.rglob("predictions_test*"))


def test_external_images_are_scored_by_the_mean_of_the_fold_models(
    make_study, fill, made_up: Manifest, tmp_path: Path
) -> None:
    pd.DataFrame(
        {"image_id": [f"x{n}" for n in range(8)], "path": "x.png", "patient_id": [f"e{n}" for n in range(8)],
         "FTC": [1, 0] * 4}
    ).to_csv(tmp_path / "far.csv", index=False)  # fmt: skip
    study = make_study(external={"far": ExternalConfig(manifest=str(tmp_path / "far.csv"))})
    root = tmp_path / "out"
    begin(study, root)
    fill(study, root)
    from medtail.studies.protocol import read_external

    table = read_external("far", study.external["far"], study.manifest)
    fill(study, root, external=table)
    (found,) = final_sets(study, root, tune_set(study, root, whole_seeds(study, root)))
    assert found.name == "external_far"
    assert len(found.truth) == 8
    assert np.isnan(found.truth.targets[:, 1:]).all()
    parts = [c.scores("external_far") for c in study.cells(root) if (c.arm, c.seed) == ("full", 0)]
    np.testing.assert_allclose(found.tables["full"][0].scores, np.mean([p.scores for p in parts], axis=0))
