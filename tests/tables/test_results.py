from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtail.errors import MedtailError
from medtail.tables.results import COLUMNS, Results, read_results, results_from_rows


@pytest.fixture
def results() -> Results:
    return results_from_rows(
        [
            {"metric": "auroc", "value": 0.7, "low": 0.6, "high": 0.8, "support": 2},
            {"metric": "auroc", "tail_group": "tail", "value": np.nan, "support": 0},
            {"metric": "auroc", "class": "Hernia", "tail_group": "tail", "value": 0.8, "support": 12},
            {
                "metric": "auroc",
                "class": "Hernia",
                "tail_group": "tail",
                "subgroup": "sex=F",
                "value": 0.9,
                "support": 5,
            },
            {"metric": "n_pos", "class": "Hernia", "tail_group": "tail", "value": 12},
        ],
        header={"seed": 0, "notes": ["Härte"]},
    )


def test_missing_text_is_empty_and_missing_numbers_are_nan(results):
    assert tuple(results.frame.columns) == COLUMNS
    assert len(results) == 5
    assert results.frame["class"].tolist() == ["", "", "Hernia", "Hernia", "Hernia"]
    np.testing.assert_array_equal(results.frame["low"], [0.6, *[np.nan] * 4])
    assert results_from_rows([]).frame.dtypes.equals(results.frame.dtypes)


def test_rows_are_narrowed_by_what_is_given(results):
    assert len(results.rows("auroc")) == 3
    assert len(results.rows("auroc", subgroup=None)) == 4
    assert len(results.rows("auroc", class_name="Hernia", subgroup=None)) == 2
    assert results.rows("auroc", class_name="", tail_group="")["value"].tolist() == [0.7]
    assert len(results.rows("auroc", class_name="Edema")) == 0


def test_one_value_is_found_by_metric_class_group_and_subgroup(results):
    assert results.value("auroc") == 0.7
    assert results.value("auroc", class_name="Hernia") == 0.8
    assert results.value("auroc", class_name="Hernia", subgroup="sex=F") == 0.9
    assert np.isnan(results.value("auroc", tail_group="tail"))


def test_a_value_that_is_not_there_or_not_alone_is_refused(results):
    with pytest.raises(
        MedtailError, match=r"results: 0 rows of 'aurok', class '', .*; expected one; did you mean 'auroc'"
    ):
        results.value("aurok")
    with pytest.raises(MedtailError, match=r"results: 0 rows of 'auroc', class 'Edema', .*expected one$"):
        results.value("auroc", class_name="Edema")
    twice = results_from_rows([{"metric": "f1", "value": 1}] * 2)
    with pytest.raises(MedtailError, match="results: 2 rows of 'f1'"):
        twice.value("f1")


@pytest.mark.parametrize("name", ["r.csv", "r.parquet"])
def test_results_and_their_header_come_back(results, tmp_path, name):
    results.write(tmp_path / name)
    again = read_results(tmp_path / name)
    pd.testing.assert_frame_equal(again.frame, results.frame, check_exact=True)
    assert again.header == {"seed": 0, "notes": ["Härte"]}


def test_an_old_header_never_stays_beside_new_results(results, tmp_path):
    results.write(tmp_path / "r.csv")
    results_from_rows([{"metric": "f1", "value": 1}]).write(tmp_path / "r.csv")
    assert read_results(tmp_path / "r.csv").header == {}


NUMBER = st.one_of(st.just(np.nan), st.floats(allow_infinity=False))
WORD = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=5).map(str.strip)
ROW = st.fixed_dictionaries(
    {
        "metric": WORD.filter(bool),
        "class": WORD,
        "tail_group": WORD,
        "value": NUMBER,
        "low": NUMBER,
        "high": NUMBER,
        "support": NUMBER,
    }
)


@given(rows=st.lists(ROW, min_size=1, max_size=4))
def test_every_number_comes_back_to_the_last_bit(tmp_path_factory, rows):
    folder: Path = tmp_path_factory.mktemp("results")
    first = results_from_rows(rows)
    for name in ("r.csv", "r.parquet"):
        first.write(folder / name)
        pd.testing.assert_frame_equal(read_results(folder / name).frame, first.frame, check_exact=True)


def test_a_table_that_is_no_results_table_is_refused_with_every_mistake(tmp_path):
    (tmp_path / "r.csv").write_text("metric,klass,tail_group,value,low,high,support\nf1,,,1,1,1,1\n")
    with pytest.raises(MedtailError) as caught:
        read_results(tmp_path / "r.csv")
    assert str(caught.value).splitlines() == [
        f"r.csv, column 'class': missing; did you mean 'klass'? Expected {', '.join(COLUMNS)}.",
        f"r.csv, column 'subgroup': missing. Expected {', '.join(COLUMNS)}.",
    ]


def test_text_in_a_number_is_named_with_its_row(tmp_path):
    (tmp_path / "r.csv").write_text(",".join(COLUMNS) + "\nf1,,,,0.5,,,1\nf1,a,,,high,,,x\n")
    with pytest.raises(MedtailError) as caught:
        read_results(tmp_path / "r.csv")
    assert str(caught.value).splitlines() == [
        "r.csv, row 3, column 'value': found 'high'; expected a number or empty (undefined).",
        "r.csv, row 3, column 'support': found 'x'; expected a number or empty (undefined).",
    ]
