from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medtail.cli.main import call
from medtail.errors import MedtailError
from medtail.judging.calibrating import calibrate_run
from medtail.judging.calibration import CalibrationConfig
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.predictions import read_predictions
from medtail.training.config import TrainConfig
from medtail.training.ensembles import train
from medtail.training.judged import judge_run, methods_of
from medtail.training.predict import predict

MakeConfig = Callable[..., TrainConfig]


@pytest.fixture
def run(make_config: MakeConfig, tmp_path: Path) -> Path:
    train(make_config(optimizer={"epochs": 1}), tmp_path / "run", quiet=True)
    return tmp_path / "run"


@pytest.fixture
def manifest(run: Path) -> Manifest:
    return read_manifest(run.parent / "toy.csv")


def test_scores_do_not_depend_on_batch_size_order_or_company(run: Path, manifest: Manifest) -> None:
    whole = predict(run, manifest, quiet=True)
    assert len(whole) == len(manifest)
    alone = predict(run, manifest, batch_size=1, quiet=True)
    np.testing.assert_allclose(alone.scores, whole.scores, atol=1e-5)
    order = np.random.default_rng(0).permutation(len(manifest))
    shuffled = predict(run, manifest.take(order), batch_size=7, quiet=True)
    assert list(shuffled.image_ids) == list(whole.image_ids[order])
    np.testing.assert_allclose(shuffled.scores, whole.scores[order], atol=1e-5)


def test_one_fold_is_scored_with_what_a_judge_needs(run: Path, manifest: Manifest) -> None:
    test = predict(run, manifest, fold="test", quiet=True)
    assert set(test.folds) == {"test"}
    assert test.digests["manifest"] == manifest.digest
    assert test.digests["model"]
    assert test.thresholds is not None
    assert test.train_counts is not None
    np.testing.assert_array_equal(test.targets, manifest.in_fold("test").targets)


def test_classes_are_matched_by_name_in_any_order(run: Path, manifest: Manifest) -> None:
    expected = predict(run, manifest, quiet=True)
    names = list(manifest.labels.class_names)
    frame = manifest.frame.assign(zebra=1.0)
    turned = replace(
        manifest.with_classes(names[::-1]),
        frame=frame[[*[c for c in frame.columns if c not in names], *names[::-1]]].drop(columns="zebra"),
    )
    found = predict(run, turned, quiet=True)
    assert found.labels == expected.labels
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.targets, expected.targets)


def test_missing_class_is_named(run: Path, manifest: Manifest) -> None:
    names = [name for name in manifest.labels.class_names if name != "rare"]
    with pytest.raises(MedtailError, match=r"lacks 1 of the model's 5 classes: 'rare'"):
        predict(run, manifest.with_classes(names), quiet=True)


def test_flipping_averages_both_views(run: Path, manifest: Manifest) -> None:
    plain = predict(run, manifest, quiet=True)
    flipped = predict(run, manifest, test_time_flip=True, quiet=True)
    assert np.abs(plain.scores - flipped.scores).max() > 0
    from PIL import Image

    for row in range(len(manifest)):
        path = manifest.image_path(row)
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    mirrored = predict(run, manifest, quiet=True)
    np.testing.assert_allclose(flipped.scores, (plain.scores + mirrored.scores) / 2, atol=1e-5)


def test_unknown_or_empty_fold_is_said(run: Path, manifest: Manifest) -> None:
    with pytest.raises(MedtailError, match="fold: found 'validation'; expected one of train, tune, test"):
        predict(run, manifest, fold="validation", quiet=True)
    with pytest.raises(MedtailError, match="no row is in 'reward'; nothing to predict"):
        predict(run, manifest, fold="reward", quiet=True)


def test_folder_without_a_model_is_refused(tmp_path: Path, manifest: Manifest) -> None:
    with pytest.raises(MedtailError, match=r"no card\.json; expected a model folder"):
        predict(tmp_path / "nothing", manifest, quiet=True)


def test_unknown_device_is_refused(run: Path, manifest: Manifest) -> None:
    with pytest.raises(MedtailError, match=r"device: 'abacus' cannot be used .*; expected 'auto', 'cpu' or 'cuda'"):
        predict(run, manifest, device="abacus", quiet=True)


