"""What a phantom frame shows before any ultrasound: tissue layers of the neck and the outline of one nodule.

Everything is measured in fractions of the frame (0 left or skin, 1 right or bottom), so that one scene can be drawn at
any number of pixels. Tissue has an echo level in dB relative to normal thyroid; scatter, shadow and display follow in
`phantom_physics`, the nodule's inside in `phantom_nodule`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import final

import numpy as np

STRAP_DB = -12.5
"""Echo of the strap muscles against normal thyroid: what "very hypoechoic" is measured by."""
FLUID_DB = -48.0
SIDES = (-1.0, 1.0)
ANGLES = 256
"""Points of an outline's radius table."""


@final
@dataclass(frozen=True, eq=False)
class Frame:
    """Pixel centres of a square frame with a border that is cut off after blurring.

    Attributes:
        size_px: Pixels a side, without the border.
        border_px: Pixels of border on each side.
        x: float32 [H, W] lateral place.
        z: float32 [H, W] depth.
    """

    size_px: int
    border_px: int
    x: np.ndarray
    z: np.ndarray

    def cut(self, values: np.ndarray) -> np.ndarray:
        """Remove the border."""
        inside = slice(self.border_px, self.border_px + self.size_px)
        return np.asarray(values[inside, inside])


@lru_cache(maxsize=8)
def frame(size_px: int) -> Frame:
    """Return the pixel grid of a frame.

    Args:
        size_px: Pixels a side, >= 32.
    """
    border = size_px // 16
    line = (np.arange(-border, size_px + border, dtype=np.float32) + 0.5) / size_px
    x, z = np.meshgrid(line, line)
    return Frame(size_px, border, np.ascontiguousarray(x), np.ascontiguousarray(z))


@lru_cache(maxsize=64)
def _bumps(size_px: int, cells: int) -> np.ndarray:
    """Return the weights [W, cells] that spread `cells` numbers smoothly over a line."""
    line = frame(size_px).x[0]
    at = (np.arange(cells) + 0.5) / cells
    weights = np.exp(-0.5 * ((line[:, None] - at[None, :]) * cells / 0.65) ** 2)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def soft_noise(random: np.random.Generator, size_px: int, *, across: int, down: int) -> np.ndarray:
    """Draw a smooth field of about unit standard deviation.

    Args:
        random: Source of chance.
        size_px: Of the frame.
        across: Independent cells from left to right; few make broad patches.
        down: The same from top to bottom.

    Returns:
        float32 [H, W] with border.
    """
    coarse = random.standard_normal((down, across), dtype=np.float32)
    field = _bumps(size_px, down) @ coarse @ _bumps(size_px, across).T
    return np.asarray(field * np.float32(1.6))


@final
@dataclass(frozen=True, eq=False)
class Neck:
    """The layers around a nodule.

    Attributes:
        grid: The pixels it is drawn on.
        echo_db: float32 [H, W] echo level; 0 is normal thyroid.
        coherent: float32 [H, W] mirror-like echo amplitude (capsules, walls).
        extra_loss: float32 [H, W] loss in dB a frame depth beyond that of soft tissue.
        thyroid: bool [H, W].
        strap: bool [H, W], the muscle in front of the gland.
        capsule_z: float32 [W], depth of the gland's front.
    """

    grid: Frame
    echo_db: np.ndarray
    coherent: np.ndarray
    extra_loss: np.ndarray
    thyroid: np.ndarray
    strap: np.ndarray
    capsule_z: np.ndarray


