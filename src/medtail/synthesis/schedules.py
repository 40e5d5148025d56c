"""Noise schedules and solvers, all from `diffusers`; training and drawing share one table of noise levels.

With signal share ᾱ_t, latents z0 and noise ε: z_t = sqrt(ᾱ_t) z0 + sqrt(1 - ᾱ_t) ε. The network is asked for ε, or for
v = sqrt(ᾱ_t) ε - sqrt(1 - ᾱ_t) z0. Solvers walk from pure noise back to z0. `clip_sample` is off throughout: DDIM clips
to [-1, 1] by default, which is meant for pixels and wrong for latents.
"""

from __future__ import annotations

import math
import warnings
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from medtail.errors import MedtailError
from medtail.synthesis.sizes import ScheduleConfig

SolverName = Literal["dpm++", "ddim", "ddpm"]


def diffusers_library() -> ModuleType:
    """Return the package `diffusers`.

    Raises:
        MedtailError: It is not installed; says which extra brings it.
    """
    try:
        import diffusers
    except ImportError as error:
        raise MedtailError(
            f"synthesis: needs the package 'diffusers' ({error}); install it with `pip install 'medtail[synthesis]'`."
        ) from error
    return diffusers


def _settings(config: ScheduleConfig) -> dict[str, Any]:
    linear = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    return {
        "num_train_timesteps": config.timesteps,
        "prediction_type": "v_prediction" if config.prediction == "v" else "epsilon",
        **(linear if config.betas == "scaled_linear" else {"beta_schedule": "squaredcos_cap_v2"}),
    }


def signal_shares(config: ScheduleConfig) -> Tensor:
    """Return ᾱ_t for t = 0 … T - 1, float32 [T], falling from almost 1 to almost 0.

    Example:
        >>> shares = signal_shares(ScheduleConfig(betas="cosine", timesteps=100, prediction="v"))
        >>> shares.shape, bool((shares.diff() < 0).all())
        (torch.Size([100]), True)
    """
    shares = diffusers_library().DDPMScheduler(**_settings(config)).alphas_cumprod
    assert isinstance(shares, Tensor)
    return shares


def add_noise(latents: Tensor, noise: Tensor, shares: Tensor) -> Tensor:
    """Return the latents at a noise level.

    Args:
        latents: float [B, 4, h, w].
        noise: The same shape.
        shares: ᾱ of each, float [B].
    """
    alpha = shares.to(latents)[:, None, None, None]
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


def training_target(latents: Tensor, noise: Tensor, shares: Tensor, *, prediction: str) -> Tensor:
    """Return what the network is asked for: ε, or v = sqrt(ᾱ) ε - sqrt(1 - ᾱ) z0."""
    if prediction == "epsilon":
        return noise
    alpha = shares.to(latents)[:, None, None, None]
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * latents


def clean_estimate(noisy: Tensor, predicted: Tensor, share: float, *, prediction: str) -> Tensor:
    """Return the z0 that a prediction at one noise level stands for."""
    signal, spread = math.sqrt(share), math.sqrt(1 - share)
    if prediction == "epsilon":
        return (noisy - spread * predicted) / signal
    return signal * noisy - spread * predicted


def build_solver(config: ScheduleConfig, *, solver: SolverName, steps: int) -> Any:
    """Return a fresh solver with its timesteps set.

    A multistep solver remembers its last steps, so every batch needs one of its own.

    Args:
        config: The schedule the network was trained with.
        solver: `dpm++`, `ddim`, or `ddpm` (random; only for comparison).
        steps: From 1 to the schedule's timesteps.

    Returns:
        A `diffusers` scheduler: `timesteps`, `step(prediction, t, latents).prev_sample`.

    Raises:
        MedtailError: More steps than the schedule has.

    Example:
        >>> config = ScheduleConfig(betas="cosine", timesteps=100, prediction="v")
        >>> build_solver(config, solver="ddim", steps=5).timesteps.tolist()
        [99, 79, 59, 39, 19]
    """
    if not 1 <= steps <= config.timesteps:
        raise MedtailError(f"steps: found {steps}; expected 1 to {config.timesteps}, the levels of the schedule.")
    library, settings = diffusers_library(), _settings(config) | {"timestep_spacing": "trailing"}
    scheduler: Any
    if solver == "dpm++":
        scheduler = library.DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", solver_order=2, **settings)
    elif solver == "ddim":
        scheduler = library.DDIMScheduler(clip_sample=False, **settings)
    else:
        scheduler = library.DDPMScheduler(clip_sample=False, **settings)
    with warnings.catch_warnings():
        # diffusers hands a tensor to numpy in a way that numpy 2 would rather not see
        warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
        scheduler.set_timesteps(steps)
    return scheduler


def first_level_with(config: ScheduleConfig, timesteps: Tensor, *, share: float) -> int:
    """Return the place of the first timestep at which at least `share` of the signal is there; the last if none is."""
    reached = (signal_shares(config)[timesteps.cpu().long()] >= share).nonzero()
    return int(reached[0]) if len(reached) else len(timesteps) - 1


def generator_for(seed: int) -> torch.Generator:
    """Return a CPU generator with this seed; all chance is drawn on the CPU, so that devices agree."""
    return torch.Generator().manual_seed(seed)
