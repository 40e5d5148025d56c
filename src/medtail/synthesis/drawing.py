"""Drawing images from a generator: class only (M0), with its own sketch (M1), or with a sketch from a bank (M2).

None needs a mark made by a person. Solvers are deterministic and every image starts from noise of its own seed, so an
image does not depend on which others are drawn, in which order, or how many at once, up to the rounding of sums
(at most a gray level or two).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from medtail.errors import MedtailError
from medtail.synthesis.folder import Generator
from medtail.synthesis.guidance import Guidance, guided_prediction
from medtail.synthesis.schedules import (
    SolverName,
    build_solver,
    clean_estimate,
    first_level_with,
    generator_for,
    signal_shares,
)
from medtail.synthesis.sketch import draw_maps
from medtail.synthesis.thinning import thin

Mode = Literal["M0", "M1", "M2"]
MODES: tuple[Mode, ...] = ("M0", "M1", "M2")
PERCEIVED_AT = 0.5
"""Share of signal from which a perceived sketch is taken."""
PERCEIVED_ABOVE = 0.5


@final
@dataclass(frozen=True, kw_only=True)
class DrawingSettings:
    """How images are drawn.

    Attributes:
        solver: `dpm++` or `ddim`; `ddpm` is random and only for comparison.
        steps: Of the solver.
        guidance: Towards class and sketch.
    """

    solver: SolverName
    steps: int
    guidance: Guidance

    @staticmethod
    def of(
        generator: Generator,
        *,
        solver: SolverName | None = None,
        steps: int | None = None,
        class_scale: float | None = None,
        sketch_scale: float | None = None,
    ) -> DrawingSettings:
        """Return the generator's own settings, with some replaced."""
        own = generator.config.resolved(train_images=1).drawing
        assert own.solver is not None
        assert own.steps is not None
        assert own.class_scale is not None
        return DrawingSettings(
            solver=own.solver if solver is None else solver,
            steps=own.steps if steps is None else steps,
            guidance=Guidance(
                own.class_scale if class_scale is None else class_scale,
                own.sketch_scale if sketch_scale is None else sketch_scale,
            ),
        )


def check_mode(generator: Generator, mode: Mode) -> None:
    """Check that the generator has the branches a mode needs.

    Raises:
        MedtailError: It has not.
    """
    denoiser = generator.denoiser
    if mode in ("M1", "M2") and not denoiser.has_condition:
        raise MedtailError(
            f"mode: {mode!r} gives the generator a sketch, but it was trained without the condition branch; expected"
            " 'M0'. Or train with denoiser.condition_branch: true."
        )
    if mode == "M1" and not denoiser.has_perception:
        raise MedtailError(
            "mode: 'M1' draws the generator's own sketch, but it was trained without the perception branch; expected"
            " 'M0' or 'M2'. Or train with denoiser.perception_branch: true."
        )


def noise_for(generator: Generator, seeds: Sequence[int]) -> Tensor:
    """Return the noise each image starts from, float32 [N, 4, h, w]; a seed gives the same on every device."""
    shape = generator.latent_shape
    return torch.stack([torch.randn(shape, generator=generator_for(seed)) for seed in seeds])


