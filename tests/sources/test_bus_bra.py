from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medtail.errors import MedtailError
from medtail.sources.bus_bra import import_bus_bra
from medtail.tables.manifest import read_manifest

ROW = {
    "image": "bus_0001-l.jpg", "patient": "1", "histology": "cyst", "pathology": "benign", "birads": "2",
    "device": "GE", "side": "left", "width": "20", "height": "10", "bbox_x": "1", "bbox_y": "2", "bbox_w": "3",
    "bbox_h": "4", "fold5": "1", "orig_width": "40", "orig_height": "20",
}  # fmt: skip


def made_up(folder: Path, *changes: dict[str, str]) -> Path:
    """Write the layout with one row a change of `ROW`."""
    rows = [{**ROW, "image": f"bus_{k:04d}-l.jpg", "patient": str(k), **change} for k, change in enumerate(changes)]
    (folder / "images").mkdir(exist_ok=True)
    for row in rows:
        Image.new("L", (20, 10)).save(folder / "images" / row["image"])
    pd.DataFrame(rows).to_csv(folder / "labels.csv", index=False)
    return folder


def test_real_data_set_has_its_known_images_patients_and_classes(shared_data: Path) -> None:
    manifest = import_bus_bra(shared_data / "bus_bra")
    table = pd.read_csv(shared_data / "bus_bra" / "labels.csv")
    assert len(manifest) == 1492
    assert len(set(manifest.patients)) == table["patient"].nunique()
    assert manifest.labels.task == "multilabel"
    assert [group.name for group in manifest.labels.groups] == ["histology"]
    assert manifest.frame["malignant"].sum() == (table["pathology"] == "malignant").sum() == 486
    for name, count in table["histology"].value_counts().items():
        assert manifest.frame[f"histology={name}"].sum() == count
    assert not np.isnan(manifest.targets).any()
    manifest.check_files()
    assert all((manifest.root / mask).is_file() for mask in manifest.frame["mask_path"])


def test_box_and_metadata_are_the_tables(shared_data: Path) -> None:
    manifest = import_bus_bra(shared_data / "bus_bra")
    first = manifest.frame.iloc[0]
    assert manifest.roi(0) == (65, 17, 76, 58)
    assert (first["image_id"], first["device"], first["meta_birads"]) == ("bus_0001-l", "GE Logiq 7 @10-14MHz", "4")
    assert "spacing_mm" not in manifest.frame


def test_sides_are_views_of_one_lesion_and_not_two_breasts(shared_data: Path) -> None:
    manifest = import_bus_bra(shared_data / "bus_bra")
    assert "laterality" not in manifest.frame
    views = manifest.frame.groupby("patient_id")["view"].agg(lambda sides: "+".join(sorted(sides)))
    assert set(views) == {"left+right", "single"}
    assert (manifest.frame.groupby("patient_id")["malignant"].nunique() == 1).all()


def test_official_fold_becomes_test_and_splits_no_patient(shared_data: Path) -> None:
    manifest = import_bus_bra(shared_data / "bus_bra", test_fold=4)
    assert (manifest.folds == "test").sum() == 365
    assert set(manifest.folds) == {"test", ""}
    is_fourth = (manifest.frame["meta_fold5"] == "4").to_numpy()
    assert ((manifest.folds == "test") == is_fourth).all()
    manifest.check_folds()


def test_manifest_is_written_and_read_back_the_same(shared_data: Path, tmp_path: Path) -> None:
    manifest = import_bus_bra(shared_data / "bus_bra", test_fold=4)
    manifest.write(tmp_path / "manifest.csv")
    again = read_manifest(tmp_path / "manifest.csv")
    again.check_files()
    assert again.labels == manifest.labels
    assert np.array_equal(again.targets, manifest.targets)


def test_unknown_test_fold_is_refused(tmp_path: Path) -> None:
    made_up(tmp_path, {}, {"fold5": "2"})
    with pytest.raises(MedtailError, match=r"no row is in fold 5; expected test_fold to be one of \['1', '2'\]"):
        import_bus_bra(tmp_path, test_fold=5)


def test_missing_table_and_folder_are_explained(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(MedtailError, match=r"bus_bra: no labels\.csv in .* expected the layout: labels\.csv .*images/"):
        import_bus_bra(tmp_path)
    with pytest.raises(MedtailError, match="bus_bra: no folder"):
        import_bus_bra(tmp_path / "nowhere")
    (tmp_path / "bus_data.csv").touch()
    with pytest.raises(MedtailError, match=r"bus_data\.csv, the table of the original release.*layout csv"):
        import_bus_bra(tmp_path)
    with pytest.raises(MedtailError, match="is a file; expected the folder"):
        import_bus_bra(tmp_path / "bus_data.csv")


def test_every_missing_column_is_named_at_once(tmp_path: Path) -> None:
    made_up(tmp_path, {})
    table = pd.read_csv(tmp_path / "labels.csv").rename(columns={"histology": "histologie", "fold5": "x"})
    table.to_csv(tmp_path / "labels.csv", index=False)
    with pytest.raises(MedtailError) as caught:
        import_bus_bra(tmp_path)
    assert "column 'histology': missing; did you mean 'histologie'?" in str(caught.value)
    assert "column 'fold5': missing" in str(caught.value)


def test_missing_images_masks_and_unknown_words_are_named_at_once(tmp_path: Path) -> None:
    made_up(tmp_path, {}, {"pathology": "malignnt"}, {}, {})
    (tmp_path / "images" / "bus_0002-l.jpg").unlink()
    (tmp_path / "images" / "bus_0003-l.jpg").unlink()
    (tmp_path / "masks").mkdir()
    with pytest.raises(MedtailError) as caught:
        import_bus_bra(tmp_path)
    message = str(caught.value)
    assert "row 4, column 'image': no image file 'bus_0002-l.jpg'" in message
    assert "2 of 4 images are missing: bus_0002-l.jpg, bus_0003-l.jpg" in message
    assert "masks: 4 files are missing" in message
    assert "row 3, column 'pathology': found 'malignnt'" in message
    assert "did you mean 'malignant'?" in message


def test_without_masks_folder_there_is_no_mask_column(tmp_path: Path) -> None:
    manifest = import_bus_bra(made_up(tmp_path, {}, {"histology": "lipoma"}))
    assert "mask_path" not in manifest.frame


def test_empty_histology_is_not_assessed(tmp_path: Path) -> None:
    manifest = import_bus_bra(made_up(tmp_path, {}, {"histology": "lipoma"}, {"histology": "", "pathology": ""}))
    assert np.isnan(manifest.targets[2]).all()


def test_copy_elsewhere_gives_the_same_table(shared_data: Path, tmp_path: Path) -> None:
    origin = shared_data / "bus_bra"
    shutil.copytree(origin / "images", tmp_path / "images")
    shutil.copy(origin / "labels.csv", tmp_path)
    copied = import_bus_bra(tmp_path)
    kept = list(copied.frame.columns)
    assert copied.frame.equals(import_bus_bra(origin).frame[kept])
