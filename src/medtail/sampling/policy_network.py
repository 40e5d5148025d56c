"""The network that the agents of the ratio policy share: what a class's agent sees becomes chances of five levels.

    state (10) + class embedding (8)  ->  32 tanh  ->  one logit a level

The last layer starts at zero, so every agent begins with all levels alike. A class's embedding starts at random numbers
that follow from its name: with zeros instead, thirty rounds are too few to tell the classes apart (benchmarks/
policy_toy.py). The order of the classes in a table changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from medtail.errors import MedtailError
from medtail.sampling.policy_state import NUMBERS
from medtail.seeding import stream, stream_seed

EMBEDDING, HIDDEN = 8, 32
SHARED = "all classes"
"""Name of the agent that chooses one level for all classes."""


@final
class PolicyNetwork(nn.Module):
    """One small network for all agents.

    Args:
        agents: A name an agent: the classes that have a pool, or `SHARED` alone.
        choices: The levels to choose from, at least 2.
        seed: Of the initial weights.

    Example:
        >>> network = PolicyNetwork(["a", "b"], [0.0, 1.0], seed=0)
        >>> torch.softmax(network(torch.zeros(2, 10)), dim=1).tolist()
        [[0.5, 0.5], [0.5, 0.5]]
    """

    def __init__(self, agents: Sequence[str], choices: Sequence[float], *, seed: int) -> None:
        super().__init__()
        self.agents = tuple(agents)
        self.choices = tuple(float(choice) for choice in choices)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(seed, "policy", "initial weights"))
            self.hidden = nn.Linear(len(NUMBERS) + EMBEDDING, HIDDEN)
        drawn = [stream(seed, "policy", "embedding", name).standard_normal(EMBEDDING) for name in self.agents]
        self.embedding = nn.Parameter(torch.from_numpy(np.stack(drawn)).float())
        self.out = nn.Linear(HIDDEN, len(self.choices))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, states: Tensor) -> Tensor:
        """Return logits [agents, choices] of states [agents, 10]."""
        seen = torch.cat([states, self.embedding], dim=1)
        logits: Tensor = self.out(torch.tanh(self.hidden(seen)))
        return logits

    def seen_by(self, states: np.ndarray, *, class_names: Sequence[str]) -> Tensor:
        """Return each agent's state [agents, 10]; the shared agent sees the mean over all classes.

        Raises:
            MedtailError: An agent's class is not among the classes.
        """
        if self.agents == (SHARED,):
            return torch.from_numpy(states.mean(axis=0, keepdims=True).astype(np.float32))
        missing = [name for name in self.agents if name not in class_names]
        if missing:
            raise MedtailError(f"policy: no class {missing[0]!r} here; expected the classes it was learnt for.")
        return torch.from_numpy(states[[list(class_names).index(name) for name in self.agents]].astype(np.float32))

    def spread(self, chosen: np.ndarray, *, class_names: Sequence[str]) -> np.ndarray:
        """Lay the agents' values [..., agents] out over all classes [..., classes]; 0 for a class without an agent."""
        if self.agents == (SHARED,):
            return np.broadcast_to(chosen, (*chosen.shape[:-1], len(class_names))).copy()
        laid = np.zeros((*chosen.shape[:-1], len(class_names)))
        laid[..., [list(class_names).index(name) for name in self.agents]] = chosen
        return laid

    @torch.no_grad()
    def chances(self, states: np.ndarray, *, class_names: Sequence[str]) -> np.ndarray:
        """Return each agent's chances of the levels, float64 [agents, choices]."""
        logits = self(self.seen_by(states, class_names=class_names))
        return np.asarray(torch.softmax(logits.double(), dim=1).numpy())

    def greedy(self, states: np.ndarray, *, class_names: Sequence[str]) -> np.ndarray:
        """Return each class's likeliest level in these states, float64 [classes]; the lower of equally likely ones."""
        # rounded, so that levels that are alike but for the last digit are alike
        likeliest = self.chances(states, class_names=class_names).round(9).argmax(axis=1)
        return self.spread(np.array(self.choices)[likeliest], class_names=class_names)

    def to_json(self) -> dict[str, Any]:
        """Return agents, levels and weights as plain values; float32 numbers come back as they were."""
        weights = {name: tensor.tolist() for name, tensor in self.state_dict().items()}
        return {"agents": list(self.agents), "choices": list(self.choices), "weights": weights}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> PolicyNetwork:
        """Rebuild from `to_json`'s values.

        Raises:
            MedtailError: The values are no such network.
        """
        try:
            network = PolicyNetwork([str(name) for name in value["agents"]], value["choices"], seed=0)
            network.load_state_dict({name: torch.tensor(weight) for name, weight in value["weights"].items()})
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise MedtailError(f"policy network: is not readable ({reason}). Learn the schedule again.") from error
        return network
