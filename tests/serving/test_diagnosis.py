from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medtail.errors import MedtailError, UsageError
from medtail.models.checkpoint import load_model
from medtail.models.ml_decoder import MlDecoderConfig
from medtail.models.study_fusion import FusionConfig, StudyFusion
from medtail.models.study_model import StudyDiagnoser, save_study_model
from medtail.pixels.decode import read_image
from medtail.pixels.letterbox import letterbox
from medtail.pixels.settings import PixelConfig
from medtail.runs import write_json
from medtail.serving.diagnosis import Diagnosis, heat_picture, png_bytes
from medtail.tables.manifest import Manifest
from medtail.training.predict import predict

MakeManifest = Callable[..., Manifest]
MakeFile = Callable[..., bytes]


def prepared(
    manifest: Manifest, model: Diagnosis, *, roi: tuple[int, int, int, int] | None = None
) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    return letterbox(read_image(manifest.image_path(0)), config=model.pixels, roi=roi)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_probabilities_are_those_of_predict_to_the_last_bit(
    kind: str, run: Path, diagnosis: Diagnosis, manifest_for: MakeManifest, picture: MakeFile
) -> None:
    manifest = manifest_for(picture(kind, colour=True))
    expected = predict(run, manifest, quiet=True).scores[0]
    np.testing.assert_array_equal(diagnosis.probabilities(*prepared(manifest, diagnosis)), expected)
    assert np.ptp(expected) > 0.01


def test_a_calibrated_ensemble_answers_as_predict_does(calibrated_ensemble: Path, toy_manifest: Manifest) -> None:
    model = Diagnosis(calibrated_ensemble, with_heat=False)
    assert model.evidence.calibrated
    one = toy_manifest.take(np.array([3]))
    expected = predict(calibrated_ensemble, one, quiet=True)
    raw = predict(calibrated_ensemble, one, quiet=True, calibrated=False)
    assert not np.array_equal(raw.scores, expected.scores)
    np.testing.assert_array_equal(model.probabilities(*prepared(one, model)), expected.scores[0])
    found = model.findings(*prepared(one, model), image_id="x")
    assert all(finding.calibrated for finding in found.findings)
    for finding in found.findings:
        assert finding.probability == expected.scores[0, model.class_names.index(finding.name)]
        if finding.threshold is not None:
            assert expected.thresholds is not None
            assert finding.threshold == expected.thresholds[finding.name]


WITHOUT_TORCH = """
import sys
from medtail.serving.app import Service, build_app
from medtail.serving.diagnosis import Diagnosis
from medtail.serving.settings import ServeSettings
import numpy as np
model = Diagnosis(sys.argv[1], with_heat=False, engine="onnx")
settings = ServeSettings(engine="onnx", heat_maps=False)
with Service(model, settings) as service:
    build_app(service)
    service._model.submit(model.findings, np.zeros((1, 32, 32), np.uint8), (0, 0, 32, 32), image_id="x").result()
print("torch" in sys.modules, model.facts()["engine"])
"""


@pytest.mark.slow
def test_the_exported_file_answers_as_predict_does_with_it_and_needs_no_torch(
    run: Path, tmp_path: Path, manifest_for: MakeManifest, picture: MakeFile
) -> None:
    pytest.importorskip("onnxruntime")
    from medtail.exchange.onnx import export_onnx
    from medtail.exchange.onnx_engine import MODEL_FILE, open_exported, predict_onnx

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    card = json.loads((copy / "model/card.json").read_text(encoding="utf-8"))
    write_json(copy / "model/card.json", {**card, "thresholds": None})  # the toy's are for two of its classes
    export_onnx(copy, copy / MODEL_FILE)
    manifest = manifest_for(picture("JPEG", colour=True))
    expected = predict_onnx(open_exported(copy), manifest, cache=tmp_path / "cache").scores[0]
    model = Diagnosis(copy, with_heat=True, engine="onnx")
    square, box = prepared(manifest, model)
    np.testing.assert_array_equal(model.probabilities(square, box), expected)
    assert model.probabilities(square, box).dtype == np.float64
    torch_model = Diagnosis(copy, with_heat=True)
    np.testing.assert_allclose(expected, torch_model.probabilities(square, box), atol=1e-5)
    # heat maps are torch's with either
    for name in ("bright", "rare"):
        heat = model.heat(square, box, class_name=name)
        np.testing.assert_array_equal(heat, torch_model.heat(square, box, class_name=name))
    same = {key: value for key, value in model.facts().items() if key != "engine"}
    assert same == {key: value for key, value in torch_model.facts().items() if key != "engine"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(copy)], check=False, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.split() == ["False", "onnx"], done.stderr


