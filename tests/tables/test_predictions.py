from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtail.errors import MedtailError
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import Manifest, manifest_from_frame
from medtail.tables.predictions import Predictions, read_predictions, scores_from_logits
from medtail.tables.tail import ClassCounts

IDS = ["a", "b", "c", "d", "e", "f"]
FOLDS = ["train", "train", "tune", "tune", "test", "test"]


@pytest.fixture
def truth() -> Manifest:
    frame = pd.DataFrame(
        {
            "image_id": IDS,
            "path": [f"{name}.png" for name in IDS],
            "patient_id": ["1", "1", "2", "2", "3", "3"],
            "fold": FOLDS,
            "Hernia": [1, 0, 0, None, 1, 0],
            "s=x": [1, 0, 0, 0, 1, 0],
            "s=y": [0, 1, 0, 0, 0, None],
        }
    )
    return manifest_from_frame(frame, name="labels.csv")


def scores(ids: Sequence[str] = IDS, **columns: list[object]) -> dict[str, list[object]]:
    plain: dict[str, list[object]] = {
        name: [round(0.1 * row + 0.05 * number, 3) for row in range(len(ids))]
        for number, name in enumerate(("Hernia", "s=x", "s=y"))
    }
    return {key: value for key, value in {"image_id": list(ids), **plain, **columns}.items() if value is not ...}


def put(folder: Path, columns: dict[str, list[object]], name: str = "scores.csv") -> Path:
    frame = pd.DataFrame(columns)
    if name.endswith(".parquet"):
        frame.to_parquet(folder / name)
    else:
        frame.to_csv(folder / name, index=False)
    return folder / name


def mistakes(path: Path, **options: object) -> list[str]:
    with pytest.raises(MedtailError) as caught:
        read_predictions(path, **options)  # type: ignore[arg-type]
    return str(caught.value).splitlines()


# --- scores of another tool, joined with the truth ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scores.csv", "scores.parquet"])
def test_scores_are_joined_with_the_truth_by_id_whatever_the_order(tmp_path, truth, name):
    order = ["f", "a", "d", "c", "b", "e"]
    columns = scores(order)
    found = read_predictions(put(tmp_path, dict(reversed(columns.items())), name), truth=truth)
    rows = [IDS.index(image_id) for image_id in order]
    assert found.image_ids.tolist() == order
    assert found.patients.tolist() == truth.patients[rows].tolist()
    assert found.folds.tolist() == [FOLDS[row] for row in rows]
    assert found.labels == truth.labels
    np.testing.assert_array_equal(found.scores[:, 1], columns["s=x"])
    np.testing.assert_array_equal(found.targets, truth.targets[rows])
    assert found.train_counts is not None
    assert found.train_counts.images == (1, 1, 1)
    assert found.digests["manifest"] == truth.digest
    assert found.digests["scores"] == found.digest
    assert found.has_patients
    assert found.thresholds is None
    assert found.threshold_array.tolist() == [0.5, 0.5, 0.5]
    assert found.name == name


def test_scoring_one_fold_alone_is_the_normal_case(tmp_path, truth):
    path = put(tmp_path, scores(["e", "f"]))
    assert read_predictions(path, truth=truth).image_ids.tolist() == ["e", "f"]
    assert read_predictions(path, truth=truth, fold="test").folds.tolist() == ["test", "test"]


def test_a_fold_can_be_picked_out_of_all_scores(tmp_path, truth):
    found = read_predictions(put(tmp_path, scores()), truth=truth, fold="tune")
    assert found.image_ids.tolist() == ["c", "d"]
    np.testing.assert_array_equal(found.scores[:, 0], [0.2, 0.3])


def test_unknown_patients_stay_unknown(tmp_path, truth):
    blank = manifest_from_frame(truth.frame.assign(patient_id=""), name="labels.csv")
    found = read_predictions(put(tmp_path, scores()), truth=blank)
    assert not found.has_patients
    assert found.patients.tolist() == IDS


def test_without_a_train_fold_there_are_no_train_counts(tmp_path, truth):
    found = read_predictions(put(tmp_path, scores(["e", "f"])), truth=truth.in_fold("test"))
    assert found.train_counts is None


