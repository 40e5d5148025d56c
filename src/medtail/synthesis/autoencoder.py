"""The first stage: images to latents and back, so that diffusion works on far fewer numbers.

`diffusers.AutoencoderKL` with our loss: L1 + small KL + 0.1 (1 - SSIM). After training it is frozen, and its latents
are scaled by a = 1 / std over the train images, a number that is kept with the weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from kornia.metrics import ssim
from torch import Tensor, nn

from medtail.synthesis.schedules import diffusers_library
from medtail.synthesis.sizes import LATENT_CHANNELS, Size

SSIM_WINDOW = 7


def build_autoencoder(size: Size, *, size_px: int) -> nn.Module:
    """Build an untrained autoencoder, one channel in and out, four latent channels.

    Args:
        size: Its widths.
        size_px: Side of the images.

    Returns:
        A `diffusers.AutoencoderKL`; initial weights come from torch's global generator.
    """
    levels = len(size.encoder_channels)
    model: nn.Module = diffusers_library().AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=size.encoder_channels,
        layers_per_block=size.encoder_layers,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=size.encoder_norm_groups,
        sample_size=size_px,
        scaling_factor=1.0,  # ours is measured after training; the default belongs to another model
        mid_block_add_attention=size.encoder_attention,
    )
    return model


def reconstruction_loss(
    autoencoder: Any, images: Tensor, *, kl_weight: float, ssim_weight: float, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return L1 + kl_weight · KL + ssim_weight · (1 - SSIM) and its parts.

    Args:
        autoencoder: From `build_autoencoder`.
        images: float [B, 1, S, S] in [-1, 1].
        kl_weight: Of the KL divergence, summed over an image's latents.
        ssim_weight: Of 1 - SSIM.
        generator: For the latents drawn, on the CPU.

    Returns:
        The loss, and detached `l1`, `kl`, `ssim`.
    """
    posterior = autoencoder.encode(images).latent_dist
    drawn = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
    rebuilt = autoencoder.decode(posterior.mean + posterior.std * drawn).sample
    l1 = (rebuilt - images).abs().mean()
    kl = posterior.kl().mean()
    similarity = mean_ssim(rebuilt, images)
    loss = l1 + kl_weight * kl + ssim_weight * (1 - similarity)
    return loss, {"l1": l1.detach(), "kl": kl.detach(), "ssim": similarity.detach()}


def mean_ssim(found: Tensor, wanted: Tensor) -> Tensor:
    """Return the structural similarity of images in [-1, 1], averaged, in float32.

    Example:
        >>> images = torch.rand(2, 1, 16, 16) * 2 - 1
        >>> round(float(mean_ssim(images, images)), 4)
        1.0
    """
    result: Tensor = ssim((found.float() + 1) / 2, (wanted.float() + 1) / 2, SSIM_WINDOW).mean()
    return result


def encode(autoencoder: Any, images: Tensor, *, scale: float) -> Tensor:
    """Return the latents z0 = a · E(x), the mean of the encoder's distribution.

    Args:
        autoencoder: The frozen autoencoder.
        images: float [N, 1, S, S] in [0, 1].
        scale: a.

    Returns:
        float [N, 4, h, w].
    """
    mean: Tensor = autoencoder.encode(images * 2 - 1).latent_dist.mean
    return mean * scale


def decode(autoencoder: Any, latents: Tensor, *, scale: float) -> Tensor:
    """Return the images of latents, float [N, 1, S, S] in [0, 1]."""
    rebuilt: Tensor = autoencoder.decode(latents / scale).sample
    return ((rebuilt + 1) / 2).clamp(0, 1)


@torch.no_grad()
def measure(autoencoder: Any, batches: Iterable[Tensor]) -> dict[str, float]:
    """Measure the finished autoencoder: its latent scale, and how well images come back.

    Args:
        autoencoder: In eval mode.
        batches: Images as float [B, 1, S, S] in [0, 1].

    Returns:
        `latent_scale` = 1 / std of the unscaled latents; `l1` (of the gray range 0 to 1) and `ssim` between images and
        their reconstructions.
    """
    count, total, squares, l1, similarity, images_seen = 0, 0.0, 0.0, 0.0, 0.0, 0
    for images in batches:
        latents = encode(autoencoder, images, scale=1.0)
        rebuilt = decode(autoencoder, latents, scale=1.0)
        exact = latents.double()
        count += exact.numel()
        total += float(exact.sum())
        squares += float((exact**2).sum())
        l1 += float((rebuilt - images).abs().mean(dim=(1, 2, 3)).sum())
        similarity += float(mean_ssim(rebuilt * 2 - 1, images * 2 - 1)) * len(images)
        images_seen += len(images)
    variance = squares / count - (total / count) ** 2
    return {
        "latent_scale": float(variance**-0.5),
        "l1": l1 / images_seen,
        "ssim": similarity / images_seen,
    }
