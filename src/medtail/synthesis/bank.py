"""The sketch bank: sketches of train images, lent to new images of the same class after a small change of form.

A generator that draws with a sketch needs one, and nobody should have to draw it. The bank lends that of a train image,
turned, scaled, shifted, mirrored and bent a little, so that no generated border is one that was ever seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, final

import numpy as np
from pydantic import Field
from scipy import ndimage

from medtail.config import CLOSED
from medtail.errors import MedtailError
from medtail.synthesis.sketch import LINE_LEVEL, REFERENCE_PX, SketchConfig, Sketches, sketch_images

Share = Annotated[float, Field(ge=0.0, le=0.5)]
TRIES = 8
"""Warps of one sketch before it is lent as it is, because each time too much of it left the image."""
KEPT_SHARE = 0.6
"""Share of the line's pixels that must stay in the image."""


@final
@dataclass(frozen=True, kw_only=True)
class WarpConfig:
    """How far a lent sketch is changed.

    Attributes:
        rotation_deg: Largest turn either way, degrees.
        scale: Largest relative change of size.
        shift: Largest shift along each axis, share of the side.
        flip: Probability of mirroring left and right.
        elastic_px: Root mean square of the smooth bending, in pixels of a 64-pixel image; 0 is none.
        elastic_width_px: How smooth the bending is: width of its Gaussian at 64 pixels.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    rotation_deg: Annotated[float, Field(ge=0.0, le=180.0)] = 15.0
    scale: Share = 0.15
    shift: Share = 0.10
    flip: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    elastic_px: Annotated[float, Field(ge=0.0)] = 1.0
    elastic_width_px: Annotated[float, Field(gt=0.0)] = 8.0


@final
@dataclass(frozen=True, eq=False)
class SketchBank:
    """Sketches of train images by class.

    Attributes:
        maps: uint8 [K, H, W], 255 for 1; only those that are not empty.
        image_ids: Where each comes from, text [K].
        rows: Of each class, which sketches show it, integers.
        images: Of each class, how many train images it has, with or without a sketch.
        warp: How a sketch is changed.
    """

    maps: np.ndarray
    image_ids: np.ndarray
    rows: tuple[np.ndarray, ...]
    images: tuple[int, ...]
    warp: WarpConfig

    @property
    def sketched(self) -> np.ndarray:
        """Number of sketches each class can be lent, integers [C]; 0 where no train image has one."""
        return np.array([len(rows) for rows in self.rows], dtype=np.int64)

    def draw(self, class_number: int, random: np.random.Generator) -> tuple[np.ndarray, str]:
        """Lend a changed sketch of a class.

        Args:
            class_number: Column of the class.
            random: Decides which, and the change.

        Returns:
            A map float32 [H, W] in [0, 1] and the id of the train image it comes from. A class none of whose images
            has a sketch gets a map of zeros and "": it is drawn without one.

        Raises:
            MedtailError: No such class.

        Example:
            >>> image = np.where(np.hypot(*(np.mgrid[:64, :64] - 31.5)) < 16, 0.2, 0.7)
            >>> bank = sketch_bank(image[None], np.array([[1.0, 0.0]]), ["a"])
            >>> sketch, source = bank.draw(0, np.random.default_rng(0))
            >>> sketch.shape, source, bank.draw(1, np.random.default_rng(0))[1]
            ((64, 64), 'a', '')
        """
        if not 0 <= class_number < len(self.rows):
            raise MedtailError(f"sketch bank: class {class_number}; expected 0 to {len(self.rows) - 1}.")
        rows = self.rows[class_number]
        if not len(rows):
            return np.zeros(self.maps.shape[1:], dtype=np.float32), ""
        row = int(rows[random.integers(len(rows))])
        sketch = self.maps[row].astype(np.float32) / 255.0
        return warp_map(sketch, random, config=self.warp), str(self.image_ids[row])


def sketch_bank(
    images: np.ndarray,
    targets: np.ndarray,
    image_ids: object,
    *,
    config: SketchConfig | None = None,
    warp: WarpConfig | None = None,
    content_boxes: np.ndarray | None = None,
) -> SketchBank:
    """Sketch train images and sort the sketches by class.

    Args:
        images: float [N, H, W] in [0, 1], of the train fold.
        targets: [N, C] in {0, 1, NaN}; an image lends its sketch to every class it shows.
        image_ids: Text [N].
        config: How to sketch.
        warp: How to change a sketch that is lent.
        content_boxes: See `sketch_images`.

    Returns:
        The bank. Empty sketches are left out.

    Raises:
        MedtailError: The three do not belong together.
    """
    targets = np.asarray(targets)
    ids = np.asarray(image_ids, dtype=object)
    if targets.ndim != 2 or not len(images) == len(targets) == len(ids):
        raise MedtailError(
            f"sketch bank: found {len(images)} images, targets of shape {targets.shape} and {len(ids)} ids; expected a"
            " row of each an image."
        )
    return bank_from_sketches(
        sketch_images(images, config, content_boxes=content_boxes), targets=targets, image_ids=ids, warp=warp
    )


def bank_from_sketches(
    sketches: Sketches, *, targets: np.ndarray, image_ids: np.ndarray, warp: WarpConfig | None = None
) -> SketchBank:
    """Sort sketches that were made already, as `sketch_bank` does."""
    kept = np.flatnonzero(~sketches.empty)
    shown = np.asarray(targets) == 1
    return SketchBank(
        maps=np.rint(sketches.maps[kept] * 255).astype(np.uint8),
        image_ids=image_ids[kept],
        rows=tuple(np.flatnonzero(shown[kept, number]) for number in range(shown.shape[1])),
        images=tuple(int(count) for count in shown.sum(axis=0)),
        warp=warp if warp is not None else WarpConfig(),
    )


def warp_map(sketch: np.ndarray, random: np.random.Generator, *, config: WarpConfig | None = None) -> np.ndarray:
    """Turn, scale, shift, mirror and bend a map by random amounts.

    Args:
        sketch: float32 [H, W] in [0, 1].
        random: Decides the amounts; the same number of draws a try, whatever the map.
        config: Their limits.

    Returns:
        float32 [H, W] in [0, 1], rescaled to a largest value of 1. If each of several tries pushes more than 40 % of
        the line out of the image, the map as it is.
    """
    config = config if config is not None else WarpConfig()
    pixels = float((sketch > LINE_LEVEL).sum())
    if pixels == 0:
        return sketch.copy()
    for _ in range(TRIES):
        warped, zoom = _warp_once(sketch, random, config)
        # a line's length goes with the scale; its width does too
        if float((warped > LINE_LEVEL).sum()) >= KEPT_SHARE * pixels * min(1.0, zoom**2):
            return warped
    return sketch.copy()


def _warp_once(sketch: np.ndarray, random: np.random.Generator, config: WarpConfig) -> tuple[np.ndarray, float]:
    height, width = sketch.shape
    side = min(height, width)
    angle = np.deg2rad(random.uniform(-config.rotation_deg, config.rotation_deg))
    zoom = 1.0 + random.uniform(-config.scale, config.scale)
    shift = random.uniform(-config.shift, config.shift, 2) * (height, width)
    mirrored = random.random() < config.flip
    bend = random.standard_normal((2, height, width))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
    if mirrored:
        turn = turn @ np.diag([1.0, -1.0])
    middle = (np.array([height, width]) - 1) / 2
    places = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij")).reshape(2, -1)
    source = turn @ (places - (middle + shift)[:, None]) + middle[:, None]
    if config.elastic_px > 0:
        smooth = ndimage.gaussian_filter(bend, (0, *(2 * [config.elastic_width_px * side / REFERENCE_PX])))
        smooth *= config.elastic_px * side / REFERENCE_PX / np.sqrt(np.mean(smooth**2) * 2)
        source = source + smooth.reshape(2, -1)
    warped = ndimage.map_coordinates(sketch, source, order=1, mode="constant").reshape(height, width)
    highest = float(warped.max())
    scaled: np.ndarray = np.clip(warped / highest if highest > 0 else warped, 0.0, 1.0)
    return scaled.astype(np.float32), zoom