@pytest.mark.parametrize("kind", ["csv", "tsv with semicolons"])
def test_spaces_and_spreadsheet_habits_do_no_harm(tmp_path, truth, kind):
    text = "image_id,Hernia,s=x,s=y\n" + "".join(f" {name} , 0.5,5e-1,.5\n" for name in IDS)
    path = tmp_path / "scores.csv"
    path.write_text(text.replace(",", ";") if kind != "csv" else text)
    assert (read_predictions(path, truth=truth).scores == 0.5).all()


def test_aliases_rename_columns_of_scores_and_targets(tmp_path, truth):
    columns = {("hern" if key == "Hernia" else key): value for key, value in scores().items()}
    assert read_predictions(put(tmp_path, columns), truth=truth, aliases={"hern": "Hernia"}).labels == truth.labels
    own = {"image_id": ["a"], "hern": [0.5], "target:hern": [1]}
    found = read_predictions(put(tmp_path, own), aliases={"hern": "Hernia"})
    assert found.labels.class_names == ("Hernia",)
    clash = mistakes(put(tmp_path, scores(hern=[0.5] * 6)), truth=truth, aliases={"hern": "Hernia"})
    assert clash == ["scores.csv, column 'Hernia': appears 2 times; keep one."]


# --- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"image_id": ...}, r"scores\.csv, column 'image_id': missing; expected it beside one column a class"),
        ({"Hernia": ...}, r"column 'Hernia': missing; labels\.csv has this class\."),
        ({"Edema": [0.1] * 6}, r"column 'Edema': no such class in labels\.csv"),
        (
            {"s=y": [0.1, "high", 0.1, 0.1, "x", 0]},
            r"row 3, column 's=y': found 'high'; expected a number\. Also row 6",
        ),
        (
            {"s=y": [0.1, None, 0, 0, 0, 0]},
            r"row 3, column 's=y': found ''; expected a score, not NaN or an empty cell",
        ),
        ({"s=y": [0.1, "NaN", 0, 0, 0, 0]}, r"row 3, column 's=y': found 'NaN'; expected a score, not NaN"),
        ({"s=y": [0.1, "inf", 0, 0, 0, 0]}, r"row 3, column 's=y': found 'inf'; expected a finite number"),
        (
            {"s=y": [0.1, 1.2, 0, 0, -3, 0]},
            r"row 3, column 's=y': found '1\.2'; expected a score in \[0, 1\] \(logits\? give `--scores logits`, or "
            r"`--scores softmax` for exclusive classes\)\. Also row 6",
        ),
        ({"image_id": ["a", "b", "c", "d", "e", ""]}, r"row 7, column 'image_id': found ''; expected a value"),
        (
            {"image_id": ["a", "b", "c", "d", "e", "zz"]},
            r"column 'image_id': 1 ids are not in labels\.csv: zz\. Remove their rows, or give the manifest they",
        ),
        ({"image_id": ["a", "b", "c", "d", "e", "e"]}, r"column 'image_id': 'e' stands in rows 6, 7; expected once"),
        (
            {"image_id": ["a", "b", "c", "d", "e", "e"]},
            r"column 'image_id': 1 of labels\.csv's images have no scores: f\. Score them all, or say `--partial`",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place_and_what_to_do(tmp_path, truth, columns, expected):
    with pytest.raises(MedtailError, match=expected):
        read_predictions(put(tmp_path, scores(**columns)), truth=truth)


def test_nan_in_parquet_is_refused_like_an_empty_cell(tmp_path, truth):
    path = put(tmp_path, scores(Hernia=[0.1, np.nan, 0, 0, 0, 0]), "scores.parquet")
    assert mistakes(path, truth=truth) == [
        "scores.parquet, row 3, column 'Hernia': found 'nan'; expected a score, not NaN or an empty cell."
    ]


def test_a_misspelt_class_is_proposed_both_ways(tmp_path, truth):
    columns = {("Hernai" if key == "Hernia" else key): value for key, value in scores().items()}
    assert mistakes(put(tmp_path, columns), truth=truth) == [
        "scores.csv, column 'Hernia': missing; labels.csv has this class; did you mean 'Hernai'?",
        "scores.csv, column 'Hernai': no such class in labels.csv; did you mean 'Hernia'?",
    ]


def test_every_mistake_of_a_file_is_listed_at_once(tmp_path, truth):
    columns = scores(["a", "b", "b", "zz", "e", ""], Hernia=..., Edema=[1] * 6, **{"s=x": [2, 0, "x", None, 0, 0]})
    places = [
        line.removeprefix("scores.csv, ").partition(":")[0] for line in mistakes(put(tmp_path, columns), truth=truth)
    ]
    assert places == [
        "column 'Hernia'",
        "column 'Edema'",
        "row 7, column 'image_id'",
        "column 'image_id'",  # b twice
        "row 4, column 's=x'",  # x
        "row 5, column 's=x'",  # empty
        "row 2, column 's=x'",  # 2
        "column 'image_id'",  # zz unknown
        "column 'image_id'",  # c, d and f unscored
    ]


def test_thousands_of_repeated_ids_are_shown_in_part_and_counted(tmp_path):
    n = 20_000
    path = put(tmp_path, {"image_id": [f"i{row // 2}" for row in range(n)], "A": [0.5] * n, "target:A": [1] * n})
    found = mistakes(path)
    assert len(found) == 21
    assert found[0] == "scores.csv, column 'image_id': 'i0' stands in rows 2, 3; expected once."
    assert found[-1] == "scores.csv: and 9980 more mistakes"


def test_an_empty_table_is_refused(tmp_path, truth):
    assert mistakes(put(tmp_path, scores([])), truth=truth) == [
        "scores.csv, no rows: found only the header; expected a row an image."
    ]
    (tmp_path / "scores.csv").write_bytes(b"")
    assert "expected a table of scores" in mistakes(tmp_path / "scores.csv", truth=truth)[0]


def test_a_fold_that_is_not_there_is_named_with_those_that_are(tmp_path, truth):
    assert mistakes(put(tmp_path, scores()), truth=truth, fold="reward") == [
        "scores.csv, fold 'reward': no row of labels.csv is in it; found test, train, tune."
    ]
    found = mistakes(put(tmp_path, scores(["e", "f"])), truth=truth, fold="tune", partial=True)
    assert found == ["scores.csv: no scored image is in fold 'tune' of labels.csv."]


def test_partial_scores_are_accepted_only_when_asked(tmp_path, truth):
    path = put(tmp_path, scores(["a", "e"]))
    assert "2 of labels.csv's images have no scores: b, f" in mistakes(path, truth=truth)[0]
    assert "1 of labels.csv's images have no scores: f" in mistakes(path, truth=truth, fold="test")[0]
    assert read_predictions(path, truth=truth, partial=True).image_ids.tolist() == ["a", "e"]
    # ids that the truth does not know are never accepted: their targets would be made up
    assert "not in labels.csv: zz" in mistakes(put(tmp_path, scores(["zz", "e"])), truth=truth, partial=True)[0]


def test_rounding_of_other_tools_is_clipped_and_no_more(tmp_path, truth):
    path = put(tmp_path, scores(Hernia=[1 + 5e-7, -5e-7, 0, 1, 0.5, 0.5]))
    assert read_predictions(path, truth=truth).scores[:2, 0].tolist() == [1.0, 0.0]
    assert "found '1.00001'" in mistakes(put(tmp_path, scores(Hernia=[1 + 1e-5, 0, 0, 0, 0, 0])), truth=truth)[0]


# --- logits ---------------------------------------------------------------------------------------------------------


def test_logits_become_sigmoids_and_a_softmax_inside_groups(tmp_path, truth):
    columns = scores(Hernia=[0, 800, -800, 1, -1, 2], **{"s=x": [3] * 6, "s=y": [3] * 6})
    found = read_predictions(put(tmp_path, columns), truth=truth, scores="logits")
    sigmoid = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(found.scores[:5, 0], [0.5, 1, 0, sigmoid, 1 - sigmoid])
    np.testing.assert_allclose(found.scores[:, 1:], 0.5)


def test_softmax_takes_all_classes_together(tmp_path, truth):
    columns = scores(Hernia=[0.0] * 6, **{"s=x": [0.0] * 6, "s=y": [float(np.log(2))] * 6})
    found = read_predictions(put(tmp_path, columns), truth=truth, scores="softmax")
    np.testing.assert_allclose(found.scores, [[0.25, 0.25, 0.5]] * 6)


def test_logits_must_be_finite_too(tmp_path, truth):
    columns = scores(**{"s=x": ["inf", "", "x", 1, 1, 1]})
    found = mistakes(put(tmp_path, columns), truth=truth, scores="logits")
    assert [line.rpartition("; ")[2] for line in found] == [
        "expected a number.", "expected a score, not NaN or an empty cell.", "expected a finite number."
    ]  # fmt: skip


@given(logits=st.lists(st.lists(st.floats(-1e4, 1e4), min_size=4, max_size=4), min_size=1, max_size=4))
def test_scores_from_logits_are_probabilities_at_any_size(logits):
    found = scores_from_logits(np.array(logits), ((0, 2),))
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_allclose(found[:, [0, 2]].sum(axis=1), 1)


# --- files that carry their targets ---------------------------------------------------------------------------------


@pytest.fixture
def own() -> Predictions:
    random = np.random.default_rng(0)
    return Predictions(
        image_ids=np.array(IDS, dtype=object),
        patients=np.array(["1", "1", "2", "2", "3", "3"], dtype=object),
        scores=random.random((6, 3)),
        targets=np.array([[1, 0, np.nan], [0, 1, 0], [0, 0, 1], [1, 0, 0], [np.nan, 1, 0], [0, 0, 1]]),
        labels=LabelSpace.from_columns(["A", "s=x", "s=y"]),
        folds=np.array(FOLDS, dtype=object),
        thresholds={"A": 0.25, "s=y": 0.75},
        train_counts=ClassCounts(("A", "s=x", "s=y"), (30, 20, 10), (3, 2, 1), (100, 90, 90)),
        digests={"model": "ab" * 32},
    )


@pytest.mark.parametrize("name", ["p.csv", "p.parquet"])
def test_our_own_files_carry_everything_a_fair_judgement_needs(tmp_path, own, name):
    own.write(tmp_path / name)
    found = read_predictions(tmp_path / name)
    for attribute in ("image_ids", "patients", "scores", "targets", "folds", "threshold_array"):
        np.testing.assert_array_equal(getattr(found, attribute), getattr(own, attribute))
    for attribute in ("labels", "thresholds", "train_counts", "has_patients", "digest"):
        assert getattr(found, attribute) == getattr(own, attribute)
    assert found.digests == {"model": "ab" * 32, "scores": own.digest}
    assert found.threshold_array.tolist() == [0.25, 0.5, 0.75]


def test_written_twice_gives_the_same_bytes(tmp_path, own):
    for name in ("p.csv", "p.csv.json", "p.parquet"):
        own.write(tmp_path / name.removesuffix(".json"))
        first = (tmp_path / name).read_bytes()
        own.write(tmp_path / name.removesuffix(".json"))
        assert (tmp_path / name).read_bytes() == first


def test_a_csv_whose_header_file_was_lost_is_still_judged(tmp_path, own):
    own.write(tmp_path / "p.csv")
    (tmp_path / "p.csv.json").unlink()
    found = read_predictions(tmp_path / "p.csv")
    assert found.labels == own.labels  # the group is told by the columns' names
    assert found.digest == own.digest
    assert found.thresholds is None
    assert found.train_counts is None
    assert found.digests == {"scores": own.digest}


def test_unknown_patients_are_written_blank_and_read_as_unknown(tmp_path, own):
    Predictions(own.image_ids, own.image_ids, own.scores, own.targets, own.labels, own.folds, has_patients=False).write(
        tmp_path / "p.csv"
    )
    found = read_predictions(tmp_path / "p.csv")
    assert not found.has_patients
    assert found.patients.tolist() == IDS


def test_a_fold_of_our_own_file_is_picked_or_refused(tmp_path, own):
    own.write(tmp_path / "p.csv")
    assert read_predictions(tmp_path / "p.csv", fold="test").image_ids.tolist() == ["e", "f"]
    assert mistakes(tmp_path / "p.csv", fold="reward") == [
        "p.csv: no row is in fold 'reward'; found test, train, tune. Leave `--fold` out, or name one of them."
    ]
    path = put(tmp_path, {"image_id": ["a"], "A": [0.5], "target:A": [1]})
    assert "found no folds" in mistakes(path, fold="test")[0]


def test_rows_are_taken_by_index_or_mask(own):
    assert own.take(np.array([5, 0])).image_ids.tolist() == ["f", "a"]
    some = own.take(own.folds == "test")
    np.testing.assert_array_equal(some.scores, own.scores[4:])
    np.testing.assert_array_equal(some.targets, own.targets[4:])
    assert some.patients.tolist() == ["3", "3"]
    assert own.take(np.arange(6)).digest == own.digest != some.digest


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({}, r"p\.csv, no targets: the file holds scores only\. Give the labels with `--truth labels\.csv`"),
        ({"target:A": [1, 2]}, r"row 3, column 'target:A': found '2'; expected 1 \(present\), 0 \(absent\) or empty"),
        ({"target:A": [1, 0], "B": [0.5, 0.5]}, r"column 'target:B': missing; expected the targets of every class"),
        (
            {"target:A": [1, 0], "target:B": [1, 0]},
            r"column 'target:B': targets without scores; no column 'B'",
        ),
        (
            {"target:A": [1, 0], "patient_id": ["1", ""]},
            r"row 3, column 'patient_id': found ''; expected a patient in ev",
        ),
    ],
)
def test_targets_in_the_file_are_checked_too(tmp_path, columns, expected):
    path = put(tmp_path, {"image_id": ["a", "b"], "A": [0.1, 0.9], **columns}, "p.csv")
    with pytest.raises(MedtailError, match=expected):
        read_predictions(path)


