"""Submissions: joined by name, and every fault found alone and together with all the others."""

from __future__ import annotations

import zipfile

import numpy as np
import pandas as pd
import pytest

from medtail.challenges.cxr_lt_submission import read_submission, validate_submission
from medtail.errors import MedtailError, UsageError

GRAVE = {
    "wrong id column": (
        "column 1: found 'image_id'; expected the id column 'dicom_id'",
        lambda t: t.rename(columns={"dicom_id": "image_id"}),
    ),
    "pandas index": ("A pandas index? Write with index=False", lambda t: t.rename(columns={"dicom_id": ""})),
    "missing class": ("column 'Hernia': missing; expected a score of every class", lambda t: t.drop(columns="Hernia")),
    "misspelt class": (
        "column 'Hernia': missing; did you mean 'Hernai'?",
        lambda t: t.rename(columns={"Hernia": "Hernai"}),
    ),
    "extra column": ("column 14, 'Scoliosis': expected no such column", lambda t: t.assign(Scoliosis=0.5)),
    "duplicated class": (
        "column 14, 'Hernia': the class 'Hernia' stands in column 10 already",
        lambda t: pd.concat([t, t[["Hernia"]]], axis=1),
    ),
    "class under name and alias": (
        "'No Finding': the class 'Normal' stands in column 7 already",
        lambda t: t.assign(**{"No Finding": 0.5}),
    ),
    "duplicated id column": ("column 'dicom_id': appears 2 times", lambda t: pd.concat([t, t[["dicom_id"]]], axis=1)),
    "missing ids": ("column 'dicom_id': 12 images of the test set have no row: ", lambda t: t.iloc[12:]),
    "extra ids": (
        "1 ids are not in the test set: stranger",
        lambda t: pd.concat([t, t.head(1).assign(dicom_id="stranger")]),
    ),
    "ids with endings": (
        "Write the bare id, without folder and ending",
        lambda t: t.assign(dicom_id="files/p1/" + t["dicom_id"] + ".jpg"),
    ),
    "duplicated ids": ("2 ids stand in more than one row: ", lambda t: pd.concat([t, t.head(2)])),
    "empty id": ("column 'dicom_id': empty in row 2", lambda t: t.assign(dicom_id=["", *t["dicom_id"][1:]])),
    "no number": ("row 3, column 'Mass': found 'high'; expected a number", lambda t: put(t, 1, "Mass", "high")),
    "empty cell": ("row 3, column 'Mass': found ''; expected a score, not NaN", lambda t: put(t, 1, "Mass", "")),
    "NaN": ("row 3, column 'Mass': found 'nan'; expected a score, not NaN", lambda t: put(t, 1, "Mass", "nan")),
    "above 1": (
        "row 3, column 'Mass': found '1.0000001'; expected a probability in [0, 1]",
        lambda t: put(t, 1, "Mass", "1.0000001"),
    ),
    "below 0": (
        "row 4, column 'Mass': found '-3.2'; expected a probability in [0, 1] (logits?",
        lambda t: put(t, 2, "Mass", "-3.2"),
    ),
    "infinite": ("row 4, column 'Mass': found 'inf'; expected a probability", lambda t: put(t, 2, "Mass", "inf")),
}
FORM = {
    "reordered": ("columns out of order, from column 7 on: found 'Nodule'; expected 'Normal'", lambda t: swapped(t)),
    "aliased": (
        "column 7: found 'No Finding'; expected the name 'Normal'",
        lambda t: t.rename(columns={"Normal": "No Finding"}),
    ),
    "spelling": (
        "column 2: found 'support_devices'; expected the name 'Support Devices'",
        lambda t: t.rename(columns={"Support Devices": "support_devices"}),
    ),
    "id last": ("column 13: found 'dicom_id'; expected it first", lambda t: t[[*t.columns[1:], "dicom_id"]]),
}
WARNINGS = {
    "constant column": ("The same score in every row for 1 class: Hernia", lambda t: t.assign(Hernia=0.25)),
    "decisions": ("Only the scores 0 and 1 for 1 class: Mass", lambda t: t.assign(Mass=(t["Mass"] > 0.5).astype(int))),
    "softmax": ("sum to 1: a softmax?", lambda t: softmax(t)),
    "rounded": ("More than half of the rows share their score", lambda t: t.round(1)),
}


def put(table: pd.DataFrame, row: int, column: str, value: str) -> pd.DataFrame:
    changed = table.astype(str)
    changed.iloc[row, changed.columns.get_loc(column)] = value
    return changed


def swapped(table: pd.DataFrame) -> pd.DataFrame:
    names = list(table.columns)
    at, other = names.index("Normal"), names.index("Nodule")
    names[at], names[other] = names[other], names[at]
    return table[names]


def softmax(table: pd.DataFrame) -> pd.DataFrame:
    values = table.iloc[:, 1:]
    return pd.concat([table[["dicom_id"]], values.div(values.sum(axis=1), axis=0)], axis=1)


def ids(world) -> np.ndarray:
    return world.truth["dicom_id"].to_numpy(dtype=object)


def check(world, frame):
    return validate_submission(world.write(frame), edition=world.edition, ids=ids(world))


def test_a_perfect_file_has_neither_faults_nor_warnings(world):
    found = check(world, world.scores)
    assert (found.faults, found.warnings, found.rows, found.is_valid) == ((), (), 400, True)


