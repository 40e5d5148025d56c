"""Augmentation of a batch on its device, in two steps: draw numbers, then apply them.

What is drawn is kept (`AugmentParameters`), so a batch can be augmented again, alone or image by image, with the same
result. The profiles do only what leaves a finding in place: in ultrasound, depth runs downwards and shadows fall with
the beam, so nothing turns an image over or by 90 degrees, stretches one axis, shears or recolours it. (`literal`, for
comparison with papers, does turn images over.) Labels are never touched. The warp is one resampling however many
movements it is made of.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import numpy as np
import torch
from kornia.filters import gaussian_blur2d
from kornia.geometry.transform import get_affine_matrix2d, warp_affine
from torch import Tensor
from torch.nn.functional import interpolate

from medtail.config import CLOSED
from medtail.errors import MedtailError

Profile = Literal["none", "ultrasound", "chest_xray", "literal"]
Border = Literal["zeros", "reflection"]

DEFAULTS: dict[str, dict[str, float]] = {
    "none": dict.fromkeys(
        ("flip", "flip_vertical", "rotation_deg", "scale", "shift", "gain", "contrast", "gamma", "blur_px", "speckle",
         "texture", "erase"), 0.0
    ),
    "ultrasound": {
        "flip": 0.5, "flip_vertical": 0.0, "rotation_deg": 10.0, "scale": 0.1, "shift": 0.05, "gain": 0.15,
        "contrast": 0.0, "gamma": 0.15, "blur_px": 0.7, "speckle": 0.1, "texture": 0.2, "erase": 0.0,
    },
    # A chest has a left and a right: the heart, the stomach's air, the higher dome of the diaphragm. A profile cannot
    # know whether a class names a side, so it does not flip. Set `flip: 0.5` where none does (NIH-14, CXR-LT).
    "chest_xray": {
        "flip": 0.0, "flip_vertical": 0.0, "rotation_deg": 10.0, "scale": 0.1, "shift": 0.05, "gain": 0.15,
        "contrast": 0.0, "gamma": 0.15, "blur_px": 0.7, "speckle": 0.0, "texture": 0.2, "erase": 0.0,
    },
    # What many papers mean by "random brightness, contrast and flips"; how strong, they seldom say.
    "literal": {
        "flip": 0.5, "flip_vertical": 0.5, "rotation_deg": 0.0, "scale": 0.0, "shift": 0.0, "gain": 0.2,
        "contrast": 0.2, "gamma": 0.0, "blur_px": 0.0, "speckle": 0.0, "texture": 0.0, "erase": 0.0,
    },
}  # fmt: skip
LIMITS = {
    "flip": 1.0, "flip_vertical": 1.0, "rotation_deg": 30.0, "scale": 0.5, "shift": 0.5, "gain": 0.5, "contrast": 0.5,
    "gamma": 0.5, "blur_px": 3.0, "speckle": 0.5, "texture": 1.0, "erase": 1.0,
}  # fmt: skip
"""The largest strength that is accepted; the smallest is 0, which switches a part off."""


@final
@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How strongly training images are varied. A strength left out takes the profile's default.

    Attributes:
        profile: `none`, `ultrasound` (flip 0.5, rotation 10, scale 0.1, shift 0.05, gain and gamma 0.15, blur 0.7 px,
            speckle 0.1, texture 0.2), `chest_xray` (the same without flip and speckle) or `literal` (flip and
            flip_vertical 0.5, gain and contrast 0.2: what papers write).
        flip: Probability of mirroring left and right, 0 to 1.
        flip_vertical: Probability of turning the image over, 0 to 1. Of the profiles only `literal` does: in
            ultrasound it puts the shadow before the lesion that casts it.
        rotation_deg: Largest rotation either way, degrees, 0 to 30.
        scale: Largest relative change of size, the same on both axes, 0 to 0.5.
        shift: Largest shift on each axis, as a fraction of the side, 0 to 0.5.
        gain: Largest relative change of brightness, 0 to 0.5.
        contrast: Largest relative change of the distance from the image's mean, 0 to 0.5.
        gamma: Largest relative change of the exponent, 0 to 0.5; black and white stay.
        blur_px: Largest standard deviation of the blur, pixels, 0 to 3.
        speckle: Standard deviation of the multiplicative, spatially smooth noise, 0 to 0.5.
        texture: Probability of blur, and apart from that of speckle, 0 to 1.
        erase: Probability of blackening a rectangle of 2 to 10 % of the area, 0 to 1. It may hide a small finding.
        border: What comes in from outside: its mirror image (`reflection`) or black (`zeros`).

    Raises:
        MedtailError: Strengths outside their ranges.

    Example:
        >>> AugmentConfig(rotation_deg=5).strengths()["rotation_deg"], AugmentConfig().strengths()["flip"]
        (5, 0.5)
        >>> AugmentConfig(rotation_deg=90)
        Traceback (most recent call last):
        medtail.errors.MedtailError: rotation_deg: found 90; expected 0 to 30.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = CLOSED

    profile: Profile = "ultrasound"
    flip: float | None = None
    flip_vertical: float | None = None
    rotation_deg: float | None = None
    scale: float | None = None
    shift: float | None = None
    gain: float | None = None
    contrast: float | None = None
    gamma: float | None = None
    blur_px: float | None = None
    speckle: float | None = None
    texture: float | None = None
    erase: float | None = None
    border: Border = "reflection"

    def __post_init__(self) -> None:
        found = []
        if self.profile not in DEFAULTS:
            found.append(f"profile: found {self.profile!r}; expected {', '.join(map(repr, DEFAULTS))}.")
        if self.border not in ("zeros", "reflection"):
            found.append(f"border: found {self.border!r}; expected 'zeros' or 'reflection'.")
        for name, largest in LIMITS.items():
            value = getattr(self, name)
            if value is not None and not 0 <= value <= largest:
                found.append(f"{name}: found {value!r}; expected 0 to {largest:g}.")
        if found:
            raise MedtailError(" ".join(found))

    def strengths(self) -> dict[str, float]:
        """Return every strength, the profile's defaults filled in."""
        given = {name: getattr(self, name) for name in LIMITS}
        return {name: DEFAULTS[self.profile][name] if value is None else value for name, value in given.items()}