def test_a_table_without_a_column_of_scores_is_refused(tmp_path):
    assert mistakes(put(tmp_path, {"image_id": ["a"], "target:A": [1], "patient_id": ["1"]})) == [
        "scores.csv, no class columns: expected 'image_id' and one column of scores a class."
    ]


def test_columns_must_fit_the_files_own_header(tmp_path, own):
    own.write(tmp_path / "p.csv")
    frame = pd.read_csv(tmp_path / "p.csv").rename(columns={"A": "AA"})
    frame.to_csv(tmp_path / "p.csv", index=False)
    assert mistakes(tmp_path / "p.csv")[:2] == [
        "p.csv, column 'A': missing; the file's header has this class; did you mean 'AA'?",
        "p.csv, column 'AA': no such class in the file's header; did you mean 'A'?",
    ]


@pytest.mark.parametrize(
    "broken",
    [
        {"labels": {"class_names": "A"}},
        {"labels": []},
        {"thresholds": {"A": "high"}},
        {"thresholds": 0.5},
        {"train_counts": {"A": {"images": 1}}},
        {"train_counts": 3},
        {"digests": "ab"},
    ],
)
def test_a_damaged_header_is_named_with_what_to_do(tmp_path, own, broken):
    own.write(tmp_path / "p.csv")
    header = json.loads((tmp_path / "p.csv.json").read_text())
    (tmp_path / "p.csv.json").write_text(json.dumps({**header, **broken}))
    with pytest.raises(MedtailError, match=r"^p\.csv, header record: .* remove 'p\.csv\.json'\."):
        read_predictions(tmp_path / "p.csv")


