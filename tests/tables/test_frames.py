from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtail.errors import MedtailError, Problems
from medtail.tables.frames import (
    add_row_problem,
    as_numbers,
    as_text,
    check_characters,
    check_columns,
    check_ids,
    digest_frame,
    read_table,
    write_table,
)

PLAIN = b"image_id,note,A\na,first,1\nb,second,0\n"


def put(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def read(folder: Path, content: bytes, name: str = "t.csv") -> pd.DataFrame:
    return read_table(put(folder, name, content), what="manifest")[0]


def cells(frame: pd.DataFrame) -> list[list[str]]:
    return [list(frame.columns), *frame.to_numpy(dtype=object).tolist()]


EXPECTED = [["image_id", "note", "A"], ["a", "first", "1"], ["b", "second", "0"]]


# --- CSV as people and programs write it ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.csv", PLAIN),
        ("upper.CSV", PLAIN),
        ("bom.csv", b"\xef\xbb\xbf" + PLAIN),
        ("windows.csv", PLAIN.replace(b"\n", b"\r\n")),
        ("old_mac.csv", PLAIN.replace(b"\n", b"\r")),
        ("semicolon.csv", PLAIN.replace(b",", b";")),
        ("tab.tsv", PLAIN.replace(b",", b"\t")),
        ("text.txt", PLAIN),
        ("no_last_line_end.csv", PLAIN.rstrip()),
        ("blank_lines_at_the_end.csv", PLAIN + b"\n  \n\r\n"),
        ("all_quoted.csv", b'"image_id","note","A"\n"a","first","1"\n"b","second","0"\n'),
        ("spaces_in_header.csv", PLAIN.replace(b"note,A", b" note , A")),
        ("separator_at_every_end.csv", PLAIN.replace(b"\n", b",\n")),
        ("separator_at_row_ends.csv", b"image_id,note,A\na,first,1,\nb,second,0,,\n"),
        # mtime=0: names of tests must not hold the time, or two test processes disagree on what there is to run
        ("packed.csv.gz", gzip.compress(PLAIN, mtime=0)),
        ("packed.CSV.GZ", gzip.compress(b"\xef\xbb\xbf" + PLAIN, mtime=0)),
    ],
)
def test_csv_is_read_however_it_was_saved(tmp_path, name, content):
    assert cells(read(tmp_path, content, name)) == EXPECTED


def test_quoted_cells_keep_separators_line_ends_and_quotes(tmp_path):
    frame = read(tmp_path, b'image_id,note\na,"x, y;z"\nb,"two\nlines"\nw,"two\r\nlines"\nc,"say ""hm"""\nd,\n')
    assert frame["note"].tolist() == ["x, y;z", "two\nlines", "two\r\nlines", 'say "hm"', ""]


def test_the_separator_is_told_by_the_header_not_by_what_stands_in_quotes(tmp_path):
    frame = read(tmp_path, b'image_id;"a, b, c, d"\nx;"1, 2"\n')
    assert cells(frame) == [["image_id", "a, b, c, d"], ["x", "1, 2"]]


def test_numbers_and_missing_words_stay_the_text_the_person_wrote(tmp_path):
    frame = read(tmp_path, b"image_id,A\n007,1.0\nNA,NaN\nnull,\n")
    assert cells(frame)[1:] == [["007", "1.0"], ["NA", "NaN"], ["null", ""]]


def test_a_table_of_one_column_needs_no_separator(tmp_path):
    assert cells(read(tmp_path, b'image_id\na\n""\nb\n')) == [["image_id"], ["a"], [""], ["b"]]


def test_a_header_alone_is_an_empty_table(tmp_path):
    frame = read(tmp_path, b"image_id,A\n")
    assert list(frame.columns) == ["image_id", "A"]
    assert len(frame) == 0


