"""HAM10000: dermatoscopic images of pigmented skin lesions in seven classes (Tschandl et al., Scientific Data 2018).

Reads `HAM10000_metadata.csv` and `IMAGE_ID.jpg` from any sub-folder. The table knows lesions, not patients; images of
one lesion must not be split, so the lesion is the patient.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from medtail.errors import Problems
from medtail.sources.gathering import (
    add_missing_columns,
    add_missing_images,
    dataset_file,
    dataset_folder,
    files_by_name,
    relative,
    text_column,
)
from medtail.tables.frames import read_table
from medtail.tables.labels import one_hot
from medtail.tables.manifest import Manifest, manifest_from_frame

EXPECTED = "HAM10000_metadata.csv (lesion_id, image_id, dx, …), images as IMAGE_ID.jpg in any sub-folder"
COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")
UNKNOWN = "unknown"


def import_ham10000(path: Path | str) -> Manifest:
    """Read HAM10000 with the diagnosis as the exclusive group `dx=NAME`.

    Args:
        path: The folder holding `HAM10000_metadata.csv`, images in it or in sub-folders.

    Returns:
        A row an image; `patient_id` is the lesion; `age`, `sex`, `meta_dx_type`, `meta_localization` and, where the
        table has it, `meta_dataset`.

    Raises:
        MedtailError: The table, a column or images are missing; all at once.

    References:
        tschandl2018.
    """
    folder = dataset_folder(path, layout="ham10000", expected=EXPECTED)
    table = dataset_file(folder, ["HAM10000_metadata.csv"], layout="ham10000", expected=EXPECTED)
    frame, _ = read_table(table, what="label table")
    problems = Problems(str(table))
    add_missing_columns(problems, frame, COLUMNS)
    problems.raise_if_any()

    ids = text_column(frame, "image_id")
    found = files_by_name(folder, (f"{name}.jpg" for name in ids), problems=problems)
    files = [found.get(f"{name}.jpg") for name in ids]
    add_missing_images(problems, files, ids.map(lambda name: f"{name}.jpg"))
    columns: dict[str, object] = {
        "image_id": ids,
        "path": [relative(file, folder) if file is not None else "" for file in files],
        "patient_id": text_column(frame, "lesion_id"),
        "age": text_column(frame, "age").replace(UNKNOWN, ""),
        "sex": text_column(frame, "sex").replace(UNKNOWN, ""),
        "meta_dx_type": text_column(frame, "dx_type"),
        "meta_localization": text_column(frame, "localization").replace(UNKNOWN, ""),
    }
    if "dataset" in frame.columns:
        columns["meta_dataset"] = text_column(frame, "dataset")
    columns |= one_hot(text_column(frame, "dx"), group="dx")
    problems.raise_if_any()
    return manifest_from_frame(pd.DataFrame(columns), name=str(table), root=folder)
