"""NIH in CXR-LT's layout: what is written reads back as the same table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.challenges.cxr_lt_truth import read_truth
from medtail.errors import MedtailError, UsageError
from medtail.sources.cxr_lt import NIH_EXTRA, NIH_HELD_OUT, edition, hierarchy_among
from medtail.sources.cxr_lt_files import fitting_edition
from medtail.sources.cxr_lt_import import import_cxr_lt, refuse_unseen
from medtail.sources.cxr_lt_writing import NIH20_FILES, as_nih14, read_nih20, write_layout
from medtail.sources.nih_cxr import FINDINGS, import_nih_cxr
from medtail.tables.manifest import Manifest, manifest_from_frame, read_manifest


def nih(rows: int = 120) -> Manifest:
    random = np.random.default_rng(0)
    images = [f"{n // 2 + 1:08d}_{n % 2:03d}" for n in range(rows)]
    frame = pd.DataFrame({"image_id": images, "path": [f"{image}.png" for image in images]})
    frame["patient_id"] = [str(n // 2 + 1) for n in range(rows)]
    frame["view"] = [("PA", "AP")[n % 2] for n in range(rows)]
    for name in FINDINGS:
        frame[name] = (random.random(rows) < 0.12).astype(int)
    return manifest_from_frame(frame, name="nih")


def test_names_become_the_challenges_and_normal_is_none_of_the_fourteen() -> None:
    given = nih()
    found = as_nih14(given)
    assert found.labels.class_names == edition("nih14").task(1).class_names
    assert found.frame["Pleural Effusion"].tolist() == given.frame["Effusion"].tolist()
    assert found.frame["Pleural Thickening"].tolist() == given.frame["Pleural_Thickening"].tolist()
    assert np.array_equal(found.frame["Normal"] == 1, (given.targets == 1).sum(axis=1) == 0)
    assert found.frame["study_id"].nunique() == len(found)
    assert found.frame["study_id"][3] == "2-001"
    assert set(found.frame["view"]) == {"frontal"}


def test_normal_is_not_assessed_where_a_finding_was_not() -> None:
    given = nih(4)
    frame = given.frame.copy()
    frame[list(FINDINGS)] = 0.0
    frame.loc[0, "Mass"] = np.nan
    frame.loc[1, ["Mass", "Edema"]] = [np.nan, 1.0]
    found = as_nih14(manifest_from_frame(frame)).frame["Normal"].tolist()
    assert np.isnan(found[0])
    assert found[1:] == [0.0, 1.0, 1.0]


def test_the_layout_reads_back_as_the_same_table(tmp_path: Path) -> None:
    written = write_layout(as_nih14(nih()), tmp_path / "out", tables=edition("nih14"))
    for path in (tmp_path / "out", tmp_path / "out" / "labels.csv"):
        found = import_cxr_lt(path)
        ours = written.manifest.frame.sort_values("image_id").reset_index(drop=True)
        theirs = found.frame.sort_values("image_id").reset_index(drop=True)
        columns = ["image_id", "patient_id", "study_id", "view", "fold", *written.manifest.labels.class_names]
        pd.testing.assert_frame_equal(theirs[columns], ours[columns])
    assert fitting_edition(list(pd.read_csv(tmp_path / "out" / "train_labeled.csv").columns)) == "nih14"
    assert read_manifest(tmp_path / "out" / "manifest.csv").labels.class_names == edition("nih14").task(1).class_names


def test_every_tasks_test_file_is_a_truth_for_the_scorer(tmp_path: Path) -> None:
    written = write_layout(as_nih14(nih()), tmp_path / "out", tables=edition("nih14"))
    for number, task in edition("nih14").tasks.items():
        truth = read_truth(tmp_path / "out" / f"test_labeled_task{number}.csv", edition="nih14", task=number)
        assert truth.class_names == task.class_names
        assert len(truth.image_ids) == (written.manifest.folds == "test").sum()
        assert truth.has_patients


def test_the_table_of_the_zero_shot_task_knows_neither_the_unseen_nor_normal(tmp_path: Path) -> None:
    write_layout(as_nih14(nih()), tmp_path / "out", tables=edition("nih14"))
    found = read_manifest(tmp_path / "out" / "manifest_task3.csv")
    assert set(found.labels.class_names).isdisjoint({*NIH_HELD_OUT, "Normal"})
    assert found.labels.num_classes == 11
    refuse_unseen(found, edition("nih14"), task=3)
    with pytest.raises(MedtailError, match="asks for it unseen"):
        refuse_unseen(read_manifest(tmp_path / "out" / "manifest.csv"), edition("nih14"), task=3)


def test_folds_that_are_there_stay_and_the_others_are_split_by_patient(tmp_path: Path) -> None:
    given = as_nih14(nih())
    fixed = given.with_folds(np.where(np.arange(120) < 24, "test", "").astype(object))
    written = write_layout(fixed, tmp_path / "out", tables=edition("nih14")).manifest
    assert (written.folds == "test").sum() == 24
    assert (written.folds[:24] == "test").all()
    assert set(written.folds[24:]) == {"train", "tune"}
    written.check_folds("train", "tune", "test")


def test_the_same_table_makes_the_same_bytes_and_a_full_folder_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_layout(as_nih14(nih()), tmp_path / name, tables=edition("nih14"))
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    with pytest.raises(UsageError, match="is not empty"):
        write_layout(as_nih14(nih()), tmp_path / "a", tables=edition("nih14"))


def nih20_files(folder: Path) -> Path:
    names = ["Atelectasis", "Cardiomegaly", "Effusion", "Pleural Thickening", "No Finding", "Hernia", "Mass", "Nodule",
             "Infiltration", "Pneumonia", "Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis",
             *NIH_EXTRA]  # fmt: skip
    for start, name in zip((0, 40, 60), NIH20_FILES.values(), strict=True):
        random = np.random.default_rng(start)
        frame = pd.DataFrame({"id": [f"{start + n:08d}_000.png" for n in range(20)]})
        for column in names:
            frame[column] = (random.random(20) < 0.3).astype(int)
        frame["subj_id"] = [str(start + n) for n in range(20)]
        frame.to_csv(folder / name, index=False)
    return folder


def test_nih20_is_read_by_name_and_its_zero_shot_task_asks_the_five_further_findings(tmp_path: Path) -> None:
    found = read_nih20(nih20_files(tmp_path))
    assert found.labels.class_names == edition("nih20").task(1).class_names
    assert found.folds.tolist() == ["train"] * 20 + ["tune"] * 20 + ["test"] * 20
    train = pd.read_csv(tmp_path / NIH20_FILES["train"])
    assert found.frame["Normal"][:20].tolist() == train["No Finding"].tolist()
    assert found.frame["image_id"][0] == "00000000_000"
    write_layout(found, tmp_path / "out", tables=edition("nih20"))
    seen = read_manifest(tmp_path / "out" / "manifest_task3.csv")
    assert set(seen.labels.class_names) == set(edition("nih14").by_name) - {"Normal"}
    asked = import_cxr_lt(tmp_path / "out", task=3)
    assert set(asked.labels.class_names) == set(NIH_EXTRA)
    assert set(asked.folds) == {"tune", "test"}


def test_damaged_files_of_nih20_and_other_classes_are_refused(tmp_path: Path) -> None:
    nih20_files(tmp_path)
    test = pd.read_csv(tmp_path / NIH20_FILES["test"]).rename(columns={"Hernia": "Hernai", "subj_id": "subject"})
    test.to_csv(tmp_path / NIH20_FILES["test"], index=False)
    with pytest.raises(MedtailError) as caught:
        read_nih20(tmp_path)
    assert "column 'Hernia': missing; did you mean 'Hernai'" in str(caught.value)
    assert "column 'subj_id': missing" in str(caught.value)
    with pytest.raises(MedtailError, match="its classes are not the 14 findings"):
        as_nih14(nih().with_classes(["Mass"]))
    odd = as_nih14(nih()).with_folds(np.array(["reward"] * 120, dtype=object))
    with pytest.raises(MedtailError, match="found 'reward'; CXR-LT knows train, tune and test"):
        write_layout(odd, tmp_path / "out", tables=edition("nih14"))


def test_the_real_subset_of_nih_goes_through(shared_data: Path, tmp_path: Path) -> None:
    given = import_nih_cxr(shared_data / "nih_cxr")
    write_layout(as_nih14(given), tmp_path / "out", tables=edition("nih14"))
    found = import_cxr_lt(tmp_path / "out", images=shared_data / "nih_cxr")
    found.check_files()
    found.check_folds("train", "tune", "test")
    assert len(found) == 1336
    assert len(set(found.patients)) == len(set(given.patients))
    assert found.frame["Hernia"].sum() == given.frame["Hernia"].sum()


def test_the_hierarchy_is_spelled_as_the_classes_are() -> None:
    assert hierarchy_among(edition("2024").task(1).class_names).keys() == {
        "Rib Fracture", "Clavicle Fracture", "Lobar Atelectasis", "Round(ed) Atelectasis", "Hydropneumothorax",
    }  # fmt: skip
    assert hierarchy_among(["Round Atelectasis", "atelectasis"]) == {"Round Atelectasis": ("atelectasis",)}
    assert hierarchy_among(edition("nih14").task(1).class_names) == {}
    assert hierarchy_among(edition("2026").task(1).class_names) == {
        "Hydropneumothorax": ("Pneumothorax", "pleural effusion")
    }
