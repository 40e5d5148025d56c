from __future__ import annotations

from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medtail.errors import MedtailError
from medtail.sources.csv import import_csv
from medtail.tables.manifest import Manifest
from medtail.tables.places import Remote


def table(folder: Path, **columns: list[object]) -> Path:
    """Write a table, and an image file for every cell of its first column."""
    first = next(iter(columns.values()))
    for name in first:
        (folder / str(name)).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(folder / str(name))
    pd.DataFrame(columns).to_csv(folder / "labels.csv", index=False)
    return folder / "labels.csv"


def column(manifest: Manifest, name: str) -> list[float]:
    return [float(value) for value in manifest.frame[name]]


def test_one_name_a_cell_makes_an_exclusive_group(tmp_path: Path) -> None:
    path = table(tmp_path, image=["a.png", "b.png", "c.png"], case=["1", "1", "2"], dx=["nv", "mel", ""])
    manifest = import_csv(path, patient_column="case", label_column="dx")
    assert manifest.labels.task == "multiclass"
    assert manifest.labels.class_names == ("dx=mel", "dx=nv")
    assert manifest.targets[:2].tolist() == [[0, 1], [1, 0]]
    assert np.isnan(manifest.targets[2]).all()
    assert manifest.frame["patient_id"].tolist() == ["1", "1", "2"]
    assert manifest.frame["image_id"].tolist() == ["a.png", "b.png", "c.png"]
    manifest.check_files()


@pytest.mark.parametrize("mark", ["|", ";", "&"])
def test_joined_names_make_free_classes(tmp_path: Path, mark: str) -> None:
    cells = [f"Mass{mark} Edema", "Mass", "No Finding", ""]
    path = table(tmp_path, image=["a.png", "b.png", "c.png", "d.png"], labels=cells)
    manifest = import_csv(path, label_column="labels", negative=["No Finding"])
    assert manifest.labels.class_names == ("Edema", "Mass")
    assert manifest.labels.groups == ()
    assert manifest.targets[:3].tolist() == [[1, 1], [0, 1], [0, 0]]
    assert np.isnan(manifest.targets[3]).all()


def test_separator_may_be_named_and_must_be_where_two_could_be_meant(tmp_path: Path) -> None:
    path = table(tmp_path, image=["a.png", "b.png"], labels=["a&b|c", "c"])
    with pytest.raises(MedtailError, match=r"could be joined by '\|' or by '&'; expected one way"):
        import_csv(path, label_column="labels")
    assert import_csv(path, label_column="labels", separator="|").labels.class_names == ("a&b", "c")


def test_zero_one_columns_are_classes_and_other_columns_are_left(tmp_path: Path) -> None:
    path = table(
        tmp_path, image=["a.png", "b.png"], Mass=[1, 0], Hernia=["", 1], note=["x", "y"], scanner=["s", "t"],
    )  # fmt: skip
    manifest = import_csv(path, label_columns=["Hernia", "Mass"], keep=["scanner"])
    assert manifest.labels.class_names == ("Hernia", "Mass")
    assert column(manifest, "Mass") == [1, 0]
    assert np.isnan(manifest.targets[0, 0])
    assert manifest.frame["meta_scanner"].tolist() == ["s", "t"]
    assert "meta_note" not in manifest.frame
    assert not manifest.has_patients


def test_columns_with_manifest_names_are_kept_as_they_are(tmp_path: Path) -> None:
    path = table(
        tmp_path, path=["x/a.png", "x/b.png"], image_id=["A", "B"], patient_id=["p", "q"], fold=["train", "test"],
        age=[50, ""], meta_ward=["3", "4"], Mass=[1, 0],
    )  # fmt: skip
    manifest = import_csv(path, label_columns=["Mass"])
    frame = manifest.frame
    assert frame["image_id"].tolist() == ["A", "B"]
    assert frame["fold"].tolist() == ["train", "test"]
    assert frame["patient_id"].tolist() == ["p", "q"]
    assert frame["age"].tolist()[0] == 50
    assert frame["meta_ward"].tolist() == ["3", "4"]


