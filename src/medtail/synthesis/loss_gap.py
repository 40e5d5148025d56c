"""How much better a generator denoises the images it learnt from than those it never saw, class by class.

The same noise levels and the same noise for every image, the class given, no sketch. A generator that knows its train
images by heart has a large gap; this looks into the generator itself, where the distances of `memorisation` look at its
images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from medtail.reporting.contact_sheets import evenly
from medtail.seeding import stream_seed
from medtail.synthesis.folder import Generator
from medtail.synthesis.schedules import add_noise, generator_for, signal_shares, training_target

LEVELS = 8
"""Noise levels, evenly over the schedule without its ends."""
MOST = 64
"""Images of a class and fold that are used."""
AT_ONCE = 64


@final
@dataclass(frozen=True)
class LossGap:
    """The gap of one class.

    Attributes:
        gap: (mean tune loss - mean train loss) / mean train loss; NaN with fewer than two of either.
        error: Its standard error, from the spread over images.
        train: Train images used.
        tune: Tune images used.
    """

    gap: float
    error: float
    train: int
    tune: int


@torch.inference_mode()
def denoising_losses(generator: Generator, images: Tensor, present: Tensor, *, seed: int = 0) -> np.ndarray:
    """Return each image's mean denoising error over fixed levels and fixed noise.

    Args:
        generator: The generator.
        images: float32 [N, 1, S, S] in [0, 1].
        present: Labels, float [N, classes] in {0, 1, NaN}.
        seed: Of the noise.

    Returns:
        float64 [N]; an image's value depends on no other image, up to rounding.
    """
    schedule = generator.config.shape.schedule
    shares = signal_shares(schedule).to(generator.device)
    levels = torch.linspace(0.05, 0.95, LEVELS).mul(schedule.timesteps - 1).round().long()
    shape = generator.latent_shape
    noises = [torch.randn(shape, generator=generator_for(stream_seed(seed, "loss gap", int(t)))) for t in levels]
    losses = []
    for start in range(0, len(images), AT_ONCE):
        latents = generator.encode(images[start : start + AT_ONCE]).to(generator.device)
        labels = present[start : start + AT_ONCE].to(generator.device)
        classes = generator.denoiser.class_vectors(labels)
        total = torch.zeros(len(latents), dtype=torch.float64)
        for level, noise in zip(levels, noises, strict=True):
            share = shares[level].expand(len(latents))
            drawn = noise.to(latents).expand_as(latents)
            step = torch.full((len(latents),), int(level), dtype=torch.long, device=latents.device)
            answer = generator.denoiser(
                add_noise(latents, drawn, share), step, classes=classes, sketches=None, given=None
            ).prediction
            wanted = training_target(latents, drawn, share, prediction=schedule.prediction)
            total += (answer.float() - wanted).square().mean(dim=(1, 2, 3)).double().cpu() / LEVELS
        losses.append(total)
    return torch.cat(losses).numpy() if losses else np.zeros(0)


def gap_of(train: np.ndarray, tune: np.ndarray) -> LossGap:
    """Compare the losses of train and tune images.

    Args:
        train: float [n].
        tune: float [m].

    Example:
        >>> found = gap_of(np.array([1.0, 1.0, 1.0]), np.array([1.5, 1.5]))
        >>> found.gap, found.error
        (0.5, 0.0)
    """
    n, m = len(train), len(tune)
    if min(n, m) < 2:
        return LossGap(float("nan"), float("nan"), n, m)
    low, high = train.mean(), tune.mean()
    spread = np.sqrt(tune.var(ddof=1) / m + (high / low) ** 2 * train.var(ddof=1) / n)
    return LossGap(float((high - low) / low), float(spread / low), n, m)


def chosen_rows(rows: np.ndarray) -> np.ndarray:
    """Return the rows of a class that are used: all, or 64 spread evenly."""
    return np.asarray(rows[evenly(len(rows), limit=MOST)]) if len(rows) else rows
