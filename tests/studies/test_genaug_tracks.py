"""A track's tables are made once, have every fold, and nothing that a study cannot be made on passes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError, UsageError
from medtail.runs import write_json
from medtail.studies.genaug_config import BreastTrack, BusBraTrack, TableTrack
from medtail.studies.genaug_tracks import Tables, check_table, make_tables, overlaps
from medtail.tables.manifest import Manifest, manifest_from_frame, read_manifest


def table(rows: int = 60, *, fold: object = "", **columns: object) -> Manifest:
    frame = pd.DataFrame({"image_id": np.arange(rows), "path": "x.png", "patient_id": np.arange(rows)})
    labels = {"t=a": (np.arange(rows) % 3 > 0).astype(float), "t=b": (np.arange(rows) % 3 == 0).astype(float)}
    return manifest_from_frame(frame.assign(fold=fold, **columns, **labels), name="table.csv")


FOLDS = ["train", "reward", "tune", "test"] * 15


@pytest.mark.slow
def test_the_phantom_has_an_oracle_on_the_same_test_rows(tmp_path: Path) -> None:
    track = BreastTrack(size_px=32, balanced=5)
    found = make_tables(track, tmp_path)
    assert found.oracle is not None
    real, oracle = found.manifest(0), read_manifest(found.oracle)
    assert real.in_fold("test").frame["image_id"].tolist() == oracle.in_fold("test").frame["image_id"].tolist()
    assert found.counts().images == (400, 160, 80, 40, 20, 10)
    before = found.real[0].stat().st_mtime_ns
    assert make_tables(track, tmp_path) == found
    assert found.real[0].stat().st_mtime_ns == before


def test_a_table_with_folds_is_taken_as_it_is_and_one_without_gets_them_once(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    table(fold=FOLDS).write(path)
    assert make_tables(TableTrack(manifest=str(path)), tmp_path / "a") == Tables((path,))
    found = make_tables(TableTrack(manifest=str(path), num_folds=3), tmp_path / "b")
    assert found.num_folds == 3
    tested = sum((found.manifest(k).folds == "test").astype(int) for k in range(3))
    assert tested.tolist() == [1] * 60
    assert found.counts().images == (40, 20)
    found.real[0].write_text(found.real[0].read_text(encoding="utf-8"), encoding="utf-8")
    assert make_tables(TableTrack(manifest=str(path), num_folds=3), tmp_path / "b") == found


def test_bus_bra_has_a_table_a_fold_and_one_of_unknown_classes(shared_data: Path, tmp_path: Path) -> None:
    track = BusBraTrack(path=str(shared_data / "bus_bra"), num_folds=3, duplicates=False)
    found = make_tables(track, tmp_path)
    assert found.num_folds == 3
    assert found.unknown is not None
    unknown = read_manifest(found.unknown)
    assert np.isnan(unknown.targets).all()
    assert not set(unknown.patients) & set(found.manifest(0).patients)
    assert unknown.labels == found.manifest(0).labels
    found.manifest(2).check_files()
    with pytest.raises(MedtailError, match=r"mastitis.*Ask for 3 folds"):
        make_tables(BusBraTrack(path=track.path, num_folds=5, duplicates=False), tmp_path / "five")


def test_what_no_study_can_be_made_on_is_refused() -> None:
    check_table(table(fold=FOLDS))
    with pytest.raises(UsageError, match="no row is in reward or test"):
        check_table(table(fold=["train", "tune"] * 30))
    free = manifest_from_frame(table(fold=FOLDS).frame.rename(columns={"t=a": "a", "t=b": "b"}))
    with pytest.raises(UsageError, match="2 classes that are not one group"):
        check_table(free)
    with pytest.raises(UsageError, match="synthetic rows; expected real ones"):
        check_table(table(fold="train", origin=["synthetic"] * 60))
    with pytest.raises(MedtailError, match="patient '0'"):
        check_table(table(fold=FOLDS, patient_id=["0", "0", *map(str, range(58))]))


def test_overlaps_are_counted(tmp_path: Path) -> None:
    assert overlaps(table(fold=FOLDS)) == {"patients_in_two_folds": 0, "generator_leaks": 0}
    pool = table(fold=["train", *FOLDS[1:]], origin=["synthetic"] + ["real"] * 59)
    leaky = Manifest(pool.frame, pool.labels, pool.name, tmp_path)
    write_json(tmp_path / "record.json", {"generator_digest": "a", "train_patients": ["3"]})
    assert overlaps(leaky) == {"patients_in_two_folds": 0, "generator_leaks": 1}
