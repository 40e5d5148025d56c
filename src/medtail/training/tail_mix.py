"""Tail synthesis: more variety for rows of rare labels, where the second stream shows them again and again.

A chosen row is either augmented more strongly, within what leaves a finding in place, or its feature map is mixed with
that of the nearest other row of the batch that shares a rare label, or (where asked for) its lesion is put into another
picture (`paste`). Labels are mixed alike; a cell that was not
assessed in either is not assessed in the mixture. Mixing maps instead of images never puts two anatomies on top of each
other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from medtail.config import CLOSED
from medtail.errors import MedtailError
from medtail.pixels.augment import LIMITS, AugmentConfig
from medtail.tables.labels import LabelSpace

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


@final
@dataclass(frozen=True, kw_only=True)
class TailMixConfig:
    """Which rows are varied, and how.

    Attributes:
        probability: Chance that a row of the stream with a rare label is chosen.
        mixed: Share of the chosen rows that are mixed with another; the rest, and those without a partner, are
            augmented strongly.
        paste: Share of the chosen rows whose lesion is put into another picture of the batch, over a lesion that it
            covers; needs masks (column `mask_path`). What `mixed` and `paste` leave is augmented strongly.
        relative: Patterns of labels that are about a lesion and its surroundings: emptied where it was pasted. A row
            whose rare labels are all of that kind is not pasted.
        stream: The sampler's stream whose rows are chosen.
        tail_below: A label is rare if fewer of the assessed train rows show it, in (0, 1].
        alpha: First parameter of Beta(α, 1), folded to [½, 1], that gives the row's own share; >= 1 stays near itself.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    probability: Probability = 0.3
    mixed: Probability = 0.5
    paste: Probability = 0.0
    relative: tuple[str, ...] = ("echo_*", "echogenicity=*", "margin_ete")
    stream: Annotated[int, Field(ge=0)] = 1
    tail_below: Annotated[float, Field(gt=0.0, le=1.0)] = 0.05
    alpha: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 5.0

    def __post_init__(self) -> None:
        if self.mixed + self.paste > 1.0:
            raise MedtailError(
                f"mixed {self.mixed:g} and paste {self.paste:g}: expected shares that add up to at most 1."
            )


@final
@dataclass(frozen=True, eq=False)
class TailMixPlan:
    """What is to become of the rows of a batch; all on the CPU.

    Attributes:
        strong: Rows to augment strongly, bool [B].
        mixed: Rows to mix, bool [B].
        pasted: Rows whose lesion is to be pasted, bool [B]; no row is two of the three.
        partners: Rows that each row may be mixed with, bool [B, B].
        shares: The row's own share of the mixture, float32 [B], in [½, 1].
    """

    strong: Tensor
    mixed: Tensor
    pasted: Tensor
    partners: Tensor
    shares: Tensor


def tail_labels(prevalence: np.ndarray, *, below: float, labels: LabelSpace) -> Tensor:
    """Say which labels are rare, bool [C].

    Args:
        prevalence: Share of the assessed train rows that show each label, [C].
        below: Cut; labels that no row shows are not rare but absent.
        labels: Their names, for the message.

    Raises:
        MedtailError: None is.

    Example:
        >>> tail_labels(np.array([0.2, 0.01, 0.0]), below=0.05, labels=LabelSpace(("a", "b", "c"))).tolist()
        [False, True, False]
    """
    is_rare = (prevalence > 0) & (prevalence < below)
    if not is_rare.any():
        rarest = labels.class_names[int(np.where(prevalence > 0, prevalence, np.inf).argmin())]
        raise MedtailError(
            f"tail_mix.tail_below: no label is in fewer than {below:.1%} of the assessed train rows; the rarest,"
            f" {rarest!r}, is in {prevalence[labels.index(rarest)]:.1%}. Raise tail_below, or set `tail_mix: null`."
        )
    return torch.from_numpy(is_rare)


def strong_augmentation(augment: AugmentConfig) -> AugmentConfig:
    """Return the same augmentation with its texture at full strength.

    Blur, speckle and shifts are doubled and always on; what would move or hide a finding (turning over, rotation, size,
    brightness, erasing) stays as it is, so that labels stay true.

    Example:
        >>> strong = strong_augmentation(AugmentConfig())
        >>> strong.texture, strong.speckle, strong.rotation_deg, strong.flip_vertical
        (1.0, 0.2, 10.0, 0.0)
    """
    strengths = augment.strengths()
    doubled = {name: min(2 * strengths[name], LIMITS[name]) for name in ("blur_px", "speckle", "shift")}
    every: dict[str, Any] = {**strengths, **doubled, "texture": 1.0}
    return replace(augment, **every)


