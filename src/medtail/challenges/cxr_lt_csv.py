"""CSV bytes of the challenge as columns of text, fast at 78,946 x 40 cells, mistakes named by row.

The general reader of `tables.frames` serves tables a person edits; challenge files are large, come from inside
archives, and must be shown with every fault they have, duplicated columns included. So cells stay text until asked
for as numbers, and a row of the wrong width is named, not fatal.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pandas as pd

from medtail.errors import Problems
from medtail.tables.frames import UTF16_MARKS, as_numbers, row_list

MAX_HEADER_BYTES = 2**20
MAX_COLUMNS = 2_000


@final
@dataclass(frozen=True, eq=False)
class TextTable:
    """A CSV's columns as text.

    Attributes:
        columns: Names as written, stripped; repeated ones stay.
        rows: Number of rows of the right width.
        cells: One Arrow array of text a column.
    """

    columns: tuple[str, ...]
    rows: int
    cells: tuple[Any, ...]

    def text(self, column: int) -> np.ndarray:
        """Return a column as stripped text, object [N]."""
        found = np.asarray(self.cells[column].to_pandas().str.strip(), dtype=object)
        return found

    def numbers(self, column: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a column as float64 [N] (NaN for empty cells and NaN) and a mask of the cells that are no number.

        Example:
            >>> table = parse_csv(b"a,b\\n1,x\\n2,\\n", problems=Problems("t.csv"))
            >>> table.numbers(1)[1].tolist()
            [True, False]
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        try:
            values = pc.cast(self.cells[column], pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid:  # some cell is no plain number: the patient reader finds out which
            return as_numbers(pd.Series(self.text(column), dtype=str))
        return np.asarray(values, dtype=np.float64), np.zeros(self.rows, dtype=bool)


def parse_csv(content: bytes, *, problems: Problems) -> TextTable:
    """Split a CSV into columns of text.

    Args:
        content: UTF-8 text with commas, a header and a row an image.
        problems: Receives what is wrong; the table then holds what could be read.

    Returns:
        The table; without columns where not even the header could be read.

    Example:
        >>> table = parse_csv(b"dicom_id,Hernia\\na,0.5\\n", problems=Problems("scores.csv"))
        >>> table.columns, table.rows
        (('dicom_id', 'Hernia'), 1)
    """
    nothing = TextTable((), 0, ())
    if content.startswith(UTF16_MARKS):
        problems.add("the text is UTF-16; expected UTF-8. Save it as UTF-8 CSV.")
        return nothing
    content = content.removeprefix(b"\xef\xbb\xbf").strip(b"\r\n \t")
    if not content:
        problems.add("the table is empty; expected a header row, then a row an image.")
        return nothing
    header, body = _split_header(content)
    columns = _column_names(header, problems)
    if not columns:
        return nothing
    if b"\0" in content:
        problems.add("the text holds zero bytes; expected UTF-8 text. Is it a CSV?")
        return nothing
    if not body.strip():
        problems.add("no rows: found only the header; expected a row an image.")
        return TextTable(columns, 0, tuple(_no_text() for _ in columns))
    return _parse_body(columns, body, problems)


def _split_header(content: bytes) -> tuple[bytes, bytes]:
    ends = [at for at in (content.find(mark, 0, MAX_HEADER_BYTES + 2) for mark in (b"\n", b"\r")) if at >= 0]
    if not ends:
        return content, b""
    end = min(ends)
    start = end + (2 if content[end : end + 2] == b"\r\n" else 1)
    return content[:end], content[start:]


def _column_names(header: bytes, problems: Problems) -> tuple[str, ...]:
    if len(header) > MAX_HEADER_BYTES:
        problems.add(f"row 1: the header is longer than {MAX_HEADER_BYTES:,} bytes; expected names of columns.")
        return ()
    try:
        row = next(csv.reader([header.decode("utf-8")], strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        problems.add(f"row 1: the header cannot be read ({error}); expected names of columns, UTF-8, with commas.")
        return ()
    if len(row) > MAX_COLUMNS:
        problems.add(f"row 1: found {len(row):,} columns; expected the id and one a class.")
        return ()
    if len(row) == 1:
        for name, separator in (("semicolons", ";"), ("tabs", "\t")):
            if separator in row[0]:
                problems.add(f"row 1: the columns are separated by {name}; expected commas. Save it with commas.")
                return ()
    return tuple(name.strip() for name in row)


def _no_text() -> Any:
    import pyarrow as pa

    return pa.chunked_array([pa.array([], type=pa.string())])


def _parse_body(columns: tuple[str, ...], body: bytes, problems: Problems) -> TextTable:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    names = [str(number) for number in range(len(columns))]  # their own names may repeat
    torn: list[Any] = []

    def note(row: Any) -> str:
        torn.append(row)
        return "skip"

    def read(*, threads: bool) -> Any:
        return arrow_csv.read_csv(
            pa.BufferReader(body),
            read_options=arrow_csv.ReadOptions(column_names=names, use_threads=threads),
            parse_options=arrow_csv.ParseOptions(
                invalid_row_handler=None if threads else note, ignore_empty_lines=False
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )

    try:
        try:
            table = read(threads=True)
        except pa.ArrowInvalid:
            table = read(threads=False)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        problems.add(f"cannot be read as CSV ({str(error).splitlines()[0]}). Save it as UTF-8 CSV with commas.")
        return TextTable(columns, 0, tuple(_no_text() for _ in columns))
    if torn:
        first = torn[0]
        problems.add(
            f"{_torn_rows(torn)}: found {first.actual_columns} cells; expected {first.expected_columns}, as the header."
        )
    return TextTable(columns, table.num_rows, tuple(table.columns))


def _torn_rows(torn: Sequence[Any]) -> str:
    # numbers count from the first row of the body; a spreadsheet shows the header as row 1
    numbers = [int(row.number) + 1 for row in torn if row.number is not None]
    return row_list(numbers) if numbers else f"{len(torn)} rows"
