"""From `medtail predict` to a valid zip: Predictions are taken for a submission."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.challenges.cxr_lt_submission import read_submission, validate_submission
from medtail.challenges.cxr_lt_tables import is_predictions
from medtail.challenges.cxr_lt_writing import pack_submission
from medtail.errors import MedtailError
from medtail.sources.cxr_lt import edition
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions

ONE = edition("2024").task(1).class_names


def predicted(names: tuple[str, ...] = ONE, *, rows: int = 5) -> Predictions:
    ids = np.array([f"d{k}" for k in range(rows)], dtype=object)
    scores = np.random.default_rng(0).random((rows, len(names)))
    unknown = np.full(scores.shape, np.nan)
    return Predictions(ids, ids, scores, unknown, LabelSpace(names), np.array(["test"] * rows, dtype=object))


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_predictions_become_a_valid_zip(tmp_path: Path, ending: str) -> None:
    table = predicted(tuple(reversed(ONE)))
    table.write(tmp_path / f"scores.{ending}")
    ids = np.array(["d3", "d0", "d1", "d4", "d2"], dtype=object)
    said = pack_submission(tmp_path / f"scores.{ending}", tmp_path / "out.zip", edition="2024", ids=ids)
    assert said == ("changed: rows were put into the test set's order.",)
    assert validate_submission(tmp_path / "out.zip", edition="2024", ids=ids).is_valid
    read = read_submission(tmp_path / "out.zip", edition="2024")
    assert read.image_ids.tolist() == ids.tolist()
    np.testing.assert_allclose(read.scores[1], table.scores[0, ::-1], rtol=1e-8)


def test_a_model_of_40_classes_answers_task_2_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    predicted().write(tmp_path / "scores.parquet")
    said = pack_submission(tmp_path / "scores.parquet", tmp_path / "out.zip", edition="2024", task=2)
    assert said == ("changed: 14 further classes of scores.parquet are left out.",)
    assert validate_submission(tmp_path / "out.zip", edition="2024", task=2).is_valid


def test_aliases_are_joined_by_name(tmp_path: Path) -> None:
    names = tuple("No Finding" if name == "Normal" else name for name in ONE)
    predicted(names).write(tmp_path / "scores.parquet")
    found = read_submission(tmp_path / "scores.parquet", edition="2024")
    assert found.class_names == ONE
    assert np.array_equal(found.scores, predicted().scores)


def test_missing_and_doubled_classes_and_other_images_are_refused(tmp_path: Path) -> None:
    short = predicted((*ONE[:-2], "Tubercolosis", "No Finding"))
    short.write(tmp_path / "scores.parquet")
    with pytest.raises(MedtailError) as caught:
        read_submission(tmp_path / "scores.parquet", edition="2024")
    assert "column 'Tuberculosis': missing; did you mean 'Tubercolosis'" in str(caught.value)
    assert "the class 'Normal' stands there twice" in str(caught.value)
    predicted().write(tmp_path / "good.parquet")
    with pytest.raises(MedtailError, match="1 images of the test set have no row: d9"):
        read_submission(tmp_path / "good.parquet", edition="2024", ids=np.array(["d0", "d9"], dtype=object))


def test_only_medtails_own_tables_are_taken_for_predictions(tmp_path: Path) -> None:
    pd.DataFrame({"dicom_id": ["a"], "Hernia": [0.5]}).to_csv(tmp_path / "submission.csv", index=False)
    pd.DataFrame({"image_id": ["a"], "Hernia": [0.5]}).to_csv(tmp_path / "other.csv", index=False)
    replace(predicted(), name="x").write(tmp_path / "own.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00image_id,target:")
    found = {name: is_predictions(tmp_path / name) for name in ("submission.csv", "other.csv", "own.csv", "binary.csv")}
    assert found == {"submission.csv": False, "other.csv": False, "own.csv": True, "binary.csv": False}
    assert not is_predictions(tmp_path / "nowhere.csv")
    assert not is_predictions(tmp_path)
