"""One training step, one tune step: the diagnoser and its loss as Lightning runs them.

Everything random in a step is a pure function of (seed, epoch, step, process), so a run that was cut off and goes
on draws what it would have drawn. Learning rates are pure functions of the step, so no scheduler has state.
"""

from __future__ import annotations

import copy
from typing import Any, final

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from medtail.errors import MedtailError, listing
from medtail.losses.contract import Loss, masked_mean
from medtail.models.diagnoser import Diagnoser
from medtail.pixels.augment import apply_augmentation, draw_augmentation
from medtail.pixels.dataset import Batch, to_float
from medtail.seeding import stream, stream_seed
from medtail.tables.manifest import Manifest
from medtail.training.config import TrainConfig
from medtail.training.schedule import parameter_groups, rate_factor


@final
class TrainingModule(pl.LightningModule):
    """A diagnoser in training.

    Args:
        diagnoser: The model.
        loss: What is minimised.
        config: The training's config.
        manifest: The rows batches refer to, to name them in messages.
        first_epoch: Epochs already done by the run that this one continues.
        steps_per_epoch: Steps of an epoch.
    """

    def __init__(
        self,
        diagnoser: Diagnoser,
        loss: Loss,
        *,
        config: TrainConfig,
        manifest: Manifest,
        first_epoch: int,
        steps_per_epoch: int,
    ) -> None:
        super().__init__()
        self.diagnoser = diagnoser
        self.loss = loss
        self.averaged: Diagnoser | None = None
        if config.optimizer.ema_decay is not None:
            self.averaged = copy.deepcopy(diagnoser).eval().requires_grad_(False)
        self.config = config
        self.rows_of = manifest
        self.first_epoch = first_epoch
        self.steps_per_epoch = steps_per_epoch
        self.steps_done = first_epoch * steps_per_epoch
        self.epoch_losses: list[Tensor] = []
        self.tune_shares: list[Tensor] = []
        self.moments: dict[int, dict[str, Tensor]] | None = None

    @property
    def epoch(self) -> int:
        """Epoch of the whole run, from 0, whether or not it was resumed."""
        return self.first_epoch + int(self.current_epoch)

    @property
    def judged(self) -> Diagnoser:
        """The model that is judged and kept: the moving average where there is one."""
        return self.averaged if self.averaged is not None else self.diagnoser

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Make AdamW with layer-wise rates, in the state of the run that is continued."""
        groups = parameter_groups(self.diagnoser.layer_groups(), self.config.optimizer)
        optimizer = torch.optim.AdamW(groups, fused=True)
        if self.moments is not None:
            optimizer.load_state_dict({"state": self.moments, "param_groups": optimizer.state_dict()["param_groups"]})
            _match_layouts(optimizer)
            self.moments = None
        return optimizer

    def on_train_epoch_start(self) -> None:
        """Let only the head learn in the first epochs, if asked."""
        is_frozen = self.epoch < self.config.optimizer.freeze_epochs
        self.diagnoser.backbone.requires_grad_(not is_frozen)
        self.epoch_losses = []

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set what depends on the step: modes, learning rates, and the generators of dropout."""
        del batch
        self.diagnoser.train()
        if self.epoch < self.config.optimizer.freeze_epochs:
            self.diagnoser.backbone.eval()  # a frozen backbone keeps its running statistics too
        settings = self.config.optimizer
        factor = rate_factor(
            self.steps_done,
            total_steps=settings.epochs * self.steps_per_epoch,
            warmup=settings.warmup,
            final_rate=settings.final_rate,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_rate"] * factor
        if getattr(self.config.backbone, "weights", None) is None:
            set_norm_momentum(self.diagnoser, step=self.steps_done)
        # dropout and drop-connect use torch's global generators; nothing else in a step does
        torch.manual_seed(self._seed("step", batch_idx))

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer Lightning runs."""
        optimizer = self.trainer.optimizers[0]
        assert isinstance(optimizer, torch.optim.Optimizer)
        return optimizer

    def _seed(self, purpose: str, batch_idx: int) -> int:
        return stream_seed(self.config.seed, purpose, self.epoch, batch_idx, self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Augment, mix, and compute the loss.

        Raises:
            MedtailError: The loss is not finite; the rows of the batch are named.
        """
        images, targets = self._prepare(to_float(batch["images"])), batch["targets"]
        generator = torch.Generator().manual_seed(self._seed("augment", batch_idx))
        drawn = draw_augmentation(len(images), self.config.augment, generator=generator, size_px=images.shape[-1])
        images = self._prepare(apply_augmentation(images, drawn))
        if self.config.optimizer.mixup > 0:
            images, targets = self._mix(images, targets, batch_idx)
        logits = self.diagnoser(images)
        progress = self.steps_done / (self.config.optimizer.epochs * self.steps_per_epoch)
        value = masked_mean(self.loss, logits.float(), targets, progress=progress)
        if not bool(torch.isfinite(value)):
            self._refuse(batch, float(value.detach()))
        self.epoch_losses.append(value.detach())
        return value

    def _prepare(self, images: Tensor) -> Tensor:
        if self.diagnoser.backbone.is_convolutional:
            return images.contiguous(memory_format=torch.channels_last)
        return images

    def _mix(self, images: Tensor, targets: Tensor, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Mix each image with another; a label not assessed in either is not assessed in the mixture.

        References:
            zhang2018.
        """
        random = stream(self.config.seed, "mixup", self.epoch, batch_idx, self.global_rank)
        alpha = self.config.optimizer.mixup
        share = float(random.beta(alpha, alpha))
        partners = torch.from_numpy(random.permutation(len(images))).to(images.device)
        return share * images + (1 - share) * images[partners], share * targets + (1 - share) * targets[partners]

    def _refuse(self, batch: Batch, value: float) -> None:
        rows = batch["rows"].cpu().numpy()
        ids = listing([repr(str(self.rows_of.frame["image_id"].iloc[row])) for row in rows], limit=8)
        raise MedtailError(
            f"epoch {self.epoch + 1}, step {self.steps_done % self.steps_per_epoch + 1}: the loss is"
            f" {value!r}; expected a finite number. The batch held images {ids} of {self.rows_of.name}."
            " Lower optimizer.learning_rate or set optimizer.gradient_clip; the state of the last whole epoch is kept,"
            " and `medtail train --resume` would go on from there."
        )

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Count the step and move the average."""
        del outputs, batch, batch_idx
        self.steps_done += 1
        decay = self.config.optimizer.ema_decay
        if self.averaged is not None and decay is not None:
            update_average(self.averaged, self.diagnoser, decay=warm_decay(decay, step=self.steps_done))

    def on_validation_epoch_start(self) -> None:
        """Begin a new pass over the tune fold."""
        self.tune_shares = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score a batch of the tune fold with the judged model, in eval mode."""
        del batch_idx
        images = self._prepare(to_float(batch["images"]))
        self.tune_shares.append(self.judged.eval().scores(images))


def set_norm_momentum(model: nn.Module, *, step: int, lowest: float = 0.01) -> None:
    """Let running statistics of a network from scratch follow its first steps.

    With a momentum of 0.01 they would for hundreds of steps be a mixture with their initial values; they average over
    about the last tenth of the steps instead, until that is 100 steps.

    Example:
        >>> norm = nn.BatchNorm2d(1)
        >>> set_norm_momentum(norm, step=90)
        >>> norm.momentum
        0.09
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = max(lowest, 9.0 / (10.0 + step))


def warm_decay(decay: float, *, step: int) -> float:
    """Return the decay of a moving average at a step, from 1: small at first, so that it forgets the start.

    Example:
        >>> warm_decay(0.99, step=1), warm_decay(0.99, step=10_000)
        (0.18181818181818182, 0.99)
    """
    return min(decay, (1.0 + step) / (10.0 + step))


@torch.no_grad()
def update_average(averaged: nn.Module, model: nn.Module, *, decay: float) -> None:
    """Move every floating-point tensor of `averaged` to decay · itself + (1 - decay) · the model's; copy the others."""
    targets, sources = [], []
    for kept, new in zip(averaged.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            targets.append(kept)
            sources.append(new.detach())
        else:
            kept.copy_(new)
    torch._foreach_lerp_(targets, sources, 1.0 - decay)


def _match_layouts(optimizer: torch.optim.Optimizer) -> None:
    """Give loaded moments their parameters' memory layout, without which the fused step differs or fails."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.ndim:
                state[name] = torch.empty_like(parameter).copy_(value)
