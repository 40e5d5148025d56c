from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtail.errors import MedtailError
from medtail.tables.manifest import Manifest, is_metadata, manifest_from_frame, read_manifest


def table(**columns: list[object]) -> pd.DataFrame:
    """Four images of two patients with one class, and whatever a test puts beside or in their place."""
    plain: dict[str, list[object]] = {
        "image_id": ["a", "b", "c", "d"],
        "path": ["a.png", "b.png", "c.png", "d.png"],
        "patient_id": ["1", "1", "2", "2"],
        "Hernia": [1, 0, None, 0],
    }
    return pd.DataFrame({key: value for key, value in {**plain, **columns}.items() if value is not ...})


def mistakes(frame: pd.DataFrame, **options: object) -> list[str]:
    with pytest.raises(MedtailError) as caught:
        manifest_from_frame(frame, name="m.csv", **options)  # type: ignore[arg-type]
    return str(caught.value).splitlines()


def folded(folds: list[str], **columns: list[object]) -> Manifest:
    return manifest_from_frame(table(fold=list(folds), **columns), name="m.csv")


# --- what a checked table holds -------------------------------------------------------------------------------------


def test_columns_stand_in_a_fixed_order_with_fixed_types():
    frame = table(meta_note=["x", None, " y ", ""], age=["50", "", "61.5", None], view=["PA", "AP", None, ""])
    manifest = manifest_from_frame(frame[frame.columns[::-1]])
    assert list(manifest.frame.columns) == ["image_id", "path", "patient_id", "fold", "origin", "view", "age",
                                            "meta_note", "Hernia"]  # fmt: skip
    np.testing.assert_array_equal(manifest.frame["age"], [50, np.nan, 61.5, np.nan])
    assert manifest.frame["meta_note"].tolist() == ["x", "", "y", ""]
    assert manifest.folds.tolist() == [""] * 4
    assert manifest.is_real.tolist() == [True] * 4
    assert manifest.targets.dtype == np.float32
    np.testing.assert_array_equal(manifest.targets, [[1], [0], [np.nan], [0]])


def test_the_frame_given_is_not_changed():
    frame = table()
    before = frame.copy()
    manifest_from_frame(frame)
    pd.testing.assert_frame_equal(frame, before)


def test_the_index_of_the_frame_given_means_nothing():
    frame = table().set_axis([7, 7, 0, 3], axis=0)
    assert manifest_from_frame(frame).digest == manifest_from_frame(table()).digest
    assert mistakes(frame.assign(Hernia=["1", "0", "0", "x"]))[0].startswith("m.csv, row 5, column 'Hernia': found 'x'")


def test_ids_keep_leading_zeros_and_whole_numbers_lose_their_point():
    assert manifest_from_frame(table(patient_id=["007", "7", " 8 ", "x"])).patients.tolist() == ["007", "7", "8", "x"]
    assert manifest_from_frame(table(patient_id=[7.0, 8.0, 9.0, 10.0])).patients.tolist() == ["7", "8", "9", "10"]


@pytest.mark.parametrize("columns", [{"patient_id": [""] * 4}, {"patient_id": [None] * 4}])
def test_a_blank_patient_column_makes_every_image_its_own_patient(columns):
    manifest = manifest_from_frame(table(**columns))
    assert not manifest.has_patients
    assert manifest.patients.tolist() == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    "columns",
    [
        {"patient_id": ["1"] * 4},
        {"Hernia": [0, 0, 0, 0]},
        {"Hernia": [1, 1, 1, 1]},
        {"Hernia": [None] * 4},
        {"Edema": [1, 1, 0, 0], "Mass": [0, 0, 0, None]},
    ],
    ids=["all one patient", "no positives", "no negatives", "nothing assessed", "some of each"],
)
def test_poor_but_honest_tables_are_accepted(columns):
    # whether anything can be learnt or estimated from them is the audit's question, not the border's
    manifest = manifest_from_frame(table(**columns))
    assert len(manifest) == 4


@pytest.mark.parametrize("value", [" 1 ", "1.0", "+1", 1, True, np.float32(1)])
def test_a_label_may_be_written_in_several_ways(value):
    assert manifest_from_frame(table(Hernia=[value] * 4)).targets.tolist() == [[1.0]] * 4


def test_metadata_are_known_names_and_what_starts_with_meta():
    assert [name for name in ("path", "age", "meta_x", "Meta_x", "Age", "Hernia") if is_metadata(name)] == [
        "path", "age", "meta_x"
    ]  # fmt: skip


