from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.challenges.medmnist_files import (
    ResultName,
    Split,
    parse_result_name,
    read_scores,
    result_name,
    write_result_file,
)
from medtail.challenges.medmnist_sets import medmnist_set
from medtail.errors import MedtailError
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions

ROWS = 12


@pytest.fixture
def scores() -> np.ndarray:
    return np.random.default_rng(0).random((ROWS, 4))


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 4, (ROWS, 1))


def read(path: Path, labels: np.ndarray, *, flag: str = "octmnist", split: Split = "test") -> np.ndarray:
    return read_scores(path, dataset=medmnist_set(flag), split=split, labels=labels)


def table(scores: np.ndarray, *, names: list[str] | None = None, split: str = "test") -> pd.DataFrame:
    columns = names or [f"class={c}" for c in range(scores.shape[1])]
    ids = [f"{split}_{row:06d}" for row in range(len(scores))]
    return pd.DataFrame({"image_id": ids, **{name: scores[:, c] for c, name in enumerate(columns)}})


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size_px", [28, 64, 224])
@pytest.mark.parametrize("figures", [(0.5, 1.0), (0.12349, float("nan"))])
def test_a_name_that_is_written_is_read_back(size_px: int, figures: tuple[float, float]) -> None:
    auc, acc = figures
    name = result_name("organmnist3d", split="val", auc=auc, acc=acc, run="model-2", size_px=size_px)
    assert parse_result_name(f"folder/{name}") == ResultName(
        "organmnist3d", "val", size_px, f"{auc:.3f}", f"{acc:.3f}", "model-2"
    )


def test_the_name_is_the_official_one() -> None:
    assert (
        result_name("chestmnist", split="test", auc=0.76854, acc=0.9474, run=3, size_px=224)
        == "chestmnist_224_test_[AUC]0.769_[ACC]0.947@3.csv"
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("octmnist_test.csv", ResultName("octmnist", "test")),
        ("octmnist_testing_of_mine.csv", ResultName("octmnist", "test")),
        ("octmnist_64_train@a.b.csv", ResultName("octmnist", "train", 64, run="a")),
        ("octmnist_val_[AUC]0.1_[ACC]0.2@x@7.csv", ResultName("octmnist", "val", 28, "0.1", "0.2", "7")),
        ("scores.csv", None),
        ("octmnist_scores.csv", None),
    ],
)
def test_names_are_read_as_leniently_as_officially(name: str, expected: ResultName | None) -> None:
    assert parse_result_name(name) == expected


# --- the official layout --------------------------------------------------------------------------------------------


def test_a_written_file_has_no_header_and_row_numbers_and_reads_back(
    tmp_path: Path, scores: np.ndarray, labels: np.ndarray
) -> None:
    path = write_result_file(tmp_path, "octmnist_test.csv", scores)
    first = path.read_text().splitlines()[0]
    assert first == "0," + ",".join(map(str, scores[0]))
    assert np.array_equal(read(path, labels), scores)


def test_rows_in_another_order_are_sorted_by_their_number(
    tmp_path: Path, scores: np.ndarray, labels: np.ndarray
) -> None:
    shuffled = pd.DataFrame(scores).sample(frac=1, random_state=0)
    assert list(shuffled.index) != sorted(shuffled.index)
    shuffled.to_csv(tmp_path / "s.csv", header=False)
    assert np.array_equal(read(tmp_path / "s.csv", labels), scores)


def test_values_are_those_the_official_reader_would_see(tmp_path: Path, labels: np.ndarray) -> None:
    # digits beyond a float's: parsers may differ in the last place, and a tie may be won or lost by it
    lines = [f"{row},0.{row}23456789012345678901234,0.1,{'0.1' + '0' * 30 + '1'},1e-3" for row in range(ROWS)]
    text = "\n".join(lines) + "\n"
    (tmp_path / "s.csv").write_text(text)
    official = pd.read_csv(io.StringIO(text), index_col=0, header=None).to_numpy()
    assert np.array_equal(read(tmp_path / "s.csv", labels), official)


def test_a_binary_set_may_have_one_column_or_two(tmp_path: Path, scores: np.ndarray, labels: np.ndarray) -> None:
    for columns in (1, 2):
        pd.DataFrame(scores[:, :columns]).to_csv(tmp_path / f"{columns}.csv", header=False)
        assert read(tmp_path / f"{columns}.csv", labels % 2, flag="breastmnist").shape == (ROWS, columns)


def test_all_faults_of_an_official_file_are_listed_at_once(tmp_path: Path, labels: np.ndarray) -> None:
    rows = [f"{row},0.1,0.2,0.3,0.4" for row in range(ROWS)]
    rows[2] = "1,0.1,0.2,0.3,0.4"  # 1 twice, 2 missing
    rows[3] = "99,0.1,0.2,0.3,0.4"
    rows[4] = "4,0.1,oops,0.3,0.4"
    rows[5] = "5,0.1,0.2,nan,0.4"
    rows[6] = "6,0.1,0.2,0.3,inf"
    rows[7] = "7.5,0.1,0.2,0.3,0.4"
    (tmp_path / "s.csv").write_text("\n".join(rows))
    with pytest.raises(MedtailError) as caught:
        read(tmp_path / "s.csv", labels)
    said = str(caught.value)
    assert "row 8 hold no whole row number" in said
    assert "1 row numbers stand there more than once: 1" in said
    assert "1 row numbers are not in the split, which has rows 0 to 11: 99" in said
    assert "3 row numbers of the split's 12 are missing: 2, 3, 7" in said
    assert "row 5, column 3: found 'oops'; expected a finite number. Also rows 6, 7" in said


