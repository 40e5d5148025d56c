"""Cells run one after another or spread over processes, resumed where they were cut off, never run twice.

Each process goes through the cells and takes whichever nobody holds (`claims`). A cell that fails is recorded and the
others go on; a process that is killed leaves a run folder from which the next one goes on, bit for bit on a CPU.
Knows cells only, not what they are for.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import socket
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from medtail.errors import MedtailError
from medtail.runs import read_json, write_json
from medtail.studies.cells import Cell, Job, is_finished, state_of
from medtail.studies.claims import read_claim, release, take

if TYPE_CHECKING:
    from medtail.models.checkpoint import ModelCard
    from medtail.studies.ray_cells import Cluster

POLL_S = 0.3
MOST_DEATHS = 2
"""A cell whose process has ended so often without a word is recorded as failed: it would take the next one with it."""


@final
@dataclass(frozen=True)
class Tally:
    """How far the cells are.

    Attributes:
        finished: Cells that have been trained.
        failed: Cells that could not be, in this command.
        elsewhere: Cells that somebody else holds.
    """

    finished: tuple[Job, ...]
    failed: tuple[Job, ...]
    elsewhere: tuple[Job, ...]


Tick = Callable[[int, int, str], None]
"""Called with (cells done, cells, what is going on)."""


def run_cells(
    cells: Sequence[Job],
    *,
    workers: int = 1,
    cluster: Cluster | None = None,
    quiet: bool = False,
    train: Callable[[Any], None] | None = None,
) -> Tally:
    """Run every cell that is not finished; several commands on one folder share them.

    Args:
        cells: What is to be trained, in the order of preference.
        workers: Processes; 1 trains in this one.
        cluster: A Ray cluster to spread them over instead; None trains on this machine.
        quiet: Show no progress.
        train: What is done for a cell; `run_cell` if None.

    Returns:
        What came of them.

    Raises:
        MedtailError: A finished cell was trained by another config, or the folder cannot be written.
        KeyboardInterrupt: It was interrupted; the folder is consistent.
    """
    for cell in cells:
        is_finished(cell)  # refuse what was trained otherwise before anything is done
    attempt = uuid.uuid4().hex
    with _bar(quiet=quiet) as tick:
        if cluster is not None:
            from medtail.studies.ray_cells import run_on_ray

            run_on_ray(cells, attempt=attempt, cluster=cluster, tick=tick, train=train or run_cell)
        elif workers == 1:
            sweep(cells, attempt=attempt, tick=tick, train=train)
        else:
            _run_processes(cells, attempt=attempt, workers=workers, tick=tick, train=train)
    finished = tuple(cell for cell in cells if is_finished(cell))
    failed = tuple(cell for cell in cells if not cell.record.exists() and failed_now(cell, attempt))
    rest = tuple(cell for cell in cells if cell not in finished and cell not in failed)
    return Tally(finished, failed, rest)


def sweep(
    cells: Sequence[Job],
    *,
    attempt: str,
    tick: Tick | None = None,
    train: Callable[[Any], None] | None = None,
    is_wanted: Callable[[], bool] | None = None,
) -> None:
    """Go through the cells until none is left that could be taken.

    Args:
        cells: What is to be trained.
        attempt: Of the command; what failed in it is not tried again.
        tick: Told how far it is.
        train: What is done for a cell; `run_cell` if None.
        is_wanted: Asked before each cell whether to go on; always if None.
    """
    has_worked = True
    while has_worked:
        has_worked = False
        for cell in cells:
            if cell.record.exists() or failed_now(cell, attempt):
                continue
            if is_wanted is not None and not is_wanted():
                return
            claim = take(cell.claim, attempt=attempt)
            if claim is None:
                continue
            try:
                if cell.record.exists():
                    continue
                if claim.deaths >= MOST_DEATHS:
                    record_failure(cell, death_words(claim.deaths), attempt=attempt)
                    continue
                if tick is not None:
                    tick(_done(cells, attempt), len(cells), cell.name)
                has_worked = True
                _attempt(cell, attempt, train or run_cell)
            finally:
                release(cell.claim, claim)
            if tick is not None:
                tick(_done(cells, attempt), len(cells), cell.name)


def _attempt(cell: Job, attempt: str, train: Callable[[Any], None]) -> None:
    with contextlib.suppress(FileNotFoundError):
        cell.failure.unlink()
    try:
        train(cell)
    except SystemExit as stop:  # what Lightning makes of an interrupt
        raise KeyboardInterrupt from stop
    except Exception as error:
        message = str(error) if isinstance(error, MedtailError) else f"{type(error).__name__}: {error}"
        record_failure(cell, message, attempt=attempt, trace=traceback.format_exc())


def death_words(deaths: int) -> str:
    """Say why a cell is given up whose process has ended so often.

    Example:
        >>> death_words(2)
        'its process was ended 2 times without a word; out of memory?'
    """
    return f"its process was ended {deaths} times without a word; out of memory?"


def record_failure(cell: Job, message: str, *, attempt: str, trace: str = "") -> None:
    """Write down why a cell failed."""
    facts = {
        "cell": cell.name,
        "message": message or "no message",
        "attempt": attempt,
        "trace": trace,
        "host": socket.gethostname(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    write_json(cell.failure, facts)


def run_cell(cell: Cell) -> None:
    """Train a cell, from where it was cut off if it was, and write its record last.

    Args:
        cell: Claimed by this process.

    Raises:
        MedtailError: As `training.ensembles.train`.
    """
    from medtail.tables.predictions import read_predictions
    from medtail.training.ensembles import train

    began = (cell.folder / "config.yaml").exists()
    if not began and cell.folder.exists():  # killed before its first file was whole
        shutil.rmtree(cell.folder)
    outcome = train(cell.config, cell.folder, resume=began, quiet=True)
    networks, card = _networks(cell.folder / "model")
    run = read_json(cell.folder / "run.json")
    tune = read_predictions(cell.predictions())
    write_json(
        cell.record,
        {
            "cell": cell.name,
            "arm": cell.arm,
            "seed": cell.seed,
            "fold": cell.fold,
            "config_digest": cell.digest,
            "manifest_digest": run["manifest_digest"],
            "weights_digest": card.digests["weights"],
            "predictions_digest": tune.digest,
            "train_images": run["train_images"],
            "tune_images": run["tune_images"],
            "tune_map": outcome.to_json()["tune_map"],
            "best_epoch": outcome.best_epoch,
            "epochs_run": outcome.epochs_run,
            "batch_dependent": any(getattr(network, "batch_dependent", False) for network in networks),
            "parameters": sum(p.numel() for network in networks for p in network.parameters()),
            "seconds": round(outcome.seconds, 3),
            "threads": run["threads"],
            "device": run["device"],
            "host": socket.gethostname(),
        },
    )


def _networks(folder: Path) -> tuple[Sequence[Any], ModelCard]:
    """Return the networks of a model folder, whether it answers for images or for studies, and its card."""
    from medtail.models.ensembles import load_members
    from medtail.models.study_model import is_study_model, load_study_model

    if is_study_model(folder):
        model, card = load_study_model(folder)
        return (model,), card
    return load_members(folder)


def failed_now(cell: Job, attempt: str) -> bool:
    """Return whether a cell has failed in this very command."""
    return cell.failure.exists() and read_json(cell.failure).get("attempt") == attempt


def _done(cells: Sequence[Job], attempt: str) -> int:
    return sum(cell.record.exists() or failed_now(cell, attempt) for cell in cells)


# --- several processes ------------------------------------------------------------------------------------------------


def _run_processes(
    cells: Sequence[Job],
    *,
    attempt: str,
    workers: int,
    tick: Tick | None,
    train: Callable[[Any], None] | None,
) -> None:
    """Run the cells in processes of their own; one that dies is replaced, and its cell taken up again."""
    threads = max(1, usable_cores() // workers)
    ready = [cell.with_threads(threads) for cell in cells]
    context = multiprocessing.get_context("spawn")
    deaths, done = 0, -1
    crew: list[Any] = []
    try:
        while True:
            ended = [process for process in crew if not process.is_alive()]
            crew = [process for process in crew if process not in ended]
            if (now := _done(cells, attempt)) != done:
                deaths, done = 0, now
            deaths = _mourn(ended, deaths, workers=workers)
            states = {c.name: state_of(c) for c in ready if not failed_now(c, attempt)}
            free = [name for name, state in states.items() if state not in ("finished", "running")]
            if not crew and not free:
                return
            for _ in range(min(workers - len(crew), len(free))):
                with _threads_of_libraries(threads):
                    process = context.Process(target=_work, args=(ready, attempt, train), name="medtail study")
                    process.start()
                crew.append(process)
            if tick is not None:
                busy = sum(state == "running" for state in states.values())
                tick(done, len(cells), f"{busy} running")
            time.sleep(POLL_S)
    finally:
        _dismiss(crew)
        for cell in ready:
            claim = read_claim(cell.claim)
            if claim is not None and claim.is_dead():  # other machines could not know
                release(cell.claim, claim)


def _mourn(ended: Sequence[Any], deaths: int, *, workers: int) -> int:
    """Count the processes that died since a cell was last done; each was at a cell, whose next holder counts too.

    Raises:
        KeyboardInterrupt: One was interrupted.
        MedtailError: They die again and again without anything being done.
    """
    for process in ended:
        code = process.exitcode
        if code == 130:
            raise KeyboardInterrupt
        deaths += code != 0
        if deaths > MOST_DEATHS * workers + MOST_DEATHS:
            how = f"by signal {-code}" if code < 0 else f"with code {code}"
            raise MedtailError(f"study: its processes end {how} and nothing is done; `--workers 1` shows why.")
    return deaths


def _work(cells: Sequence[Job], attempt: str, train: Callable[[Any], None] | None) -> None:
    """Be one of the processes, for as long as the command that started it is there."""
    parent = multiprocessing.parent_process()
    try:
        sweep(cells, attempt=attempt, train=train, is_wanted=None if parent is None else parent.is_alive)
    except KeyboardInterrupt:
        sys.exit(130)


def _dismiss(crew: Sequence[Any]) -> None:
    """End what is left of the processes."""
    for process in crew:
        if process.is_alive():
            process.terminate()
    for process in crew:
        process.join(5.0)
        if process.is_alive():
            process.kill()
            process.join()


@contextlib.contextmanager
def _threads_of_libraries(count: int) -> Iterator[None]:
    """Give a process that is started here its share of the cores, also where libraries ask for it early."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(count)
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def usable_cores() -> int:
    """Return the processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _bar(*, quiet: bool) -> Iterator[Tick | None]:
    """Show a bar over all cells with the time left on a terminal, a line a change where stderr is a file."""
    if quiet:
        yield None
        return
    if not sys.stderr.isatty():
        told: set[int] = set()

        def say(done: int, total: int, text: str) -> None:
            if done not in told:
                told.add(done)
                sys.stderr.write(f"{done} of {total} cells; {text}\n")
                sys.stderr.flush()

        yield say
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("cells"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
    )  # fmt: skip
    # cells take minutes: the speed of the last half hour is a speed of few
    with Progress(*columns, console=Console(stderr=True), transient=True, speed_estimate_period=24 * 3600) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total, text: progress.update(task, completed=done, total=total, description=text)
