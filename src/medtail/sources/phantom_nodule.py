"""The inside of a phantom nodule: fluid and tissue, rim and halo, and the echogenic foci, each as the label says.

Takes a border from `phantom_scene` and returns maps that `phantom_physics` turns into an image, with a mask of every
thing that was drawn: the oracle for explanations. A label is drawn the same way whatever the others are.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import final

import numpy as np

from medtail.sources.phantom_scene import ANGLES, FLUID_DB, STRAP_DB, Frame, Neck, Outline, soft_noise

LEVELS_DB: Mapping[str, tuple[float, float]] = {
    "echo_hyper": (6.5, 9.0),
    "echo_iso": (-0.8, 0.8),
    "echo_hypo": (-9.0, -6.5),
    "echo_very_hypo": (-19.5, -16.5),
    "echo_anechoic": (FLUID_DB, FLUID_DB),
}
"""Range of the tissue's echo against the gland; very hypoechoic lies below the strap muscle."""
EDGES: Mapping[str, tuple[float, float]] = {
    "margin_smooth": (0.0025, 0.004),
    "margin_ill_defined": (0.024, 0.034),
    "margin_irregular": (0.0025, 0.004),
    "margin_ete": (0.004, 0.007),
}
"""Width over which the nodule turns into its surroundings, as a fraction of the frame."""


@final
@dataclass(frozen=True, eq=False)
class Focus:
    """One echogenic focus.

    Attributes:
        label: Which of the four kinds.
        mask: bool [size, size].
    """

    label: str
    mask: np.ndarray


@final
@dataclass(frozen=True, eq=False)
class Tissue:
    """Neck and nodule as one: what sound meets.

    Attributes:
        echo_db: float32 [H, W] echo of the scatterers.
        coherent: float32 [H, W] mirror-like amplitude.
        extra_loss: float32 [H, W] loss beyond soft tissue's, dB a frame depth.
        lesion: bool [H, W].
        fluid: bool [H, W], inside the lesion.
        halo: bool [H, W], a dark rim around it.
        foci: Label → bool masks [H, W], one a focus.
    """

    echo_db: np.ndarray
    coherent: np.ndarray
    extra_loss: np.ndarray
    lesion: np.ndarray
    fluid: np.ndarray
    halo: np.ndarray
    foci: tuple[Focus, ...]


def with_nodule(
    random: np.random.Generator, neck: Neck, border: Outline, *, present: Set[str], gland_db: float
) -> Tissue:
    """Put a nodule with the given descriptors into the neck.

    Args:
        random: Source of chance.
        neck: Its surroundings; not changed.
        border: Its outline.
        present: Labels that are present, one an exclusive group and at least one focus label.
        gland_db: Echo of the gland around it.
    """
    grid = neck.grid
    distance, angle = border.inside(grid)
    lesion = distance > 0
    margin = next(label for label in EDGES if label in present)
    # a floor of a third of a pixel keeps a sharp border from turning to steps on small frames
    edge = max(random.uniform(*EDGES[margin]), 0.3 / grid.size_px)
    weight = 1 / (1 + np.exp(np.clip(-distance / np.float32(edge), -30, 30)))

    level = next(random.uniform(*LEVELS_DB[label]) for label in LEVELS_DB if label in present)
    patches = soft_noise(random, grid.size_px, across=14, down=14)
    # an isoechoic nodule shows by its coarser texture, if by nothing else
    solid_db = np.float32(gland_db + level) + np.float32(2.0 if "echo_iso" in present else 1.1) * patches
    fluid, wall = _fluid(random, grid, border, distance, present)
    inside = np.where(fluid, np.float32(FLUID_DB), np.float32(gland_db) if "comp_cystic" in present else solid_db)
    if "comp_spongiform" in present:
        inside = np.where(fluid, np.float32(gland_db - 20.0), inside + 1.5)
    # decibels of fluid fall off a cliff even where its share rises slowly; the cube makes an ill-defined cyst one
    mixing = np.where(fluid, weight**3, weight) if margin == "margin_ill_defined" else weight
    echo = neck.echo_db * (1 - mixing) + inside * mixing
    coherent = neck.coherent * (1 - weight) + wall
    loss = neck.extra_loss * (1 - weight)
    loss = loss - np.where(fluid, np.float32(9.0 if "comp_spongiform" in present else 17.0), np.float32(0.0))
    if level < STRAP_DB:
        loss = loss + np.where(lesion & ~fluid, np.float32(5.0), np.float32(0.0))

    halo = _halo(random, distance, margin, iso="echo_iso" in present)
    if halo.any():
        echo = np.where(halo, np.minimum(echo, np.float32(gland_db - 19.0)), echo)
    canvas = _Canvas(grid, np.asarray(echo), np.asarray(coherent), np.asarray(loss), [])
    if "foci_rim" in present:
        _rim(random, canvas, distance, angle)
    if "foci_macro" in present:
        _macro(random, canvas, border, distance)
    if "foci_comet_tail" in present:
        _comet_tails(random, canvas, border, distance, fluid)
    if "foci_punctate" in present:
        _punctate(random, canvas, border, distance, fluid)
    return Tissue(canvas.echo, canvas.coherent, canvas.loss, lesion, fluid & lesion, halo, tuple(canvas.foci))


