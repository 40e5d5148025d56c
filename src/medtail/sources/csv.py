"""A person's own table: any CSV whose columns are mapped to the manifest's by name.

The one layout with choices: which column is the image, which the patient, and how the labels are written (a 0/1
column a class, or one column naming the class or classes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from medtail.errors import MedtailError, Problems, listing
from medtail.sources.gathering import add_missing_columns, add_missing_images, text_column
from medtail.tables.frames import as_text, read_table
from medtail.tables.labels import one_hot
from medtail.tables.manifest import (
    META_PREFIX,
    NUMBER_METADATA,
    TEXT_METADATA,
    Manifest,
    is_metadata,
    manifest_from_frame,
)
from medtail.tables.places import is_url, joined, place_of, url_problem

SEPARATORS = ("|", ";", "&")
USUAL_IMAGE_COLUMNS = ("path", "image", "image_path", "file", "filename", "file_name")
STANDARD = (*TEXT_METADATA, *NUMBER_METADATA)


def import_csv(
    path: Path | str,
    *,
    image_column: str | None = None,
    patient_column: str | None = None,
    label_column: str | None = None,
    label_columns: Sequence[str] = (),
    separator: str | None = None,
    negative: Sequence[str] = (),
    keep: Sequence[str] = (),
    images: Path | str | None = None,
) -> Manifest:
    """Read a person's own label table.

    Columns that already bear a manifest name (`fold`, `site`, `age`, `roi_x` …, `meta_…`) are kept as they are.

    Args:
        path: The table, `.csv`, `.tsv`, `.csv.gz` or `.parquet`.
        image_column: Column with the image file; if None, the one column called path, image, image_path, file, filename
            or file_name.
        patient_column: Column with the patient; if None, `patient_id` where there is one, else patients are unknown.
        label_column: One column naming the classes. One name a cell makes an exclusive group `label_column=NAME`;
            several, joined by a separator, make free 0/1 classes. An empty cell is not assessed.
        label_columns: Columns holding 1, 0 or nothing, one a class. With `label_column`, both are used.
        separator: What joins several names in a cell of `label_column`; if None, `|`, `;` or `&`, whichever occurs.
        negative: Names in `label_column` that mean that none of the classes is present, such as `No Finding`.
        keep: Further columns to carry along, as `meta_NAME` text.
        images: Folder that image paths start from, or its URL; the table's folder if None. Cells may be URLs too.

    Returns:
        A row an image; `image_id` is that column where there is one, else the image path as written.

    Raises:
        MedtailError: Columns or images are missing, no label column is named, or the labels are wrong; all at once.
    """
    path = Path(path)
    frame, _ = read_table(path, what="label table")
    problems = Problems(str(path))
    image_column = _image_column(frame, image_column, problems=problems)
    if patient_column is None and "patient_id" in frame.columns:
        patient_column = "patient_id"
    if label_column is None and not label_columns:
        taken = {image_column, patient_column, *keep, *STANDARD}
        left = [name for name in frame.columns if name not in taken]
        problems.add(
            "labels: no column was named; expected label_column (one column with class names) or label_columns (0/1"
            f" columns). Columns left: {listing(left, limit=12) if left else 'none'}."
        )
    named = [patient_column, label_column, *label_columns, *keep]
    add_missing_columns(problems, frame, dict.fromkeys(name for name in named if name is not None))
    if not len(frame):
        problems.add("no rows: found only the header; expected a row an image.")
    problems.raise_if_any()
    assert image_column is not None

    is_remote = images is not None and is_url(str(images))
    root = path.parent if images is None or is_remote else Path(images)
    if not root.is_dir():
        problems.add(f"images: no folder {str(root)!r}; expected the folder that image paths start from.")
    cells = text_column(frame, image_column)
    written = [joined(str(images), cell) if is_remote else _posix(cell) for cell in cells]
    told = {problem: cell for cell in reversed(written) if is_url(cell) and (problem := url_problem(cell)) is not None}
    for problem, cell in told.items():
        problems.add(f"column {image_column!r}: found {cell!r}; {problem}.")
    if root.is_dir() and not told:
        add_missing_images(problems, [place_of(cell, root=root) for cell in written], cells)
    columns: dict[str, object] = {
        "image_id": text_column(frame, "image_id" if "image_id" in frame.columns else image_column),
        "path": written,
        "patient_id": text_column(frame, patient_column) if patient_column is not None else [""] * len(frame),
    }
    columns |= _kept_columns(frame, taken={image_column, patient_column, label_column, *label_columns}, keep=keep)
    classes: dict[str, object] = {name: frame[name] for name in label_columns}
    if label_column is not None:
        classes |= _named_classes(
            text_column(frame, label_column), separator=separator, negative=negative, problems=problems
        )
    _check_class_names(classes, problems=problems)
    problems.raise_if_any()
    return manifest_from_frame(pd.DataFrame({**columns, **classes}), name=str(path), root=root)


def _posix(cell: str) -> str:
    return cell if is_url(cell) or not cell else Path(cell).as_posix()


def _image_column(frame: pd.DataFrame, image_column: str | None, *, problems: Problems) -> str | None:
    if image_column is not None:
        add_missing_columns(problems, frame, [image_column])
        return image_column
    usual = [name for name in USUAL_IMAGE_COLUMNS if name in frame.columns]
    if len(usual) != 1:
        found = f"both {' and '.join(map(repr, usual))} could be it" if usual else "no column was named"
        problems.add(
            f"images: {found}; expected image_column, the column with the image file. Columns found:"
            f" {listing(list(frame.columns), limit=12)}."
        )
        return None
    return usual[0]


def _kept_columns(frame: pd.DataFrame, *, taken: set[str | None], keep: Sequence[str]) -> dict[str, object]:
    columns: dict[str, object] = {}
    for name in frame.columns:
        if name in taken or name in ("image_id", "path", "patient_id"):
            continue
        if is_metadata(name):
            columns[name] = frame[name]
    for name in keep:
        if not is_metadata(name):
            columns[META_PREFIX + name] = as_text(frame[name])
    return columns


def _named_classes(
    cells: pd.Series, *, separator: str | None, negative: Sequence[str], problems: Problems
) -> Mapping[str, object]:
    """Turn a column of class names into an exclusive group, or into free classes where names are joined."""
    joined_by = [mark for mark in SEPARATORS if any(mark in cell for cell in cells)]
    if separator is None and len(joined_by) > 1:
        problems.add(
            f"column {cells.name!r}: names could be joined by {' or by '.join(map(repr, joined_by))}; expected one way."
            " Say which with separator."
        )
        return {}
    separator = separator or (joined_by[0] if joined_by else None)
    if separator is None:
        return one_hot(cells, group=str(cells.name), absent=negative)
    none_of_them = set(negative)
    parts = [{part.strip() for part in cell.split(separator)} - {""} for cell in cells]
    names = sorted(set().union(*parts) - none_of_them)
    return {
        name: np.array([float(name in found) if found else np.nan for found in parts], dtype=np.float64)
        for name in names
    }


def _check_class_names(classes: Mapping[str, object], *, problems: Problems) -> None:
    for name in classes:
        if is_metadata(name):
            problems.add(f"class {name!r}: bears the name of a metadata column; rename it in the table.")
    if not classes and not len(problems):
        raise MedtailError(f"{problems.where}: no class was found; every label cell is empty.")
