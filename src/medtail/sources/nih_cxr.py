"""NIH ChestX-ray14: 14 text-mined findings on chest X-rays (Wang et al., CVPR 2017).

Reads three forms of one data set: the official `Data_Entry_2017.csv` (findings joined by `|`, images anywhere
below, official lists of train and test images), a plain `labels.csv` with a column a finding, and such a
label table alone, whose images need not be there (enough for splits and for judging).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pandas as pd

from medtail.errors import MedtailError, Problems, did_you_mean, listing
from medtail.sources.gathering import (
    add_missing_columns,
    add_missing_images,
    ages,
    dataset_folder,
    files_by_name,
    relative,
    text_column,
)
from medtail.tables.frames import read_table, spreadsheet_rows
from medtail.tables.manifest import Manifest, manifest_from_frame

FINDINGS = ("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
            "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia")  # fmt: skip
NO_FINDING = "No Finding"
EXPECTED = "Data_Entry_2017.csv with images in any sub-folder, or labels.csv (image, patient, a column a finding)"
OFFICIAL = ("Image Index", "Finding Labels", "Patient ID")
OFFICIAL_MORE = ("Follow-up #", "Patient Age", "Patient Gender", "View Position")
LISTS = ("train_val_list.txt", "test_list.txt")

log = logging.getLogger(__name__)


def import_nih_cxr(path: Path | str, *, images: Path | str | None = None) -> Manifest:
    """Read ChestX-ray14 from its folder, or from a label table alone.

    Args:
        path: The data set's folder (every image of the table must be in it or in a sub-folder), or a label table
            (`.csv`, `.csv.gz`) of either form; images are then used where they are found beside it, and the others
            point to where they would be.
        images: The folder that holds the images, itself or in sub-folders, where it is not the table's; every image
            must then be in it.

    Returns:
        A row an image with the 14 findings as free classes; `age`, `sex`, `view` where the table has them. Where the
        official `test_list.txt` lies in the folder, its images are in fold `test` and the others have no fold yet.

    Raises:
        MedtailError: The table, a column or images are missing, a finding is unknown, or the official lists do not
            cover the table; all mistakes at once.

    References:
        wang2017.
    """
    path = Path(path)
    is_table = path.is_file()
    folder = path.parent if is_table else dataset_folder(path, layout="nih_cxr", expected=EXPECTED)
    table = path if is_table else _find_table(folder)
    problems = Problems(str(table))
    columns = _read_columns(table, problems=problems)
    cells = pd.Series(columns["image"], name="image", dtype=str)
    place = folder if images is None else dataset_folder(images, layout="nih_cxr", expected="a folder of images")
    files = _find_images(place, cells, problems=problems)
    if not is_table or images is not None:
        add_missing_images(problems, files, cells)
    elif absent := files.count(None):
        log.warning("nih_cxr: %d of %d images are not beside %s; only their labels are read.", absent, len(cells), path)
    ready: dict[str, object] = {
        "image_id": [os.path.splitext(os.path.basename(cell))[0] for cell in cells],  # noqa: PTH119, PTH122 – 20x faster
        "path": [cell if file is None else relative(file, folder) for cell, file in zip(cells, files, strict=True)],
        "patient_id": columns["patient"],
        "fold": _official_folds(folder, cells, problems=problems),
    }
    ready |= {name: values for name, values in columns.items() if name not in ("image", "patient")}
    problems.raise_if_any()
    return manifest_from_frame(pd.DataFrame(ready), name=str(table), root=folder)


def _find_images(place: Path, cells: pd.Series, *, problems: Problems) -> list[Path | None]:
    """Return the file of each cell, None where there is none.

    `labels.csv` names sub-folders (`images64/NAME.png`), the official table only files, which lie anywhere below.
    """
    if all("/" in cell for cell in cells):
        direct = [place / cell for cell in cells]
        return [file if file.is_file() else None for file in direct]
    found = files_by_name(place, cells, problems=problems)
    return [found.get(cell) for cell in cells]


def _find_table(folder: Path) -> Path:
    official = sorted(folder.glob("Data_Entry_2017*.csv"))
    plain = [folder / "labels.csv"] if (folder / "labels.csv").is_file() else []
    tables = [*official, *plain]
    if len(tables) == 1:
        return tables[0]
    if tables:
        raise MedtailError(
            f"nih_cxr: {str(folder)!r} holds {listing([item.name for item in tables])}; expected one label table."
            " Give the path of the one to read."
        )
    raise MedtailError(f"nih_cxr: no Data_Entry_2017*.csv or labels.csv in {str(folder)!r}; expected: {EXPECTED}.")


def _read_columns(table: Path, *, problems: Problems) -> dict[str, object]:
    """Return `image`, `patient`, metadata and the 14 findings of either form of table."""
    official = _read_official(table)
    if official is not None:
        add_missing_columns(problems, official, OFFICIAL)
        problems.raise_if_any()
        return _official_columns(official, problems=problems)
    frame, _ = read_table(table, what="label table")
    add_missing_columns(problems, frame, ("image", "patient", *FINDINGS))
    problems.raise_if_any()
    kept = {"image": text_column(frame, "image"), "patient": text_column(frame, "patient")}
    return {**kept, **{name: frame[name] for name in FINDINGS}}


def _read_official(table: Path) -> pd.DataFrame | None:
    """Read the official table, or return None where this is not it.

    Its 2017 form ends every line with a comma, so that the last column has no name, and writes
    `OriginalImage[Width,Height]` without quotes; only the columns needed are read.
    """
    wanted = {*OFFICIAL, *OFFICIAL_MORE}
    try:
        frame = pd.read_csv(
            table, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False,
            usecols=lambda name: str(name).strip() in wanted,
        )  # fmt: skip
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError, OSError):
        return None  # read_table says what is wrong with it
    frame.columns = pd.Index([str(name).strip() for name in frame.columns])
    return frame if set(OFFICIAL) & set(frame.columns) else None


def _official_columns(frame: pd.DataFrame, *, problems: Problems) -> dict[str, object]:
    columns: dict[str, object] = {
        "image": text_column(frame, "Image Index"),
        "patient": text_column(frame, "Patient ID"),
    }
    if "View Position" in frame:
        columns["view"] = text_column(frame, "View Position")
    if "Patient Age" in frame:
        columns["age"] = ages(text_column(frame, "Patient Age"), problems=problems)
    if "Patient Gender" in frame:
        columns["sex"] = text_column(frame, "Patient Gender")
    if "Follow-up #" in frame:
        columns["meta_follow_up"] = text_column(frame, "Follow-up #")
    cells = text_column(frame, "Finding Labels")
    named = {cell: {part.strip() for part in cell.split("|")} for cell in set(cells)}
    strange = {cell: sorted(parts - {*FINDINGS, NO_FINDING}) for cell, parts in named.items() if cell}
    strange = {cell: parts for cell, parts in strange.items() if parts}
    for finding in sorted({part for parts in strange.values() for part in parts}):
        cells_with = {cell for cell, parts in strange.items() if finding in parts}
        rows = spreadsheet_rows(cells.isin(cells_with).to_numpy())
        problems.add(
            f"row {rows[0]}, column 'Finding Labels': unknown finding {finding!r}"
            f"{did_you_mean(finding, FINDINGS) or '; expected one of the 14 or ' + repr(NO_FINDING)}"
            f" ({len(rows)} rows)."
        )
    for cell, parts in named.items():
        if NO_FINDING in parts and len(parts) > 1:
            rows = spreadsheet_rows((cells == cell).to_numpy())
            problems.add(f"row {rows[0]}, column 'Finding Labels': {cell!r} contradicts itself ({len(rows)} rows).")
    for finding in FINDINGS:
        value = {cell: (float(finding in parts) if cell else np.nan) for cell, parts in named.items()}
        columns[finding] = cells.map(value).to_numpy(dtype=np.float64)
    return columns


def _official_folds(folder: Path, cells: pd.Series, *, problems: Problems) -> list[str]:
    """Put the images of the official test list in `test`; check that the two lists cover the table."""
    lists = {name: _read_list(folder / name) for name in LISTS if (folder / name).is_file()}
    if "test_list.txt" not in lists:
        return [""] * len(cells)
    test = lists["test_list.txt"]
    names = [Path(cell).name for cell in cells]
    if not test & set(names):
        problems.add("test_list.txt: names none of the table's images; it belongs to another table, remove it.")
    if "train_val_list.txt" in lists:
        both = sorted(test & lists["train_val_list.txt"])
        if both:
            problems.add(f"test_list.txt: {len(both)} images are also in train_val_list.txt: {listing(both)}.")
        neither = [name for name in names if name not in test and name not in lists["train_val_list.txt"]]
        if neither:
            problems.add(
                f"{len(neither)} images are in neither train_val_list.txt nor test_list.txt: {listing(neither)}."
            )
    return ["test" if name in test else "" for name in names]


def _read_list(path: Path) -> set[str]:
    try:
        return {line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()}
    except (OSError, UnicodeDecodeError) as error:
        raise MedtailError(f"{path}: cannot be read ({error}); expected a list of image names, one a line.") from error
