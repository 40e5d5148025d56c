"""Training of one network: a config becomes a run folder.

    RUN/config.yaml               the resolved config, which can be run again
    RUN/run.json                  written last, so a run that has it is finished: digests, versions, timings, command
    RUN/log.csv                   a row an epoch
    RUN/model/                    the best epoch's model: model.safetensors and card.json with thresholds from tune
    RUN/predictions_tune.parquet  its scores on tune
    RUN/last/state.safetensors    what `--resume` goes on from: weights, average, optimizer, progress
    RUN/last/best.safetensors     the best epoch's weights so far

The test fold is not touched: its rows are left out before pixels are prepared.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import lightning.pytorch as pl
import numpy as np
import torch

from medtail.config import config_to_dict, dump_yaml, read_yaml
from medtail.errors import MedtailError, Problems, UsageError
from medtail.judging.thresholds import choose_thresholds
from medtail.losses.objective import Objective
from medtail.losses.objectives import build_objective
from medtail.models.checkpoint import ModelCard, ModelParts, fill, save_model
from medtail.models.ensembles import check_model
from medtail.pixels.masks import open_masks
from medtail.pixels.store import open_store
from medtail.runs import digest_json, new_folder, read_json, versions, write_json, write_text
from medtail.sampling.build import build_sampler, plan_epoch, rows_of_epoch
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.tail import ClassCounts, count_classes
from medtail.training.callbacks import BEST, LAST, Feed, RunKeeper, log_text
from medtail.training.config import TrainConfig, portable, select_classes
from medtail.training.context import joint_counts, train_context
from medtail.training.loggers import build_loggers, close_loggers
from medtail.training.module import TrainingModule
from medtail.training.plan import ModelPlan, measure_band
from medtail.training.policy_replay import loop_keeper, reads_reward, save_carried, settled_sampler
from medtail.training.predict import as_predictions, choose_device, score_rows
from medtail.training.progress import counter, epoch_report
from medtail.training.rows import learnt_targets, usable_rows
from medtail.training.second import Start
from medtail.training.state import Progress, optimizer_state, read_state, under_prefix
from medtail.training.tta import read_plan

FREE_TO_CHANGE = ("cache", "threads", "logging")
"""Keys a resumed run may have changed: they move no weights, or are the machine's business."""


@final
@dataclass(frozen=True)
class TrainOutcome:
    """What a training came to.

    Attributes:
        run: The run folder.
        tune_map: Mean average precision on tune of the epoch that was kept; NaN where no class could be judged.
        tune_classes: Classes it averages.
        best_epoch: The epoch that was kept, from 1.
        epochs_run: Epochs trained, over all resumptions.
        seconds: Wall-clock time of the epochs.
    """

    run: Path
    tune_map: float
    tune_classes: int
    best_epoch: int
    epochs_run: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values; a NaN is null."""
        return {
            "run": str(self.run),
            "tune_map": None if np.isnan(self.tune_map) else self.tune_map,
            "tune_classes": self.tune_classes,
            "best_epoch": self.best_epoch,
            "epochs_run": self.epochs_run,
            "seconds": round(self.seconds, 3),
        }


def train_network(
    config: TrainConfig, out: Path, *, resume: bool = False, quiet: bool = False, start: Start | None = None
) -> TrainOutcome:
    """Train one network and write its run folder; see `ensembles.train`, through which everybody calls it.

    Args:
        config: What to train, checked; `members` is 1 and there is no `second`.
        out: A new or empty folder; with `resume` the folder of a run that was cut off.
        resume: Go on from the last whole epoch.
        quiet: Show no progress.
        start: The weights to begin with; None begins as the config says.

    Returns:
        Where the run is and how good it got.

    Raises:
        UsageError: `out` is not empty, or there is nothing to resume.
        MedtailError: The manifest, its folds or images are not usable, or the training diverged.
    """
    assert config.members == 1, "an ensemble trains its members one by one"
    assert config.second is None, "stages are trained one by one"
    _check_devices(config)
    is_main = _rank() == 0  # other processes are launched by the first, after it has made the folder
    if is_main:
        prepare_folder(config, out, resume=resume)
    if resume and (out / "run.json").exists():
        return finished_outcome(out)
    table = read_manifest(config.manifest, groups=config.groups)
    chosen = select_classes(table, config.classes)
    manifest = usable_rows(chosen, with_reward=reads_reward(config.sampler), with_pseudo=config.pseudo_labels)
    counts = count_classes(manifest)
    with _threads(config.threads):
        with counter("prepare images", quiet=quiet or not is_main) as tick:
            cache = None if config.cache is None else Path(config.cache)
            store = open_store(manifest, config.pixels, cache=cache, progress=tick)
            masks = None
            if config.tail_mix is not None and config.tail_mix.paste:
                train_rows = np.flatnonzero(manifest.folds == "train")
                masks = open_masks(manifest, store, rows=train_rows, cache=cache, progress=tick)
        optimizer = config.optimizer
        sampler = settled_sampler(config, out, quiet=quiet or not is_main)
        world_size = config.devices * config.num_nodes
        draws, steps = plan_epoch(
            sampler,
            train_rows=rows_of_epoch(sampler, manifest),
            epoch_rows=optimizer.epoch_rows,
            batch_size=optimizer.batch_size,
            world_size=world_size,
        )
        feed = Feed(
            manifest=manifest,
            store=store,
            sampler=build_sampler(
                sampler, manifest, seed=config.seed, epoch_rows=draws, epochs=optimizer.epochs, steps=steps
            ),
            steps=steps,
            draws=draws,
            world_size=world_size,
            masks=masks,
            targets=learnt_targets(manifest, config),
        )
        context = train_context(
            manifest,
            counts,
            sampler=feed.sampler,
            draws=draws,
            epochs=optimizer.epochs,
            domain_column=getattr(config.objective, "domain_column", None),
        )
        objective = build_objective(config.objective, loss=config.loss, context=context)
        together = joint_counts(feed.manifest)
        plan = ModelPlan(config, feed.manifest.labels, link=objective.link, context=context, together=together)
        progress = _fit(config, out, feed, objective, plan, start=start, resume=resume, quiet=quiet or not is_main)
        if not is_main:
            return _outcome(out, progress)
        return _finish(config, out, feed, plan, counts, progress, table=table)


def _rank() -> int:
    """Return this process's number as Lightning, torchrun and SLURM tell it."""
    found = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return next((int(value) for value in found if value is not None), 0)


