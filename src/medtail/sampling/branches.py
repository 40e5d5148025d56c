"""Two branches in every batch: rows as they come, and rows drawn class by class.

The plain relative of `streams`, for networks with two last layers: no account of how hard rows are, and a second half
whose classes are all alike, or upside down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
from pydantic import Field

from medtail.config import CLOSED
from medtail.sampling.classic import Plan, UniformSampler, class_members, classwise_shares
from medtail.sampling.contract import Sampler
from medtail.sampling.streams import batch_halves, mixed_shares
from medtail.seeding import stream

POWERS = {"balanced": 0.0, "reversed": -1.0}


@final
@dataclass(frozen=True, kw_only=True)
class TwoBranchesSamplerConfig:
    """Every batch half rows as they come (stream 0), half rows drawn class by class (stream 1).

    An epoch shows each train row once in its first stream, so it draws twice as many rows as there are.
    `optimizer.batch_size` is the whole batch.

    Attributes:
        second: The second stream's classes: `balanced` all alike, or `reversed` in proportion to 1 / count.

    References:
        zhou2020b (`reversed`); guo2021 (`balanced`).
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    kind: Literal["two_branches"] = "two_branches"
    second: Literal["balanced", "reversed"] = "balanced"


@final
@dataclass(frozen=True, kw_only=True)
class DeferredSamplerConfig:
    """Every row alike until a point of the training, then class-balanced: features first, rare classes last.

    Attributes:
        balance_from: Share of the epochs, in [0, 1], from which classes are drawn alike.

    References:
        cao2019, whose deferred re-sampling this is.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    kind: Literal["deferred"] = "deferred"
    balance_from: Annotated[float, Field(ge=0.0, le=1.0)] = 0.8


def deferred_shares(balanced: np.ndarray, *, epoch: int, epochs: int, balance_from: float) -> np.ndarray:
    """Return even shares before its point, `balanced` ones from it on.

    Example:
        >>> [deferred_shares(np.array([0.9, 0.1]), epoch=e, epochs=5, balance_from=0.8).tolist() for e in (3, 4)]
        [[0.5, 0.5], [0.9, 0.1]]
    """
    is_balanced = epoch >= round(balance_from * epochs)
    return balanced.copy() if is_balanced else np.full(len(balanced), 1.0 / len(balanced))


@final
class TwoBranchesSampler(Sampler):
    """Batches that are half rows as they come and half rows drawn class by class.

    Args:
        plan: Rows, seed and draws an epoch, of both streams together.
        config: How the second half is drawn.
        steps: Batches the epoch is cut into, each in halves; 1 if nobody says.

    Raises:
        MedtailError: No class has a positive train row.
    """

    def __init__(self, plan: Plan, config: TwoBranchesSamplerConfig, *, steps: int = 1) -> None:
        self._plan = plan
        self._steps = steps
        self.rows = plan.fold.rows
        self._uniform = UniformSampler(Plan(plan.kind, plan.fold, plan.seed, -(-plan.epoch_rows // 2)))
        self._second = classwise_shares(class_members(plan.fold), power=POWERS[config.second])

    def draw(self, epoch: int) -> np.ndarray:
        """Draw both streams and lay them into batches."""
        streams = self.streams(epoch)
        drawn = np.empty(len(streams), dtype=np.int64)
        drawn[streams == 0] = self._uniform.draw(epoch)
        random = stream(self._plan.seed, "sampler", epoch, "second stream")
        drawn[streams == 1] = random.choice(self.rows, size=self._plan.epoch_rows // 2, p=self._second)
        return drawn

    def streams(self, epoch: int) -> np.ndarray:
        """Return 0 for the first half of every batch and 1 for the second."""
        return batch_halves(self._plan.epoch_rows, steps=self._steps)

    def frequencies(self, epoch: int) -> np.ndarray:
        """Promise each row the mean of what its streams promise."""
        return mixed_shares(self.stream_frequencies(epoch), epoch_rows=self._plan.epoch_rows)

    def stream_frequencies(self, epoch: int) -> np.ndarray:
        """Promise each row its share of either stream, float64 [2, train rows]."""
        return np.stack([np.full(len(self.rows), 1.0 / len(self.rows)), self._second])

    def state_dict(self) -> dict[str, Any]:
        """Return the plan; there is no other state."""
        return self._plan.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Check that the state is of the same plan.

        Raises:
            MedtailError: It is not.
        """
        self._plan.check_state(state)
