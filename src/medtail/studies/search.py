"""A search for better settings: trials drawn, trained as ordinary runs, and judged on tune alone.

    DIR/search.plan.json     what is searched, fixed by the first command   DIR/trials.journal  Optuna's memory
    DIR/trials/trial_0007/trial.json   written last: what a trial came to   DIR/cells/trial_0007/…  its runs
    DIR/results.csv, search.md, search.html   every trial                   DIR/best.yaml       the best one, to be run

The best of many looks better than it is: the pages say of how many, and what choosing so is worth on patients left out.
Test is opened only when asked for, once, for the best and the base (`judge`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import pandas as pd

from medtail.config import config_to_dict
from medtail.errors import MedtailError, Problems, UsageError
from medtail.judging.bootstrap import number_patients
from medtail.judging.comparison import tail_of
from medtail.judging.questions import Question
from medtail.runs import digest_json, read_json, write_json
from medtail.studies.ablation import Watch, begin_study, judge_study
from medtail.studies.arms import Arm, differences
from medtail.studies.cells import Cell, failure_of
from medtail.studies.choice import CRITERIA, Choice, choose
from medtail.studies.decoding import decoding_of, protocol_groups
from medtail.studies.judged import Judged
from medtail.studies.protocol import Study
from medtail.studies.ray_cells import Cluster
from medtail.studies.running import Tally, run_cell, run_cells
from medtail.studies.scores import opened, tune_set
from medtail.studies.search_config import Search
from medtail.studies.search_store import TrialStore, optuna_package
from medtail.studies.showing import SEARCH
from medtail.studies.values import How, draw, questions_of
from medtail.training.config import TrainConfig, merge
from medtail.training.watching import Row, watched

RECORD = "trial.json"
FREE = ("trials", "title")
"""Keys of the file that a later command may change."""


@final
class PrunedError(Exception):
    """A trial is behind the others and is stopped; no failure."""


@final
@dataclass(frozen=True)
class Trial:
    """One trial, as `running` runs it: claimed, resumed, never run twice.

    Attributes:
        number: From 0.
        root: The search's folder.
        search: The search.
        config: The training it starts from.
    """

    number: int
    root: Path
    search: Search
    config: TrainConfig

    @property
    def name(self) -> str:
        """`trial_0007`."""
        return f"trial_{self.number:04d}"

    @property
    def folder(self) -> Path:
        """Of its record."""
        return self.root / "trials" / self.name

    @property
    def record(self) -> Path:
        """The file that says it is finished."""
        return self.folder / RECORD

    @property
    def claim(self) -> Path:
        """The file that says who is at work on it."""
        return self.root / "claims" / f"{self.name}.claim"

    @property
    def failure(self) -> Path:
        """The file that says why it failed."""
        return self.root / "claims" / f"{self.name}.failed"

    @property
    def digest(self) -> str:
        """Digest of the search, which draws the trial."""
        return digest_json(fixed(self.search))

    def with_threads(self, count: int) -> Trial:
        """Return it with so many CPU threads, if its config does not say."""
        threads = self.config.threads or count
        base = merge(self.search.base, {"threads": threads})
        return replace(self, search=replace(self.search, base=base), config=replace(self.config, threads=threads))


def trials_of(search: Search, root: Path) -> list[Trial]:
    """Return every trial that there is to be."""
    config = search.arm("base", {}).config
    return [Trial(number, root, search, config) for number in range(search.config.total)]


def fixed(search: Search) -> dict[str, Any]:
    """Return what one search's trials have in common and no later command may change."""
    config = {key: value for key, value in config_to_dict(search.config).items() if key not in (*FREE, "base", "train")}
    return {"config": config, "base": search.arm("base", {}).settings}


def study_of(search: Search, arms: Mapping[str, Arm], *, reference: str) -> Study:
    """Return the study whose arms are some of the trials."""
    config = search.config
    return Study(
        name=search.name, title=search.title, kind="search", arms=arms, reference=reference, seeds=config.seeds,
        folds=config.folds, judge=config.judge,
    )  # fmt: skip


