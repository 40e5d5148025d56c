"""Reading and writing the table files: CSV as text first, Parquet with its header, nothing half-written.

CSV cells are read as text and turned to numbers here, so that a mistake can be shown as the person wrote it.
Row numbers in messages are those a spreadsheet shows: the header is row 1. A CSV cannot carry a header record;
it goes beside the file as `NAME.csv.json`. Parquet carries it inside.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medtail.errors import MedtailError, Problems, listing
from medtail.runs import atomic_path, digest_bytes, read_json, write_json

HEADER_KEY = b"medtail"
MISSING_WORDS = ("", "nan", "NaN")


def read_table(path: Path | str, *, what: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a CSV or Parquet file into a frame and its header record.

    Args:
        path: A `.csv` (comma, semicolon or tab; UTF-8), `.csv.gz` or `.parquet` file.
        what: What it should be ("manifest"), for messages.

    Returns:
        The frame (every CSV column as text, empty cells as ""), and the header (empty where there is none).

    Raises:
        MedtailError: Missing, empty, unreadable, ragged, or with unnamed or repeated columns.
    """
    path = Path(path)
    if not path.exists():
        raise MedtailError(f"{path}: no such file; expected a {what} as .csv or .parquet.")
    if path.is_dir():
        raise MedtailError(f"{path}: is a folder; expected a {what} as .csv or .parquet.")
    if path.name.endswith(".parquet"):
        return _read_parquet(path, what=what)
    if not path.name.endswith((".csv", ".csv.gz", ".tsv", ".txt")):
        raise MedtailError(f"{path}: unknown ending {path.suffix!r}; expected .csv or .parquet.")
    side = path.with_name(path.name + ".json")
    return _read_csv(path), (read_json(side) if side.exists() else {})


def _read_parquet(path: Path, *, what: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise MedtailError(f"{path}: cannot be read as Parquet ({error}). Expected a {what}.") from error
    metadata = (table.schema.metadata or {}).get(HEADER_KEY)
    frame: pd.DataFrame = table.replace_schema_metadata(None).to_pandas()
    return frame, (json.loads(metadata) if metadata else {})


def _read_csv(path: Path) -> pd.DataFrame:
    # typed loosely: the stubs' overloads do not follow keyword dictionaries
    read: Any = pd.read_csv
    shared: dict[str, Any] = {"encoding": "utf-8-sig", "dtype": str, "keep_default_na": False, "na_filter": False}
    shared["compression"] = "gzip" if path.name.endswith(".gz") else None
    columns: list[str] | None = None
    try:
        shared["sep"] = _separator(path, compressed=shared["compression"] is not None)
        columns = [str(name).strip() for name in read(path, header=None, nrows=1, **shared).iloc[0]]
        _check_columns(path, columns)
        frame = read(path, header=None, skiprows=1, names=columns, index_col=False, on_bad_lines="error", **shared)
    except pd.errors.EmptyDataError:
        if columns is not None:
            return pd.DataFrame({name: pd.Series([], dtype=object) for name in columns})
        raise MedtailError(f"{path}: the file is empty; expected a header row and a row an image.") from None
    except (pd.errors.ParserError, UnicodeDecodeError, OSError, csv.Error) as error:
        raise MedtailError(f"{path}: cannot be read as CSV ({str(error).strip()}). Save it as UTF-8 CSV.") from error
    assert isinstance(frame, pd.DataFrame)
    return frame


def _separator(path: Path, *, compressed: bool) -> str:
    with gzip.open(path, "rt", encoding="utf-8-sig") if compressed else path.open(encoding="utf-8-sig") as handle:
        head = handle.readline()
    return max(",;\t", key=head.count)


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    problems = Problems(str(path))
    for number, name in enumerate(columns, start=1):
        if not name:
            problems.add(f"column {number}: has no name; name it or remove it.")
    for name in sorted({name for name in columns if name and list(columns).count(name) > 1}):
        problems.add(f"column {name!r}: appears {list(columns).count(name)} times; keep one.")
    problems.raise_if_any()


def write_table(path: Path | str, frame: pd.DataFrame, *, header: Mapping[str, Any] | None = None) -> None:
    """Write a frame as CSV or Parquet, atomically, with its header record.

    Args:
        path: Where; the ending chooses the format.
        frame: The table. Floats are written so that reading gives the same value.
        header: A JSON object to keep with it, or None.

    Raises:
        MedtailError: Unknown ending, or the place cannot be written.
    """
    path = Path(path)
    if path.name.endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pandas(frame, preserve_index=False)
        metadata = {HEADER_KEY: json.dumps(header, sort_keys=True, allow_nan=False).encode()} if header else None
        with atomic_path(path) as temporary:
            pq.write_table(table.replace_schema_metadata(metadata), temporary)
    elif path.name.endswith(".csv"):
        with atomic_path(path) as temporary:
            csv_ready(frame).to_csv(temporary, index=False, lineterminator="\n")
        if header:
            write_json(path.with_name(path.name + ".json"), header)
    else:
        raise MedtailError(f"{path}: unknown ending {path.suffix!r}; expected .csv or .parquet.")


def csv_ready(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a copy whose label-like float columns (only 0, 1, NaN) are written as `0`, `1` and empty."""
    result = frame.copy()
    for column in result.columns:
        values = result[column]
        if values.dtype.kind == "f" and len(values) and bool(values.dropna().isin([0.0, 1.0]).all()):
            result[column] = values.astype("Int64")
    return result


def as_text(column: pd.Series) -> pd.Series:
    """Return a column as stripped text, missing values as ""; 7.0 becomes "7"."""
    if column.dtype.kind == "f":
        return column.map(lambda v: "" if pd.isna(v) else (str(int(v)) if float(v).is_integer() else repr(float(v))))
    return column.map(lambda v: "" if v is None or v is pd.NA or v != v else str(v).strip())


def as_numbers(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Turn a column into float64, and say where that failed.

    Returns:
        Values with NaN for empty cells, and a boolean array marking cells that are no number.
    """
    if column.dtype.kind in "fiub":
        return column.to_numpy(dtype=np.float64, na_value=np.nan), np.zeros(len(column), dtype=bool)
    text = as_text(column)
    empty = text.isin(MISSING_WORDS).to_numpy(dtype=bool)
    values = pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    return values, np.isnan(values) & ~empty


def spreadsheet_rows(mask: np.ndarray) -> list[int]:
    """Return the row numbers a spreadsheet shows for the marked rows (the header is row 1)."""
    return [int(index) + 2 for index in np.flatnonzero(mask)]


def add_row_problem(problems: Problems, mask: np.ndarray, column: pd.Series, *, expected: str) -> None:
    """Add one line naming the first bad cell of a column, what it holds, and the other rows."""
    rows = spreadsheet_rows(mask)
    if not rows:
        return
    first = column.iloc[rows[0] - 2]
    others = f" Also rows {listing(rows[1:], limit=8)}." if len(rows) > 1 else ""
    problems.add(f"row {rows[0]}, column {column.name!r}: found {str(first)!r}; expected {expected}.{others}")


def digest_frame(frame: pd.DataFrame) -> str:
    """Return the digest of a table's columns and values, the same for CSV and Parquet."""
    return digest_bytes(csv_ready(frame).to_csv(index=False, lineterminator="\n").encode())
