"""A search: the same trials however often it was cut off, none lost, and the best of many told as such."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from medtail.config import dump_yaml, read_yaml
from medtail.errors import MedtailError, UsageError
from medtail.runs import read_json, write_text
from medtail.studies import search as module
from medtail.studies.cells import Cell, state_of
from medtail.studies.search import gather, run_search, run_trial, trials_of
from medtail.studies.search_config import Search, load_search
from medtail.studies.search_store import JOURNAL
from medtail.training.config import load_train_config
from medtail.training.watching import tell_epoch

SPACE = {"optimizer.learning_rate": {"kind": "float", "low": 1e-4, "high": 1e-1, "log": True}}
Run = Callable[..., Search]


@pytest.fixture
def make(made_up: Any, tmp_path: Path) -> Run:
    """Write a search's file and read it."""

    def make_search(*, trials: int | None = None, **changes: Any) -> Search:
        train = {"manifest": "made_up.csv", "optimizer": {"epochs": 3, "learning_rate": 0.001, "keep": "last"}}
        values = {"train": train, "space": SPACE, "trials": 6, "sampler": {"kind": "tpe", "startup": 3}} | changes
        (tmp_path / "search.yaml").write_text(dump_yaml(values), encoding="utf-8")
        return load_search(tmp_path / "search.yaml", trials=trials)

    return make_search


