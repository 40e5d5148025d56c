"""A run whose second stage reads studies looks and behaves as any other run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from medtail.errors import MedtailError
from medtail.models.checkpoint import load_model
from medtail.models.ensembles import load_members, read_ensemble_card
from medtail.models.study_model import load_study_model
from medtail.runs import read_json
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.predictions import read_predictions
from medtail.training.config import TrainConfig
from medtail.training.ensembles import train
from medtail.training.fusion import FusionTrainer
from medtail.training.judged import judge_run, methods_of
from medtail.training.predict import predict
from medtail.training.tta import read_plan

MakeConfig = Callable[..., TrainConfig]
FUSION: dict[str, Any] = {
    "kind": "study_fusion",
    "fusion": {"width": 16, "heads": 2, "inner": 16, "decoder": {"kind": "ml_decoder", "width": 16, "inner": 16}},
    "epochs": 2,
    "batch_size": 8,
    "learning_rate": 0.005,
}


@pytest.fixture
def with_studies(make_config: MakeConfig, toy_manifest: Manifest, tmp_path: Path) -> MakeConfig:
    """The toy table with a study a patient of two views; one image stands alone, one code is unknown."""
    frame = toy_manifest.frame.copy()
    view = ["PA" if row % 2 == 0 else "LL" for row in range(len(frame))]
    view[4], view[6] = "XX", "LATERAL"
    study = ["s" + patient for patient in frame["patient_id"]]
    study[10] = ""
    replace(toy_manifest, frame=frame.assign(view=view, study_id=study)).write(tmp_path / "toy.csv")
    return make_config


def test_a_run_of_two_stages_predicts_judges_and_describes_itself(with_studies: MakeConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    outcome = train(with_studies(second=FUSION), run, quiet=True)
    assert outcome.epochs_run == 4
    log = pd.read_csv(run / "log.csv")
    assert log["epoch"].tolist() == [1, 2, 3, 4]
    assert log["stage"].tolist() == [1, 1, 2, 2]
    assert not (run / "stages/second/maps.npy").exists(), "maps are large and no longer needed"
    manifest = read_manifest(tmp_path / "toy.csv")
    scored = read_predictions(run / "predictions_tune.parquet")
    again = predict(run, manifest, fold="tune", quiet=True)
    assert again.digests["model"] == scored.digests["model"] == read_json(run / "run.json")["weights_digest"]
    assert abs(again.scores - scored.scores).max() < 1e-6
    assert outcome.tune_map == pytest.approx(read_ensemble_card(run / "model").training["tune_map"])
    judgement = judge_run(run, quiet=True)
    assert len(judgement.predictions) == int((manifest.folds == "test").sum()), "a row an image"
    assert "kim2023" in methods_of(with_studies(second=FUSION))


def test_every_image_of_a_study_gets_its_score_whatever_the_batch_and_the_order(
    with_studies: MakeConfig, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(with_studies(second=FUSION), run, quiet=True)
    manifest = read_manifest(tmp_path / "toy.csv")
    found = predict(run, manifest, quiet=True)
    frame = pd.DataFrame(found.scores).assign(study=manifest.frame["study_id"])
    spread = frame[frame["study"] != ""].groupby("study").agg(lambda values: values.max() - values.min())
    assert spread.to_numpy().max() == 0.0
    assert found.scores.std(axis=0).max() > 0
    order = np.random.default_rng(0).permutation(len(manifest))
    turned = predict(run, manifest.take(order), batch_size=5, quiet=True)
    assert np.abs(turned.scores - found.scores[order]).max() < 1e-5
    alone = predict(run, manifest.take(order[:1]), quiet=True)
    other = [row for row in order[:1] if (manifest.frame["study_id"] == manifest.frame["study_id"][row]).sum() > 1]
    if other:
        assert np.abs(alone.scores - found.scores[other]).max() > 0, "the other view was read too"


def test_a_finished_run_may_be_named_as_first_stage_and_both_ways_agree(
    with_studies: MakeConfig, tmp_path: Path
) -> None:
    both = train(with_studies(second=FUSION), tmp_path / "both", quiet=True)
    train(with_studies(), tmp_path / "first", quiet=True)
    named = train(with_studies(second={**FUSION, "init": "first"}), tmp_path / "named", quiet=True)
    assert named.epochs_run == 2
    assert named.tune_map == both.tune_map
    first, second = (load_study_model(tmp_path / name / "model")[0].state_dict() for name in ("both", "named"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    before = load_model(tmp_path / "first/model")[0].state_dict()
    after = load_model(tmp_path / "named/model/image_model")[0].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "the first stage is frozen, norms included"


def test_a_stage_that_was_cut_off_goes_on_bit_for_bit(with_studies: MakeConfig, tmp_path: Path) -> None:
    train(with_studies(), tmp_path / "first", quiet=True)
    config = with_studies(second={**FUSION, "init": "first", "epochs": 3})
    train(config, tmp_path / "whole", quiet=True)
    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "whole", cut)
    for name in ("run.json", "predictions_tune.parquet"):
        (cut / name).unlink()
    shutil.rmtree(cut / "model")
    shutil.rmtree(cut / "stages")
    genuine = FusionTrainer._epoch

    def cut_off(trainer: FusionTrainer, epoch: int) -> Any:
        if epoch == 1:
            raise KeyboardInterrupt
        return genuine(trainer, epoch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FusionTrainer, "_epoch", cut_off)
        with pytest.raises(KeyboardInterrupt):
            train(config, cut, resume=True, quiet=True)
    assert len(pd.read_csv(cut / "stages/second/log.csv")) == 1
    train(config, cut, resume=True, quiet=True)
    whole, again = (load_study_model(tmp_path / name / "model")[0].state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert len(pd.read_csv(cut / "log.csv")) == 3


def test_live_maps_vary_with_augmentation_and_without_it_equal_the_stored_ones(
    with_studies: MakeConfig, tmp_path: Path
) -> None:
    train(with_studies(augment={"profile": "none"}), tmp_path / "first", quiet=True)
    second = {**FUSION, "init": "first"}
    found = {}
    for name, features, profile in (("a", "stored", "none"), ("b", "live", "none"), ("c", "live", "ultrasound")):
        config = with_studies(second={**second, "features": features}, augment={"profile": profile})
        found[name] = train(config, tmp_path / name, quiet=True)
    weights = {name: load_study_model(tmp_path / name / "model")[0].fusion.state_dict() for name in found}
    near = max(float((weights["a"][key] - weights["b"][key]).abs().max()) for key in weights["a"])
    far = max(float((weights["a"][key] - weights["c"][key]).abs().max()) for key in weights["a"])
    assert near < 1e-4
    assert far > 1e-3


def test_test_time_versions_work_on_studies_and_are_remembered(with_studies: MakeConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(with_studies(second=FUSION, tta="flip"), run, quiet=True)
    manifest = read_manifest(tmp_path / "toy.csv")
    remembered = predict(run, manifest, fold="tune", quiet=True)
    asked = predict(run, manifest, fold="tune", tta=read_plan("flip"), quiet=True)
    plain = predict(run, manifest, fold="tune", tta=read_plan("none"), quiet=True)
    assert np.array_equal(remembered.scores, asked.scores)
    assert np.abs(remembered.scores - read_predictions(run / "predictions_tune.parquet").scores).max() < 1e-6
    assert np.abs(plain.scores - asked.scores).max() > 0


def test_whoever_wants_an_image_model_is_told_where_it_is(with_studies: MakeConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(with_studies(second=FUSION), run, quiet=True)
    with pytest.raises(MedtailError, match=r"answers for studies.*image_model"):
        load_members(run / "model")
    assert len(load_members(run / "model" / "image_model")[0]) == 1
    content = bytearray((run / "model/fusion.safetensors").read_bytes())
    content[-1] ^= 1
    (run / "model/fusion.safetensors").write_bytes(bytes(content))
    with pytest.raises(MedtailError, match=r"is not the file the card was written for"):
        predict(run, read_manifest(tmp_path / "toy.csv"), quiet=True)


def test_a_first_stage_that_does_not_fit_is_refused_with_every_reason(with_studies: MakeConfig, tmp_path: Path) -> None:
    train(with_studies(classes=["bright", "rare"]), tmp_path / "first", quiet=True)
    table = pd.read_csv(tmp_path / "toy.csv", dtype=str)
    table.assign(age="50").to_csv(tmp_path / "toy.csv", index=False)
    config = with_studies(second={**FUSION, "init": "first"}, pixels={"size_px": 40})
    with pytest.raises(MedtailError) as caught:
        train(config, tmp_path / "run", quiet=True)
    for part in ("manifest: was trained on another table", "classes: found 2", "pixels: images were prepared"):
        assert part in str(caught.value)
    with pytest.raises(MedtailError, match=r"holds no run\.json"):
        train(with_studies(second={**FUSION, "init": "nowhere"}), tmp_path / "other", quiet=True)


def test_a_table_without_studies_is_refused_before_it_trains_long(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(MedtailError, match="column 'study_id': missing or empty"):
        train(make_config(second=FUSION, optimizer={"epochs": 1}), tmp_path / "run", quiet=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": 2}, "members: found 2"),
        ({"objective": {"kind": "tasks"}}, "objective: found 'tasks'"),
        ({"second": {**FUSION, "sampler": {"kind": "two_streams"}}}, "sampler: found 'two_streams'"),
        ({"tta": "flip", "test_time_flip": True}, "tta: found beside test_time_flip"),
    ],
)
def test_trainings_that_cannot_be_fused_are_refused(
    make_config: MakeConfig, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(MedtailError, match=message):
        make_config(**{"second": FUSION, **changes})
