"""Mixing images and their labels, in forms that hold for several labels an image.

What each kind mixes: `mixup` an image with any other of the batch; `cutmix` a box of it; `remix` like mixup, but a rare
label is not diluted by an image without it; `balanced_mixup` an image of the sampler's first stream with one of its
second. A label not assessed in either image is not assessed in the mixture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, assert_never, final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from medtail.config import CLOSED
from medtail.errors import MedtailError

Alpha = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


@final
@dataclass(frozen=True, kw_only=True)
class MixupConfig:
    """Each image with another, one share from Beta(α, α) a batch.

    Attributes:
        alpha: α > 0; small ones leave images nearly as they are, 1 draws any share alike.

    References:
        zhang2018.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["mixup"] = "mixup"
    alpha: Alpha = 0.4


@final
@dataclass(frozen=True, kw_only=True)
class CutmixConfig:
    """A box of another image in each, labels by area. In medicine a box may carry the label's evidence away unseen.

    Attributes:
        alpha: α > 0 of the Beta(α, α) that gives the area left.

    References:
        yun2019.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["cutmix"] = "cutmix"
    alpha: Alpha = 1.0


@final
@dataclass(frozen=True, kw_only=True)
class RemixConfig:
    """Mixup whose labels lean to the rare side.

    Attributes:
        alpha: α > 0 of Beta(α, α).
        ratio: κ >= 1, how many times rarer one side must be.
        share: τ in (0, 1]: the common side's share under which the rare side has the whole label.

    References:
        chou2020.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["remix"] = "remix"
    alpha: Alpha = 1.0
    ratio: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = 3.0
    share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5


@final
@dataclass(frozen=True, kw_only=True)
class BalancedMixupConfig:
    """Each image of the first stream with one of the second, its own share from Beta(1, α).

    Needs a sampler with two streams (`two_branches`), and leaves half as many images as the batch had.

    Attributes:
        alpha: α > 0; the smaller, the less of the balanced image.

    References:
        galdran2021.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["balanced_mixup"] = "balanced_mixup"
    alpha: Alpha = 0.2


MixConfig = Annotated[MixupConfig | CutmixConfig | RemixConfig | BalancedMixupConfig, Field(discriminator="kind")]


@final
@dataclass(frozen=True, eq=False)
class MixPlan:
    """Which rows of a batch are mixed with which, how much; on the CPU.

    Attributes:
        kept: Rows that remain, int64 [K].
        partners: The row each of them is mixed with, int64 [K].
        shares: Its own share, float32 [K], in [0, 1].
        box: top, bottom, left, right of what is pasted; None mixes whole images.
    """

    kept: Tensor
    partners: Tensor
    shares: Tensor
    box: tuple[int, int, int, int] | None = None


def plan_mix(streams: Tensor, *, config: MixConfig, size_px: int, random: np.random.Generator) -> MixPlan:
    """Choose partners and shares for a batch.

    Args:
        streams: int64 [B].
        config: Which kind.
        size_px: Side of the images.
        random: The only source of chance.

    Returns:
        The plan.

    Raises:
        MedtailError: Balanced mixup, and the batch has not both streams.

    Example:
        >>> plan = plan_mix(torch.tensor([0, 0, 1]), config=BalancedMixupConfig(), size_px=8,
        ...                 random=np.random.default_rng(0))
        >>> plan.kept.tolist(), plan.partners.tolist()
        ([0, 1], [2, 2])
    """
    count = len(streams)
    everything = torch.arange(count)
    match config:
        case BalancedMixupConfig():
            own, others = ((streams.cpu() == number).nonzero().flatten() for number in (0, 1))
            if not len(own) or not len(others):
                raise MedtailError(
                    f"mix.kind 'balanced_mixup': a batch has {len(own)} rows of the sampler's first stream and"
                    f" {len(others)} of its second; expected both. Use the sampler 'two_branches'."
                )
            order = torch.from_numpy(random.permutation(len(others)))
            partners = others[order[torch.arange(len(own)) % len(others)]]
            shares = torch.from_numpy(random.beta(1.0, config.alpha, size=len(own))).float()
            return MixPlan(own, partners, shares)
        case CutmixConfig():
            share = float(random.beta(config.alpha, config.alpha))
            partners = torch.from_numpy(random.permutation(count))
            box = cut_box(size_px, share=share, random=random)
            pasted = (box[1] - box[0]) * (box[3] - box[2]) / size_px**2
            return MixPlan(everything, partners, torch.full((count,), 1.0 - pasted), box)
        case MixupConfig() | RemixConfig():
            share = float(random.beta(config.alpha, config.alpha))
            partners = torch.from_numpy(random.permutation(count))
            return MixPlan(everything, partners, torch.full((count,), share))
        case _:
            assert_never(config)


def cut_box(size_px: int, *, share: float, random: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw a box of 1 − share of a square, its centre anywhere; what lies outside is cut off.

    Returns:
        top, bottom, left, right, in pixels.

    References:
        yun2019.
    """
    side = size_px * np.sqrt(1.0 - share)
    ends = []
    for centre in random.integers(size_px, size=2):
        ends += [max(0, round(centre - side / 2)), min(size_px, round(centre + side / 2))]
    return ends[0], ends[1], ends[2], ends[3]


