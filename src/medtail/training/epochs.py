"""Epochs of a training, run by Lightning in one process or in several, from where an earlier run was cut off."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy

from medtail.crew import CrewEnvironment
from medtail.models.checkpoint import fill
from medtail.processes import Place
from medtail.stopping import passed_on
from medtail.training.callbacks import LAST, Feed, RunKeeper
from medtail.training.config import TrainConfig
from medtail.training.ground import Ground
from medtail.training.loggers import build_loggers, close_loggers
from medtail.training.module import TrainingModule
from medtail.training.plan import measure_band
from medtail.training.policy_replay import loop_keeper
from medtail.training.progress import epoch_report
from medtail.training.second import Start
from medtail.training.state import Progress, optimizer_state, read_state, under_prefix


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Have torch use so many threads within the block; as many as before if None."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_epochs(
    config: TrainConfig,
    out: Path,
    ground: Ground,
    *,
    place: Place,
    start: Start | None,
    resume: bool,
    quiet: bool,
) -> Progress:
    """Train up to the last epoch; the weights are on disk.

    Args:
        config: The training's.
        out: Its run folder, which every process sees.
        ground: What it stands on.
        place: Which process this is.
        start: The weights to begin with; None begins as the config says.
        resume: Go on from the last whole epoch.
        quiet: Show no progress.

    Returns:
        How it went, the same in every process.

    Raises:
        MedtailError: The training diverged, or the state is damaged.
    """
    feed, plan, objective = ground.feed, ground.plan, ground.objective
    tensors, progress = read_state(out / LAST) if resume and (out / LAST).exists() else ({}, Progress())
    if progress.sampler:
        feed.sampler.load_state_dict(progress.sampler)
    if progress.is_stopped or progress.epochs_done >= config.optimizer.epochs:
        return progress
    architecture = progress.architecture if start is None else start.architecture
    diagnoser = plan.build(load_weights=not tensors and start is None, architecture=architecture)
    if start is not None:
        start.begin(diagnoser)
    elif diagnoser.band is not None and not tensors:
        measure_band(diagnoser.band, feed.store, rows=feed.real_train_rows, seed=config.seed)
    progress = replace(progress, architecture=diagnoser.backbone.architecture)
    module = TrainingModule(
        diagnoser,
        objective,
        config=config,
        manifest=feed.manifest,
        sampler=feed.sampler,
        first_epoch=progress.epochs_done,
        steps_per_epoch=feed.steps,
        masks=feed.masks,
    )
    if tensors:
        fill(module.diagnoser, under_prefix(tensors, "model"), where=str(out / LAST))
        if module.averaged is not None:
            fill(module.averaged, under_prefix(tensors, "average"), where=str(out / LAST))
        fill(module.objective, under_prefix(tensors, "objective"), where=str(out / LAST))
        module.moments = optimizer_state(under_prefix(tensors, "optimizer"))
    if diagnoser.backbone.is_convolutional:
        module.to(memory_format=torch.channels_last)
    is_gpu = config.accelerator != "cpu" and torch.cuda.is_available()
    precision = config.optimizer.precision
    with (
        _quiet_lightning(),
        epoch_report(epochs=config.optimizer.epochs, quiet=quiet) as report,
        torch.random.fork_rng(),
    ):
        keeper = RunKeeper(out, config=config, feed=feed, progress=progress, report=report)
        trainer = pl.Trainer(
            accelerator="gpu" if is_gpu else "cpu",
            devices=config.devices,
            num_nodes=config.num_nodes,
            strategy=build_strategy(config),
            plugins=[CrewEnvironment(place)],
            precision="bf16-mixed" if precision == "bf16" or (precision == "auto" and is_gpu) else "32-true",
            max_epochs=config.optimizer.epochs - progress.epochs_done,
            gradient_clip_val=config.optimizer.gradient_clip,
            deterministic=True if is_gpu else None,
            benchmark=False,
            log_every_n_steps=1,
            sync_batchnorm=is_gpu and feed.world_size > 1,
            use_distributed_sampler=False,
            logger=build_loggers(config.logging, out) if place.rank == 0 else False,
            callbacks=[*loop_keeper(feed, module), keeper],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=out,
        )
        try:
            with passed_on():
                trainer.fit(module, datamodule=_Batches(feed))
        finally:
            close_loggers(trainer.loggers)
    return keeper.progress


def build_strategy(config: TrainConfig) -> pl.strategies.Strategy | str:
    """Return how Lightning shares out the steps; its own choice for one process.

    Raises:
        MedtailError: A strategy that is not known here.
    """
    if config.devices * config.num_nodes == 1:
        return "auto"
    # a frozen backbone, or a part of an objective that finds no row of its kind in this process's share, has weights
    # that a step does not touch in one process and does in another
    return DDPStrategy(find_unused_parameters=True)


@final
class _Batches(pl.LightningDataModule):
    """Gives each process its share; Lightning knows the rank only once it runs."""

    def __init__(self, feed: Feed) -> None:
        super().__init__()
        self.feed = feed

    def train_dataloader(self) -> Any:
        assert self.trainer is not None
        return self.feed.train_batches(rank=self.trainer.global_rank)

    def val_dataloader(self) -> Any:
        assert self.trainer is not None
        return self.feed.tune_batches(rank=self.trainer.global_rank)


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's greetings off stderr, and its warnings that do not apply here."""
    logger = logging.getLogger("lightning.pytorch")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # raised inside Lightning by a newer torch
            warnings.filterwarnings("ignore", message=r".*LeafSpec.*deprecated", category=FutureWarning)
            # the moving average is meant to stay in eval mode
            warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode", category=UserWarning)
            yield
    finally:
        logger.setLevel(before)
