from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from medtail.challenges.medmnist import MedmnistScore, dumps, score_medmnist, score_text, write_score
from medtail.challenges.medmnist_sets import medmnist_set
from medtail.errors import MedtailError, UsageError
from medtail.judging.evaluation import EvaluationConfig
from medtail.tables.predictions import read_predictions
from medtail.tables.results import read_results

QUICK = EvaluationConfig(bootstrap=40)
ROWS = {"train": 300, "val": 40, "test": 120}


def archive(folder: Path, flag: str, *, name: str | None = None, **changes: np.ndarray) -> Path:
    """Write an archive in the layout of the package, of labels as common and as rare as there."""
    dataset, random = medmnist_set(flag), np.random.default_rng(0)
    classes = len(dataset.class_names)
    arrays = {}
    for split, rows in ROWS.items():
        if dataset.is_multilabel:
            arrays[f"{split}_labels"] = (random.random((rows, classes)) < np.linspace(0.3, 0.03, classes)).astype("u1")
        else:
            shares = 1.0 / np.arange(1, classes + 1)
            arrays[f"{split}_labels"] = random.choice(classes, (rows, 1), p=shares / shares.sum()).astype("u1")
        arrays[f"{split}_images"] = np.zeros((rows, 2, 2), np.uint8)
    path = folder / (name or f"{flag}.npz")
    np.savez_compressed(path, **{**arrays, **changes})
    return path


def truth_of(path: Path, split: str = "test") -> np.ndarray:
    with np.load(path, allow_pickle=False) as arrays:
        return arrays[f"{split}_labels"].astype(int)


def informed(path: Path, flag: str) -> np.ndarray:
    """Scores that know something, a column a class, rows summing to 1 where classes exclude each other."""
    dataset, random = medmnist_set(flag), np.random.default_rng(5)
    labels = truth_of(path)
    true = labels if dataset.is_multilabel else (labels == np.arange(len(dataset.class_names))).astype(int)
    scores = random.random(true.shape) * 0.7 + 0.3 * true
    return scores if dataset.is_multilabel else scores / scores.sum(axis=1, keepdims=True)


