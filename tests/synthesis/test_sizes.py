from __future__ import annotations

import pytest
import torch

from medtail.synthesis.autoencoder import build_autoencoder
from medtail.synthesis.denoiser import Denoiser, count_parameters
from medtail.synthesis.sizes import SIZES, SizeName


@pytest.mark.parametrize(("size", "coder", "unet"), [("full", 83.6, 42.9), ("small", 0.92, 1.59), ("tiny", 0.23, 0.18)])
def test_networks_have_the_specified_number_of_parameters(size: SizeName, coder: float, unet: float) -> None:
    shape = SIZES[size]
    with torch.device("meta"):
        autoencoder = build_autoencoder(shape, size_px=shape.size_px)
        denoiser = Denoiser(shape, num_classes=6, size_px=shape.size_px, condition_branch=True, perception_branch=True)
    digits = 1 if size == "full" else 2
    assert round(count_parameters(autoencoder) / 1e6, digits) == coder
    # the table of classes is ours, beside the U-Net, and counted with it
    assert round((count_parameters(denoiser.unet) + denoiser.class_table.numel()) / 1e6, digits) == unet


@pytest.mark.parametrize("size", list(SIZES))
def test_latents_have_the_specified_side(size: SizeName) -> None:
    shape = SIZES[size]
    assert shape.size_px // shape.encoder_factor == {"full": 32, "small": 16, "tiny": 8}[size]
    assert shape.size_px % shape.side_multiple == 0


@pytest.mark.slow
def test_the_full_size_runs_forward() -> None:
    shape = SIZES["full"]
    with torch.no_grad():
        autoencoder = build_autoencoder(shape, size_px=128).eval()
        denoiser = Denoiser(shape, num_classes=3, size_px=128, condition_branch=True, perception_branch=True).eval()
        latents = autoencoder.encode(torch.zeros(1, 1, 128, 128)).latent_dist.mean
        assert latents.shape == (1, 4, 16, 16)
        answer = denoiser(
            latents,
            torch.tensor([10]),
            classes=denoiser.class_vectors(torch.tensor([[0.0, 1.0, 0.0]])),
            sketches=torch.ones(1, 1, 128, 128),
            given=torch.tensor([True]),
        )
        assert answer.prediction.shape == latents.shape
        assert answer.features is not None
        assert denoiser.perceive(answer.features).shape == (1, 1, 128, 128)
        assert autoencoder.decode(latents).sample.shape == (1, 1, 128, 128)
