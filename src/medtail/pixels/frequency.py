"""A band of spatial frequencies of an image, by the two-dimensional cosine transform.

Stands between augmentation and the network, in training and in prediction alike, because what it makes is what the
network sees. Pure functions, and `BandFilter`, which keeps the one number that is learnt: the scale of the band.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from medtail.config import CLOSED
from medtail.errors import MedtailError
from medtail.pixels.decode import LUMA

REFERENCE_SIZE_PX = 224
"""The size at which the band's limits are given, unless they are told not to scale."""
CHANNELS = 3
"""Channels of what a band filter makes."""


@final
@dataclass(frozen=True, kw_only=True)
class BandConfig:
    """Which frequencies the network sees besides, or instead of, the image itself.

    Index k of the transform is k/2 cycles an image, so the default holds 5 to 50 cycles, 15.7 % of the coefficients
    (7,869 of 50,176). The mean and slow shading go, hence *absolute* echogenicity goes: whoever replaces the image by
    its band cannot tell a hypoechoic nodule from a bright one by its mean.

    Attributes:
        kind: `none`: the image alone. `extra`: channels (image, band, image). `replace`: the band in all three.
        low: Smallest radius in the plane of coefficients that is kept, index; 0 keeps the mean.
        high: Largest radius that is kept, index; None has no limit.
        edge: Width over which the mask rises and falls as a half cosine, centred on `low` and `high`; 0 cuts hard,
            both limits kept.
        scale_with_size: The three numbers are for 224 pixels and grow with the image's side. Without it they are
            taken as they are (at 64 pixels 10 to 100 is nearly everything).

    Raises:
        MedtailError: The band is empty by itself, or its edge is wider than the band or than what lies below it.

    Example:
        >>> BandConfig(kind="extra").limits(size_px=448)
        (20.0, 200.0, 8.0)
        >>> BandConfig(kind="extra", low=120)
        Traceback (most recent call last):
        medtail.errors.MedtailError: low: found 120 with high 100; expected 0 or more and below high.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED

    kind: Literal["none", "extra", "replace"] = "none"
    low: Annotated[float, Field(ge=0.0)] = 10.0
    high: Annotated[float, Field(gt=0.0)] | None = 100.0
    edge: Annotated[float, Field(ge=0.0)] = 4.0
    scale_with_size: bool = True

    def __post_init__(self) -> None:
        high = math.inf if self.high is None else self.high
        if self.kind not in ("none", "extra", "replace"):
            raise MedtailError(f"kind: found {self.kind!r}; expected 'none', 'extra' or 'replace'.")
        if not 0 <= self.low < high:
            raise MedtailError(f"low: found {self.low:g} with high {high:g}; expected 0 or more and below high.")
        if not 0 <= self.edge <= high - self.low:
            raise MedtailError(
                f"edge: found {self.edge:g} for a band from {self.low:g} to {high:g}; expected 0 to its width"
                f" {high - self.low:g}."
            )
        if 0 < self.low < self.edge / 2:
            raise MedtailError(
                f"edge: found {self.edge:g}, which reaches below 0 from low {self.low:g}, so that part of the mean"
                f" stays; expected at most {2 * self.low:g}, or low 0 to keep all of it."
            )

    def limits(self, *, size_px: int) -> tuple[float, float, float]:
        """Return (low, high, edge) in coefficients of an image of this side; high may be infinite."""
        factor = size_px / REFERENCE_SIZE_PX if self.scale_with_size else 1.0
        high = math.inf if self.high is None else self.high
        return self.low * factor, high * factor, self.edge * factor

    def mask(self, *, size_px: int) -> Tensor:
        """Return the share of each coefficient that is kept, float64 [S, S].

        Raises:
            MedtailError: No coefficient of an image of this size is in the band.
        """
        low, high, edge = self.limits(size_px=size_px)
        mask = radial_mask(size_px, low=low, high=high, edge=edge)
        if not mask.any():
            raise MedtailError(
                f"band: {low:g} to {high:g} holds no coefficient of an image of {size_px} pixels, whose largest radius"
                f" is {math.sqrt(2) * (size_px - 1):g}. Lower band.low, or use larger images."
            )
        return mask


@lru_cache(maxsize=16)
def cosine_matrix(size_px: int) -> Tensor:
    """Return the orthonormal DCT-II as a matrix: `C @ x` transforms the columns of x, `C.T` is the inverse.

    C[k, n] = sqrt((2 - δ_k0) / S) cos(π (2n + 1) k / (2S)).

    Args:
        size_px: S, at least 1.

    Returns:
        float64 [S, S], the same object for the same size: not to be changed.

    Example:
        >>> matrix = cosine_matrix(8)
        >>> torch.allclose(matrix @ matrix.T, torch.eye(8, dtype=torch.float64))
        True

    References:
        ahmed1974.
    """
    index = torch.arange(size_px, dtype=torch.float64)
    matrix = torch.cos(math.pi * (2 * index + 1) * index[:, None] / (2 * size_px)) * math.sqrt(2 / size_px)
    matrix[0] = math.sqrt(1 / size_px)
    return matrix


def radial_mask(size_px: int, *, low: float, high: float, edge: float = 0.0) -> Tensor:
    """Return a ring in the plane of cosine coefficients, with r = sqrt(u² + v²).

    M = up((r - low + edge/2) / edge) up((high + edge/2 - r) / edge), up(t) = ½ - ½ cos(π clip(t, 0, 1)); with edge 0,
    M = 1 where low <= r <= high. A `low` of 0 has nothing below it and therefore no edge.

    Args:
        size_px: S.
        low: Inner radius, >= 0.
        high: Outer radius, above `low`; may be infinite.
        edge: Width of both edges, >= 0.

    Returns:
        float64 [S, S] in [0, 1].

    Example:
        >>> mask = radial_mask(224, low=10, high=100)
        >>> int(mask.sum()), round(float(mask.mean()), 3)
        (7869, 0.157)
    """
    index = torch.arange(size_px, dtype=torch.float64)
    radius = torch.sqrt(index**2 + index[:, None] ** 2)
    if edge == 0:
        return ((radius >= low) & (radius <= high)).double()
    rise = torch.ones_like(radius) if low == 0 else _up((radius - low + edge / 2) / edge)
    return rise * _up((high + edge / 2 - radius) / edge)


def _up(progress: Tensor) -> Tensor:
    return 0.5 - 0.5 * torch.cos(math.pi * progress.clamp(0, 1))


def band_pass(images: Tensor, mask: Tensor) -> Tensor:
    """Keep a part of each cosine coefficient of a batch: Cᵀ (M ⊙ (C X Cᵀ)) C.

    Coefficients beyond the last that the mask keeps are not computed.

    Args:
        images: Float [B, C, S, S], on any device.
        mask: Float [S, S].

    Returns:
        Float [B, C, S, S]; an image gives the same alone or in a batch.

    Example:
        >>> flat = torch.full((1, 1, 16, 16), 0.7)
        >>> bool(band_pass(flat, radial_mask(16, low=1, high=8)).abs().max() < 1e-6)
        True
    """
    matrix = cosine_matrix(images.shape[-1]).to(images)
    used = torch.nonzero(mask.any(dim=1))
    count = int(used.max()) + 1 if len(used) else 0
    return _ring(images, matrix[:count], mask[:count, :count].to(images))


def _ring(images: Tensor, matrix: Tensor, mask: Tensor) -> Tensor:
    return matrix.T @ (mask * (matrix @ images @ matrix.T)) @ matrix


@final
class BandFilter(nn.Module):
    """Turn images into the three channels a network sees: the image and its band.

    The band enters as clip(½ + band / (6 σ), 0, 1), where σ is one number for all images, the band's standard
    deviation over content pixels of the train fold: an image's own would undo differences of gain. It is a buffer,
    so that it is saved with the weights; until `set_sigma` it is NaN.

    Args:
        config: Which band; not `none`.
        size_px: Side of the images.

    Raises:
        MedtailError: No coefficient of such an image is in the band.

    Example:
        >>> images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> whole = torch.ones(2, 1, 32, 32, dtype=torch.bool)
        >>> band = BandFilter(BandConfig(kind="extra"), size_px=32)
        >>> band.set_sigma(band.measure([(images, whole)]))
        >>> seen = band(images, whole)
        >>> seen.shape, torch.equal(seen[:, :1], images), round(float(seen[:, 1].mean()), 1)
        (torch.Size([2, 3, 32, 32]), True, 0.5)
    """

    matrix: Tensor
    mask: Tensor
    sigma: Tensor

    def __init__(self, config: BandConfig, *, size_px: int) -> None:
        super().__init__()
        assert config.kind != "none", "no band, no filter"
        self.config = config
        mask = config.mask(size_px=size_px)
        count = int(torch.nonzero(mask.any(dim=1)).max()) + 1
        self.register_buffer("matrix", cosine_matrix(size_px)[:count].float(), persistent=False)
        self.register_buffer("mask", mask[:count, :count].float(), persistent=False)
        self.register_buffer("sigma", torch.tensor(torch.nan))

    def set_sigma(self, sigma: float) -> None:
        """Set the standard deviation of the band, above 0."""
        assert sigma > 0, "measure refuses images without a band"
        self.sigma.fill_(sigma)

    @torch.no_grad()
    def measure(self, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
        """Return the band's standard deviation over content pixels.

        Args:
            batches: Images float [B, C, S, S] in [0, 1] and their content, bool [B, 1, S, S].

        Raises:
            MedtailError: The images have nothing in the band, or no content.
        """
        count, total, squares = 0, 0.0, 0.0
        for images, content in batches:
            values = _ring(luminance(images), self.matrix, self.mask)[content].double()
            count, total, squares = (
                count + values.numel(),
                total + float(values.sum()),
                squares + float((values**2).sum()),
            )
        variance = squares / count - (total / count) ** 2 if count else 0.0
        # what rounding leaves of flat images is far below one step of a byte
        if not variance > 1e-10:
            raise MedtailError(
                "band: the images of the train fold have nothing in this band; expected structure in them. Check the"
                " images with `medtail data check`, or widen band.low and band.high."
            )
        return math.sqrt(variance)

    def forward(self, images: Tensor, content: Tensor | None = None) -> Tensor:
        """Make the channels; where there is no content the image is 0 and the band ½.

        Args:
            images: Float [B, 1 or 3, S, S] in [0, 1], bars filled so that they have no edge; colour becomes luminance.
            content: True or 1 where there is image, [B, 1, S, S]; None where all is.

        Returns:
            Float [B, 3, S, S] in [0, 1].
        """
        with torch.autocast(images.device.type, enabled=False):  # half precision would drown the band in the mean
            image = luminance(images.float())
            band = (0.5 + _ring(image, self.matrix, self.mask) / (6 * self.sigma)).clamp(0, 1)
            if content is not None:
                inside = content.bool()
                image, band = image * inside, torch.where(inside, band, 0.5)
        if self.config.kind == "replace":
            return band.expand(-1, CHANNELS, -1, -1)
        return torch.cat([image, band, image], dim=1)


def luminance(images: Tensor) -> Tensor:
    """Turn images [B, 1 or 3, H, W] into gray ones [B, 1, H, W], weighted as the decoder does.

    Example:
        >>> luminance(torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1)).flatten().tolist()
        [0.29899999499320984]
    """
    if images.shape[1] == 1:
        return images
    weights = torch.as_tensor(LUMA).to(images)
    return torch.einsum("bchw,c->bhw", images, weights)[:, None]
