"""A diagnoser under treatment: trained for some steps at given levels, read on reward rows, set back, carried on.

The steps are those of any training: the same module, objective, augmentation and optimizer, driven without Lightning,
whose set-up would cost more than the handful of steps between two decisions. The learning rate rises as the config says
over the steps of the copy that is carried through all rounds, and then stays: what levels are worth must show in a late
round as in an early one. Only rows of `train` and `reward` are here; tune and test are not loaded.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from medtail.errors import MedtailError, Problems, listing
from medtail.losses.objectives import build_objective
from medtail.models.checkpoint import fill
from medtail.pixels.dataset import Batch, PixelBatches
from medtail.pixels.store import PixelStore, open_store
from medtail.sampling.build import plan_epoch, rows_of_epoch
from medtail.sampling.classic import Plan
from medtail.sampling.contract import train_fold
from medtail.sampling.mixture import MixtureSampler, Pool, Steady, Stretch, find_pool
from medtail.sampling.policy import PolicySamplerConfig, Rounds
from medtail.sampling.policy_state import Reading, RewardConfig, agent_states, head_classes, read_scores
from medtail.seeding import stream, stream_seed
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.tail import count_classes
from medtail.training.config import TrainConfig, select_classes
from medtail.training.context import joint_counts, train_context
from medtail.training.module import TrainingModule
from medtail.training.plan import ModelPlan, measure_band
from medtail.training.predict import choose_device, score_rows
from medtail.training.state import optimizer_state, optimizer_tensors, under_prefix, with_prefix

SYNTHETIC_ROWS = 32
"""Pool rows of a class on which its loss is read, at most: one number of a state needs no more."""
THIRDS = 3


@final
@dataclass(frozen=True, eq=False)
class RewardRows:
    """Which rows reward, round by round.

    Attributes:
        fixed: Rows of the fold `reward`, int64.
        thirds: For `rotate`, the train rows that leave the mixture in rounds 0, 1 and 2 of every three; else empty.
    """

    fixed: np.ndarray
    thirds: tuple[np.ndarray, ...] = ()

    def out(self, round_number: int) -> np.ndarray:
        """Return the train rows that are left out of the mixture in a round."""
        return self.thirds[round_number % THIRDS] if self.thirds else self.fixed[:0]

    def rows(self, round_number: int) -> np.ndarray:
        """Return the rows that reward in a round, ascending."""
        return np.sort(np.concatenate([self.fixed, self.out(round_number)]))


def reward_rows(manifest: Manifest, pool: Pool, config: RewardConfig, *, seed: int) -> RewardRows:
    """Choose the rows that reward, and see that every class with an agent can be judged on them.

    Args:
        manifest: Train and reward rows.
        pool: Its pools; classes that have one have an agent.
        config: Where reward rows come from.
        seed: Deals a rotated class's patients into thirds.

    Returns:
        The rows.

    Raises:
        MedtailError: There are none, or a class has no positive among them; it is said how to make some.
    """
    fixed = np.flatnonzero(manifest.folds == "reward").astype(np.int64)
    names, is_present = manifest.labels.class_names, manifest.targets == 1
    shown = is_present[fixed].any(axis=0)
    with_agent = pool.sizes > 0
    if config.source == "fold":
        if not len(fixed):
            raise MedtailError(
                f"{manifest.name}, column 'fold': no row is in 'reward', on which the sampler 'policy' scores its"
                " copies (tune sets thresholds, so it cannot). Take some patients out of train with `medtail data split"
                f" {manifest.name} --reward 0.1 --out NEW.csv` before the generator is trained, or rotate train rows"
                " with sampler.reward.source 'rotate'."
            )
        missing = [repr(name) for name, has, seen in zip(names, with_agent, shown, strict=True) if has and not seen]
        if missing:
            raise MedtailError(
                f"{manifest.name}, fold 'reward': no image of {listing(missing)}, whose agents cannot be paid then;"
                " expected at least one of each class that has generated images. Make another reward fold, or set"
                " sampler.reward.source to 'rotate'."
            )
        return RewardRows(fixed)
    thirds: list[list[np.ndarray]] = [[] for _ in range(THIRDS)]
    problems = Problems(f"{manifest.name}, sampler.reward.source 'rotate'")
    for c, name in enumerate(names):
        if not with_agent[c]:
            continue
        rows = pool.real[is_present[pool.real, c]]
        patients = sorted(set(manifest.patients[rows].astype(str)))
        if len(patients) >= config.rotate_below and shown[c]:
            continue
        if len(patients) < THIRDS and not shown[c]:
            problems.add(
                f"class {name!r}: {len(patients)} train patients; expected at least {THIRDS}, one to reward in each of"
                " three rounds, or images of the class in the fold 'reward'."
            )
        dealt = stream(seed, "policy", "thirds", name).permutation(np.array(patients, dtype=object))
        for number in range(THIRDS):  # with all they have: a patient who rewards is not learnt from
            leaves = np.isin(manifest.patients[pool.real].astype(str), dealt[number::THIRDS].astype(str))
            thirds[number].append(pool.real[leaves])
    problems.raise_if_any()
    return RewardRows(fixed, tuple(np.unique(np.concatenate([fixed[:0], *parts])) for parts in thirds))


@final
@dataclass(frozen=True, eq=False)
class Snapshot:
    """Everything a copy is: weights, their average, the objective's own, the optimizer's moments, and its steps."""

    tensors: dict[str, Tensor]
    moments: dict[int, dict[str, Any]]
    steps: int


@final
class Course:
    """One network that can be trained at levels, read, and set back.

    Args:
        config: A training whose sampler is a policy.
        manifest: Train and reward rows.
        store: Their pixels, row for row.

    Attributes:
        rounds: How much is tried.
        pool: Real rows and pools.
        counts: Real train images of each class, int64 [classes].
        reward: Which rows reward.

    Raises:
        MedtailError: Nothing to decide, or nothing to reward with.
    """

    def __init__(self, config: TrainConfig, manifest: Manifest, store: PixelStore) -> None:
        assert isinstance(config.sampler, PolicySamplerConfig), "the caller looks"
        self.config, self.manifest, self.store = config, manifest, store
        self._fold = train_fold(manifest)
        self.pool = find_pool(manifest)
        self.reward = reward_rows(manifest, self.pool, config.sampler.reward, seed=config.seed)
        counts = count_classes(manifest)
        self.counts = np.array(counts.images)
        draws, steps = plan_epoch(
            config.sampler,
            train_rows=rows_of_epoch(config.sampler, manifest),
            epoch_rows=config.optimizer.epoch_rows,
            batch_size=config.optimizer.batch_size,
        )
        self.batch_size = -(-draws // steps)
        self.rounds = config.sampler.at(steps_per_epoch=steps)
        real = self._sampler(np.zeros(len(self.counts)), draws=draws, seed=config.seed, out=self.pool.real[:0])
        context = train_context(
            manifest,
            counts,
            sampler=real,
            draws=draws,
            epochs=config.optimizer.epochs,
            domain_column=getattr(config.objective, "domain_column", None),
        )
        objective = build_objective(config.objective, loss=config.loss, context=context)
        self.plan = ModelPlan(
            config, manifest.labels, link=objective.link, context=context, together=joint_counts(manifest)
        )
        diagnoser = self.plan.build(load_weights=True, architecture=None)
        if diagnoser.band is not None:
            measure_band(diagnoser.band, store, rows=self.pool.real, seed=config.seed)
        self.device = choose_device("cpu" if config.accelerator == "cpu" else "auto")
        # one long epoch of the carried copy's path; the rate rises and stays, or late rounds could show no difference
        optimizer = replace(config.optimizer, epochs=1, freeze_epochs=0, keep="last", patience=None, final_rate=1.0)
        self._module = TrainingModule(
            diagnoser,
            objective,
            config=replace(config, second=None, optimizer=optimizer),
            manifest=manifest,
            sampler=real,
            first_epoch=0,
            steps_per_epoch=max(self.rounds.path, 1),
        )
        self._module.to(self.device)
        if diagnoser.backbone.is_convolutional:
            self._module.to(memory_format=torch.channels_last)
        self._module.own_optimizer = self._module.configure_optimizers()
        self._synthetic = tuple(
            np.sort(stream(config.seed, "policy", "synthetic rows", name).permutation(rows)[:SYNTHETIC_ROWS])
            for name, rows in zip(self.pool.class_names, self.pool.members, strict=True)
        )

    def _sampler(self, levels: np.ndarray, *, draws: int, seed: int, out: np.ndarray) -> MixtureSampler:
        pool = self.pool.without(out) if len(out) else self.pool
        return MixtureSampler(Plan("mixture", self._fold, seed, draws), pool, Steady(Stretch(draws, levels)))

    @property
    def steps_done(self) -> int:
        """Steps the network has behind it."""
        return self._module.steps_done

    def train(self, levels: np.ndarray, *, steps: int, out: np.ndarray, purpose: tuple[object, ...]) -> None:
        """Train some steps at levels.

        Args:
            levels: Float [classes].
            steps: How many; 0 does nothing.
            out: Real train rows that are not shown.
            purpose: Names the stretch; rows, augmentation and dropout follow from it and the run's seed.

        Raises:
            MedtailError: The loss is not finite.
        """
        if not steps:
            return
        module, optimizer = self._module, self._module.optimizer
        seed = stream_seed(self.config.seed, "policy", "data", *purpose) % 2**31
        sampler = self._sampler(levels, draws=steps * self.batch_size, seed=seed, out=out)
        module.sampler, module.config = sampler, replace(module.config, seed=seed)
        module.on_train_epoch_start()
        batches = PixelBatches(
            self.store, self.manifest.targets, batch_size=self.batch_size, rows=lambda _: sampler.draw(0)
        )
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        clip = self.config.optimizer.gradient_clip
        with torch.random.fork_rng():
            for number, read in enumerate(batches):
                batch = on_device(read, self.device)
                module.on_train_batch_start(batch, number)
                with self._autocast():
                    total = module.training_step(batch, number)
                optimizer.zero_grad()
                torch.autograd.backward(total)
                module.on_before_optimizer_step(optimizer)
                if clip is not None:
                    torch.nn.utils.clip_grad_norm_(parameters, clip)
                optimizer.step()
                module.on_train_batch_end(None, batch, number)
        module.epoch_losses, module.epoch_parts = [], []

    @contextlib.contextmanager
    def _autocast(self) -> Iterator[None]:
        wanted = self.config.optimizer.precision
        if wanted == "bf16" or (wanted == "auto" and self.device.type == "cuda"):
            with torch.autocast(self.device.type, dtype=torch.bfloat16):
                yield
        else:
            yield

    def read(self, round_number: int) -> Reading:
        """Read the network as it is (not its moving average) on a round's reward rows."""
        rows = self.reward.rows(round_number)
        return read_scores(
            self._score(rows),
            self.manifest.targets[rows],
            groups=self.manifest.labels.group_indices,
            softmax=self.plan.link == "softmax",
            head=head_classes(self.counts),
        )

    def states(self, reading: Reading, *, before: np.ndarray | None, levels: np.ndarray, progress: float) -> np.ndarray:
        """Return what the agents see; see `agent_states`."""
        return agent_states(
            reading,
            before=before,
            levels=levels,
            counts=self.counts,
            loss_synthetic=self._synthetic_losses(),
            progress=progress,
        )

    def _score(self, rows: np.ndarray) -> np.ndarray:
        return score_rows(self._module.diagnoser, self.store, rows=rows, device=self.device)

    def _synthetic_losses(self) -> np.ndarray:
        return synthetic_losses(self._score, self._synthetic)

    def snapshot(self) -> Snapshot:
        """Take down everything the copy is."""
        module = self._module
        tensors = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        moments = {
            number: {name: value.clone() for name, value in state.items()}
            for number, state in enumerate(module.optimizer.state.get(p, {}) for p in self._parameters())
        }
        return Snapshot(tensors, moments, module.steps_done)

    def restore(self, snapshot: Snapshot) -> None:
        """Become that copy again."""
        module = self._module
        module.load_state_dict(snapshot.tensors)
        for number, parameter in enumerate(self._parameters()):
            if snapshot.moments[number]:
                module.optimizer.state[parameter] = {
                    name: value.clone() for name, value in snapshot.moments[number].items()
                }
            else:
                module.optimizer.state.pop(parameter, None)
        module.steps_done = snapshot.steps

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for group in self._module.optimizer.param_groups for parameter in group["params"]]

    def tensors(self) -> dict[str, Tensor]:
        """Return the network's whole state under flat names, for a resume."""
        return with_prefix(self._module.state_dict(), "module") | with_prefix(
            optimizer_tensors(self._module.optimizer), "optimizer"
        )

    def load(self, tensors: dict[str, Tensor], *, steps: int, where: str) -> None:
        """Take over the state of an earlier process."""
        fill(self._module, under_prefix(tensors, "module"), where=where)
        self._module.moments = optimizer_state(under_prefix(tensors, "optimizer"))
        self._module.own_optimizer = self._module.configure_optimizers()
        self._module.steps_done = steps

    @property
    def weights(self) -> dict[str, Tensor]:
        """The network's weights as they are, which is what is read on reward rows."""
        return {
            name: tensor.detach().cpu().contiguous() for name, tensor in self._module.diagnoser.state_dict().items()
        }

    @property
    def judged_weights(self) -> dict[str, Tensor]:
        """The weights that would be kept if training ended here: of the moving average, where there is one."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self._module.judged.state_dict().items()}


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch."""
    return Batch(
        images=batch["images"].to(device),
        targets=batch["targets"].to(device),
        rows=batch["rows"].to(device),
        streams=batch["streams"].to(device),
        content=batch["content"].to(device),
    )


