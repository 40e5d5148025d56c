from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medtail.errors import MedtailError
from medtail.sources.nih_cxr import FINDINGS, import_nih_cxr

HEADER_2017 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
ROWS = [
    "00000001_000.png,Cardiomegaly|Emphysema,0,1,058Y,M,PA,2682,2749,0.143,0.143,",
    "00000001_001.png,No Finding,1,1,058Y,M,AP,2894,2729,0.143,0.143,",
    "00000002_000.png,Pleural_Thickening,0,2,006M,F,PA,2500,2048,0.168,0.168,",
    "00000003_000.png,Hernia|Mass|Nodule,0,3,81,F,PA,2582,2991,0.143,0.143,",
]


def official(folder: Path, rows: list[str] | None = None, *, name: str = "Data_Entry_2017.csv") -> Path:
    rows = ROWS if rows is None else rows
    (folder / name).write_text("\n".join([HEADER_2017, *rows]) + "\n", encoding="utf-8")
    for index, line in enumerate(rows):
        place = folder / f"images_{index % 2 + 1:03d}" / "images"
        place.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), index).save(place / line.split(",")[0])
    return folder


def present(folder: Path) -> list[set[str]]:
    manifest = import_nih_cxr(folder)
    return [{FINDINGS[k] for k in np.flatnonzero(target == 1)} for target in manifest.targets]


def test_official_table_of_2017_is_read_with_its_nameless_last_column(tmp_path: Path) -> None:
    manifest = import_nih_cxr(official(tmp_path))
    assert manifest.labels.class_names == FINDINGS
    assert manifest.labels.groups == ()
    assert present(tmp_path) == [
        {"Cardiomegaly", "Emphysema"},
        set(),
        {"Pleural_Thickening"},
        {"Hernia", "Mass", "Nodule"},
    ]
    assert manifest.frame["patient_id"].tolist() == ["1", "1", "2", "3"]
    assert manifest.frame["age"].tolist() == [58, 58, 0.5, 81]
    assert manifest.frame["sex"].tolist() == ["M", "M", "F", "F"]
    assert manifest.frame["view"].tolist() == ["PA", "AP", "PA", "PA"]
    assert manifest.frame["path"].tolist()[:2] == [
        "images_001/images/00000001_000.png", "images_002/images/00000001_001.png",
    ]  # fmt: skip
    manifest.check_files()


def test_official_table_of_2020_is_read(tmp_path: Path) -> None:
    official(tmp_path, name="Data_Entry_2017_v2020.csv")
    table = tmp_path / "Data_Entry_2017_v2020.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(line.removesuffix(",") for line in lines))
    assert len(import_nih_cxr(tmp_path)) == 4


