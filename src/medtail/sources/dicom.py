"""A folder of DICOM files: one row an image, read off the headers; labels joined from a table.

Pixels are not touched here (`medtail.pixels` decodes them when they are needed), and the files keep their place.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medtail.errors import MedtailError, Problems, listing
from medtail.sources.dicom_files import dicom_stream
from medtail.sources.gathering import age_years, dataset_folder, relative, sub_files, text_column
from medtail.tables.frames import read_table
from medtail.tables.manifest import Manifest, is_metadata, manifest_from_frame

EXPECTED = "DICOM files in any sub-folder"
KEYS = ("image_id", "study_id", "patient_id")
"""What a label table may be joined by, the most specific first."""
CENTIMETRES = 3  # PhysicalUnitsXDirection (0018,6024)
TAGS = ("SOPClassUID", "SOPInstanceUID", "PatientID", "StudyInstanceUID", "ViewPosition", "ImageLaterality",
        "Laterality", "PixelSpacing", "ImagerPixelSpacing", "SequenceOfUltrasoundRegions", "PatientAge", "PatientSex",
        "InstitutionName", "Manufacturer", "ManufacturerModelName", "Modality", "Rows", "Columns",
        "NumberOfFrames")  # fmt: skip

log = logging.getLogger(__name__)


def import_dicom(path: Path | str, *, labels: Path | str | None) -> Manifest:
    """Read the headers of a folder of DICOM files and join their labels.

    Files that are not DICOM by their content, and DICOM objects without pixels (reports, structures), are left out
    and counted on the log, as are images that the label table does not name (their labels are then not
    assessed) and label rows without an image.

    Args:
        path: The folder; sub-folders are searched.
        labels: Table with one of the columns `image_id` (SOPInstanceUID), `study_id` (StudyInstanceUID) or
            `patient_id`, and a column a class holding 1, 0 or nothing; manifest metadata (`fold`, `meta_…`) may be
            there too and goes before the header's. A manifest has classes, so it cannot be left out.

    Returns:
        A row an image (of several frames, the first is used), with `image_id` = SOPInstanceUID, `patient_id`,
        `study_id`, `view`, `laterality`, `age`, `sex`, `site`, `device`, `meta_modality`, `meta_frames` and
        `spacing_mm`: PixelSpacing, else ImagerPixelSpacing, else the calibration of the first ultrasound region;
        unknown where rows and columns differ by more than 1 %.

    Raises:
        MedtailError: No DICOM images, unreadable headers, no labels, a label table without a key or that names none of
            the images; all mistakes at once.
    """
    folder = dataset_folder(path, layout="dicom", expected=EXPECTED)
    rows = _read_rows(folder)
    if labels is None:
        first = rows[0]
        raise MedtailError(
            f"dicom: no labels for the {len(rows)} images in {str(folder)!r}; expected labels, a CSV with one of the"
            f" columns {', '.join(KEYS)} and a 0/1 column a class. The first image has"
            f" {', '.join(f'{key} {first[key]!r}' for key in KEYS)}."
        )
    images = pd.DataFrame(rows)
    table = Path(labels)
    joined = _join(images, table)
    return manifest_from_frame(joined, name=f"dicom: {folder} with {table}", root=folder)


def _read_rows(folder: Path) -> list[dict[str, Any]]:
    import pydicom

    problems = Problems(f"dicom: {folder}")
    rows: list[dict[str, Any]] = []
    foreign, without_pixels = 0, 0
    for file in sub_files(folder):
        if not _is_dicom(file):
            foreign += 1
            continue
        try:
            with dicom_stream(file, where=relative(file, folder)) as stream:
                header = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(TAGS))
            if "Rows" in header and "Columns" in header and _text(header, "SOPInstanceUID"):
                rows.append(_row(header, path=relative(file, folder)))
            elif _is_image_class(header):
                problems.add(
                    f"file {relative(file, folder)!r}: its header ends early or lacks SOPInstanceUID, Rows or Columns."
                    " Copy it again from its origin."
                )
            else:
                without_pixels += 1
        except MemoryError:
            raise
        except Exception as error:  # a damaged header raises anything
            problems.add(f"file {relative(file, folder)!r}: its header cannot be read ({error}). Copy it again.")
    problems.raise_if_any()
    if foreign or without_pixels:
        log.warning(
            "dicom: left out %d files that are not DICOM and %d DICOM files without pixels below %s.",
            foreign, without_pixels, folder,
        )  # fmt: skip
    if not rows:
        raise MedtailError(f"dicom: no DICOM images in {str(folder)!r}; expected the layout: {EXPECTED}.")
    return rows


def _is_dicom(file: Path) -> bool:
    try:
        with file.open("rb") as handle:
            return handle.read(132)[128:] == b"DICM"
    except OSError as error:
        raise MedtailError(f"{file}: cannot be read ({error.strerror or error}).") from error


def _is_image_class(header: Any) -> bool:
    """Say whether a header should have an image; a class that nothing names may be a file that ends early."""
    name = getattr(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID"), "name", "")
    return not name or "Image Storage" in name


def _row(header: Any, *, path: str) -> dict[str, Any]:
    age = age_years(_text(header, "PatientAge"))
    device = " ".join(part for key in ("Manufacturer", "ManufacturerModelName") if (part := _text(header, key)))
    return {
        "image_id": _text(header, "SOPInstanceUID"),
        "path": path,
        "patient_id": _text(header, "PatientID"),
        "study_id": _text(header, "StudyInstanceUID"),
        "site": _text(header, "InstitutionName"),
        "device": device,
        "sex": _text(header, "PatientSex"),
        "view": _text(header, "ViewPosition"),
        "laterality": _text(header, "ImageLaterality") or _text(header, "Laterality"),
        "age": np.nan if age is None else age,
        "spacing_mm": _spacing_mm(header),
        "meta_modality": _text(header, "Modality"),
        "meta_frames": str(int(header.get("NumberOfFrames") or 1)),
    }


def _text(header: Any, keyword: str) -> str:
    value = header.get(keyword)
    return "" if value is None else str(value).strip()


def _spacing_mm(header: Any) -> float:
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        value = header.get(keyword)
        if value is not None and len(value) == 2:
            return _square(float(value[0]), float(value[1]))
    for region in header.get("SequenceOfUltrasoundRegions") or []:
        units = [region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection")]
        deltas = [region.get("PhysicalDeltaX"), region.get("PhysicalDeltaY")]
        if units == [CENTIMETRES, CENTIMETRES] and None not in deltas:
            return _square(abs(float(deltas[0])) * 10, abs(float(deltas[1])) * 10)
    return float("nan")


def _square(down: float, across: float) -> float:
    """Return the spacing of square pixels in mm; NaN where they are not square or the value makes no sense."""
    is_square = down > 0 and across > 0 and abs(down - across) <= 0.01 * max(down, across)
    return (down + across) / 2 if is_square else float("nan")


def _join(images: pd.DataFrame, table: Path) -> pd.DataFrame:
    """Put the label table's columns beside the images, matched by its most specific key."""
    frame, _ = read_table(table, what="label table")
    keys = [key for key in KEYS if key in frame.columns]
    if not keys:
        raise MedtailError(
            f"{table}: no column to join by; expected one of {', '.join(KEYS)}. Columns found:"
            f" {listing(list(frame.columns), limit=12)}."
        )
    key = keys[0]
    problems = Problems(str(table))
    names = text_column(frame, key)
    repeated = sorted(set(names[names.duplicated()]))
    if repeated:
        problems.add(f"column {key!r}: {len(repeated)} values stand in several rows: {listing(repeated, limit=3)}.")
    if not any(name not in KEYS and not is_metadata(str(name)) for name in frame.columns):
        problems.add(f"no class columns; expected a 0/1 column a class beside {key!r}.")
    known = images[key].isin(set(names))
    if not known.any():
        problems.add(
            f"column {key!r}: names none of the {len(images)} images; found {names.iloc[0] if len(names) else ''!r},"
            f" while the first image has {images[key].iloc[0]!r}."
        )
    problems.raise_if_any()
    unmatched, unused = int((~known).sum()), int((~names.isin(set(images[key]))).sum())
    if unmatched or unused:
        log.warning(
            "dicom: %d images have no row in %s (their labels are not assessed), and %d of its rows have no image.",
            unmatched, table, unused,
        )  # fmt: skip
    labels = frame.drop(columns=[name for name in (key, "path") if name in frame.columns]).set_index(pd.Index(names))
    aligned = labels.reindex(images[key].to_numpy())
    aligned.index = images.index
    own = [name for name in images.columns if name in aligned.columns]
    for name in own:
        aligned[name] = aligned[name].where(known & (aligned[name] != ""), images[name])
    return pd.concat([images.drop(columns=own), aligned], axis=1)