def begin_search(search: Search, out: Path | str, *, watch: Watch | None = None) -> Path:
    """Check a search, and make its folder or find it again.

    Raises:
        UsageError: The folder holds something else, or what was begun there has changed.
        MedtailError: Its table is not usable.
    """
    arm = search.arm("trial_0000", {})
    root = begin_study(study_of(search, {arm.name: arm}, reference=arm.name), out, watch=watch)
    path, now = root / SEARCH, fixed(search)
    before, problems = read_json(path) if path.exists() else now, Problems(str(root))
    for change in differences(before["config"], now["config"]):
        problems.add(f"{change.key}: found {change.arm!r}; the search began with {change.base!r}. Begin a new one.")
    problems.raise_if_any(kind=UsageError)
    total = max(search.config.total, before.get("trials", 0))
    write_json(path, now | {"trials": total})
    return root


# --- one trial --------------------------------------------------------------------------------------------------------


def run_trial(trial: Trial) -> None:
    """Draw a trial or find what was drawn, train what is not trained of it, and write its record last.

    Args:
        trial: Claimed by this process.

    Raises:
        MedtailError: A training failed, or the objective is undefined; that is written down too.
    """
    store = TrialStore(trial.root, trial.search)
    values = store.ask(trial.number)
    ending = store.ending(trial.number)
    try:
        arm = trial.search.arm(trial.name, values)
        study = study_of(trial.search, {trial.name: arm}, reference=trial.name)
        cells = study.cells(trial.root)
        value, is_pruned = float("nan"), ending == "pruned"
        try:
            for number, cell in enumerate(() if is_pruned else cells):
                if not cell.record.exists():
                    watch = _Watcher(store, trial.number, cell) if number == 0 else None
                    _train(cell, watch)
        except PrunedError:
            is_pruned = True
        if not is_pruned:
            value = objective_of(trial.search, study, trial.root)
            if math.isnan(value):
                raise MedtailError(
                    f"{trial.search.config.objective.words}: is undefined; expected a class with positives and"
                    " negatives on tune."
                )
    except Exception:
        store.tell(trial.number, "failed")
        raise
    store.tell(trial.number, "pruned" if is_pruned else "complete", None if is_pruned else value)
    facts = [read_json(cell.record) for cell in cells if cell.record.exists()]
    write_json(
        trial.record,
        {
            "trial": trial.number,
            "state": "pruned" if is_pruned else "complete",
            "value": None if is_pruned else value,
            "values": values,
            "config_digest": trial.digest,
            "epochs_run": sum(int(fact["epochs_run"]) for fact in facts) or _epochs_logged(cells[0]),
            "weights": [fact["weights_digest"] for fact in facts],
        },
    )


def _train(cell: Cell, watch: _Watcher | None) -> None:
    if watch is None or not watch.is_wanted:
        run_cell(cell)
        return
    watch.catch_up()
    with watched(watch):
        run_cell(cell)


@final
class _Watcher:
    """Tells the search of every epoch of a trial's first training, and stops the trial where it is behind."""

    def __init__(self, store: TrialStore, number: int, cell: Cell) -> None:
        self.store, self.number, self.cell = store, number, cell

    @property
    def is_wanted(self) -> bool:
        """Whether trials are stopped at all."""
        return self.store.search.config.pruner is not None

    def __call__(self, row: Row) -> None:
        """Tell of an epoch."""
        value, epoch = row["tune_map"], row["epoch"]
        if value is None or epoch is None or math.isnan(value):
            return
        if self.store.report(self.number, epoch=int(epoch), value=float(value)):
            raise PrunedError(f"after epoch {epoch}")

    def catch_up(self) -> None:
        """Tell of the epochs that were written before the process was killed."""
        for row in _log_of(self.cell):
            self(row)


def _log_of(cell: Cell) -> list[dict[str, Any]]:
    path = cell.folder / "log.csv"
    return pd.read_csv(path).to_dict("records") if path.exists() else []  # type: ignore[return-value] # keys are text


