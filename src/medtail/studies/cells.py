"""Cells: one training of an arm, with one seed, on one fold. What is done, what failed, what is waiting.

    DIR/cells/ARM/seed_S/fold_K/            an ordinary run folder
    DIR/cells/ARM/seed_S/fold_K/cell.json   written last: a cell that has it is finished and never run again
    DIR/claims/ARM/seed_S/fold_K.claim      who is at work on it (see `claims`)
    DIR/claims/ARM/seed_S/fold_K.failed     why it failed, until it is tried again

Knows nothing of what a study asks; whoever wants trainings run in parallel and resumed makes cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, Self, final

from medtail.config import read_yaml
from medtail.errors import MedtailError, UsageError
from medtail.runs import read_json
from medtail.studies.claims import read_claim
from medtail.tables.predictions import Predictions, read_predictions
from medtail.training.config import TrainConfig, train_config
from medtail.training.fit import config_digest_of, written_digest_of

State = Literal["finished", "running", "failed", "begun", "waiting"]
STATES: tuple[State, ...] = ("finished", "running", "failed", "begun", "waiting")


class Job(Protocol):
    """What is run once, by whoever claims it: a cell, or something made of several (a search's trial)."""

    @property
    def name(self) -> str:
        """For people and folders."""

    @property
    def root(self) -> Path:
        """The study's folder."""

    @property
    def folder(self) -> Path:
        """Where its own files are."""

    @property
    def record(self) -> Path:
        """The file that says it is finished."""

    @property
    def claim(self) -> Path:
        """The file that says who is at work on it."""

    @property
    def failure(self) -> Path:
        """The file that says why it failed."""

    @property
    def config(self) -> TrainConfig:
        """What it trains, or what its trainings start from."""

    @property
    def digest(self) -> str:
        """Digest of everything that can change its result."""

    def with_threads(self, count: int) -> Self:
        """Return it with so many CPU threads, if its config does not say."""


@final
@dataclass(frozen=True)
class Cell:
    """One training of a study.

    Attributes:
        arm: Its arm.
        seed: Its training seed.
        fold: Number of its fold, from 0.
        config: Whole: with seed, and the manifest of its fold.
        root: The study's folder.
    """

    arm: str
    seed: int
    fold: int
    config: TrainConfig
    root: Path

    @property
    def name(self) -> str:
        """`ARM/seed_S/fold_K`."""
        return f"{self.arm}/seed_{self.seed}/fold_{self.fold}"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.root / "cells" / self.name

    @property
    def record(self) -> Path:
        """The file that says it is finished."""
        return self.folder / "cell.json"

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
        """Digest of everything in its config that can change a result."""
        return config_digest_of(self.config)

    def with_threads(self, count: int) -> Cell:
        """Return it with so many CPU threads, if its config does not say."""
        return replace(self, config=replace(self.config, threads=self.config.threads or count))

    def predictions(self, what: str = "tune") -> Path:
        """Return the file of its scores on tune, on test, or on an external table (`external_NAME`)."""
        return self.folder / f"predictions_{what}.parquet"

    def scores(self, what: str = "tune") -> Predictions:
        """Read its scores.

        Raises:
            MedtailError: They are missing or damaged.
        """
        return read_predictions(self.predictions(what))


def resolved_config(values: Mapping[str, Any], *, where: str, folder: Path) -> TrainConfig:
    """Read a config that was written whole; keys that came later stand at their defaults.

    Args:
        values: What was written.
        where: The file, for messages.
        folder: Where its relative paths start.

    Raises:
        UsageError: It has keys or values of another version.
    """
    # the recipe is a record, already merged: read back as a recipe it would be laid under the keys once more
    plain = train_config({k: v for k, v in values.items() if k != "recipe"}, where=where, folder=folder)
    return replace(plain, recipe=values.get("recipe"))


def is_finished(cell: Job) -> bool:
    """Return whether a cell has been trained, by this very config.

    A config that has got further keys since, all at their defaults, is the same: the one in the cell's folder is then
    read again.

    Raises:
        MedtailError: It was trained by another config, or its record is damaged.
    """
    if not cell.record.exists():
        return False
    known = read_json(cell.record).get("config_digest")
    if known != cell.digest and not _is_same_read_again(cell, str(known)):
        raise MedtailError(
            f"{cell.record}: was trained with another config (digest {str(known)[:12]}, now {cell.digest[:12]})."
            " Give the arm another name, or begin the study in a new folder."
        )
    return True


def _is_same_read_again(cell: Job, known: str) -> bool:
    path = cell.folder / "config.yaml"
    if not path.exists():
        return False
    values = read_yaml(path)
    if written_digest_of(values) != known:  # it is not what the cell was trained with
        return False
    try:
        config = resolved_config(values, where=str(path), folder=cell.folder)
    except UsageError:
        return False
    return config_digest_of(config) == cell.digest


def state_of(cell: Job) -> State:
    """Return what is known of a cell from the folder alone."""
    if cell.record.exists():
        return "finished"
    claim = read_claim(cell.claim)
    if claim is not None and not claim.is_dead():
        return "running"
    if cell.failure.exists():
        return "failed"
    return "begun" if (cell.folder / "config.yaml").exists() else "waiting"


def failure_of(cell: Job) -> str:
    """Return why a cell failed, "" if it did not.

    Raises:
        MedtailError: The record is damaged.
    """
    return str(read_json(cell.failure).get("message", "")) if cell.failure.exists() else ""


def facts_of(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return the records of the finished ones among the cells, in their order."""
    return [read_json(cell.record) for cell in cells if cell.record.exists()]
