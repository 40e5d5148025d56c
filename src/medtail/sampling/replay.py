"""A learnt schedule of levels, its file, and the orders in which it can be replayed.

The policy leaves `schedule.json`: the levels of each class in K rounds, and the network that chose them. A training
replays it over K equal segments of its draws. Beside the order that was learnt there are the orders that test what was
learnt: `frozen` keeps the average all the time, `reversed` and `permuted` have the same levels at other times. Only if
the logged order beats these was it worth being dynamic. `closed_loop` lets the network that was learnt last choose
again, epoch by epoch, in the states of the new training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import numpy as np

from medtail.config import CLOSED
from medtail.errors import MedtailError, Problems, listing
from medtail.runs import digest_file, read_json, write_json
from medtail.sampling.classic import Plan
from medtail.sampling.contract import Sampler
from medtail.sampling.mixture import MOST, MixtureSampler, Pool, Stretch
from medtail.sampling.policy_network import PolicyNetwork
from medtail.seeding import stream

FORMAT = "medtail-schedule/1"
Order = Literal["logged", "frozen", "reversed", "permuted", "closed_loop"]
ORDERS: tuple[Order, ...] = ("logged", "frozen", "reversed", "permuted", "closed_loop")


@final
@dataclass(frozen=True, kw_only=True)
class ReplaySamplerConfig:
    """Real rows mixed with generated ones at the levels of a schedule.

    Attributes:
        schedule: `schedule.json` of a training with the sampler `policy`; relative paths start at the config's folder.
        order: `logged` as it was learnt; `frozen` its average; `reversed` from its end to its start; `permuted` in a
            random order; `closed_loop` chosen anew in this training's own states, which needs the fold `reward`.
        digest: SHA-256 of the schedule file, filled in when a config is read: a schedule that has changed is refused.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    kind: Literal["replay"] = "replay"
    schedule: str
    order: Order = "logged"
    digest: str | None = None


@final
@dataclass(frozen=True, eq=False)
class Schedule:
    """Levels over time.

    Attributes:
        class_names: The classes.
        levels: A level for each round and class, float64 [rounds, classes], in [0, 2].
        network: The policy's network after the last round, for `closed_loop`; None where none was learnt.
        facts: How it was learnt: settings, seed, budget, digests.
        name: Where it was read from, for messages.
    """

    class_names: tuple[str, ...]
    levels: np.ndarray
    network: PolicyNetwork | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    name: str = "schedule"

    def in_order(self, order: Order, *, seed: int) -> np.ndarray:
        """Return the levels [rounds, classes] in the order in which they are replayed.

        Args:
            order: Any but `closed_loop`.
            seed: Of the permutation.

        Example:
            >>> schedule = Schedule(("a",), np.array([[0.0], [0.5], [1.0]]))
            >>> [schedule.in_order(order, seed=0).ravel().tolist() for order in ("frozen", "reversed")]
            [[0.5, 0.5, 0.5], [1.0, 0.5, 0.0]]
        """
        match order:
            case "frozen":
                return np.broadcast_to(self.levels.mean(axis=0), self.levels.shape)
            case "reversed":
                return self.levels[::-1]
            case "permuted":
                return stream(seed, "schedule order").permutation(self.levels)
        assert order == "logged", order
        return self.levels

    def write(self, path: Path) -> None:
        """Write the schedule as JSON, atomically."""
        write_json(
            path,
            {
                "format": FORMAT,
                "class_names": list(self.class_names),
                "levels": self.levels.tolist(),
                "network": None if self.network is None else self.network.to_json(),
                "facts": dict(self.facts),
            },
        )


def read_schedule(path: Path | str, *, digest: str | None = None) -> Schedule:
    """Read a schedule.

    Args:
        path: The file.
        digest: SHA-256 it must have; None takes any.

    Raises:
        MedtailError: There is no such file, it is no schedule, or it is another one.
    """
    path = Path(path)
    value = read_json(path)
    if digest is not None and digest_file(path) != digest:
        raise MedtailError(
            f"{path}: is not the schedule this training was set up with (its bytes have changed since); restore it, or"
            " remove `digest` from the config to replay the new one."
        )
    if value.get("format") != FORMAT:
        raise MedtailError(
            f"{path}: format {value.get('format')!r}; expected {FORMAT!r}, the schedule.json that a training with the"
            " sampler 'policy' leaves in RUN/policy."
        )
    try:
        names = tuple(map(str, value["class_names"]))
        levels = np.array(value["levels"], dtype=np.float64)
        network = None if value["network"] is None else PolicyNetwork.from_json(value["network"])
        facts = dict(value["facts"])
    except (KeyError, TypeError, ValueError) as error:
        raise MedtailError(f"{path}: is not a readable schedule ({error!r}). Learn it again.") from error
    is_whole = levels.ndim == 2 and levels.shape[1] == len(names) and len(levels) > 0
    if not is_whole or not ((levels >= 0) & (levels <= MOST)).all():
        raise MedtailError(
            f"{path}, levels: found shape {levels.shape}; expected a row a round, of {len(names)} levels in"
            f" [0, {MOST:g}]."
        )
    return Schedule(names, levels, network, facts, str(path))


