"""A study of systems: its folder, its cells, test opened once, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from medtail.errors import MedtailError, UsageError
from medtail.runs import read_json, write_json
from medtail.studies import systems as module
from medtail.studies.cells import Cell
from medtail.studies.running import Tally
from medtail.studies.systems import SystemsRun, cells_of, fold_numbers, run_systems
from medtail.studies.systems_config import Systems, load_systems
from medtail.tables.manifest import read_manifest
from medtail.tables.predictions import read_predictions

Load = Callable[..., Systems]


@pytest.fixture
def load(systems_file: Mapping[str, Any], tmp_path: Path, write_systems_table: Callable[[Path], None]) -> Load:
    """Write the table, and return what reads the file with some keys changed."""
    write_systems_table(tmp_path)

    def read(**changes: Any) -> Systems:
        text = yaml.safe_dump({**systems_file, **changes}, sort_keys=False)
        (tmp_path / "systems.yaml").write_text(text, encoding="utf-8")
        return load_systems(tmp_path / "systems.yaml")

    return read


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, make_systems_cells: Callable[[list[str]], Any]) -> list[str]:
    """Make scores of a known skill in place of trainings; the list says which cells were asked for."""
    asked: list[str] = []
    monkeypatch.setattr(module, "run_cells", make_systems_cells(asked))
    return asked


def test_every_image_is_tested_once_by_systems_that_never_saw_its_patient(
    load: Load, trained: list[str], tmp_path: Path
) -> None:
    run = run_systems(load(), tmp_path / "out")
    assert len(trained) == 3 * (2 + 2 + 1)
    both = run.scores["both"]
    assert sorted(both.test.image_ids) == sorted(f"i{n}" for n in range(240))
    assert set(both.test.folds) == {"test"}
    assert list(both.parts) == ["good", "good, repeat 2", "other", "other, repeat 2"]
    for k in range(3):
        table = read_manifest(tmp_path / "out" / "folds" / f"fold_{k}.csv")
        there = {fold: set(table.patients[table.folds == fold]) for fold in ("train", "tune", "test")}
        assert not there["train"] & there["test"] | there["tune"] & there["test"] | there["train"] & there["tune"]
        tested = set(
            read_predictions(tmp_path / "out" / f"cells/good/seed_0/fold_{k}/predictions_test.parquet").patients
        )
        assert tested == there["test"]
    kept = read_predictions(tmp_path / "out" / "systems" / "both" / "predictions_test.parquet")
    assert np.allclose(kept.scores, both.test.scores)
    assert (tmp_path / "out" / "systems" / "fitted" / "weights_fold_2.json").exists()
    assert run.train_counts.assessed[0] == 240


def test_the_best_part_is_told_by_tune(load: Load, trained: list[str], tmp_path: Path) -> None:
    run = run_systems(load(), tmp_path / "out")
    fitted = run.scores["fitted"]
    assert fitted.best_part in ("good", "other")
    assert fitted.parts_tune_map["poor"] < fitted.parts_tune_map[fitted.best_part]
    assert fitted.tune_map > run.scores["poor"].tune_map


def test_early_cells_are_of_all_members_and_repeats_have_seeds_of_their_own(load: Load, tmp_path: Path) -> None:
    found = load(seed=7)
    cells = cells_of(found, tmp_path)
    first = [(cell.arm, cell.seed, cell.fold) for cell in cells[:4]]
    assert first == [("good", 7, 0), ("other", 7, 0), ("poor", 7, 0), ("good", 7, 1)]
    assert {cell.seed for cell in cells if cell.arm == "good"} == {7, 8}
    assert {cell.seed for cell in cells if cell.arm == "poor"} == {7}
    assert all(cell.config.seed == cell.seed for cell in cells)
    assert fold_numbers(load(folds={"kind": "outer", "num_folds": 3, "only": [1]})) == (1,)


def test_a_second_command_trains_nothing_and_finds_the_same(load: Load, trained: list[str], tmp_path: Path) -> None:
    first = run_systems(load(), tmp_path / "out")
    before = len(trained)
    again = run_systems(load(), tmp_path / "out")
    assert len(trained) == before
    for name, scores in first.scores.items():
        assert np.array_equal(scores.test.scores, again.scores[name].test.scores)


def test_the_tables_own_folds_are_taken_where_asked(load: Load, trained: list[str], tmp_path: Path) -> None:
    run = run_systems(load(folds={"kind": "fixed"}), tmp_path / "out")
    assert len(trained) == 5
    assert len(run.scores["poor"].test) == 60
    assert run.train_counts.assessed[0] == 120


def test_systems_made_after_test_was_opened_are_refused(
    load: Load, trained: list[str], tmp_path: Path, systems_file: Mapping[str, Any]
) -> None:
    run_systems(load(), tmp_path / "out")
    opened = read_json(tmp_path / "out" / "opened.json")
    assert set(opened["systems"]) == {"poor", "both", "fitted"}
    late = systems_file["systems"] | {"late": {"members": ["good", "poor"]}}
    with pytest.raises(MedtailError, match=r"test was opened on .*; late would be made with its scores in view"):
        run_systems(load(systems=late), tmp_path / "out")
    other = systems_file["systems"] | {"both": {"members": ["good", "other"], "repeats": 2, "how": "mean"}}
    with pytest.raises(MedtailError, match=r"both would be made with its scores in view"):
        run_systems(load(systems=other), tmp_path / "out")
    with pytest.raises(MedtailError, match="other folds would be made"):
        run_systems(load(folds=systems_file["folds"] | {"only": [0]}), tmp_path / "out")
    worded = systems_file["systems"] | {"poor": {"notes": "the yardstick"}}
    assert run_systems(load(systems=worded), tmp_path / "out").scores


def test_changed_members_folds_and_tables_are_refused(
    load: Load, trained: list[str], tmp_path: Path, systems_file: Mapping[str, Any]
) -> None:
    run_systems(load(), tmp_path / "out")
    members = systems_file["members"] | {"good": {"recipe": "cxrlt_yale/tiny", "optimizer.epochs": 3}}
    with pytest.raises(UsageError, match=r"member 'good', optimizer.epochs: found 3; it was trained with 20"):
        run_systems(load(members=members), tmp_path / "out")
    with pytest.raises(UsageError, match=r"folds: found .*'num_folds': 4"):
        run_systems(load(folds=systems_file["folds"] | {"num_folds": 4}), tmp_path / "out")
    table = (tmp_path / "table.csv").read_text(encoding="utf-8")
    (tmp_path / "table.csv").write_text(table.replace("p3,", "p4,"), encoding="utf-8")
    with pytest.raises(UsageError, match=r"table.csv: has changed since the trainings began"):
        run_systems(load(), tmp_path / "out")


def test_folders_that_hold_something_else_are_left_alone(load: Load, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty and holds no systems"):
        run_systems(load(), tmp_path / "full")
    (tmp_path / "full" / "plan.json").write_text(json.dumps({"format": "medtail-study/1"}))
    with pytest.raises(UsageError, match="holds another kind of study"):
        run_systems(load(), tmp_path / "full")
    with pytest.raises(UsageError, match="is a file"):
        run_systems(load(), tmp_path / "table.csv")


def test_a_table_without_the_tasks_classes_is_refused(load: Load, tmp_path: Path) -> None:
    with pytest.raises(MedtailError, match=r"table.csv: lacks .*'Pneumoperitoneum'.* of CXR-LT nih20, task 1"):
        run_systems(load(edition="nih20"), tmp_path / "out")


def test_nothing_is_opened_while_a_training_is_missing(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(cells: Sequence[Cell], **_: Any) -> Tally:
        write_json(cells[0].failure, {"message": "diverged"})
        return Tally((), (cells[0],), tuple(cells[1:]))

    monkeypatch.setattr(module, "run_cells", fail)
    run: SystemsRun = run_systems(load(), tmp_path / "out")
    assert run.scores == {}
    assert list(run.failures.values()) == ["diverged"]
    assert not (tmp_path / "out" / "opened.json").exists()