@final
@dataclass(frozen=True, eq=False)
class AugmentParameters:
    """The numbers drawn for the images of a batch, on the CPU; applying them needs no chance.

    Attributes:
        flip: Mirror left and right, bool [B].
        flip_vertical: Turn over, bool [B].
        rotation_deg: Clockwise as displayed, degrees, float32 [B].
        scale: Factor of size, float32 [B]; 1 leaves it.
        shift: Rightwards and downwards as a fraction of the side, float32 [B, 2].
        gain: Factor of brightness, float32 [B]; 1 leaves it.
        contrast: Factor of the distance from the image's mean, float32 [B]; 1 leaves it.
        gamma: Exponent, float32 [B]; 1 leaves it.
        blur_px: Standard deviation, pixels, float32 [B]; 0 leaves it.
        speckle: Standard deviation of the noise, float32 [B]; 0 leaves it.
        speckle_field: Standard normal noise at half the size, float32 [B, G, G]; G = 0 where there is no speckle.
        erase: Left, top, right, bottom of the blackened rectangle as fractions, float32 [B, 4]; all 0 leaves it.
        border: What the warp brings in from outside.
        blur_reach_px: Half-width of the blur's kernel, one for all so that an image's blur does not depend on the
            others of its batch.
    """

    flip: Tensor
    flip_vertical: Tensor
    rotation_deg: Tensor
    scale: Tensor
    shift: Tensor
    gain: Tensor
    contrast: Tensor
    gamma: Tensor
    blur_px: Tensor
    speckle: Tensor
    speckle_field: Tensor
    erase: Tensor
    border: Border = "reflection"
    blur_reach_px: int = 1

    def __len__(self) -> int:
        return len(self.flip)

    def select(self, indices: Tensor | np.ndarray | list[int]) -> AugmentParameters:
        """Return the numbers of some images, in the given order.

        Args:
            indices: Positions in the batch, integers [n], or booleans [B].
        """
        chosen = torch.as_tensor(indices)
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        an_image_each: Any = {name: value[chosen] for name, value in values.items() if isinstance(value, Tensor)}
        return dataclasses.replace(self, **an_image_each)

    @property
    def changes_values(self) -> bool:
        """Whether the values of any image are changed, apart from moving them."""
        exact = (self.gain != 1).any() or (self.contrast != 1).any() or (self.gamma != 1).any()
        return bool(exact or self.blur_px.any() or self.speckle.any() or self.erase.any())

    @property
    def moves(self) -> bool:
        """Whether any image is warped."""
        return self.resamples or bool(self.flip.any() or self.flip_vertical.any())

    @property
    def resamples(self) -> bool:
        """Whether any image is warped otherwise than by a flip, which moves whole pixels."""
        return bool(self.rotation_deg.any() or (self.scale != 1).any() or self.shift.any())


