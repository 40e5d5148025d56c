"""Reading and writing the table files: CSV as text first, Parquet with its header, nothing half-written.

CSV cells are read as text and turned to numbers here, so that a mistake can be shown as the person wrote it, and
every row must have as many cells as the header: a short row is refused, never filled up with "not assessed". Row
numbers in messages are those a spreadsheet shows: the header is row 1. A CSV cannot carry a header record; it goes
beside the file as `NAME.csv.json`. Parquet carries it inside.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medtail.errors import MedtailError, Problems, listing
from medtail.runs import atomic_path, digest_bytes, read_json

HEADER_KEY = b"medtail"
MISSING_WORDS = ("", "nan", "NaN")
CSV_ENDINGS = (".csv", ".csv.gz", ".tsv", ".txt")
SEPARATORS = ",;\t"
MAX_COLUMNS = 16_384
"""What a spreadsheet takes; beyond it a table is damaged, read with the wrong separator, or meant to hurt."""
MAX_UNPACKED_BYTES = 2 * 2**30
"""A packed table that unpacks to more is taken for a bomb; 377,110 images of 45 classes take 70 MB."""
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
# line ends and tabs inside a cell are fine; a lone carriage return is not quoted by Python's csv before 3.13
CONTROL_CHARACTERS = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?:[^\n]|$)"


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
    if os.path.isdir(path):  # noqa: PTH112 - like exists below: never raises, whatever the name
        raise MedtailError(f"{path}: is a folder; expected a {what} as .csv or .parquet.")
    if not os.path.exists(path):  # noqa: PTH110
        raise MedtailError(f"{path}: no such file; expected a {what} as .csv or .parquet.")
    if path.name.lower().endswith(".parquet"):
        return _read_parquet(path, what=what)
    if not path.name.lower().endswith(CSV_ENDINGS):
        raise MedtailError(f"{path}: unknown ending {path.suffix!r}; expected a {what} as .csv or .parquet.")
    side = path.with_name(path.name + ".json")
    return _read_csv(path, what=what), (read_json(side) if side.exists() else {})


def _read_parquet(path: Path, *, what: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:  # unlike read_table, reads repeated names, which are then named
            table = file.read()
        metadata = (table.schema.metadata or {}).get(HEADER_KEY)
        frame: pd.DataFrame = table.replace_schema_metadata(None).to_pandas()
        header = json.loads(metadata) if metadata else {}
    except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
        raise MedtailError(f"{path}: cannot be read as Parquet ({error}). Expected a {what}.") from error
    if not isinstance(header, dict):
        raise MedtailError(f"{path}: its header is {type(header).__name__}; expected a JSON object.")
    problems = Problems(str(path))
    check_columns(list(frame.columns), problems)
    problems.raise_if_any()
    return frame, header


def _read_csv(path: Path, *, what: str) -> pd.DataFrame:
    text = _decoded(path)
    start = text.lstrip()
    if not start:
        raise MedtailError(f"{path}: the file is empty; expected a {what}: a header row, then a row an image.")
    # newline="" keeps line ends inside quoted cells as they are
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(start), strict=True)
    rows: list[list[str]] = []
    try:
        for row in reader:
            if len(row) > MAX_COLUMNS:
                raise MedtailError(
                    f"{path}, line {reader.line_num}: found {len(row):,} cells; expected at most {MAX_COLUMNS:,} a row."
                )
            rows.append(row)
    except csv.Error as error:
        raise MedtailError(
            f"{path}, line {reader.line_num}: cannot be read as CSV ({error}). Is a quote left open? A cell with a"
            " comma, a line end or a quote stands in quotes, a quote inside it doubled."
        ) from error
    while not "".join(rows[-1]).strip():  # blank lines and rows of empty cells at the end carry nothing
        rows.pop()
    problems = Problems(str(path))
    columns = [name.strip() for name in rows[0]]
    if not any(columns):
        raise MedtailError(f"{path}, row 1: empty; expected the header: a name a column. Remove the blank line.")
    while not columns[-1]:  # so does a separator at the end of the header, if its cells are empty
        columns.pop()
    check_columns(columns, problems)
    cells = [_fitted(row, len(columns)) for row in rows[1:]]
    _check_widths(rows[1:], cells, len(columns), problems)
    problems.raise_if_any()
    gathered = zip(*cells, strict=True) if cells else [()] * len(columns)
    return pd.DataFrame({name: pd.Series(values, dtype=str) for name, values in zip(columns, gathered, strict=True)})


def _decoded(path: Path) -> str:
    try:
        content = path.read_bytes()
        if path.name.lower().endswith(".gz"):
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
                content = packed.read(MAX_UNPACKED_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise MedtailError(f"{path}: cannot be read ({error}). Is the file whole?") from error
    if len(content) > MAX_UNPACKED_BYTES and path.name.lower().endswith(".gz"):
        raise MedtailError(f"{path}: unpacks to more than {MAX_UNPACKED_BYTES >> 20:,} MiB; is it a table?")
    if content.startswith(UTF16_MARKS):
        raise MedtailError(f"{path}: cannot be read as CSV (UTF-16 text). Save it as UTF-8 CSV.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MedtailError(f"{path}: cannot be read as CSV ({error}). Save it as UTF-8 CSV.") from error
    if "\0" in text:
        raise MedtailError(f"{path}: cannot be read as CSV (it holds zero bytes). Is it text? Save it as UTF-8 CSV.")
    return text


def _separator(text: str) -> str:
    """Return the separator that stands most often in the header, quoted names left aside."""
    header = re.sub(r'"[^"]*"', "", text[: text.find("\n") if "\n" in text else None])
    return max(SEPARATORS, key=header.count)


def _fitted(row: list[str], width: int) -> list[str]:
    """Drop empty cells beyond the header's last name."""
    return row[:width] if len(row) > width and not "".join(row[width:]).strip() else row


