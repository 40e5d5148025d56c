"""A file is data: it answers without torch, and what is not ours is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError, UsageError
from medtail.exchange.onnx_engine import OnnxDiagnoser, model_digests, open_exported, predict_onnx
from medtail.tables.manifest import Manifest, manifest_from_frame

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def images(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 1, 32, 32)).astype(np.uint8)


def test_a_file_predicts_without_torch(small_file: Path, toy_manifest: Manifest, tmp_path: Path) -> None:
    toy_manifest.write(tmp_path / "toy.csv")
    script = (
        "import sys\nfrom medtail.cli.main import call\n"
        f"code = call(['predict', {str(small_file)!r}, {str(tmp_path / 'toy.csv')!r}, '--fold', 'test', '--out',"
        f" {str(tmp_path / 'p.csv')!r}])\n"
        "heavy = [name for name in ('torch', 'lightning', 'transformers', 'onnx') if name in sys.modules]\n"
        "assert code == 0 and heavy == [], (code, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    expected = predict_onnx(OnnxDiagnoser(small_file), toy_manifest, fold="test")
    found = pd.read_csv(tmp_path / "p.csv", comment="#")
    np.testing.assert_allclose(found[list(expected.labels.class_names)].to_numpy(), expected.scores, atol=1e-12)


def test_an_image_gets_the_same_answer_in_any_company_and_from_any_thread(small_file: Path) -> None:
    found, given = OnnxDiagnoser(small_file, threads=1), images(9)
    together = found.probabilities(given)
    with ThreadPoolExecutor(4) as pool:
        alone = list(pool.map(lambda row: found.probabilities(given[row : row + 1])[0], range(9)))
    np.testing.assert_allclose(np.array(alone), together, rtol=0, atol=1e-6)
    empty = found.answer(images(0))
    assert empty.probabilities.shape == empty.positive.shape == (0, 5)


@pytest.mark.parametrize(
    "given",
    [
        images(2).astype(np.float32),
        images(2)[0],
        np.zeros((2, 3, 32, 32), np.uint8),
        np.zeros((1, 1, 64, 64), np.uint8),
    ],
    ids=["floats", "one image", "colour", "size"],
)
def test_pixels_of_another_kind_are_refused(small_file: Path, given: np.ndarray) -> None:
    with pytest.raises(MedtailError, match=r"expected uint8 \['N', 1, 32, 32\]"):
        OnnxDiagnoser(small_file).probabilities(given)


def test_what_is_no_onnx_file_of_ours_is_refused(small_file: Path, tmp_path: Path) -> None:
    content = small_file.read_bytes()
    for name, bad in (("noise", b"not a model"), ("empty", b""), ("cut", content[: len(content) // 2])):
        (tmp_path / name).write_bytes(bad)
        with pytest.raises(MedtailError, match=r"is not a usable ONNX file|has no metadata|not what its metadata"):
            OnnxDiagnoser(tmp_path / name)
    model = onnx.load(str(small_file))
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / "plain.onnx"))
    with pytest.raises(MedtailError, match="expected a file written by `medtail export"):
        OnnxDiagnoser(tmp_path / "plain.onnx")


def test_a_file_whose_record_promises_other_classes_is_refused(small_file: Path, tmp_path: Path) -> None:
    model = onnx.load(str(small_file))
    for item in model.metadata_props:
        if item.key == "medtail":
            value = json.loads(item.value)
            value["pixels"]["size_px"] = 64
            item.value = json.dumps(value)
    onnx.save(model, str(tmp_path / "other.onnx"))
    with pytest.raises(MedtailError, match="are not what its metadata promises"):
        OnnxDiagnoser(tmp_path / "other.onnx")


def test_a_file_cannot_make_the_engine_read_another_one(
    small_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    onnx.save(onnx.load(str(small_file)), str(tmp_path / "m.onnx"), save_as_external_data=True, location="secret.bin")
    monkeypatch.chdir(tmp_path)
    content = Path("m.onnx").read_bytes()
    onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])  # which would open it, even from bytes
    with pytest.raises(MedtailError, match="keeps weights in another file"):
        OnnxDiagnoser("m.onnx")


def test_a_file_that_only_speaks_of_locations_is_opened(small_file: Path, tmp_path: Path) -> None:
    model = onnx.load(str(small_file))
    model.metadata_props.add(key="remark", value="location")
    onnx.save(model, str(tmp_path / "m.onnx"))
    assert OnnxDiagnoser(tmp_path / "m.onnx").record == OnnxDiagnoser(small_file).record


def test_an_export_is_used_only_with_the_model_it_was_made_of(
    small_run: Path, small_file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    assert open_exported(run).record.digests == model_digests(run)
    calibration = run / "model" / "calibration.json"
    value = json.loads(calibration.read_text())
    calibration.write_text(json.dumps(value | {"num_rows": 11}))
    with pytest.raises(MedtailError, match=r"was exported with another calibration .* export again"):
        open_exported(run)
    calibration.unlink()
    with pytest.raises(MedtailError, match=r"another calibration \(digest \w{12}\) than the run has now \(none\)"):
        open_exported(run)
    (run / "model.onnx").unlink()
    with pytest.raises(UsageError, match="Make it with `medtail export"):
        open_exported(run)


def test_predictions_say_what_is_missing(small_file: Path, toy_manifest: Manifest) -> None:
    found = OnnxDiagnoser(small_file)
    with pytest.raises(MedtailError, match="expected one of"):
        predict_onnx(found, toy_manifest, fold="validation")
    with pytest.raises(MedtailError, match="nothing to predict"):
        predict_onnx(found, toy_manifest, fold="reward")
    frame = toy_manifest.frame.drop(columns=["bright"])
    with pytest.raises(MedtailError, match="lacks 1 of the model's 5 classes: 'bright'"):
        predict_onnx(found, manifest_from_frame(frame, root=toy_manifest.root))


def test_a_missing_package_names_the_extra(small_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MedtailError, match=r"pip install 'medtail\[onnx\]'"):
        OnnxDiagnoser(small_file)
