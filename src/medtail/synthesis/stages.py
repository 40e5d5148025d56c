"""One stage of training, run by Lightning step by step, kept so that a cut-off stage goes on exactly.

A step's batch and all its chance come from the step's number, so the state is what was learnt and nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from medtail.losses.finite import check_gradients, check_loss
from medtail.models.checkpoint import fill
from medtail.stopping import passed_on
from medtail.synthesis.state import LogRow, Progress, joined, moment_tensors, part, restore_moments, write_state

LossOfStep = Callable[[int], tuple[Tensor, Mapping[str, Tensor]]]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """What one stage does.

    Attributes:
        name: `autoencoder` or `denoiser`.
        model: What learns.
        loss: From a step's number, from 0, to the loss and its parts.
        steps: How many.
        learning_rate: Peak rate of AdamW.
        warmup: Steps over which the rate rises from 0.
        weight_decay: Of AdamW.
        gradient_clip: Largest norm of the gradient.
        ema_decay: Decay of the averaged weights; None keeps none.
        precision: Lightning's word for it.
        device: `cpu` or `cuda`.
        save_every: Steps between two rows of the log and two states.
        images: From a step's number to the ids of the images it learns from.
        table: Name of the table they are in.
    """

    name: str
    model: nn.Module
    loss: LossOfStep
    steps: int
    learning_rate: float
    warmup: int
    weight_decay: float
    gradient_clip: float
    ema_decay: float | None
    precision: str
    device: str
    save_every: int
    images: Callable[[int], Sequence[str]] = lambda step: ()
    table: str = ""


def run_stage(
    stage: Stage,
    *,
    path: Path,
    tensors: Mapping[str, Tensor],
    progress: Progress,
    tick: Callable[[int], None],
    say: Callable[[str], None],
) -> tuple[dict[str, Tensor], Progress]:
    """Run a stage from where it is to its end.

    Args:
        stage: What to do.
        path: Where its state is kept.
        tensors: Of a state that was kept; empty at the beginning.
        progress: How far that was.
        tick: Called with the steps done.
        say: Called with a line for each row of the log.

    Returns:
        The weights to keep (averaged where the stage averages) and the progress; both are also in the state.

    Raises:
        MedtailError: The loss or a gradient is no longer a number; the step and its images are named.
    """
    if tensors:
        fill(stage.model, part(tensors, "model"), where=str(path))
    average = part(tensors, "average") if tensors else weights_of(stage.model)
    if progress.steps_done < stage.steps:
        module = _StageModule(stage, path=path, average=average, progress=progress, tick=tick, say=say)
        module.moments = part(tensors, "optimizer")
        with quiet_lightning(), torch.random.fork_rng():
            trainer = pl.Trainer(
                accelerator="gpu" if stage.device == "cuda" else "cpu",
                devices=1,
                precision=stage.precision,  # type: ignore[arg-type] # one of Lightning's own words
                max_epochs=1,
                gradient_clip_val=stage.gradient_clip,
                deterministic="warn" if stage.device == "cuda" else None,
                benchmark=False,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                default_root_dir=path.parent,
            )
            with passed_on():
                trainer.fit(module, train_dataloaders=list(range(progress.steps_done, stage.steps)))
        average, progress = module.average, module.progress
        stage.model.to("cpu")
    return (
        {k: v.cpu() for k, v in average.items()} if stage.ema_decay is not None else weights_of(stage.model)
    ), progress


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of a model's weights."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def rate_factor(step: int, *, steps: int, warmup: int) -> float:
    """Return the factor on the peak learning rate: a linear rise, then half a cosine down to 0.

    Example:
        >>> [round(rate_factor(step, steps=12, warmup=1), 2) for step in (0, 1, 6, 11)]
        [0.5, 1.0, 0.5, 0.0]
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - 1 - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def ema_decay_at(step: int, decay: float) -> float:
    """Return the averaging's decay at a step: smaller at first, so that the initial weights are soon forgotten.

    Example:
        >>> ema_decay_at(0, 0.995), ema_decay_at(10_000, 0.995)
        (0.1, 0.995)
    """
    return min(decay, (1 + step) / (10 + step))