def neck(random: np.random.Generator, size_px: int, *, side: float, gland_db: float) -> Neck:
    """Draw skin, fat, strap muscle, gland, prevertebral muscle, and the windpipe and carotid at the frame's sides.

    Args:
        random: Source of chance.
        size_px: Of the frame.
        side: -1 windpipe left of the gland, 1 right of it.
        gland_db: Echo of this gland against a normal one; a diseased gland is darker.
    """
    grid = frame(size_px)
    x, z = grid.x, grid.z
    line = x[0]
    phase = random.uniform(0, 2 * np.pi, 6).tolist()  # NumPy's own scalars would turn every map to float64
    skin = np.float32(0.035) + 0.004 * np.sin(3 * line + phase[0])
    fat = np.float32(random.uniform(0.075, 0.10)) + 0.008 * np.sin(4 * line + phase[1])
    capsule = np.float32(random.uniform(0.205, 0.235)) + 0.012 * np.sin(3 * line + phase[2])
    back = np.float32(random.uniform(0.86, 0.92)) + 0.015 * np.sin(3 * line + phase[3])
    fibres = np.sin(2 * np.pi * (z * random.uniform(28, 38) + 0.8 * np.sin(3 * x + phase[4]))).astype(np.float32)
    patches = soft_noise(random, size_px, across=8, down=8)

    thyroid = (z >= capsule) & (z < back)
    strap = (z >= fat) & (z < capsule)
    echo = np.full_like(x, STRAP_DB + 1.0)  # prevertebral muscle
    echo += 1.5 * fibres
    echo[strap] = (STRAP_DB + 1.8 * fibres)[strap]
    np.copyto(echo, gland_db + 0.7 * patches, where=thyroid)
    above = z < fat
    echo[above] = (-7.0 + 3.5 * fibres + 2.0 * patches)[above]
    echo[z < skin] = 5.0
    # a few vessels, so that a dark spot in the gland is no proof of anything
    for _ in range(int(random.integers(1, 4))):
        vx, vz = random.uniform(0.1, 0.9), random.uniform(0.3, 0.82)
        rx, rz = random.uniform(0.010, 0.022), random.uniform(0.006, 0.012)
        echo[(((x - vx) / rx) ** 2 + ((z - vz) / rz) ** 2 < 1.0) & thyroid] = -24.0

    coherent = np.zeros_like(x)
    for surface, strength in ((capsule, 4.0), (fat, 1.5), (back, 2.0)):
        coherent += np.float32(strength) * np.exp(-(((z - surface) / 0.0045) ** 2))
    loss = np.zeros_like(x)
    _windpipe(random, grid, echo, coherent, loss, side=side)
    _carotid(random, grid, echo, coherent, loss, side=-side)
    return Neck(grid, echo, coherent, loss, thyroid, strap, np.asarray(capsule, dtype=np.float32))


def _windpipe(
    random: np.random.Generator,
    grid: Frame,
    echo: np.ndarray,
    coherent: np.ndarray,
    loss: np.ndarray,
    *,
    side: float,
) -> None:
    centre, depth, radius = 0.5 + side * random.uniform(0.58, 0.66), random.uniform(0.50, 0.58), 0.20
    distance = np.hypot(grid.x - centre, grid.z - depth)
    inside = distance < radius
    echo[inside] = -26.0
    front = (grid.z < depth) & (np.abs(distance - radius) < 0.009)
    coherent[front] += 2.5
    loss[inside & (grid.z < depth)] += 40.0


def _carotid(
    random: np.random.Generator,
    grid: Frame,
    echo: np.ndarray,
    coherent: np.ndarray,
    loss: np.ndarray,
    *,
    side: float,
) -> None:
    centre, depth, radius = 0.5 + side * random.uniform(0.50, 0.58), random.uniform(0.5, 0.7), random.uniform(0.07, 0.1)
    distance = np.hypot(grid.x - centre, grid.z - depth)
    echo[distance < radius] = FLUID_DB
    loss[distance < radius] -= 12.0
    coherent += np.float32(0.9) * np.exp(-(((distance - radius) / 0.006) ** 2))


