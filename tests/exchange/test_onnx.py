"""An exported file answers as the run does, or it is not written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import medtail
from medtail.errors import MedtailError, UsageError
from medtail.exchange import onnx as exporting
from medtail.exchange.onnx import OnnxDiagnoser, check_images, export_onnx
from medtail.exchange.onnx_engine import predict_onnx
from medtail.exchange.torch_engine import TorchDiagnoser
from medtail.judging.decisions import decide
from medtail.models.contract import HeadAnswer
from medtail.models.csasn import CsasnConfig
from medtail.models.heads import LinearHead
from medtail.models.rmsc import Batch, RmscConfig
from medtail.pixels.frequency import BandConfig
from medtail.tables.manifest import Manifest
from medtail.training.predict import predict

pytest.importorskip("onnxruntime")
MakeRun = Callable[..., Path]


def test_an_ensembles_file_answers_as_the_run_at_any_batch_size(small_run: Path, small_file: Path) -> None:
    found, run = OnnxDiagnoser(small_file), TorchDiagnoser(small_run)
    for count in (1, 3, 7):
        images, boxes = check_images(found.record.pixels, count)
        answer = found.answer(images)
        assert answer.probabilities.dtype == np.float32
        np.testing.assert_allclose(answer.probabilities, run.probabilities(images, boxes), rtol=0, atol=1e-5)
        np.testing.assert_allclose(answer.scores, run.scores(images, boxes), rtol=0, atol=1e-5)
    assert answer.probabilities.std(axis=0).min() > 0.01, "answers that do not depend on the image pass trivially"
    assert np.abs(answer.probabilities - answer.scores).max() > 0.05, "so would a calibration that does nothing"


def test_decisions_in_the_file_are_the_judges(small_file: Path, toy_manifest: Manifest) -> None:
    found = OnnxDiagnoser(small_file)
    predictions = predict_onnx(found, toy_manifest)
    images, boxes = check_images(found.record.pixels, 50)
    answer = found.answer(images, boxes)
    expected = decide(
        answer.probabilities.astype(float), thresholds=predictions.threshold_array,
        groups=predictions.labels.group_indices,
    )  # fmt: skip
    np.testing.assert_array_equal(answer.positive, expected)
    assert set(answer.positive[:, :2].mean(axis=0)).isdisjoint({0.0, 1.0})


@pytest.mark.parametrize("calibrated", [True, False])
def test_predictions_of_a_file_are_those_of_its_run(
    small_run: Path, small_file: Path, toy_manifest: Manifest, calibrated: bool
) -> None:
    mine = predict_onnx(OnnxDiagnoser(small_file), toy_manifest, fold="test", batch_size=5, calibrated=calibrated)
    run = predict(small_run, toy_manifest, fold="test", calibrated=calibrated, quiet=True)
    np.testing.assert_allclose(mine.scores, run.scores, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(mine.targets, run.targets)
    assert list(mine.image_ids) == list(run.image_ids)
    assert mine.thresholds == run.thresholds
    assert mine.train_counts == run.train_counts
    assert {**run.digests, "onnx": mine.digests["onnx"]} == dict(mine.digests)


@pytest.mark.slow
def test_a_model_that_sees_a_band_is_told_where_the_image_is(make_small_run: MakeRun, tmp_path: Path) -> None:
    run = make_small_run(tmp_path / "run", seeds=(3,), calibrated=False, band=BandConfig(kind="extra", low=20))
    found, torch_run = OnnxDiagnoser(export_onnx(run, tmp_path / "band.onnx")), TorchDiagnoser(run)
    images, boxes = check_images(found.record.pixels, 4)
    told = found.probabilities(images, boxes)
    np.testing.assert_allclose(told, torch_run.probabilities(images, boxes), rtol=0, atol=1e-5)
    assert np.abs(found.probabilities(images) - told)[1].max() > 1e-4, "the bars of this image count"
    np.testing.assert_array_equal(found.probabilities(images)[0], told[0])


def test_the_file_names_no_place_of_the_machine_that_made_it(small_file: Path) -> None:
    content = small_file.read_bytes()
    for place in (Path(medtail.__file__).parent, Path(sys.prefix), small_file.parent, Path(__file__).parents[1]):
        assert str(place).encode() not in content
    assert b"site-packages" not in content


@pytest.mark.slow
def test_a_mirror_image_is_averaged_before_the_link_where_the_run_does_so(
    make_small_run: MakeRun, toy_manifest: Manifest, tmp_path: Path
) -> None:
    run = make_small_run(tmp_path / "run", seeds=(5,), calibrated=False, tta="flip")
    found = predict_onnx(OnnxDiagnoser(export_onnx(run, tmp_path / "flip.onnx")), toy_manifest)
    np.testing.assert_allclose(found.scores, predict(run, toy_manifest, quiet=True).scores, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes(small_run: Path, small_file: Path, tmp_path: Path) -> None:
    assert export_onnx(small_run, tmp_path / "again.onnx").read_bytes() == small_file.read_bytes()


def test_a_file_that_differs_from_torch_is_not_written(
    small_run: Path, small_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(small_file))
    weight = next(item for item in model.graph.initializer if list(item.dims) == [5, 128])
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
    monkeypatch.setattr(exporting, "_trace", lambda *given, **named: model)
    with pytest.raises(MedtailError, match=r"differ from torch's by up to 0\.0\d+; expected at most 0\.0001"):
        export_onnx(small_run, tmp_path / "wrong.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_part_that_cannot_be_exported_is_named(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = LinearHead.answer

    def undecided(self: LinearHead, features: Tensor) -> HeadAnswer:
        answer = plain(self, features)
        return replace(answer, logits=answer.logits * 2) if features.sum() > 0 else answer

    monkeypatch.setattr(LinearHead, "answer", undecided)
    with pytest.raises(MedtailError, match=r"its head \(LinearHead\) cannot be exported to ONNX"):
        export_onnx(small_run, tmp_path / "head.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_for_one_batch_size_only_is_refused() -> None:
    class Counted(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.reshape(len(images), -1).float()

    with pytest.raises(Exception, match=r"for 2 images only|[Cc]onstraints? violated"):
        exporting._to_onnx(Counted().eval(), (torch.zeros(2, 1, 4, 4),), inputs=["images"], outputs=["found"])


def test_scores_that_depend_on_the_batch_are_not_exported(make_small_run: MakeRun, tmp_path: Path) -> None:
    rmsc = RmscConfig(attend=Batch(at_test="mates"), width=16, heads=2, hidden=(8, 8))
    from medtail.models.backbones import ResNetConfig
    from medtail.models.checkpoint import ModelCard, ModelParts, save_model
    from medtail.models.diagnoser import build_diagnoser
    from medtail.pixels.settings import PixelConfig
    from medtail.tables.labels import LabelSpace

    labels = LabelSpace(("a", "b"))
    parts = ModelParts(
        pixels=PixelConfig(size_px=32), backbone=ResNetConfig(), head=CsasnConfig(rmsc=rmsc), link="sigmoid"
    )
    model = build_diagnoser(
        backbone=parts.backbone, head=parts.head, labels=labels, link="sigmoid", channels=1, size_px=32
    )
    save_model(tmp_path / "model", model, ModelCard(labels=labels, parts=parts))
    with pytest.raises(MedtailError, match="scores depend on its company"):
        export_onnx(tmp_path / "model", tmp_path / "mates.onnx")


def test_what_is_too_large_for_one_file_is_refused_before_the_work(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "LARGEST_BYTES", 1000)
    with pytest.raises(MedtailError, match=r"an ONNX file ends at 2 GiB\. Export a member"):
        export_onnx(small_run, tmp_path / "large.onnx")


def test_nothing_is_overwritten(small_run: Path, small_file: Path) -> None:
    with pytest.raises(UsageError, match="exists already"):
        export_onnx(small_run, small_file)


def test_a_missing_package_names_the_extra(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MedtailError, match=r"pip install 'medtail\[onnx\]'"):
        export_onnx(small_run, tmp_path / "a.onnx")
