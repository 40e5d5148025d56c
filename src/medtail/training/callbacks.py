"""What happens at the end of an epoch: judge on tune, log, keep the state and the best weights, stop early.

Lightning runs the loop and moves the batches; this callback keeps the run. All decisions are made from numbers that
every process has, all files are written by the first.
"""

from __future__ import annotations

import csv
import io
import math
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import lightning.pytorch as pl
import numpy as np
import torch
from torch import nn

from medtail.crew import dealt, gathered
from medtail.errors import MedtailError
from medtail.judging.metrics import average_precision
from medtail.pixels.dataset import Batch, PixelBatches
from medtail.pixels.masks import MaskStore
from medtail.pixels.store import PixelStore
from medtail.runs import write_text
from medtail.sampling.contract import Feedback, Sampler, shard
from medtail.tables.manifest import Manifest
from medtail.tables.studies import gather_studies
from medtail.tables.views import aggregate_views
from medtail.training.config import TrainConfig
from medtail.training.module import TrainingModule
from medtail.training.progress import EpochReport
from medtail.training.quality import decoded_f1
from medtail.training.schedule import rate_factor
from medtail.training.state import Progress, optimizer_tensors, with_prefix, write_state
from medtail.training.watching import tell_epoch

LAST, BEST = "last/state.safetensors", "last/best.safetensors"


