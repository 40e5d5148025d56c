"""Which file is of which edition and fold."""

from __future__ import annotations

from pathlib import Path

import pytest

from medtail.errors import MedtailError, UsageError
from medtail.sources.cxr_lt import EDITIONS, edition
from medtail.sources.cxr_lt_files import fitting_edition, one_edition, read_label_files


def header(year: str, task: int) -> list[str]:
    tables = edition(year)
    return [*tables.meta_columns, *tables.task(task).class_names]


def write(folder: Path, name: str, columns: list[str]) -> Path:
    path = folder / name
    path.write_text(",".join(columns) + "\n" + ",".join("0" for _ in columns) + "\n")
    return path


@pytest.mark.parametrize(
    ("year", "task"), [(year, number) for year, tables in EDITIONS.items() for number in tables.tasks]
)
def test_every_tasks_columns_are_known_for_their_edition_in_any_order(year: str, task: int) -> None:
    assert fitting_edition(header(year, task)) == year
    assert fitting_edition(header(year, task)[::-1]) == year


def test_aliases_count() -> None:
    for year in ("2024", "2026", "nih14", "nih20"):
        aliased = ["No Finding" if column == "Normal" else column.upper() for column in header(year, 1)]
        id_column = edition(year).id_column
        assert fitting_edition([id_column, *aliased[len(edition(year).meta_columns) :]]) == year


def test_all_labels_of_2024_are_2024_and_part_of_a_task_is_nobodys() -> None:
    tables = edition("2024")
    assert fitting_edition([*tables.meta_columns, *tables.by_name, "split"]) == "2024"
    assert fitting_edition(["dicom_id", *tables.task(1).class_names[:39]]) is None
    assert fitting_edition(["dicom_id", "subject_id"]) is None


def test_no_finding_and_path_tell_2023_from_task_2_of_2024() -> None:
    assert fitting_edition(header("2023", 1)) == "2023"
    assert fitting_edition(header("2024", 2)) == "2024"


def test_folds_come_from_names_and_another_tasks_files_are_left_out(tmp_path: Path) -> None:
    for name, task in (("train_labeled.csv", 1), ("development_labeled_task1.csv", 1),
                       ("development_labeled_task2.csv", 2), ("test_labeled_task1.csv", 1),
                       ("test_labeled_task2.csv", 2), ("test_task1.csv", 1)):  # fmt: skip
        write(tmp_path, name, header("2024", task))
    write(tmp_path, "labels.csv", [*header("2024", 1), "split"])
    write(tmp_path, "sample_submission_test.csv", header("2024", 1))
    found = read_label_files(tmp_path, task=1)
    assert [(file.name, file.fold) for file in found] == [
        ("train_labeled.csv", "train"), ("development_labeled_task1.csv", "tune"), ("test_labeled_task1.csv", "test"),
    ]  # fmt: skip
    assert [file.name for file in read_label_files(tmp_path, task=2)][1:] == [
        "development_labeled_task2.csv", "test_labeled_task2.csv",
    ]  # fmt: skip


def test_another_tasks_file_does_not_stand_in_for_a_missing_one(tmp_path: Path) -> None:
    write(tmp_path, "train_labeled.csv", header("2024", 1))
    write(tmp_path, "test_labeled_task2.csv", header("2024", 2))
    assert [file.name for file in read_label_files(tmp_path, task=1)] == ["train_labeled.csv"]


def test_labels_csv_alone_is_taken(tmp_path: Path) -> None:
    write(tmp_path, "labels.csv", [*header("2024", 1), "split"])
    assert [(file.name, file.fold) for file in read_label_files(tmp_path, task=1)] == [("labels.csv", "")]


def test_two_files_for_one_fold_and_none_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MedtailError, match=r"no label file in .*It holds nothing"):
        read_label_files(tmp_path, task=1)
    write(tmp_path, "train_a.csv", header("2024", 1))
    write(tmp_path, "train_b.csv", header("2024", 1))
    with pytest.raises(UsageError, match=r"holds train_a\.csv, train_b\.csv for fold 'train'; expected one"):
        read_label_files(tmp_path, task=1)
    with pytest.raises(MedtailError, match="no file or folder"):
        read_label_files(tmp_path / "nowhere", task=1)


def test_files_of_mixed_editions_are_refused_with_their_names(tmp_path: Path) -> None:
    write(tmp_path, "train.csv", header("2023", 1))
    write(tmp_path, "test_labeled_task1.csv", header("2024", 1))
    files = read_label_files(tmp_path, task=1)
    with pytest.raises(MedtailError, match=r"several editions: train\.csv \(2023\), test_labeled_task1\.csv \(2024\)"):
        one_edition(files, None)
    with pytest.raises(MedtailError, match=r"train\.csv: its labels are those of edition 2023; expected 2024"):
        one_edition(files, "2024")
    with pytest.raises(UsageError, match="no tables of this edition"):
        one_edition(files, "1999")


def test_an_edition_that_cannot_be_told_must_be_named(tmp_path: Path) -> None:
    write(tmp_path, "train.csv", ["dicom_id", "subject_id", "Hernia"])
    files = read_label_files(tmp_path, task=1)
    with pytest.raises(MedtailError, match=r"cannot tell the edition of train\.csv.*Name it with --edition"):
        one_edition(files, None)
    assert one_edition(files, "2024").name == "2024"
