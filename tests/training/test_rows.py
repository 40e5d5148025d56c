from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medtail.errors import MedtailError
from medtail.models.checkpoint import load_model
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.predictions import read_predictions
from medtail.tables.pseudo_labels import add_pseudo_labels
from medtail.training.config import TrainConfig
from medtail.training.ensembles import train
from medtail.training.predict import predict
from medtail.training.rows import learnt_targets, usable_rows

MakeConfig = Callable[..., TrainConfig]


@pytest.fixture
def pseudo(make_config: MakeConfig, toy_manifest: Manifest, tmp_path: Path) -> MakeConfig:
    """The toy table in which a quarter of the train rows has lost all labels and got scores of a made-up teacher."""
    frame = toy_manifest.frame.copy()
    lost = np.flatnonzero((toy_manifest.folds == "train") & (np.arange(len(frame)) % 4 == 0))
    names = list(toy_manifest.labels.class_names)
    truth = np.nan_to_num(toy_manifest.targets)
    frame.loc[lost, names] = np.nan
    emptied = replace(toy_manifest, frame=frame)
    from medtail.tables.predictions import Predictions

    ids = frame["image_id"].to_numpy(dtype=object)
    scores = 0.8 * truth + 0.1
    teacher = Predictions(ids, ids, scores, np.full(scores.shape, np.nan), toy_manifest.labels, toy_manifest.folds)
    add_pseudo_labels(emptied, teacher).manifest.write(tmp_path / "soft.csv")
    add_pseudo_labels(emptied, teacher, hard=True).manifest.write(tmp_path / "hard.csv")
    wrong = replace(teacher, scores=1.0 - scores)
    add_pseudo_labels(emptied, wrong).manifest.write(tmp_path / "wrong.csv")
    return make_config


def test_rows_of_guesses_alone_are_kept_only_when_asked_for_and_teach(pseudo: MakeConfig, tmp_path: Path) -> None:
    plain = pseudo(manifest="soft.csv", optimizer={"epochs": 1, "ema_decay": None})
    asked = replace(plain, pseudo_labels=True)
    manifest = read_manifest(tmp_path / "soft.csv")
    without, kept = usable_rows(manifest), usable_rows(manifest, with_pseudo=True)
    lost = len(kept) - len(without)
    assert lost > 5
    assert (kept.folds[np.isnan(kept.targets).all(axis=1)] == "train").all()
    targets = learnt_targets(kept, asked)
    assert not np.isnan(targets).all(axis=1).any()
    np.testing.assert_array_equal(targets[~np.isnan(kept.targets)], kept.targets[~np.isnan(kept.targets)])
    configs = {"plain": plain, "asked": asked, "wrong": replace(asked, manifest=str(tmp_path / "wrong.csv"))}
    for name, config in configs.items():
        train(config, tmp_path / name, quiet=True)
    models = {name: load_model(tmp_path / name / "model") for name in configs}
    weights = [models[name][0].state_dict() for name in ("asked", "wrong")]
    assert any(not torch.equal(weights[0][key], weights[1][key]) for key in weights[0]), "what they say is learnt"
    assert models["plain"][1].train_counts == models["asked"][1].train_counts, "frequencies know only labels"
    tune = read_predictions(tmp_path / "asked/predictions_tune.parquet")
    assert np.nanmax(np.minimum(tune.targets, 1 - tune.targets)) == 0, "nothing soft is ever judged"
    assert len(predict(tmp_path / "asked", manifest, fold="test", quiet=True)) > 0


def test_a_loss_made_for_labels_is_given_no_soft_ones(pseudo: MakeConfig, tmp_path: Path) -> None:
    config = pseudo(manifest="soft.csv", loss={"kind": "ldam"}, pseudo_labels=True)
    with pytest.raises(MedtailError, match=r"soft pseudo-labels, and loss 'ldam' is made for 0 and 1"):
        learnt_targets(usable_rows(read_manifest(tmp_path / "soft.csv"), with_pseudo=True), config)
    hard = usable_rows(read_manifest(tmp_path / "hard.csv"), with_pseudo=True)
    assert set(np.unique(learnt_targets(hard, config)[~np.isnan(learnt_targets(hard, config))])) == {0.0, 1.0}


def test_asking_for_what_is_not_there_is_refused(make_config: MakeConfig, toy_manifest: Manifest) -> None:
    with pytest.raises(MedtailError, match="has no pseudo-labels"):
        learnt_targets(toy_manifest, make_config(pseudo_labels=True))
    with pytest.raises(MedtailError, match="pseudo_labels: found true with sampler 'policy'"):
        make_config(pseudo_labels=True, sampler={"kind": "policy"})
