"""BUS-BRA: breast ultrasound with histology, from four scanners (Gómez-Flores et al., Medical Physics 2024).

Reads `labels.csv` beside `images/` and `masks/`. Two classes of task stand side by side: `malignant`, and
the 20-odd histologies as one exclusive group with a long tail.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from medtail.errors import MedtailError, Problems
from medtail.sources.gathering import (
    add_missing_columns,
    add_missing_images,
    boxes,
    dataset_file,
    dataset_folder,
    mapped,
    masks,
    text_column,
)
from medtail.tables.frames import read_table
from medtail.tables.labels import one_hot
from medtail.tables.manifest import Manifest, manifest_from_frame

EXPECTED = "labels.csv (image, patient, histology, pathology, …), images/ and, if wanted, masks/"
BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
COLUMNS = ("image", "patient", "histology", "pathology", "birads", "device", "side", *BOX, "fold5")
PATHOLOGY = {"malignant": 1.0, "benign": 0.0, "": np.nan}


def import_bus_bra(path: Path | str, *, test_fold: int | None = None) -> Manifest:
    """Read the BUS-BRA layout.

    Classes: `malignant`, and `histology=NAME` for every histology of the table, excluding each other. `side`
    (left, right or single) becomes `view`: every patient with two images has one `left` and one `right`, of the
    same lesion, so that they are the halves of one screen and not two breasts. Spacing is not published.

    Args:
        path: The folder holding `labels.csv`, `images/` and, if wanted, `masks/`.
        test_fold: Which of the official patient-disjoint folds (`fold5`) becomes `test`; the other rows get no fold
            yet. None leaves all folds empty.

    Returns:
        A row an image, with `device`, `view`, the lesion box as roi, masks, `meta_birads` and `meta_fold5`.

    Raises:
        MedtailError: A file, column or image is missing, a word is unknown, or no row is in `test_fold`; all
            mistakes at once.

    References:
        gomezflores2024.
    """
    folder = dataset_folder(path, layout="bus_bra", expected=EXPECTED)
    table = _table(folder)
    frame, _ = read_table(table, what="label table")
    problems = Problems(str(table))
    add_missing_columns(problems, frame, COLUMNS)
    problems.raise_if_any()

    images = text_column(frame, "image")
    files = [folder / "images" / name for name in images]
    add_missing_images(problems, files, images)
    columns: dict[str, object] = {
        "image_id": [Path(name).stem for name in images],
        "path": [f"images/{name}" for name in images],
        "patient_id": text_column(frame, "patient"),
        "fold": _fold(text_column(frame, "fold5"), test_fold=test_fold, problems=problems),
        "device": text_column(frame, "device"),
        "view": text_column(frame, "side"),
        **boxes(frame, BOX),
        "meta_birads": text_column(frame, "birads"),
        "meta_fold5": text_column(frame, "fold5"),
    }
    if (folder / "masks").is_dir():
        named = [Path(name).stem + ".png" for name in images]
        columns["mask_path"] = masks(folder / "masks", named, problems=problems, root=folder)
    columns["malignant"] = mapped(text_column(frame, "pathology"), PATHOLOGY, problems=problems)
    columns |= one_hot(text_column(frame, "histology"), group="histology")
    problems.raise_if_any()
    return manifest_from_frame(pd.DataFrame(columns), name=str(table), root=folder)


def _table(folder: Path) -> Path:
    if not (folder / "labels.csv").exists() and (folder / "bus_data.csv").exists():
        raise MedtailError(
            f"bus_bra: {str(folder)!r} holds bus_data.csv, the table of the original release; expected the layout:"
            f" {EXPECTED}. Import it with the layout csv, naming its columns."
        )
    return dataset_file(folder, ["labels.csv"], layout="bus_bra", expected=EXPECTED)


def _fold(official: pd.Series, *, test_fold: int | None, problems: Problems) -> list[str]:
    if test_fold is None:
        return [""] * len(official)
    known = sorted(set(official))
    if str(test_fold) not in known:
        problems.add(f"column 'fold5': no row is in fold {test_fold}; expected test_fold to be one of {known}.")
    return ["test" if fold == str(test_fold) else "" for fold in official]
