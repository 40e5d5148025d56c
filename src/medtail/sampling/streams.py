"""Two streams in every batch: rows as they come, and rows drawn by raked weights with an account of how hard they are.

Half of each batch is the U stream (0), a new order of all train rows each epoch. The other half is the R stream (1):
draws with replacement by the weights of `raking`, whose base leans to rows that have been hard. How hard a row is, the
*ledger* keeps: a moving average of its plain loss when the U stream shows it. Each part has a switch; with all of them
off the R half is a second U stream.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
from pydantic import Field

from medtail.config import CLOSED
from medtail.errors import MedtailError
from medtail.sampling.classic import Plan, UniformSampler
from medtail.sampling.contract import Feedback, Sampler
from medtail.sampling.raking import CAP, LEAST_EFFECTIVE, RIDGE, Raked, rake, wanted_shares
from medtail.seeding import stream
from medtail.sources.thyro_lmd import NO_FOCI

DECAY = 0.9
"""Share of the ledger that an epoch leaves."""
SUSPECT = 0.01
"""Share of the hardest rows whose labels are suspected to be wrong: they are not leant to."""


@final
@dataclass(frozen=True, kw_only=True)
class TwoStreamSamplerConfig:
    """Every batch half rows as they come, half rows by raked weights.

    An epoch shows each train row once in its first stream, so it draws twice as many rows as there are.
    `optimizer.batch_size` is the whole batch.

    Attributes:
        rake: Weigh the second stream's rows so that rare labels come more often, and common ones as often as ever.
        ledger: Lean the second stream to rows that have been hard. The account is kept either way, for those who ask.
        from_epoch: First epoch, from 0, in which the ledger is used.
        follows: Labels that follow from others outside their exclusive group and are not steered themselves.
        cap: Largest weight in units of an equal share, >= 1.
        least_effective: Least share of the rows that the weights must be worth, in [0, 1).
        rho: Ridge of the raking, > 0.
        sham: A control that must not help: `permute_weights` deals the weights out over the rows at random each
            epoch, `permute_ledger` the ledger.

    References:
        zhang2026, whose modules these are a reading of; deming1940.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    kind: Literal["two_streams"] = "two_streams"
    rake: bool = True
    ledger: bool = True
    from_epoch: Annotated[int, Field(ge=0)] = 5
    follows: tuple[str, ...] = (NO_FOCI,)
    cap: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = CAP
    least_effective: Annotated[float, Field(ge=0.0, lt=1.0)] = LEAST_EFFECTIVE
    rho: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = RIDGE
    sham: Literal["permute_weights", "permute_ledger"] | None = None

    def __post_init__(self) -> None:
        if self.sham == "permute_ledger" and not self.ledger:
            raise MedtailError("sham: 'permute_ledger' deals out a ledger that `ledger: false` has switched off.")
        if self.sham == "permute_weights" and not (self.rake or self.ledger):
            raise MedtailError(
                "sham: 'permute_weights' deals out weights that are all alike; switch rake or ledger on."
            )


