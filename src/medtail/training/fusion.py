"""Training of a study fusion: the second stage whose rows are studies.

    RUN/stages/first/          the first stage, where it is trained here; else `second.init` names it
    RUN/stages/second/         maps.npy while it trains (feature maps of the frozen backbone), last/, log.csv
    RUN/model/                 the study model, with the image model inside

The loop is small because little moves: maps in, a transformer's step, scores of tune studies out. Everything random in
a step is a function of seed, epoch and step, so a run that was cut off goes on as if it had not been.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from medtail.losses.contract import LossContext
from medtail.losses.finite import check_gradients, check_loss
from medtail.losses.margin import LogitAdjustedConfig
from medtail.losses.objective import Objective, Step
from medtail.losses.objectives import PlainObjectiveConfig, build_objective
from medtail.losses.weights import prior_shifts
from medtail.models.checkpoint import fill
from medtail.models.diagnoser import Diagnoser, link_scores
from medtail.models.study_fusion import StudyFusion
from medtail.models.study_model import StudyDiagnoser
from medtail.sampling.build import build_sampler
from medtail.sampling.contract import Sampler
from medtail.seeding import stream, stream_seed
from medtail.tables.manifest import Manifest
from medtail.tables.studies import Studies, study_manifest
from medtail.tables.tail import count_classes
from medtail.training.callbacks import BEST, LAST, tune_quality, write_epoch
from medtail.training.config import TrainConfig
from medtail.training.context import train_context
from medtail.training.maps import MapSource, read_studies
from medtail.training.module import update_average, warm_decay
from medtail.training.progress import epoch_report
from medtail.training.schedule import rate_factor
from medtail.training.second import StudyFusionConfig
from medtail.training.state import (
    Progress,
    optimizer_state,
    read_state,
    under_prefix,
)


@final
@dataclass(frozen=True, eq=False)
class FusionPlan:
    """What a study fusion is trained on.

    Attributes:
        config: The training; it has the settings that the stage shares.
        second: The stage.
        manifest: The images of train and tune, with the classes to learn.
        studies: Their studies.
        rows: A row a study.
        sampler: Which train studies an epoch shows, rows of `rows`.
        objective: What is minimised.
        context: Counts of the train studies.
        draws: Studies an epoch.
    """

    config: TrainConfig
    second: StudyFusionConfig
    manifest: Manifest
    studies: Studies
    rows: Manifest
    sampler: Sampler
    objective: Objective
    context: LossContext
    draws: int

    @property
    def steps(self) -> int:
        """Steps an epoch."""
        return -(-self.draws // self.second.batch_size)

    def network(self, feature_dim: int) -> StudyFusion:
        """Make the network; its first weights depend on the run's seed alone."""
        loss = self.config.loss if self.second.loss is None else self.second.loss
        prior = prior_shifts(self.context, link=self.objective.link)
        if isinstance(self.config.objective, PlainObjectiveConfig) and isinstance(loss, LogitAdjustedConfig):
            prior = (1.0 - loss.tau) * prior  # the loss adds tau of it to the logits itself
        with torch.random.fork_rng():
            torch.manual_seed(stream_seed(self.config.seed, "fusion weights"))
            return StudyFusion(
                feature_dim,
                self.manifest.labels.num_classes,
                config=self.second.fusion,
                bias=[float(value) for value in prior] if self.second.fusion.decoder.prior_bias else None,
            )


