from __future__ import annotations

import logging
from pathlib import Path

import pytest
from PIL import Image

from medtail.errors import MedtailError, UsageError
from medtail.sources.folders import import_folders


def tree(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(folder / name)
    return folder


def test_sub_folders_are_classes_however_deep_the_images_lie(tmp_path: Path) -> None:
    manifest = import_folders(tree(tmp_path, "benign/a.png", "benign/more/b.JPG", "malignant/a.png"))
    assert manifest.labels.class_names == ("class=benign", "class=malignant")
    assert manifest.labels.task == "multiclass"
    assert manifest.frame["image_id"].tolist() == ["benign/a.png", "benign/more/b.JPG", "malignant/a.png"]
    assert manifest.targets.tolist() == [[1, 0], [1, 0], [0, 1]]
    assert not manifest.has_patients
    manifest.check_files()


def test_patient_is_the_group_of_the_pattern(tmp_path: Path) -> None:
    tree(tmp_path, "a/case12_1.png", "a/case12_2.png", "b/case7_1.png")
    manifest = import_folders(tmp_path, patient_pattern=r"case(\d+)_")
    assert manifest.frame["patient_id"].tolist() == ["12", "12", "7"]


def test_images_that_the_pattern_does_not_fit_are_named(tmp_path: Path) -> None:
    tree(tmp_path, "a/case12_1.png", "a/odd.png", "b/case_1.png")
    with pytest.raises(MedtailError, match=r"finds no patient in 2 of 3 paths: a/odd\.png, b/case_1\.png"):
        import_folders(tmp_path, patient_pattern=r"case(\d*)_")


@pytest.mark.parametrize(("pattern", "message"), [("case(", "no regular expression"), (r"\d+", "has 0 groups"),
                                                   (r"(\d)(\d)", "has 2 groups")])  # fmt: skip
def test_useless_patterns_are_usage_errors(tmp_path: Path, pattern: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        import_folders(tree(tmp_path, "a/1.png", "b/2.png"), patient_pattern=pattern)


def test_fold_folders_above_the_classes_become_folds(tmp_path: Path) -> None:
    tree(tmp_path, "train/a/1.png", "train/b/2.png", "val/a/3.png", "Test/b/4.png")
    manifest = import_folders(tmp_path)
    assert manifest.labels.class_names == ("class=a", "class=b")
    found = dict(zip(manifest.frame["image_id"], manifest.folds, strict=True))
    assert found == {"train/a/1.png": "train", "train/b/2.png": "train", "val/a/3.png": "tune", "Test/b/4.png": "test"}


def test_images_outside_class_folders_are_named(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.png", "b/2.png", "loose.png")
    with pytest.raises(MedtailError, match=r"1 images are in no class folder: loose\.png"):
        import_folders(tmp_path)


def test_files_that_are_no_images_are_counted_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a" / "notes.txt").touch()
    (tmp_path / "a" / ".DS_Store").touch()
    with caplog.at_level(logging.WARNING):
        assert len(import_folders(tmp_path)) == 2
    assert "1 files below" in caplog.text


def test_empty_folders_and_a_single_class_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MedtailError, match="no images below"):
        import_folders(tmp_path)
    tree(tmp_path, "a/1.png", "a/2.png")
    with pytest.raises(MedtailError, match="holds only the class 'a'; expected at least two"):
        import_folders(tmp_path)
