from __future__ import annotations

import pytest
import torch

from medtail.synthesis.autoencoder import build_autoencoder, decode, encode, mean_ssim, measure, reconstruction_loss
from medtail.synthesis.schedules import generator_for
from medtail.synthesis.sizes import SIZES


def coder() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_autoencoder(SIZES["tiny"], size_px=32)


def pictures(count: int = 6) -> torch.Tensor:
    return torch.rand(count, 1, 32, 32, generator=generator_for(3))


def test_the_measured_scale_brings_latents_to_a_deviation_of_1() -> None:
    model, images = coder().eval(), pictures()
    facts = measure(model, iter(images.split(4)))
    with torch.no_grad():
        scaled = encode(model, images, scale=facts["latent_scale"])
    assert float(scaled.double().std(correction=0)) == pytest.approx(1.0, rel=1e-5)
    assert facts["latent_scale"] != pytest.approx(0.18215)


def test_the_gate_numbers_do_not_depend_on_the_batches() -> None:
    model, images = coder().eval(), pictures()
    whole, parts = measure(model, [images]), measure(model, images.split(4))
    assert parts == pytest.approx(whole, rel=1e-5)
    with torch.no_grad():
        rebuilt = decode(model, encode(model, images, scale=1.0), scale=1.0)
    assert whole["l1"] == pytest.approx(float((rebuilt - images).abs().mean()), rel=1e-5)


def test_scaling_latents_changes_no_image() -> None:
    model, images = coder().eval(), pictures(2)
    with torch.no_grad():
        one, many = (decode(model, encode(model, images, scale=a), scale=a) for a in (1.0, 7.5))
    assert torch.allclose(one, many, atol=1e-5)


def test_the_loss_is_the_printed_sum_and_repeats_with_its_chance() -> None:
    model, images = coder(), pictures() * 2 - 1
    losses = []
    for _ in range(2):
        loss, parts = reconstruction_loss(model, images, kl_weight=1e-6, ssim_weight=0.1, generator=generator_for(1))
        assert loss.item() == pytest.approx(
            parts["l1"].item() + 1e-6 * parts["kl"].item() + 0.1 * (1 - parts["ssim"].item()), rel=1e-5
        )
        losses.append(loss.item())
    assert losses[0] == losses[1]
    other, _ = reconstruction_loss(model, images, kl_weight=1e-6, ssim_weight=0.1, generator=generator_for(2))
    assert other.item() != losses[0]


def test_similarity_agrees_with_torchmetrics() -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = pictures(), (pictures() + 0.2 * torch.rand(6, 1, 32, 32, generator=generator_for(4))).clamp(0, 1)
    theirs = structural_similarity_index_measure(a, b, gaussian_kernel=True, sigma=1.5, kernel_size=7, data_range=1.0)
    assert mean_ssim(a * 2 - 1, b * 2 - 1).item() == pytest.approx(float(theirs), abs=0.02)
    assert mean_ssim(a * 2 - 1, b * 2 - 1).item() < 0.99


def test_it_learns_one_batch() -> None:
    model = coder()
    line = torch.linspace(-1, 1, 32)
    images = torch.stack([line.expand(32, 32), line.flip(0)[:, None].expand(32, 32)])[:, None].contiguous()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    seen = []
    for step in range(25):
        loss, parts = reconstruction_loss(model, images, kl_weight=0.0, ssim_weight=0.1, generator=generator_for(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(parts["l1"].item())
    assert min(seen[-5:]) < 0.5 * seen[0]
