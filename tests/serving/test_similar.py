from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medtail.errors import MedtailError
from medtail.pixels.decode import read_image
from medtail.pixels.letterbox import letterbox
from medtail.serving.diagnosis import Diagnosis
from medtail.serving.similar import SimilarCases, read_cases
from medtail.tables.manifest import Manifest, manifest_from_frame

FOLDS = ["train"] * 9 + ["tune", "test", "test"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Twelve images of six patients."""
    folder, random, rows = tmp_path_factory.mktemp("cases"), np.random.default_rng(0), []
    for index, fold in enumerate(FOLDS):
        pixels = random.integers(0, 100 + 14 * index, (40, 48)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        named = {"image_id": f"i{index}", "path": f"{index}.png", "patient_id": f"patient{index // 2}", "fold": fold}
        shapes = {f"shape={name}": int(index % 3 == place) for place, name in enumerate(("irregular", "oval", "round"))}
        rows.append({**named, "bright": index % 2, "rare": None if index == 1 else 0, **shapes})
    made = manifest_from_frame(pd.DataFrame(rows), name="cases.csv", root=folder)
    made.write(folder / "cases.csv")
    return made


@pytest.fixture(scope="module")
def cases(manifest: Manifest, diagnosis: Diagnosis) -> SimilarCases:
    return read_cases(manifest.root / "cases.csv", diagnosis)


def test_only_train_images_are_shown(cases: SimilarCases, manifest: Manifest) -> None:
    assert set(cases.manifest.folds) == {"train"}
    assert len(cases) == int((manifest.folds == "train").sum()) == len(cases.features) == 9


def test_an_image_is_nearest_to_itself_and_a_patient_comes_once(cases: SimilarCases, diagnosis: Diagnosis) -> None:
    square, box = letterbox(read_image(cases.manifest.image_path(7)), config=diagnosis.pixels)
    nearest = cases.nearest(diagnosis.features(square[None], np.array([box]))[0], count=4)
    assert nearest[0][0] == 7
    assert nearest[0][1] == pytest.approx(1, abs=1e-5)
    likeness = [value for _, value in nearest]
    assert likeness == sorted(likeness, reverse=True)
    patients = [cases.manifest.patients[row] for row, _ in nearest]
    assert len(set(patients)) == len(patients) == 4


def test_a_case_tells_its_labels_and_never_its_patient(cases: SimilarCases) -> None:
    for row in range(len(cases)):
        told = cases.describe(row, 0.5)
        assert str(cases.manifest.patients[row]) not in str(told)
        expected = [
            n for n, v in zip(cases.manifest.labels.class_names, cases.manifest.targets[row], strict=True) if v == 1
        ]
        assert told["present"] == expected


def test_a_case_shows_what_the_model_saw(cases: SimilarCases, diagnosis: Diagnosis) -> None:
    square, _ = letterbox(read_image(cases.manifest.image_path(2)), config=diagnosis.pixels)
    np.testing.assert_array_equal(cases.picture(2), square[0])


def test_a_manifest_without_train_rows_or_classes_is_refused(
    manifest: Manifest, tmp_path: Path, diagnosis: Diagnosis
) -> None:
    manifest.in_fold("test").write(tmp_path / "test.csv")
    with pytest.raises(MedtailError, match="no real row in the train fold"):
        read_cases(tmp_path / "test.csv", diagnosis)
    manifest.with_classes(["bright"]).write(tmp_path / "less.csv")
    with pytest.raises(MedtailError, match="lacks 4 of the model's 5 classes"):
        read_cases(tmp_path / "less.csv", diagnosis)
