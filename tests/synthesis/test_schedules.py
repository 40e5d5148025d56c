from __future__ import annotations

import builtins

import pytest
import torch

from medtail.errors import MedtailError
from medtail.synthesis.schedules import (
    add_noise,
    build_solver,
    clean_estimate,
    diffusers_library,
    first_level_with,
    generator_for,
    signal_shares,
    training_target,
)
from medtail.synthesis.sizes import SIZES, ScheduleConfig

COSINE = ScheduleConfig(betas="cosine", timesteps=1000, prediction="v")
LINEAR = ScheduleConfig(betas="scaled_linear", timesteps=1000, prediction="epsilon")


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator_for(seed), dtype=torch.float64)


@pytest.mark.parametrize("solver", ["dpm++", "ddim"])
@pytest.mark.parametrize("steps", [5, 20, 25])
@pytest.mark.parametrize("config", [COSINE, LINEAR, SIZES["tiny"].schedule], ids=["small", "full", "tiny"])
def test_a_solver_told_the_true_noise_returns_the_latents(config: ScheduleConfig, steps: int, solver: str) -> None:
    latents, noise = normal(2, 4, 3, 3, seed=0), normal(2, 4, 3, 3, seed=1)
    shares = signal_shares(config).double()
    scheduler = build_solver(config, solver=solver, steps=steps)  # type: ignore[arg-type]
    current = add_noise(latents, noise, shares[scheduler.timesteps[:1]].expand(2))
    for timestep in scheduler.timesteps:
        alpha = shares[int(timestep)]
        true_noise = (current - alpha.sqrt() * latents) / (1 - alpha).sqrt()
        told = training_target(latents, true_noise, alpha.expand(2), prediction=config.prediction)
        current = scheduler.step(told, timestep, current).prev_sample
    assert (current - latents).abs().max() < 1e-6


def test_noise_levels_are_the_specified_ones() -> None:
    cosine, linear = signal_shares(COSINE), signal_shares(LINEAR)
    assert float(cosine[-1]) == pytest.approx(2.4e-9, rel=0.05)
    assert float(cosine[0]) > 0.9999
    assert 1 - float(linear[0]) == pytest.approx(0.00085, rel=1e-3)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    assert float(linear[-1]) == pytest.approx(float((1 - betas).prod()), rel=1e-4)


@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_the_clean_estimate_undoes_what_the_network_is_asked_for(prediction: str) -> None:
    latents, noise, share = normal(2, 4, 3, 3, seed=0), normal(2, 4, 3, 3, seed=1), torch.full((2,), 0.3)
    noisy = add_noise(latents, noise, share)
    told = training_target(latents, noise, share, prediction=prediction)
    assert torch.allclose(clean_estimate(noisy, told, float(share[0]), prediction=prediction), latents, atol=1e-7)


def test_v_prediction_agrees_with_diffusers() -> None:
    latents, noise = normal(3, 4, 2, 2, seed=0).float(), normal(3, 4, 2, 2, seed=1).float()
    levels = torch.tensor([0, 500, 999])
    library = diffusers_library().DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", num_train_timesteps=1000
    )
    share = signal_shares(COSINE)[levels]
    assert torch.allclose(add_noise(latents, noise, share), library.add_noise(latents, noise, levels), atol=1e-6)
    ours = training_target(latents, noise, share, prediction="v")
    assert torch.allclose(ours, library.get_velocity(latents, noise, levels), atol=1e-6)


def test_solvers_do_not_clip_latents() -> None:
    latents = 3 * normal(1, 4, 2, 2, seed=0)
    scheduler = build_solver(COSINE, solver="ddim", steps=1)
    alpha = signal_shares(COSINE).double()[-1:]
    noisy = add_noise(latents, torch.zeros_like(latents), alpha)
    told = training_target(latents, torch.zeros_like(latents), alpha, prediction="v")
    found = scheduler.step(told, scheduler.timesteps[0], noisy).prev_sample
    assert found.abs().max() > 2
    assert torch.allclose(found, latents, atol=1e-4)


def test_half_the_signal_is_found_at_the_right_level() -> None:
    timesteps = build_solver(COSINE, solver="ddim", steps=25).timesteps
    place = first_level_with(COSINE, timesteps, share=0.5)
    shares = signal_shares(COSINE)[timesteps.long()]
    assert shares[place] >= 0.5 > shares[place - 1]
    assert first_level_with(COSINE, timesteps[:2], share=0.5) == 1


@pytest.mark.parametrize("steps", [0, 101])
def test_impossible_steps_are_refused(steps: int) -> None:
    with pytest.raises(MedtailError, match=r"steps: found .* expected 1 to 100"):
        build_solver(SIZES["tiny"].schedule, solver="ddim", steps=steps)


def test_a_missing_diffusers_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: object, **named: object) -> object:
        if name == "diffusers":
            raise ImportError("No module named 'diffusers'")
        return real(name, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MedtailError, match=r"medtail\[synthesis\]"):
        diffusers_library()
