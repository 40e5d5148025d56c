from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medtail.errors import MedtailError
from medtail.sources.breast_usg import import_breast_usg
from medtail.tables.manifest import Manifest

ROW = {
    "image": "case001.jpg", "mask": "", "width": "100", "height": "80", "bbox_x": "1", "bbox_y": "2",
    "bbox_w": "3", "bbox_h": "4", "caseid": "1", "pixel_size": "0.01", "age": "57",
    "tissue_composition": "homogeneous: fat", "shape": "oval", "margin": "circumscribed", "echogenicity": "hypoechoic",
    "posterior_features": "no", "halo": "no", "calcifications": "no", "skin_thickening": "no", "birads": "2",
    "verification": "confirmed by biopsy", "diagnosis": "Fibroadenoma", "classification": "benign",
    "orig_width": "200", "orig_height": "160",
}  # fmt: skip
LESION = ("shape", "margin", "echogenicity", "posterior_features", "halo", "calcifications")


def made_up(folder: Path, *changes: dict[str, str]) -> Manifest:
    rows = [{**ROW, "image": f"case{k:03d}.jpg", "caseid": str(k), **change} for k, change in enumerate(changes)]
    (folder / "images").mkdir(exist_ok=True)
    for row in rows:
        Image.new("L", (20, 10)).save(folder / "images" / row["image"])
    pd.DataFrame(rows).to_csv(folder / "labels.csv", index=False)
    return import_breast_usg(folder)


def row(manifest: Manifest, index: int, prefix: str) -> dict[str, float]:
    names = [name for name in manifest.labels.class_names if name.startswith(prefix)]
    return {name.removeprefix(prefix): float(manifest.frame[name].iloc[index]) for name in names}


def test_real_data_set_has_its_known_shape(shared_data: Path) -> None:
    manifest = import_breast_usg(shared_data / "breast_usg")
    assert len(manifest) == len(set(manifest.patients)) == 256
    assert {group.name: len(group.classes) for group in manifest.labels.groups} == {
        "shape": 3, "echogenicity": 6, "posterior": 4,
    }  # fmt: skip
    assert len(manifest.labels.free_indices) == 11
    counts = manifest.frame[list(manifest.labels.class_names)].sum()
    assert counts["shape=irregular"] == 140
    assert counts["posterior=none"] == 159
    assert counts["margin_circumscribed"] == 115
    assert counts["calcification_intraductal"] == counts["calcification_indefinable"] == 2
    assert counts["malignant"] == 98
    manifest.check_files()


def test_combined_margins_of_the_real_table_are_counted_by_a_second_reading(shared_data: Path) -> None:
    manifest = import_breast_usg(shared_data / "breast_usg")
    cells = pd.read_csv(shared_data / "breast_usg" / "labels.csv")["margin"]
    for kind in ("indistinct", "angular", "microlobulated", "spiculated"):
        assert manifest.frame[f"margin_{kind}"].tolist() == cells.str.contains(kind).astype(float).tolist()


def test_normal_cases_have_zero_in_every_lesion_descriptor_and_no_box(shared_data: Path) -> None:
    manifest = import_breast_usg(shared_data / "breast_usg")
    normal = (manifest.frame["meta_birads"] == "1").to_numpy()
    assert normal.sum() == 4
    assert (manifest.targets[normal] == 0).all()
    assert [manifest.roi(int(index)) for index in np.flatnonzero(normal)] == [None] * 4
    assert (manifest.frame["mask_path"][normal] == "").all()


def test_spacing_is_that_of_the_stored_image_in_mm(shared_data: Path, tmp_path: Path) -> None:
    # 0.01 cm an original pixel, reduced to half: 0.2 mm a stored pixel
    assert made_up(tmp_path, {}).frame["spacing_mm"].tolist() == [pytest.approx(0.2)]
    manifest = import_breast_usg(shared_data / "breast_usg")
    assert manifest.frame["spacing_mm"].iloc[0] == pytest.approx(0.0078125 * 10 * 485 / 231)
    with Image.open(manifest.image_path(0)) as image:
        depth_mm = image.height * manifest.frame["spacing_mm"].iloc[0]
    assert 20 < depth_mm < 80  # a breast scan is a few centimetres deep