@final
@dataclass(frozen=True)
class Feed:
    """Where the batches of a training come from.

    Attributes:
        manifest: Train and tune rows, with the classes to learn.
        store: Their pixels, row for row.
        sampler: Which train rows an epoch shows.
        steps: Steps an epoch.
        draws: Rows an epoch.
        world_size: Processes sharing them.
        masks: Lesions of the train rows, where a training asks for them.
        targets: What is learnt from, [rows, classes], where that is more than the labels; None for these.
    """

    manifest: Manifest
    store: PixelStore
    sampler: Sampler
    steps: int
    draws: int
    world_size: int
    masks: MaskStore | None = None
    targets: np.ndarray | None = None

    @property
    def tune_rows(self) -> np.ndarray:
        """Rows of the tune fold, ascending."""
        return np.flatnonzero(self.manifest.folds == "tune")

    @property
    def real_train_rows(self) -> np.ndarray:
        """Rows of real images of the train fold, ascending; those of all its images where none is real."""
        is_train = self.manifest.folds == "train"
        is_real = is_train & self.manifest.is_real
        return np.flatnonzero(is_real if is_real.any() else is_train)

    def train_batches(self, *, rank: int) -> PixelBatches:
        """Return the batches of one process, all of one size, so that no norm ever sees a leftover image."""
        size = -(-self.draws // (self.steps * self.world_size))

        def share(drawn: np.ndarray) -> np.ndarray:
            return shard(drawn, rank=rank, world_size=self.world_size, batch_size=size)

        return PixelBatches(
            self.store,
            self.manifest.targets if self.targets is None else self.targets,
            batch_size=size,
            rows=lambda epoch: share(self.sampler.draw(epoch)),
            streams=lambda epoch: share(self.sampler.streams(epoch)),
        )

    def tune_batches(self, *, rank: int, batch_size: int = 64) -> PixelBatches:
        """Return one process's share of the tune fold."""
        rows = shard(self.tune_rows, rank=rank, world_size=self.world_size)
        return PixelBatches(self.store, self.manifest.targets, batch_size=batch_size, rows=rows)


def tune_quality(scores: np.ndarray, targets: np.ndarray) -> tuple[float | None, int]:
    """Return the mean average precision over the classes that can be judged, and how many they are.

    A class counts that has assessed positives and negatives. Without any there is no value, rather than 0.

    Args:
        scores: float [N, C] in [0, 1].
        targets: [N, C] in {0, 1, NaN}.

    Example:
        >>> tune_quality(np.array([[0.9, 0.1], [0.1, 0.1]]), np.array([[1.0, 0.0], [0.0, 0.0]]))
        (1.0, 1)
    """
    values = [
        average_precision(scores[:, c], targets[:, c])
        for c in range(targets.shape[1])
        if (targets[:, c] == 1).any() and (targets[:, c] == 0).any()
    ]
    return (float(np.mean(values)), len(values)) if values else (None, 0)


@final
class RunKeeper(pl.Callback):
    """Keep a run's log, state and best weights, and stop it early.

    Args:
        run: The run folder.
        config: The training's config.
        feed: Where batches come from.
        progress: How far the run was when this process began.
        report: Told how it goes.
    """

    def __init__(self, run: Path, *, config: TrainConfig, feed: Feed, progress: Progress, report: EpochReport) -> None:
        self.run = run
        self.config = config
        self.feed = feed
        self.progress = progress
        self.report = report
        self._epoch_began = time.perf_counter()
        self._studies: np.ndarray | None = None
        if config.optimizer.tune_by == "study":
            self._studies = gather_studies(feed.manifest.take(feed.tune_rows)).member

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the epoch's rows."""
        assert isinstance(pl_module, TrainingModule)
        self._epoch_began = time.perf_counter()
        batches = trainer.train_dataloader
        assert isinstance(batches, PixelBatches)
        batches.set_epoch(pl_module.epoch)
        if self.feed.world_size > 1:
            check_alike(pl_module, self.feed.sampler.draw(pl_module.epoch), epoch=pl_module.epoch)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Show the step."""
        del trainer, outputs, batch
        assert isinstance(pl_module, TrainingModule)
        loss = float(pl_module.epoch_losses[-1])
        self.report.step(epoch=pl_module.epoch, step=batch_idx, steps=self.feed.steps, loss=loss)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge, log, keep, and decide whether to go on."""
        assert isinstance(pl_module, TrainingModule)
        epoch = pl_module.epoch
        scores, targets = self._tune_scores(pl_module), self.feed.manifest.targets[self.feed.tune_rows]
        if self._studies is not None:
            scores = aggregate_views(scores, self._studies)
        quality, classes = tune_quality(scores, targets)
        seconds = time.perf_counter() - self._epoch_began
        settings = self.config.optimizer
        by_f1 = (
            {"tune_f1": decoded_f1(scores, targets, self.feed.manifest.labels)} if settings.keep == "best_f1" else {}
        )
        factor = rate_factor(
            pl_module.steps_done - 1,
            total_steps=settings.epochs * self.feed.steps,
            warmup=settings.warmup,
            final_rate=settings.final_rate,
        )
        row: dict[str, float | int | None] = {
            "epoch": epoch + 1,
            "train_loss": pl_module.mean_loss(),
            "tune_map": quality,
            "tune_classes": classes,
            **by_f1,
            "learning_rate": settings.learning_rate * factor,
            **pl_module.mean_parts(),
            **self.feed.sampler.facts(epoch),
            "seconds": round(seconds, 3),
        }
        if self.feed.sampler.observes:
            self.feed.sampler.observe(self._feedback(pl_module))
        self.progress = self.progress.after_epoch(
            row, tune_map=quality, seconds=seconds, sampler=self.feed.sampler.state_dict(), keep=settings.keep,
            tune_f1=by_f1.get("tune_f1"),
        )  # fmt: skip
        is_best = self.progress.best_epoch == epoch
        patience = settings.patience
        assert self.progress.best_epoch is not None
        if patience is not None and epoch - self.progress.best_epoch >= patience:
            self.progress = replace(self.progress, is_stopped=True)
            trainer.should_stop = True
        if trainer.is_global_zero:
            self._write(pl_module, is_best=is_best)
            for logger in trainer.loggers:
                logger.log_metrics({k: v for k, v in row.items() if v is not None and k != "epoch"}, step=epoch + 1)
        shown = "not defined" if quality is None else f"{quality:.3f}"
        shown += f", F1 {by_f1['tune_f1']:.3f}" if by_f1.get("tune_f1") is not None else ""
        star = " *" if is_best else ""
        self.report.epoch(
            f"epoch {epoch + 1}/{settings.epochs}: loss {row['train_loss']:.4f}, tune mAP {shown}"
            f" ({classes} classes){star}"
        )
        tell_epoch(row)

    def _write(self, module: TrainingModule, *, is_best: bool) -> None:
        write_epoch(
            self.run,
            progress=self.progress,
            network=module.diagnoser,
            averaged=module.averaged,
            objective=module.objective,
            optimizer=module.optimizer,
            best=module.judged if is_best else None,
        )

    def _feedback(self, module: TrainingModule) -> Feedback:
        """Put together what all processes saw of the epoch's rows, in the order of the draw."""
        facts = dealt(torch.cat(module.row_facts))[: self.feed.draws].double().cpu().numpy()
        return Feedback(
            rows=facts[:, 0].astype(np.int64),
            losses=facts[:, 1],
            streams=facts[:, 2].astype(np.int64),
            epoch=module.epoch,
        )

    def _tune_scores(self, module: TrainingModule) -> np.ndarray:
        """Put the processes' shares of the tune fold together, in the fold's order."""
        shares = dealt(torch.cat(module.tune_shares))[: len(self.feed.tune_rows)]
        scores: np.ndarray = shares.double().cpu().numpy()
        return np.clip(scores, 0.0, 1.0) if np.isfinite(scores).all() else _refuse_scores(module.epoch)


def check_alike(module: TrainingModule, draws: np.ndarray, *, epoch: int) -> None:
    """Check that all processes drew the same rows for an epoch.

    Raises:
        MedtailError: They did not; their data or their samplers' states differ.
    """
    own = torch.tensor(zlib.crc32(np.ascontiguousarray(draws, dtype="<i8").tobytes()), device=module.device)
    if bool((gathered(own) != own).any()):
        raise MedtailError(
            f"epoch {epoch + 1}: the processes drew different rows; expected the same draw in all of them, of which"
            " each takes its share. Check that all machines run one version of medtail and numpy on the same data."
        )


def _refuse_scores(epoch: int) -> np.ndarray:
    raise MedtailError(
        f"epoch {epoch + 1}: the model gives scores on tune that are no numbers; its weights have diverged. Lower"
        " optimizer.learning_rate; the state of the epoch before is kept."
    )


def write_epoch(
    folder: Path,
    *,
    progress: Progress,
    network: nn.Module,
    averaged: nn.Module | None,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    best: nn.Module | None,
) -> None:
    """Write what a finished epoch has left: best weights, the state to go on from, the log.

    Args:
        folder: The run.
        progress: After the epoch.
        network: What learns.
        averaged: Its moving average; None where there is none.
        objective: With parameters and states of its own.
        optimizer: Of the network.
        best: What is kept if this epoch is the best so far; None if it is not.
    """
    # the best weights go first: should a kill fall between, the state still tells of the epoch before, and running
    # that epoch again writes the same best weights
    if best is not None:
        write_state(folder / BEST, tensors=best.state_dict(), progress=progress)
    tensors = with_prefix(network.state_dict(), "model")
    if averaged is not None:
        tensors |= with_prefix(averaged.state_dict(), "average")
    tensors |= with_prefix(objective.state_dict(), "objective")
    tensors |= with_prefix(optimizer_tensors(optimizer), "optimizer")
    write_state(folder / LAST, tensors=tensors, progress=progress)
    write_text(folder / "log.csv", log_text(progress.log))


def log_text(rows: tuple[Mapping[str, float | int | None], ...]) -> str:
    """Return `log.csv` of the epochs done; a missing value is an empty cell.

    Example:
        >>> print(log_text(({"epoch": 1, "tune_map": None}, {"epoch": 2, "tune_map": 0.5})), end="")
        epoch,tune_map
        1,
        2,0.5
    """
    if not rows:
        return ""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {name: "" if value is None or not math.isfinite(value) else value for name, value in row.items()}
        )
    return buffer.getvalue()