def _epochs_logged(cell: Cell) -> int:
    return len(_log_of(cell))


def objective_of(search: Search, study: Study, root: Path) -> float:
    """Return the value of a trial whose cells are finished: the mean over its seeds, on tune.

    Args:
        search: The search.
        study: With the trial as its only arm.
        root: The search's folder.

    Raises:
        MedtailError: The objective's group or class does not exist, or scores are damaged.
    """
    scored = tune_set(study, root, {study.reference: study.seeds})
    truth, config, wanted = scored.truth, study.judge, search.config.objective
    patients, _ = number_patients(truth.patients)
    groups = protocol_groups(config, truth) or tail_of(scored.tables, truth, config.comparison(resamples=1))
    how = How(config, decoding_of(config, scored.manifest, truth.labels), groups, 1)
    asked = questions_of(truth, [wanted.metric], [wanted.level], patients, groups)
    found = [question for question in asked if wanted.of in (None, _place(question))]
    if not found:
        known = ", ".join(dict.fromkeys(_place(question) for question in asked))
        raise MedtailError(f"objective.of {wanted.of!r}: there is none with images; known: {known}.")
    drawn = draw(scored.tables, found[:1], patients, 0, how)
    return float(drawn.answer(found[0]).values[0])


def _place(question: Question) -> str:
    return question.class_name or question.tail_group


# --- all of them ------------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class SearchOutcome:
    """What a search came to.

    Attributes:
        root: Its folder.
        search: The search.
        rows: Every trial, in order: number, state, value, values, epochs_run, message.
        best: Number of the best trial; None where none is complete.
        choice: What choosing the best is worth, where that can be told.
        importances: Key → share in how the better trials differ.
        elsewhere: Trials that another command holds.
        judged: What was judged on test; empty if that was not asked for.
        summary: The short version for a terminal.
    """

    root: Path
    search: Search
    rows: tuple[Mapping[str, Any], ...]
    best: int | None
    choice: Choice | None
    importances: Mapping[str, float]
    elsewhere: tuple[str, ...]
    judged: tuple[Judged, ...] = ()
    summary: str = ""

    def arm(self, number: int) -> Arm:
        """Return a trial as an arm."""
        return self.search.arm(f"trial_{number:04d}", self.rows[number]["values"])

    def count(self, state: str) -> int:
        """Return how many trials are complete, pruned, failed or unfinished."""
        return sum(row["state"] == state for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "folder": str(self.root),
            "objective": self.search.config.objective.words,
            "trials": len(self.rows),
            **{state: self.count(state) for state in ("complete", "pruned", "failed", "unfinished")},
            "best": None if self.best is None else dict(self.rows[self.best]),
            "choice": None if self.choice is None else self.choice.to_json(),
            "importances": dict(self.importances),
            "rows": [dict(row) for row in self.rows],
        }


def run_search(
    search: Search,
    out: Path | str,
    *,
    workers: int = 1,
    cluster: Cluster | None = None,
    judge: bool = False,
    quiet: bool = False,
    watch: Watch | None = None,
) -> SearchOutcome:
    """Run the trials that are not finished, write what they came to, and open test if that is asked for.

    Args:
        search: What is to be done.
        out: A new folder, or the one in which it was begun.
        workers: Processes to spread the trials over; with one, the same seed draws the same trials.
        cluster: A Ray cluster to spread them over instead; None stays on this machine.
        judge: At the end, judge the best trial and the first on test, which is opened for good.
        quiet: Show no progress.
        watch: Given what is being done, returns what is told (done, total), or None.

    Returns:
        What it came to.

    Raises:
        UsageError: It is not the search begun in the folder.
        MedtailError: Its table is not usable, or test has been opened and more trials are asked for.
        KeyboardInterrupt: It was interrupted; the folder is consistent.
    """
    from medtail.studies.search_page import search_text, write_search

    optuna_package()  # before anything is made
    root = begin_search(search, out, watch=watch)
    if judge:
        _check_test(search)
    trials = trials_of(search, root)
    if "test" in opened(root):
        late = [one.name for one in trials if not one.record.exists() and not one.failure.exists()]
        if late:
            raise MedtailError(f"{root}: test was opened; {len(late)} more trials would know it. Begin a new search.")
        tally = Tally(tuple(one for one in trials if one.record.exists()), (), ())
    else:
        tally = run_cells(trials, workers=workers, cluster=cluster, quiet=quiet, train=run_trial)
    found = gather(search, root, elsewhere=tuple(one.name for one in tally.elsewhere))
    if judge and found.best is not None:
        if found.count("unfinished"):
            raise MedtailError(f"--judge: {found.count('unfinished')} trials are not finished; test stays shut.")
        found = replace(found, judged=_open_test(found, watch=watch))
    found = replace(found, summary=search_text(found))
    write_search(found)
    return found


