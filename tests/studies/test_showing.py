"""How far a folder is, while others work in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medtail.cli.main import call
from medtail.errors import UsageError
from medtail.runs import write_json
from medtail.studies.cells import Cell
from medtail.studies.claims import take
from medtail.studies.protocol import begin
from medtail.studies.running import record_failure, run_cells
from medtail.studies.showing import SEARCH, is_list_of_arms, show_folder


def finish(cell: Cell) -> None:
    write_json(cell.record, {"config_digest": cell.digest})


def test_a_study_is_shown_while_its_cells_run(
    make_study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, root = make_study(), tmp_path / "out"
    begin(study, root)
    cells = study.cells(root)
    seen: list[dict[str, Any]] = []

    def train(cell: Cell) -> None:
        if len(seen) < 2:
            assert call(["study", "show", str(root), "--json"]) == 0
            seen.append(json.loads(capsys.readouterr().out))
        if cell is cells[1]:
            raise ValueError("no luck")
        finish(cell)

    # before a seed has all its folds nothing is judged, so made-up records will do
    run_cells(cells[:3], quiet=True, train=train)
    assert [shown["cells"][cells[0].name] for shown in seen] == ["running", "finished"]
    assert seen[1]["cells"][cells[1].name] == "running"
    assert set(seen[1]["running"]) == {cells[1].name}
    assert seen[0]["cells"][cells[2].name] == "waiting"
    assert call(["study", "show", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["failed"] == {cells[1].name: "ValueError: no luck"}


def test_trials_of_a_search_are_counted_by_what_became_of_them(tmp_path: Path) -> None:
    write_json(tmp_path / "plan.json", {"arms": {}})
    write_json(tmp_path / SEARCH, {"trials": 5})
    write_json(tmp_path / "trials" / "trial_0000" / "trial.json", {})
    take(tmp_path / "claims" / "trial_0001.claim")
    write_json(tmp_path / "claims" / "trial_0002.failed", {"message": "diverged\nmore"})
    (tmp_path / "cells" / "trial_0003").mkdir(parents=True)
    (tmp_path / "search.md").write_text("# so far", encoding="utf-8")
    assert not is_list_of_arms(tmp_path)
    shown = show_folder(tmp_path)
    assert list(shown.states.values()) == ["finished", "running", "failed", "begun", "waiting"]
    assert shown.failed == {"trial_0002": "diverged"}
    text = shown.text().splitlines()
    assert text[0] == "1 finished, 1 running, 1 failed, 1 begun, 1 waiting"
    assert text[1].startswith("running: trial_0001 (")
    assert text[-1] == "# so far"


def test_other_kinds_of_studies_are_told_by_what_has_begun(make_study: Any, tmp_path: Path) -> None:
    study, root = make_study(), tmp_path / "out"
    cells = study.cells(root)
    write_json(root / "plan.json", {"format": "medtail-genaug/1", "config": {}})
    finish(cells[0])
    take(cells[1].claim)
    record_failure(cells[2], "diverged", attempt="a")
    assert not is_list_of_arms(root)
    assert show_folder(root).states == {
        cells[0].name: "finished", cells[1].name: "running", cells[2].name: "failed",
    }  # fmt: skip


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    assert is_list_of_arms(tmp_path)
    with pytest.raises(UsageError, match="holds no study"):
        show_folder(tmp_path)
