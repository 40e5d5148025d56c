"""Cells run once, failures recorded, interrupts survived, and processes shared, with and without real trainings."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medtail.errors import MedtailError
from medtail.runs import read_json, write_json
from medtail.studies import running
from medtail.studies.cells import Cell, failure_of, state_of
from medtail.studies.claims import take
from medtail.studies.protocol import begin
from medtail.studies.running import run_cell, run_cells


def finish(cell: Cell) -> None:
    write_json(cell.record, {"config_digest": cell.digest, "pid": os.getpid()})


def cells_of(make_study: Callable[..., Any], root: Path, **changes: Any) -> list[Cell]:
    study = make_study(**changes)
    begin(study, root)
    return study.cells(root)


def test_a_finished_cell_is_never_run_again(make_study, tmp_path: Path) -> None:
    cells = cells_of(make_study, tmp_path / "out")
    seen: list[str] = []

    def train(cell: Cell) -> None:
        assert state_of(cell) == "running", "it is claimed while it runs"
        seen.append(cell.name)
        finish(cell)

    tally = run_cells(cells[:4], quiet=True, train=train)
    assert [cell.name for cell in tally.finished] == seen == [cell.name for cell in cells[:4]]
    run_cells(cells, quiet=True, train=train)
    assert seen == [cell.name for cell in cells]
    assert not list((tmp_path / "out" / "claims").rglob("*.claim"))


def test_a_failing_cell_is_recorded_and_the_others_go_on(make_study, tmp_path: Path) -> None:
    cells = cells_of(make_study, tmp_path / "out")
    broken = cells[1]

    def train(cell: Cell) -> None:
        if cell.name == broken.name:
            raise MedtailError("model: gives scores that are no numbers.")
        if cell.name == cells[2].name:
            raise ZeroDivisionError("oh")
        finish(cell)

    tally = run_cells(cells, quiet=True, train=train)
    assert [cell.name for cell in tally.failed] == [broken.name, cells[2].name]
    assert len(tally.finished) == len(cells) - 2
    assert failure_of(broken) == "model: gives scores that are no numbers."
    assert failure_of(cells[2]) == "ZeroDivisionError: oh"
    assert "train(cell)" in read_json(cells[2].failure)["trace"]
    # the next command tries again, and the record of the failure goes
    tally = run_cells(cells, quiet=True, train=finish)
    assert not tally.failed
    assert failure_of(broken) == ""


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_gives_the_claim_back_and_is_no_failure(make_study, tmp_path: Path, stop: type) -> None:
    cells = cells_of(make_study, tmp_path / "out")

    def train(cell: Cell) -> None:
        if cell.name == cells[2].name:
            raise stop
        finish(cell)

    with pytest.raises(KeyboardInterrupt):
        run_cells(cells, quiet=True, train=train)
    assert [state_of(cell) for cell in cells[:4]] == ["finished", "finished", "waiting", "waiting"]


def test_what_another_holds_is_left_to_it_and_named(make_study, tmp_path: Path) -> None:
    cells = cells_of(make_study, tmp_path / "out")
    take(cells[0].claim)
    tally = run_cells(cells, quiet=True, train=finish)
    assert [cell.name for cell in tally.elsewhere] == [cells[0].name]
    assert len(tally.finished) == len(cells) - 1


def test_a_cell_trained_otherwise_stops_everything_before_it_begins(make_study, tmp_path: Path) -> None:
    cells = cells_of(make_study, tmp_path / "out")
    write_json(cells[3].record, {"config_digest": "0"})
    seen: list[Cell] = []
    with pytest.raises(MedtailError, match="was trained with another config"):
        run_cells(cells, quiet=True, train=seen.append)
    assert not seen


def test_progress_goes_to_stderr(make_study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = cells_of(make_study, tmp_path / "out")[:2]
    run_cells(cells, train=finish)
    assert capsys.readouterr().err.splitlines() == [
        "0 of 2 cells; full/seed_0/fold_0", "1 of 2 cells; full/seed_0/fold_0", "2 of 2 cells; twin/seed_0/fold_0",
    ]  # fmt: skip


# --- several processes: forked, so that they know these functions -----------------------------------------------------


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that begin at once; the command itself spawns them, which the slow tests do."""
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(running.multiprocessing, "get_context", lambda _: context)