def gather(search: Search, root: Path, *, elsewhere: Sequence[str] = ()) -> SearchOutcome:
    """Return what the trials have come to so far. Trains nothing, opens nothing.

    Args:
        search: The search.
        root: Its folder.
        elsewhere: Trials another command holds.
    """
    store = TrialStore(root, search)
    rows = tuple(_row(trial, store) for trial in trials_of(search, root))
    complete = [row for row in rows if row["state"] == "complete"]
    sign = 1.0 if search.config.objective.is_to_be_small else -1.0
    best = min(complete, key=lambda row: (sign * row["value"], row["trial"]))["trial"] if complete else None
    outcome = SearchOutcome(root, search, rows, best, None, store.importances(), tuple(elsewhere))
    return replace(outcome, choice=_choice(outcome))


def _row(trial: Trial, store: TrialStore) -> dict[str, Any]:
    row: dict[str, Any] = {
        "trial": trial.number, "state": "unfinished", "value": None, "values": store.values(trial.number),
        "epochs_run": None, "message": "",
    }  # fmt: skip
    if trial.record.exists():
        record = read_json(trial.record)
        return row | {key: record[key] for key in ("state", "value", "values", "epochs_run")}
    if trial.failure.exists():
        return row | {"state": "failed", "message": failure_of(trial).splitlines()[0]}
    return row


def _choice(found: SearchOutcome) -> Choice | None:
    """Return what choosing is worth: chosen again on resampled patients, looked at on those left out."""
    wanted, config = found.search.config.objective, found.search.config
    complete = [row["trial"] for row in found.rows if row["state"] == "complete"]
    if wanted.level != "macro" or wanted.metric not in CRITERIA or not config.include_base or 0 not in complete[:1]:
        return None
    arms = {arm.name: arm for arm in map(found.arm, complete)}
    study = study_of(found.search, arms, reference="trial_0000")
    tune = tune_set(study, found.root, dict.fromkeys(arms, config.seeds))
    decider = decoding_of(config.judge, tune.manifest, tune.truth.labels).call
    return choose(
        tune, list(arms), reference="trial_0000", criterion=wanted.metric, seed=config.judge.seed, decider=decider
    )


def _check_test(search: Search) -> None:
    if not (study_of(search, {"base": search.arm("base", {})}, reference="base").manifest.folds == "test").any():
        raise UsageError("--judge: the table has no row in fold test; hold one out with `medtail data split`.")


def _open_test(found: SearchOutcome, *, watch: Watch | None) -> tuple[Judged, ...]:
    """Judge the best trial and the base on test, by the protocol of every study."""
    assert found.best is not None
    numbers = dict.fromkeys([0, found.best] if found.rows[0]["state"] == "complete" else [found.best])
    arms = {arm.name: arm for arm in map(found.arm, numbers)}
    config = found.search.config
    study = replace(
        study_of(found.search, arms, reference=next(iter(arms))), judge=replace(config.judge, fold="test"),
        title=f"{found.search.title}: the best of {len(found.rows)} trials",
    )  # fmt: skip
    root = begin_study(study, found.root, watch=watch)
    cells = study.cells(root)
    return judge_study(study, root, Tally(tuple(cells), (), ()), watch=watch).judged