def test_scores_and_targets_must_have_a_cell_an_image_and_class(own):
    with pytest.raises(AssertionError, match="one row an image"):
        Predictions(own.image_ids, own.patients, own.scores[:5], own.targets, own.labels, own.folds)
    with pytest.raises(AssertionError, match="one target a score"):
        Predictions(own.image_ids, own.patients, own.scores, own.targets[:, :2], own.labels, own.folds)


@given(
    values=st.integers(1, 5).flatmap(
        lambda n: st.tuples(
            st.lists(st.floats(0, 1), min_size=n, max_size=n),
            st.lists(st.sampled_from([0.0, 1.0, np.nan]), min_size=n, max_size=n),
        )
    )
)
def test_csv_and_parquet_give_the_same_scores_to_the_last_bit(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("predictions")
    ids = np.array([f"i{row}" for row in range(len(values[0]))], dtype=object)
    first = Predictions(
        ids,
        ids,
        np.array(values[0])[:, None],
        np.array(values[1])[:, None],
        LabelSpace(("A",)),
        ids,
        has_patients=False,
    )
    for name in ("p.csv", "p.parquet"):
        first.write(folder / name)
        again = read_predictions(folder / name)
        assert again.digest == first.digest
        np.testing.assert_array_equal(again.scores, first.scores)
        np.testing.assert_array_equal(again.targets, first.targets)


def test_train_counts_come_back_in_the_classes_order_not_in_the_alphabets(tmp_path):
    counts = ClassCounts(("zebra", "ant"), (30, 2), (20, 1), (100, 90))
    written = Predictions(
        image_ids=np.array(["a"], dtype=object),
        patients=np.array(["p"], dtype=object),
        scores=np.array([[0.5, 0.25]]),
        targets=np.array([[1.0, 0.0]]),
        labels=LabelSpace(("zebra", "ant")),
        folds=np.array(["test"], dtype=object),
        train_counts=counts,
    )
    written.write(tmp_path / "p.parquet")
    assert read_predictions(tmp_path / "p.parquet").train_counts == counts
