"""BrEaST-Lesions-USG: breast ultrasound with BI-RADS descriptors (Pawłowska et al., Scientific Data 2024).

Reads `labels.csv` beside `images/` and `masks/`. The richest label space of the sources: three exclusive groups,
combinable margins and calcifications, and the difference between "not applicable" (there is no lesion, so every
descriptor is absent: 0) and "not available" (nobody wrote it down: NaN).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from medtail.errors import Problems
from medtail.sources.gathering import (
    add_missing_columns,
    add_missing_images,
    ages,
    boxes,
    dataset_file,
    dataset_folder,
    exclusive,
    mapped,
    masks,
    text_column,
)
from medtail.tables.frames import add_row_problem, as_numbers, read_table
from medtail.tables.manifest import Manifest, manifest_from_frame

EXPECTED = "labels.csv (image, caseid, shape, margin, …), images/ and, if wanted, masks/"
BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
ABSENT, UNKNOWN = "not applicable", "not available"
YES_NO = {"yes": 1.0, "no": 0.0, ABSENT: 0.0, UNKNOWN: np.nan, "": np.nan}
MALIGNANT = {"malignant": 1.0, "benign": 0.0, "normal": 0.0, UNKNOWN: np.nan, "": np.nan}

# column → (group, word in the table → class value)
GROUPS = {
    "shape": ("shape", {word: word for word in ("oval", "round", "irregular")}),
    "echogenicity": (
        "echogenicity",
        {
            word: word
            for word in ("anechoic", "hypoechoic", "isoechoic", "hyperechoic", "heterogeneous", "complex cystic/solid")
        },
    ),
    "posterior_features": (
        "posterior",
        {"no": "none", "shadowing": "shadowing", "enhancement": "enhancement", "combined": "combined"},
    ),
}
NOT_CIRCUMSCRIBED = "not circumscribed"
MARGINS = ("indistinct", "angular", "microlobulated", "spiculated")
CALCIFICATIONS = {"in a mass": "in_mass", "intraductal": "intraductal", "indefinable": "indefinable"}
CARRIED = {
    "birads": "meta_birads",
    "diagnosis": "meta_diagnosis",
    "tissue_composition": "meta_tissue",
    "verification": "meta_verification",
}
COLUMNS = ("image", "width", *BOX, "caseid", "pixel_size", "age", *GROUPS, "margin", "halo", "calcifications",
           "skin_thickening", "classification", "orig_width", *CARRIED)  # fmt: skip


def import_breast_usg(path: Path | str) -> Manifest:
    """Read the BrEaST layout with the BI-RADS descriptors as classes.

    Exclusive groups `shape`, `echogenicity` and `posterior` (`posterior=none` is a finding: no feature behind a
    lesion); free classes `margin_…` and `calcification_…` (several may be present), `halo`, `skin_thickening`
    and `malignant`. Images without a lesion have 0 in every lesion descriptor.

    Args:
        path: The folder holding `labels.csv`, `images/` and, if wanted, `masks/`.

    Returns:
        A row an image (and patient), with age, the lesion box as roi, masks, `meta_birads`, `meta_diagnosis`,
        `meta_tissue`, `meta_verification`, and `spacing_mm` of the image as stored: the published cm a pixel is that of
        the original image, of which the stored one may be a reduction.

    Raises:
        MedtailError: A file, column or image is missing, or a word is outside the vocabulary; all mistakes at once.

    References:
        pawlowska2024.
    """
    folder = dataset_folder(path, layout="breast_usg", expected=EXPECTED)
    table = dataset_file(folder, ["labels.csv"], layout="breast_usg", expected=EXPECTED)
    frame, _ = read_table(table, what="label table")
    problems = Problems(str(table))
    has_masks = (folder / "masks").is_dir()
    add_missing_columns(problems, frame, (*COLUMNS, "mask") if has_masks else COLUMNS)
    problems.raise_if_any()

    images = text_column(frame, "image")
    add_missing_images(problems, [folder / "images" / name for name in images], images)
    columns: dict[str, object] = {
        "image_id": [Path(name).stem for name in images],
        "path": [f"images/{name}" for name in images],
        "patient_id": text_column(frame, "caseid"),
        "age": ages(text_column(frame, "age"), problems=problems, unknown=("", UNKNOWN)),
        "spacing_mm": _spacing_mm(frame, problems=problems),
        **boxes(frame, BOX),
        **{new: text_column(frame, old).replace(UNKNOWN, "") for old, new in CARRIED.items()},
    }
    if has_masks:
        columns["mask_path"] = masks(folder / "masks", list(text_column(frame, "mask")), problems=problems, root=folder)
    for column, (group, words) in GROUPS.items():
        columns |= exclusive(
            text_column(frame, column), group=group, words=words, none_of_them=(ABSENT,), unknown=(UNKNOWN, ""),
            problems=problems,
        )  # fmt: skip
    columns |= _margins(text_column(frame, "margin"), problems=problems)
    columns |= _calcifications(text_column(frame, "calcifications"), problems=problems)
    columns["halo"] = mapped(text_column(frame, "halo"), YES_NO, problems=problems)
    columns["skin_thickening"] = mapped(text_column(frame, "skin_thickening"), YES_NO, problems=problems)
    columns["malignant"] = mapped(text_column(frame, "classification"), MALIGNANT, problems=problems)
    problems.raise_if_any()
    return manifest_from_frame(pd.DataFrame(columns), name=str(table), root=folder)


def _spacing_mm(frame: pd.DataFrame, *, problems: Problems) -> np.ndarray:
    numbers: dict[str, np.ndarray] = {}
    for column in ("pixel_size", "orig_width", "width"):
        numbers[column], bad = as_numbers(text_column(frame, column).replace(UNKNOWN, "").rename(column))
        bad |= numbers[column] <= 0
        add_row_problem(problems, bad, frame[column], expected="a number above 0")
    with np.errstate(divide="ignore", invalid="ignore"):
        # cm an original pixel → mm a stored pixel
        return np.asarray(numbers["pixel_size"] * 10 * numbers["orig_width"] / numbers["width"])


def _margins(cells: pd.Series, *, problems: Problems) -> dict[str, np.ndarray]:
    """Read `circumscribed`, `not circumscribed - angular&indistinct`; the kinds combine."""
    kinds = {cell: _margin_kinds(cell) for cell in set(cells)}
    meanings = {cell: 0.0 for cell, named in kinds.items() if named is not None}
    mapped(cells, meanings, problems=problems,
           expected=f"'circumscribed', '{NOT_CIRCUMSCRIBED} - ' with {'&'.join(MARGINS)}, '{ABSENT}', '{UNKNOWN}'",
    )  # fmt: skip
    names = ("circumscribed", *MARGINS)
    return {
        f"margin_{name}": np.array([(kinds[cell] or {}).get(name, np.nan) for cell in cells], dtype=np.float64)
        for name in names
    }


def _margin_kinds(cell: str) -> dict[str, float] | None:
    """Return margin → value for one cell, or None where the cell is outside the vocabulary."""
    if cell in (UNKNOWN, ""):
        return {}
    if cell == ABSENT:
        return dict.fromkeys(("circumscribed", *MARGINS), 0.0)
    if cell == "circumscribed":
        return {"circumscribed": 1.0, **dict.fromkeys(MARGINS, 0.0)}
    head, _, tail = cell.partition(" - ")
    if head != NOT_CIRCUMSCRIBED:
        return None
    if not tail:  # known not to be circumscribed, but nobody said in which way
        return {"circumscribed": 0.0}
    named = [part.strip() for part in tail.split("&")]
    if not set(named) <= set(MARGINS):
        return None
    return {"circumscribed": 0.0, **{kind: float(kind in named) for kind in MARGINS}}


def _calcifications(cells: pd.Series, *, problems: Problems) -> dict[str, np.ndarray]:
    """Read `no`, `in a mass`, `intraductal`, `indefinable`, joined by `&` where several are present."""
    parts = {cell: [part.strip() for part in cell.split("&")] for cell in set(cells)}
    known = {"no", ABSENT, UNKNOWN, ""}
    right = {cell: 0.0 for cell, named in parts.items() if cell in known or set(named) <= set(CALCIFICATIONS)}
    mapped(cells, right, problems=problems, expected=f"'no', {', '.join(map(repr, CALCIFICATIONS))} (joined by &),"
           f" '{ABSENT}', '{UNKNOWN}'")  # fmt: skip
    columns = {}
    for word, name in CALCIFICATIONS.items():
        columns[f"calcification_{name}"] = np.array(
            [np.nan if cell in (UNKNOWN, "") else float(word in parts[cell]) for cell in cells], dtype=np.float64
        )
    return columns