def test_images_folder_is_where_paths_start(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    path = table(tmp_path / "pictures", image=["a.png", "b.png"], dx=["x", "y"])
    elsewhere = tmp_path / "table.csv"
    path.rename(elsewhere)
    manifest = import_csv(elsewhere, label_column="dx", images=tmp_path / "pictures")
    manifest.check_files()
    with pytest.raises(MedtailError, match=r"images: no folder '.*nowhere'"):
        import_csv(elsewhere, label_column="dx", images=tmp_path / "nowhere")


def test_unknown_columns_are_all_named_at_once(tmp_path: Path) -> None:
    path = table(tmp_path, file=["a.png"], diagnosis=["x"])
    with pytest.raises(MedtailError) as caught:
        import_csv(path, image_column="files", patient_column="case", label_column="diagnose", keep=["ward"])
    message = str(caught.value)
    assert "column 'files': missing; did you mean 'file'?" in message
    assert "column 'case': missing. Columns found: file, diagnosis" in message
    assert "column 'diagnose': missing; did you mean 'diagnosis'?" in message
    assert "column 'ward': missing" in message


def test_unnamed_labels_and_images_are_asked_for(tmp_path: Path) -> None:
    path = table(tmp_path, picture=["a.png"], dx=["x"])
    with pytest.raises(MedtailError) as caught:
        import_csv(path)
    assert "images: no column was named; expected image_column" in str(caught.value)
    assert "labels: no column was named" in str(caught.value)
    assert "Columns left: picture, dx" in str(caught.value)


def test_two_usual_image_columns_are_asked_about(tmp_path: Path) -> None:
    path = table(tmp_path, image=["a.png"], file=["a.png"], dx=["x"])
    with pytest.raises(MedtailError, match="both 'image' and 'file' could be it"):
        import_csv(path, label_column="dx")


def test_missing_images_are_named_and_counted(tmp_path: Path) -> None:
    path = table(tmp_path, image=[f"{k}.png" for k in range(9)], dx=list("ababababa"))
    for k in range(2, 8):
        (tmp_path / f"{k}.png").unlink()
    with pytest.raises(MedtailError) as caught:
        import_csv(path, label_column="dx")
    assert "row 4, column 'image': no image file '2.png'; sought" in str(caught.value)
    assert "6 of 9 images are missing: 2.png, 3.png, 4.png, 5.png and 2 more" in str(caught.value)


def test_class_with_a_metadata_name_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path, image=["a.png", "b.png"], labels=["age|Mass", "Mass"])
    with pytest.raises(MedtailError, match="class 'age': bears the name of a metadata column"):
        import_csv(path, label_column="labels")


def test_wrong_label_values_and_empty_labels_are_refused(tmp_path: Path) -> None:
    path = table(tmp_path, image=["a.png", "b.png"], Mass=[2, 0], dx=["", ""])
    with pytest.raises(MedtailError, match=r"labels\.csv, row 2, column 'Mass': found '2'; expected 1"):
        import_csv(path, label_columns=["Mass"])
    with pytest.raises(MedtailError, match="no class was found; every label cell is empty"):
        import_csv(path, label_column="dx")


def test_empty_and_missing_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MedtailError, match="no such file"):
        import_csv(tmp_path / "none.csv", label_column="dx")
    (tmp_path / "bare.csv").write_text("image,dx\n")
    with pytest.raises(MedtailError, match="no rows: found only the header"):
        import_csv(tmp_path / "bare.csv", label_column="dx")


def test_images_may_be_in_a_folder_behind_a_url_or_named_by_urls_of_their_own(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("a.png", "sub/b.png"):
        memory.pipe(f"/csv/{name}", b"1")
    path = table(tmp_path, image=["c.png"], x=[1])
    pd.DataFrame({"image": ["a.png", "sub/b.png"], "x": [0, 1]}).to_csv(path, index=False)
    found = import_csv(path, label_columns=["x"], images="memory://csv")
    assert found.image_paths() == [Remote("memory://csv/a.png"), Remote("memory://csv/sub/b.png")]
    pd.DataFrame({"image": ["memory://csv/a.png", "c.png"], "x": [0, 1]}).to_csv(path, index=False)
    found = import_csv(path, label_columns=["x"])
    assert found.image_paths() == [Remote("memory://csv/a.png"), tmp_path / "c.png"]
    pd.DataFrame({"image": ["memory://csv/z.png", "s4://csv/a.png"], "x": [0, 1]}).to_csv(path, index=False)
    with pytest.raises(MedtailError, match=r"found 's4://csv/a\.png'; 's4' is no kind of URL"):
        import_csv(path, label_columns=["x"])
    with pytest.raises(MedtailError, match=r"no image file 'a\.png'; sought 'memory://elsewhere/a\.png'"):
        import_csv(table(tmp_path, image=["a.png"], x=[1]), label_columns=["x"], images="memory://elsewhere")
    memory.store.clear()