# --- bad files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.csv", b"", r"t\.csv: the file is empty; expected a manifest: a header row, then a row an image"),
        ("t.csv", b"\xef\xbb\xbf", r"t\.csv: the file is empty"),
        ("t.csv", b" \n\n \t\n", r"t\.csv: the file is empty"),
        ("t.csv", b"\n" + PLAIN, r"t\.csv, row 1: empty; expected the header: a name a column\. Remove the blank"),
        ("t.csv", b"a,b\n1,2\n1,2,3\n", r"t\.csv, row 3: found 3 cells, more than the header's 2; expected as many"),
        ("t.csv", b"a,b\n1,2,3\n1,2\n", r"t\.csv, row 2: found 3 cells, more than the header's 2; expected as many"),
        (
            "t.csv",
            b"a,b,c\n1,2,3\n1,2\n4,5\n",
            r"t\.csv, rows 3, 4: found 2 cells, fewer than the header's 3; .*quotes",
        ),
        ("t.csv", b"a,b\n1,2\n\n3,4\n", r"t\.csv, row 3: empty; remove the blank line or fill the row"),
        ("t.csv", b"a,b,\n1,2,3\n", r"t\.csv, row 2: found 3 cells, more than the header's 2"),
        ("t.csv", b"a,,b\n1,2,3\n", r"t\.csv, column 2: has no name; name it or remove it"),
        ("t.csv", b",a\n0,2\n", r"t\.csv, column 1: has no name; .*a pandas index\? write with index=False"),
        ("t.csv", b"a,b,a, a\n1,2,3,4\n", r"t\.csv, column 'a': appears 3 times; keep one"),
        ("t.csv", b'a,b\n1,"2\n3,4\n', r"t\.csv, line \d: cannot be read as CSV \(.*\)\. Is a quote left open\?"),
        ("t.csv", b'a,b\n1,"2"x\n', r"t\.csv, line 2: cannot be read as CSV"),
        ("t.csv", PLAIN.decode().encode("utf-16"), r"t\.csv: cannot be read as CSV \(UTF-16 text\)\. Save it as UTF-8"),
        ("t.csv", "a\né\n".encode("latin-1"), r"t\.csv: cannot be read as CSV \('utf-8' codec.*\)\. Save it as UTF-8"),
        ("t.csv", b"\x89PNG\r\n\x1a\n" + bytes(99), r"t\.csv: cannot be read as CSV .*Save it as UTF-8 CSV"),
        ("t.csv", b"a,b\n\x00,1\n", r"t\.csv: cannot be read as CSV \(it holds zero bytes\)\. Is it text\?"),
        ("t.csv.gz", PLAIN, r"t\.csv\.gz: cannot be read \(Not a gzipped file.*\)\. Is the file whole\?"),
        (
            "t.csv.gz",
            gzip.compress(PLAIN * 99, mtime=0)[:40],
            r"t\.csv\.gz: cannot be read \(.*\)\. Is the file whole\?",
        ),
        ("t.xlsx", b"PK\x03\x04", r"t\.xlsx: unknown ending '\.xlsx'; expected a manifest as \.csv or \.parquet"),
        ("t", PLAIN, r"t: unknown ending ''; expected a manifest as \.csv or \.parquet"),
        ("t.parquet", b"", r"t\.parquet: cannot be read as Parquet .* Expected a manifest"),
        ("t.parquet", b"PAR1" + b"junk" * 9 + b"PAR1", r"t\.parquet: cannot be read as Parquet"),
        ("t.parquet", PLAIN, r"t\.parquet: cannot be read as Parquet"),
    ],
)
def test_a_bad_file_is_refused_saying_what_and_what_to_do(tmp_path, name, content, expected):
    with pytest.raises(MedtailError, match=expected):
        read(tmp_path, content, name)


def test_a_damaged_gzip_stream_is_refused(tmp_path):
    packed = gzip.compress(PLAIN)
    header = 10  # bytes; the first block of the stream follows
    for broken in (packed[:header] + b"\xff" + packed[header + 1 :], packed[:-8] + bytes(8)):
        with pytest.raises(MedtailError, match=r"t\.csv\.gz: cannot be read \(.*\)\. Is the file whole\?"):
            read(tmp_path, broken, "t.csv.gz")


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(MedtailError, match=r"none\.csv: no such file; expected a table of scores as \.csv"):
        read_table(tmp_path / "none.csv", what="table of scores")
    with pytest.raises(MedtailError, match=r": is a folder; expected a manifest as \.csv or \.parquet"):
        read_table(tmp_path, what="manifest")
    with pytest.raises(MedtailError, match="no such file"):
        read_table(tmp_path / ("x" * 400 + ".csv"), what="manifest")