def test_official_lists_make_the_test_fold(tmp_path: Path) -> None:
    official(tmp_path)
    (tmp_path / "test_list.txt").write_text("00000003_000.png\n")
    assert import_nih_cxr(tmp_path).folds.tolist() == ["", "", "", "test"]
    (tmp_path / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png\n00000003_000.png\n")
    with pytest.raises(MedtailError) as caught:
        import_nih_cxr(tmp_path)
    assert "1 images are also in train_val_list.txt: 00000003_000.png" in str(caught.value)
    assert "1 images are in neither train_val_list.txt nor test_list.txt: 00000002_000.png" in str(caught.value)


def test_test_list_of_another_table_is_refused(tmp_path: Path) -> None:
    official(tmp_path)
    (tmp_path / "test_list.txt").write_text("other.png\n")
    with pytest.raises(MedtailError, match="names none of the table's images"):
        import_nih_cxr(tmp_path)


def test_unknown_and_contradicting_findings_and_bad_ages_are_named_at_once(tmp_path: Path) -> None:
    rows = [
        ROWS[0].replace("Emphysema", "Emphysem"),
        ROWS[1].replace("No Finding", "No Finding|Mass"),
        ROWS[2].replace("006M", "young"),
        ROWS[3].replace("Mass", "Emphysem"),
    ]
    with pytest.raises(MedtailError) as caught:
        import_nih_cxr(official(tmp_path, rows))
    message = str(caught.value)
    assert "row 2, column 'Finding Labels': unknown finding 'Emphysem'; did you mean 'Emphysema'? (2 rows)" in message
    assert "row 3, column 'Finding Labels': 'No Finding|Mass' contradicts itself" in message
    assert "row 4, column 'Patient Age': found 'young'" in message


def test_empty_finding_cell_is_not_assessed(tmp_path: Path) -> None:
    rows = [ROWS[0], ROWS[1].replace("No Finding", "")]
    assert np.isnan(import_nih_cxr(official(tmp_path, rows)).targets[1]).all()


def test_images_missing_from_the_folder_are_named(tmp_path: Path) -> None:
    official(tmp_path)
    (tmp_path / "images_001" / "images" / "00000002_000.png").unlink()
    with pytest.raises(MedtailError, match=r"row 4.*no image file '00000002_000\.png'.*1 of 4 images are missing"):
        import_nih_cxr(tmp_path)


def test_images_may_lie_in_another_folder(tmp_path: Path) -> None:
    official(tmp_path)
    (tmp_path / "table").mkdir()
    table = tmp_path / "table" / "Data_Entry_2017.csv"
    (tmp_path / "Data_Entry_2017.csv").rename(table)
    for path in (table, tmp_path / "table"):
        import_nih_cxr(path, images=tmp_path).check_files()
    with pytest.raises(MedtailError, match="4 of 4 images are missing"):
        import_nih_cxr(table, images=tmp_path / "table")


def test_different_images_of_one_name_are_refused_and_copies_are_not(tmp_path: Path) -> None:
    official(tmp_path)
    original = tmp_path / "images_001" / "images" / "00000001_000.png"
    copy = tmp_path / "images_002" / "images" / "00000001_000.png"
    copy.write_bytes(original.read_bytes())
    assert import_nih_cxr(tmp_path).frame["path"].iloc[0] == "images_001/images/00000001_000.png"
    Image.new("L", (8, 8), 99).save(copy)
    with pytest.raises(MedtailError, match=r"image '00000001_000\.png': .* differ; keep one"):
        import_nih_cxr(tmp_path)


def test_two_tables_or_none_are_explained(tmp_path: Path) -> None:
    with pytest.raises(MedtailError, match=r"no Data_Entry_2017\*\.csv or labels\.csv"):
        import_nih_cxr(tmp_path)
    official(tmp_path)
    official(tmp_path, name="Data_Entry_2017_v2020.csv")
    with pytest.raises(MedtailError, match="expected one label table"):
        import_nih_cxr(tmp_path)
    assert len(import_nih_cxr(tmp_path / "Data_Entry_2017.csv")) == 4


def test_missing_columns_of_either_form_are_named(tmp_path: Path) -> None:
    official(tmp_path)
    table = tmp_path / "Data_Entry_2017.csv"
    table.write_text(table.read_text().replace("Patient ID", "Patient"))
    with pytest.raises(MedtailError, match="column 'Patient ID': missing"):
        import_nih_cxr(table)
    table.unlink()
    (tmp_path / "labels.csv").write_text("image,patient,Atelectasis\na.png,1,0\n")
    with pytest.raises(MedtailError, match="column 'Hernia': missing"):
        import_nih_cxr(tmp_path)


def test_table_alone_points_to_where_images_would_be_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = tmp_path / "Data_Entry_2017.csv"
    table.write_text("\n".join([HEADER_2017, *ROWS]))
    with caplog.at_level(logging.WARNING):
        manifest = import_nih_cxr(table)
    assert manifest.image_paths()[0] == tmp_path / "00000001_000.png"
    assert "4 of 4 images are not beside" in caplog.text


def test_real_subset_has_its_known_counts(shared_data: Path) -> None:
    manifest = import_nih_cxr(shared_data / "nih_cxr")
    table = pd.read_csv(shared_data / "nih_cxr" / "labels.csv")
    assert len(manifest) == 1336
    assert np.array_equal(manifest.targets, table[list(FINDINGS)].to_numpy(dtype=np.float32))
    manifest.check_files()


def test_full_real_table_is_read_without_its_images(shared_data: Path) -> None:
    manifest = import_nih_cxr(shared_data / "nih_cxr" / "nih14_labels_full.csv.gz")
    assert len(manifest) == 112_120
    assert len(set(manifest.patients)) == 30_805
    counts = dict(zip(FINDINGS, manifest.targets.sum(axis=0), strict=True))
    assert (counts["Infiltration"], counts["Hernia"]) == (19_870, 227)