def test_boxes_are_given_where_they_are_known():
    manifest = manifest_from_frame(
        table(roi_x=[0, "", 5.9, None], roi_y=[1, "", 2, None], roi_w=[10, "", 3, None], roi_h=[20, "", 4, None])
    )
    assert [manifest.roi(row) for row in range(4)] == [(0, 1, 10, 20), None, (5, 2, 3, 4), None]
    assert manifest_from_frame(table()).roi(0) is None


# --- mistakes of cells ----------------------------------------------------------------------------------------------

LABELS = r"expected 1 \(present\), 0 \(absent\) or empty \(not assessed\)"


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"Hernia": [1, 2, 0, 0]}, rf"m\.csv, row 3, column 'Hernia': found '2.*'; {LABELS}\.$"),
        ({"Hernia": ["1", "0", "yes", ""]}, rf"row 4, column 'Hernia': found 'yes'; {LABELS}\.$"),
        ({"Hernia": ["1", "x", "0", "y"]}, rf"row 3, column 'Hernia': found 'x'; {LABELS}\. Also row 5\.$"),
        ({"Hernia": [0.5, 0, 0, 0]}, rf"row 2, column 'Hernia': found '0\.5'; {LABELS}"),
        ({"Hernia": [-1, 0, 0, 0]}, rf"row 2, column 'Hernia': found '-1.*'; {LABELS}"),
        ({"Hernia": ["inf", "0", "0", "0"]}, rf"row 2, column 'Hernia': found 'inf'; {LABELS}"),
        ({"Scanner": ["GE", "GE", "Philips", ""]}, rf"column 'Scanner': .*{LABELS} \(if 'Scanner' is no class, rename"),
        ({"Age": [50, 60, 70, 80]}, r"\(if 'Age' is no class, rename it 'meta_Age'; did you mean 'age'\?\)"),
        ({"age": [50, "old", 3, 4]}, r"row 3, column 'age': found 'old'; expected a finite number or empty"),
        ({"size_mm": ["inf", 1, 3, 4]}, r"row 2, column 'size_mm': found 'inf'; expected a finite number or empty"),
        ({"image_id": ["a", "", "c", "d"]}, r"row 3, column 'image_id': found ''; expected a value, not an empty cell"),
        ({"path": ["a", "b", None, "d"]}, r"row 4, column 'path': found .*; expected a value, not an empty cell"),
        ({"image_id": ["a", "b", "a ", "a"]}, r"column 'image_id': 'a' stands in rows 2, 4, 5; expected once"),
        (
            {"patient_id": ["1", "", "", "2"]},
            r"row 3, column 'patient_id': found ''; expected a patient in every row, or the whole column empty "
            r"\(patients unknown\)\. Also row 4\.",
        ),
        (
            {"fold": ["train", "val", "", "Test"]},
            r"row 3, column 'fold': found 'val'; expected train, tune \(validation\), test, reward or empty\. Also",
        ),
        (
            {"origin": ["real", "fake", "", "synthetic"]},
            r"row 3, column 'origin': found 'fake'; expected real or synthetic \(or empty: real\)",
        ),
        ({"path": ["a\rb", "b", "c", "d"]}, r"row 2, column 'path': found 'a\\rb'; expected text without control"),
        ({"meta_x": ["", "\x1b[0m", "", ""]}, r"row 3, column 'meta_x': found .*; expected text without control"),
        (
            {"roi_x": [1, 1, 1, 1]},
            r"columns roi_x: found without the others; a region of interest needs roi_x, roi_y, ",
        ),
        (
            {"roi_x": [1, 1, "", 1], "roi_y": [1, 1, "", 1], "roi_w": [5, "", "", 5], "roi_h": [5, 5, "", 5]},
            r"row 3, column 'roi_x, roi_y, roi_w, roi_h': found '1, 1, , 5'; expected all four in pixels, or all four",
        ),
        (
            {"roi_x": [1, 1, 1, -1], "roi_y": [1] * 4, "roi_w": [5, 0, 5, 5], "roi_h": [5] * 4},
            r"row 3, .*found '1, 1, 0, 5'; expected x and y of at least 0, width and height above 0\. Also row 5",
        ),
        ({"target:Hernia": [1, 0, 0, 0]}, r"column 'target:Hernia': 'target:' marks the targets of a table of scores"),
    ],
)
def test_a_bad_cell_is_named_with_its_place_and_what_is_expected(columns, expected):
    with pytest.raises(MedtailError, match=expected):
        manifest_from_frame(table(**columns), name="m.csv")
    assert len(mistakes(table(**columns))) == 1


