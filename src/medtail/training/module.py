"""One training step, one tune step: the diagnoser and its loss as Lightning runs them.

Everything random in a step is a pure function of (seed, epoch, step, process), so a run that was cut off and goes
on draws what it would have drawn. Learning rates are pure functions of the step, so no scheduler has state.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any, final

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn

from medtail.crew import gathered
from medtail.errors import MedtailError
from medtail.losses.build import BceConfig, build_loss
from medtail.losses.contract import DrawnCounts, LossContext, masked_row_means
from medtail.losses.finite import check_gradients, check_loss
from medtail.losses.objective import Objective, Step
from medtail.models.backbones import branch_configs
from medtail.models.diagnoser import Diagnoser
from medtail.pixels.augment import (
    AugmentConfig,
    AugmentParameters,
    apply_augmentation,
    draw_augmentation,
    warp_masks,
)
from medtail.pixels.dataset import Batch, content_masks, to_float
from medtail.pixels.masks import MaskStore
from medtail.sampling.contract import Sampler, train_fold
from medtail.seeding import stream, stream_seed
from medtail.tables.domains import domain_numbers
from medtail.tables.manifest import Manifest
from medtail.training.config import TrainConfig
from medtail.training.context import stream_counts
from medtail.training.mixing import LabelMixer, mix_images, plan_mix
from medtail.training.paste import paste, plan_paste, relative_labels
from medtail.training.schedule import parameter_groups, rate_factor
from medtail.training.tail_mix import TailMixPlan, mix_features, plan_tail_mix, strong_augmentation, tail_labels


@final
class TrainingModule(pl.LightningModule):
    """A diagnoser in training.

    Args:
        diagnoser: The model.
        objective: What is minimised.
        config: The training's config.
        manifest: The rows batches refer to.
        sampler: Who draws them; asked how hard rows have been.
        first_epoch: Epochs already done by the run that this one continues.
        steps_per_epoch: Steps of an epoch.
        masks: Lesions of the train rows, where `tail_mix.paste` asks for them.

    Attributes:
        row_facts: For each batch of the epoch float64 [B, 3]: row, plain loss, stream; only for samplers that observe.
    """

    def __init__(
        self,
        diagnoser: Diagnoser,
        objective: Objective,
        *,
        config: TrainConfig,
        manifest: Manifest,
        sampler: Sampler,
        first_epoch: int,
        steps_per_epoch: int,
        masks: MaskStore | None = None,
    ) -> None:
        super().__init__()
        self.diagnoser = diagnoser
        self.objective = objective
        self.averaged: Diagnoser | None = None
        if config.optimizer.ema_decay is not None:
            self.averaged = copy.deepcopy(diagnoser).eval().requires_grad_(False)
        self.config = config
        self.rows_of = manifest
        self.sampler = sampler
        self.first_epoch = first_epoch
        self.steps_per_epoch = steps_per_epoch
        self.steps_done = first_epoch * steps_per_epoch
        self.epoch_losses: list[Tensor] = []
        self.epoch_parts: list[Tensor] = []
        self.row_facts: list[Tensor] = []
        self.domains = torch.from_numpy(domain_numbers(manifest, column=objective.domain_column))
        self.hardness = torch.full((len(manifest),), torch.nan)
        no_counts = LossContext((0,) * diagnoser.labels.num_classes, (0,) * diagnoser.labels.num_classes, (), 0)
        self.plain_loss = build_loss(BceConfig(), no_counts)
        self.tune_shares: list[Tensor] = []
        self.drawn: tuple[DrawnCounts, ...] = ()
        self.masks = masks
        self.is_rare: Tensor | None = None
        self.is_relative: Tensor | None = None
        if config.tail_mix is not None:
            if config.tail_mix.paste and masks is None:
                raise MedtailError(
                    f"tail_mix.paste: found {config.tail_mix.paste:g} in a training that reads no masks, such as that"
                    " of a policy; expected 0."
                )
            self.is_relative = relative_labels(manifest.labels, config.tail_mix.relative)
            prevalence = train_fold(manifest).prevalence
            self.is_rare = tail_labels(prevalence, below=config.tail_mix.tail_below, labels=manifest.labels)
        self.mixer: LabelMixer | None = None
        if config.mix is not None:
            groups = manifest.labels.group_indices
            self.mixer = LabelMixer(config.mix, prevalence=train_fold(manifest).prevalence, groups=groups)
        self._shown = torch.zeros(0, dtype=torch.int64)
        self.moments: dict[int, dict[str, Tensor]] | None = None
        self.own_optimizer: torch.optim.Optimizer | None = None

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
        learning = list(self.objective.parameters())
        if learning:
            rate = self.config.optimizer.learning_rate
            groups.append({"params": learning, "lr": rate, "peak_rate": rate, "weight_decay": 0.0})
        optimizer = torch.optim.AdamW(groups, fused=True)
        if self.moments is not None:
            optimizer.load_state_dict({"state": self.moments, "param_groups": optimizer.state_dict()["param_groups"]})
            _match_layouts(optimizer)
            self.moments = None
        return optimizer

    def on_train_epoch_start(self) -> None:
        """Let only the head learn in the first epochs, if asked; ask the sampler what comes and what was hard."""
        self.drawn = stream_counts(self.sampler, self.rows_of.targets[self.sampler.rows], epoch=self.epoch)
        known = self.sampler.hardness()
        if known is not None:
            self.hardness[torch.from_numpy(self.sampler.rows)] = torch.from_numpy(known).float()
        is_frozen = self.epoch < self.config.optimizer.freeze_epochs
        self.diagnoser.backbone.requires_grad_(not is_frozen)
        self.epoch_losses, self.epoch_parts, self.row_facts = [], [], []

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set what depends on the step: modes, learning rates, and the generators of dropout."""
        self._shown = batch["rows"]
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
        if all(branch.weights is None for branch in branch_configs(self.config.backbone)):
            set_norm_momentum(self.diagnoser, step=self.steps_done)
        # dropout and drop-connect use torch's global generators; nothing else in a step does
        torch.manual_seed(self._seed("step", batch_idx))

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer Lightning runs, or `own_optimizer` where its steps are driven without Lightning."""
        optimizer = self.own_optimizer if self.own_optimizer is not None else self.trainer.optimizers[0]
        assert isinstance(optimizer, torch.optim.Optimizer)
        return optimizer

    def _seed(self, purpose: str, batch_idx: int) -> int:
        return stream_seed(self.config.seed, purpose, self.epoch, batch_idx, self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Augment, mix, and compute the objective.

        Raises:
            MedtailError: The loss is not finite; the rows of the batch are named.
        """
        plain, targets = self._prepare(to_float(batch["images"])), batch["targets"]
        content = self._content(batch)
        plan = self._plan_tail_mix(batch, batch_idx)
        if plan is not None and bool(plan.pasted.any()):
            plain, targets, content, plan = self._paste(plain, targets, content, plan, batch["rows"])
        drawn = self._draw(self.config.augment, "augment", batch_idx, like=plain)
        images = self._prepare(apply_augmentation(plain, drawn))
        moved = None if content is None else warp_masks(content.to(images.dtype), drawn)
        if plan is not None and bool(plan.strong.any()):
            images, moved = self._vary(plain, content, into=(images, moved), rows=plan.strong, batch_idx=batch_idx)
        inputs = self._prepare(self.diagnoser.inputs(images, moved))
        if self.mixer is not None:
            inputs, targets, batch = self._mix(inputs, targets, batch, batch_idx)
        features = self.diagnoser.backbone(inputs)
        if plan is not None:
            features, targets = mix_features(features, targets, plan)
        answer = self.diagnoser.head.answer(features)
        rows = batch["rows"].cpu()
        value = self.objective(
            Step(
                logits=answer.logits.float(),
                targets=targets,
                pooled=answer.pooled.float(),
                domains=self.domains[rows].to(images.device),
                streams=batch["streams"],
                hardness=self.hardness[rows].to(images.device),
                further={name: logits.float() for name, logits in answer.further.items()},
                progress=self.steps_done / (self.config.optimizer.epochs * self.steps_per_epoch),
                epoch=self.epoch,
                drawn=self.drawn,
                rows=batch["rows"] if self.objective.keeps_rows else None,
            )
        )
        total: Tensor = value.total
        if value.weight is not None and self.world_size > 1:  # the processes' labels may be unequally many
            total = total * (value.weight / gathered(value.weight).mean().clamp(min=1e-12))
        check_loss(total, **self._step_words())
        self.epoch_losses.append(total.detach())
        if self.objective.part_names:
            self.epoch_parts.append(torch.stack([value.parts[name].float() for name in self.objective.part_names]))
        if self.sampler.observes:
            losses = masked_row_means(self.plain_loss, answer.logits.detach(), batch["targets"])
            self.row_facts.append(torch.stack([batch["rows"], losses, batch["streams"]], dim=1).double())
        return total

    def _draw(self, config: AugmentConfig, purpose: str, batch_idx: int, *, like: Tensor) -> AugmentParameters:
        """Draw the augmentation of this process's images as one process would that had the batches of all."""
        size, rank = self.world_size, self.global_rank
        generator = torch.Generator().manual_seed(stream_seed(self.config.seed, purpose, self.epoch, batch_idx, 0))
        drawn = draw_augmentation(size * len(like), config, generator=generator, size_px=like.shape[-1])
        return drawn if size == 1 else drawn.select(torch.arange(rank, size * len(like), size))

    @property
    def world_size(self) -> int:
        """Processes that share each step."""
        return 1 if self._trainer is None else int(self._trainer.world_size)

    def mean_loss(self) -> float:
        """Return the mean loss of the epoch's steps, over all processes."""
        return float(gathered(torch.stack(self.epoch_losses)).mean())

    def mean_parts(self) -> dict[str, float | None]:
        """Return the mean of each of the objective's parts over the epoch's steps in which it had a value."""
        if not self.epoch_parts:
            return {}
        means = gathered(torch.stack(self.epoch_parts)).flatten(0, 1).nanmean(dim=0).tolist()
        return {
            f"train_{name}": None if math.isnan(mean) else mean
            for name, mean in zip(self.objective.part_names, means, strict=True)
        }

    def _prepare(self, images: Tensor) -> Tensor:
        if self.diagnoser.backbone.is_convolutional:
            return images.contiguous(memory_format=torch.channels_last)
        return images

    def _content(self, batch: Batch) -> Tensor | None:
        """Return where there is image and not bar, bool [B, 1, S, S]; None where nobody asks."""
        if self.diagnoser.band is None:
            return None
        return content_masks(batch["content"], size_px=batch["images"].shape[-1])

    def _plan_tail_mix(self, batch: Batch, batch_idx: int) -> TailMixPlan | None:
        config = self.config.tail_mix
        if config is None or self.is_rare is None:
            return None
        random = stream(self.config.seed, "tail mix", self.epoch, batch_idx, self.global_rank)
        return plan_tail_mix(
            batch["targets"], batch["streams"], batch["rows"], is_rare=self.is_rare, config=config, random=random,
            is_relative=self.is_relative,
        )  # fmt: skip

    def _paste(
        self, images: Tensor, targets: Tensor, content: Tensor | None, plan: TailMixPlan, rows: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None, TailMixPlan]:
        """Put lesions into other pictures; rows that find no host are augmented strongly instead."""
        assert self.masks is not None
        assert self.is_relative is not None
        masks = torch.from_numpy(self.masks.masks(rows.cpu().numpy()))
        found = plan_paste(plan.pasted, masks, rows.cpu())
        images, targets = paste(images, targets, masks.to(images.device), found, relative=self.is_relative)
        if content is not None:
            content = content.index_copy(0, found.rows.to(content.device), content[found.hosts.to(content.device)])
        done = torch.zeros_like(plan.pasted).index_fill(0, found.rows, True)
        left = plan.pasted & ~done
        return self._prepare(images), targets, content, replace(plan, strong=plan.strong | left, pasted=done)

    def _vary(
        self,
        images: Tensor,
        content: Tensor | None,
        *,
        into: tuple[Tensor, Tensor | None],
        rows: Tensor,
        batch_idx: int,
    ) -> tuple[Tensor, Tensor | None]:
        """Put strongly augmented versions of some plain images, and of their content, in the place of theirs."""
        strong = strong_augmentation(self.config.augment)
        # drawn for the whole batch, so that what a row gets does not depend on which others were chosen
        drawn = self._draw(strong, "strong augmentation", batch_idx, like=images).select(rows)
        where = rows.nonzero().flatten().to(images.device)
        varied = self._prepare(into[0].index_copy(0, where, apply_augmentation(images[where], drawn)))
        if content is None or into[1] is None:
            return varied, into[1]
        return varied, into[1].index_copy(0, where, warp_masks(content[where].to(images.dtype), drawn))

    def _mix(self, images: Tensor, targets: Tensor, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor, Batch]:
        """Mix images and labels; the batch that comes back has the rows that remain."""
        assert self.mixer is not None
        assert self.config.mix is not None
        random = stream(self.config.seed, "mixup", self.epoch, batch_idx, self.global_rank)
        plan = plan_mix(batch["streams"], config=self.config.mix, size_px=images.shape[-1], random=random)
        mixed = self._prepare(mix_images(images, plan)), self.mixer.mix(targets, plan)
        if len(plan.kept) == len(targets):
            return *mixed, batch
        kept = plan.kept.to(targets.device)
        fewer = Batch(
            images=batch["images"][kept],
            targets=batch["targets"][kept],
            rows=batch["rows"][kept],
            streams=batch["streams"][kept],
            content=batch["content"][kept],
        )
        return *mixed, fewer

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse gradients that are not finite, before they make the weights so.

        Raises:
            MedtailError: Some are not; they and the images of the batch are named.
        """
        del optimizer
        check_gradients(self.named_parameters(), **self._step_words())

    def _step_words(self) -> Any:
        kept = "the state of the last whole epoch is kept" if self.epoch else "no epoch was whole yet"
        return {
            "where": f"epoch {self.epoch + 1}, step {self.steps_done % self.steps_per_epoch + 1}",
            "images": lambda: self.rows_of.frame["image_id"].astype(str).iloc[self._shown.cpu().numpy()].tolist(),
            "table": self.rows_of.name,
            "advice": "Look at these images, or begin a new run with a lower optimizer.learning_rate or a"
            f" gradient_clip; {kept}, and a resume with this config would come to the same point.",
        }

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Count the step and move the average."""
        del outputs, batch, batch_idx
        self.objective.learn()
        self.steps_done += 1
        decay = self.config.optimizer.ema_decay
        if self.averaged is not None and decay is not None:
            update_average(self.averaged, self.diagnoser, decay=warm_decay(decay, step=self.steps_done))

    def on_validation_epoch_start(self) -> None:
        """Begin a new pass over the tune fold, with the same running statistics in every process."""
        self.tune_shares = []
        if self.world_size > 1:
            for buffer in self.buffers():
                dist.broadcast(buffer, src=0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score a batch of the tune fold with the judged model, in eval mode."""
        del batch_idx
        images = self._prepare(to_float(batch["images"]))
        self.tune_shares.append(self.judged.eval().scores(images, self._content(batch)))


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
