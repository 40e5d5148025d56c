"""Outer folds test every patient once and keep every class in test, tune and train."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtail.errors import MedtailError
from medtail.sources.bus_bra import import_bus_bra
from medtail.sources.bus_bra_subtypes import bus_bra_subtypes
from medtail.tables.manifest import Manifest, manifest_from_frame
from medtail.tables.outer_folds import outer_folds


def made(patients: list[int], *, images: int = 2) -> Manifest:
    """So many patients of each class, each with as many images."""
    kinds = np.repeat(np.arange(len(patients)), patients)
    rows = np.repeat(np.arange(len(kinds)), images)
    frame = pd.DataFrame({"image_id": np.arange(len(rows)), "path": "x.png", "patient_id": rows})
    labels = {f"t={c}": (kinds[rows] == c).astype(float) for c in range(len(patients))}
    return manifest_from_frame(frame.assign(**labels), name="made.csv")


def everywhere(parts: list[Manifest]) -> bool:
    return all(
        (part.targets[part.folds == fold] == 1).any(axis=0).all()
        for part in parts
        for fold in ("test", "tune", "train")
    )


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(5, 40), min_size=2, max_size=5), st.integers(0, 3))
def test_each_patient_is_tested_once_and_never_in_two_folds(patients: list[int], seed: int) -> None:
    table = made(patients)
    parts = outer_folds(table, num_folds=5, seed=seed)
    assert (sum((part.folds == "test").astype(int) for part in parts) == 1).all()
    for part in parts:
        part.check_folds("train", "tune", "test")
    assert everywhere(parts)


def test_tune_and_reward_have_their_shares() -> None:
    for part in outer_folds(made([60, 60]), num_folds=3, tune=0.1, reward=0.2):
        counts = pd.Series(part.folds).value_counts()
        assert counts["test"] == 80
        assert abs(counts["tune"] - 16) <= 4
        assert abs(counts["reward"] - 32) <= 4


def test_a_class_of_three_patients_is_tested_tuned_and_trained_with_but_gives_no_reward() -> None:
    parts = outer_folds(made([40, 3]), num_folds=3)
    assert everywhere(parts)
    assert not any((part.targets[part.folds == "reward"][:, 1] == 1).any() for part in parts)


def test_without_reward_there_is_no_such_fold() -> None:
    assert all("reward" not in set(part.folds) for part in outer_folds(made([20, 20]), num_folds=2, reward=0.0))


def test_classes_with_too_few_patients_are_refused_by_name_with_what_works() -> None:
    with pytest.raises(
        MedtailError, match=r"(?s)'t=1': 4 patients .*Ask for 4 folds.*'t=2': 1 patient .*Leave the class out"
    ):
        outer_folds(made([30, 4, 1]), num_folds=5)


def test_old_folds_are_forgotten_and_synthetic_rows_refused() -> None:
    table = made([10, 10])
    parts = outer_folds(table.with_folds(np.full(len(table), "train", dtype=object)), num_folds=2)
    assert [part.folds.tolist() for part in parts] == [part.folds.tolist() for part in outer_folds(table, num_folds=2)]
    frame = table.frame.assign(origin=["synthetic"] + ["real"] * (len(table) - 1))
    with pytest.raises(MedtailError, match="1 synthetic row; expected real rows only"):
        outer_folds(manifest_from_frame(frame), num_folds=2)


def test_impossible_shares_are_refused() -> None:
    with pytest.raises(MedtailError, match=r"tune 0.6 and reward 0.5"):
        outer_folds(made([10, 10]), tune=0.6, reward=0.5)


def test_near_duplicates_stay_together() -> None:
    table = made([12, 12], images=1)
    groups = np.arange(len(table))
    groups[1], groups[13] = groups[0], groups[12]
    for part in outer_folds(table, num_folds=4, duplicate_groups=groups):
        assert part.folds[0] == part.folds[1]
        assert part.folds[12] == part.folds[13]


def test_the_shared_histologies_allow_three_outer_folds_and_say_so_when_asked_for_five(shared_data: Path) -> None:
    known, _ = bus_bra_subtypes(import_bus_bra(shared_data / "bus_bra"))
    with pytest.raises(MedtailError, match=r"'histology=mastitis': 3 patients .*Ask for 3 folds"):
        outer_folds(known, num_folds=5)
    parts = outer_folds(known, num_folds=3)
    assert everywhere(parts)
    for part in parts:
        part.check_folds("train", "tune", "test", "reward")
