from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError
from medtail.judging.subgroups import UNKNOWN, age_bands, columns_from_manifest, divide, thirds
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import Manifest, manifest_from_frame
from medtail.tables.predictions import Predictions


def table(rows: int = 24, **columns: object) -> Manifest:
    numbers = np.arange(rows)
    frame = {
        "image_id": [f"i{n}" for n in numbers],
        "path": [f"{n}.png" for n in numbers],
        "patient_id": [f"p{n // 2}" for n in numbers],
        "sex": np.where(numbers % 3 == 0, "F", np.where(numbers % 3 == 1, "M", "")),
        "Hernia": np.where(numbers % 4 == 0, 1.0, np.where(numbers % 4 == 1, np.nan, 0.0)),
    }
    return manifest_from_frame(pd.DataFrame(frame | columns), name="table.csv")


def scored(ids: list[str]) -> Predictions:
    names = np.array(ids, dtype=object)
    return Predictions(names, names, np.zeros((len(ids), 1)), np.zeros((len(ids), 1)), LabelSpace(("Hernia",)), names)


def test_every_row_is_in_one_group_of_every_division() -> None:
    random = np.random.default_rng(0)
    columns = {"sex": random.choice(["F", "M", ""], 200), "site": random.choice(["A", "B", "C"], 200)}
    divisions = divide(columns)
    assert [division.name for division in divisions] == ["sex", "site", "sex & site"]
    for division in divisions:
        assert (np.sum(list(division.groups.values()), axis=0) == 1).all()
    crossed = divisions[2].groups["sex=F & site=B"]
    assert np.array_equal(crossed, (columns["sex"] == "F") & (columns["site"] == "B"))
    assert [division.name for division in divide(columns, depth=1)] == ["sex", "site"]


def test_a_rest_holds_everybody_else_whose_value_is_known() -> None:
    division = divide({"sex": np.array(["F", "M", "", "F", "X"], dtype=object)})[0]
    assert division.rest("sex=F").tolist() == [False, True, False, False, True]
    assert division.rest(f"sex={UNKNOWN}").tolist() == [True, True, False, True, True]
    assert division.unnamed == {f"sex={UNKNOWN}"}
    crossed = divide({"sex": np.array(["F", "F", "M", ""]), "site": np.array(["A", "", "A", ""])})[2]
    assert crossed.rest("sex=F & site=A").tolist() == [False, False, True, False]
    assert crossed.unnamed == {f"sex=F & site={UNKNOWN}", f"sex={UNKNOWN} & site={UNKNOWN}"}


def test_bands_and_grades_stand_in_their_natural_order() -> None:
    ages = age_bands(np.array([85.0, 20, 65, np.nan, 50]))
    assert list(divide({"age": ages})[0].groups) == ["age=<40", "age=40-59", "age=60-79", "age=80+", "age=(unknown)"]
    assert list(divide({"grade": np.array(["10", "2", "1"])})[0].groups) == ["grade=1", "grade=2", "grade=10"]
    sizes = divide({"size": thirds(np.arange(0.0, 60.0))})[0]
    assert list(sizes.groups) == ["size=under 20", "size=20 to under 40", "size=40 or more"]
    assert [int(rows.sum()) for rows in sizes.groups.values()] == [20, 20, 20]


def test_an_age_that_cannot_be_is_refused() -> None:
    with pytest.raises(MedtailError, match=r"column 'age': found -1.0, 411.0; expected years from 0 to 120"):
        age_bands(np.array([411.0, 30.0, -1.0]))
    with pytest.raises(MedtailError, match="expected rising whole years"):
        age_bands(np.array([30.0]), cuts=(60, 40))
    assert age_bands(np.array([17.0, 18.0]), cuts=(18,)).tolist() == ["<18", "18+"]


def test_a_long_list_of_values_is_no_grouping() -> None:
    with pytest.raises(
        MedtailError, match=r"(?s)column 'ward': 21 values.*at most 20.*Choose.*column 'bed': 30 values"
    ):
        divide({"ward": np.arange(210) % 21, "bed": np.arange(210) % 30})
    with pytest.raises(MedtailError, match="no column given"):
        divide({})
    with pytest.raises(MedtailError, match="different lengths"):
        divide({"a": np.array(["x"]), "b": np.array(["x", "y"])})
    with pytest.raises(MedtailError, match="depth 3"):
        divide({"a": np.array(["x"])}, depth=3)


def test_columns_are_joined_by_image_whatever_the_order() -> None:
    manifest = table(age=np.arange(24) * 5.0, size_mm=np.arange(24) * 1.0, meta_grade=[str(n % 3) for n in range(24)])
    found = columns_from_manifest(
        manifest, scored(["i9", "i2", "i4", "i1"]), ["sex", "age", "size_mm", "meta_grade", "Hernia"]
    )
    assert {name: text.tolist() for name, text in found.items()} == {
        "sex": ["F", UNKNOWN, "M", "M"],
        "age": ["40-59", "<40", "<40", "<40"],
        "size_mm": ["8 to under 16", "under 8", "under 8", "under 8"],
        "meta_grade": ["0", "2", "1", "1"],
        "Hernia": [UNKNOWN, "absent", "present", UNKNOWN],
    }


def test_every_mistake_in_the_columns_is_named_at_once() -> None:
    manifest = table(meta_skin=["I"] * 24)
    with pytest.raises(MedtailError) as caught:
        columns_from_manifest(manifest, scored(["i1", "gone"]), ["sexx", "skin", "patient_id", "sex", "sex"])
    message = str(caught.value)
    assert "column 'image_id': 1 images of predictions are missing: gone" in message
    assert "column 'sexx': not there; did you mean 'sex'?" in message
    assert "column 'skin': not there; did you mean 'meta_skin'?" in message
    assert "column 'patient_id': tells rows apart and makes no groups" in message
    assert "column 'sex': named twice" in message


def test_names_in_a_long_column_must_be_merged_and_numbers_are_cut() -> None:
    manifest = table(meta_ward=[f"w{n}" for n in range(24)], meta_dose=[str(n * 2) for n in range(24)])
    with pytest.raises(MedtailError, match=r"table.csv, column 'meta_ward': 24 values"):
        columns_from_manifest(manifest, scored([f"i{n}" for n in range(24)]), ["meta_ward"])
    found = columns_from_manifest(manifest, scored(["i0", "i23"]), ["meta_dose"])
    assert found["meta_dose"].tolist() == ["under 16", "32 or more"]