def _check_devices(config: TrainConfig) -> None:
    if config.optimizer.freeze_epochs and config.devices * config.num_nodes > 1:
        raise MedtailError(
            f"optimizer.freeze_epochs: found {config.optimizer.freeze_epochs} with several devices, which need every"
            " weight in every step; expected 0. Freeze on one device, or use optimizer.backbone_factor."
        )
    if config.accelerator == "gpu" and not torch.cuda.is_available():
        raise MedtailError("accelerator: found 'gpu', but torch sees no CUDA device here; use 'auto' or 'cpu'.")


def prepare_folder(config: TrainConfig, out: Path, *, resume: bool) -> None:
    """Make the run folder, or check that the given one is of this very config.

    Raises:
        UsageError: The folder is not empty, is of no run, or of a run with another config.
    """
    path = out / "config.yaml"
    if not resume:
        new_folder(out)
        write_text(path, dump_yaml(portable(config, folder=out)))
        return
    if not path.exists():
        raise UsageError(f"--resume {out}: no config.yaml; expected the folder of a run that was cut off.")
    before, now = read_yaml(path), portable(config, folder=out)
    problems = Problems(f"--resume {out}")
    for key in sorted(before.keys() | now.keys()):
        if key not in FREE_TO_CHANGE and before.get(key) != now.get(key):
            problems.add(f"{key}: found {now.get(key)!r}; the run began with {before.get(key)!r}. Start a new run.")
    problems.raise_if_any(kind=UsageError)


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fit(
    config: TrainConfig,
    out: Path,
    feed: Feed,
    objective: Objective,
    plan: ModelPlan,
    *,
    start: Start | None,
    resume: bool,
    quiet: bool,
) -> Progress:
    """Train up to the last epoch and return how it went; the weights are on disk."""
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
            strategy=config.strategy,
            precision="bf16-mixed" if precision == "bf16" or (precision == "auto" and is_gpu) else "32-true",
            max_epochs=config.optimizer.epochs - progress.epochs_done,
            gradient_clip_val=config.optimizer.gradient_clip,
            deterministic=True if is_gpu else None,
            benchmark=False,
            log_every_n_steps=1,
            sync_batchnorm=is_gpu and feed.world_size > 1,
            use_distributed_sampler=False,
            logger=build_loggers(config.logging, out),
            callbacks=[*loop_keeper(feed, module), keeper],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=out,
        )
        try:
            trainer.fit(module, datamodule=_Batches(feed))
        finally:
            close_loggers(trainer.loggers)
    return keeper.progress


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