def two_stream_epoch(rows: int, *, batch_size: int, world_size: int) -> tuple[int, int]:
    """Plan an epoch in which every batch of every process has as many rows of one stream as of the other.

    Args:
        rows: Rows a stream shows in an epoch, at least 1.
        batch_size: Images of all processes a step, at most.
        world_size: Processes.

    Returns:
        Draws of both streams together, and steps. Where rows do not divide, the first ones are shown once more.

    Raises:
        MedtailError: The batch is too small for an image of each stream in every process.

    Example:
        >>> two_stream_epoch(100, batch_size=64, world_size=1), two_stream_epoch(101, batch_size=64, world_size=2)
        ((200, 4), (208, 4))
    """
    half = batch_size // 2 // world_size * world_size
    if half < 1:
        raise MedtailError(
            f"optimizer.batch_size: found {batch_size!r} for {world_size} processes; a sampler of two streams expected"
            f" at least {2 * world_size}, an image of each stream in every process."
        )
    steps = -(-rows // half)
    even = -(-rows // steps)
    return 2 * steps * (-(-even // world_size) * world_size), steps


def mixed_shares(shares: np.ndarray, *, epoch_rows: int) -> np.ndarray:
    """Return how often each row is drawn when two streams share an epoch, the first having the odd draw.

    Args:
        shares: Of either stream, float64 [2, rows]; each adds up to 1.
        epoch_rows: Draws of an epoch.

    Example:
        >>> mixed_shares(np.array([[0.5, 0.5], [0.0, 1.0]]), epoch_rows=4).tolist()
        [0.25, 0.75]
    """
    first = -(-epoch_rows // 2) / epoch_rows
    return np.asarray(first * shares[0] + (1.0 - first) * shares[1])


def batch_halves(draws: int, *, steps: int) -> np.ndarray:
    """Return the stream of each draw of an epoch: 0 for the first half of every batch and 1 for the second.

    Example:
        >>> batch_halves(7, steps=2).tolist()
        [0, 0, 1, 1, 0, 0, 1]
    """
    ends = np.linspace(0, draws, steps + 1).round().astype(np.int64)
    firsts = np.linspace(0, -(-draws // 2), steps + 1).round().astype(np.int64)
    sizes, halves = np.diff(ends), np.diff(firsts)
    return np.concatenate(
        [np.repeat([0, 1], [half, size - half]) for size, half in zip(sizes, halves, strict=True)]
    ).astype(np.int64)


def hardness_factors(ledger: np.ndarray) -> np.ndarray:
    """Lean to hard rows: √ of the loss in units of the median, held between ½ and 2.

    The hardest 1 % have 1: their labels are suspected to be wrong. So have rows that were never seen.

    Args:
        ledger: Average loss of each row, float [N], NaN where never seen.

    Returns:
        float64 [N], in [√½, √2].

    Example:
        >>> hardness_factors(np.array([1.0, 1.0, 4.0, 0.81, np.nan])).round(3)
        array([1.   , 1.   , 1.414, 0.9  , 1.   ])
    """
    factors = np.ones(len(ledger))
    seen = np.flatnonzero(~np.isnan(ledger))
    if not len(seen):
        return factors
    losses = ledger[seen].astype(np.float64)
    median = float(np.median(losses))
    if median <= 0:
        return factors
    factors[seen] = np.sqrt(np.clip(losses / median, 0.5, 2.0))
    factors[seen[np.argsort(-losses, kind="stable")[: int(SUSPECT * len(seen))]]] = 1.0
    return factors


@final
class TwoStreamSampler(Sampler):
    """Batches that are half rows as they come and half rows by raked weights.

    Args:
        plan: Rows, seed and draws an epoch, of both streams together.
        config: What is switched on.
        epochs: Epochs of the training: labels go from natural to wanted shares on the way.
        steps: Batches the epoch is cut into, each [U | R] in halves; 1 if nobody says.

    Example:
        >>> import pandas as pd
        >>> from medtail.sampling.contract import train_fold
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> table = pd.DataFrame({"image_id": list("abcd"), "path": list("abcd"), "patient_id": list("1234"),
        ...                       "fold": "train", "Hernia": [1, 0, 0, 0]})
        >>> fold = train_fold(manifest_from_frame(table))
        >>> sampler = TwoStreamSampler(Plan("two_streams", fold, 0, 8), TwoStreamSamplerConfig(), epochs=2, steps=2)
        >>> sampler.streams(0).tolist(), sorted(sampler.draw(0)[sampler.streams(0) == 0].tolist())
        ([0, 0, 1, 1, 0, 0, 1, 1], [0, 1, 2, 3])
    """

    observes = True

    def __init__(self, plan: Plan, config: TwoStreamSamplerConfig, *, epochs: int, steps: int = 1) -> None:
        self._plan = plan
        self._config = config
        self._epochs = epochs
        self._steps = steps
        self.rows = plan.fold.rows
        self._uniform = UniformSampler(Plan(plan.kind, plan.fold, plan.seed, -(-plan.epoch_rows // 2)))
        # the second half of a pair that is alike in everything but its chance
        twin_seed = int(stream(plan.seed, "sampler", "second stream").integers(2**62))
        self._twin = UniformSampler(Plan(plan.kind, plan.fold, twin_seed, plan.epoch_rows // 2 or 1))
        names = plan.fold.labels.class_names
        self._follows = tuple(names.index(name) for name in config.follows if name in names)
        self._ledger = np.full(len(self.rows), np.nan, dtype=np.float32)
        self._kept: tuple[int, Raked | None, np.ndarray] | None = None

    def draw(self, epoch: int) -> np.ndarray:
        """Draw both streams and lay them into batches."""
        streams = self.streams(epoch)
        drawn = np.empty(len(streams), dtype=np.int64)
        drawn[streams == 0] = self._uniform.draw(epoch)
        count = self._plan.epoch_rows // 2
        if self._is_steered:
            random = stream(self._plan.seed, "sampler", epoch, "second stream")
            drawn[streams == 1] = random.choice(self.rows, size=count, p=self._second(epoch))
        elif count:
            drawn[streams == 1] = self._twin.draw(epoch)
        return drawn

    def streams(self, epoch: int) -> np.ndarray:
        """Return 0 for the first half of every batch and 1 for the second."""
        return batch_halves(self._plan.epoch_rows, steps=self._steps)

    def frequencies(self, epoch: int) -> np.ndarray:
        """Promise each row the mean of what its streams promise."""
        return mixed_shares(self.stream_frequencies(epoch), epoch_rows=self._plan.epoch_rows)

    def stream_frequencies(self, epoch: int) -> np.ndarray:
        """Promise each row its share of either stream, float64 [2, train rows]."""
        even = np.full(len(self.rows), 1.0 / len(self.rows))
        return np.stack([even, self._second(epoch) if self._is_steered else even])

    def facts(self, epoch: int) -> dict[str, float]:
        """Return what raking asked for and came to, for the log: wanted and reached share of every label."""
        if not self._config.rake:
            return {}
        self._second(epoch)
        assert self._kept is not None
        raked = self._kept[1]
        assert raked is not None
        found = {
            "rake_largest_weight": raked.largest,
            "rake_effective": raked.ess / len(self.rows),
            "rake_kappa": raked.kappa,
        }
        for name, wanted, reached in zip(self._plan.fold.labels.class_names, raked.wanted, raked.reached, strict=True):
            found |= {f"wanted_{name}": float(wanted), f"reached_{name}": float(reached)}
        return found

    def hardness(self) -> np.ndarray:
        """Return each row's place among all rows seen: the share that have been no harder."""
        ledger = self._ledger.astype(np.float64)
        places = np.full(len(ledger), np.nan)
        is_seen = ~np.isnan(ledger)
        ordered = np.sort(ledger[is_seen])
        places[is_seen] = np.searchsorted(ordered, ledger[is_seen], side="right") / max(len(ordered), 1)
        return places

    def observe(self, feedback: Feedback) -> None:
        """Move the ledger by the losses of the U stream; a row shown twice counts by its first showing."""
        is_read = (feedback.streams == 0) & ~np.isnan(feedback.losses)
        shown, first = np.unique(feedback.rows[is_read], return_index=True)
        places = np.searchsorted(self.rows, shown)
        assert (self.rows[places] == shown).all(), "only rows of the train fold are observed"
        losses = feedback.losses[is_read][first]
        before = self._ledger[places].astype(np.float64)
        moved = np.where(np.isnan(before), losses, DECAY * before + (1 - DECAY) * losses)
        self._ledger[places] = moved.astype(np.float32)
        self._kept = None

    @property
    def _is_steered(self) -> bool:
        return self._config.rake or self._config.ledger

    def _second(self, epoch: int) -> np.ndarray:
        """Return the R stream's weights of an epoch, float64 [train rows]."""
        if self._kept is None or self._kept[0] != epoch:
            self._kept = (epoch, *self._weigh(epoch))
        return self._kept[2].copy()

    def _weigh(self, epoch: int) -> tuple[Raked | None, np.ndarray]:
        config, fold = self._config, self._plan.fold
        base = np.ones(len(self.rows))
        if config.ledger and epoch >= config.from_epoch:
            base = hardness_factors(self._ledger)
            if config.sham == "permute_ledger":
                base = stream(self._plan.seed, "sampler", epoch, "sham").permutation(base)
        raked, weights = None, base / base.sum()
        if config.rake:
            wanted, is_steered = wanted_shares(
                fold.targets,
                groups=fold.labels.group_indices,
                follows=self._follows,
                progress=min(epoch / (self._epochs - 1), 1.0) if self._epochs > 1 else 0.0,
            )
            raked = rake(
                fold.targets,
                wanted,
                base=base,
                steered=is_steered,
                rho=config.rho,
                cap=config.cap,
                least_effective=config.least_effective,
                names=fold.labels.class_names,
            )
            weights = raked.weights
        if config.sham == "permute_weights":
            weights = stream(self._plan.seed, "sampler", epoch, "sham").permutation(weights)
        return raked, weights

    def state_dict(self) -> dict[str, Any]:
        """Return the plan and the ledger, its numbers as base64 of little-endian float32."""
        numbers = base64.b64encode(self._ledger.astype("<f4").tobytes()).decode("ascii")
        return {**self._plan.state(), "ledger": numbers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the ledger of an earlier run.

        Raises:
            MedtailError: The state is of another plan, or has no ledger for each train row.
        """
        self._plan.check_state(state)
        try:
            numbers = np.frombuffer(base64.b64decode(str(state["ledger"]), validate=True), dtype="<f4")
        except (KeyError, ValueError) as error:
            raise MedtailError(f"sampler state, ledger: is not readable ({error}). Start a new run.") from error
        if len(numbers) != len(self.rows):
            raise MedtailError(
                f"sampler state, ledger: found {len(numbers)} rows; expected {len(self.rows)}, one a train row."
            )
        self._ledger = numbers.astype(np.float32)
        self._kept = None