@final
@dataclass(frozen=True, eq=False)
class _Canvas:
    grid: Frame
    echo: np.ndarray
    coherent: np.ndarray
    loss: np.ndarray
    foci: list[Focus]


def _fluid(
    random: np.random.Generator, grid: Frame, border: Outline, distance: np.ndarray, present: Set[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return where fluid is, bool [H, W], and the echo of its walls, float32 [H, W]."""
    nothing = np.zeros_like(distance)
    if "comp_cystic" in present:
        fluid = distance > 0.010
        if random.random() < 0.4:  # a bud on the wall, less than a tenth of the cyst
            angle = random.uniform(0, 2 * np.pi)
            at_x, at_z = _at(border, angle, 0.88)
            fluid &= np.hypot(grid.x - at_x, grid.z - at_z) > 0.10 * (border.half_width + border.half_height)
    elif "comp_mixed" in present:
        share = random.uniform(0.38, 0.60)
        field = soft_noise(random, grid.size_px, across=9, down=9)
        field = field + 0.6 * np.clip(distance / np.float32(0.6 * border.half_height), 0, 1)
        room = distance > 0.02
        values = field[room]
        if not len(values):
            return room, nothing
        wanted = min(0.95, share * float((distance > 0).sum()) / len(values))
        fluid = room & (field > np.partition(values, int((1 - wanted) * len(values)))[int((1 - wanted) * len(values))])
    elif "comp_spongiform" in present:
        return _honeycomb(random, grid, border, distance), nothing
    else:
        return np.zeros(distance.shape, dtype=bool), nothing
    # the far wall of fluid throws back more: sound reached it unweakened and meets it squarely
    step = np.zeros_like(distance)
    step[1:] = fluid[:-1] & ~fluid[1:]
    step[:-1] += 0.5 * (fluid[1:] & ~fluid[:-1])
    return fluid, step * np.float32(1.2)


def _honeycomb(random: np.random.Generator, grid: Frame, border: Outline, distance: np.ndarray) -> np.ndarray:
    """Fill more than half of the nodule with small cysts on a shaken lattice."""
    pitch = max(0.048, 4.0 / grid.size_px)
    columns = np.arange(-border.half_width * 1.2, border.half_width * 1.2, pitch)
    rows = np.arange(-border.half_height * 1.2, border.half_height * 1.2, pitch * 0.866)
    cx, cz = np.meshgrid(columns, rows)
    cx[1::2] += pitch / 2
    cx += random.uniform(-0.2, 0.2, cx.shape) * pitch + border.centre_x
    cz += random.uniform(-0.2, 0.2, cz.shape) * pitch + border.centre_z
    radius = random.uniform(0.34, 0.50, cx.shape) * pitch
    fluid = np.zeros(distance.shape, dtype=bool)
    line, offset = grid.x[0], grid.border_px
    reach = int(np.ceil(0.5 * pitch * grid.size_px)) + 1
    for x, z, r in zip(cx.ravel(), cz.ravel(), radius.ravel(), strict=True):
        column, row = int(x * grid.size_px) + offset, int(z * grid.size_px) + offset
        left, high = max(0, column - reach), max(0, row - reach)
        near_x, near_z = line[left : column + reach + 1], line[high : row + reach + 1]
        if not (len(near_x) and len(near_z)):
            continue
        disc = (near_x[None, :] - x) ** 2 + (near_z[:, None] - z) ** 2 < r * r
        fluid[high : high + len(near_z), left : left + len(near_x)] |= disc
    return np.asarray(fluid & (distance > 0.006))


def _halo(random: np.random.Generator, distance: np.ndarray, margin: str, *, iso: bool) -> np.ndarray:
    """Return a thin dark rim around smooth nodules: always where nothing else would show them, else often."""
    wanted = margin == "margin_smooth" and (random.random() < 0.35 or iso)
    width = random.uniform(0.015, 0.023)
    return np.asarray((distance < 0) & (distance > -width)) if wanted else np.zeros(distance.shape, dtype=bool)


def _at(border: Outline, angle: float, part: float) -> tuple[float, float]:
    """Return the point in a direction, at a part of the way from the centre to the border."""
    radius = part * float(border.radii[int(angle / (2 * np.pi) * ANGLES) % ANGLES])
    x = border.centre_x + border.half_width * radius * np.cos(angle)
    return x, border.centre_z + border.half_height * radius * np.sin(angle)


def _rim(random: np.random.Generator, canvas: _Canvas, distance: np.ndarray, angle: np.ndarray) -> None:
    """Draw an eggshell: a bright shell on the border with one or two gaps, weakening what lies behind it."""
    thick = max(0.009, 0.8 / canvas.grid.size_px)
    shell = np.abs(distance + np.float32(0.5 * thick)) < thick
    for _ in range(int(random.integers(1, 3))):
        middle, half = random.uniform(-np.pi, np.pi), random.uniform(0.2, 0.4)
        shell &= np.abs((angle - middle + np.pi) % (2 * np.pi) - np.pi) > half
    # squarely met at top and bottom, glanced at the flanks
    canvas.coherent[shell] += (4.0 + 3.0 * np.abs(np.sin(angle)))[shell].astype(np.float32)
    canvas.echo[shell] = 10.0
    canvas.loss[shell] += np.float32(3.5 / (2 * thick))
    canvas.foci.append(Focus("foci_rim", canvas.grid.cut(shell)))


def _macro(random: np.random.Generator, canvas: _Canvas, border: Outline, distance: np.ndarray) -> None:
    """Draw one or two coarse calcifications, each with a shadow behind it."""
    grid = canvas.grid
    angle = random.uniform(0, 2 * np.pi)
    for number in range(int(random.integers(1, 3))):
        at_x, at_z = _at(border, angle + number * random.uniform(1.8, 3.2), random.uniform(0.15, 0.55))
        wide, high = random.uniform(0.030, 0.055), random.uniform(0.015, 0.026)
        ragged = 1 + 0.12 * np.sin(random.uniform(40, 70) * (grid.x + grid.z))
        body = (((grid.x - at_x) / wide) ** 2 + ((grid.z - at_z) / high) ** 2 < ragged) & (distance > 0)
        canvas.coherent[body] += 9.0
        canvas.echo[body] = 12.0
        canvas.loss[body] += np.float32(14.0 / high)
        canvas.foci.append(Focus("foci_macro", grid.cut(body)))


def _comet_tails(
    random: np.random.Generator, canvas: _Canvas, border: Outline, distance: np.ndarray, fluid: np.ndarray
) -> None:
    """Draw bright specks with echoes of themselves behind them, tapering and fading: colloid crystals."""
    grid = canvas.grid
    places = _places(random, grid, fluid & (distance > 0.03) if fluid.any() else distance > 0.05, border,
                     count=int(random.integers(2, 5)), apart=0.06, upper=True)  # fmt: skip
    for at_x, at_z in places:
        length = random.uniform(0.07, 0.11)
        behind = (grid.z - np.float32(at_z)) / np.float32(length)
        along = np.clip(behind, 0, 1)
        half = np.maximum(np.float32(0.0105) * (1 - 0.9 * along), np.float32(0.45 / grid.size_px))
        rungs = 0.45 + 0.55 * np.cos(2 * np.pi * along * 4.5) ** 2
        tail = (np.abs(grid.x - np.float32(at_x)) < half) & (behind >= -0.06) & (behind <= 1)
        strength = 9.0 * np.exp(-2.3 * along) * rungs
        canvas.coherent[tail] += strength[tail].astype(np.float32)
        canvas.foci.append(Focus("foci_comet_tail", grid.cut(tail)))


def _punctate(
    random: np.random.Generator, canvas: _Canvas, border: Outline, distance: np.ndarray, fluid: np.ndarray
) -> None:
    """Draw bright specks of a pixel or two in the tissue, without shadow."""
    grid = canvas.grid
    reach = max(0.0085, 0.75 / grid.size_px)
    count = int(random.integers(6, 13))
    room = (distance > 0.025) & ~fluid
    for at_x, at_z in _places(random, grid, room if room.any() else distance > 0.01, border, count=count, apart=0.03):
        spot = (grid.x - at_x) ** 2 + (grid.z - at_z) ** 2 < reach * reach
        canvas.coherent[spot] += np.float32(random.uniform(8.0, 12.0))
        canvas.foci.append(Focus("foci_punctate", grid.cut(spot)))


def _places(
    random: np.random.Generator, grid: Frame, room: np.ndarray, border: Outline, *, count: int, apart: float,
    upper: bool = False,
) -> list[tuple[float, float]]:  # fmt: skip
    """Choose points in a region, some way from each other; fewer where there is no room, but one at least."""
    rows, columns = np.nonzero(room)
    if not len(rows):
        return [(border.centre_x, border.centre_z)]
    if upper:  # what trails behind must still lie in the nodule
        order = np.argsort(rows, kind="stable")[: max(1, len(rows) * 6 // 10)]
        rows, columns = rows[order], columns[order]
    chosen: list[tuple[float, float]] = []
    for pick in random.integers(0, len(rows), 4 * count):
        x, z = float(grid.x[0, columns[pick]]), float(grid.z[rows[pick], 0])
        if all(np.hypot(x - cx, z - cz) > apart for cx, cz in chosen):
            chosen.append((x, z))
        if len(chosen) == count:
            break
    return chosen