def plan_fusion(config: TrainConfig, second: StudyFusionConfig, manifest: Manifest, studies: Studies) -> FusionPlan:
    """Gather what the stage learns from.

    Args:
        config: The training.
        second: The stage.
        manifest: Images of train and tune, with the classes to learn.
        studies: Of these very images.

    Raises:
        MedtailError: Images of a study contradict each other, or no study is in train.
    """
    rows = study_manifest(manifest, studies)
    draws = int((rows.folds == "train").sum())
    steps = -(-draws // second.batch_size)
    sampler = build_sampler(
        second.sampler, rows, seed=config.seed, epoch_rows=draws or None, epochs=second.epochs, steps=max(1, steps)
    )
    context = train_context(rows, count_classes(rows), sampler=sampler, draws=draws, epochs=second.epochs)
    objective = build_objective(
        config.objective, loss=config.loss if second.loss is None else second.loss, context=context
    )
    return FusionPlan(config, second, manifest, studies, rows, sampler, objective, context, draws)


@final
class FusionTrainer:
    """Trains a study fusion on the maps of a source, epoch by epoch, and keeps its state in a folder.

    Args:
        plan: What it learns from.
        fusion: The network; it is trained in place.
        source: Gives the maps of the images of `plan.manifest`.
        folder: Where state and log are kept.
        device: Where to compute.
    """

    def __init__(
        self, plan: FusionPlan, fusion: StudyFusion, source: MapSource, *, folder: Path, device: torch.device
    ) -> None:
        self.plan, self.source, self.folder, self.device = plan, source, folder, device
        self.fusion = fusion.to(device)
        self.objective = plan.objective.to(device)
        self.averaged: StudyFusion | None = None
        if plan.config.optimizer.ema_decay is not None:
            self.averaged = copy.deepcopy(self.fusion).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self._groups(), lr=plan.second.learning_rate, fused=True)
        self.progress = Progress()
        self.targets = torch.from_numpy(plan.rows.targets.copy()).to(device)

    @property
    def judged(self) -> StudyFusion:
        """The network that is judged and kept: the moving average where there is one."""
        return self.averaged if self.averaged is not None else self.fusion

    def _groups(self) -> list[dict[str, object]]:
        """Return decayed weights, and biases, norms, embeddings and the objective's own, which are not."""
        decayed = [p for name, p in self.fusion.named_parameters() if p.ndim > 1 and name != "views.weight"]
        others = [p for name, p in self.fusion.named_parameters() if p.ndim <= 1 or name == "views.weight"]
        return [
            {"params": decayed, "weight_decay": self.plan.config.optimizer.weight_decay},
            {"params": [*others, *self.objective.parameters()], "weight_decay": 0.0},
        ]

    def resume(self) -> None:
        """Take over the state of the folder, where there is one."""
        path = self.folder / LAST
        if not path.exists():
            return
        tensors, self.progress = read_state(path)
        fill(self.fusion, under_prefix(tensors, "model"), where=str(path))
        if self.averaged is not None:
            fill(self.averaged, under_prefix(tensors, "average"), where=str(path))
        fill(self.objective, under_prefix(tensors, "objective"), where=str(path))
        moments = optimizer_state(under_prefix(tensors, "optimizer"))
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        if self.progress.sampler:
            self.plan.sampler.load_state_dict(self.progress.sampler)

    def run(self, *, quiet: bool = True) -> Progress:
        """Train up to the last epoch.

        Raises:
            MedtailError: The loss is not finite.
        """
        epochs = self.plan.second.epochs
        with epoch_report(epochs=epochs, quiet=quiet) as report, torch.random.fork_rng():
            for epoch in range(self.progress.epochs_done, epochs):
                began = time.perf_counter()
                row = self._epoch(epoch)
                scores = self.tune_scores()
                tune = self.plan.manifest.folds == "tune"
                quality, classes = tune_quality(scores[tune], self.plan.manifest.targets[tune])
                row |= {"tune_map": quality, "tune_classes": classes}
                seconds = time.perf_counter() - began
                self._keep({"epoch": epoch + 1, **row, "seconds": round(seconds, 3)}, quality, seconds=seconds)
                shown = "not defined" if quality is None else f"{quality:.3f}"
                star = " *" if self.progress.best_epoch == epoch else ""
                report.epoch(
                    f"fusion epoch {epoch + 1}/{epochs}: loss {row['train_loss']:.4f}, tune mAP of studies {shown}"
                    f" ({classes} classes){star}"
                )
        return self.progress

    def _epoch(self, epoch: int) -> dict[str, float | int | None]:
        drawn, size = self.plan.sampler.draw(epoch), self.plan.second.batch_size
        losses: list[float] = []
        parts: list[Mapping[str, Tensor]] = []
        rate = 0.0
        for number, start in enumerate(range(0, len(drawn), size)):
            rate = self._set_rate(epoch * self.plan.steps + number)
            value, found = self._step(drawn[start : start + size], epoch=epoch, number=number)
            losses.append(value)
            parts.append(found)
        means = {
            f"train_{name}": torch.stack([found[name].float() for found in parts]).nanmean().item()
            for name in self.objective.part_names
        }
        return {
            "train_loss": float(np.mean(losses)),
            "learning_rate": rate,
            **{name: None if math.isnan(value) else value for name, value in means.items()},
        }

    def _set_rate(self, step: int) -> float:
        settings, second = self.plan.config.optimizer, self.plan.second
        total = second.epochs * self.plan.steps
        factor = rate_factor(step, total_steps=total, warmup=settings.warmup, final_rate=settings.final_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = second.learning_rate * factor
        return second.learning_rate * factor

    def _step(self, chosen: np.ndarray, *, epoch: int, number: int) -> tuple[float, Mapping[str, Tensor]]:
        seed = self.plan.config.seed
        self.fusion.train()
        maps, kinds, is_there = read_studies(
            self.source,
            self.plan.studies,
            chosen,
            most=self.plan.second.fusion.most_views,
            random=stream(seed, "fusion views", epoch, number),
            seed=stream_seed(seed, "fusion augment", epoch, number),
        )
        torch.manual_seed(stream_seed(seed, "fusion step", epoch, number))  # dropout
        answer = self.fusion.answer(maps, kinds, is_there)
        done = epoch * self.plan.steps + number
        step = Step.of(
            answer.logits.float(),
            self.targets[torch.from_numpy(chosen).to(self.device)],
            pooled=answer.pooled.float(),
            progress=done / (self.plan.second.epochs * self.plan.steps),
        )
        if self.objective.keeps_rows:
            step = replace(step, rows=torch.from_numpy(chosen).to(self.device))
        value = self.objective(step)
        members = np.isin(self.plan.studies.member, chosen)
        words: Any = {
            "where": f"fusion epoch {epoch + 1}, step {number + 1}",
            "images": lambda: self.plan.manifest.frame["image_id"].astype(str)[members].tolist(),
            "table": self.plan.manifest.name,
            "advice": "Lower second.learning_rate or set optimizer.gradient_clip in a new run.",
        }
        check_loss(value.total, **words)
        self.optimizer.zero_grad()
        torch.autograd.backward(value.total)
        learning = [*self.fusion.named_parameters(), *self.objective.named_parameters()]
        check_gradients(learning, **words)
        clip = self.plan.config.optimizer.gradient_clip
        if clip is not None:
            torch.nn.utils.clip_grad_norm_([*self.fusion.parameters(), *self.objective.parameters()], clip)
        self.optimizer.step()
        self.objective.learn()
        decay = self.plan.config.optimizer.ema_decay
        if self.averaged is not None and decay is not None:
            update_average(self.averaged, self.fusion, decay=warm_decay(decay, step=done + 1))
        return float(value.total.detach()), value.parts

    def tune_scores(self) -> np.ndarray:
        """Score the tune studies from the source's maps and give each image the score of its study.

        Returns:
            float64 [images, C]; NaN for images of other folds.
        """
        plan, network = self.plan, self.judged.eval()
        found = np.full((len(plan.studies), plan.manifest.labels.num_classes), np.nan)
        wanted = np.flatnonzero(plan.rows.folds == "tune")
        most = plan.second.fusion.most_views
        with torch.inference_mode():
            for start in range(0, len(wanted), plan.second.batch_size):
                chosen = wanted[start : start + plan.second.batch_size]
                logits = network(*read_studies(self.source, plan.studies, chosen, most=most))
                scores = link_scores(logits, labels=plan.manifest.labels, link=self.objective.link)
                found[chosen] = scores.double().cpu().numpy()
        return np.asarray(found[plan.studies.member])

    def _keep(self, row: Mapping[str, float | int | None], quality: float | None, *, seconds: float) -> None:
        sampler = self.plan.sampler.state_dict()
        self.progress = self.progress.after_epoch(
            row, tune_map=quality, seconds=seconds, sampler=sampler, keep=self.plan.second.keep
        )
        write_epoch(
            self.folder,
            progress=self.progress,
            network=self.fusion,
            averaged=self.averaged,
            objective=self.objective,
            optimizer=self.optimizer,
            best=self.judged if self.progress.best_epoch == self.progress.epochs_done - 1 else None,
        )


def best_model(plan: FusionPlan, image_model: Diagnoser, *, folder: Path) -> StudyDiagnoser:
    """Return the study model of the epoch that was kept, in eval mode.

    Args:
        plan: What it was trained on.
        image_model: The frozen first stage.
        folder: Where the trainer kept its state.
    """
    fusion = plan.network(image_model.backbone.feature_dim)
    tensors, _ = read_state(folder / BEST)
    fill(fusion, tensors, where=str(folder / BEST))
    return StudyDiagnoser(image_model, fusion, link=plan.objective.link).eval()