def _check_widths(rows: Sequence[list[str]], cells: Sequence[list[str]], width: int, problems: Problems) -> None:
    # a row of one empty column is written as a quoted empty cell, so [] is a blank line there too
    blank = np.array([not row or (width > 1 and len(row) == 1 and not row[0].strip()) for row in rows], dtype=bool)
    if blank.any():
        problems.add(f"{row_list(spreadsheet_rows(blank))}: empty; remove the blank line or fill the row.")
    lengths = np.array([len(row) for row in cells])
    for wrong, word in (((lengths < width) & ~blank, "fewer"), (lengths > width, "more")):
        if wrong.any():
            found = int(lengths[int(np.flatnonzero(wrong)[0])])
            problems.add(
                f"{row_list(spreadsheet_rows(wrong))}: found {found} cells, {word} than the header's {width};"
                " expected as many. A cell that holds the separator needs quotes."
            )


def check_columns(columns: Sequence[object], problems: Problems) -> None:
    """Note columns that have no name, share one or could not be written back."""
    names = [str(name).strip() for name in columns]
    if len(names) > MAX_COLUMNS:
        problems.add(f"{len(names):,} columns; expected at most {MAX_COLUMNS:,}.")
        return
    for number, name in enumerate(names, start=1):
        if not name:
            problems.add(
                f"column {number}: has no name; name it or remove it (a pandas index? write with index=False)."
            )
        elif re.search(CONTROL_CHARACTERS, name):
            problems.add(f"column {number}: its name {name!r} holds control characters; rename it.")
    counted = Counter(names)
    for name in sorted(name for name, times in counted.items() if name and times > 1):
        problems.add(f"column {name!r}: appears {counted[name]} times; keep one.")


def write_table(path: Path | str, frame: pd.DataFrame, *, header: Mapping[str, Any] | None = None) -> None:
    """Write a frame as CSV or Parquet, atomically, with its header record.

    Args:
        path: Where; the ending chooses the format.
        frame: The table. Floats are written so that reading gives the same value. Text is written as it is: a cell
            that starts with `=` stays so, and a spreadsheet may take it for a formula.
        header: A JSON object to keep with it, or None.

    Raises:
        MedtailError: Unknown ending, or the place cannot be written.
    """
    path = Path(path)
    record = None if header is None else json.dumps(header, sort_keys=True, allow_nan=False, ensure_ascii=False)
    if path.name.lower().endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pandas(frame, preserve_index=False)
        with atomic_path(path) as temporary:
            pq.write_table(table.replace_schema_metadata({HEADER_KEY: record.encode()} if record else None), temporary)
    elif path.name.lower().endswith(".csv"):
        if record is None:
            _write_csv(path, frame)
        else:
            # the table is renamed first, its header right after, and neither if one cannot be written
            with atomic_path(path.with_name(path.name + ".json")) as beside:
                beside.write_text(record + "\n", encoding="utf-8", newline="\n")
                _write_csv(path, frame)
    else:
        raise MedtailError(f"{path}: unknown ending {path.suffix!r}; expected .csv or .parquet.")


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    with atomic_path(path) as temporary:
        csv_ready(frame).to_csv(temporary, index=False, lineterminator="\n")


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
    if isinstance(column.dtype, pd.StringDtype):
        text: pd.Series = column.fillna("").str.strip()
        return text
    values = [_cell_text(value) for value in column.astype(object)]
    return pd.Series(values, index=column.index, name=column.name, dtype=str)


