"""BUSI: breast ultrasound, benign, malignant and normal (Al-Dhabyani et al., Data in Brief 2020).

The release names no patients and holds many images twice or nearly so, some of them in two classes. Images that look
the same are therefore grouped and count as one patient, so that no split puts a copy of a training image into
the test fold.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from medtail.errors import MedtailError, Problems, listing
from medtail.sources.gathering import dataset_folder, relative, sub_files
from medtail.tables.duplicates import Reader, near_duplicate_groups
from medtail.tables.labels import one_hot
from medtail.tables.manifest import Manifest, manifest_from_frame

EXPECTED = "folders benign/, malignant/ and normal/ holding 'NAME (k).png' and 'NAME (k)_mask.png'"
CLASSES = ("benign", "malignant", "normal")
MASK = re.compile(r"(?P<image>.+)_mask(?:_(?P<number>\d+))?")


def import_busi(path: Path | str, *, read_image: Reader) -> Manifest:
    """Read BUSI with the exclusive group `class=benign|malignant|normal`.

    Args:
        path: The folder holding the class folders (or the one folder that holds them). `normal/` may be missing.
        read_image: How to decode a file, such as `medtail.pixels.decode.read_image`; used to find near-duplicates.

    Returns:
        A row an image; `patient_id` is `dup-K` for images that look the same and the image's own id for the
        others; the first mask in `mask_path`, further ones in `meta_more_masks` (joined by `|`).

    Raises:
        MedtailError: Class folders are missing or empty, masks have no image, or a file cannot be decoded.

    References:
        aldhabyani2020.
    """
    folder = _class_root(dataset_folder(path, layout="busi", expected=EXPECTED))
    problems = Problems(f"busi: {folder}")
    files: list[Path] = []
    masks: dict[Path, list[Path]] = {}
    for name in CLASSES:
        inside = sub_files(folder / name, endings=(".png",)) if (folder / name).is_dir() else []
        pictures, found = _told_apart(inside)
        orphans = [mask for image, owned in found.items() for mask in owned if image not in set(pictures)]
        if orphans:
            problems.add(f"{len(orphans)} masks have no image: {listing([mask.name for mask in orphans])}.")
        if not pictures and (folder / name).is_dir():
            problems.add(f"folder {name!r}: holds no images; expected {EXPECTED}.")
        files += pictures
        masks |= found
    problems.raise_if_any()

    ids = [file.stem for file in files]
    groups = near_duplicate_groups(files, read=read_image)
    frame = pd.DataFrame(
        {
            "image_id": ids,
            "path": [relative(file, folder) for file in files],
            "patient_id": duplicate_patients(ids, groups),
            "mask_path": [relative(masks[file][0], folder) if file in masks else "" for file in files],
            "meta_more_masks": ["|".join(relative(m, folder) for m in masks.get(file, [])[1:]) for file in files],
            **one_hot([relative(file, folder).split("/")[0] for file in files], group="class"),
        }
    )
    return manifest_from_frame(frame, name=str(folder), root=folder)


def duplicate_patients(image_ids: Sequence[str], groups: np.ndarray) -> list[str]:
    """Name a patient for each image: `dup-K` for groups of several, numbered as they appear, else the image's id.

    Example:
        >>> duplicate_patients(["a", "b", "c"], np.array([4, 7, 4]))
        ['dup-1', 'b', 'dup-1']
    """
    _, position, size = np.unique(groups, return_inverse=True, return_counts=True)
    numbers: dict[int, int] = {}
    patients = []
    for image_id, group in zip(image_ids, position.tolist(), strict=True):
        is_shared = size[group] > 1
        patients.append(f"dup-{numbers.setdefault(group, len(numbers) + 1)}" if is_shared else image_id)
    return patients


def _class_root(folder: Path) -> Path:
    """Step into the one folder that the archive wraps around the classes (`Dataset_BUSI_with_GT`)."""
    candidates = [folder, *sorted(item for item in folder.iterdir() if item.is_dir())]
    for candidate in candidates:
        if all((candidate / name).is_dir() for name in ("benign", "malignant")):
            return candidate
    held = sorted(item.name + ("/" if item.is_dir() else "") for item in folder.iterdir())
    raise MedtailError(
        f"busi: {str(folder)!r} holds {listing(held, limit=6) if held else 'nothing'}; expected the layout: {EXPECTED}."
    )


def _told_apart(files: Sequence[Path]) -> tuple[list[Path], dict[Path, list[Path]]]:
    """Split files into images and masks, the masks of an image in their numbers' order."""
    images: list[Path] = []
    numbered: dict[Path, list[tuple[int, Path]]] = {}
    for file in files:
        match = MASK.fullmatch(file.stem)
        if match is None:
            images.append(file)
        else:
            owner = file.with_name(match["image"] + file.suffix)
            numbered.setdefault(owner, []).append((int(match["number"] or 0), file))
    images.sort(key=_natural)
    return images, {owner: [file for _, file in sorted(owned)] for owner, owned in numbered.items()}


def _natural(file: Path) -> tuple[str, int, str]:
    match = re.search(r"\((\d+)\)", file.stem)
    return (str(file.parent), int(match[1]) if match else 0, file.name)
