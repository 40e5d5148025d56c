from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from medtail.errors import MedtailError
from medtail.sources.busi import import_busi


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image, dtype=np.float32) / 255


def picture(seed: int) -> Image.Image:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(96, 96)), 3)
    return Image.fromarray(((noise - noise.min()) / np.ptp(noise) * 255).astype(np.uint8))


def made_up(folder: Path) -> Path:
    names = {"benign": (1, 2, 10), "malignant": (1, 2), "normal": (1,)}
    seed = 0
    for class_name, numbers in names.items():
        (folder / class_name).mkdir(parents=True)
        for number in numbers:
            seed += 1
            picture(seed).save(folder / class_name / f"{class_name} ({number}).png")
            Image.new("L", (96, 96)).save(folder / class_name / f"{class_name} ({number})_mask.png")
    for extra in (1, 2):
        Image.new("L", (96, 96)).save(folder / "benign" / f"benign (2)_mask_{extra}.png")
    return folder


def test_images_masks_and_classes_are_told_apart(tmp_path: Path) -> None:
    manifest = import_busi(made_up(tmp_path), read_image=read)
    assert manifest.frame["image_id"].tolist() == [
        "benign (1)", "benign (2)", "benign (10)", "malignant (1)", "malignant (2)", "normal (1)",
    ]  # fmt: skip
    assert manifest.labels.class_names == ("class=benign", "class=malignant", "class=normal")
    assert manifest.targets.sum(axis=0).tolist() == [3, 2, 1]
    second = manifest.frame.iloc[1]
    assert second["mask_path"] == "benign/benign (2)_mask.png"
    assert second["meta_more_masks"] == "benign/benign (2)_mask_1.png|benign/benign (2)_mask_2.png"
    manifest.check_files()


def test_images_that_look_the_same_are_one_patient_even_across_classes(tmp_path: Path) -> None:
    made_up(tmp_path)
    original = Image.open(tmp_path / "benign" / "benign (10).png")
    original.resize((80, 80)).save(tmp_path / "malignant" / "malignant (2).png")
    patients = import_busi(tmp_path, read_image=read).frame["patient_id"].tolist()
    assert patients == ["benign (1)", "benign (2)", "dup-1", "malignant (1)", "dup-1", "normal (1)"]


def test_wrapping_folder_of_the_archive_is_stepped_into_and_normal_may_be_missing(tmp_path: Path) -> None:
    made_up(tmp_path / "Dataset_BUSI_with_GT")
    assert len(import_busi(tmp_path, read_image=read)) == 6
    for file in (tmp_path / "Dataset_BUSI_with_GT" / "normal").iterdir():
        file.unlink()
    with pytest.raises(MedtailError, match="folder 'normal': holds no images"):
        import_busi(tmp_path, read_image=read)
    (tmp_path / "Dataset_BUSI_with_GT" / "normal").rmdir()
    assert import_busi(tmp_path, read_image=read).labels.num_classes == 2


def test_masks_without_image_and_missing_folders_are_explained(tmp_path: Path) -> None:
    with pytest.raises(MedtailError, match=r"busi: .* holds nothing; expected the layout: folders benign/"):
        import_busi(tmp_path, read_image=read)
    made_up(tmp_path / "data")
    (tmp_path / "data" / "benign" / "benign (1).png").unlink()
    with pytest.raises(MedtailError, match=r"1 masks have no image: benign \(1\)_mask\.png"):
        import_busi(tmp_path, read_image=read)
