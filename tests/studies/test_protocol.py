"""The plan of a study: fixed in its folder, read back whole, and not to be changed under its cells."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from medtail.errors import MedtailError, UsageError
from medtail.runs import read_json, write_json
from medtail.studies.config import CrossValidationFolds, ExternalConfig, FixedFolds, JudgeConfig
from medtail.studies.protocol import (
    begin,
    check_study,
    fold_tables,
    needs_duplicates,
    read_external,
    read_study,
)
from medtail.tables.manifest import Manifest


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_study_reads_back_as_it_was(make_study, tmp_path: Path) -> None:
    study = make_study(
        judge=JudgeConfig(metrics=("ap",), bootstrap=7, tail_rule="terciles"),
        external={"far": ExternalConfig(manifest="/somewhere/far.csv", rename={"a": "FTC"})},
        overrides={"full": {}, "recipe": {"recipe": "long_tail_scratch"}, "flip": {"test_time_flip": True}},
    )
    begin(study, tmp_path / "out")
    again = read_study(tmp_path / "out")
    assert again == study
    assert list(again.arms) == list(study.arms)
    assert [cell.digest for cell in again.cells(tmp_path)] == [cell.digest for cell in study.cells(tmp_path)]


def test_beginning_twice_changes_nothing(make_study, tmp_path: Path) -> None:
    study, root = make_study(), tmp_path / "out"
    begin(study, root)
    before = contents(root)
    begin(study, root)
    assert contents(root) == before


def test_each_patient_is_once_in_tune_and_test_stays_shut(make_study, made_up: Manifest, tmp_path: Path) -> None:
    study, root = make_study(), tmp_path / "out"
    begin(study, root)
    tables = fold_tables(study, root)
    tune = [set(table.patients[table.folds == "tune"]) for table in tables]
    test = set(made_up.patients[made_up.folds == "test"])
    assert not set.intersection(*tune)
    assert set.union(*tune) == set(made_up.patients) - test
    for table in tables:
        assert set(table.patients[table.folds == "test"]) == test
        assert not set(table.patients[table.folds == "train"]) & set(table.patients[table.folds == "tune"])
        assert list(table.frame["image_id"]) == list(made_up.frame["image_id"])


def test_arms_and_seeds_may_be_added_and_left_out(make_study, tmp_path: Path) -> None:
    root = tmp_path / "out"
    two = {"full": {}, "twin": {"test_time_flip": True}}
    begin(make_study(overrides=two), root)
    before = (root / "folds" / "fold_0.csv").read_bytes()
    begin(make_study(overrides=two | {"third": {"loss.kind": "focal"}}, seeds=(0, 1, 2)), root)
    begin(make_study(overrides={"full": {}}), root)
    assert (root / "folds" / "fold_0.csv").read_bytes() == before
    # what was left out is still known, so it cannot come back changed
    with pytest.raises(UsageError, match=r"arm 'third', loss.kind: found 'asl'; its cells were trained with 'focal'"):
        begin(make_study(overrides=two | {"third": {"loss.kind": "asl"}}), root)


def test_a_changed_study_is_refused_with_what_changed(make_study, tmp_path: Path) -> None:
    root = tmp_path / "out"
    begin(make_study(), root)
    changed = make_study(
        overrides={"full": {"optimizer.learning_rate": 0.5}, "twin": {"test_time_flip": True}},
        folds=CrossValidationFolds(num_folds=4, duplicates=False, min_positives=0),
    )
    with pytest.raises(UsageError) as caught:
        begin(changed, root)
    assert "arm 'full', optimizer.learning_rate: found 0.5; its cells were trained with 0.001" in str(caught.value)
    assert "folds.num_folds: found 4; the study began with 3" in str(caught.value)


def test_what_moves_no_weights_may_change(make_study, tmp_path: Path) -> None:
    root = tmp_path / "out"
    begin(make_study(), root)
    begin(make_study(overrides={"full": {"threads": 1, "cache": "/elsewhere"}}, judge=JudgeConfig(bootstrap=9)), root)
    assert read_study(root).judge.bootstrap == 9


def test_a_changed_table_is_refused(make_study, tmp_path: Path) -> None:
    root = tmp_path / "out"
    begin(make_study(), root)
    path = tmp_path / "made_up.csv"
    text = path.read_text()
    path.write_text(text.replace("north", "west"))
    with pytest.raises(UsageError, match=r"manifest made_up.csv: has changed since the study began"):
        begin(make_study(), root)
    path.write_text(text)
    fold = root / "folds" / "fold_1.csv"
    fold.write_text(fold.read_text().replace("tune", "train", 1))
    with pytest.raises(UsageError, match=r"folds/fold_1.csv: is not the table the study began with"):
        begin(make_study(), root)


def test_a_folder_with_something_else_is_refused(make_study, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty and holds no study"):
        begin(make_study(), tmp_path / "out")
    with pytest.raises(UsageError, match=r"notes\.txt: is a file"):
        begin(make_study(), tmp_path / "out" / "notes.txt")
    with pytest.raises(UsageError, match=r"holds no study \(no plan.json\)"):
        read_study(tmp_path / "out")


def test_judging_a_test_fold_that_is_not_there_is_refused_before_any_step(make_study, made_up: Manifest) -> None:
    made_up.with_folds(made_up.folds.astype(str).astype(object)).take(made_up.folds != "test").write(
        Path(made_up.root) / "made_up.csv"
    )
    with pytest.raises(UsageError, match=r"judge.fold: found 'test', but made_up.csv has no such row"):
        check_study(make_study(judge=JudgeConfig(fold="test")))
    check_study(make_study())


def test_a_fixed_study_uses_the_tables_own_folds(make_study, tmp_path: Path) -> None:
    study = make_study(folds=FixedFolds())
    check_study(study)
    begin(study, tmp_path / "out")
    assert not (tmp_path / "out" / "folds").exists()
    assert {cell.config.manifest for cell in study.cells(tmp_path)} == {str(tmp_path / "made_up.csv")}
    assert not needs_duplicates(study, tmp_path)


def test_duplicates_are_looked_for_once(make_study, tmp_path: Path) -> None:
    study = make_study(folds=CrossValidationFolds(num_folds=3, min_positives=0))
    assert needs_duplicates(study, tmp_path / "out")
    begin(study, tmp_path / "out")
    assert not needs_duplicates(study, tmp_path / "out")


def test_a_class_to_judge_that_is_not_there_is_refused(make_study) -> None:
    with pytest.raises(UsageError, match=r"judge.classes: no class 'FTD'; did you mean 'FTC'\?"):
        check_study(make_study(judge=JudgeConfig(classes=("FTD",))))


def far(folder: Path, **columns: object) -> ExternalConfig:
    table = pd.DataFrame({"image_id": ["x1", "x2"], "path": ["1.png", "2.png"], "patient_id": ["e1", "e2"]})
    table.assign(**columns).to_csv(folder / "far.csv", index=False)
    return ExternalConfig(manifest=str(folder / "far.csv"))


def test_images_without_the_region_that_is_asked_for_are_refused_before_any_step(made_up: Manifest, make_study) -> None:
    whole = made_up.frame.assign(roi_x="1", roi_y="1", roi_w="9", roi_h="9")
    whole.loc[3, ["roi_x", "roi_y", "roi_w", "roi_h"]] = ""
    whole.to_csv(made_up.root / made_up.name, index=False)
    crop = {"pixels.crop": "roi"}
    with pytest.raises(MedtailError, match=r"row 5, columns roi_x, roi_y, roi_w, roi_h: empty"):
        check_study(make_study(overrides={"full": crop}))
    check_study(make_study(overrides={"full": {**crop, "pixels.missing_roi": "whole"}}))


def test_an_external_table_is_brought_onto_our_classes(made_up: Manifest, tmp_path: Path) -> None:
    external = far(tmp_path, follicular=[1, 0], other=[1, 1])
    table = read_external("far", ExternalConfig(manifest=external.manifest, rename={"follicular": "FTC"}), made_up)
    assert table.labels == made_up.labels
    assert table.targets[:, 0].tolist() == [1, 0]
    assert pd.isna(table.targets[:, 1:]).all(), "what it does not have was not assessed"


@pytest.mark.parametrize(
    ("columns", "config", "message"),
    [
        ({"other": [0, 1]}, {}, r"external 'far': far.csv has none of the classes FTC, MTC, ATC; say with `rename`"),
        ({"FTC": [0, 1]}, {"rename": {"ftc": "FTC"}}, r"external 'far', rename: far.csv has no column 'ftc'"),
        ({"FTC": [0, 1], "patient_id": ["p01", "e2"]}, {}, r"1 images or patients are the study's own, such as 'p01'"),
        ({"FTC": [0, 1]}, {"fold": "test"}, r"no row of far.csv is in fold 'test'"),
    ],
)
def test_an_unusable_external_table_is_refused(
    made_up: Manifest, tmp_path: Path, columns: dict, config: dict, message: str
) -> None:
    external = far(tmp_path, **columns)
    with pytest.raises(MedtailError, match=message):
        read_external("far", ExternalConfig(manifest=external.manifest, **config), made_up)


def test_a_plan_from_before_a_key_existed_goes_on(make_study, tmp_path: Path) -> None:
    study, root = make_study(), tmp_path / "out"
    begin(study, root)
    plan = read_json(root / "plan.json")
    for part in plan["arms"].values():
        del part["config"]["optimizer"]["freeze_epochs"], part["settings"]["optimizer"]["freeze_epochs"]
    write_json(root / "plan.json", plan)
    begin(study, root)
    plan["arms"]["full"]["config"]["optimizer"]["freeze_epochs"] = 1
    write_json(root / "plan.json", plan)
    with pytest.raises(UsageError, match=r"optimizer.freeze_epochs: found 0; its cells were trained with 1"):
        begin(study, root)
