"""The three sizes of a generator: one word sets widths, schedules, rates and lengths.

`full` is meant for one GPU and images of 256 pixels, `small` for two CPU cores and 64, `tiny` for tests. Widths follow
from the size alone; what a config may change besides is in `config`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

SizeName = Literal["tiny", "small", "full"]
Solver = Literal["dpm++", "ddim"]
LATENT_CHANNELS = 4


@final
@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How noise is added, and what the network is asked for.

    Attributes:
        betas: `cosine` (squared cosine) or `scaled_linear` (0.00085 to 0.012, as in published latent diffusion).
        timesteps: Noise levels T.
        prediction: `v` or `epsilon`. With the cosine schedule only `v` is safe: at its last level the signal is 5e-5 of
            the whole, and a small error of a predicted epsilon is divided by that.
    """

    betas: Literal["cosine", "scaled_linear"]
    timesteps: int
    prediction: Literal["v", "epsilon"]


@final
@dataclass(frozen=True, kw_only=True)
class Size:
    """What a size sets.

    Attributes:
        size_px: Side of the images, unless the config says otherwise.
        encoder_channels: Widths of the autoencoder's levels; each level but the first halves the side.
        encoder_layers: Layers a level of the autoencoder.
        encoder_attention: Whether its middle attends.
        channels: Widths of the U-Net's levels.
        attention_levels: How many of its lowest levels attend.
        layers: Layers a level of the U-Net.
        norm_groups: Groups of the U-Net's norms; also the channels a sketch brings in and a perceived one is read from.
        encoder_norm_groups: Groups of the autoencoder's norms.
        schedule: Of the noise.
        encoder_steps: Autoencoder training steps; None is 200 passes over the train images.
        encoder_batch: Images a step.
        encoder_rate: Learning rate.
        steps: Denoiser training steps; None is 200 passes.
        batch: Images a step.
        rate: Peak learning rate.
        warmup: Steps over which the rate rises.
        ema_decay: Of the averaged weights that are kept.
        solver: Default sampler.
        solver_steps: Its steps.
        class_scale: Guidance towards the class.
        pool_cap: At most so many generated images for each real one of a class; None sets no limit.
    """

    size_px: int
    encoder_channels: tuple[int, ...]
    encoder_layers: int
    encoder_attention: bool
    channels: tuple[int, ...]
    attention_levels: int
    layers: int
    norm_groups: int
    encoder_norm_groups: int
    schedule: ScheduleConfig
    encoder_steps: int | None
    encoder_batch: int
    encoder_rate: float
    steps: int | None
    batch: int
    rate: float
    warmup: int
    ema_decay: float
    solver: Solver
    solver_steps: int
    class_scale: float
    pool_cap: int | None

    @property
    def encoder_factor(self) -> int:
        """How many pixels a latent stands for along a side.

        Example:
            >>> SIZES["full"].encoder_factor, SIZES["small"].encoder_factor
            (8, 4)
        """
        return int(2 ** (len(self.encoder_channels) - 1))

    @property
    def side_multiple(self) -> int:
        """What the side of the images must be a multiple of, so that every level halves without a remainder."""
        return int(self.encoder_factor * 2 ** (len(self.channels) - 1))


PASSES = 200
"""Over the train images, where a size names no steps."""

SIZES: dict[SizeName, Size] = {
    "full": Size(
        size_px=256,
        encoder_channels=(128, 256, 512, 512),
        encoder_layers=2,
        encoder_attention=True,
        channels=(128, 256, 384),
        attention_levels=2,
        layers=2,
        norm_groups=32,
        encoder_norm_groups=32,
        schedule=ScheduleConfig(betas="scaled_linear", timesteps=1000, prediction="epsilon"),
        encoder_steps=None,
        encoder_batch=16,
        encoder_rate=1e-4,
        steps=None,
        batch=64,
        rate=1e-4,
        warmup=500,
        ema_decay=0.999,
        solver="dpm++",
        solver_steps=20,
        class_scale=3.0,
        pool_cap=25,
    ),
    "small": Size(
        size_px=64,
        encoder_channels=(32, 64, 64),
        encoder_layers=1,
        encoder_attention=False,
        channels=(48, 96),
        attention_levels=1,
        layers=1,
        norm_groups=16,
        encoder_norm_groups=16,
        schedule=ScheduleConfig(betas="cosine", timesteps=1000, prediction="v"),
        encoder_steps=1500,
        encoder_batch=32,
        encoder_rate=1e-3,
        steps=5000,
        batch=32,
        rate=5e-4,
        warmup=100,
        ema_decay=0.995,
        solver="dpm++",
        solver_steps=20,
        class_scale=2.0,
        pool_cap=None,
    ),
    "tiny": Size(
        size_px=32,
        encoder_channels=(16, 32, 32),
        encoder_layers=1,
        encoder_attention=False,
        channels=(16, 32),
        attention_levels=1,
        layers=1,
        norm_groups=8,
        encoder_norm_groups=8,
        schedule=ScheduleConfig(betas="cosine", timesteps=100, prediction="v"),
        encoder_steps=60,
        encoder_batch=16,
        encoder_rate=1e-3,
        steps=80,
        batch=16,
        rate=5e-4,
        warmup=5,
        ema_decay=0.995,
        solver="ddim",
        solver_steps=5,
        class_scale=2.0,
        pool_cap=None,
    ),
}
