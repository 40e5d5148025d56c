"""Truth files: the challenge's layout, ids as text, all mistakes at once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medtail.challenges.cxr_lt_truth import check_supported, read_test_ids, read_train_counts, read_truth
from medtail.errors import MedtailError


def read(world, frame: pd.DataFrame, **options):
    return read_truth(world.write(frame, "truth.csv"), edition=world.edition, **options)


def test_columns_of_other_tasks_and_meta_columns_are_ignored(world):
    wide = world.truth.assign(study_id="s1", ViewPosition="AP", fpath="files/x.jpg", split="test")
    found = read(world, wide[sorted(wide.columns)])
    assert np.array_equal(found.targets, world.targets)
    assert found.class_names == tuple(world.names)
    assert found.patients.tolist() == world.truth["subject_id"].tolist()


def test_several_splits_must_be_told_apart(world):
    both = world.truth.assign(split=["train"] * 100 + ["test"] * 300)
    with pytest.raises(MedtailError, match=r"column 'split': found test, train; name the one to score.*--split"):
        read(world, both)
    test = read(world, both, split="test")
    assert test.image_ids.tolist() == world.truth["dicom_id"].tolist()[100:]
    assert test.patients.tolist() == world.truth["subject_id"].tolist()[100:]
    assert np.array_equal(test.targets, world.targets[100:])
    with pytest.raises(MedtailError, match="no row of 'tst'; found test, train; did you mean 'test'"):
        read(world, both, split="tst")
    with pytest.raises(MedtailError, match="column 'split': missing"):
        read(world, world.truth, split="test")


def test_train_counts_take_the_train_rows_only(world):
    path = world.write(world.truth.assign(split=["train"] * 100 + ["test"] * 300), "labels.csv")
    counts = read_train_counts(path, edition=world.edition, class_names=world.names)
    assert counts.assessed == (100,) * 12
    assert counts.images == tuple(int(n) for n in world.targets[:100].sum(axis=0))
    assert counts.patients[0] == world.truth.loc[:99][world.targets[:100, 0] == 1]["subject_id"].nunique()
    stranger = world.write(pd.DataFrame({"dicom_id": ["a"], "x": [1]}), "other.csv")
    assert read_train_counts(stranger, edition=world.edition, class_names=world.names) is None


def test_ids_stay_text_and_ids_a_spreadsheet_rounded_are_refused(tmp_path):
    header = "ImageID,PatientID,Scoliosis,Osteopenia,Bulla,Infarction,Adenopathy,goiter\n"
    row = ",1,0,1,0,1,0\n"
    path = tmp_path / "t.csv"
    path.write_text(f"{header}007.png,216840111366964012819207061112010307142602253{row}")
    assert read_truth(path, edition="2026", task=2).patients.tolist() == [
        "216840111366964012819207061112010307142602253"
    ]
    for rounded in ("2.16840111367E+44", "216840111366964000000.0"):
        path.write_text(f"{header}007.png,{rounded}{row}")
        with pytest.raises(MedtailError, match="patients may have merged"):
            read_truth(path, edition="2026", task=2)


def test_all_mistakes_are_told_at_once(world):
    frame = world.truth.rename(columns={"Mass": "Mas"}).astype(str)
    frame.loc[0, "Hernia"] = "2"
    frame.loc[1, "Edema"] = "yes"
    frame.loc[2, "Nodule"] = ""
    frame.loc[3, "subject_id"] = ""
    frame.loc[5, "dicom_id"] = frame.loc[4, "dicom_id"]
    with pytest.raises(MedtailError) as caught:
        read(world, pd.concat([frame, frame[["Opacity"]].rename(columns={"Opacity": "opacity"})], axis=1))
    told = str(caught.value)
    for expected in (
        "column 'Mass': missing; did you mean 'Mas'",
        "row 2, column 'Hernia': found '2'; expected 1 (present) or 0",
        "row 3, column 'Edema': found 'yes'",
        "row 4, column 'Nodule': found ''",
        "row 5, column 'subject_id': found ''",
        "stands in rows 6, 7",
        "column 'opacity': the class 'Opacity' appears twice",
    ):
        assert expected in told, expected


def test_a_truth_without_patients_says_so(world):
    found = read(world, world.truth.drop(columns="subject_id"))
    assert not found.has_patients
    assert found.patients.tolist() == found.image_ids.tolist()
    assert not read(world, world.truth.assign(subject_id="")).has_patients


def test_a_table_without_an_id_column_or_rows_is_refused(world):
    with pytest.raises(MedtailError, match="column 'dicom_id': missing"):
        read(world, world.truth.drop(columns="dicom_id"))
    with pytest.raises(MedtailError, match="column 'dicom_id': missing"):
        read_test_ids(world.folder / "truth.csv", edition=world.edition)
    with pytest.raises(MedtailError, match="no rows"):
        read(world, world.truth.iloc[:0])


def test_test_ids_are_read_from_a_table_without_labels(world):
    path = world.write(world.truth[["dicom_id"]], "test.csv")
    assert read_test_ids(path, edition=world.edition).tolist() == world.truth["dicom_id"].tolist()
    world.write(world.truth[["dicom_id"]].iloc[[0, 0]], "test.csv")
    with pytest.raises(MedtailError, match="stands in rows 2, 3"):
        read_test_ids(path, edition=world.edition)


def test_unsupported_classes_are_listed_or_refused(world):
    truth = read(world, world.truth.assign(Mass=0, Hernia=0))
    assert check_supported(truth, absent="nan") == ("Mass", "Hernia")
    with pytest.raises(MedtailError, match="no positive image of 'Mass', 'Hernia'"):
        check_supported(truth, absent="error")
    with pytest.raises(MedtailError, match="--absent 'skip'"):
        check_supported(truth, absent="skip")