def _finish(
    config: TrainConfig,
    out: Path,
    feed: Feed,
    plan: ModelPlan,
    counts: ClassCounts,
    progress: Progress,
    *,
    table: Manifest,
) -> TrainOutcome:
    """Make the model folder from the best epoch, its predictions on tune, and at last `run.json`."""
    tensors, _ = read_state(out / BEST)
    diagnoser = plan.build(load_weights=False, architecture=progress.architecture)
    fill(diagnoser, tensors, where=str(out / BEST))
    manifest = feed.manifest
    tune = manifest.take(feed.tune_rows)
    config_digest = config_digest_of(config)
    outcome = _outcome(out, progress)
    card = ModelCard(
        labels=manifest.labels,
        parts=ModelParts(
            pixels=config.pixels, backbone=config.backbone, head=config.head, link=plan.link, band=config.band
        ),
        train_counts=counts,
        digests={"weights": "", "manifest": table.digest, "config": config_digest},
        seed=config.seed,
        training={
            "best_epoch": outcome.best_epoch,
            "epochs_run": outcome.epochs_run,
            "test_time_flip": config.test_time_flip,
            "tta": config.tta,
            "tune_map": outcome.to_json()["tune_map"],
        },
    )
    device = choose_device("cpu" if config.accelerator == "cpu" else "auto")
    scores = score_rows(
        diagnoser,
        feed.store,
        rows=feed.tune_rows,
        device=device,
        test_time_flip=config.test_time_flip,
        plan=read_plan(config.tta),
    )
    unchosen = as_predictions(scores, tune, card, manifest_digest=table.digest)
    card = replace(card, thresholds=choose_thresholds(unchosen))
    if (out / "model").exists():  # left by a run that was cut off just here; run.json is not there yet
        shutil.rmtree(out / "model")
    card = save_model(out / "model", diagnoser, card)
    as_predictions(scores, tune, card, manifest_digest=table.digest).write(out / "predictions_tune.parquet")
    save_carried(out, diagnoser, feed, card, table=table, device=device)
    write_text(out / "log.csv", log_text(progress.log))
    write_json(
        out / "run.json",
        {
            **{key: value for key, value in outcome.to_json().items() if key != "run"},
            "manifest": table.name,
            "manifest_digest": table.digest,
            "config_digest": config_digest,
            "weights_digest": card.digests["weights"],
            "pixels_digest": feed.store.digest,
            "train_images": int((manifest.folds == "train").sum()),
            "tune_images": len(tune),
            "device": str(device),
            "threads": torch.get_num_threads(),
            "command": " ".join(sys.argv),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "versions": versions(),
        },
    )
    return outcome


def config_digest_of(config: TrainConfig) -> str:
    """Return the digest of everything in a config that can change a result."""
    return written_digest_of(config_to_dict(config))


def written_digest_of(values: Mapping[str, Any]) -> str:
    """Return the same digest of a config as it stands in a run folder's `config.yaml`, with that day's keys."""
    # the manifest has a digest of its own: where it lies changes no result; so has a schedule that is replayed
    kept = {k: v for k, v in values.items() if k not in (*FREE_TO_CHANGE, "manifest")}
    sampler = kept.get("sampler")
    if isinstance(sampler, Mapping) and sampler.get("digest") is not None:
        kept["sampler"] = {k: v for k, v in sampler.items() if k != "schedule"}
    return digest_json(kept)


def _outcome(out: Path, progress: Progress) -> TrainOutcome:
    assert progress.best_epoch is not None, "at least one epoch was run"
    classes: Mapping[str, float | int | None] = progress.log[progress.best_epoch]
    return TrainOutcome(
        run=out,
        tune_map=float("nan") if progress.best_map is None else progress.best_map,
        tune_classes=int(classes["tune_classes"] or 0),
        best_epoch=progress.best_epoch + 1,
        epochs_run=progress.epochs_done,
        seconds=progress.seconds,
    )


def finished_outcome(out: Path) -> TrainOutcome:
    """Return what a finished run came to, of one network or of several.

    Raises:
        MedtailError: Its model folder is damaged.
    """
    check_model(out / "model")  # a damaged run must not pass as finished
    value = read_json(out / "run.json")
    return TrainOutcome(
        run=out,
        tune_map=float("nan") if value["tune_map"] is None else float(value["tune_map"]),
        tune_classes=int(value["tune_classes"]),
        best_epoch=int(value["best_epoch"]),
        epochs_run=int(value["epochs_run"]),
        seconds=float(value["seconds"]),
    )
