"""Training in several processes: starting them, and what those do that do not lead.

The first process trains as one alone would, and calls the others where the epochs of a network are run (`shared_job`).
So members, second stages and a policy's rounds need nothing of their own: the first process does them, and every
network that they train is trained by all.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from medtail.config import build_config, config_to_dict
from medtail.crew import Crew, meeting_point
from medtail.errors import Problems, UsageError
from medtail.processes import supervise
from medtail.training.callbacks import LAST
from medtail.training.config import TrainConfig
from medtail.training.epochs import run_epochs, threads
from medtail.training.ground import Ground, lay_ground
from medtail.training.second import Start
from medtail.training.state import read_state

WORKER = "medtail.training.worker"


def train_here(config: TrainConfig, out: Path, *, resume: bool, quiet: bool) -> None:
    """Train in `config.devices` processes of this machine, started and watched from here.

    Args:
        config: What to train.
        out: The run folder.
        resume: Go on from the last whole epoch.
        quiet: Show no progress.

    Raises:
        UsageError: The config wants several machines, or `out` is not what it should be.
        MedtailError: The training failed, or a process was lost.
    """
    if config.num_nodes > 1:
        raise UsageError(
            f"num_nodes: found {config.num_nodes}, but this process was started alone; expected to be started on every"
            " machine, by torchrun or srun as in examples/cluster. Or set num_nodes to 1."
        )
    job = {"config": config_to_dict(config), "out": str(out), "resume": resume, "quiet": quiet}
    with meeting_point() as environment:
        supervise(
            WORKER,
            job,
            processes=config.devices,
            where=str(out),
            advice=f"The last whole epoch is kept; go on with `medtail train --resume {out}`.",
            environment=environment,
        )


def shared_job(config: TrainConfig, out: Path, ground: Ground, *, start: Start | None, resume: bool) -> dict[str, Any]:
    """Say what the other processes are to train, and what they must find when they look.

    Args:
        config: The training's.
        out: Its run folder.
        ground: As process 0 laid it.
        start: The weights to begin with.
        resume: Go on from the last whole epoch.

    Returns:
        Plain JSON values for `join`.
    """
    return {
        "config": config_to_dict(replace(config, sampler=ground.sampler)),
        "out": str(out),
        "start": None if start is None else {"model": str(start.model), "learn": start.learn},
        "resume": resume,
        "found": _found(out, ground, resume=resume),
    }


def _found(out: Path, ground: Ground, *, resume: bool) -> dict[str, Any]:
    kept = resume and (out / LAST).exists()
    return {
        "the manifest's digest": ground.table.digest,
        "the pixels' digest": ground.feed.store.digest,
        f"whole epochs in {LAST}": read_state(out / LAST)[1].epochs_done if kept else 0,
    }


def join(crew: Crew) -> Mapping[str, Any]:
    """Train with process 0 whatever it says, until it says that all is done.

    Args:
        crew: The processes; this one does not lead.

    Returns:
        What the whole came to, as process 0 tells it.

    Raises:
        MedtailError: This process sees other data than process 0, or cannot go on.
    """
    while True:
        job, outcome = crew.next_job()
        if job is None:
            assert outcome is not None, "a crew that failed has raised"
            return outcome
        config = build_config(TrainConfig, job["config"], where="config")
        out = Path(job["out"])
        begin = None if job["start"] is None else Start(Path(job["start"]["model"]), learn=job["start"]["learn"])
        with threads(config.threads):
            ground = lay_ground(config, out, quiet=True)
            compare_found(job["found"], _found(out, ground, resume=job["resume"]), rank=crew.place.rank)
            run_epochs(config, out, ground, place=crew.place, start=begin, resume=job["resume"], quiet=True)


def compare_found(theirs: Mapping[str, Any], own: Mapping[str, Any], *, rank: int) -> None:
    """Check that this process found what process 0 found.

    Args:
        theirs: What process 0 found, by name.
        own: What this one found.
        rank: This one's number.

    Raises:
        MedtailError: Something else.
    """
    problems = Problems(f"process {rank} on {socket.gethostname()}")
    for name, value in theirs.items():
        if own[name] != value:
            problems.add(
                f"{name}: found {own[name]!r}; process 0 found {value!r}. Put the data and the run folder where all"
                " machines see them under one path."
            )
    problems.raise_if_any()
