"""The ratio policy: one agent a class chooses how much of its pool of generated images is in play.

An independent implementation of an idea of which only the abstract is public: what an agent is, sees, does and is paid
for, and how it learns, are readings of ours. Here are the agents: they choose levels in states and learn from rewards.
The rounds of training in which this happens are run by `training.policy_rounds`, which writes a schedule that `replay`
plays back. No class of images, no pixel and no network of a diagnoser is known here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from medtail.config import CLOSED
from medtail.errors import MedtailError
from medtail.sampling.mixture import Level
from medtail.sampling.policy_network import SHARED, PolicyNetwork
from medtail.sampling.policy_state import RewardConfig
from medtail.sampling.replay import Order
from medtail.seeding import stream

Algorithm = Literal["group", "ppo_clip", "reinforce", "table", "random"]
LEARNING: tuple[Algorithm, ...] = ("group", "ppo_clip", "reinforce")
Natural = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
SPREAD_FLOOR = 1e-6
BASELINE_DECAY = 0.8
"""Share of REINFORCE's moving baseline that a round leaves."""


@final
@dataclass(frozen=True)
class Rounds:
    """How much the policy tries: W steps on real rows, then K rounds of M copies that train H steps each.

    Attributes:
        warmup: W.
        rounds: K.
        copies: M.
        steps: H.
    """

    warmup: int
    rounds: int
    copies: int
    steps: int

    @property
    def total(self) -> int:
        """Gradient steps of all copies together: W + K M H."""
        return self.warmup + self.rounds * self.copies * self.steps

    @property
    def path(self) -> int:
        """Gradient steps that the copy carried through all rounds has behind it: W + K H."""
        return self.warmup + self.rounds * self.steps


_SIZES: Mapping[str, tuple[int, int, int | None, int | None]] = {
    "tiny": (2, 2, 2, 2),
    "small": (30, 4, 30, 100),
    "full": (40, 4, None, None),
}
WARMUP_EPOCHS = 5
"""Warm-up of the size `full`."""


