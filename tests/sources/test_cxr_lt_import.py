"""CXR-LT's official layouts on made-up studies: 2023, 2024, 2026, their images, and every way to get them wrong."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError
from medtail.sources.cxr_lt import edition
from medtail.sources.cxr_lt_import import import_cxr_lt, refuse_unseen
from medtail.tables.manifest import manifest_from_frame

VIEWS = ("PA", "LATERAL", "AP", "LL", "", "SWIMMERS")


def rows(year: str, task: int, *, start: int = 0, count: int = 6, labelled: bool = True) -> pd.DataFrame:
    """Two images a study, one study a patient, labels by study."""
    tables = edition(year)
    random = np.random.default_rng(start)
    number = np.arange(start, start + count)
    frame = pd.DataFrame(index=range(count))
    if year == "2026":
        frame["ImageID"] = [f"img{n}_00-001-001.png" for n in number]
        frame["StudyDate_DICOM"] = [f"2014{1 + n // 2:04d}" for n in number]
        frame["PatientID"] = [f"31357275043099734750279705446667475{n // 2:04d}" for n in number]
    else:
        frame["dicom_id"] = [f"dicom-{n:04d}" for n in number]
        frame["subject_id"] = [str(10_000_000 + n // 2) for n in number]
        frame["study_id"] = [f"s5{n // 2:04d}" for n in number]
        frame["ViewPosition"] = [VIEWS[n % len(VIEWS)] for n in number]
        frame["ViewCodeSequence_CodeMeaning"] = ""
        place = "path" if year == "2023" else "fpath"
        frame[place] = [f"files/p10/p{10_000_000 + n // 2}/s5{n // 2:04d}/dicom-{n:04d}.jpg" for n in number]
    if labelled:
        for name in tables.task(task).class_names:
            frame[name] = np.repeat((random.random(-(-count // 2)) < 0.3).astype(int), 2)[:count]
    return frame


def kit(folder: Path, year: str = "2024", task: int = 1) -> Path:
    rows(year, 1).to_csv(folder / "train_labeled.csv", index=False)
    rows(year, task, start=6).to_csv(folder / f"development_labeled_task{task}.csv", index=False)
    rows(year, task, start=12).to_csv(folder / f"test_labeled_task{task}.csv", index=False)
    return folder


@pytest.mark.parametrize("year", ["2023", "2024", "2026"])
def test_every_editions_files_become_a_manifest_with_folds(tmp_path: Path, year: str) -> None:
    manifest = import_cxr_lt(kit(tmp_path, year))
    assert manifest.labels.class_names == edition(year).task(1).class_names
    assert manifest.labels.groups == ()
    assert manifest.folds.tolist() == ["train"] * 6 + ["tune"] * 6 + ["test"] * 6
    assert len(set(manifest.patients)) == 9
    assert manifest.frame.groupby("study_id")["patient_id"].nunique().max() == 1
    assert manifest.frame["study_id"].nunique() == 9
    expected = rows(year, 1)[list(manifest.labels.class_names)].to_numpy()
    assert np.array_equal(manifest.targets[:6], expected)


def test_views_become_frontal_lateral_other_or_unknown_and_their_codes_stay(tmp_path: Path) -> None:
    manifest = import_cxr_lt(kit(tmp_path))
    assert manifest.frame["view"].tolist()[:6] == ["frontal", "lateral", "frontal", "lateral", "", "other"]
    assert manifest.frame["meta_view_position"].tolist()[:6] == list(VIEWS)


def test_an_unknown_view_code_is_named_and_counts_as_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frame = rows("2024", 1)
    frame.loc[2, "ViewPosition"] = "APX"
    frame.to_csv(tmp_path / "train.csv", index=False)
    with caplog.at_level(logging.WARNING):
        manifest = import_cxr_lt(tmp_path / "train.csv")
    assert manifest.frame["view"][2] == "other"
    assert "view code 'APX' (1 images, row 4) is not known; it counts as 'other'" in caplog.text


def test_columns_are_joined_by_name_whatever_their_order_and_alias(tmp_path: Path) -> None:
    frame = rows("2024", 1)
    plain = frame.to_csv(index=False)
    (tmp_path / "train.csv").write_text(plain)
    shuffled = frame[list(frame.columns[::-1])].rename(
        columns={"Normal": "No Finding", "Round(ed) Atelectasis": "Round Atelectasis", "Mass": "mass"}
    )
    shuffled.to_csv(tmp_path / "train_other.csv", index=False)
    one, two = import_cxr_lt(tmp_path / "train.csv"), import_cxr_lt(tmp_path / "train_other.csv")
    assert one.digest == two.digest
    assert import_cxr_lt(tmp_path / "train_other.csv", edition="2024").digest == one.digest


def test_task_2_takes_its_26_classes_out_of_the_40_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        manifest = import_cxr_lt(kit(tmp_path, task=2), task=2)
    assert manifest.labels.class_names == edition("2024").task(2).class_names
    nodule = rows("2024", 1)["Nodule"]
    assert manifest.frame["Nodule"][:6].tolist() == nodule.tolist()
    assert "403 of 406" in caplog.text
    assert "6 test images; the official test set of task 2 has 406" in caplog.text


def test_unseen_labels_never_come_with_train_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frame = pd.concat([rows("2024", 1, start=s).assign(split=w) for s, w in ((0, "train"), (6, "val"), (12, "test"))])
    for name in edition("2024").task(3).class_names:
        frame[name] = 1
    frame.to_csv(tmp_path / "labels.csv", index=False)
    with caplog.at_level(logging.WARNING):
        seen = import_cxr_lt(tmp_path, task=1)
    assert set(seen.labels.class_names).isdisjoint(edition("2024").task(3).class_names)
    assert "labels of Bulla, Cardiomyopathy, Hilum, Osteopenia, Scoliosis left out" in caplog.text
    assert seen.folds.tolist() == ["train"] * 6 + ["tune"] * 6 + ["test"] * 6
    unseen = import_cxr_lt(tmp_path, task=3)
    assert unseen.labels.class_names == edition("2024").task(3).class_names
    assert set(unseen.folds) == {"tune", "test"}
    tables = edition("2024")
    refuse_unseen(seen, tables, task=3)
    with pytest.raises(MedtailError, match="column 'Bulla': 6 labels in tune; task 3 of 2024 asks for it unseen"):
        refuse_unseen(unseen, tables, task=3)


def test_an_unseen_class_under_its_alias_is_found_and_an_empty_column_is_none(tmp_path: Path) -> None:
    table = pd.DataFrame({"image_id": ["a", "b"], "path": "x", "patient_id": ["1", "2"], "fold": ["train", "test"]})
    held = manifest_from_frame(table.assign(scoliosis=[np.nan, 1]))
    refuse_unseen(held, edition("2026"), task=2)
    with pytest.raises(MedtailError, match="column 'scoliosis': 1 labels in train"):
        refuse_unseen(manifest_from_frame(table.assign(scoliosis=[0, 1])), edition("2026"), task=2)


def test_an_unlabelled_test_file_is_read_with_empty_labels(tmp_path: Path) -> None:
    kit(tmp_path)
    (tmp_path / "test_labeled_task1.csv").unlink()
    rows("2024", 1, start=12, labelled=False).to_csv(tmp_path / "test_task1.csv", index=False)
    manifest = import_cxr_lt(tmp_path)
    assert np.isnan(manifest.targets[12:]).all()
    assert not np.isnan(manifest.targets[:12]).any()
    rows("2024", 1, labelled=False).to_csv(tmp_path / "train_labeled.csv", index=False)
    with pytest.raises(MedtailError, match=r"train_labeled\.csv, no class columns; expected the labels of task 1"):
        import_cxr_lt(tmp_path)


@pytest.mark.parametrize("patient", ["1.0000003e+07", "10000003.0", "3.1357275043099734e38", "12345678901234567.0"])
def test_patients_that_went_through_a_number_are_refused(tmp_path: Path, patient: str) -> None:
    frame = rows("2024", 1)
    frame.loc[3, "subject_id"] = patient
    frame.to_csv(tmp_path / "train.csv", index=False)
    with pytest.raises(MedtailError) as caught:
        import_cxr_lt(tmp_path / "train.csv")
    text = str(caught.value)
    assert f"row 5, column 'subject_id': found '{patient}'" in text
    assert "patients may have merged" in text
    assert "dtype=str" in text


def test_the_long_patient_ids_of_2026_stay_apart(tmp_path: Path) -> None:
    frame = rows("2026", 1)
    assert len({float(patient) for patient in frame["PatientID"]}) == 1  # as numbers they would merge
    frame.to_csv(tmp_path / "train.csv", index=False)
    assert len(set(import_cxr_lt(tmp_path / "train.csv").patients)) == 3


def test_removal_csv_takes_images_out_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frame = rows("2026", 1)
    frame.to_csv(tmp_path / "train.csv", index=False)
    pd.DataFrame({"ImageID": [frame["ImageID"][0], "elsewhere.png"]}).to_csv(tmp_path / "Removal.csv", index=False)
    with caplog.at_level(logging.WARNING):
        manifest = import_cxr_lt(tmp_path)
    assert len(manifest) == 5
    assert "1 of the 2 images in Removal.csv are left out" in caplog.text


def test_mimic_images_are_found_below_the_root_and_below_files(tmp_path: Path) -> None:
    frame, root = rows("2024", 1), tmp_path / "MIMIC-CXR-JPG"
    frame.to_csv(tmp_path / "train.csv", index=False)
    for cell in frame["fpath"]:
        (root / cell).parent.mkdir(parents=True, exist_ok=True)
        (root / cell).write_bytes(b"x")
    # another picture of the same name elsewhere does not matter where the table gives the place
    (root / "files" / "old").mkdir()
    (root / "files" / "old" / "dicom-0000.jpg").write_bytes(b"y")
    for place in (root, root / "files"):
        manifest = import_cxr_lt(tmp_path / "train.csv", images=place)
        manifest.check_files()
    (root / frame["fpath"][1]).unlink()
    with pytest.raises(MedtailError, match=r"1 of 6 images are missing: files/p10/p10000000/s50000/dicom-0001\.jpg"):
        import_cxr_lt(tmp_path / "train.csv", images=root)


def test_padchest_images_are_found_by_name_in_any_folder(tmp_path: Path) -> None:
    frame = rows("2026", 1)
    frame.to_csv(tmp_path / "train.csv", index=False)
    for number, cell in enumerate(frame["ImageID"]):
        place = tmp_path / "PadChest" / str(number % 3)
        place.mkdir(parents=True, exist_ok=True)
        (place / cell).write_bytes(b"x")
    manifest = import_cxr_lt(tmp_path / "train.csv", images=tmp_path / "PadChest")
    manifest.check_files()
    assert manifest.frame["image_id"].tolist() == frame["ImageID"].tolist()  # as the submission names them


def test_a_patients_images_of_one_day_are_a_study_in_2026(tmp_path: Path) -> None:
    frame = rows("2026", 1)
    frame.loc[4, "StudyDate_DICOM"] = ""
    frame.to_csv(tmp_path / "train.csv", index=False)
    studies = import_cxr_lt(tmp_path / "train.csv").frame["study_id"].tolist()
    assert studies[0] == studies[1] == f"{frame['PatientID'][0]}-20140001"
    assert studies[4] == ""


def test_all_mistakes_of_rows_are_named_with_their_file(tmp_path: Path) -> None:
    kit(tmp_path)
    test = rows("2024", 1, start=12)
    test.loc[0, "dicom_id"] = "dicom-0001"
    test.loc[2, "study_id"] = "s50000"
    test.to_csv(tmp_path / "test_labeled_task1.csv", index=False)
    with pytest.raises(MedtailError) as caught:
        import_cxr_lt(tmp_path)
    text = str(caught.value)
    assert "image 'dicom-0001': stands in train_labeled.csv, row 3, test_labeled_task1.csv, row 2" in text
    assert "study 's50000': its images are of patients 10000000, 10000007" in text


def test_a_patient_in_two_folds_is_refused(tmp_path: Path) -> None:
    kit(tmp_path)
    test = rows("2024", 1, start=12).assign(subject_id="10000000")
    test.to_csv(tmp_path / "test_labeled_task1.csv", index=False)
    with pytest.raises(MedtailError, match="patient '10000000': is in test and in train"):
        import_cxr_lt(tmp_path)


def test_missing_classes_wrong_labels_and_splits_are_named(tmp_path: Path) -> None:
    frame = rows("2024", 1).rename(columns={"Hernia": "Hernias"}).drop(columns="subject_id")
    frame.to_csv(tmp_path / "train.csv", index=False)
    with pytest.raises(MedtailError) as caught:
        import_cxr_lt(tmp_path / "train.csv", edition="2024")
    assert "column 'subject_id': missing" in str(caught.value)
    rows("2024", 1).rename(columns={"Hernia": "Hernias"}).to_csv(tmp_path / "train.csv", index=False)
    with pytest.raises(MedtailError, match="column 'Hernia': missing; did you mean 'Hernias'"):
        import_cxr_lt(tmp_path / "train.csv", edition="2024")
    rows("2024", 3).to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(MedtailError, match=r"none of the 40 classes of task 1.*task 3: give --task 3"):
        import_cxr_lt(tmp_path / "test.csv")
    frame = rows("2024", 1).assign(split=["train", "test", "tset", "val", "train", "train"])
    frame.to_csv(tmp_path / "labels.csv", index=False)
    with pytest.raises(MedtailError, match="row 4, column 'split': found 'tset'; expected train, val or test"):
        import_cxr_lt(tmp_path / "labels.csv")
    wrong = rows("2024", 1)
    wrong["Mass"] = wrong["Mass"].astype(object)
    wrong.loc[1, "Mass"] = 2
    wrong.to_csv(tmp_path / "train.csv", index=False)
    with pytest.raises(MedtailError, match="row 3, column 'Mass': found '2'"):
        import_cxr_lt(tmp_path / "train.csv")
