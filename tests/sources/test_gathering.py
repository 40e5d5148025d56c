from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError, Problems
from medtail.sources.gathering import age_years, ages, dataset_file, exclusive, files_by_name, mapped, sub_files


@pytest.mark.parametrize(
    ("text", "years"),
    [("058Y", 58), ("58", 58), ("57.0", 57), ("006M", 0.5), ("052W", 364 / 365.25), ("021D", 21 / 365.25),
     (" 7y ", 7), ("", None), ("old", None), ("-3", None), ("5X", None)],
)  # fmt: skip
def test_ages_in_every_unit_are_years(text: str, years: float | None) -> None:
    assert age_years(text) == (None if years is None else pytest.approx(years))


def test_column_of_ages_has_nan_where_unknown_and_a_problem_where_wrong() -> None:
    problems = Problems("t.csv")
    years = ages(pd.Series(["57", "n/a", "old", "older"], name="age"), problems=problems, unknown=("n/a",))
    assert years[0] == 57
    assert np.isnan(years[1:]).all()
    assert problems.found == [
        "row 4, column 'age': found 'old'; expected an age such as 57 or 057Y, or empty. 2 such rows."
    ]


def test_words_are_mapped_and_strangers_named_once() -> None:
    problems = Problems("t.csv")
    values = mapped(pd.Series(["yes", "no", "yess", "maybe"], name="halo"), {"yes": 1.0, "no": 0.0}, problems=problems)
    assert values[:2].tolist() == [1, 0]
    assert np.isnan(values[2:]).all()
    assert problems.found == [
        "row 4, column 'halo': found 'yess'; expected one of 'yes', 'no'; did you mean 'yes'? Also rows 5."
    ]


def test_vocabulary_words_get_columns_whether_seen_or_not() -> None:
    problems = Problems("t.csv")
    columns = exclusive(
        pd.Series(["oval", "none", "?"], name="shape"), group="shape", words={"oval": "oval", "round": "round"},
        none_of_them=["none"], unknown=["?"], problems=problems,
    )  # fmt: skip
    assert not problems.found
    assert list(columns) == ["shape=oval", "shape=round"]
    assert columns["shape=oval"][:2].tolist() == [1, 0]
    assert columns["shape=round"][:2].tolist() == [0, 0]
    assert np.isnan([column[2] for column in columns.values()]).all()


def test_files_are_walked_in_order_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/10.PNG", "a/1.txt", ".git/x.png", "b/.y.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [file.name for file in sub_files(tmp_path)] == ["1.txt", "10.PNG", "2.png"]
    assert [file.name for file in sub_files(tmp_path, endings=(".png",))] == ["10.PNG", "2.png"]


def test_copies_of_a_name_are_one_file_and_differing_ones_a_problem(tmp_path: Path) -> None:
    for place, text in (("a", "same"), ("b", "same"), ("c", "diff")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "1.png").write_text(text)
    problems = Problems("t")
    assert files_by_name(tmp_path, ["1.png"], problems=problems) == {"1.png": tmp_path / "a" / "1.png"}
    assert len(problems) == 1
    assert str(tmp_path / "c" / "1.png") in problems.found[0]


def test_missing_file_says_what_the_folder_holds(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "data.csv").touch()
    with pytest.raises(
        MedtailError, match=r"x: no a\.csv or b\.csv in .* expected the layout: E\. .* data\.csv, images/"
    ):
        dataset_file(tmp_path, ["a.csv", "b.csv"], layout="x", expected="E")
