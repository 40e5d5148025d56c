"""The rounds in which the ratio policy learns: M copies try levels, reward rows score them, the best is carried on.

    RUN/policy/schedule.json         levels by round and class, and the network that chose them; written last
    RUN/policy/rounds.csv            a row a round, copy and class: levels, rewards, what was kept
    RUN/policy/carried.safetensors   the weights of the copy that went through all rounds
    RUN/policy/kept/                 each round's best copy, until the training proper has read them on tune
    RUN/policy/state.safetensors     what a resume goes on from; gone at the end

Everything random follows from the seed, the round and the copy, so a run that was cut off ends as one that was not. The
copies of a round share their start; each has data of its own. With a few reward rows the best of M copies is partly
luck: that keeping it is an optimiser by itself is what the algorithm `random` measures.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd
from torch import Tensor

from medtail.config import config_to_dict
from medtail.models.checkpoint import to_safetensors
from medtail.runs import atomic_path, write_text
from medtail.sampling.build import plan_epoch, rows_of_epoch
from medtail.sampling.policy import LEARNING, Agents, PolicySamplerConfig, Rounds, Tried, build_agents, choose
from medtail.sampling.policy_state import Payment, Reading, pay
from medtail.sampling.replay import Schedule, read_schedule
from medtail.tables.manifest import read_manifest
from medtail.training.config import TrainConfig, select_classes
from medtail.training.policy_course import Course, Snapshot, open_course, reproducible, rounds_of
from medtail.training.progress import counter
from medtail.training.second import RetrainConfig
from medtail.training.state import Progress, read_state, under_prefix, with_prefix, write_state

FOLDER, SCHEDULE, ROUNDS = "policy", "schedule.json", "rounds.csv"
STATE, CARRIED, KEPT = "state.safetensors", "carried.safetensors", "kept/round_{:03d}.safetensors"


@final
@dataclass(frozen=True)
class Budget:
    """Gradient steps of a training, by what they are for.

    Attributes:
        rounds: W + K M H of the policy; 0 without one.
        final: F of the training proper, second stage included.
        members: Networks that each cost this much.
    """

    rounds: int
    final: int
    members: int = 1

    @property
    def total(self) -> int:
        """T: what another method must be given to be compared fairly."""
        return self.members * (self.rounds + self.final)


def policy_budget(config: TrainConfig, *, train_rows: int | None = None) -> Budget:
    """Say how many gradient steps a training takes, those of a policy's copies included.

    Args:
        config: Any training.
        train_rows: Rows that show its train fold once (real ones where generated ones are mixed in); read from the
            manifest if None.

    Returns:
        The budget. Early stopping is not foreseen.

    Example:
        >>> from medtail.training.config import train_config
        >>> config = train_config({"manifest": "a.csv", "sampler": {"kind": "policy", "size": "tiny"},
        ...                        "optimizer": {"epochs": 3, "batch_size": 10}})
        >>> policy_budget(config, train_rows=95)
        Budget(rounds=10, final=30, members=1)
    """
    if train_rows is None:
        table = select_classes(read_manifest(config.manifest, groups=config.groups), config.classes)
        train_rows = rows_of_epoch(config.sampler, table)
    optimizer = config.optimizer
    stages = [(optimizer.epochs, config.sampler)]
    if isinstance(config.second, RetrainConfig):
        stages.append((config.second.epochs, config.second.sampler))
    final = 0
    for epochs, sampler in stages:
        _, steps = plan_epoch(
            sampler, train_rows=train_rows, epoch_rows=optimizer.epoch_rows, batch_size=optimizer.batch_size
        )
        final += epochs * steps
    rounds = rounds_of(config, train_rows=train_rows)
    return Budget(0 if rounds is None else rounds.total, final, config.members)


@final
@dataclass(frozen=True, eq=False)
class Attempt:
    """What one copy did in a round."""

    levels: np.ndarray
    reading: Reading
    payment: Payment


def learn_schedule(config: TrainConfig, out: Path, *, quiet: bool = False) -> Schedule:
    """Let the agents of a training's policy learn; go on where an earlier process was cut off.

    Args:
        config: A training whose sampler is a policy.
        out: Its run folder; `out/policy` is written to.
        quiet: Show no progress.

    Returns:
        The schedule, which is also in `out/policy/schedule.json`; one that is there already is returned as it is.

    Raises:
        MedtailError: No reward rows, no pool, images that cannot be read, or the training diverged.

    References:
        chen2025, of whose second phase this is a reading.
    """
    assert isinstance(config.sampler, PolicySamplerConfig), "the caller looks"
    folder = out / FOLDER
    if (folder / SCHEDULE).exists():
        (folder / STATE).unlink(missing_ok=True)  # left by a run that was cut off just here
        return read_schedule(folder / SCHEDULE)
    with counter("prepare images", quiet=quiet) as tick:
        course = open_course(config, progress=tick)
    with reproducible(course.device):
        return _learn(course, config.sampler, folder, quiet=quiet)


def _learn(course: Course, settings: PolicySamplerConfig, folder: Path, *, quiet: bool) -> Schedule:
    pool, rounds, seed = course.pool, course.rounds, course.config.seed
    agents = build_agents(
        settings,
        class_names=pool.class_names,
        with_pool=[name for name, rows in zip(pool.class_names, pool.members, strict=True) if len(rows)],
        rounds=rounds.rounds,
        seed=seed,
    )
    log: list[dict[str, float | int | None]] = []
    before: np.ndarray | None = None
    levels = np.zeros(len(pool.class_names))
    done = 0
    if (folder / STATE).exists():
        tensors, progress = read_state(folder / STATE)
        done, log = progress.epochs_done, [dict(row) for row in progress.log]
        kept = progress.sampler
        before, levels = np.array(kept["recall"], dtype=float), np.array(kept["levels"], dtype=float)
        course.load(tensors, steps=int(kept["steps"]), where=str(folder / STATE))
        agents.load(under_prefix(tensors, "agents"))
    elif rounds.warmup:
        course.train(levels, steps=rounds.warmup, out=pool.real[:0], purpose=("warm-up",))
    for number in range(done, rounds.rounds):
        reading = course.read(number)
        states = course.states(reading, before=before, levels=levels, progress=number / rounds.rounds)
        tried, attempts, carried = _try_round(course, agents, settings, number=number, states=states, start=reading)
        row = _row_values(agents, tried, attempts, class_names=pool.class_names)
        agents.learn(tried)
        course.restore(carried)
        _write_weights(folder / KEPT.format(number + 1), course.weights)
        before, levels = reading.soft_recall, attempts[tried.kept].levels
        log += row
        kept_values = {
            "recall": [None if np.isnan(value) else float(value) for value in before],
            "levels": levels.tolist(),
            "steps": course.steps_done,
        }
        write_state(
            folder / STATE,
            tensors=course.tensors() | with_prefix(agents.tensors(), "agents"),
            progress=Progress(epochs_done=number + 1, log=tuple(log), sampler=kept_values),
        )
        write_text(folder / ROUNDS, rounds_table(log, pool.class_names).to_csv(index=False, lineterminator="\n"))
        if not quiet:
            shown = ", ".join(f"{level:g}" for level in levels)
            sys.stderr.write(
                f"policy, round {number + 1}/{rounds.rounds}: team {attempts[tried.kept].payment.team:.3f}, kept"
                f" levels {shown}\n"
            )
    schedule = _schedule(course, agents, rounds_table(log, pool.class_names), rounds, settings)
    _write_weights(folder / CARRIED, course.judged_weights)
    schedule.write(folder / SCHEDULE)
    (folder / STATE).unlink()
    return schedule


def _write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(to_safetensors(tensors, metadata={"format": "medtail-carried/1"}))


def _try_round(
    course: Course,
    agents: Agents,
    settings: PolicySamplerConfig,
    *,
    number: int,
    states: np.ndarray,
    start: Reading,
) -> tuple[Tried, list[Attempt], Snapshot]:
    """Train all copies of a round from where the network stands; return what they got, and the best one."""
    names, network = course.pool.class_names, agents.network
    choices = choose(
        agents.chances(states),
        copies=course.rounds.copies,
        seed=course.config.seed,
        round_number=number,
        agents=network.agents,
    )
    joint = network.spread(np.array(network.choices)[choices], class_names=names)
    here = course.snapshot()
    attempts: list[Attempt] = []
    best, kept = here, -1
    for copy, levels in enumerate(joint):
        course.restore(here)
        course.train(levels, steps=course.rounds.steps, out=course.reward.out(number), purpose=(number, copy))
        reading = course.read(number)
        payment = pay(start, reading, levels=levels, sizes=course.pool.sizes, config=settings.reward)
        attempts.append(Attempt(levels, reading, payment))
        if kept < 0 or payment.team > attempts[kept].payment.team:
            best, kept = course.snapshot(), copy
    rewards = np.stack([attempt.payment.rewards for attempt in attempts])
    return Tried(number, states, choices, rewards, kept), attempts, best


def _row_values(
    agents: Agents, tried: Tried, attempts: list[Attempt], *, class_names: tuple[str, ...]
) -> list[dict[str, float | int | None]]:
    """Return a row for each copy and class: numbers only, the class by its place."""
    chances, network = agents.chances(tried.states), agents.network
    entropy = float(-(chances * np.log(np.maximum(chances, 1e-300))).sum(axis=1).mean())
    greedy = network.greedy(tried.states, class_names=class_names)
    expected = network.spread(chances @ np.array(network.choices), class_names=class_names)
    rows: list[dict[str, float | int | None]] = []
    for copy, attempt in enumerate(attempts):
        for c in range(len(class_names)):
            own = float(attempt.payment.own[c])
            rows.append(
                {
                    "round": tried.round + 1,
                    "copy": copy + 1,
                    "kept": int(copy == tried.kept),
                    "class": c,
                    "level": float(attempt.levels[c]),
                    "greedy_level": float(greedy[c]),
                    "expected_level": float(expected[c]),
                    "own": _known(own),
                    "gain": _known(float(attempt.reading.gain[c])),
                    "reward": float(tried.rewards[copy, c]),
                    "team": attempt.payment.team,
                    "stability": attempt.payment.stability,
                    "head_accuracy": _known(attempt.reading.head_accuracy),
                    "macro_f1": _known(attempt.reading.macro_f1),
                    "entropy": entropy,
                }
            )
    return rows


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def rounds_table(log: list[dict[str, float | int | None]], class_names: tuple[str, ...]) -> pd.DataFrame:
    """Return the rounds as a table with the classes by name."""
    table = pd.DataFrame(log)
    return table.assign(**{"class": [class_names[int(c)] for c in table["class"]]})


def _schedule(
    course: Course, agents: Agents, table: pd.DataFrame, rounds: Rounds, settings: PolicySamplerConfig
) -> Schedule:
    names = course.pool.class_names
    kept = table[table["kept"] == 1]

    def by_round(column: str) -> np.ndarray:
        return kept.pivot(index="round", columns="class", values=column)[list(names)].to_numpy(dtype=float)

    facts: Mapping[str, Any] = {
        "policy": config_to_dict(settings),
        "seed": course.config.seed,
        "manifest_digest": course.manifest.digest,
        "warmup_steps": rounds.warmup,
        "rounds": rounds.rounds,
        "copies": rounds.copies,
        "steps": rounds.steps,
        "total_steps": rounds.total,
        "reward_images": len(course.reward.fixed),
        "pool_images": {name: len(rows) for name, rows in zip(names, course.pool.members, strict=True)},
    }
    return Schedule(
        names,
        agents.schedule(by_round("greedy_level"), by_round("level")),
        agents.network if settings.algorithm in LEARNING else None,
        facts,
    )