def draw_augmentation(
    batch_size: int, config: AugmentConfig, *, generator: torch.Generator, size_px: int
) -> AugmentParameters:
    """Draw the numbers for a batch.

    The same amount of chance is used whatever the strengths, and each image has numbers of its own: switching one
    part off leaves the others as they were. (Speckle, when on, draws its noise last.)

    Args:
        batch_size: Images, 0 or more.
        config: Profile and strengths.
        generator: A CPU generator; the only source of chance.
        size_px: Side of the images.

    Returns:
        Parameters on the CPU.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> drawn = draw_augmentation(4, AugmentConfig(), generator=generator, size_px=32)
        >>> len(drawn), bool((drawn.rotation_deg.abs() <= 10).all())
        (4, True)
    """
    strength = config.strengths()
    unit = torch.rand(batch_size, 16, generator=generator)
    signed = 2 * unit - 1

    def either(column: int, name: str) -> Tensor:
        return signed[:, column] * strength[name]

    def switched(column: int, probability: float) -> Tensor:
        return (unit[:, column] < probability).float()

    # a column is 24 random bits: the upper twelve turn over, the lower twelve set the contrast
    lower = (unit[:, 15] * 4096) % 1
    speckle = switched(9, strength["texture"]) * strength["speckle"]
    grid = (size_px + 1) // 2 if strength["speckle"] * strength["texture"] > 0 else 0
    return AugmentParameters(
        flip=unit[:, 0] < strength["flip"],
        flip_vertical=unit[:, 15] < strength["flip_vertical"],
        rotation_deg=either(1, "rotation_deg"),
        scale=1 + either(2, "scale"),
        shift=signed[:, 3:5] * strength["shift"],
        gain=1 + either(5, "gain"),
        contrast=1 + (2 * lower - 1) * strength["contrast"],
        gamma=1 + either(6, "gamma"),
        blur_px=switched(7, strength["texture"]) * unit[:, 8] * strength["blur_px"],
        speckle=speckle,
        speckle_field=torch.randn(batch_size, grid, grid, generator=generator),
        erase=_rectangles(unit[:, 10:15], probability=strength["erase"]),
        border=config.border,
        blur_reach_px=min(max(1, int(np.ceil(3 * strength["blur_px"]))), size_px - 1),
    )


def _rectangles(unit: Tensor, *, probability: float) -> Tensor:
    on, area, shape, across, down = unit.unbind(1)
    area = 0.02 + 0.08 * area
    aspect = torch.exp((2 * shape - 1) * float(np.log(2.0)))
    width, height = torch.sqrt(area * aspect), torch.sqrt(area / aspect)
    left, top = across * (1 - width), down * (1 - height)
    corners = torch.stack([left, top, left + width, top + height], dim=1)
    return torch.where((on < probability)[:, None], corners, torch.zeros(()))


def apply_augmentation(images: Tensor, parameters: AugmentParameters) -> Tensor:
    """Augment a batch with numbers already drawn; a batch gives what its images give one by one.

    In order: one affine warp (flips, scale, rotation about the centre, shift), erasing, blur, speckle,
    `gain * x**gamma`, contrast about the image's mean, clipping to [0, 1].

    Args:
        images: float [B, C, S, S] in [0, 1], on any device. Not changed.
        parameters: From `draw_augmentation`, for the same B.

    Returns:
        Images of the same shape, type and device, in [0, 1]. The very same tensor where nothing is to be done.

    Example:
        >>> images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> config = AugmentConfig(profile="none", flip=1.0)
        >>> drawn = draw_augmentation(2, config, generator=torch.Generator().manual_seed(0), size_px=16)
        >>> torch.allclose(apply_augmentation(images, drawn), images.flip(-1), atol=1e-5)
        True
    """
    assert len(images) == len(parameters), "one set of numbers an image"
    if not (parameters.moves or parameters.changes_values):
        return images
    # from here on the pixels are ours, so everything after the warp works in place
    ours = _warp(images, parameters, mode="bilinear", border=parameters.border) if parameters.moves else images.clone()
    if parameters.erase.any():
        ours.mul_(_outside(parameters.erase, size_px=images.shape[-1]).to(ours))
    if parameters.blur_px.any():
        _blur_(ours, parameters)
    if parameters.speckle.any():
        _speckle_(ours, parameters)
    if (parameters.gamma != 1).any() or (parameters.gain != 1).any():
        # the warp may leave a value a rounding outside [0, 1], where a power is not defined
        ours.clamp_(0, 1).pow_(_column(parameters.gamma, ours)).mul_(_column(parameters.gain, ours))
    if (parameters.contrast != 1).any():
        mean = ours.mean(dim=(1, 2, 3), keepdim=True)
        ours.sub_(mean).mul_(_column(parameters.contrast, ours)).add_(mean)
    return ours.clamp_(0, 1)