@final
@dataclass(frozen=True, kw_only=True)
class PolicySamplerConfig:
    """Learn how much of each class's pool to use, then train with what was learnt.

    Before the training proper, K rounds: M copies of a network train H steps each at levels the agents choose, are
    scored on reward rows, the agents learn, and the copy with the best team score is carried on. The schedule of levels
    goes to `RUN/policy/schedule.json`; then the ordinary training begins from scratch and replays it.

    Attributes:
        size: Sets K, M, H and W: `tiny` 2, 2, 2, 2; `small` 30, 4, 30, 100; `full` 40, 4, an epoch, 5 epochs.
        rounds: K instead.
        copies: M instead, at least 2 for `group`.
        steps: H instead.
        warmup_steps: W instead.
        choices: The levels, ascending, each in [0, 2].
        algorithm: `group` compares the M copies of a round with each other; `ppo_clip` as well, in several clipped
            passes; `reinforce` compares with a moving average. `random` and `table` learn no network: random levels, of
            which the best copy's are kept; or every (class, level)'s mean reward under random levels, the best one then
            frozen.
        agents: `per_class`, or one `shared` agent that sets a single ratio.
        learning_rate: Of the agents' network (Adam).
        entropy: Weight of the entropy bonus in the first round.
        entropy_end: In the last.
        clip: Largest change of a choice's chance in `ppo_clip`, > 0.
        passes: Passes of `ppo_clip`.
        reward: What agents are paid for.
        order: How the training proper replays the schedule; see `replay`.

    References:
        chen2025 (the idea); williams1992 (`reinforce`); schulman2017 (`ppo_clip`); shao2024 (`group`).
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    kind: Literal["policy"] = "policy"
    size: Literal["tiny", "small", "full"] = "small"
    rounds: Natural | None = None
    copies: Natural | None = None
    steps: Natural | None = None
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    choices: tuple[Level, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    algorithm: Algorithm = "group"
    agents: Literal["per_class", "shared"] = "per_class"
    learning_rate: Positive = 1e-2
    entropy: NotNegative = 0.01
    entropy_end: NotNegative = 0.001
    clip: Positive = 0.2
    passes: Natural = 4
    reward: RewardConfig = field(default_factory=RewardConfig)
    order: Order = "logged"

    def __post_init__(self) -> None:
        problems = []
        if len(self.choices) < 2 or list(self.choices) != sorted(set(self.choices)):
            problems.append(f"choices: found {list(self.choices)}; expected at least two different levels, ascending.")
        if self.algorithm in ("group", "ppo_clip") and self.at(steps_per_epoch=1).copies < 2:
            problems.append(f"copies: found 1 with {self.algorithm!r}, which compares copies; expected at least 2.")
        if self.order == "closed_loop" and self.algorithm not in LEARNING:
            problems.append(
                f"order: 'closed_loop' with {self.algorithm!r}, which learns no network; expected another order."
            )
        if problems:
            raise MedtailError(" ".join(problems))

    def at(self, *, steps_per_epoch: int) -> Rounds:
        """Return the numbers of rounds, copies and steps, with what the size leaves open filled in.

        Example:
            >>> PolicySamplerConfig(size="full", rounds=10).at(steps_per_epoch=7).total
            315
        """
        rounds, copies, steps, warmup = _SIZES[self.size]
        steps = steps_per_epoch if steps is None else steps
        warmup = WARMUP_EPOCHS * steps_per_epoch if warmup is None else warmup
        return Rounds(
            warmup=warmup if self.warmup_steps is None else self.warmup_steps,
            rounds=rounds if self.rounds is None else self.rounds,
            copies=copies if self.copies is None else self.copies,
            steps=steps if self.steps is None else self.steps,
        )


@final
@dataclass(frozen=True, eq=False)
class Tried:
    """What the copies of a round did and got.

    Attributes:
        round: Its number, from 0.
        states: What the agents saw, float32 [classes, 10].
        choices: Number of the level each copy's agents chose, int64 [copies, agents].
        rewards: R_c of each copy, float64 [copies, classes].
        kept: The copy that is carried on.
    """

    round: int
    states: np.ndarray
    choices: np.ndarray
    rewards: np.ndarray
    kept: int


class Agents(ABC):
    """Chooses levels, learns from rewards, and says what it would do now.

    Attributes:
        network: Names of agents and levels; its weights stay as they are where no network is learnt.
    """

    network: PolicyNetwork

    @abstractmethod
    def chances(self, states: np.ndarray) -> np.ndarray:
        """Return each agent's chances of the levels now, float64 [agents, choices]."""

    @abstractmethod
    def learn(self, tried: Tried) -> None:
        """Learn from a round."""

    @abstractmethod
    def schedule(self, greedy: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """Return the levels to replay, [rounds, classes].

        Args:
            greedy: The likeliest levels of each round, in its states, [rounds, classes].
            kept: The levels of each round's copy that was carried on, [rounds, classes].
        """

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return everything learnt, for a resume."""

    @abstractmethod
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what an earlier process had learnt."""


def choose(chances: np.ndarray, *, copies: int, seed: int, round_number: int, agents: Sequence[str]) -> np.ndarray:
    """Draw a level for each copy and agent.

    Each agent has a stream of its own, named by its class: the order of the classes changes nothing.

    Args:
        chances: Float [agents, choices]; rows add up to 1.
        copies: How many joint choices.
        seed: The run's seed.
        round_number: From 0.
        agents: Names.

    Returns:
        Number of the level, int64 [copies, agents].

    Example:
        >>> choose(np.array([[0.0, 1.0]]), copies=2, seed=0, round_number=0, agents=["a"]).tolist()
        [[1], [1]]
    """
    drawn = np.stack([stream(seed, "policy", round_number, "choice", name).random(copies) for name in agents], axis=1)
    edges = chances.cumsum(axis=1)[:, :-1]
    return np.asarray((drawn[:, :, None] >= edges[None]).sum(axis=2))


def advantages(rewards: np.ndarray) -> np.ndarray:
    """Compare copies with each other: (R - mean) / (std + 1e-6) over the copies.

    Args:
        rewards: Float [copies, agents].

    Returns:
        float64 [copies, agents]; each agent's add up to 0.

    Example:
        >>> advantages(np.array([[1.0, 2.0], [3.0, 2.0]])).round(3).tolist()
        [[-1.0, 0.0], [1.0, 0.0]]

    References:
        shao2024.
    """
    centred = rewards - rewards.mean(axis=0)
    return np.asarray(centred / (rewards.std(axis=0) + SPREAD_FLOOR))


@final
class GradientAgents(Agents):
    """Agents that share a network, moved along the policy gradient.

    Args:
        config: Algorithm and rates.
        network: The shared network; it is trained.
        class_names: The table's classes, in its order.
        rounds: Rounds in all, over which the entropy bonus fades.
    """

    def __init__(
        self, config: PolicySamplerConfig, network: PolicyNetwork, *, class_names: Sequence[str], rounds: int
    ) -> None:
        self.network = network
        self._config = config
        self._class_names = tuple(class_names)
        self._rounds = rounds
        self._optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
        self._baseline: np.ndarray | None = None

    def chances(self, states: np.ndarray) -> np.ndarray:
        """Return what the network says."""
        return self.network.chances(states, class_names=self._class_names)

    def learn(self, tried: Tried) -> None:
        """Take one step of the policy gradient, or several clipped ones."""
        rewards = agent_rewards(tried.rewards, self.network.agents, self._class_names)
        if self._config.algorithm == "reinforce":
            mean = rewards.mean(axis=0)
            known = mean if self._baseline is None else self._baseline
            gain = rewards - known
            self._baseline = BASELINE_DECAY * known + (1 - BASELINE_DECAY) * mean
        else:
            gain = advantages(rewards)
        weight = torch.from_numpy(gain).float()
        seen = self.network.seen_by(tried.states, class_names=self._class_names)
        chosen = torch.from_numpy(tried.choices)
        share = tried.round / max(self._rounds - 1, 1)
        bonus = self._config.entropy + share * (self._config.entropy_end - self._config.entropy)
        before: Tensor | None = None
        for _ in range(self._config.passes if self._config.algorithm == "ppo_clip" else 1):
            logs = torch.log_softmax(self.network(seen), dim=1)
            taken = logs.gather(1, chosen.T).T
            if self._config.algorithm == "ppo_clip":
                before = taken.detach() if before is None else before
                ratio = (taken - before).exp()
                held = ratio.clamp(1 - self._config.clip, 1 + self._config.clip)
                value = torch.minimum(ratio * weight, held * weight).mean()
            else:
                value = (weight * taken).mean()
            entropy = -(logs.exp() * logs).sum(dim=1).mean()
            self._optimizer.zero_grad()
            torch.autograd.backward(-value - bonus * entropy)
            self._optimizer.step()

    def schedule(self, greedy: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """Return each round's likeliest levels."""
        del kept
        return greedy

    def tensors(self) -> dict[str, Tensor]:
        """Return the network, Adam's moments and the baseline."""
        found = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for number, moments in self._optimizer.state_dict()["state"].items():
            found |= {f"adam.{number}.{name}": torch.as_tensor(value) for name, value in moments.items()}
        return found | ({} if self._baseline is None else {"baseline": torch.from_numpy(self._baseline)})

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over network, moments and baseline."""
        self.network.load_state_dict({name: tensors[f"network.{name}"] for name in self.network.state_dict()})
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("adam."):
                _, number, key = name.split(".")
                state.setdefault(int(number), {})[key] = value
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})
        self._baseline = tensors["baseline"].numpy() if "baseline" in tensors else None


@final
class TableAgents(Agents):
    """Random levels and a table of what each (class, level) was paid on average: the book-keeping control.

    Args:
        network: Names of agents and levels only.
        class_names: The table's classes, in its order.
        freeze: Replay the best level of each class all the time; else each round's best copy.
    """

    def __init__(self, network: PolicyNetwork, *, class_names: Sequence[str], freeze: bool) -> None:
        self.network = network
        self._class_names = tuple(class_names)
        self._freeze = freeze
        shape = (len(network.agents), len(network.choices))
        self._sums, self._counts = np.zeros(shape), np.zeros(shape)

    def chances(self, states: np.ndarray) -> np.ndarray:
        """Return the same chance for every level."""
        del states
        return np.full(self._sums.shape, 1.0 / self._sums.shape[1])

    def learn(self, tried: Tried) -> None:
        """Enter the round's rewards."""
        rewards = agent_rewards(tried.rewards, self.network.agents, self._class_names)
        for choices, paid in zip(tried.choices, rewards, strict=True):
            self._sums[np.arange(len(choices)), choices] += paid
            self._counts[np.arange(len(choices)), choices] += 1

    @property
    def best(self) -> np.ndarray:
        """The level with the best mean reward of each agent, float64 [agents]; those never tried are out."""
        means = np.divide(self._sums, self._counts, out=np.full(self._sums.shape, -np.inf), where=self._counts > 0)
        return np.asarray(np.array(self.network.choices)[means.argmax(axis=1)])

    def schedule(self, greedy: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """Return the best levels in every round, or each round's best copy."""
        del greedy
        if not self._freeze:
            return kept
        best = self.network.spread(self.best, class_names=self._class_names)
        return np.broadcast_to(best, kept.shape).copy()

    def tensors(self) -> dict[str, Tensor]:
        """Return the table."""
        return {"sums": torch.from_numpy(self._sums), "counts": torch.from_numpy(self._counts)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a table."""
        self._sums, self._counts = tensors["sums"].numpy().copy(), tensors["counts"].numpy().copy()


def agent_rewards(rewards: np.ndarray, agents: Sequence[str], class_names: Sequence[str]) -> np.ndarray:
    """Return what each agent is paid, [copies, agents]: its class's reward, or for the shared one the mean.

    Args:
        rewards: Of the classes, float [copies, classes].
        agents: Names of agents.
        class_names: Names of classes.
    """
    if tuple(agents) == (SHARED,):
        return np.asarray(rewards.mean(axis=1, keepdims=True))
    return np.asarray(rewards[:, [list(class_names).index(name) for name in agents]])


def build_agents(
    config: PolicySamplerConfig, *, class_names: Sequence[str], with_pool: Sequence[str], rounds: int, seed: int
) -> Agents:
    """Build the agents a config names.

    Args:
        config: Algorithm, levels and rates.
        class_names: The table's classes, in its order.
        with_pool: Those of them that have generated images: they have an agent.
        rounds: Rounds in all.
        seed: The run's seed.

    Raises:
        MedtailError: No class has generated images.

    Example:
        >>> agents = build_agents(PolicySamplerConfig(), class_names=["a", "b"], with_pool=["b"], rounds=3, seed=0)
        >>> agents.network.agents, agents.chances(np.zeros((2, 10))).tolist()
        (('b',), [[0.2, 0.2, 0.2, 0.2, 0.2]])
    """
    if not with_pool:
        raise MedtailError(
            "sampler 'policy': no synthetic row is in the train fold, so there is nothing to decide; expected the"
            " manifest.csv of a pool, which `medtail synthesise make` writes."
        )
    names = (SHARED,) if config.agents == "shared" else tuple(with_pool)
    network = PolicyNetwork(names, config.choices, seed=seed)
    if config.algorithm in LEARNING:
        return GradientAgents(config, network, class_names=class_names, rounds=rounds)
    return TableAgents(network, class_names=class_names, freeze=config.algorithm == "table")