def mix_images(images: Tensor, plan: MixPlan) -> Tensor:
    """Mix images [B, …, H, W] into [K, …, H, W].

    Example:
        >>> plan = MixPlan(torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([0.75, 0.75]))
        >>> mix_images(torch.tensor([0.0, 4.0]).view(2, 1, 1, 1), plan).flatten()
        tensor([1., 3.])
    """
    kept, partners = plan.kept.to(images.device), plan.partners.to(images.device)
    if plan.box is not None:
        top, bottom, left, right = plan.box
        mixed = images[kept].clone()
        mixed[..., top:bottom, left:right] = images[partners][..., top:bottom, left:right]
        return mixed
    shares = plan.shares.to(images).view(-1, *[1] * (images.ndim - 1))
    return shares * images[kept] + (1 - shares) * images[partners]


@final
class LabelMixer:
    """Mixes targets: by the images' shares, or for remix with the rare side's label kept whole.

    Args:
        config: Which kind.
        prevalence: Share of the assessed train images that show each class, float [C].
        groups: Columns of each exclusive group.
    """

    def __init__(self, config: MixConfig, *, prevalence: np.ndarray, groups: tuple[tuple[int, ...], ...]) -> None:
        self._config = config
        self._prevalence = torch.as_tensor(prevalence, dtype=torch.float32)
        self._groups = groups

    def mix(self, targets: Tensor, plan: MixPlan) -> Tensor:
        """Mix targets [B, C], NaN = not assessed, into [K, C].

        Example:
            >>> mixer = LabelMixer(RemixConfig(), prevalence=np.array([0.05, 0.5]), groups=())
            >>> plan = MixPlan(torch.tensor([0]), torch.tensor([1]), torch.tensor([0.6]))
            >>> mixer.mix(torch.tensor([[1.0, 1.0], [0.0, 0.0]]), plan)  # the rare label is whole
            tensor([[1.0000, 0.6000]])
        """
        own, other = targets[plan.kept.to(targets.device)], targets[plan.partners.to(targets.device)]
        shares = plan.shares.to(targets)[:, None].expand_as(own)
        if isinstance(self._config, RemixConfig):
            shares = self._leaned(own, other, shares, self._config)
        return shares * own + (1 - shares) * other

    def _leaned(self, own: Tensor, other: Tensor, shares: Tensor, config: RemixConfig) -> Tensor:
        """Give the whole label to the side that is rarer by `ratio`, if the other's share is below `share`."""
        common = self._prevalence.to(own)
        frequency = [torch.where(side.nan_to_num(0.0) > 0.5, common, 1 - common) for side in (own, other)]
        for group in self._groups:
            columns = list(group)
            for number, side in enumerate((own, other)):
                # the frequency of the class the row shows; a row of none of them is as its free cells would be
                shown = (side[:, columns].nan_to_num(0.0) * common[columns]).sum(dim=1, keepdim=True)
                rest = (1 - common[columns].sum()).clamp_min(0.0)
                frequency[number][:, columns] = torch.where(shown > 0, shown, rest).expand(-1, len(columns))
        first, second = frequency
        is_other_rarer = (first >= config.ratio * second) & (shares < config.share)
        is_own_rarer = (second >= config.ratio * first) & (1 - shares < config.share)
        return torch.where(is_other_rarer, 0.0, torch.where(is_own_rarer, 1.0, shares))
