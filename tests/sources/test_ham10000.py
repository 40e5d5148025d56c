from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medtail.errors import MedtailError
from medtail.sources.ham10000 import import_ham10000

HEADER = "lesion_id,image_id,dx,dx_type,age,sex,localization,dataset"
ROWS = [
    "HAM_0000118,ISIC_0027419,bkl,histo,80.0,male,scalp,vidir_modern",
    "HAM_0000118,ISIC_0025030,bkl,histo,80.0,male,scalp,vidir_modern",
    "HAM_0002730,ISIC_0026769,mel,follow_up,,unknown,unknown,rosendahl",
    "HAM_0001466,ISIC_0031633,nv,consensus,75.0,female,ear,rosendahl",
]


def made_up(folder: Path) -> Path:
    (folder / "HAM10000_metadata.csv").write_text("\n".join([HEADER, *ROWS]) + "\n")
    for index, row in enumerate(ROWS):
        place = folder / f"HAM10000_images_part_{index % 2 + 1}"
        place.mkdir(exist_ok=True)
        Image.new("RGB", (6, 4), (index, 0, 0)).save(place / f"{row.split(',')[1]}.jpg")
    return folder


def test_lesions_are_patients_and_diagnoses_exclude_each_other(tmp_path: Path) -> None:
    manifest = import_ham10000(made_up(tmp_path))
    assert manifest.labels.class_names == ("dx=bkl", "dx=mel", "dx=nv")
    assert manifest.labels.task == "multiclass"
    assert manifest.targets.tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert manifest.frame["patient_id"].tolist() == ["HAM_0000118", "HAM_0000118", "HAM_0002730", "HAM_0001466"]
    assert manifest.frame["path"].iloc[1] == "HAM10000_images_part_2/ISIC_0025030.jpg"
    manifest.check_files()


def test_unknown_metadata_is_empty(tmp_path: Path) -> None:
    row = import_ham10000(made_up(tmp_path)).frame.iloc[2]
    assert (row["sex"], row["meta_localization"], row["meta_dx_type"]) == ("", "", "follow_up")
    assert np.isnan(row["age"])
    assert row["meta_dataset"] == "rosendahl"


def test_the_old_table_without_dataset_is_read(tmp_path: Path) -> None:
    made_up(tmp_path)
    table = pd.read_csv(tmp_path / "HAM10000_metadata.csv").drop(columns="dataset")
    table.to_csv(tmp_path / "HAM10000_metadata.csv", index=False)
    assert "meta_dataset" not in import_ham10000(tmp_path).frame


def test_missing_images_and_columns_are_named(tmp_path: Path) -> None:
    made_up(tmp_path)
    (tmp_path / "HAM10000_images_part_1" / "ISIC_0026769.jpg").unlink()
    with pytest.raises(MedtailError, match=r"row 4, .*'ISIC_0026769\.jpg' in this folder or its sub-folders.*1 of 4"):
        import_ham10000(tmp_path)
    (tmp_path / "HAM10000_metadata.csv").write_text("lesion,image_id,dx\n")
    with pytest.raises(MedtailError, match=r"column 'lesion_id': missing; did you mean 'lesion'"):
        import_ham10000(tmp_path)


def test_missing_table_is_explained(tmp_path: Path) -> None:
    with pytest.raises(MedtailError, match=r"ham10000: no HAM10000_metadata\.csv in .*IMAGE_ID\.jpg in any sub-folder"):
        import_ham10000(tmp_path)