# --- mistakes of columns --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["image_id", "path", "patient_id"])
def test_a_missing_column_is_named_with_the_nearest_one(column):
    near = column.replace("_", "").upper()
    found = mistakes(table(patient_id=["8", "8", "9", "9"]).rename(columns={column: near}))
    assert found[0].startswith(f"m.csv, column {column!r}: missing; did you mean {near!r}? `medtail data import csv")
    assert len(found) == 1


def test_a_missing_column_with_nothing_near_lists_the_columns_there_are():
    found = mistakes(table(patient_id=["8", "8", "9", "9"]).rename(columns={"patient_id": "who"}))
    assert found == [
        "m.csv, column 'patient_id': missing. Columns found: image_id, path, who, Hernia."
        " `medtail data import csv --help` shows how to map yours."
    ]


def test_a_table_without_classes_or_rows_is_refused():
    assert mistakes(table(Hernia=...)) == [
        "m.csv, no class columns: every column is metadata; expected a column a class holding 1, 0 or empty."
    ]
    assert mistakes(table().iloc[:0]) == ["m.csv, no rows: found only the header; expected a row an image."]
    found = mistakes(pd.DataFrame({"image_id": []}))
    assert [line.split(":")[0] for line in found] == [
        "m.csv, column 'path'", "m.csv, column 'patient_id'", "m.csv, no class columns", "m.csv, no rows"
    ]  # fmt: skip


def test_repeated_and_nameless_columns_of_a_frame_are_refused():
    frame = table(Edema=[0, 0, 0, 1], Mass=[0] * 4)
    frame.columns = ["image_id", "path", "patient_id", "Hernia", "Hernia ", ""]
    assert mistakes(frame) == [
        "m.csv, column 6: has no name; name it or remove it (a pandas index? write with index=False).",
        "m.csv, column 'Hernia': appears 2 times; keep one.",
    ]


def test_classes_named_by_numbers_become_text():
    frame = table().rename(columns={"Hernia": 3})
    assert manifest_from_frame(frame).labels.class_names == ("3",)


# --- exclusive groups -----------------------------------------------------------------------------------------------


def test_two_present_classes_of_an_exclusive_group_are_refused():
    columns = {"s=a": [1, 1, 0, 0], "s=b": [1, 0, 0, 1], "s=c": [1, 0, 0, 1]}
    assert mistakes(table(**columns)) == [
        "m.csv, row 2: s=a, s=b, s=c are all 1, yet the classes of 's' exclude each other; expected one of them"
        " (or column names without '=' if they can combine). Also row 5."
    ]


def test_a_multiclass_row_needs_a_class_but_may_be_not_assessed():
    columns = {"Hernia": ..., "s=a": [1, 0, None, 0], "s=b": [0, 1, None, 1]}
    assert manifest_from_frame(table(**columns)).labels.task == "multiclass"
    columns |= {"s=a": [1, 0, 0, 0], "s=b": [0, 0, 0, 1]}
    assert mistakes(table(**columns)) == [
        "m.csv, rows 3, 4: no class of 's' is 1; expected one of them, or empty cells where it was not assessed."
    ]


def test_in_a_multilabel_table_none_of_a_group_may_apply():
    assert len(manifest_from_frame(table(**{"s=a": [1, 0, 0, 0], "s=b": [0, 0, 0, 1]}))) == 4


def test_groups_can_be_named_by_the_caller():
    frame = table(Edema=[0, 1, 0, 1], Mass=[1, 0, 0, 1])
    assert manifest_from_frame(frame.iloc[:3], groups={"g": ["Edema", "Mass"]}).labels.groups[0].name == "g"
    assert mistakes(frame, groups={"g": ["Edema", "Mass"]})[0].startswith("m.csv, row 5: Edema, Mass are both 1")
    assert mistakes(frame, groups={"g": ["Edema", "Mas"]}) == ["m.csv, group 'g': no class 'Mas'; did you mean 'Mass'?"]


# --- all at once ----------------------------------------------------------------------------------------------------


