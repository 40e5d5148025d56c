"""What the denoiser minimises at a step: the noise it gets wrong, and the contours it fails to perceive.

    L = |target - output|² + λ · 1[no sketch given] · ᾱ_t · ( BCE(ŝ, s) + Dice(σ(ŝ), s) )

Where the sketch is given, predicting it is copying; at high noise nothing can be perceived; hence the two factors. All
chance of a step is drawn beforehand (`draw_step`), from the step's own number, so that a resumed training repeats it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from medtail.synthesis.config import BalanceConfig, DenoiserTraining
from medtail.synthesis.denoiser import Denoiser
from medtail.synthesis.schedules import add_noise, training_target


@final
@dataclass(frozen=True, eq=False)
class StepDraws:
    """The chance in one denoiser step.

    Attributes:
        timesteps: int64 [B].
        noise: float [B, 4, h, w].
        class_dropped: bool [B].
        sketch_dropped: bool [B].
    """

    timesteps: Tensor
    noise: Tensor
    class_dropped: Tensor
    sketch_dropped: Tensor

    def to(self, device: torch.device) -> StepDraws:
        """Return the same on a device."""
        return StepDraws(
            self.timesteps.to(device),
            self.noise.to(device),
            self.class_dropped.to(device),
            self.sketch_dropped.to(device),
        )


def draw_step(
    shape: tuple[int, int, int, int], config: DenoiserTraining, *, timesteps: int, generator: torch.Generator
) -> StepDraws:
    """Draw noise levels, noise and what is left out.

    Args:
        shape: Of the latents, (B, 4, h, w).
        config: The shares left out.
        timesteps: Levels of the schedule.
        generator: On the CPU.

    Example:
        >>> draws = draw_step((1000, 4, 2, 2), DenoiserTraining(), timesteps=10,
        ...                   generator=torch.Generator().manual_seed(0))
        >>> bool(500 < draws.sketch_dropped.sum() < 600), int(draws.timesteps.max())
        (True, 9)
    """
    levels = torch.randint(timesteps, (shape[0],), generator=generator)
    noise = torch.randn(shape, generator=generator)
    place = torch.rand(shape[0], generator=generator)
    both, sketch_end = place < config.drop_both, config.drop_both + config.drop_sketch
    only_class = (place >= sketch_end) & (place < sketch_end + config.drop_class)
    return StepDraws(levels, noise, both | only_class, place < sketch_end)


def denoising_loss(
    denoiser: Denoiser,
    latents: Tensor,
    *,
    present: Tensor,
    sketches: Tensor,
    has_sketch: Tensor,
    draws: StepDraws,
    shares: Tensor,
    prediction: str,
    perception_weight: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a batch and its parts.

    Args:
        denoiser: The network.
        latents: Scaled, noise-free, float [B, 4, h, w].
        present: Labels, float [B, classes] in {0, 1, NaN}.
        sketches: float [B, 1, S, S] in [0, 1].
        has_sketch: False where the extractor found next to nothing, bool [B]; such a row is never given its sketch.
        draws: The step's chance.
        shares: ᾱ of every level, float [T].
        prediction: `v` or `epsilon`.
        perception_weight: λ.

    Returns:
        The loss, and detached `noise`, and `contour_bce`, `contour_dice` (averaged over rows without a sketch given,
        weighted by ᾱ) where the network perceives.
    """
    share = shares[draws.timesteps]
    noisy = add_noise(latents, draws.noise, share)
    given = has_sketch & ~draws.sketch_dropped
    classes = denoiser.class_vectors(present, dropped=draws.class_dropped)
    answer = denoiser(noisy, draws.timesteps, classes=classes, sketches=sketches, given=given)
    target = training_target(latents, draws.noise, share, prediction=prediction)
    noise_loss = (answer.prediction.float() - target).square().mean()
    parts = {"noise": noise_loss.detach()}
    if answer.features is None:
        return noise_loss, parts
    weight = share.to(latents) if not denoiser.has_condition else share.to(latents) * (~given)
    logits = denoiser.perceive(answer.features).float()
    bce = binary_cross_entropy_with_logits(logits, sketches, reduction="none").mean(dim=(1, 2, 3))
    dice = dice_loss(logits.sigmoid(), sketches)
    total = weight.sum().clamp_min(1e-8)
    parts |= {
        "contour_bce": (weight * bce).detach().sum() / total,
        "contour_dice": (weight * dice).detach().sum() / total,
    }
    return noise_loss + perception_weight * (weight * (bce + dice)).mean(), parts


def dice_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """Return 1 - (2 Σ ab + 1) / (Σ a² + Σ b² + 1) of each map, float [B]; 0 where both are empty.

    Example:
        >>> line = torch.zeros(1, 1, 8, 8); line[..., 3] = 1
        >>> dice_loss(line, line).item(), round(dice_loss(1 - line, line).item(), 2)
        (0.0, 0.98)
    """
    overlap = (found * wanted).sum(dim=(1, 2, 3))
    size = found.square().sum(dim=(1, 2, 3)) + wanted.square().sum(dim=(1, 2, 3))
    return 1 - (2 * overlap + 1) / (size + 1)


def balance_loss(
    denoiser: Denoiser,
    latents: Tensor,
    *,
    present: Tensor,
    other: Tensor,
    draws: StepDraws,
    shares: Tensor,
    config: BalanceConfig,
) -> Tensor:
    """Return the class-balancing term τ t ( |e(y) - sg e(y')|² + γ |sg e(y) - e(y')|² ), no sketch given.

    Args:
        denoiser: The network.
        latents: float [B, 4, h, w].
        present: Labels of the batch, float [B, classes].
        other: Labels y' of rows drawn evenly over the classes, float [B, classes].
        draws: The step's chance.
        shares: ᾱ of every level.
        config: τ and γ.

    References:
        qin2023
    """
    noisy = add_noise(latents, draws.noise, shares[draws.timesteps])
    twice = torch.cat([noisy, noisy])
    classes = denoiser.class_vectors(torch.cat([present, other]))
    answer = denoiser(twice, draws.timesteps.repeat(2), classes=classes, sketches=None, given=None)
    mine, theirs = answer.prediction.float().chunk(2)
    pulled = (mine - theirs.detach()).square().mean(dim=(1, 2, 3))
    pushed = (mine.detach() - theirs).square().mean(dim=(1, 2, 3))
    weighed: Tensor = config.tau * draws.timesteps * (pulled + config.gamma * pushed)
    return weighed.mean()