@pytest.fixture
def trained(finish: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trainings whose scores are the better the nearer the rate is to 0.02; returns the cells in their order."""
    names: list[str] = []

    def train(cell: Cell) -> None:
        names.append(cell.name)
        rate = cell.config.optimizer.learning_rate
        for epoch in (1, 2, 3):
            log = "epoch,tune_map\n" + "".join(f"{e},{min(rate, 0.1) * e}\n" for e in range(1, epoch + 1))
            write_text(cell.folder / "log.csv", log)
            tell_epoch({"epoch": epoch, "tune_map": min(rate, 0.1) * epoch})
        if rate > 0.07:
            raise MedtailError("the training diverged.")
        for what in ("tune", "test"):
            finish(cell, what=what, skill={cell.arm: 2.0 - 80 * abs(rate - 0.02)})
        record = read_json(cell.record) | {"weights_digest": "w"}
        cell.record.write_text(json.dumps(record), encoding="utf-8")

    monkeypatch.setattr(module, "run_cell", train)
    return names


def bytes_of(root: Path) -> dict[str, bytes]:
    names = ("results.csv", "search.json", "search.md", "best.yaml", "search.html")
    return {name: (root / name).read_bytes() for name in names}


def test_the_best_is_written_as_a_training_that_can_be_run(make: Run, trained: list[str], tmp_path: Path) -> None:
    found = run_search(make(trials=8), tmp_path / "out", quiet=True)
    rows = pd.read_csv(tmp_path / "out" / "results.csv")
    assert list(rows["trial"]) == list(range(8))
    assert rows["optimizer.learning_rate"][0] == 0.001, "the training as it stood is the first trial"
    complete = rows[rows["state"] == "complete"]
    assert found.best == complete["trial"][complete["value"].idxmax()]
    best = load_train_config(tmp_path / "out" / "best.yaml")
    assert best.optimizer.learning_rate == rows["optimizer.learning_rate"][found.best]
    assert best.manifest == str(tmp_path / "made_up.csv")
    text = (tmp_path / "out" / "best.yaml").read_text()
    assert f"trial {found.best} of 8" in text
    assert "the best of many looks better than it is" in text
    said = (tmp_path / "out" / "search.md").read_text()
    assert "It is the best of 8, chosen on those very rows: the value flatters." in said
    assert "choosing so on resampled patients gains" in said
    assert found.choice is not None
    assert found.choice.tried == len(complete)


def test_a_trial_that_fails_is_recorded_and_tried_again_by_the_next_command(
    make: Run, trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = {"optimizer.learning_rate": {"kind": "choice", "values": [0.01, 0.09, 0.02]}}
    search = make(space=space, sampler={"kind": "grid"}, trials=None)
    found = run_search(search, tmp_path / "out", quiet=True)
    assert [row["state"] for row in found.rows] == ["complete", "complete", "failed", "complete"]
    rows = pd.read_csv(tmp_path / "out" / "results.csv")
    assert rows["message"][2] == "the training diverged."
    assert rows["optimizer.learning_rate"][2] == 0.09, "a failed trial keeps its settings"
    assert "1 trials failed" in (tmp_path / "out" / "search.md").read_text()
    before = list(trained)
    run_search(search, tmp_path / "out", quiet=True)
    assert trained == [*before, "trial_0002/seed_0/fold_0"]


def test_an_objective_that_is_undefined_is_a_failed_trial(make: Run, trained: list[str], tmp_path: Path) -> None:
    search = make(objective={"metric": "ap", "level": "class", "of": "ATC"}, judge={"classes": ["FTC", "MTC"]})
    found = run_search(search, tmp_path / "out", quiet=True)
    assert found.best is None
    assert "objective.of 'ATC': there is none with images; known: FTC, MTC" in found.rows[0]["message"]
    assert not (tmp_path / "out" / "best.yaml").exists()


@pytest.mark.slow
def test_a_search_that_was_killed_anywhere_draws_and_finds_the_same(
    make: Run, trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = make(trials=9, pruner={"kind": "median", "startup": 2, "warmup": 1})
    run_search(search, tmp_path / "whole", quiet=True)
    once = list(trained)
    assert {row["state"] for row in gather(search, tmp_path / "whole").rows} >= {"complete", "pruned"}

    class Killed(BaseException):
        """As SIGKILL: nothing of ours catches it."""

    def killing(owner: Any, name: str, *, turn: int = 1) -> None:
        """Let a function be the last that is begun, or the last that is done, and then put it back."""
        whole = getattr(owner, name)

        for is_done in (False, True):
            countdown = [2]

            def dies(*given: Any, _is_done: bool = is_done, _left: list[int] = countdown, **more: Any) -> Any:
                _left[0] -= 1
                if _left[0]:
                    return whole(*given, **more)
                if _is_done:
                    with contextlib.suppress(Exception):  # a trial may be stopped or fail in it
                        whole(*given, **more)
                raise Killed

            monkeypatch.setattr(owner, name, dies)
            with pytest.raises(Killed):
                run_search(search, tmp_path / "cut", quiet=True)
            monkeypatch.setattr(owner, name, whole)
            # a kill in the middle of a line leaves its beginning
            with (tmp_path / "cut" / JOURNAL).open("ab") as file:
                file.write(b'{"op_code":8,"worker')

    trained.clear()
    killing(module.TrialStore, "ask", turn=2)
    killing(module, "run_cell")
    killing(module.TrialStore, "tell")
    run_search(search, tmp_path / "cut", quiet=True)
    assert bytes_of(tmp_path / "cut") == bytes_of(tmp_path / "whole")
    assert set(trained) == set(once)


@pytest.mark.slow
def test_more_trials_may_be_added_and_are_those_a_longer_search_would_have_drawn(
    make: Run, trained: list[str], tmp_path: Path
) -> None:
    run_search(make(trials=3), tmp_path / "out", quiet=True)
    run_search(make(trials=6), tmp_path / "out", quiet=True)
    run_search(make(trials=6), tmp_path / "whole", quiet=True)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")


def test_another_space_is_refused_in_the_folder_of_a_search(make: Run, trained: list[str], tmp_path: Path) -> None:
    run_search(make(trials=1), tmp_path / "out", quiet=True)
    space = {"optimizer.learning_rate": {"kind": "float", "low": 1e-4, "high": 1e-2}}
    with pytest.raises(UsageError, match=r"learning_rate.*the search began with"):
        run_search(make(trials=2, space=space), tmp_path / "out", quiet=True)


@pytest.mark.slow
def test_a_trial_behind_the_others_is_stopped_and_its_epochs_are_told(
    make: Run, trained: list[str], tmp_path: Path
) -> None:
    rates = [0.02, 0.03, 0.0001, 0.05]
    space = {"optimizer.learning_rate": {"kind": "choice", "values": rates}}
    pruner = {"kind": "median", "startup": 2, "warmup": 0}
    search = make(space=space, sampler={"kind": "grid"}, pruner=pruner, include_base=False, trials=None)
    found = run_search(search, tmp_path / "out", quiet=True)
    assert [row["state"] for row in found.rows] == ["complete", "complete", "pruned", "complete"]
    assert found.rows[2]["epochs_run"] == 1
    assert found.rows[2]["value"] is None
    assert "1 trials were stopped early" in (tmp_path / "out" / "search.md").read_text()


@pytest.mark.slow
def test_test_is_opened_once_by_judge_and_then_no_trial_may_come(make: Run, trained: list[str], tmp_path: Path) -> None:
    judge = {"bootstrap": 50}
    run_search(make(trials=4, judge=judge), tmp_path / "out", quiet=True)
    assert not (tmp_path / "out" / "opened.json").exists()
    found = run_search(make(trials=4, judge=judge), tmp_path / "out", judge=True, quiet=True)
    assert [one.name for one in found.judged] == ["test", "tune"]
    opened = read_json(tmp_path / "out" / "opened.json")
    assert opened["test"]["arms"] == ["trial_0000", f"trial_{found.best:04d}"]
    assert (tmp_path / "out" / "study.html").exists()
    before = list(trained)
    with pytest.raises(MedtailError, match="test was opened; 2 more trials would know it"):
        run_search(make(trials=6, judge=judge), tmp_path / "out", quiet=True)
    run_search(make(trials=4, judge=judge), tmp_path / "out", quiet=True)
    assert trained == before


def test_the_state_of_trials_is_known_while_they_run(make: Run, trained: list[str], tmp_path: Path) -> None:
    search = make(trials=2)
    root = tmp_path / "out"
    run_search(make(trials=1), root, quiet=True)
    assert [state_of(one) for one in trials_of(search, root)] == ["finished", "waiting"]
    found = gather(search, root)
    assert [row["state"] for row in found.rows] == ["complete", "unfinished"]


def test_threads_reach_the_trainings_and_are_no_other_trial(make: Run, tmp_path: Path) -> None:
    search = make()
    trial = trials_of(search, tmp_path)[0]
    shared = trial.with_threads(3)
    assert shared.search.arm("trial", {}).config.threads == 3
    assert shared.digest == trial.digest


@pytest.mark.slow
def test_real_trainings_are_searched_and_the_best_runs(make_real: Any, tmp_path: Path) -> None:
    study = make_real({"full": {}})
    base = read_yaml_of(study)
    values = {"train": base, "space": SPACE, "trials": 3, "judge": {"bootstrap": 50}}
    values["pruner"] = {"kind": "median", "startup": 1, "warmup": 0}
    (tmp_path / "search.yaml").write_text(dump_yaml(values), encoding="utf-8")
    found = run_search(load_search(tmp_path / "search.yaml"), tmp_path / "out", judge=True, quiet=True)
    assert found.best is not None
    assert found.judged[0].name == "test"
    assert read_yaml(tmp_path / "out" / "best.yaml")["seed"] == 0
    trial = trials_of(found.search, found.root)[0]
    assert trial.record.exists()
    run_trial(trial)  # nothing is trained again
    assert bytes_of(tmp_path / "out")


def read_yaml_of(study: Any) -> dict[str, Any]:
    from medtail.config import config_to_dict

    return {k: v for k, v in config_to_dict(study.arms["full"].config).items() if k != "recipe"}