def _cell_text(value: Any) -> str:
    if value is None or value is pd.NA or value is pd.NaT:
        return ""
    if isinstance(value, float):
        return "" if value != value else (str(int(value)) if value.is_integer() else repr(float(value)))
    return str(value).strip()


def as_numbers(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Turn a column into float64, and say where that failed.

    Returns:
        Values with NaN for empty cells, and a boolean array marking cells that are no number.
    """
    if column.dtype.kind in "fiub":
        return column.to_numpy(dtype=np.float64, na_value=np.nan), np.zeros(len(column), dtype=bool)
    text = as_text(column)
    plain = _plain_numbers(text)
    if plain is not None:
        return plain, np.zeros(len(column), dtype=bool)
    # each distinct text is read once: label columns hold three of them
    codes, distinct = pd.factorize(text.to_numpy(dtype=object))
    numbers = np.array([_number(text) for text in distinct], dtype=np.float64)
    empty = np.isin(distinct, MISSING_WORDS)
    return numbers[codes], (np.isnan(numbers) & ~empty)[codes]


def _plain_numbers(text: pd.Series) -> np.ndarray | None:
    """Read a column all of finite numbers at once, ten times as fast as cell by cell; None where it holds others."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        values = np.array(pc.cast(pa.array(text), pa.float64()).to_numpy(zero_copy_only=False))  # ours to write to
    except pa.ArrowException:
        return None
    return values if bool(np.isfinite(values).all()) else None


def _number(text: str) -> float:
    # Python reads 1_000 and other scripts' digits as numbers; a person would not
    try:
        return float(text) if text.isascii() and "_" not in text else float("nan")
    except ValueError:
        return float("nan")


def spreadsheet_rows(mask: np.ndarray) -> list[int]:
    """Return the row numbers a spreadsheet shows for the marked rows (the header is row 1)."""
    return [int(index) + 2 for index in np.flatnonzero(mask)]


def row_list(numbers: Sequence[int], *, limit: int = 8) -> str:
    """Name rows in a message.

    Example:
        >>> row_list([7]), row_list([7, 9, 12], limit=2)
        ('row 7', 'rows 7, 9 and 1 more')
    """
    return f"row {numbers[0]}" if len(numbers) == 1 else f"rows {listing(numbers, limit=limit)}"


def add_row_problem(problems: Problems, mask: np.ndarray, column: pd.Series, *, expected: str) -> None:
    """Add one line naming the first bad cell of a column, what it holds, and the other rows."""
    rows = spreadsheet_rows(mask)
    if not rows:
        return
    first = column.iloc[rows[0] - 2]
    others = f" Also {row_list(rows[1:])}." if len(rows) > 1 else ""
    problems.add(f"row {rows[0]}, column {column.name!r}: found {str(first)!r}; expected {expected}.{others}")


def check_ids(ids: pd.Series, problems: Problems) -> None:
    """Note ids (text, stripped) that are empty or stand in more than one row."""
    add_row_problem(problems, (ids == "").to_numpy(dtype=bool), ids, expected="a value, not an empty cell")
    rows_of: dict[str, list[int]] = {}
    for row in np.flatnonzero((ids.duplicated(keep=False) & (ids != "")).to_numpy(dtype=bool)):
        rows_of.setdefault(str(ids.iloc[row]), []).append(int(row) + 2)
    for name, rows in rows_of.items():
        problems.add(f"column {ids.name!r}: {name!r} stands in {row_list(rows)}; expected once.")


def check_characters(text: pd.Series, problems: Problems) -> None:
    """Note cells (text) holding control characters, which no table file carries safely."""
    bad = text.str.contains(CONTROL_CHARACTERS, regex=True).to_numpy(dtype=bool)
    add_row_problem(problems, bad, text, expected="text without control characters")


def digest_frame(frame: pd.DataFrame) -> str:
    """Return the digest of a table's columns and values, the same for CSV and Parquet."""
    parts: list[bytes] = []
    for name in frame.columns:
        column = frame[name]
        parts.append(str(name).encode())
        if column.dtype.kind in "fiub":
            # one bit pattern a value: adding 0 turns -0.0 into 0.0, and every NaN is the same
            values = column.to_numpy(dtype="<f8", na_value=np.nan) + 0.0
            values[np.isnan(values)] = np.nan
            parts.append(b"numbers" + values.tobytes())
        else:
            parts.append(b"text" + json.dumps(column.tolist()).encode())
    return digest_bytes(*parts)
