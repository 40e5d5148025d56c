"""The classic samplers: uniform, class-balanced, square-root, progressive and repeat-factor.

All of them read exclusive groups and free classes alike: a row belongs to every class it shows, and in a
multi-label task rows assessed without any finding form a class of their own, "no finding". Labels that were not
assessed make a row neither a member nor a non-member; a row without any assessed label is in no class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
from pydantic import Field

from medtail.config import CLOSED
from medtail.errors import MedtailError
from medtail.sampling.contract import Sampler, TrainFold
from medtail.seeding import stream


@final
@dataclass(frozen=True, kw_only=True)
class UniformSamplerConfig:
    """Every train row once, in a new order each epoch."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    kind: Literal["uniform"] = "uniform"


@final
@dataclass(frozen=True, kw_only=True)
class ClassBalancedSamplerConfig:
    """A class at random, all alike, then one of its rows."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    kind: Literal["class_balanced"] = "class_balanced"


@final
@dataclass(frozen=True, kw_only=True)
class SquareRootSamplerConfig:
    """A class at random in proportion to the square root of its count, then one of its rows."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    kind: Literal["square_root"] = "square_root"


@final
@dataclass(frozen=True, kw_only=True)
class ProgressiveSamplerConfig:
    """From every row alike in the first epoch to class-balanced in the last."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    kind: Literal["progressive"] = "progressive"


@final
@dataclass(frozen=True, kw_only=True)
class RepeatFactorSamplerConfig:
    """Rows of rare classes repeated.

    Attributes:
        threshold: Prevalence, in (0, 1], under which a class is repeated; LVIS has 0.001 for 1,203 classes.
        cap: Most repeats of a row, >= 1.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    kind: Literal["repeat_factor"] = "repeat_factor"
    threshold: Annotated[float, Field(gt=0.0, le=1.0)] = 0.05
    cap: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = 10.0


def class_members(fold: TrainFold) -> np.ndarray:
    """Say which rows belong to which class that has any, "no finding" of a multi-label task included.

    Args:
        fold: The train rows.

    Returns:
        Bool [rows, classes with a row]; in a multi-label task the last column is "no finding", if there is any.

    Raises:
        MedtailError: No class has a positive train row.
    """
    is_positive = fold.is_positive
    if not is_positive.any():
        raise MedtailError(
            f"{fold.name}: no class has a positive row in the train fold; a class-wise sampler needs at least one."
            " Use the sampler 'uniform', or make other folds with `medtail data split`."
        )
    columns = [is_positive[:, is_positive.any(axis=0)]]
    if fold.labels.task == "multilabel":
        is_without = ~is_positive.any(axis=1) & ~np.isnan(fold.targets).all(axis=1)
        columns += [is_without[:, None]] if is_without.any() else []
    return np.concatenate(columns, axis=1)


def classwise_shares(members: np.ndarray, *, power: float) -> np.ndarray:
    """Compute how often each row is drawn if a class is picked in proportion to count ** power, then one of its rows.

    Both picks together draw row i with probability Σ_c q_c [i in c] / n_c, so they are made as one.

    Args:
        members: Which row belongs to which class, bool [rows, classes], a row at least in each class.
        power: 0 picks classes alike (class-balanced), 1/2 by the square root.

    Returns:
        Float64 [rows], >= 0, adding up to 1.

    Example:
        >>> members = np.array([[True, False], [True, False], [True, True], [True, False]])
        >>> classwise_shares(members, power=0.0)
        array([0.125, 0.125, 0.625, 0.125])

    References:
        kang2020, eq. 1.
    """
    counts = members.sum(axis=0).astype(float)
    picks = counts**power / (counts**power).sum()
    return np.asarray(members @ (picks / counts))


def progressive_shares(balanced: np.ndarray, *, epoch: int, epochs: int) -> np.ndarray:
    """Move from drawing all rows alike in the first epoch to `balanced` shares in the last.

    Rows, not classes, are interpolated; where each row has one class this is the paper's formula, and with
    several it still starts from the natural frequencies.

    Args:
        balanced: Shares of the last epoch, float64 [rows].
        epoch: From 0; later than the last stays balanced.
        epochs: Epochs of the training. With 1, all rows are alike.

    Returns:
        Float64 [rows], adding up to 1.

    Example:
        >>> progressive_shares(np.array([0.75, 0.25]), epoch=1, epochs=3)
        array([0.625, 0.375])

    References:
        kang2020, eq. 2.
    """
    done = min(epoch / (epochs - 1), 1.0) if epochs > 1 else 0.0
    return (1.0 - done) / len(balanced) + done * balanced


def repeat_factors(fold: TrainFold, *, threshold: float, cap: float) -> np.ndarray:
    """Compute how often each row is repeated: the most that any of its classes asks for, max(1, √(threshold / π_c)).

    Args:
        fold: The train rows; π_c is the share of assessed rows that show the class.
        threshold: Prevalence, in (0, 1], under which a class is repeated.
        cap: Most repeats, >= 1.

    Returns:
        Float64 [rows], in [1, cap].

    References:
        gupta2019, "repeat factor sampling".
    """
    prevalence = fold.prevalence
    wanted = np.sqrt(threshold / np.where(prevalence > 0, prevalence, 1.0))
    highest = np.where(fold.is_positive, wanted, 1.0).max(axis=1)
    return np.asarray(highest.clip(1.0, cap))


