"""What every layout needs: finding the table and the images, and naming everything that is missing at once.

Each importer reads its table as text, turns it into manifest columns, notes its mistakes in one `Problems`, and
lets `medtail.tables.manifest` check the rest. What is left out on purpose (files that are no image) is counted
aloud on the log.
"""

from __future__ import annotations

import filecmp
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from medtail.errors import MedtailError, Problems, did_you_mean, listing
from medtail.tables.frames import as_text, spreadsheet_rows
from medtail.tables.places import Place
from medtail.tables.presence import absent

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2", ".pgm", ".ppm", ".dcm")
AGE = re.compile(r"(\d{1,3}(?:\.\d+)?)([YMWD]?)")
YEARS = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


def dataset_folder(path: Path | str, *, layout: str, expected: str) -> Path:
    """Return the folder of a data set.

    Raises:
        MedtailError: It does not exist or is a file.
    """
    path = Path(path)
    if not path.exists():
        raise MedtailError(f"{layout}: no folder {str(path)!r}; expected the layout: {expected}.")
    if not path.is_dir():
        raise MedtailError(f"{layout}: {str(path)!r} is a file; expected the folder with the layout: {expected}.")
    return path


def dataset_file(folder: Path, names: Sequence[str], *, layout: str, expected: str) -> Path:
    """Return the first of some files that the folder holds.

    Raises:
        MedtailError: It holds none of them; says what it does hold.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    held = sorted(item.name + ("/" if item.is_dir() else "") for item in folder.iterdir())
    raise MedtailError(
        f"{layout}: no {' or '.join(names)} in {str(folder)!r}; expected the layout: {expected}."
        f" The folder holds {listing(held, limit=6) if held else 'nothing'}."
    )


def add_missing_columns(problems: Problems, frame: pd.DataFrame, needed: Iterable[str]) -> None:
    """Note every needed column that a table lacks, with the nearest name it has."""
    found = [str(column) for column in frame.columns]
    for column in needed:
        if column not in found:
            near = did_you_mean(column, found)
            problems.add(f"column {column!r}: missing{near or f'. Columns found: {listing(found, limit=12)}.'}")


def text_column(frame: pd.DataFrame, column: str) -> pd.Series:
    """Return a column as stripped text, missing cells as ""."""
    return as_text(frame[column]).astype(str)


def add_missing_images(problems: Problems, paths: Sequence[Place | None], cells: pd.Series) -> None:
    """Note, in one line, the images that a table names and the disk lacks.

    Args:
        problems: Where to note.
        paths: The file of each row; None where it was searched for and not found.
        cells: What the table calls them; the series' name is the column.
    """
    missing = np.array([path is None for path in paths], dtype=bool)
    errors = absent([path for path in paths if path is not None])
    missing[~missing] = [isinstance(error, FileNotFoundError) for error in errors]
    for reason in sorted({str(e) for e in errors if e is not None and not isinstance(e, FileNotFoundError)}):
        problems.add(f"column {str(cells.name)!r}: {reason}.")
    if not missing.any():
        return
    names = [str(name) for name in cells[missing]]
    rows = spreadsheet_rows(missing)
    first = paths[rows[0] - 2]
    sought = f"; sought {str(first)!r}" if first is not None else " in this folder or its sub-folders"
    problems.add(
        f"row {rows[0]}, column {str(cells.name)!r}: no image file {names[0]!r}{sought}."
        f" {len(rows)} of {len(paths)} images are missing: {listing(names, limit=4)}."
        " Download them, or remove their rows."
    )


def sub_files(folder: Path, *, endings: Sequence[str] | None = None) -> list[Path]:
    """Return every file below a folder in a fixed order, hidden files and folders left out.

    Args:
        folder: Where to start.
        endings: Keep only names ending so (lower case), or None for all.
    """
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and (endings is None or name.lower().endswith(tuple(endings))):
                found.append(Path(place, name))
    return found


def files_by_name(folder: Path, wanted: Iterable[str], *, problems: Problems) -> dict[str, Path]:
    """Find files by name anywhere below a folder.

    Copies of one file in several sub-folders count as one (the first in order); files that share a name but
    differ are a mistake.

    Args:
        folder: Where to start.
        wanted: File names, with ending.
        problems: Where to note names that stand for different files.

    Returns:
        Name → file, for the names found.
    """
    names = set(wanted)
    found: dict[str, Path] = {}
    for path in sub_files(folder):
        if path.name not in names:
            continue
        earlier = found.setdefault(path.name, path)
        if earlier is not path and not filecmp.cmp(earlier, path, shallow=False):
            problems.add(f"image {path.name!r}: {str(earlier)!r} and {str(path)!r} differ; keep one of them.")
    return found


def relative(path: Path, root: Path) -> str:
    """Return a path as text relative to the data set's folder, with forward slashes."""
    return path.as_posix().removeprefix(root.as_posix().rstrip("/") + "/")


