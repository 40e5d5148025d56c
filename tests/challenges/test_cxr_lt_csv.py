"""CSV bytes to columns of text, mistakes by row."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtail.challenges.cxr_lt_csv import MAX_COLUMNS, MAX_HEADER_BYTES, parse_csv
from medtail.errors import Problems
from medtail.tables.frames import as_numbers


def parsed(content: bytes):
    problems = Problems("t.csv")
    return parse_csv(content, problems=problems), problems.found


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_byte_order_marks_and_last_lines_do_not_matter(end, mark):
    content = mark + end.join([b"id, Hernia ", b'"a,b",0.5', b"c,1e-3"]) + end * 3
    table, found = parsed(content)
    assert found == []
    assert table.columns == ("id", "Hernia")
    assert table.text(0).tolist() == ["a,b", "c"]
    assert table.numbers(1)[0].tolist() == [0.5, 0.001]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_numbers_come_back_to_the_last_bit(values):
    body = "".join(f"x,{value!r}\n" for value in values)
    table, _ = parsed(f"id,v\n{body}".encode())
    assert np.array_equal(table.numbers(1)[0], np.array(values))


ODD = ["0.5", " 0.5 ", "nan", "NaN", "", "inf", "-inf", "1_0", "0x1", "1e-3", "+.5", "٣", ".5", "5.", "1d5", "-0",
       "abc", "0,5", "1e400", "True", "None"]  # fmt: skip


@pytest.mark.parametrize("cell", ODD)
def test_the_fast_reader_of_numbers_agrees_with_the_patient_one(cell):
    for others in (["0.25"], ["0.25", "x"]):
        rows = "".join(f'a,"{value}"\n' for value in [cell, *others])
        table, found = parsed(f"id,v\n{rows}".encode())
        assert found == []
        values, bad = table.numbers(1)
        expected, expected_bad = as_numbers(pd.Series([cell, *others], dtype=str))
        assert np.array_equal(values, expected, equal_nan=True)
        assert bad.tolist() == expected_bad.tolist()


def test_rows_of_the_wrong_width_are_named_and_the_others_kept():
    table, found = parsed(b"id,a,b\nw,1,2\nx,1\ny,1,2,3\nz,3,4\n")
    assert found == ["rows 3, 4: found 2 cells; expected 3, as the header."]
    assert table.text(0).tolist() == ["w", "z"]


def test_a_blank_line_in_the_middle_is_a_row_without_an_id():
    table, _ = parsed(b"id,a,b\nw,1,2\n\nz,3,4\n")
    assert table.text(0).tolist() == ["w", "", "z"]
    assert np.isnan(table.numbers(1)[0]).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the table is empty"),
        (b" \n\n", "the table is empty"),
        (b"id,a\n", "no rows"),
        (b"\xff\xfei\x00d\x00", "UTF-16"),
        (b"id;a\nx;1\n", "separated by semicolons; expected commas"),
        (b"id\ta\nx\t1\n", "separated by tabs"),
        (b'id,"a\nx,1\n', "the header cannot be read"),
        (b"id,\xff\nx,1\n", "the header cannot be read"),
        (b"id,a\nx\x00,1\n", "zero bytes"),
        (b"id,a\n\xff\xfe\xfd,1\n", "cannot be read as CSV"),
        (b"a" * (MAX_HEADER_BYTES + 1), "the header is longer than"),
        (b"a," * MAX_COLUMNS + b"b\n1", "columns; expected the id and one a class"),
    ],
)
def test_what_is_no_table_says_why(content, reason):
    table, found = parsed(content)
    assert len(found) == 1
    assert reason in found[0]
    assert table.rows == 0


def test_repeated_and_unnamed_columns_survive_to_be_complained_about():
    table, found = parsed(b",a,a\n0,1,2\n")
    assert found == []
    assert table.columns == ("", "a", "a")
    assert [table.numbers(column)[0].tolist() for column in range(3)] == [[0.0], [1.0], [2.0]]