def test_the_onnx_engine_needs_an_exported_file(run: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.onnx: no such file\. Make it with `medtail export"):
        Diagnosis(run, engine="onnx")


def test_a_model_of_studies_is_refused_and_the_image_model_in_it_is_named(run: Path, tmp_path: Path) -> None:
    image_model, card = load_model(run / "model")
    fusion = StudyFusion(
        image_model.backbone.feature_dim,
        card.labels.num_classes,
        config=FusionConfig(width=8, heads=2, inner=8, decoder=MlDecoderConfig(width=8, inner=8)),
    )
    model = StudyDiagnoser(image_model, fusion, link="softmax")
    save_study_model(tmp_path / "study/model", model, replace(card, digests={}), image_model=run / "model")
    with pytest.raises(MedtailError, match="answers for studies") as caught:
        Diagnosis(tmp_path / "study", with_heat=False)
    inner = tmp_path / "study/model/image_model"
    assert str(inner) in str(caught.value)
    assert Diagnosis(inner, with_heat=False).class_names == card.labels.class_names


def test_findings_come_in_descending_order_with_rarity_and_trust(
    diagnosis: Diagnosis, manifest_for: MakeManifest, picture: MakeFile
) -> None:
    found = diagnosis.findings(*prepared(manifest_for(picture()), diagnosis), image_id="x")
    values = [finding.probability for finding in found.findings]
    assert values == sorted(values, reverse=True)
    by_name = {finding.name: finding for finding in found.findings}
    assert by_name["bright"].threshold == 0.4
    assert by_name["bright"].present == (by_name["bright"].probability >= 0.4)
    assert by_name["shape=round"].tail_group == "tail"
    assert by_name["shape=round"].trust.startswith("rare: 1 patient in training")
    assert sum(bool(by_name[f"shape={name}"].present) for name in ("oval", "round", "irregular")) == 1
    assert found.tirads is None
    assert "research use only" in found.cautions[0]


def test_descriptors_give_tirads_with_uncertainty(
    thyroid_run: Path, manifest_for: MakeManifest, picture: MakeFile
) -> None:
    model = Diagnosis(thyroid_run, with_heat=False)
    assert model.has_tirads
    square, box = prepared(manifest_for(picture()), model)
    found = model.findings(square, box, image_id="x", size_mm=12.0)
    assert found.tirads is not None
    assert sum(found.tirads.level_probabilities.values()) == pytest.approx(1)
    assert found.tirads.level_probabilities[found.tirads.level] == max(found.tirads.level_probabilities.values())
    assert sum(found.tirads.advice_probabilities.values()) == pytest.approx(1)
    assert model.findings(square, box, image_id="x").tirads.advice is None  # type: ignore[union-attr]
    other = model.findings(square, box, image_id="x", system="eu").tirads
    assert other is not None
    assert other.system.startswith("EU-TIRADS")
    with pytest.raises(MedtailError, match="size"):
        model.findings(square, box, image_id="x", size_mm=-1.0)


def test_heat_is_a_map_on_the_square_that_differs_between_classes(
    diagnosis: Diagnosis, manifest_for: MakeManifest, picture: MakeFile
) -> None:
    square, box = prepared(manifest_for(picture()), diagnosis)
    maps = [diagnosis.heat(square, box, class_name=name) for name in ("bright", "shape=oval")]
    for found in maps:
        assert found.shape == (32, 32)
        assert found.dtype == np.float32
        assert 0 <= found.min() < found.max() <= 1
        assert not found[: box[1]].any()  # the bars have no heat
    assert np.abs(maps[0] - maps[1]).max() > 0.05


def test_an_ensembles_heat_is_the_mean_of_its_members(calibrated_ensemble: Path, toy_manifest: Manifest) -> None:
    both = Diagnosis(calibrated_ensemble)
    square, box = prepared(toy_manifest.take(np.array([0])), both)
    members = [Diagnosis(calibrated_ensemble / "model" / f"member_{number}") for number in range(2)]
    expected = np.mean([member.heat(square, box, class_name="bright") for member in members], axis=0)
    np.testing.assert_allclose(both.heat(square, box, class_name="bright"), expected, atol=1e-6)


def test_heat_nobody_can_make_is_refused(diagnosis: Diagnosis, run: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'bright'"):
        diagnosis.check_heat("brigth", method=None, branch="joint")
    with pytest.raises(UsageError, match="method: expected one of"):
        diagnosis.check_heat("bright", method="magic", branch="joint")
    with pytest.raises(UsageError, match="branch: expected one of joint"):
        diagnosis.check_heat("bright", method=None, branch="vit")
    with pytest.raises(UsageError, match="not offered"):
        Diagnosis(run, with_heat=False).check_heat("bright", method=None, branch="joint")


def test_features_have_length_one_and_tell_images_apart(
    diagnosis: Diagnosis, manifest_for: MakeManifest, picture: MakeFile
) -> None:
    made = [prepared(manifest_for(picture(seed=seed), name=f"{seed}.png"), diagnosis) for seed in (1, 2, 1)]
    found = diagnosis.features(np.stack([square for square, _ in made]), np.array([box for _, box in made]))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert found[0] @ found[2] == pytest.approx(1, abs=1e-5)
    assert 0 < found[0] @ found[1] < 0.9999


def test_facts_name_what_the_model_takes(diagnosis: Diagnosis, roi_run: Path, thyroid_run: Path) -> None:
    facts = diagnosis.facts()
    assert [known["name"] for known in facts["classes"]] == list(diagnosis.class_names)
    assert facts["needs_roi"] is False
    assert facts["tirads_systems"] == {}
    assert facts["heat_methods"]
    assert facts["classes"][0]["train_positives"] == 300
    assert facts["classes"][4]["rarity"] == "rare"
    assert Diagnosis(roi_run, with_heat=False).facts()["needs_roi"] is True
    assert set(Diagnosis(thyroid_run, with_heat=False).facts()["tirads_systems"]) == {"acr", "c", "eu", "k"}


def test_heat_lands_on_the_region_it_came_from() -> None:
    preview = np.full((50, 100), 90, dtype=np.uint8)  # half of 100 x 200
    pixels = PixelConfig(size_px=16, crop="roi", margin=0.0)
    shown = heat_picture(preview, np.ones((16, 16), np.float32), height=100, width=200, pixels=pixels,
                         roi=(40, 20, 40, 40))  # fmt: skip
    changed = (shown != 90).any(axis=2)
    assert changed[10:30, 20:40].all()
    changed[10:30, 20:40] = False
    assert not changed.any()


def test_a_picture_keeps_its_pixels_and_nothing_else() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    with Image.open(io.BytesIO(png_bytes(pixels))) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)
        assert image.info == {}