def age_years(text: str) -> float | None:
    """Read an age such as `57`, `058Y`, `003M`, `021D`; None where it is no age.

    Example:
        >>> age_years("058Y"), age_years("006M"), age_years("57"), age_years("old")
        (58.0, 0.5, 57.0, None)
    """
    match = AGE.fullmatch(text.strip().upper())
    return float(match[1]) * YEARS[match[2]] if match else None


def ages(cells: pd.Series, *, problems: Problems, unknown: Sequence[str] = ("",)) -> np.ndarray:
    """Read a column of ages as years, float64 with NaN where unknown; note what is no age."""
    years = [None if cell in unknown else age_years(cell) for cell in cells]
    bad = np.array([year is None and cell not in unknown for year, cell in zip(years, cells, strict=True)], dtype=bool)
    if bad.any():
        rows = spreadsheet_rows(bad)
        problems.add(
            f"row {rows[0]}, column {str(cells.name)!r}: found {cells.iloc[rows[0] - 2]!r}; expected an age such as"
            f" 57 or 057Y, or empty. {len(rows)} such rows."
        )
    return np.array([np.nan if year is None else year for year in years], dtype=np.float64)


def mapped(
    cells: pd.Series, meanings: Mapping[str, float], *, problems: Problems, expected: str | None = None
) -> np.ndarray:
    """Turn words into label values; note the first word without a meaning.

    Args:
        cells: Text, a word an image; the series' name is the column.
        meanings: Word → 1, 0 or NaN.
        problems: Where to note words that have none.
        expected: What to say was expected; the known words if None.

    Returns:
        float64 [images].
    """
    bad = ~cells.isin(list(meanings)).to_numpy()
    if bad.any():
        rows = spreadsheet_rows(bad)
        word = str(cells.iloc[rows[0] - 2])
        known = expected or ", ".join(repr(name) for name in meanings)
        near = did_you_mean(word, meanings)
        others = f" Also rows {listing(rows[1:], limit=8)}." if len(rows) > 1 else ""
        problems.add(
            f"row {rows[0]}, column {str(cells.name)!r}: found {word!r}; expected one of {known}{near or '.'}{others}"
        )
    return np.array([meanings.get(cell, np.nan) for cell in cells], dtype=np.float64)


def exclusive(
    cells: pd.Series, *, group: str, words: Mapping[str, str], none_of_them: Sequence[str], unknown: Sequence[str],
    problems: Problems,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Turn a column of words into the `group=value` columns of a known vocabulary.

    Args:
        cells: Text, a word an image.
        group: The group's name.
        words: Word in the table → class value; every one gets a column, seen or not, in this order.
        none_of_them: Words that mean that no class applies (0 in all).
        unknown: Words that mean that nobody looked (NaN in all).
        problems: Where to note words outside the vocabulary.
    """
    nothing = {**dict.fromkeys(none_of_them, 0.0), **dict.fromkeys(unknown, np.nan)}
    mapped(cells, {**dict.fromkeys(words, 1.0), **nothing}, problems=problems)
    columns: dict[str, np.ndarray] = {}
    for word, value in words.items():
        columns[f"{group}={value}"] = np.array(
            [nothing[cell] if cell in nothing else float(cell == word) for cell in cells], dtype=np.float64
        )
    return columns


def boxes(frame: pd.DataFrame, columns: Sequence[str]) -> dict[str, pd.Series]:
    """Return the manifest's roi columns from four columns x, y, width, height, as text for the manifest to check."""
    return {
        roi: text_column(frame, column)
        for roi, column in zip(("roi_x", "roi_y", "roi_w", "roi_h"), columns, strict=True)
    }


def masks(folder: Path, names: Sequence[str], *, problems: Problems, root: Path) -> list[str]:
    """Return mask paths relative to the root; "" for a row without one; note masks that are named and missing."""
    missing = [name for name in names if name and not (folder / name).is_file()]
    if missing:
        problems.add(
            f"masks: {len(missing)} files are missing in {str(folder)!r}: {listing(missing, limit=4)}."
            " Download them, or remove the whole masks folder."
        )
    return [relative(folder / name, root) if name else "" for name in names]
