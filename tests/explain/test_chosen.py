from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError
from medtail.explain.chosen import choose_classes, choose_rows
from medtail.tables.manifest import manifest_from_frame


def manifest(patients=None):
    rare, common = np.zeros(40, dtype=int), np.ones(40, dtype=int)
    rare[[33, 37]] = 1
    return manifest_from_frame(
        pd.DataFrame({
            "image_id": [f"i{n}" for n in range(40)], "path": "x.png",
            "patient_id": [f"p{n}" for n in range(40)] if patients is None else patients,
            "common": common, "rare": rare,
        })
    )  # fmt: skip


def test_rare_findings_are_among_the_images():
    assert {33, 37} <= set(choose_rows(manifest(), images=4).tolist())


def test_rows_are_distinct_in_order_and_at_most_as_many_as_asked():
    rows = choose_rows(manifest(), images=7)
    assert len(set(rows.tolist())) == 7
    assert rows.tolist() == sorted(rows.tolist())
    assert len(choose_rows(manifest(), images=100)) == 40


def test_a_patient_comes_twice_only_when_there_is_no_other():
    patients = ["same"] * 20 + [f"p{n}" for n in range(20)]
    table = manifest(patients)
    taken = table.patients[choose_rows(table, images=6)]
    assert len(set(taken)) == 6


def test_asked_classes_take_the_images():
    assert {33, 37} <= set(choose_rows(manifest(), images=2, classes=["rare"]).tolist())
    with pytest.raises(MedtailError, match="no class 'rore'"):
        choose_rows(manifest(), images=2, classes=["rore"])


def test_present_classes_come_first_the_likeliest_before_the_others():
    scores = np.array([0.1, 0.8, 0.5])
    assert choose_classes(scores, np.array([1.0, 0.0, 1.0])) == [2, 0]
    assert choose_classes(scores, np.array([np.nan, np.nan, np.nan])) == [1]
    assert choose_classes(scores, np.array([1.0, 0.0, 1.0]), classes=[1]) == [1]