def synthetic_losses(score: Any, rows_of_classes: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return the mean -log score of each class on its pool rows, float64 [classes]; NaN without a pool.

    Args:
        score: Rows to scores [n, classes].
        rows_of_classes: Pool rows of each class.
    """
    found = np.full(len(rows_of_classes), np.nan)
    rows = np.concatenate(rows_of_classes)
    if not len(rows):
        return found
    owner = np.repeat(np.arange(len(rows_of_classes)), [len(part) for part in rows_of_classes])
    own = np.maximum(score(rows)[np.arange(len(rows)), owner], np.exp(-20.0))
    for number in np.unique(owner):
        found[number] = float(-np.log(own[owner == number]).mean())
    return found


def open_course(config: TrainConfig, *, progress: Any = None) -> Course:
    """Read a training's manifest and pixels and set its course up.

    Args:
        config: A training whose sampler is a policy.
        progress: Told of images prepared, (done, total).

    Raises:
        MedtailError: The manifest or its images are not usable, there is nothing to decide or to reward with, or no GPU
            where one was asked for.
    """
    if config.accelerator == "gpu" and not torch.cuda.is_available():
        raise MedtailError("accelerator: found 'gpu', but torch sees no CUDA device here; use 'auto' or 'cpu'.")
    table = select_classes(read_manifest(config.manifest, groups=config.groups), config.classes)
    table.check_folds("train")
    is_assessed = (~np.isnan(table.targets)).any(axis=1)
    manifest = table.take(np.isin(table.folds.astype(str), ("train", "reward")) & is_assessed)
    cache = None if config.cache is None else Path(config.cache)
    return Course(config, manifest, open_store(manifest, config.pixels, cache=cache, progress=progress))


@contextlib.contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Have a GPU compute the same way every time, as the training proper does."""
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def rounds_of(config: TrainConfig, *, train_rows: int) -> Rounds | None:
    """Return how much a training's policy tries; None where its sampler is no policy.

    Args:
        config: The training.
        train_rows: Real rows of its train fold.
    """
    if not isinstance(config.sampler, PolicySamplerConfig):
        return None
    _, steps = plan_epoch(
        config.sampler,
        train_rows=train_rows,
        epoch_rows=config.optimizer.epoch_rows,
        batch_size=config.optimizer.batch_size,
    )
    return config.sampler.at(steps_per_epoch=steps)