def test_every_bad_row_and_column_of_a_file_is_listed_at_once(tmp_path):
    with pytest.raises(MedtailError) as caught:
        read(tmp_path, b"a,,a\n1,2,3\n\n1,2\n1,2,3,4\n")
    assert [line.partition("t.csv, ")[2].partition(":")[0] for line in str(caught.value).splitlines()] == [
        "column 2", "column 'a'", "row 3", "row 4", "row 5"
    ]  # fmt: skip


def test_many_bad_rows_are_one_line(tmp_path):
    with pytest.raises(MedtailError, match=r"rows 2, 3, 4, 5, 6, 7, 8, 9 and 992 more: found 1 cells") as caught:
        read(tmp_path, b"a,b\n" + b"1\n" * 1000)
    assert len(str(caught.value).splitlines()) == 1


def test_a_parquet_file_with_a_broken_header_record_is_refused(tmp_path):
    for record, expected in ((b"{", "cannot be read as Parquet"), (b"[1]", "its header is list; expected a JSON")):
        table = pa.table({"a": [1]}).replace_schema_metadata({b"medtail": record})
        pq.write_table(table, tmp_path / "t.parquet")
        with pytest.raises(MedtailError, match=expected):
            read_table(tmp_path / "t.parquet", what="manifest")


def test_parquet_columns_are_checked_like_those_of_csv(tmp_path):
    table = pa.Table.from_arrays([pa.array([1])] * 3, names=["a", "a", ""])
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(MedtailError, match=r"column 3: has no name(?s:.)*column 'a': appears 2 times"):
        read_table(tmp_path / "t.parquet", what="manifest")


def test_a_broken_header_file_beside_a_csv_is_named(tmp_path):
    put(tmp_path, "t.csv.json", b"{")
    with pytest.raises(MedtailError, match=r"t\.csv\.json: is not readable JSON"):
        read(tmp_path, PLAIN)


# --- writing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "T.CSV", "T.PARQUET"])
@pytest.mark.parametrize("header", [None, {}, {"a": [1, {"b": "é"}]}])
def test_a_table_and_its_header_come_back(tmp_path, name, header):
    frame = pd.DataFrame({"id": ["a", "b"], "x": [0.1, np.nan], "label": [1.0, 0.0]})
    write_table(tmp_path / name, frame, header=header)
    found, record = read_table(tmp_path / name, what="table")
    assert record == (header or {})
    assert list(found.columns) == ["id", "x", "label"]
    for column in ("x", "label"):
        np.testing.assert_array_equal(as_numbers(found[column])[0], frame[column])


def test_labels_are_written_as_a_person_would(tmp_path):
    frame = pd.DataFrame({"id": ["a", "b"], "A": [1.0, np.nan], "age": [50.5, np.nan], "none": [np.nan, np.nan]})
    write_table(tmp_path / "t.csv", frame)
    assert (tmp_path / "t.csv").read_bytes() == b"id,A,age,none\na,1,50.5,\nb,,,\n"


def test_text_that_looks_like_a_formula_is_written_as_it_is(tmp_path):
    # nothing is decided silently: ids must join with other tables byte for byte, so no quote is put before them.
    # Whoever opens such a CSV in a spreadsheet decides there; the docstring of write_table says so.
    ids = ["=1+1", "+a", "-b", "@c", '=HYPERLINK("x")']
    write_table(tmp_path / "t.csv", pd.DataFrame({"id": ids}))
    assert (tmp_path / "t.csv").read_text() == 'id\n=1+1\n+a\n-b\n@c\n"=HYPERLINK(""x"")"\n'
    assert read_table(tmp_path / "t.csv", what="table")[0]["id"].tolist() == ids