def test_every_mistake_of_a_table_is_listed_at_once():
    frame = table(
        image_id=["a", "b", "b", ""],
        fold=["train", "trian", "", ""],
        age=["x", 1, 2, 3],
        Hernia=[1, 7, 0, 0],
        **{"s=a": [1, 0, "?", 0], "s=b": [1, 0, 0, 0]},
    ).drop(columns="path")
    places = [line.removeprefix("m.csv, ").partition(":")[0] for line in mistakes(frame, groups={"g": ["Hernia", "x"]})]
    assert places == [
        "column 'path'",
        "group 'g'",
        "row 2, column 'age'",
        "row 3, column 'Hernia'",
        "row 4, column 's=a'",
        "row 5, column 'image_id'",
        "column 'image_id'",
        "row 3, column 'fold'",
    ]


def test_groups_are_checked_in_the_rows_whose_cells_are_valid():
    frame = table(**{"s=a": [1, "?", 0, 0], "s=b": [1, 1, 0, 0]})
    assert [line.partition(":")[0] for line in mistakes(frame)] == ["m.csv, row 3, column 's=a'", "m.csv, row 2"]


def test_a_column_that_is_likely_the_missing_one_is_not_taken_for_a_bad_class():
    frame = table().rename(columns={"patient_id": "subject"}).assign(subject=["S1", "S2", "S3", "S4"])
    assert [line.partition(":")[0] for line in mistakes(frame)] == ["m.csv, column 'patient_id'"]


def test_thousands_of_mistakes_are_shown_in_part_and_counted():
    n = 3000
    frame = pd.DataFrame(
        {
            "image_id": [f"i{index // 2}" for index in range(n)],
            "path": "x.png",
            "patient_id": "p",
            "Hernia": "maybe",
        }
    )
    found = mistakes(frame)
    assert len(found) == 21
    assert found[0].startswith("m.csv, row 2, column 'Hernia': found 'maybe'")
    assert found[0].endswith("Also rows 3, 4, 5, 6, 7, 8, 9, 10 and 2991 more.")
    assert found[1] == "m.csv, column 'image_id': 'i0' stands in rows 2, 3; expected once."
    assert found[-1] == "m.csv: and 1481 more mistakes"


# --- files and folds ------------------------------------------------------------------------------------------------


def test_files_that_exist_are_no_mistake_and_missing_ones_are_counted(toy_manifest):
    toy_manifest.check_files()
    toy_manifest.image_path(3).unlink()
    toy_manifest.image_path(9).unlink()
    toy_manifest.image_path(9).mkdir()  # a folder is no image
    with pytest.raises(
        MedtailError,
        match=r"toy\.csv, row 5, column 'path': no file '.*003\.png'; expected an image \(relative paths start at"
        r" '.*'\)\. 2 of 60 files are missing: rows 5, 11\.",
    ):
        toy_manifest.check_files()


def test_an_impossible_path_is_missing_not_a_crash():
    manifest = manifest_from_frame(table(path=["x" * 5000, "y", "z", "w"]), name="m.csv")
    with pytest.raises(MedtailError, match="4 of 4 files are missing: rows 2, 3, 4, 5"):
        manifest.check_files()


def test_usable_folds_pass(toy_manifest):
    toy_manifest.check_folds("train", "tune", "test")
    folded(["train", "train", "", ""]).check_folds("train")


def test_a_needed_fold_without_rows_is_named():
    with pytest.raises(
        MedtailError, match=r"column 'fold': no row is in 'tune'\. Make folds with `medtail data split m"
    ):
        folded(["train", "train", "test", "test"]).check_folds("train", "tune", "test")


def test_a_patient_in_two_folds_is_named_with_its_rows():
    with pytest.raises(
        MedtailError,
        match=r"^m\.csv, patient '1': is in test and in train \(rows 2, 4\)\. Remake the folds with `medtail data",
    ):
        folded(["train", "", "test", "train"], patient_id=["1", "1", "1", "2"]).check_folds()


def test_unknown_patients_cross_no_fold():
    folded(["train", "test", "train", "tune"], patient_id=[""] * 4).check_folds("train", "tune", "test")


def test_synthetic_images_belong_in_train_only():
    origin: list[object] = ["synthetic", "real", "synthetic", "real"]
    folded(["train", "train", "train", "train"], origin=origin).check_folds()
    with pytest.raises(
        MedtailError,
        match=r"column 'origin': synthetic images outside the train fold \(row 4\); expected them in train only\.",
    ):
        folded(["train", "train", "test", "test"], origin=origin).check_folds()