@pytest.mark.parametrize("fault", GRAVE)
def test_each_grave_fault_is_found_alone_and_refused_by_both(world, fault):
    message, damage = GRAVE[fault]
    found = check(world, damage(world.scores))
    assert any(message in line for line in found.faults), found.faults
    assert all(line.startswith("scores.csv, ") for line in found.faults)
    with pytest.raises(MedtailError) as caught:
        read_submission(world.folder / "scores.csv", edition=world.edition, ids=ids(world))
    assert message in str(caught.value)


@pytest.mark.parametrize("fault", FORM)
def test_each_fault_of_form_is_refused_by_validate_and_joined_by_name_by_read(world, fault):
    message, damage = FORM[fault]
    found = check(world, damage(world.scores))
    assert len(found.faults) == 1
    assert message in found.faults[0]
    read = read_submission(world.folder / "scores.csv", edition=world.edition, ids=ids(world))
    assert message in read.joined[0]
    assert np.array_equal(read.scores, world.values)


@pytest.mark.parametrize("oddity", WARNINGS)
def test_each_oddity_is_a_warning_and_no_fault(world, oddity):
    message, change = WARNINGS[oddity]
    found = check(world, change(world.scores))
    assert found.is_valid
    assert len(found.warnings) == 1
    assert message in found.warnings[0]


def test_all_faults_are_told_at_once(world):
    table = swapped(world.scores).rename(columns={"Edema": "oedema", "Effusion": "EFFUSION"})
    table = pd.concat([table.iloc[5:], table.iloc[10:12], table.head(1).assign(dicom_id="stranger")])
    table = table.astype(str).reset_index(drop=True)
    for row, column, value in ((0, "Mass", "high"), (1, "Mass", ""), (2, "Hernia", "7"), (3, "Opacity", "nan")):
        table.loc[row, column] = value
    table["Fibrosis"] = "0.5"
    table = pd.concat([table, table[["Hernia"]]], axis=1).rename(columns={"dicom_id": "id"})
    found = check(world, table)
    told = "\n".join(found.faults)
    for expected in (
        "column 1: found 'id'; expected the id column 'dicom_id'",
        "column 3, 'oedema': expected no such column; did you mean 'Edema'?",
        "column 'Edema': missing",
        "column 4: found 'EFFUSION'; expected the name 'Effusion'",
        "columns out of order",
        "column 14, 'Hernia': the class 'Hernia' stands in column 10 already",
        "column 'id': 2 ids stand in more than one row",
        "column 'id': 1 ids are not in the test set: stranger",
        "column 'id': 5 images of the test set have no row",
        "column 'Mass': found 'high'; expected a number",
        "column 'Mass': found ''; expected a score",
        "column 'Hernia': found '7'; expected a probability",
        "column 'Opacity': found 'nan'; expected a score",
    ):
        assert expected in told, expected
    assert any("Fibrosis" in line for line in found.warnings)


def test_of_many_ids_the_first_ten_are_shown(world):
    [fault] = check(world, world.scores.iloc[40:]).faults
    shown = fault.split("have no row: ")[1]
    assert shown == f"{', '.join(ids(world)[:10])} and 30 more."


def test_rows_may_come_in_any_order(world):
    found = check(world, world.scores.sample(frac=1, random_state=0))
    assert found.is_valid


def test_class_of_another_task_is_named_as_such(tmp_path):
    names = ["Bulla", "Cardiomyopathy", "Hilum", "Osteopenia", "Scoliosis", "Hernia"]
    pd.DataFrame([["a", *[0.5] * 6]], columns=["dicom_id", *names]).to_csv(tmp_path / "s.csv", index=False)
    [fault] = validate_submission(tmp_path / "s.csv", edition="2024", task=3).faults
    assert "'Hernia' is a class of another task" in fault


def test_a_zip_is_read_as_its_csv(world):
    path = world.write(world.scores)
    with zipfile.ZipFile(world.folder / "s.zip", "w") as archive:
        archive.write(path, "deep/scores.csv")
        archive.writestr("code/other.csv", "x")
    packed, plain = (read_submission(p, edition=world.edition) for p in (world.folder / "s.zip", path))
    assert np.array_equal(packed.scores, plain.scores)
    assert packed.digest == plain.digest


def test_a_broken_archive_is_a_fault_not_an_exception(tmp_path):
    (tmp_path / "s.zip").write_bytes(b"no zip")
    found = validate_submission(tmp_path / "s.zip", edition="2024")
    assert not found.is_valid
    assert "is not a zip archive" in found.faults[0]
    assert found.to_json()["valid"] is False


def test_rows_of_the_wrong_width_are_a_fault_beside_the_others(world):
    path = world.write(world.scores)
    lines = path.read_text().splitlines()
    lines[3] += ",0.5"
    path.write_text("\n".join(lines))
    faults = validate_submission(path, edition=world.edition, ids=ids(world)).faults
    assert faults[0] == "scores.csv, row 4: found 14 cells; expected 13, as the header."
    assert "1 images of the test set have no row" in faults[1]


def test_an_unknown_edition_is_wrong_use(world):
    with pytest.raises(UsageError, match="no tables of this edition"):
        validate_submission(world.write(world.scores), edition="1999")