@final
@dataclass(frozen=True, eq=False)
class Outline:
    """The border of a nodule: a radius a direction, in a plane stretched so that a circle fits the nodule.

    Attributes:
        centre_x: Of the stretched circle, frame fractions.
        centre_z: The same in depth.
        half_width: Lateral half axis a unit radius stands for.
        half_height: The same in depth.
        radii: float32 [ANGLES], around 1.
    """

    centre_x: float
    centre_z: float
    half_width: float
    half_height: float
    radii: np.ndarray

    def inside(self, grid: Frame) -> tuple[np.ndarray, np.ndarray]:
        """Return the signed distance to the border, positive inside, and the direction, both float32 [H, W].

        The distance is in frame fractions, exact at the border and near it.
        """
        u = (grid.x - np.float32(self.centre_x)) / np.float32(self.half_width)
        v = (grid.z - np.float32(self.centre_z)) / np.float32(self.half_height)
        angle = np.arctan2(v, u)
        place = (angle * np.float32(ANGLES / (2 * np.pi))) % ANGLES
        low = place.astype(np.int32)
        part = place - low.astype(np.float32)
        low %= ANGLES
        border = self.radii[low] * (1 - part) + self.radii[(low + 1) % ANGLES] * part
        scale = np.float32(np.sqrt(self.half_width * self.half_height))
        return np.asarray((border - np.hypot(u, v)) * scale), angle


def outline(
    random: np.random.Generator, *, kind: str, size: float, ratio: float, top: float | None, neck_at: Neck
) -> Outline:
    """Draw a nodule's border.

    Args:
        random: Source of chance.
        kind: Margin label: `margin_smooth`, `margin_ill_defined`, `margin_irregular` or `margin_ete`.
        size: Largest diameter, as a fraction of the frame.
        ratio: Height over width.
        top: How far its top stands above the gland's capsule (extension into the strap muscle), or None where it
            lies inside the gland.
        neck_at: The layers it lies in.

    Returns:
        The border; its bounding box has exactly the wanted width and height.
    """
    angle = np.arange(ANGLES) * (2 * np.pi / ANGLES)
    radii = _radii(random, angle, kind)
    height = size if ratio >= 1 else size * ratio
    width = height / ratio
    x, z = radii * np.cos(angle), radii * np.sin(angle)
    half_width, half_height = width / np.ptp(x), height / np.ptp(z)
    centre_x = random.uniform(0.43, 0.57)
    capsule = float(np.interp(centre_x, neck_at.grid.x[0], neck_at.capsule_z))
    if top is None:
        highest = capsule + 0.05 + random.uniform(0.0, max(0.01, 0.30 - 0.5 * height))
    else:
        highest = capsule - top
    return Outline(centre_x, highest - half_height * float(z.min()), half_width, half_height, radii.astype(np.float32))


def _radii(random: np.random.Generator, angle: np.ndarray, kind: str) -> np.ndarray:
    phase = random.uniform(0, 2 * np.pi, 4)
    radii = 1 + 0.018 * np.sin(2 * angle + phase[0]) + 0.010 * np.sin(3 * angle + phase[1])
    if kind == "margin_ill_defined":
        radii = radii + 0.03 * np.sin(3 * angle + phase[2]) + 0.025 * np.sin(5 * angle + phase[3])
    elif kind == "margin_ete":
        radii = radii + 0.05 * np.sin(4 * angle + phase[2]) + 0.03 * np.sin(7 * angle + phase[3])
    elif kind == "margin_irregular":
        if random.random() < 0.5:  # lobulated: bulges that meet in clefts
            lobes = int(random.integers(4, 8))
            radii = radii - 0.24 + random.uniform(0.30, 0.38) * np.abs(np.sin(0.5 * lobes * angle + phase[2]))
        else:  # spiculated or angular: pointed tongues
            count = int(random.integers(7, 12))
            at = 2 * np.pi * (np.arange(count) + random.uniform(-0.3, 0.3, count)) / count + phase[2]
            tall, wide = random.uniform(0.22, 0.42, count), random.uniform(0.14, 0.24, count)
            apart = np.abs((angle[:, None] - at[None, :] + np.pi) % (2 * np.pi) - np.pi)
            radii = radii - 0.10 + (tall * np.clip(1 - apart / wide, 0, None)).max(axis=1)
    return np.asarray(radii)