def scored(folder: Path, flag: str, numbers: np.ndarray | None = None, **options: object) -> MedmnistScore:
    path = archive(folder, flag)
    pd.DataFrame(informed(path, flag) if numbers is None else numbers).to_csv(folder / "s.csv", header=False)
    return score_medmnist(folder / "s.csv", truth=path, config=QUICK, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("flag", ["chestmnist", "breastmnist", "dermamnist", "retinamnist", "fracturemnist3d"])
def test_official_and_own_figures_come_from_the_same_scores(tmp_path: Path, flag: str) -> None:
    found = scored(tmp_path, flag)
    assert found.results is not None
    assert found.results.header["bootstrap"]["unit"] == "image"
    # where both define it, the two definitions of AUROC are one
    own = [found.results.value("auroc", class_name=name) for name in found.dataset.labels.class_names]
    assert own[-len(found.class_auc) :] == pytest.approx(found.class_auc.tolist(), abs=1e-12)
    assert found.auc == pytest.approx(np.mean(found.class_auc), abs=1e-12)
    assert found.results.rows("auroc", class_name="", tail_group="")["low"].notna().all()
    assert found.results.header["train_counts"] is not None


def test_a_medtail_table_of_scores_gives_the_figures_of_the_official_layout(tmp_path: Path) -> None:
    first = scored(tmp_path, "dermamnist")
    assert first.predictions is not None
    renamed = {name: f"class={c}" for c, name in enumerate(first.dataset.labels.class_names)}
    frame = first.predictions.frame[["image_id", *renamed]].rename(columns=renamed)
    frame.sample(frac=1, random_state=1).to_csv(tmp_path / "t.csv", index=False)
    second = score_medmnist(tmp_path / "t.csv", truth=tmp_path / "dermamnist.npz", config=QUICK)
    assert (second.auc, second.acc) == (first.auc, first.acc)
    assert second.results is not None
    assert first.results is not None
    pd.testing.assert_frame_equal(second.results.frame, first.results.frame)


def test_own_figures_are_of_the_named_findings(tmp_path: Path) -> None:
    found = scored(tmp_path, "chestmnist")
    labels = truth_of(tmp_path / "chestmnist.npz")
    assert found.results is not None
    expected = average_precision_score(labels[:, 13], found.scores[:, 13])
    assert found.results.value("ap", class_name="hernia") == pytest.approx(expected, abs=1e-12)


def test_what_is_written_is_what_was_read_under_the_official_name(tmp_path: Path) -> None:
    found = scored(tmp_path, "octmnist", split="test")
    write_score(found, tmp_path / "out", run="7")
    name = f"octmnist_test_[AUC]{found.auc:.3f}_[ACC]{found.acc:.3f}@7.csv"
    assert sorted(item.name for item in (tmp_path / "out").iterdir()) == sorted(
        [name, "medmnist.json", "predictions.parquet", "results.csv", "results.csv.json"]
    )
    again = score_medmnist(tmp_path / "out" / name, truth=tmp_path / "octmnist.npz", config=QUICK)
    assert (again.auc, again.acc) == (found.auc, found.acc)
    assert not any("name says" in caution for caution in again.cautions)
    assert len(read_predictions(tmp_path / "out" / "predictions.parquet")) == ROWS["test"]
    assert found.results is not None
    assert read_results(tmp_path / "out" / "results.csv").value("auroc") == found.results.value("auroc")


def test_a_run_that_would_leave_the_folder_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    found = scored(tmp_path, "octmnist")
    with pytest.raises(UsageError, match="stands in a file name"):
        write_score(found, tmp_path / "out", run="../x")
    assert not (tmp_path / "out").exists()


def test_flag_split_and_size_are_read_off_the_names(tmp_path: Path) -> None:
    path = archive(tmp_path, "pneumoniamnist", name="pneumoniamnist_64.npz")
    name = "pneumoniamnist_64_val_[AUC]0.999_[ACC]0.999@1.csv"
    pd.DataFrame(np.random.default_rng(0).random(ROWS["val"])).to_csv(tmp_path / name, header=False)
    found = score_medmnist(tmp_path / name, truth=path, config=QUICK)
    assert (found.dataset.flag, found.split, found.size_px) == ("pneumoniamnist", "val", 64)
    assert found.file_name(1).startswith("pneumoniamnist_64_val_[AUC]")
    assert any("name says AUC 0.999 (found" in caution for caution in found.cautions)


def test_contradicting_names_are_told(tmp_path: Path) -> None:
    path = archive(tmp_path, "octmnist")
    pd.DataFrame(informed(path, "octmnist")).to_csv(tmp_path / "bloodmnist_64_test.csv", header=False)
    found = score_medmnist(tmp_path / "bloodmnist_64_test.csv", truth=path, flag="octmnist", config=QUICK)
    assert "The score file's name says bloodmnist; scored as octmnist." in found.cautions
    assert "The score file's name says 64 px images, the archive's 28 px." in found.cautions


def test_an_archive_of_any_name_needs_a_flag(tmp_path: Path) -> None:
    path = archive(tmp_path, "octmnist", name="data.npz")
    pd.DataFrame(informed(path, "octmnist")).to_csv(tmp_path / "s.csv", header=False)
    with pytest.raises(UsageError, match=r"flag 'data': unknown.*give the data set with --flag"):
        score_medmnist(tmp_path / "s.csv", truth=path)
    assert score_medmnist(tmp_path / "s.csv", truth=path, flag="octmnist", config=QUICK).dataset.flag == "octmnist"


def test_the_caution_about_acc_quotes_what_calling_nothing_reaches(tmp_path: Path) -> None:
    labels = truth_of(archive(tmp_path, "chestmnist"))
    found = scored(tmp_path, "chestmnist", np.zeros(labels.shape))
    assert found.acc == pytest.approx(1 - labels.mean(), abs=1e-12)
    assert found.trivial_acc == found.acc
    assert any(f"calling no finding in any image has ACC {found.acc:.4f}" in caution for caution in found.cautions)
    assert found.auc == 0.5


def test_always_the_most_frequent_class_is_the_floor_of_a_single_label_set(tmp_path: Path) -> None:
    found = scored(tmp_path, "dermamnist")
    counts = np.bincount(truth_of(tmp_path / "dermamnist.npz")[:, 0])
    assert found.trivial_acc == pytest.approx(counts.max() / counts.sum(), abs=1e-12)


def test_the_breast_set_is_cautioned_and_its_malignant_class_is_judged_too(tmp_path: Path) -> None:
    found = scored(tmp_path, "breastmnist")
    assert any("the score of NO cancer" in caution for caution in found.cautions)
    assert found.results is not None
    malignant = found.results.value("ap", class_name="class=malignant")
    labels = truth_of(tmp_path / "breastmnist.npz")[:, 0]
    assert malignant == pytest.approx(average_precision_score(labels == 0, found.scores[:, 0]), abs=1e-12)


def test_one_column_of_a_binary_set_is_completed_for_the_own_figures(tmp_path: Path) -> None:
    column = np.random.default_rng(3).random(ROWS["test"])
    found = scored(tmp_path, "breastmnist", column)
    assert found.predictions is not None
    assert np.array_equal(found.predictions.scores, np.column_stack([1 - column, column]))
    labels = truth_of(tmp_path / "breastmnist.npz")[:, 0]
    assert found.auc == roc_auc_score(labels, column)


def test_an_absent_class_makes_the_official_auc_nan_and_is_named(tmp_path: Path) -> None:
    labels = np.array([[0], [1], [2]] * 20, dtype=np.uint8)
    path = archive(tmp_path, "octmnist", test_labels=labels)
    scores = np.random.default_rng(0).dirichlet(np.ones(4), len(labels))
    pd.DataFrame(scores).to_csv(tmp_path / "s.csv", header=False)
    found = score_medmnist(tmp_path / "s.csv", truth=path, config=QUICK)
    assert np.isnan(found.auc)
    assert any(caution.endswith("negative image: normal.") for caution in found.cautions)
    assert found.results is not None
    assert not np.isnan(found.results.value("auroc"))  # ours is the mean of the three that are there
    assert json.loads(dumps(found))["official"]["AUC"] is None
    assert found.file_name(1) == f"octmnist_test_[AUC]nan_[ACC]{found.acc:.3f}@1.csv"


def test_logits_are_scored_officially_as_they_are_and_judged_only_when_named(tmp_path: Path) -> None:
    path = archive(tmp_path, "dermamnist")
    logits = np.log(informed(path, "dermamnist")) * 3
    plain = scored(tmp_path, "dermamnist", logits)
    assert plain.results is None
    assert any("no probabilities" in caution for caution in plain.cautions)
    named = scored(tmp_path, "dermamnist", logits, scores="softmax")
    assert named.results is not None
    assert (named.auc, named.acc) == (plain.auc, plain.acc)
    assert named.predictions is not None
    assert named.predictions.scores.sum(axis=1) == pytest.approx(1.0)


def test_an_archive_cut_down_to_one_split_is_scored_without_tail_groups(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 4, (50, 1)).astype(np.uint8)
    np.savez(tmp_path / "octmnist.npz", test_labels=labels)
    pd.DataFrame(np.random.default_rng(1).dirichlet(np.ones(4), 50)).to_csv(tmp_path / "s.csv", header=False)
    found = score_medmnist(tmp_path / "s.csv", truth=tmp_path / "octmnist.npz", config=QUICK)
    assert found.results is not None
    assert found.results.header["tail"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_labels": np.zeros((120, 2), np.uint8)}, "found 2 columns; octmnist has 1"),
        ({"test_labels": np.full((120, 1), 7, np.uint8)}, "found labels from 7 to 7; octmnist has 0 to 3"),
        ({"test_labels": np.zeros((1, 1), np.uint8)}, "found 1 rows"),
        ({"test_labels": np.zeros((120, 1))}, "found float64"),
        ({"test_labels": np.array([{"a": 1}], dtype=object)}, "found object"),
    ],
)
def test_labels_of_another_set_are_refused(tmp_path: Path, changes: dict[str, np.ndarray], message: str) -> None:
    path = archive(tmp_path, "octmnist", **changes)
    pd.DataFrame(np.zeros((120, 4))).to_csv(tmp_path / "s.csv", header=False)
    with pytest.raises(MedtailError, match=message):
        score_medmnist(tmp_path / "s.csv", truth=path, config=QUICK)


def test_an_unknown_split_is_a_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="split 'tst': expected train, val or test; did you mean 'test'"):
        scored(tmp_path, "octmnist", split="tst")


def test_the_text_gives_every_digit_of_the_official_figures(tmp_path: Path) -> None:
    found = scored(tmp_path, "chestmnist")
    said = score_text(found)
    assert f"official AUC {found.auc!r}" in said
    assert f"official ACC {found.acc!r}" in said
    assert "publishes no patients" in said