@final
@dataclass(frozen=True)
class Plan:
    """What all classic samplers have in common.

    Attributes:
        kind: The config's `kind`.
        fold: The rows to draw from.
        seed: The run's seed.
        epoch_rows: Draws an epoch, at least 1.
    """

    kind: str
    fold: TrainFold
    seed: int
    epoch_rows: int

    def random(self, epoch: int) -> np.random.Generator:
        """Return the stream of one epoch."""
        assert epoch >= 0, epoch
        return stream(self.seed, "sampler", epoch)

    def state(self) -> dict[str, Any]:
        """Describe the plan in plain values; draws follow from it and the epoch alone."""
        return {
            "kind": self.kind,
            "seed": self.seed,
            "train_rows": len(self.fold.rows),
            "epoch_rows": self.epoch_rows,
        }

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Check that a state was saved under this plan.

        Raises:
            MedtailError: It was not; every difference is named.
        """
        ours = self.state()
        differing = [key for key in ours if state.get(key) != ours[key]]
        if differing:
            listed = ", ".join(f"{key} {state.get(key)!r} (here {ours[key]!r})" for key in differing)
            raise MedtailError(
                f"sampler state: found {listed}; expected the state of this run's own sampler."
                " Resume with the config and the manifest of the run that was stopped."
            )


def running_rows(
    rows: np.ndarray, *, first: int, length: int, shuffler: Callable[[int], np.random.Generator]
) -> np.ndarray:
    """Cut a stretch out of permutations laid end to end, in which every row comes once before any comes again.

    Args:
        rows: What is permuted, int64 [n], n >= 1.
        first: Where the stretch begins, counted from the first permutation.
        length: How long it is; may be 0.
        shuffler: The random stream of each permutation, by its number.

    Returns:
        int64 [length].

    Example:
        >>> numbers = running_rows(np.arange(3), first=2, length=4, shuffler=np.random.default_rng)
        >>> len(numbers), sorted(numbers[1:].tolist())
        (4, [0, 1, 2])
    """
    count = len(rows)
    passes = range(first // count, -(-(first + length) // count))
    if not length:
        return rows[:0]
    shuffled = np.concatenate([shuffler(number).permutation(rows) for number in passes])
    start = first - passes[0] * count
    return np.asarray(shuffled[start : start + length])


@final
class UniformSampler(Sampler):
    """Every train row once before any comes again: permutations end to end, cut into epochs."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.rows = plan.fold.rows

    def draw(self, epoch: int) -> np.ndarray:
        """Draw an epoch: one permutation, where an epoch is as long as the train fold."""
        length = self._plan.epoch_rows
        return running_rows(self.rows, first=epoch * length, length=length, shuffler=self._plan.random)

    def frequencies(self, epoch: int) -> np.ndarray:
        """Promise the same share to every row."""
        return np.full(len(self.rows), 1.0 / len(self.rows))

    def state_dict(self) -> dict[str, Any]:
        """Return the plan; there is no other state."""
        return self._plan.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Check that the state is of the same plan.

        Raises:
            MedtailError: It is not.
        """
        self._plan.check_state(state)


@final
class WeightedSampler(Sampler):
    """Draws with replacement, each row with its share of the epoch."""

    def __init__(self, plan: Plan, *, shares: Callable[[int], np.ndarray]) -> None:
        """Draw by the shares, float64 [train rows] adding up to 1, that a function gives for an epoch."""
        self._plan = plan
        self._shares = shares
        self.rows = plan.fold.rows

    def draw(self, epoch: int) -> np.ndarray:
        """Draw an epoch of independent picks."""
        random = self._plan.random(epoch)
        return np.asarray(random.choice(self.rows, size=self._plan.epoch_rows, p=self._shares(epoch)))

    def frequencies(self, epoch: int) -> np.ndarray:
        """Promise each row its share."""
        return np.asarray(self._shares(epoch))

    def state_dict(self) -> dict[str, Any]:
        """Return the plan; there is no other state."""
        return self._plan.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Check that the state is of the same plan.

        Raises:
            MedtailError: It is not.
        """
        self._plan.check_state(state)


@final
class RepeatSampler(Sampler):
    """Repeats each row as often as its factor says, scaled to the length of an epoch, in random order.

    A row due 2.3 times is drawn 2 or 3 times: fractions are rounded by one random offset over the rows in random
    order, so that every expectation is exact and every epoch has the same length.
    """

    def __init__(self, plan: Plan, *, factors: np.ndarray) -> None:
        """Repeat by factors, float64 [train rows], > 0; only their ratios matter."""
        self._plan = plan
        self._expected: np.ndarray = factors / factors.sum()
        self.rows = plan.fold.rows

    def draw(self, epoch: int) -> np.ndarray:
        """Draw an epoch."""
        random = self._plan.random(epoch)
        order = random.permutation(len(self.rows))
        ends = np.cumsum(self._expected[order]) * self._plan.epoch_rows
        ends[-1] = self._plan.epoch_rows  # the sum's last digits must not decide whether a draw is lost
        marks = np.minimum(np.floor(ends + random.random()), self._plan.epoch_rows).astype(np.int64)
        repeats = np.diff(marks, prepend=0)
        return random.permutation(np.repeat(self.rows[order], repeats))

    def frequencies(self, epoch: int) -> np.ndarray:
        """Promise each row its factor's share."""
        return self._expected.copy()

    def state_dict(self) -> dict[str, Any]:
        """Return the plan; there is no other state."""
        return self._plan.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Check that the state is of the same plan.

        Raises:
            MedtailError: It is not.
        """
        self._plan.check_state(state)