def check_schedule(schedule: Schedule, pool: Pool) -> Schedule:
    """Check that a schedule is of a table's classes and has pools where it wants generated images.

    Args:
        schedule: The schedule.
        pool: The table's pools.

    Returns:
        The schedule with its classes in the order of the table's.

    Raises:
        MedtailError: Classes differ, or a class with a level above 0 has no pool.
    """
    problems = Problems(schedule.name)
    if set(schedule.class_names) != set(pool.class_names):
        problems.add(
            f"class_names: found {listing(schedule.class_names, limit=8)}; expected those of {pool.name}:"
            f" {listing(pool.class_names, limit=8)}. Replay a schedule on the classes it was learnt for."
        )
        problems.raise_if_any()
    levels = schedule.levels[:, [schedule.class_names.index(name) for name in pool.class_names]]
    empty = [
        name
        for name, rows, wanted in zip(pool.class_names, pool.members, levels.T, strict=True)
        if not len(rows) and wanted.any()
    ]
    if empty:
        problems.add(
            f"levels: above 0 for {listing([repr(name) for name in empty])}, of which {pool.name} has no generated"
            " image; expected a pool of them."
        )
    problems.raise_if_any()
    return replace(schedule, class_names=pool.class_names, levels=levels)


@final
@dataclass(frozen=True, eq=False)
class Segments:
    """K equal segments of all a training's draws, each with levels of its own.

    Attributes:
        levels: float64 [K, classes].
        epoch_rows: Draws an epoch.
        epochs: Epochs of the training.
    """

    levels: np.ndarray
    epoch_rows: int
    epochs: int

    def stretches(self, epoch: int) -> Sequence[Stretch]:
        """Return an epoch's part of the segments; later epochs than planned stay in the last.

        Example:
            >>> [(s.draws, float(s.levels[0])) for s in Segments(np.array([[0.0], [1.0]]), 4, 3).stretches(1)]
            [(2, 0.0), (2, 1.0)]
        """
        count, total = len(self.levels), self.epoch_rows * self.epochs
        draws = epoch * self.epoch_rows + np.arange(self.epoch_rows)
        segments = np.minimum(draws * count // total, count - 1)
        numbers, sizes = np.unique(segments, return_counts=True)
        return [Stretch(int(size), self.levels[number]) for number, size in zip(numbers, sizes, strict=True)]


@final
class ClosedLoopSampler(Sampler):
    """A mixture whose levels the learnt network chooses at the start of every epoch.

    Training tells it the states (`tell`) before an epoch is drawn.

    Attributes:
        pool: The pools.
        epochs: Epochs of the training.
        last_states: The states it was told last; None before the first.

    Args:
        plan: Rows, seed and draws an epoch.
        pool: Which rows are real and which were made for which class.
        schedule: With its network.
        epochs: Epochs of the training.

    Raises:
        MedtailError: The schedule has no network.
    """

    def __init__(self, plan: Plan, pool: Pool, schedule: Schedule, *, epochs: int) -> None:
        if schedule.network is None:
            raise MedtailError(
                f"{schedule.name}, network: is empty, as no network chose these levels; expected the schedule of the"
                " algorithm 'group', 'ppo_clip' or 'reinforce'. Use the order 'logged'."
            )
        check_schedule(schedule, pool)
        self.rows = plan.fold.rows
        self.epochs = epochs
        self.pool = pool
        self._plan = plan
        self._network = schedule.network
        self._told: list[np.ndarray] = []
        self.last_states: np.ndarray | None = None
        self._mixture = MixtureSampler(plan, pool, self)

    def tell(self, states: np.ndarray) -> None:
        """Choose the levels of the next epoch.

        Args:
            states: From `agent_states`, float32 [classes, 10], in the table's order of classes.
        """
        self._told.append(self._network.greedy(states, class_names=self.pool.class_names))
        self.last_states = states
        self._mixture = MixtureSampler(self._plan, self.pool, self)

    @property
    def epochs_told(self) -> int:
        """Epochs whose levels are chosen."""
        return len(self._told)

    @property
    def levels(self) -> np.ndarray:
        """The levels chosen last, float64 [classes]; 0 before the first."""
        return self._told[-1] if self._told else np.zeros(len(self.pool.members))

    def stretches(self, epoch: int) -> Sequence[Stretch]:
        """Return an epoch's one stretch; an epoch nobody has chosen levels for yet has those chosen last."""
        levels = self._told[epoch] if epoch < len(self._told) else self.levels
        return (Stretch(self._plan.epoch_rows, levels),)

    def draw(self, epoch: int) -> np.ndarray:
        """Draw an epoch."""
        return self._mixture.draw(epoch)

    def frequencies(self, epoch: int) -> np.ndarray:
        """Promise each row its share."""
        return self._mixture.frequencies(epoch)

    def facts(self, epoch: int) -> dict[str, float]:
        """Return the epoch's levels and its share of generated images."""
        return self._mixture.facts(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the plan, the levels chosen so far and the states of the last choice."""
        states = None if self.last_states is None else self.last_states.tolist()
        return {**self._plan.state(), "told": [levels.tolist() for levels in self._told], "states": states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the levels of an earlier run.

        Raises:
            MedtailError: The state is of another plan or has no levels.
        """
        self._plan.check_state(state)
        told = [np.array(levels, dtype=np.float64) for levels in state.get("told", [])]
        if any(levels.shape != (len(self.pool.members),) for levels in told):
            raise MedtailError("sampler state, told: expected a level for each class in every epoch. Start a new run.")
        self._told = told
        states = state.get("states")
        self.last_states = None if states is None else np.array(states, dtype=np.float32)
        self._mixture = MixtureSampler(self._plan, self.pool, self)
