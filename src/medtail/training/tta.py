"""Test-time augmentation: an image is scored in several versions, and the answers are averaged.

The versions are the same for every image, so an image's score depends on nothing but the image. The plain image is
always among them. None turns an image over; a mirror image is only right where no class names a side.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, final

import torch
from torch import Tensor

from medtail.errors import UsageError
from medtail.losses.contract import Link
from medtail.models.diagnoser import link_scores
from medtail.pixels.augment import (
    AugmentConfig,
    AugmentParameters,
    apply_augmentation,
    draw_augmentation,
    warp_masks,
)
from medtail.tables.labels import LabelSpace

Average = Literal["logits", "scores"]
LogitsOf = Callable[[Tensor, Tensor], Tensor]
MOST_VERSIONS = 64
ROTATIONS_DEG = (-5.0, 5.0)
SCALES = (0.9, 1.1)
GENTLE = AugmentConfig(profile="none", rotation_deg=5.0, scale=0.1, shift=0.03, gain=0.1, gamma=0.1)
"""What `random` draws from: no mirror images, nothing that hides or recolours a finding."""


@final
@dataclass(frozen=True)
class VersionPlan:
    """Which versions of an image are scored, and what is averaged.

    Attributes:
        name: As it was asked for: `none`, `flip`, `flip_rotate_scale` or `random:K`.
        average: `logits` averages before the sigmoid or softmax, `scores` after it.
    """

    name: str = "none"
    average: Average = "logits"

    @property
    def versions(self) -> int:
        """How many versions of an image are scored."""
        return len(self.parameters(size_px=8))

    @property
    def mirrors(self) -> bool:
        """Whether mirror images are among them."""
        return bool(self.parameters(size_px=8).flip.any())

    def parameters(self, *, size_px: int) -> AugmentParameters:
        """Return what is done to make each version of an image of that size; the first leaves it as it is."""
        count = {"none": 1, "flip": 2, "flip_rotate_scale": 6}.get(self.name)
        if count is None:
            count = int(self.name.partition(":")[2])
        generator = torch.Generator().manual_seed(0)
        drawn = draw_augmentation(count, GENTLE, generator=generator, size_px=size_px)
        still = draw_augmentation(count, AugmentConfig(profile="none"), generator=generator, size_px=size_px)
        if self.name.startswith("random"):
            first = torch.arange(count) == 0
            kept: Any = {
                name: torch.where(_like(first, getattr(still, name)), getattr(still, name), getattr(drawn, name))
                for name in ("rotation_deg", "scale", "shift", "gain", "gamma")
            }
            return replace(still, **kept)
        flip, rotation, scale = still.flip.clone(), still.rotation_deg.clone(), still.scale.clone()
        flip[1:2] = True
        if self.name == "flip_rotate_scale":
            rotation[2:4] = torch.tensor(ROTATIONS_DEG)
            scale[4:6] = torch.tensor(SCALES)
        return replace(still, flip=flip, rotation_deg=rotation, scale=scale)

    def scores(self, logits_of: LogitsOf, images: Tensor, content: Tensor, *, labels: LabelSpace, link: Link) -> Tensor:
        """Score images in every version and average.

        Args:
            logits_of: From images and their content to logits [B, C].
            images: Float [N, ch, S, S] in [0, 1]; N is B, or for studies the images of B studies.
            content: Where there is image and not bar, bool [N, 1, S, S].
            labels: The classes.
            link: How logits become scores.

        Returns:
            Scores [B, C] in [0, 1], float32.
        """
        parameters = self.parameters(size_px=images.shape[-1])
        total: Tensor | None = None
        for version in range(len(parameters)):
            chosen = parameters.select(torch.full((len(images),), version, dtype=torch.long))
            moved = images
            if chosen.moves or chosen.changes_values:
                moved = apply_augmentation(images, chosen)
                if images.is_contiguous(memory_format=torch.channels_last):
                    moved = moved.contiguous(memory_format=torch.channels_last)
            inside = warp_masks(content.to(images.dtype), chosen).bool() if chosen.moves else content
            logits = logits_of(moved, inside).float()
            found = logits if self.average == "logits" else link_scores(logits, labels=labels, link=link)
            total = found if total is None else total + found
        assert total is not None, "the plain image is always among the versions"
        mean = total / len(parameters)
        return link_scores(mean, labels=labels, link=link) if self.average == "logits" else mean


def read_plan(name: str | None, *, average: Average = "logits", where: str = "tta") -> VersionPlan:
    """Read a plan's name.

    Args:
        name: `none` (or None), `flip` (2 versions), `flip_rotate_scale` (6: mirror image, 5 degrees either way, 0.9 and
            1.1 times the size) or `random:K` (the plain image and K - 1 fixed gentle versions: up to 5 degrees, 10 % of
            the size, 3 % shift, 10 % of gain and gamma).
        average: What is averaged.
        where: Names the setting in messages.

    Raises:
        UsageError: No such plan.

    Example:
        >>> read_plan("flip").versions, read_plan("random:8").versions
        (2, 8)
    """
    name = "none" if name is None else str(name)
    if name in ("none", "flip", "flip_rotate_scale"):
        return VersionPlan(name, average)
    found = re.fullmatch(r"random:(\d{1,3})", name)
    if found is None or not 2 <= int(found.group(1)) <= MOST_VERSIONS:
        raise UsageError(
            f"{where}: found {name!r}; expected none, flip, flip_rotate_scale or random:K with K from 2 to"
            f" {MOST_VERSIONS} versions of an image."
        )
    return VersionPlan(f"random:{int(found.group(1))}", average)


SIDES = re.compile(r"\b(left|right|lt|rt)\b|laterality|situs|dextro|levo", re.IGNORECASE)


def cautions(plan: VersionPlan, *, labels: LabelSpace) -> tuple[str, ...]:
    """Say what to mind with a plan; empty where nothing.

    Example:
        >>> cautions(read_plan("flip"), labels=LabelSpace(("left effusion",)))[0][:62]
        "tta flip: 'left effusion' names a side, which a mirror image h"
    """
    found = []
    sided = [name for name in labels.class_names if SIDES.search(name.replace("_", " "))]
    if plan.mirrors and sided:
        found.append(
            f"tta {plan.name}: {sided[0]!r} names a side, which a mirror image has on the other one; expected classes"
            " without sides. Use random:K, which does not mirror."
        )
    if plan.name not in ("none", "flip"):
        found.append(
            f"tta {plan.name}: turns images by up to 5 degrees and scales both axes alike. Nothing is turned over and"
            " no axis is stretched, so a shadow stays below its lesion and taller-than-wide stays so; a size in pixels"
            " does not."
        )
    return tuple(found)


def _like(flags: Tensor, values: Tensor) -> Tensor:
    return flags.reshape(-1, *[1] * (values.ndim - 1))