@final
class _StageModule(pl.LightningModule):
    """Runs the steps of a stage, averages, logs and keeps the state."""

    def __init__(
        self,
        stage: Stage,
        *,
        path: Path,
        average: dict[str, Tensor],
        progress: Progress,
        tick: Callable[[int], None],
        say: Callable[[str], None],
    ) -> None:
        super().__init__()
        self.model = stage.model
        self.stage = stage
        self.path = path
        self.average = average
        self.progress = progress
        self.moments: Mapping[str, Tensor] = {}
        self._tick, self._say = tick, say
        self._seen: list[dict[str, Tensor]] = []
        self._step = progress.steps_done
        self._began = time.perf_counter()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW, its moments as they were."""
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=self.stage.learning_rate, weight_decay=self.stage.weight_decay
        )
        if self.moments:
            restore_moments(optimizer, self.moments)
        self._optimizer = optimizer
        return optimizer

    def on_train_start(self) -> None:
        """Bring the average to the device."""
        self.average = {name: tensor.to(self.device) for name, tensor in self.average.items()}
        self._began = time.perf_counter()

    def training_step(self, step: int, batch_idx: int) -> Tensor:
        """Run one step; `step` counts from the stage's beginning."""
        del batch_idx
        factor = rate_factor(step, steps=self.stage.steps, warmup=self.stage.warmup)
        for group in self._optimizer.param_groups:
            group["lr"] = self.stage.learning_rate * factor
        loss, parts = self.stage.loss(step)
        check_loss(loss, **self._step_words(step))
        self._seen.append({"loss": loss.detach(), **parts})
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse gradients that are not finite, before they make the weights so."""
        del optimizer
        check_gradients(self.model.named_parameters(), **self._step_words(self._step))

    def _step_words(self, step: int) -> Any:
        self._step = step
        return {
            "where": f"{self.stage.name}, step {step + 1}",
            "images": lambda: self.stage.images(step),
            "table": self.stage.table,
            "advice": f"The state of step {self.progress.steps_done} is kept. Lower {self.stage.name}.learning_rate"
            " in a new training.",
        }

    def on_train_batch_end(self, outputs: Any, batch: int, batch_idx: int) -> None:
        """Average the weights; log and keep the state where it is due."""
        del outputs, batch_idx
        done = batch + 1
        if self.stage.ema_decay is not None:
            decay = ema_decay_at(batch, self.stage.ema_decay)
            current = self.model.state_dict()
            names = [name for name in self.average if self.average[name].is_floating_point()]
            torch._foreach_lerp_([self.average[n] for n in names], [current[n] for n in names], 1 - decay)
        self._tick(done)
        if done % self.stage.save_every == 0 or done == self.stage.steps:
            self._keep(done)

    def _keep(self, done: int) -> None:
        means = {name: float(torch.stack([seen[name] for seen in self._seen]).mean()) for name in self._seen[0]}
        seconds = time.perf_counter() - self._began
        row: LogRow = {
            "stage": self.stage.name,
            "step": done,
            "train_loss": means.pop("loss"),
            **{f"train_{name}": value for name, value in means.items()},
            "learning_rate": self._optimizer.param_groups[0]["lr"],
            "seconds": round(seconds, 3),
        }
        self.progress = replace(
            self.progress,
            steps_done=done,
            log=(*self.progress.log, row),
            seconds=self.progress.seconds + seconds,
        )
        groups = {"model": self.model.state_dict(), "optimizer": moment_tensors(self._optimizer)}
        if self.stage.ema_decay is not None:
            groups["average"] = self.average
        write_state(self.path, tensors=joined(**groups), progress=self.progress)
        self._seen = []
        self._say(f"{self.stage.name} {done}/{self.stage.steps}: loss {row['train_loss']:.4f}")
        self._began = time.perf_counter()


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's greetings off stderr, and its warnings that do not apply here."""
    logger = logging.getLogger("lightning.pytorch")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*LeafSpec.*deprecated", category=FutureWarning)
            # a list of step numbers is no data set that workers could load
            warnings.filterwarnings("ignore", message=r".*does not have many workers", category=UserWarning)
            warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode", category=UserWarning)
            yield
    finally:
        logger.setLevel(before)