def warp_masks(masks: Tensor, parameters: AugmentParameters) -> Tensor:
    """Move masks exactly as `apply_augmentation` moves their images; nothing comes in from outside.

    Args:
        masks: float [B, C, S, S], for instance content or lesion masks of 0 and 1.
        parameters: The numbers used for the images.

    Returns:
        Masks of the same shape, by the nearest pixel, 0 where the image was brought in from outside.
    """
    return _warp(masks, parameters, mode="nearest", border="zeros") if parameters.moves else masks


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like)[:, None, None, None]


def _chosen(flags: Tensor, like: Tensor) -> Tensor:
    return flags.to(like.device)[:, None, None, None]


def affine_matrices(parameters: AugmentParameters, *, size_px: int) -> Tensor:
    """Return the movement of each image as a matrix from old to new pixel coordinates (x, y), float32 [B, 2, 3].

    The flips come first, then scale and rotation about the image's centre, then the shift.
    """
    count = len(parameters)
    centre = torch.full((count, 2), (size_px - 1) / 2)
    scale = parameters.scale[:, None].expand(-1, 2)
    moved: Tensor = get_affine_matrix2d(parameters.shift * size_px, centre, scale, parameters.rotation_deg)
    flips = torch.eye(3).repeat(count, 1, 1)
    flips[parameters.flip, 0, 0] = -1
    flips[parameters.flip, 0, 2] = size_px - 1
    flips[parameters.flip_vertical, 1, 1] = -1
    flips[parameters.flip_vertical, 1, 2] = size_px - 1
    return (moved @ flips)[:, :2]


def _warp(images: Tensor, parameters: AugmentParameters, *, mode: str, border: str) -> Tensor:
    if not parameters.resamples:
        flipped = torch.where(_chosen(parameters.flip, images), images.flip(-1), images)
        return torch.where(_chosen(parameters.flip_vertical, images), flipped.flip(-2), flipped)
    size_px = images.shape[-1]
    matrices = affine_matrices(parameters, size_px=size_px).to(images)
    warped: Tensor = warp_affine(images, matrices, (size_px, size_px), mode=mode, padding_mode=border)
    return warped


def _outside(corners: Tensor, *, size_px: int) -> Tensor:
    """Return 0 inside each rectangle and 1 outside, float32 [B, 1, S, S]."""
    place = (torch.arange(size_px) + 0.5) / size_px
    across = (place >= corners[:, :1]) & (place < corners[:, 2:3])
    down = (place >= corners[:, 1:2]) & (place < corners[:, 3:4])
    return 1 - (down[:, None, :, None] & across[:, None, None, :]).float()


def _blur_(images: Tensor, parameters: AugmentParameters) -> None:
    chosen = parameters.blur_px.nonzero().flatten()
    # a width below a hundredth of a pixel is no blur, but would divide by almost 0
    # (left on the CPU: kornia looks at the values before it moves them, and a device would have to be waited for)
    sigma = parameters.blur_px[chosen].clamp_min(0.01).to(images.dtype)[:, None].expand(-1, 2)
    where = chosen.to(images.device)
    images.index_copy_(0, where, gaussian_blur2d(images[where], 2 * parameters.blur_reach_px + 1, sigma))


def _speckle_(images: Tensor, parameters: AugmentParameters) -> None:
    chosen = parameters.speckle.nonzero().flatten()
    field = parameters.speckle_field[chosen, None].to(images)
    grains = interpolate(field, size=images.shape[-2:], mode="bilinear", align_corners=False)
    factor = 1 + _column(parameters.speckle[chosen], images) * grains
    where = chosen.to(images.device)
    images.index_copy_(0, where, images[where] * factor)