def test_every_mistake_of_the_folds_is_listed_at_once_and_fast():
    n = 20_000
    frame = pd.DataFrame(
        {
            "image_id": [f"i{index}" for index in range(n)],
            "path": "x.png",
            "patient_id": [f"p{index // 2}" for index in range(n)],
            "fold": ["train", "test"] * (n // 2),
            "origin": "synthetic",
            "Hernia": 0,
        }
    )
    with pytest.raises(MedtailError) as caught:
        manifest_from_frame(frame).check_folds("tune")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("manifest, column 'fold': no row is in 'tune'")
    assert lines[1].startswith("manifest, patient 'p0': is in test and in train (rows 2, 3)")
    assert lines[-1] == "manifest: and 9982 more mistakes"


# --- parts and copies -----------------------------------------------------------------------------------------------


def test_rows_are_taken_by_index_or_mask_and_numbered_anew(toy_manifest):
    some = toy_manifest.take(np.array([5, 2, 2]))
    assert some.frame["image_id"].tolist() == ["i005", "i002", "i002"]
    assert some.frame.index.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(some.targets, toy_manifest.targets[[5, 2, 2]])
    mask = np.zeros(len(toy_manifest), dtype=bool)
    mask[[2, 5]] = True
    assert toy_manifest.take(mask).frame["image_id"].tolist() == ["i002", "i005"]
    assert len(toy_manifest.take(np.zeros(60, dtype=bool))) == 0


def test_folds_part_the_table(toy_manifest):
    parts = [toy_manifest.in_fold(fold) for fold in ("train", "tune", "test")]
    assert sum(map(len, parts)) == len(toy_manifest)
    assert all(set(part.folds) == {fold} for part, fold in zip(parts, ("train", "tune", "test"), strict=True))
    assert len(toy_manifest.in_fold("tune", "test")) == len(parts[1]) + len(parts[2])
    assert len(toy_manifest.in_fold("reward")) == 0


def test_new_folds_change_the_digest_but_not_the_original(toy_manifest):
    before = toy_manifest.digest
    changed = toy_manifest.with_folds(np.array(["test"] * 60))
    assert set(changed.folds) == {"test"}
    assert set(toy_manifest.folds) == {"train", "tune", "test"}
    assert changed.digest != before == toy_manifest.digest


def test_classes_are_chosen_in_the_order_asked_with_all_metadata(toy_manifest):
    chosen = toy_manifest.with_classes(["shape=round", "bright", "shape=oval"])
    assert chosen.labels.class_names == ("shape=round", "bright", "shape=oval")
    assert chosen.labels.group_indices == ((0, 2),)
    np.testing.assert_array_equal(chosen.targets[:, 1], toy_manifest.targets[:, 0])
    assert chosen.patients.tolist() == toy_manifest.patients.tolist()
    with pytest.raises(MedtailError, match=r"no class 'brihgt'; did you mean 'bright'\?"):
        toy_manifest.with_classes(["brihgt"])


PATHS = ["a.png", "deep/er/a.png", "../beside/a.png", "./a.png", "x/../a.png", "/absolute/a.png", "../../up.png", "a"]


@pytest.mark.parametrize("root", ["/data/set/images", "/data/set", "/data/other/place", "/elsewhere/a/b/c/d/e"])
def test_rebased_paths_point_to_the_same_files(root):
    frame = pd.DataFrame(
        {
            "image_id": [str(index) for index in range(len(PATHS))],
            "path": PATHS,
            "mask_path": ["", *PATHS[1:]],
            "patient_id": "",
            "A": 0,
        }
    )
    manifest = manifest_from_frame(frame, root=Path("/data/set/images"))
    moved = manifest.rebased(Path(root))
    assert moved.root == Path(root)
    assert [path.resolve() for path in moved.image_paths()] == [path.resolve() for path in manifest.image_paths()]
    assert [moved.image_path(row) for row in range(len(moved))] == moved.image_paths()
    assert moved.frame["mask_path"].tolist() == ["", *moved.frame["path"].tolist()[1:]]
    assert moved.digest == moved.rebased(Path(root)).digest


def test_files_near_by_are_named_relatively_and_far_ones_absolutely():
    manifest = manifest_from_frame(table(), root=Path("/data/set/images"))
    assert manifest.rebased(Path("/data/set")).frame["path"].iloc[0] == "images/a.png"
    assert manifest.rebased(Path("/data/runs/r1")).frame["path"].iloc[0] == "../../set/images/a.png"
    assert manifest.rebased(Path("/home/me/very/far")).frame["path"].iloc[0] == "/data/set/images/a.png"


# --- writing and reading --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["m.csv", "m.parquet"])
def test_a_written_manifest_comes_back_and_finds_its_files(toy_manifest, tmp_path, name):
    toy_manifest.write(tmp_path / "elsewhere" / name)
    again = read_manifest(tmp_path / "elsewhere" / name)
    assert again.name == name
    assert again.labels == toy_manifest.labels
    np.testing.assert_array_equal(again.targets, toy_manifest.targets)
    assert again.frame["path"].iloc[0] == "../images/000.png"
    again.check_files()
    assert again.digest == toy_manifest.rebased(tmp_path / "elsewhere").digest


def test_a_written_csv_is_plain_to_read(tmp_path):
    manifest_from_frame(table(age=[50, None, 61.5, 3]), root=tmp_path).write(tmp_path / "m.csv")
    assert (tmp_path / "m.csv").read_text() == (
        "image_id,path,patient_id,age,Hernia\na,a.png,1,50.0,1\nb,b.png,1,,0\nc,c.png,2,61.5,\nd,d.png,2,3.0,0\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["m.csv"]


def test_a_table_that_cannot_be_read_says_where(tmp_path):
    (tmp_path / "m.csv").write_text("image_id,path,patient_id,A\na,a.png,1,2\n")
    with pytest.raises(MedtailError, match=r"^m\.csv, row 2, column 'A': found '2'; expected 1 \(present\)"):
        read_manifest(tmp_path / "m.csv")
    with pytest.raises(MedtailError, match=r"none\.csv: no such file; expected a manifest as \.csv or \.parquet"):
        read_manifest(tmp_path / "none.csv")


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\t"), max_size=6).map(str.strip)
FILE = st.text(
    st.characters(codec="ascii", categories=["L", "N"], include_characters=" _-=+@,;\"'"), min_size=1, max_size=6
)
LABEL = st.sampled_from([0.0, 1.0, np.nan])
MANIFESTS = st.integers(1, 5).flatmap(
    lambda n: st.fixed_dictionaries(
        {
            "image_id": st.lists(TEXT.filter(bool), min_size=n, max_size=n, unique=True),
            "path": st.lists(FILE.map(str.strip).filter(bool), min_size=n, max_size=n),
            "patient_id": st.one_of(st.just([""] * n), st.lists(TEXT.filter(bool), min_size=n, max_size=n)),
            "fold": st.lists(st.sampled_from(["", "train", "tune", "test", "reward"]), min_size=n, max_size=n),
            "origin": st.lists(st.sampled_from(["real", "synthetic"]), min_size=n, max_size=n),
            "age": st.lists(st.one_of(st.just(np.nan), st.floats(0, 120)), min_size=n, max_size=n),
            "meta_note": st.lists(TEXT, min_size=n, max_size=n),
            'A, "b"': st.lists(LABEL, min_size=n, max_size=n),
            "g=x": st.lists(LABEL, min_size=n, max_size=n),
            "g=y": st.just([0.0] * n),
        }
    )
)


@given(columns=MANIFESTS)
def test_csv_to_parquet_to_csv_keeps_every_value_and_the_digest(tmp_path_factory, columns):
    folder = tmp_path_factory.mktemp("manifests")
    first = manifest_from_frame(pd.DataFrame(columns), root=folder)
    current = first
    for name in ("a.csv", "b.parquet", "c.csv"):
        current.write(folder / name)
        current = read_manifest(folder / name)
        pd.testing.assert_frame_equal(current.frame, first.frame, check_exact=True)
        assert current.digest == first.digest
    assert (folder / "a.csv").read_bytes() == (folder / "c.csv").read_bytes()


@given(columns=MANIFESTS, seed=st.integers(0, 99))
def test_the_digest_changes_with_the_order_of_rows_and_only_with_the_table(columns, seed):
    manifest = manifest_from_frame(pd.DataFrame(columns))
    order = np.random.default_rng(seed).permutation(len(manifest))
    shuffled = manifest.take(order)
    assert (shuffled.digest == manifest.digest) == (order == np.arange(len(order))).all()
    assert shuffled.take(np.argsort(order)).digest == manifest.digest
