"""Lesions put into other pictures: the mask cuts one out, and it takes the place of another one that it covers.

The picture that comes out shows one lesion with its own shape, margin and foci, in surroundings it was never seen in.
What is said of a lesion *relative to* its surroundings (how bright it is, whether it leaves the organ) is nobody's
knowledge any more, and those cells are emptied. Only moved, never scaled or turned: size and shape are findings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from medtail.tables.labels import LabelSpace

COVERED = 0.95
"""Share of the host's own lesion that must disappear under the pasted one."""


@final
@dataclass(frozen=True, eq=False)
class PastePlan:
    """Which lesions go where.

    Attributes:
        rows: Rows of the batch that get other surroundings, int64 [n].
        hosts: Row of the batch whose picture each one goes into, int64 [n].
        shifts: How far each lesion moves, down and to the right in pixels, int64 [n, 2].
    """

    rows: Tensor
    hosts: Tensor
    shifts: Tensor


def relative_labels(labels: LabelSpace, patterns: Sequence[str]) -> Tensor:
    """Say which labels are about a lesion and its surroundings, bool [C].

    Args:
        labels: The classes.
        patterns: Shell patterns of their names.

    Example:
        >>> relative_labels(LabelSpace(("echo_iso", "margin_ete", "foci_rim")), ["echo_*", "margin_ete"]).tolist()
        [True, True, False]
    """
    return torch.tensor([any(fnmatchcase(name, pattern) for pattern in patterns) for name in labels.class_names])


def plan_paste(wanted: Tensor, masks: Tensor, rows: Tensor) -> PastePlan:
    """Find for each lesion a picture whose own lesion it covers; no chance is used.

    The lesion's middle goes to the middle of the other one, as far as the border allows. Of the pictures whose lesion
    then disappears, the one with the largest is taken: the less of the surroundings is lost.

    Args:
        wanted: Rows whose lesion is to be pasted, bool [B].
        masks: Lesions of the batch, bool [B, S, S]; empty where unknown.
        rows: Rows of the manifest, int64 [B]: an image is no host of its own lesion.

    Returns:
        The plan; rows without a host are left out.

    Example:
        >>> masks = torch.zeros(2, 8, 8, dtype=torch.bool)
        >>> masks[0, 1:4, 1:4], masks[1, 4:6, 4:6] = True, True
        >>> plan = plan_paste(torch.tensor([True, True]), masks, torch.tensor([10, 11]))
        >>> plan.rows.tolist(), plan.hosts.tolist(), plan.shifts.tolist()
        ([0], [1], [[2, 2]])
    """
    area = masks.flatten(1).sum(dim=1)
    found: list[tuple[int, int, int, int]] = []
    for row in torch.nonzero(wanted & (area > 0)).flatten().tolist():
        box = _bounds(masks[row])
        best: tuple[int, int, int, int] | None = None
        for host in torch.nonzero((area > 0) & (area <= area[row]) & (rows != rows[row])).flatten().tolist():
            if best is not None and area[host] <= area[best[1]]:
                continue
            shift = _shift(box, _bounds(masks[host]), size_px=masks.shape[-1])
            if (_moved(masks[row], shift) & masks[host]).sum() >= COVERED * area[host]:
                best = row, host, *shift
        if best is not None:
            found.append(best)
    table = torch.tensor(found, dtype=torch.int64).reshape(-1, 4)
    return PastePlan(table[:, 0], table[:, 1], table[:, 2:])


def paste(
    images: Tensor, targets: Tensor, masks: Tensor, plan: PastePlan, *, relative: Tensor
) -> tuple[Tensor, Tensor]:
    """Carry the plan out.

    Args:
        images: Float [B, channels, S, S], before any augmentation.
        targets: Float [B, C], NaN = not assessed.
        masks: Lesions, bool [B, S, S].
        plan: What goes where.
        relative: Labels whose cells are emptied in the pasted rows, bool [C].

    Returns:
        Images and targets of the same shapes; hosts enter as they were before any pasting.
    """
    if not len(plan.rows):
        return images, targets
    new_images, new_targets = images.clone(), targets.clone()
    for row, host, shift in zip(plan.rows.tolist(), plan.hosts.tolist(), plan.shifts.tolist(), strict=True):
        lesion, moved = _moved(images[row], shift), _moved(masks[row].to(images), shift)
        # a soft edge, so that the cut is no finding; what lies outside of the lesion's own picture is no part of it
        share = avg_pool2d(moved[None, None], 3, stride=1, padding=1, count_include_pad=False)[0]
        share = share * _moved(torch.ones_like(moved), shift)
        new_images[row] = share * lesion + (1.0 - share) * images[host]
        new_targets[row, relative.to(targets.device)] = torch.nan
    return new_images, new_targets


def _bounds(mask: Tensor) -> tuple[int, int, int, int]:
    """Return top, left, bottom and right of a mask; the last two are the first pixels outside."""
    down, across = torch.nonzero(mask.any(dim=1)).flatten(), torch.nonzero(mask.any(dim=0)).flatten()
    return int(down[0]), int(across[0]), int(down[-1]) + 1, int(across[-1]) + 1


def _moved(picture: Tensor, shift: Sequence[int]) -> Tensor:
    """Move a picture [..., S, S]; what comes in from outside is 0."""
    down, right = shift
    size_px = picture.shape[-1]
    found = torch.zeros_like(picture)
    into = slice(max(down, 0), size_px + min(down, 0)), slice(max(right, 0), size_px + min(right, 0))
    out = slice(max(-down, 0), size_px + min(-down, 0)), slice(max(-right, 0), size_px + min(-right, 0))
    found[..., into[0], into[1]] = picture[..., out[0], out[1]]
    return found


def _shift(own: tuple[int, int, int, int], other: tuple[int, int, int, int], *, size_px: int) -> tuple[int, int]:
    """Return how far a box moves so that its middle meets the other's, without leaving the picture."""
    top, left, bottom, right = own
    down = round((other[0] + other[2] - top - bottom) / 2)
    across = round((other[1] + other[3] - left - right) / 2)
    return min(max(down, -top), size_px - bottom), min(max(across, -left), size_px - right)
