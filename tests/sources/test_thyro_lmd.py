from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medtail.errors import MedtailError
from medtail.sources.thyro_lmd import FOCI, GROUPS, LABELS, import_thyro_lmd, labels_from_frame

PLAIN = ("comp_solid", "echo_hypo", "shape_wider", "margin_smooth", "foci_none")


def table(count: int = 4) -> pd.DataFrame:
    cells = {name: [1 if name in PLAIN else 0] * count for name in LABELS.class_names}
    lead = {
        "image_id": [f"i{n}" for n in range(count)],
        "path": [f"images/{n}.png" for n in range(count)],
        "patient_id": [f"p{n}" for n in range(count)],
        "mask_path": ["masks/0.png", *[""] * (count - 1)],
        "size_mm": [12.5] * count,
        "undetermined": [""] * count,
        "pathology": ["benign", "malignant", "", ""][:count],
    }
    return pd.DataFrame(lead | cells)


def write(folder: Path, frame: pd.DataFrame) -> Path:
    for name in ("images", "masks"):
        (folder / name).mkdir(exist_ok=True)
    for number in range(len(frame)):
        Image.new("L", (8, 8)).save(folder / "images" / f"{number}.png")
    Image.new("L", (8, 8)).save(folder / "masks" / "0.png")
    frame.to_csv(folder / "labels.csv", index=False)
    return folder


def test_a_folder_and_its_table_are_the_same_import(tmp_path: Path) -> None:
    write(tmp_path, table())
    manifest = import_thyro_lmd(tmp_path)
    assert manifest.labels == LABELS
    assert manifest.frame["meta_pathology"].tolist() == ["benign", "malignant", "", ""]
    assert manifest.digest == import_thyro_lmd(tmp_path / "labels.csv").digest


def test_missing_images_and_masks_are_named_together(tmp_path: Path) -> None:
    write(tmp_path, table())
    (tmp_path / "images" / "2.png").unlink()
    (tmp_path / "masks" / "0.png").unlink()
    with pytest.raises(MedtailError) as caught:
        import_thyro_lmd(tmp_path)
    assert "row 4, column 'path': no image file 'images/2.png'" in str(caught.value)
    assert "row 2, column 'mask_path': no image file 'masks/0.png'" in str(caught.value)


def test_a_missing_table_is_named_with_what_the_folder_holds(tmp_path: Path) -> None:
    with pytest.raises(MedtailError, match=r"thyro_lmd: nothing at .*nowhere"):
        import_thyro_lmd(tmp_path / "nowhere")
    (tmp_path / "scores.csv").write_text("a\n1\n")
    with pytest.raises(MedtailError, match=r"no labels.csv or labels.parquet .* The folder holds scores.csv"):
        import_thyro_lmd(tmp_path)


def test_impossible_sizes_and_words_are_refused_together() -> None:
    frame = table().astype({"size_mm": object})
    frame.loc[0, "size_mm"] = 0
    frame.loc[1, "size_mm"] = 1250
    frame.loc[2, "pathology"] = "cancer"
    frame.loc[3, "undetermined"] = "composition;colour"
    with pytest.raises(MedtailError) as caught:
        labels_from_frame(frame, name="labels.csv")
    text = str(caught.value)
    assert "row 2, column 'size_mm': found '0.0'; expected a size above 0 and up to 150 mm" in text
    assert "Also row 3" in text
    assert "row 4, column 'pathology': found 'cancer'; expected benign or malignant" in text
    assert "row 5, column 'undetermined': found 'composition;colour'" in text


def test_an_undetermined_group_has_empty_cells() -> None:
    frame = table()
    frame.loc[0, "undetermined"] = "composition"
    with pytest.raises(MedtailError, match="expected empty cells in 'composition' where it is undetermined"):
        labels_from_frame(frame)
    frame = frame.astype(dict.fromkeys(GROUPS["composition"], float))
    frame.loc[0, list(GROUPS["composition"])] = np.nan
    assert labels_from_frame(frame).frame["meta_undetermined"][0] == "composition"


def test_contradictory_groups_and_misspelt_labels_are_refused() -> None:
    frame = table()
    frame.loc[1, "foci_macro"] = 1
    with pytest.raises(MedtailError, match=r"image 'i1', group 'foci': .* expected 'foci_none' to exclude"):
        labels_from_frame(frame)
    with pytest.raises(MedtailError, match="column 'margin_smooth': missing; did you mean 'margin_smoth'"):
        labels_from_frame(table().rename(columns={"margin_smooth": "margin_smoth"}))


def test_rows_and_groups_that_teach_nothing_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frame = table().astype(dict.fromkeys(LABELS.class_names, float))
    frame.loc[1, list(LABELS.class_names)] = np.nan
    frame[list(FOCI)] = np.nan
    with caplog.at_level(logging.WARNING):
        import_thyro_lmd(write(tmp_path, frame))
    assert "nothing was assessed in row 3" in caplog.text
    assert "no row has labels of foci" in caplog.text