def test_margins_combine(tmp_path: Path) -> None:
    manifest = made_up(
        tmp_path, {}, {"margin": "not circumscribed - angular&indistinct"}, {"margin": "not circumscribed"},
        {"margin": "not available"}, {"margin": "not applicable"},
    )  # fmt: skip
    kinds = ("circumscribed", "indistinct", "angular", "microlobulated", "spiculated")
    assert row(manifest, 0, "margin_") == {**dict.fromkeys(kinds, 0.0), "circumscribed": 1.0}
    assert row(manifest, 1, "margin_") == {**dict.fromkeys(kinds, 0.0), "indistinct": 1.0, "angular": 1.0}
    unspecific = row(manifest, 2, "margin_")
    assert unspecific.pop("circumscribed") == 0
    assert np.isnan(list(unspecific.values())).all()
    assert np.isnan(list(row(manifest, 3, "margin_").values())).all()
    assert row(manifest, 4, "margin_") == dict.fromkeys(kinds, 0.0)


def test_not_applicable_is_absent_and_not_available_is_unknown(tmp_path: Path) -> None:
    manifest = made_up(
        tmp_path, {}, dict.fromkeys(LESION, "not applicable"),
        dict.fromkeys((*LESION, "skin_thickening"), "not available"),
        {"age": "not available", "tissue_composition": "not available", "classification": "normal"},
    )  # fmt: skip
    assert (manifest.targets[1] == 0).all()
    malignant = manifest.labels.index("malignant")
    assert np.isnan(np.delete(manifest.targets[2], malignant)).all()
    assert manifest.targets[2, malignant] == 0
    assert np.isnan(manifest.frame["age"].iloc[3])
    assert manifest.frame["meta_tissue"].tolist()[2:] == ["homogeneous: fat", ""]


def test_calcifications_may_be_joined(tmp_path: Path) -> None:
    manifest = made_up(tmp_path, {"calcifications": "in a mass&intraductal"}, {"calcifications": "indefinable"}, {})
    assert row(manifest, 0, "calcification_") == {"in_mass": 1, "intraductal": 1, "indefinable": 0}
    assert row(manifest, 1, "calcification_") == {"in_mass": 0, "intraductal": 0, "indefinable": 1}
    assert row(manifest, 2, "calcification_") == {"in_mass": 0, "intraductal": 0, "indefinable": 0}


def test_words_outside_the_vocabulary_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(MedtailError) as caught:
        made_up(
            tmp_path, {"shape": "ovall"}, {"margin": "circumscribed - angular"},
            {"margin": "not circumscribed - fuzzy"}, {"calcifications": "in the mass"}, {"halo": "perhaps"},
            {"age": "old"}, {"pixel_size": "0"}, {"echogenicity": "echoic"}, {"classification": "begnin"},
        )  # fmt: skip
    message = str(caught.value)
    assert "row 2, column 'shape': found 'ovall'" in message
    assert "did you mean 'oval'?" in message
    assert "row 3, column 'margin': found 'circumscribed - angular'" in message
    assert "Also rows 4" in message
    assert "row 5, column 'calcifications': found 'in the mass'" in message
    assert "row 6, column 'halo': found 'perhaps'" in message
    assert "row 7, column 'age': found 'old'" in message
    assert "row 8, column 'pixel_size': found '0'; expected a number above 0" in message
    assert "row 9, column 'echogenicity': found 'echoic'" in message
    assert "row 10, column 'classification': found 'begnin'" in message


def test_table_without_mask_column_is_fine_unless_there_are_masks(tmp_path: Path) -> None:
    made_up(tmp_path, {})
    pd.read_csv(tmp_path / "labels.csv").drop(columns="mask").to_csv(tmp_path / "labels.csv", index=False)
    assert "mask_path" not in import_breast_usg(tmp_path).frame
    (tmp_path / "masks").mkdir()
    with pytest.raises(MedtailError, match="column 'mask': missing"):
        import_breast_usg(tmp_path)


def test_missing_table_is_explained(tmp_path: Path) -> None:
    with pytest.raises(MedtailError, match=r"breast_usg: no labels\.csv in .* The folder holds nothing"):
        import_breast_usg(tmp_path)