def test_an_unknown_ending_is_refused_before_anything_is_written(tmp_path):
    for name in ("t.xlsx", "t", "t.csv.gz"):
        with pytest.raises(MedtailError, match=r"unknown ending .*; expected \.csv or \.parquet"):
            write_table(tmp_path / name, pd.DataFrame({"a": [1]}), header={"x": 1})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_header_that_is_no_json_leaves_the_old_table(tmp_path, name):
    write_table(tmp_path / name, pd.DataFrame({"a": ["old"]}), header={"x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_table(tmp_path / name, pd.DataFrame({"a": ["new"]}), header={"x": float("nan")})
    found, header = read_table(tmp_path / name, what="table")
    assert found["a"].tolist() == ["old"]
    assert header == {"x": 1}


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_full_disk_leaves_the_old_table_and_header(tmp_path, monkeypatch, name):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    write_table(tmp_path / name, pd.DataFrame({"a": ["old"]}), header={"x": 1})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr(pd.DataFrame, "to_csv", fail)
        patched.setattr(pq, "write_table", fail)
        with pytest.raises(MedtailError, match=rf"{name}: the disk is full; nothing was written there"):
            write_table(tmp_path / name, pd.DataFrame({"a": ["new"]}), header={"x": 2})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_header_beside_a_csv_is_json_a_person_can_read(tmp_path):
    write_table(tmp_path / "t.csv", pd.DataFrame({"a": ["x"]}), header={"b": 1, "a": "é"})
    assert json.loads((tmp_path / "t.csv.json").read_text(encoding="utf-8")) == {"a": "é", "b": 1}


# no control characters but tab and line feed: tables refuse them (see check_characters)
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\t"), max_size=8)
FRAMES = st.integers(1, 6).flatmap(
    lambda n: st.fixed_dictionaries(
        {
            "id": st.lists(TEXT.map(str.strip), min_size=n, max_size=n),
            "x": st.lists(st.floats(allow_infinity=False), min_size=n, max_size=n),
            "A": st.lists(st.sampled_from([0.0, 1.0, np.nan]), min_size=n, max_size=n),
        }
    )
)


@given(columns=FRAMES)
def test_csv_and_parquet_give_the_same_values_and_the_same_digest(tmp_path_factory, columns):
    folder = tmp_path_factory.mktemp("frames")
    frame = pd.DataFrame(columns, columns=["id", "x", "A"]).astype({"id": str})
    for name in ("t.csv", "t.parquet"):
        write_table(folder / name, frame)
        found, _ = read_table(folder / name, what="table")
        again = pd.DataFrame(
            {"id": as_text(found["id"]), "x": as_numbers(found["x"])[0], "A": as_numbers(found["A"])[0]}
        )
        pd.testing.assert_frame_equal(again, frame, check_exact=True)
        assert digest_frame(again) == digest_frame(frame)


def test_the_digest_knows_values_names_and_order_but_not_the_signs_of_zero_and_nan():
    frame = pd.DataFrame({"id": ["a", "b"], "x": [0.5, 0.0]})
    same = pd.DataFrame({"id": ["a", "b"], "x": [0.5, -0.0]})
    others = [
        frame.iloc[::-1],
        frame[["x", "id"]],
        frame.rename(columns={"x": "y"}),
        frame.assign(x=[0.5, 1e-300]),
        frame.assign(x=[0.5, np.nan]),
        frame.assign(id=["ab", ""]),
        frame.iloc[:1],
    ]
    assert digest_frame(same) == digest_frame(frame)
    unknown = np.array([0.5, np.nan])
    assert digest_frame(frame.assign(x=np.copysign(unknown, -1) * [-1, 1])) == digest_frame(frame.assign(x=unknown))
    assert len({digest_frame(other) for other in [frame, *others]}) == 8


# --- cells ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([" a ", "", "NaN"], ["a", "", "NaN"]),
        ([7.0, np.nan, 7.5], ["7", "", "7.5"]),
        ([7, 8], ["7", "8"]),
        ([None, pd.NA, pd.NaT, "x", 3.0], ["", "", "", "x", "3"]),
        (pd.array([1, None], dtype="Int64"), ["1", ""]),
        (pd.Categorical(["b", None, "a"]), ["b", "", "a"]),
        ([True, False], ["True", "False"]),
        ([[1, 2], "x"], ["[1, 2]", "x"]),
    ],
)
def test_any_column_becomes_stripped_text(values, expected):
    found = as_text(pd.Series(values, name="c", index=range(3, 3 + len(expected))))
    assert found.tolist() == expected
    assert found.name == "c"
    assert found.index.tolist() == list(range(3, 3 + len(expected)))


@pytest.mark.parametrize("text", ["1", " 1 ", "+1", "1.0", "1e0", "0.1e1", "1.", "01"])
def test_a_number_may_be_written_in_several_ways(text):
    values, bad = as_numbers(pd.Series([text]))
    assert values.tolist() == [1.0]
    assert not bad.any()


