"""The network of the second stage: what noise is in these latents, given a class and perhaps a sketch.

A `diffusers.UNet2DModel` with both readings of "sketch-grounded perception", each behind a switch. *Condition* (A): an
encoder of the sketch brings further input channels; their first weights are zero, so that training starts from the
class-only network. *Perception* (B): further output channels, from which a small head says where it perceives contours.
Switched off, a branch has no channels and no weights. Neither needs a change inside the U-Net.

Classes enter as a sum over a table of embeddings, one row a class and a last one for "no class given". One present
class picks its row; several findings add theirs; so one network serves exclusive and combinable classes alike.
"""

from __future__ import annotations

from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from medtail.synthesis.schedules import diffusers_library
from medtail.synthesis.sizes import LATENT_CHANNELS, Size


class Denoised(NamedTuple):
    """What the denoiser answers: the prediction float [B, 4, h, w] and the perception features [B, k, h, w], if any."""

    prediction: Tensor
    features: Tensor | None


@final
class Denoiser(nn.Module):
    """Predict the noise (or v) in latents.

    Initial weights come from torch's global generator. What a branch adds is drawn after everything else, so networks
    of one seed share their class-only part whatever their switches.

    Args:
        size: Widths.
        num_classes: Classes.
        size_px: Side of the images.
        condition_branch: Whether a sketch can be given.
        perception_branch: Whether it says what sketch it perceives.

    Attributes:
        num_classes: Classes.
        has_condition: Reading A.
        has_perception: Reading B.
    """

    def __init__(
        self, size: Size, *, num_classes: int, size_px: int, condition_branch: bool, perception_branch: bool
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.has_condition = condition_branch
        self.has_perception = perception_branch
        self.factor = size.encoder_factor
        width = size.norm_groups
        self.unet: Any = _unet(size, side=size_px // size.encoder_factor)
        self.class_table = nn.Parameter(torch.randn(num_classes + 1, 4 * size.channels[0]))
        if perception_branch:
            self.unet.conv_out = _wider_output(self.unet.conv_out, width)
            self.perception_head = _perception_head(width, factor=size.encoder_factor)
        if condition_branch:
            self.unet.conv_in = _wider_input(self.unet.conv_in, width)
            self.sketch_encoder = _sketch_encoder(width, factor=size.encoder_factor)
        self.unet.register_to_config(
            in_channels=LATENT_CHANNELS + width * condition_branch,
            out_channels=LATENT_CHANNELS + width * perception_branch,
        )

    def forward(
        self, noisy: Tensor, timesteps: Tensor, *, classes: Tensor, sketches: Tensor | None, given: Tensor | None
    ) -> Denoised:
        """Predict.

        Args:
            noisy: Latents at their noise levels, float [B, 4, h, w].
            timesteps: int64 [B].
            classes: From `class_vectors`, float [B, classes + 1].
            sketches: float [B, 1, S, S] in [0, 1]; None gives none.
            given: Which sketches count, bool [B]; the others are as if there were none, whatever they hold.

        Returns:
            The prediction, and the features `perceive` reads.
        """
        inputs = noisy
        if self.has_condition:
            inputs = torch.cat([noisy, self._condition(noisy, sketches, given)], dim=1)
        embedding = classes @ self.class_table
        output = self.unet(inputs, timesteps, class_labels=embedding, return_dict=False)[0]
        features = output[:, LATENT_CHANNELS:] if self.has_perception else None
        return Denoised(output[:, :LATENT_CHANNELS], features)

    def _condition(self, noisy: Tensor, sketches: Tensor | None, given: Tensor | None) -> Tensor:
        if sketches is None or given is None:
            sketches = noisy.new_zeros(len(noisy), 1, noisy.shape[2] * self.factor, noisy.shape[3] * self.factor)
            given = torch.zeros(len(noisy), dtype=torch.bool, device=noisy.device)
        flag = given[:, None, None, None]
        shown = torch.where(flag, sketches, torch.zeros_like(sketches))
        encoded: Tensor = self.sketch_encoder(torch.cat([shown, flag.to(shown).expand_as(shown)], dim=1))
        return encoded

    def perceive(self, features: Tensor) -> Tensor:
        """Return the logits of the perceived sketch, float [B, 1, S, S]; needs the perception branch."""
        assert self.has_perception, "a network without perception branch perceives nothing"
        logits: Tensor = self.perception_head(features)
        return logits

    def class_vectors(self, present: Tensor, *, dropped: Tensor | None = None) -> Tensor:
        """Turn findings into weights over the embedding table.

        Args:
            present: 1 where a class is present, float [B, classes]; a class not assessed counts as not mentioned.
            dropped: Which rows are given no class, bool [B]; none if None.

        Returns:
            float [B, classes + 1]; a dropped row weighs the last row of the table alone.
        """
        stated = torch.nan_to_num(present, nan=0.0)
        vectors = torch.cat([stated, stated.new_zeros(len(stated), 1)], dim=1)
        if dropped is not None:
            nothing = torch.zeros_like(vectors)
            nothing[:, -1] = 1
            vectors = torch.where(dropped[:, None], nothing, vectors)
        return vectors


def _unet(size: Size, *, side: int) -> Any:
    levels, attending = len(size.channels), size.attention_levels
    down = tuple("AttnDownBlock2D" if level >= levels - attending else "DownBlock2D" for level in range(levels))
    up = tuple("AttnUpBlock2D" if level < attending else "UpBlock2D" for level in range(levels))
    return diffusers_library().UNet2DModel(
        sample_size=side,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=down,
        up_block_types=up,
        block_out_channels=size.channels,
        layers_per_block=size.layers,
        norm_num_groups=size.norm_groups,
        class_embed_type="identity",
    )


def _wider_input(conv: nn.Conv2d, extra: int) -> nn.Conv2d:
    """Return the convolution with further input channels, whose weights are zero."""
    wider = nn.Conv2d(conv.in_channels + extra, conv.out_channels, 3, padding=1)
    with torch.no_grad():
        wider.weight[:, : conv.in_channels] = conv.weight
        wider.weight[:, conv.in_channels :] = 0
        assert wider.bias is not None
        assert conv.bias is not None
        wider.bias.copy_(conv.bias)
    return wider


def _wider_output(conv: nn.Conv2d, extra: int) -> nn.Conv2d:
    """Return the convolution with further output channels, drawn afresh."""
    wider = nn.Conv2d(conv.in_channels, conv.out_channels + extra, 3, padding=1)
    with torch.no_grad():
        assert wider.bias is not None
        assert conv.bias is not None
        wider.weight[: conv.out_channels] = conv.weight
        wider.bias[: conv.out_channels] = conv.bias
    return wider


def _sketch_encoder(width: int, *, factor: int) -> nn.Sequential:
    """Return 3x3 convolutions that halve the side until it is the latents'; none is as wide as the image."""
    layers: list[nn.Module] = []
    for level in range(factor.bit_length() - 1):
        layers += [nn.SiLU()] if level else []
        layers += [nn.Conv2d(width if level else 2, width, 3, stride=2, padding=1)]
    return nn.Sequential(*layers)


def _perception_head(width: int, *, factor: int) -> nn.Sequential:
    """Return the head from features at the latents' side to logits at the image's."""
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(width, factor**2, 3, padding=1),
        nn.PixelShuffle(factor),
    )


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers a model learns."""
    return sum(parameter.numel() for parameter in model.parameters())
