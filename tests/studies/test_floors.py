"""The floors: what is had without training, fitted on train rows alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.runs import read_json
from medtail.studies import floors
from medtail.studies.cells import Cell, is_finished
from medtail.studies.floors import (
    FLOORS,
    fit_probe,
    floor_arm,
    most_frequent,
    run_ladder_cell,
    score_floors,
    usable_floors,
)
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import Manifest, manifest_from_frame, read_manifest
from medtail.training.config import TrainConfig, train_config


@pytest.fixture
def config(toy_manifest: Manifest, tmp_path: Path) -> TrainConfig:
    toy_manifest.write(tmp_path / "toy.csv")
    return train_config(
        {
            "manifest": str(tmp_path / "toy.csv"), "pixels": {"size_px": 64, "channels": 1},
            "backbone": {"kind": "efficientnet_lite0", "weights": "imagenet"}, "cache": str(tmp_path / "cache"),
        }
    )  # fmt: skip


def cell(arm: str, config: TrainConfig, root: Path, *, seed: int = 0) -> Cell:
    return Cell(arm, seed, 0, replace(config, seed=seed), root)


def test_prevalence_is_that_of_the_assessed_train_rows(config: TrainConfig, tmp_path: Path) -> None:
    one = cell("prevalence", config, tmp_path / "out")
    run_ladder_cell(one)
    assert is_finished(one)
    table = read_manifest(config.manifest)
    train = table.in_fold("train")
    found = one.scores()
    wanted = np.nanmean(train.targets, axis=0)
    assert found.scores == pytest.approx(np.tile(wanted, (len(found), 1)))
    assert set(found.folds) == {"tune"}
    assert read_json(one.record)["parameters"] == table.labels.num_classes
    # rows on which nothing was assessed are not scored, as in a training
    assert len(found) == int((~np.isnan(table.in_fold("tune").targets).all(axis=1)).sum())


def test_the_most_frequent_member_of_each_group_is_called() -> None:
    labels = LabelSpace.from_columns(["a=x", "a=y", "halo", "skin"])
    assert most_frequent(np.array([0.4, 0.4, 0.5, 0.49]), labels).tolist() == [1.0, 0.0, 1.0, 0.0]


def test_a_floor_is_the_same_for_every_seed_and_is_fitted_once(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (cell("most_frequent", config, tmp_path / "out", seed=seed) for seed in (0, 1))
    run_ladder_cell(first)
    monkeypatch.setattr(floors, "_fit", lambda *_: pytest.fail("is there already"))
    run_ladder_cell(second)
    assert second.scores().digest == first.scores().digest


def test_other_images_are_scored_with_what_was_fitted_and_trained_cells_passed_over(
    config: TrainConfig, tmp_path: Path
) -> None:
    one = cell("prevalence", config, tmp_path / "out")
    run_ladder_cell(one)
    table = read_manifest(config.manifest)
    # the labels of the test rows have no say
    flipped = table.frame.assign(bright=1 - table.frame["bright"])
    other = manifest_from_frame(flipped, name="toy.csv", root=table.root)
    trained = cell("erm", config, tmp_path / "out")
    score_floors([one, trained], "test", other, fold="test")
    assert not trained.predictions("test").exists()
    found = one.scores("test")
    assert set(found.folds) == {"test"}
    assert found.scores[0] == pytest.approx(one.scores().scores[0])
    before = one.predictions("test").stat().st_mtime_ns
    score_floors([one], "test", table, fold="test")
    assert one.predictions("test").stat().st_mtime_ns == before


def test_the_probe_needs_weights() -> None:
    bare = train_config({"manifest": "a.csv", "backbone": {"kind": "resnet"}})
    assert usable_floors(bare) == ["prevalence", "most_frequent"]
    known = train_config({"manifest": "a.csv", "backbone": {"kind": "efficientnet_lite0"}})
    assert usable_floors(known) == list(FLOORS)
    assert floor_arm("prevalence", bare).changes[0].text() == (
        "trained: yes → nothing; Every image gets each class's share of the train fold."
    )


def made_up(rows: int = 200) -> tuple[np.ndarray, Manifest]:
    random = np.random.default_rng(0)
    features = random.normal(size=(rows, 6)) * [1, 1, 1, 1, 1, 0] + 5
    there = (features[:, 0] - 5 + 0.3 * random.normal(size=rows) > 0.8).astype(float)
    frame = pd.DataFrame(
        {
            "image_id": [f"i{n}" for n in range(rows)], "path": "x.png",
            "patient_id": [f"p{n // 2}" for n in range(rows)],
            "fold": "train", "seen": there, "never": 0, "unknown": np.nan,
        }
    )  # fmt: skip
    frame.loc[:9, "seen"] = np.nan
    return features, manifest_from_frame(frame)


def test_the_probe_finds_what_the_features_know_and_leaves_the_rest_at_its_prevalence() -> None:
    features, table = made_up()
    fitted = fit_probe(features, table)
    assert fitted["strength"] in floors.STRENGTHS
    assert fitted["scale"][5] == 1.0  # a feature that is the same everywhere
    weights = np.abs(fitted["weights"])
    assert weights[0].argmax() == 0
    assert not weights[1:].any()
    never = 1 / (1 + np.exp(-fitted["bias"][1]))
    assert never == pytest.approx(0.5 / 201)
    # noise has nothing to say: the strongest regularisation is chosen
    noise = np.random.default_rng(1).normal(size=(200, 40))
    assert fit_probe(noise, table)["strength"] <= 1e-2


@pytest.mark.slow
def test_the_probe_runs_on_images_and_scores_alike_when_asked_again(config: TrainConfig, tmp_path: Path) -> None:
    one = cell("linear_probe", config, tmp_path / "out")
    run_ladder_cell(one)
    found = one.scores()
    column = found.labels.index("bright")
    lit = found.targets[:, column] == 1
    assert found.scores[lit, column].min() > found.scores[~lit, column].max()
    score_floors([one], "external_same", read_manifest(config.manifest).in_fold("tune"))
    assert one.scores("external_same").scores == pytest.approx(found.scores, abs=1e-6)