@torch.no_grad()
def draw_latents(
    generator: Generator,
    noise: Tensor,
    *,
    present: Tensor,
    sketches: Tensor | None = None,
    given: Tensor | None = None,
    settings: DrawingSettings,
    watch: Callable[[int, Tensor], None] | None = None,
    chance: torch.Generator | None = None,
) -> Tensor:
    """Walk from noise to latents.

    Args:
        generator: The generator.
        noise: float32 [N, 4, h, w].
        present: Labels asked for, float32 [N, classes] in {0, 1, NaN}.
        sketches: float32 [N, 1, S, S] in [0, 1]; None gives none.
        given: Which sketches count, bool [N]; all if None.
        settings: Solver and guidance.
        watch: Called after each step with its number and the latents the image would end at.
        chance: For `ddpm`, which draws noise at every step.

    Returns:
        float32 [N, 4, h, w], on the generator's device.
    """
    schedule, device = generator.config.shape.schedule, generator.device
    solver = build_solver(schedule, solver=settings.solver, steps=settings.steps)
    shares = signal_shares(schedule)
    latents: Tensor = noise.to(device) * solver.init_noise_sigma
    present = present.to(device)
    if sketches is not None:
        sketches = sketches.to(device)
        given = torch.ones(len(noise), dtype=torch.bool) if given is None else given
        given = given.to(device)
    random = {"generator": chance} if settings.solver == "ddpm" else {}
    for number, timestep in enumerate(solver.timesteps):
        predicted = guided_prediction(
            generator.denoiser,
            latents,
            timestep.to(device),
            present=present,
            sketches=sketches,
            given=given,
            guidance=settings.guidance,
        )
        if watch is not None:
            share = float(shares[int(timestep)])
            watch(number, clean_estimate(latents, predicted, share, prediction=schedule.prediction))
        latents = solver.step(predicted, timestep, latents, **random).prev_sample
    return latents


@torch.no_grad()
def perceive_sketches(
    generator: Generator, noise: Tensor, *, present: Tensor, settings: DrawingSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Let the generator draw by class alone until half the signal is there, and say what sketch it perceives (M1).

    Args:
        generator: With both branches.
        noise: float32 [N, 4, h, w].
        present: Labels asked for, float32 [N, classes].
        settings: Solver and guidance.

    Returns:
        Sketches as an extractor would make them, float32 [N, S, S] in [0, 1]; and which are not empty, bool [N].
    """
    schedule, device, denoiser = generator.config.shape.schedule, generator.device, generator.denoiser
    solver = build_solver(schedule, solver=settings.solver, steps=settings.steps)
    stop = first_level_with(schedule, solver.timesteps, share=PERCEIVED_AT)
    latents, present = noise.to(device) * solver.init_noise_sigma, present.to(device)
    for timestep in solver.timesteps[:stop]:
        predicted = guided_prediction(
            denoiser,
            latents,
            timestep.to(device),
            present=present,
            sketches=None,
            given=None,
            guidance=settings.guidance,
        )
        latents = solver.step(predicted, timestep, latents).prev_sample
    answer = denoiser(
        latents,
        solver.timesteps[stop].to(device).expand(len(latents)),
        classes=denoiser.class_vectors(present),
        sketches=None,
        given=None,
    )
    assert answer.features is not None, "checked by check_mode"
    scores = denoiser.perceive(answer.features).sigmoid()[:, 0].cpu().numpy()
    lines, sketch = thin(scores > PERCEIVED_ABOVE), generator.config.sketch
    return draw_maps(lines, blur=sketch.blur), lines.mean(axis=(1, 2)) >= sketch.empty_below


def as_bytes(images: Tensor) -> np.ndarray:
    """Turn images in [0, 1] into gray values, uint8 of the same shape.

    Example:
        >>> as_bytes(torch.tensor([0.0, 0.5, 1.0])).tolist()
        [0, 128, 255]
    """
    return np.asarray((images.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())


@torch.no_grad()
def denoising_strip(
    generator: Generator, noise: Tensor, *, present: Tensor, sketches: Tensor | None, settings: DrawingSettings
) -> np.ndarray:
    """Show one image coming out of the noise: what it would end at, after about eight of the steps.

    Args:
        generator: The generator.
        noise: float32 [1, 4, h, w].
        present: Labels asked for, float32 [1, classes].
        sketches: float32 [1, 1, S, S] or None.
        settings: Solver and guidance.

    Returns:
        uint8 [S, frames * S], from noise on the left to the image on the right.
    """
    kept: list[Tensor] = []
    chosen = set(np.unique(np.linspace(0, settings.steps - 1, 8).round().astype(int)).tolist())

    def watch(number: int, latents: Tensor) -> None:
        if number in chosen:
            kept.append(latents)

    draw_latents(generator, noise, present=present, sketches=sketches, settings=settings, watch=watch)
    frames = as_bytes(generator.decode(torch.cat(kept)))[:, 0]
    return np.concatenate(list(frames), axis=1)