@pytest.mark.parametrize("text", ["", "  ", "nan", "NaN"])
def test_empty_cells_are_missing_not_wrong(text):
    values, bad = as_numbers(pd.Series([text], dtype=str))
    assert np.isnan(values).all()
    assert not bad.any()


@pytest.mark.parametrize("text", ["yes", "True", "NA", "null", "-", "1_0", "0x1", "1,5", "1 2", "١", "½", "NAN"])
def test_what_a_person_would_not_call_a_number_is_marked(text):
    values, bad = as_numbers(pd.Series(["1", text, "0"]))
    assert bad.tolist() == [False, True, False]
    assert np.isnan(values[1])


def test_number_columns_of_any_type_become_float64():
    for values in ([1, 0], [True, False], pd.array([1, 0], dtype="Int8"), np.array([1, 0], dtype=np.float32)):
        numbers, bad = as_numbers(pd.Series(values))
        assert numbers.dtype == np.float64
        assert numbers.tolist() == [1.0, 0.0]
        assert not bad.any()


@given(values=st.lists(st.floats(allow_nan=False), min_size=1))
def test_numbers_written_as_text_come_back_to_the_last_bit(values):
    np.testing.assert_array_equal(as_numbers(pd.Series([repr(value) for value in values], dtype=str))[0], values)


@given(
    cells=st.lists(
        st.one_of(
            st.floats().map(repr),
            st.from_regex(r"[+-]?[0-9]{1,3}(\.[0-9]{0,3})?([eE][+-]?[0-9]{1,3})?", fullmatch=True),
        ),
        min_size=1,
    )
)
def test_a_column_read_at_once_is_the_column_read_cell_by_cell(cells):
    at_once = as_numbers(pd.Series(cells, dtype=str))[0]
    # a cell that is no number has every cell read by itself
    cell_by_cell, bad = as_numbers(pd.Series([*cells, "x"], dtype=str))
    assert at_once.tobytes() == cell_by_cell[:-1].tobytes()
    assert at_once.flags.writeable
    assert bad.tolist() == [False] * len(cells) + [True]


# --- messages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([1], "t, row 3, column 'A': found 'b'; expected a number."),
        ([1, 3], "t, row 3, column 'A': found 'b'; expected a number. Also row 5."),
        ([0, 1, 3], "t, row 2, column 'A': found 'a'; expected a number. Also rows 3, 5."),
    ],
)
def test_a_bad_cell_is_shown_with_its_spreadsheet_row_and_the_others_listed(rows, expected):
    problems = Problems("t")
    mask = np.isin(np.arange(4), rows)
    add_row_problem(problems, mask, pd.Series(list("abcd"), name="A"), expected="a number")
    assert problems.text() == expected


def test_no_bad_cell_adds_nothing():
    problems = Problems("t")
    add_row_problem(problems, np.zeros(2, dtype=bool), pd.Series(["a", "b"], name="A"), expected="a number")
    check_ids(pd.Series(["a", "b"], name="id"), problems)
    check_characters(pd.Series(["a\nb", "c\td", "e\r\nf"], name="id"), problems)
    check_columns(["a", "A", 1], problems)
    assert len(problems) == 0


def test_ids_that_are_empty_or_repeated_are_named_with_their_rows():
    problems = Problems("t")
    check_ids(pd.Series(["a", "", "b", "a", "c", "b", "a"], name="image_id"), problems)
    assert problems.text().splitlines() == [
        "t, row 3, column 'image_id': found ''; expected a value, not an empty cell.",
        "t, column 'image_id': 'a' stands in rows 2, 5, 8; expected once.",
        "t, column 'image_id': 'b' stands in rows 4, 7; expected once.",
    ]


@pytest.mark.parametrize("character", ["\x00", "\x07", "\r", "\r\r\n", "\x1b", "\x7f"])
def test_control_characters_are_refused_and_shown(character):
    problems = Problems("t")
    check_characters(pd.Series(["fine", f"a{character}b"], name="path"), problems)
    check_columns([f"a{character}b"], problems)
    shown = repr(f"a{character}b")
    first, second = problems.text().splitlines()
    assert first == f"t, row 3, column 'path': found {shown}; expected text without control characters."
    assert second == f"t, column 1: its name {shown} holds control characters; rename it."
