"""What an exported file computes, as one torch module: bytes in; probabilities, decisions and raw scores out.

Scaling, every member of an ensemble, the mirror image where the run asks for it, calibration, and the decisions. The
calibration is that of `judging.calibration_maps` written once more in torch, in double precision; the export compares
the two on every file it writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never, final

import numpy as np
import torch
from torch import Tensor, nn

from medtail.exchange.torch_engine import Mirrored, mean_scores
from medtail.judging.calibration_maps import (
    HIGHEST,
    LIMIT,
    LOWEST,
    AffineMap,
    AnyMap,
    BetaMap,
    IdentityMap,
    IsotonicMap,
    SoftmaxMap,
)
from medtail.models.diagnoser import Diagnoser
from medtail.pixels.dataset import content_masks
from medtail.tables.labels import LabelSpace


@final
class Answering(nn.Module):
    """Prepared pixels to probabilities, decisions and raw scores.

    Args:
        diagnosers: The members, in eval mode; their scores are averaged.
        labels: Classes and groups.
        maps: A calibration's maps, together covering every class once; None leaves the scores as they are.
        thresholds: float [C], for classes outside groups.
        mirrored: What is averaged with that of the mirror image; None for nothing.
        with_content: Whether the model asks where there is image and not bar.
    """

    def __init__(
        self,
        diagnosers: Sequence[Diagnoser],
        *,
        labels: LabelSpace,
        maps: Sequence[AnyMap] | None,
        thresholds: np.ndarray,
        mirrored: Mirrored | None,
        with_content: bool,
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(diagnosers)
        self.calibrating = None if maps is None else Calibrating(maps, labels=labels)
        self.deciding = Deciding(labels, thresholds=thresholds)
        self.mirrored = mirrored
        self.with_content = with_content

    def forward(self, images: Tensor, content: Tensor | None = None) -> tuple[Tensor, ...]:
        """Answer for a batch.

        Args:
            images: uint8 [N, channels, S, S].
            content: int64 [N, 4], left, top, right and bottom of the image in its square; only with `with_content`.

        Returns:
            Probabilities float32 [N, C], decisions bool [N, C] and, where there is a calibration, the scores before
            it, float32 [N, C].
        """
        pixels = images.to(torch.float32) / 255
        masks = None
        if self.with_content:
            assert content is not None
            masks = content_masks(content, size_px=images.shape[-1])
        if self.mirrored is not None:  # one pass over both halves keeps the graph half as long
            pixels = torch.cat([pixels, pixels.flip(-1)])
            masks = None if masks is None else torch.cat([masks, masks.flip(-1)])
        shares = []
        for member in self.members:
            assert isinstance(member, Diagnoser)
            if self.mirrored is None:
                found = member.scores(pixels, masks)
            else:
                logits = member(pixels, masks).float()
                found = mean_scores(list(logits.unflatten(0, (2, images.shape[0]))), member, average=self.mirrored)
            shares.append(found.double())
        scores = torch.stack(shares).mean(dim=0)
        if self.calibrating is None:
            return scores.float(), self.deciding(scores)
        made = self.calibrating(scores)
        return made.float(), self.deciding(made), scores.float()


@final
class Deciding(nn.Module):
    """The highest class of each exclusive group, a threshold everywhere else, as `judging.decisions.decide`.

    Args:
        labels: Classes and groups.
        thresholds: float [C].

    Example:
        >>> space = LabelSpace.from_columns(["shape=oval", "shape=round", "halo"])
        >>> deciding = Deciding(space, thresholds=np.array([0.9, 0.9, 0.3]))
        >>> deciding(torch.tensor([[0.6, 0.4, 0.3]], dtype=torch.float64)).tolist()
        [[True, False, True]]
    """

    limits: Tensor

    def __init__(self, labels: LabelSpace, *, thresholds: np.ndarray) -> None:
        super().__init__()
        self.groups = [list(indices) for indices in labels.group_indices]
        self.free = list(labels.free_indices)
        self.order = _inverse([*self.free, *(column for group in self.groups for column in group)])
        self.register_buffer("limits", torch.as_tensor(thresholds[self.free], dtype=torch.float64))

    def forward(self, scores: Tensor) -> Tensor:
        """Turn scores float64 [N, C] into decisions bool [N, C]."""
        parts = [scores[:, self.free] >= self.limits] if self.free else []
        for columns in self.groups:
            best = scores[:, columns].argmax(dim=1, keepdim=True)
            parts.append(best == torch.arange(len(columns)))
        return torch.cat(parts, dim=1)[:, self.order]


@final
class Calibrating(nn.Module):
    """A calibration's maps on columns of scores: float64 [N, C] → float64 [N, C].

    Args:
        maps: Together they cover every class once.
        labels: The classes.

    Example:
        >>> shift = AffineMap(class_name="b", alpha=0.0, beta=float(np.log(3.0)))
        >>> calibrating = Calibrating([IdentityMap(class_name="a"), shift], labels=LabelSpace(("a", "b")))
        >>> calibrating(torch.full((1, 2), 0.5).double()).round(decimals=3).tolist()
        [[0.5, 0.75]]
    """

    def __init__(self, maps: Sequence[AnyMap], *, labels: LabelSpace) -> None:
        super().__init__()
        same: list[int] = []
        lines: list[AffineMap] = []
        bends: list[BetaMap] = []
        parts: list[tuple[nn.Module, list[int]]] = []
        for part in maps:
            match part:
                case IdentityMap():
                    same.append(labels.index(part.class_name))
                case AffineMap():
                    lines.append(part)
                case BetaMap():
                    bends.append(part)
                case IsotonicMap():
                    parts.append((_Steps(part), [labels.index(part.class_name)]))
                case SoftmaxMap():
                    parts.append((_Joint(part), [labels.index(name) for name in part.classes]))
                case _:
                    assert_never(part)
        if lines:
            parts.append((_Lines(lines), [labels.index(part.class_name) for part in lines]))
        if bends:
            parts.append((_Bends(bends), [labels.index(part.class_name) for part in bends]))
        self.same = same
        self.parts = nn.ModuleList(part for part, _ in parts)
        self.columns = [columns for _, columns in parts]
        self.order = _inverse([*same, *(column for columns in self.columns for column in columns)])

    def forward(self, scores: Tensor) -> Tensor:
        """Calibrate scores [N, C] in [0, 1]."""
        found = [scores[:, self.same]] if self.same else []
        found += [part(scores[:, columns]) for part, columns in zip(self.parts, self.columns, strict=True)]
        return torch.cat(found, dim=1)[:, self.order]


def _inverse(columns: Sequence[int]) -> list[int]:
    """Return the order that puts columns gathered in the given one back in place."""
    return [int(place) for place in np.argsort(columns)]


def soft_limit(logits: Tensor) -> Tensor:
    """Squeeze logits beyond ±15 logarithmically, as `calibration_maps.soft_limit`."""
    beyond = (logits.abs() - LIMIT).clamp(min=0.0)
    return torch.where(beyond > 0, torch.sign(logits) * (LIMIT + torch.log1p(beyond)), logits)


def _to_logits(scores: Tensor) -> Tensor:
    return soft_limit((torch.log(scores) - torch.log1p(-scores)).clamp(LOWEST, HIGHEST))


def _to_scores(logits: Tensor) -> Tensor:
    return torch.sigmoid(soft_limit(logits))


def _log_sigmoid(logits: Tensor) -> Tensor:
    return logits.clamp(max=0.0) - torch.log1p(torch.exp(-logits.abs()))


def _row(values: Sequence[float] | np.ndarray) -> Tensor:
    return torch.as_tensor(np.array(values, dtype=np.float64)[None])


@final
class _Lines(nn.Module):
    """Temperature and Platt maps of many classes at once."""

    slope: Tensor
    shift: Tensor

    def __init__(self, maps: Sequence[AffineMap]) -> None:
        super().__init__()
        self.register_buffer("slope", _row([float(np.exp(part.alpha)) for part in maps]))
        self.register_buffer("shift", _row([part.beta for part in maps]))

    def forward(self, scores: Tensor) -> Tensor:
        """Calibrate scores [N, columns]."""
        return _to_scores(self.slope * _to_logits(scores) + self.shift)


@final
class _Bends(nn.Module):
    """Beta maps of many classes at once."""

    rise: Tensor
    fall: Tensor
    shift: Tensor

    def __init__(self, maps: Sequence[BetaMap]) -> None:
        super().__init__()
        self.register_buffer("rise", _row([float(np.exp(part.rise)) for part in maps]))
        self.register_buffer("fall", _row([float(np.exp(part.fall)) for part in maps]))
        self.register_buffer("shift", _row([part.shift for part in maps]))

    def forward(self, scores: Tensor) -> Tensor:
        """Calibrate scores [N, columns]."""
        logits = _to_logits(scores)
        return _to_scores(self.rise * _log_sigmoid(logits) - self.fall * _log_sigmoid(-logits) + self.shift)


@final
class _Steps(nn.Module):
    """An isotonic map: the first value plus a ramp a pair of knots, which needs no search."""

    start: Tensor
    knots: Tensor
    widths: Tensor
    heights: Tensor

    def __init__(self, part: IsotonicMap) -> None:
        super().__init__()
        knots = np.array(part.knots)
        self.register_buffer("start", _row(part.values[:1]))
        self.register_buffer("knots", _row(knots[:-1]))
        self.register_buffer("widths", _row(np.diff(knots)))
        self.register_buffer("heights", _row(np.diff(np.array(part.values))))

    def forward(self, scores: Tensor) -> Tensor:
        """Calibrate scores [N, 1]."""
        if not self.knots.shape[1]:  # a single knot: one value for all
            return self.start.expand_as(scores)
        climbed = ((scores - self.knots) / self.widths).clamp(0.0, 1.0)
        return self.start + (climbed * self.heights).sum(dim=1, keepdim=True)


@final
class _Joint(nn.Module):
    """A softmax map of an exclusive group."""

    bias: Tensor

    def __init__(self, part: SoftmaxMap) -> None:
        super().__init__()
        self.slope = float(np.exp(part.alpha))
        self.register_buffer("bias", _row(part.bias))

    def forward(self, scores: Tensor) -> Tensor:
        """Calibrate shares [N, classes]."""
        shares = soft_limit(torch.log(scores).clamp(min=LOWEST))
        return torch.softmax(self.slope * shares + self.bias, dim=1)