@pytest.mark.parametrize("columns", [3, 5])
def test_a_wrong_number_of_columns_is_refused(tmp_path: Path, labels: np.ndarray, columns: int) -> None:
    pd.DataFrame(np.zeros((ROWS, columns))).to_csv(tmp_path / "s.csv", header=False)
    with pytest.raises(MedtailError, match=f"found {columns} after the row number; expected 4 of octmnist"):
        read(tmp_path / "s.csv", labels)


def test_ragged_rows_are_refused(tmp_path: Path, labels: np.ndarray) -> None:
    (tmp_path / "s.csv").write_text("0,1,2,3,4\n1,1,2,3\n")
    with pytest.raises(MedtailError, match="columns: found 3, 4"):
        read(tmp_path / "s.csv", labels)


# --- medtail's own tables -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ["class=0", "class=1", "class=2", "class=3"],
        ["class_0", "class_1", "class_2", "class_3"],
        ["0", "1", "2", "3"],
        ["choroidal neovascularization", "diabetic macular edema", "drusen", "class=normal"],
    ],
)
def test_a_table_of_scores_is_read_by_id_and_name(
    tmp_path: Path, scores: np.ndarray, labels: np.ndarray, names: list[str]
) -> None:
    frame = table(scores, names=names).sample(frac=1, random_state=3)
    frame[["image_id", *reversed(names)]].to_csv(tmp_path / "s.csv", index=False)
    assert np.array_equal(read(tmp_path / "s.csv", labels), scores)


def test_rows_of_other_splits_are_left_aside(tmp_path: Path, scores: np.ndarray, labels: np.ndarray) -> None:
    both = pd.concat([table(scores), table(scores + 1.0, split="train")])
    both.to_parquet(tmp_path / "s.parquet", index=False)
    assert np.array_equal(read(tmp_path / "s.parquet", labels), scores)
    assert np.array_equal(read(tmp_path / "s.parquet", labels, split="train"), scores + 1.0)


def predictions(scores: np.ndarray, labels: np.ndarray, names: list[str]) -> Predictions:
    ids = np.array([f"test_{row:06d}" for row in range(len(scores))], dtype=object)
    targets = (labels == np.arange(4)).astype(float)
    folds = np.array(["test"] * len(scores), dtype=object)
    return Predictions(ids, ids, scores, targets, LabelSpace.from_columns(names), folds, has_patients=False)


def test_predictions_of_a_set_imported_with_own_names_are_placed_by_their_targets(
    tmp_path: Path, scores: np.ndarray, labels: np.ndarray
) -> None:
    own = predictions(scores, labels, ["class=cnv", "class=dme", "class=dru", "class=none"])
    own.write(tmp_path / "p.parquet")
    assert np.array_equal(read(tmp_path / "p.parquet", labels), scores)
    other = (labels + 1) % 4
    with pytest.raises(MedtailError, match=r"column 'target:class=cnv': \d+ rows are not what the archive says"):
        read(tmp_path / "p.parquet", other)


def test_all_faults_of_a_table_are_listed_at_once(tmp_path: Path, scores: np.ndarray, labels: np.ndarray) -> None:
    frame = table(scores).astype(object)
    frame.loc[1, "image_id"] = "test_000000"
    frame.loc[2, "image_id"] = "test_999999"
    frame.loc[3, "class=1"] = "much"
    frame = frame.rename(columns={"class=2": "clas=2"}).assign(class_0=0.5)
    frame.to_csv(tmp_path / "s.csv", index=False)
    with pytest.raises(MedtailError) as caught:
        read(tmp_path / "s.csv", labels)
    said = str(caught.value)
    assert "1 ids are not of the split 'test'" in said
    assert "1 ids stand there more than once: test_000000" in said
    assert "2 images of the split have no scores: test_000001, test_000002" in said
    assert "column 'clas=2': no class of octmnist; did you mean 'class=2'?" in said
    assert "columns 'class=0', 'class_0': are one class; keep one." in said
    assert "column 'class=2' (drusen): missing" in said
    assert "row 5, column 'class=1': found 'much'; expected a finite number" in said


def test_a_header_without_image_id_names_both_layouts(tmp_path: Path, labels: np.ndarray) -> None:
    (tmp_path / "s.csv").write_text("id,class=0\na,0.5\n")
    with pytest.raises(MedtailError, match="or the official layout: no header"):
        read(tmp_path / "s.csv", labels)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path, labels: np.ndarray) -> None:
    with pytest.raises(MedtailError, match="no such file"):
        read(tmp_path / "gone.csv", labels)