def test_processes_share_the_cells(make_study, tmp_path: Path, forked: None) -> None:
    cells = cells_of(make_study, tmp_path / "out")

    def train(cell: Cell) -> None:
        time.sleep(0.02)
        finish(cell)

    tally = run_cells(cells, workers=3, quiet=True, train=train)
    assert len(tally.finished) == len(cells)
    pids = {read_json(cell.record)["pid"] for cell in cells}
    assert os.getpid() not in pids
    assert len(pids) >= 2


def test_threads_are_shared_out_and_a_configs_own_stay(make_study, tmp_path: Path, forked: None) -> None:
    overrides = {"full": {}, "own": {"threads": 5, "seed_of_nothing": None}}
    del overrides["own"]["seed_of_nothing"]
    overrides["own"]["test_time_flip"] = True
    cells = cells_of(make_study, tmp_path / "out", overrides=overrides)

    def train(cell: Cell) -> None:
        write_json(cell.record, {"config_digest": cell.digest, "threads": cell.config.threads})

    run_cells(cells, workers=2, quiet=True, train=train)
    share = max(1, running.usable_cores() // 2)
    assert {(cell.arm, read_json(cell.record)["threads"]) for cell in cells} == {("full", share), ("own", 5)}


def test_a_killed_process_is_replaced_and_its_cell_taken_up(make_study, tmp_path: Path, forked: None) -> None:
    cells = cells_of(make_study, tmp_path / "out")
    once = tmp_path / "once"

    def train(cell: Cell) -> None:
        if cell.name == cells[1].name and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.01)
        finish(cell)

    tally = run_cells(cells, workers=2, quiet=True, train=train)
    assert once.exists()
    assert len(tally.finished) == len(cells)


def test_a_cell_that_kills_its_process_again_and_again_is_given_up(make_study, tmp_path: Path, forked: None) -> None:
    cells = cells_of(make_study, tmp_path / "out")

    def train(cell: Cell) -> None:
        if cell.name == cells[1].name:
            (tmp_path / f"died_{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        finish(cell)

    tally = run_cells(cells, workers=2, quiet=True, train=train)
    assert [cell.name for cell in tally.failed] == [cells[1].name]
    assert failure_of(cells[1]) == "its process was ended 2 times without a word; out of memory?"
    assert len(tally.finished) == len(cells) - 1
    assert len(list(tmp_path.glob("died_*"))) == 2


def test_an_interrupted_process_stops_the_command(make_study, tmp_path: Path, forked: None) -> None:
    cells = cells_of(make_study, tmp_path / "out")

    def train(cell: Cell) -> None:
        if cell.name == cells[1].name:
            raise KeyboardInterrupt
        time.sleep(0.2)
        finish(cell)

    with pytest.raises(KeyboardInterrupt):
        run_cells(cells, workers=2, quiet=True, train=train)
    assert not [cell.name for cell in cells if state_of(cell) == "running"]
    assert not list((tmp_path / "out" / "claims").rglob("*.claim")), "other machines could not know that they are dead"


def test_processes_that_cannot_begin_end_the_command(
    make_study, tmp_path: Path, forked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = cells_of(make_study, tmp_path / "out")
    monkeypatch.setattr(running, "_work", lambda *_: os._exit(3))
    with pytest.raises(MedtailError, match="its processes end with code 3 and nothing is done"):
        run_cells(cells, workers=2, quiet=True)


# --- a real training --------------------------------------------------------------------------------------------------


def test_a_cell_is_an_ordinary_run_and_its_record_comes_last(make_real, tmp_path: Path) -> None:
    study, root = make_real({"full": {}}, seeds=(3,)), tmp_path / "out"
    begin(study, root)
    (cell,) = study.cells(root)
    cell.folder.mkdir(parents=True)
    (cell.folder / ".config.tmp-1.yaml").write_text("killed while it was written")
    run_cell(cell)
    facts = read_json(cell.record)
    newest = max(cell.folder.rglob("*"), key=lambda path: path.stat().st_mtime_ns)
    assert newest in (cell.record, cell.folder)
    assert (facts["arm"], facts["seed"], facts["fold"], facts["epochs_run"]) == ("full", 3, 0, 2)
    assert facts["parameters"] > 1000
    assert facts["predictions_digest"] == cell.scores().digest
    assert set(cell.scores().folds) == {"tune"}
    assert not (cell.folder / "predictions_test.parquet").exists()