def test_a_stored_calibration_is_applied_unless_raw_scores_are_asked_for(run: Path, manifest: Manifest) -> None:
    raw = predict(run, manifest, fold="test", quiet=True)
    stored = calibrate_run(run, config=CalibrationConfig(method="platt"), resamples=0).calibration
    made = predict(run, manifest, fold="test", quiet=True)
    np.testing.assert_array_equal(made.scores, stored.apply(raw.scores))
    assert made.digests == {**raw.digests, "calibration": stored.digest}
    assert stored.thresholds is not None
    assert made.thresholds == stored.thresholds.values
    assert not np.array_equal(made.scores, raw.scores)
    again = predict(run, manifest, fold="test", calibrated=False, quiet=True)
    np.testing.assert_array_equal(again.scores, raw.scores)
    assert (again.thresholds, again.digests) == (raw.thresholds, raw.digests)


def test_predict_raw_leaves_the_calibration_out(
    run: Path, manifest: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["calibrate", str(run), "--fit", "tune", "--bootstrap", "0"]) == 0
    assert call(["calibrate", str(run)]) == 2, "once is enough"
    assert call(["calibrate", str(run), "--replace", "--threshold", "youden", "--bootstrap", "0"]) == 0
    for name, options in (("calibrated", []), ("raw", ["--raw"])):
        words = ["predict", str(run), str(run.parent / "toy.csv"), "--out", str(tmp_path / f"{name}.csv"), "--quiet"]
        assert call([*words, *options]) == 0
    capsys.readouterr()
    found = [read_predictions(tmp_path / f"{name}.csv") for name in ("calibrated", "raw")]
    assert ["calibration" in scored.digests for scored in found] == [True, False]
    assert not np.allclose(found[0].scores, found[1].scores)


def test_a_model_whose_scores_depend_on_the_batch_is_refused_unless_asked_for_by_name(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    """Trained, judged on tune and stored like any other; scoring further images takes a word."""
    head = {"kind": "csasn", "rmsc": {"attend": {"kind": "batch", "at_test": "mates"}, "width": 16, "heads": 2}}
    run = tmp_path / "mates"
    train(make_config(head=head, optimizer={"epochs": 1}, members=2), run, quiet=True)
    manifest = read_manifest(tmp_path / "toy.csv")
    with pytest.raises(MedtailError, match=r"an image's scores depend on its company.*--allow-batch-dependent"):
        predict(run, manifest, quiet=True)
    with pytest.raises(MedtailError, match="allow_batch_dependent=True"):
        judge_run(run, quiet=True)
    together = predict(run, manifest, allow_batch_dependent=True, quiet=True)
    alone = predict(run, manifest, allow_batch_dependent=True, batch_size=1, quiet=True)
    assert np.abs(together.scores - alone.scores).max() > 1e-4
    out = tmp_path / "scores.parquet"
    words = ["predict", str(run), str(tmp_path / "toy.csv"), "--out", str(out), "--quiet"]
    assert call(words) == 1
    assert not out.exists()
    assert call([*words, "--allow-batch-dependent"]) == 0
    assert len(read_predictions(out)) == len(manifest)
    assert len(judge_run(run, allow_batch_dependent=True, quiet=True).predictions) > 0


def test_csasn_trains_and_scores_alike_alone_and_in_company(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(
        backbone={"kind": "dual"},
        head={"kind": "csasn", "rmsc": {"width": 16, "heads": 2, "hidden": [16, 8]}},
        optimizer={"epochs": 2, "freeze_epochs": 1, "layer_decay": 0.9},
    )
    train(config, tmp_path / "whole", quiet=True)
    manifest = read_manifest(tmp_path / "toy.csv")
    whole = predict(tmp_path / "whole", manifest, quiet=True)
    alone = predict(tmp_path / "whole", manifest, batch_size=1, quiet=True)
    np.testing.assert_allclose(alone.scores, whole.scores, atol=1e-5)
    assert "li2025" in methods_of(config)
    assert whole.scores.std(axis=0).max() > 0