def plan_tail_mix(
    targets: Tensor,
    streams: Tensor,
    rows: Tensor,
    *,
    is_rare: Tensor,
    config: TailMixConfig,
    random: np.random.Generator,
    is_relative: Tensor | None = None,
) -> TailMixPlan:
    """Choose the rows of a batch to vary, and how.

    The same amount of chance is used whatever the labels are.

    Args:
        targets: Float [B, C], NaN = not assessed.
        streams: int64 [B].
        rows: Rows of the manifest, int64 [B]: an image is no partner for itself.
        is_rare: bool [C].
        config: Chances.
        random: The only source of chance.
        is_relative: Labels that pasting empties, bool [C]; none if None.

    Returns:
        The plan.

    Example:
        >>> targets = torch.tensor([[1.0], [1.0], [0.0]])
        >>> plan = plan_tail_mix(targets, torch.tensor([1, 0, 1]), torch.tensor([4, 7, 9]),
        ...                      is_rare=torch.tensor([True]), config=TailMixConfig(probability=1.0, mixed=1.0),
        ...                      random=np.random.default_rng(0))
        >>> plan.mixed.tolist(), plan.partners[0].tolist()
        ([True, False, False], [False, True, False])
    """
    count = len(targets)
    chance = torch.from_numpy(random.random((2, count)))
    own = torch.from_numpy(random.beta(config.alpha, 1.0, size=count))
    shows = (targets.cpu() == 1) & is_rare
    partners = (shows.float() @ shows.float().T > 0) & (rows.cpu()[:, None] != rows.cpu()[None, :])
    is_chosen = (streams.cpu() == config.stream) & shows.any(dim=1) & (chance[0] < config.probability)
    is_mixed = is_chosen & (chance[1] < config.mixed) & partners.any(dim=1)
    lasting = shows if is_relative is None else shows & ~is_relative
    is_pasted = is_chosen & (chance[1] >= 1.0 - config.paste) & lasting.any(dim=1)
    return TailMixPlan(
        strong=is_chosen & ~is_mixed & ~is_pasted,
        mixed=is_mixed,
        pasted=is_pasted,
        partners=partners,
        shares=torch.maximum(own, 1 - own).float(),
    )


def mix_features(features: Tensor, targets: Tensor, plan: TailMixPlan) -> tuple[Tensor, Tensor]:
    """Mix the chosen rows' feature maps, and their labels, each with its nearest partner.

    Nearest is by the cosine of the maps' means, without gradient. Partners enter as they were before any mixing.

    Args:
        features: Float [B, D, h, w].
        targets: Float [B, C], NaN = not assessed.
        plan: What to mix.

    Returns:
        Features and targets of the same shapes; the very same tensors where nothing is mixed.

    Example:
        >>> plan = TailMixPlan(strong=torch.tensor([False, False]), mixed=torch.tensor([True, False]),
        ...                    pasted=torch.tensor([False, False]),
        ...                    partners=torch.tensor([[False, True], [True, False]]), shares=torch.tensor([0.75, 0.6]))
        >>> maps, labels = mix_features(torch.tensor([0.0, 4.0]).view(2, 1, 1, 1),
        ...                             torch.tensor([[1.0, 0.0], [1.0, torch.nan]]), plan)
        >>> maps.flatten().tolist(), labels.tolist()
        ([1.0, 4.0], [[1.0, nan], [1.0, nan]])
    """
    chosen = plan.mixed.nonzero().flatten()
    if not len(chosen):
        return features, targets
    with torch.no_grad():
        pooled = normalize(features.detach().float().mean(dim=(2, 3)), dim=1)
        where = chosen.to(features.device)
        nearness = pooled[where] @ pooled.T
        nearness = nearness.masked_fill(~plan.partners[chosen].to(features.device), -torch.inf)
        partners = nearness.argmax(dim=1)
    shares = plan.shares[chosen].to(features)
    own = shares[:, None, None, None]
    blended = own * features[where] + (1 - own) * features[partners]
    share = shares.to(targets)[:, None]
    labels = share * targets[where] + (1 - share) * targets[partners]
    return features.index_copy(0, where, blended), targets.index_copy(0, where, labels)
