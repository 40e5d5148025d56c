from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medtail.errors import MedtailError, UsageError
from medtail.pixels.decode import read_image
from medtail.pixels.letterbox import letterbox
from medtail.pixels.settings import PixelConfig
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
