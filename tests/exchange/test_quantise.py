"""Int8 is measured on tune before it is kept, and answers for an image whatever its company."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medtail.errors import MedtailError, UsageError
from medtail.exchange import quantise
from medtail.exchange.onnx_engine import OnnxDiagnoser, predict_onnx
from medtail.exchange.quantise import Quantised, Scheme, quantise_onnx
from medtail.tables.manifest import Manifest

pytest.importorskip("onnxruntime")
MADE = Quantised(
    path=None, scheme="static", bytes_before=4_000_000, bytes_after=1_000_000, images=10, patients=5, ap_before=0.5,
    ap_after=0.495, low=-0.012, high=0.004, accept_loss=0.01, largest_change=0.1, decisions_changed=0.02,
)  # fmt: skip


def test_the_intervals_worst_end_decides() -> None:
    assert not MADE.accepted, "the difference itself is small, but it may be 0.012"
    assert replace(MADE, accept_loss=0.012).accepted
    assert replace(MADE, ap_after=0.5, low=np.nan, high=np.nan).accepted, "nothing changed"
    assert not replace(MADE, low=np.nan, high=np.nan, accept_loss=1.0).accepted, "no interval, no verdict"
    assert "macro AP 0.5000 becomes 0.4950, -0.0050 (95 % over patients [-0.0120, +0.0040])" in MADE.text()
    assert "no interval" in replace(MADE, low=np.nan).text()
    assert replace(MADE, low=np.nan).to_json()["low"] is None


@pytest.mark.parametrize("scheme", ["dynamic", "static"])
def test_an_int8_file_is_smaller_says_what_it_lost_and_answers_alone_as_in_a_batch(
    scheme: Scheme, small_file: Path, toy_manifest: Manifest, tmp_path: Path
) -> None:
    made = quantise_onnx(small_file, tmp_path / "int8.onnx", toy_manifest, scheme=scheme, accept_loss=1.0)
    assert made.path == tmp_path / "int8.onnx"
    assert made.accepted
    assert made.bytes_after < made.bytes_before
    assert 0 < made.largest_change < 0.2
    assert made.images == (toy_manifest.folds == "tune").sum()
    found, before = OnnxDiagnoser(made.path), OnnxDiagnoser(small_file)
    assert found.record.precision == "int8"
    assert found.record.quantisation["scheme"] == scheme
    assert found.record.quantisation["low"] == made.to_json()["low"]
    assert found.record.digests == before.record.digests
    scores = [predict_onnx(item, toy_manifest, fold="tune").scores for item in (found, before)]
    assert np.abs(scores[0] - scores[1]).max() == pytest.approx(made.largest_change, abs=1e-6)
    images = np.random.default_rng(0).integers(0, 256, (6, 1, 32, 32)).astype(np.uint8)
    images[3:] //= 8  # of another range than their mates
    alone = np.concatenate([found.probabilities(image[None]) for image in images])
    np.testing.assert_allclose(alone, found.probabilities(images), rtol=0, atol=1e-6)


def test_what_loses_too_much_is_not_written(
    small_file: Path, toy_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(before: OnnxDiagnoser, *given: object, **named: object) -> Quantised:
        return replace(MADE, path=None)

    monkeypatch.setattr(quantise, "_judge", spoil)
    made = quantise_onnx(small_file, tmp_path / "int8.onnx", toy_manifest, scheme="dynamic")
    assert made.path is None
    assert not made.accepted
    assert list(tmp_path.glob("*.onnx")) == []


def test_convolutions_ask_for_static_ranges_and_matrices_for_dynamic_ones(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper, save

    def file(kernel: int, inner: int) -> Path:
        conv = numpy_helper.from_array(np.ones((kernel, 1, 3, 3), np.float32), "conv")
        matrix = numpy_helper.from_array(np.ones((4, inner), np.float32), "matrix")
        nodes = [helper.make_node("Conv", ["x", "conv"], ["y"]), helper.make_node("MatMul", ["y", "matrix"], ["z"])]
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "z")]
        graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [conv, matrix])
        save(helper.make_model(graph), str(tmp_path / "m.onnx"))
        return tmp_path / "m.onnx"

    assert quantise._cheaper(file(kernel=100, inner=10)) == "static"
    assert quantise._cheaper(file(kernel=2, inner=100)) == "dynamic"


def test_ranges_are_never_taken_from_tune_test_or_generated_images(toy_manifest: Manifest) -> None:
    made = np.where(np.arange(len(toy_manifest)) % 4 == 0, "synthetic", "real")
    mixed = replace(toy_manifest, frame=toy_manifest.frame.assign(origin=made))
    rows = quantise._range_rows(mixed, seed=0)
    assert set(rows.folds) == {"train"}
    assert set(rows.frame["origin"]) == {"real"}
    again = quantise._range_rows(mixed, seed=0)
    assert list(rows.frame["image_id"]) == list(again.frame["image_id"])


def test_mistakes_are_named(small_file: Path, toy_manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists already"):
        quantise_onnx(small_file, small_file, toy_manifest)
    with pytest.raises(MedtailError, match=r"accept_loss: found -0\.1"):
        quantise_onnx(small_file, tmp_path / "a.onnx", toy_manifest, accept_loss=-0.1)
    with pytest.raises(MedtailError, match="no row is in 'tune'; the loss is measured there"):
        quantise_onnx(small_file, tmp_path / "a.onnx", toy_manifest.in_fold("train"))
    int8 = quantise_onnx(small_file, tmp_path / "int8.onnx", toy_manifest, scheme="dynamic", accept_loss=1.0)
    with pytest.raises(MedtailError, match="is int8 already"):
        quantise_onnx(int8.path or "", tmp_path / "a.onnx", toy_manifest)
