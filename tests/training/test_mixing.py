from __future__ import annotations

import numpy as np
import pytest
import torch

from medtail.errors import MedtailError
from medtail.training.mixing import (
    BalancedMixupConfig,
    CutmixConfig,
    LabelMixer,
    MixConfig,
    MixPlan,
    MixupConfig,
    RemixConfig,
    cut_box,
    mix_images,
    plan_mix,
)

STREAMS = torch.tensor([0, 0, 0, 1, 1, 1])
EVERY: list[MixConfig] = [MixupConfig(), CutmixConfig(), RemixConfig(), BalancedMixupConfig()]


def plan_of(config: MixConfig, seed: int = 0) -> MixPlan:
    return plan_mix(STREAMS, config=config, size_px=16, random=np.random.default_rng(seed))


@pytest.mark.parametrize("config", EVERY, ids=lambda config: config.kind)
def test_shares_are_those_of_the_pixels_and_of_the_labels(config: MixConfig) -> None:
    # image i is i everywhere and has label i alone, so pixels and labels can be compared
    images = torch.eye(6).view(6, 6, 1, 1).expand(6, 6, 16, 16)
    mixer = LabelMixer(
        MixupConfig() if isinstance(config, RemixConfig) else config, prevalence=np.full(6, 0.2), groups=()
    )
    for seed in range(20):
        plan = plan_of(config, seed)
        labels = mixer.mix(torch.eye(6), plan)
        torch.testing.assert_close(mix_images(images, plan).mean(dim=(2, 3)), labels)
        torch.testing.assert_close(labels.sum(dim=1), torch.ones(len(plan.kept)))


@pytest.mark.parametrize("config", EVERY, ids=lambda config: config.kind)
def test_same_chance_same_plan_and_a_label_unknown_in_either_is_unknown(config: MixConfig) -> None:
    plan, again = plan_of(config, 3), plan_of(config, 3)
    assert torch.equal(plan.partners, again.partners)
    assert torch.equal(plan.shares, again.shares)
    targets = (torch.arange(12).view(6, 2) % 2).float()
    targets[4, 1] = torch.nan
    mixer = LabelMixer(config, prevalence=np.array([0.01, 0.5]), groups=())
    touched = (plan.kept == 4) | (plan.partners == 4)
    assert touched.any()
    assert torch.equal(mixer.mix(targets, plan)[:, 1].isnan(), touched)


def test_balanced_mixup_keeps_the_first_stream_and_takes_partners_of_the_second() -> None:
    plan = plan_of(BalancedMixupConfig())
    assert plan.kept.tolist() == [0, 1, 2]
    assert sorted(plan.partners.tolist()) == [3, 4, 5]
    shares = torch.cat([plan_of(BalancedMixupConfig(alpha=0.2), seed).shares for seed in range(300)])
    assert shares.mean().item() == pytest.approx(1 / 1.2, abs=0.03)
    with pytest.raises(MedtailError, match=r"3 rows of the sampler's first stream and 0.*'two_branches'"):
        plan_mix(torch.zeros(3), config=BalancedMixupConfig(), size_px=8, random=np.random.default_rng(0))


def test_box_covers_the_area_it_should_unless_the_border_cuts_it() -> None:
    areas = []
    for seed in range(300):
        top, bottom, left, right = cut_box(100, share=0.75, random=np.random.default_rng(seed))
        assert 0 <= top <= bottom <= 100
        assert 0 <= left <= right <= 100
        areas.append((bottom - top) * (right - left))
    assert max(areas) == pytest.approx(2500, abs=101)
    assert min(areas) < 1300


@pytest.mark.parametrize(
    ("own", "share", "expected"),
    [
        ([1.0, 1.0], 0.6, [1.0, 0.6]),  # the rare label is whole where the image without it has under one half
        ([1.0, 1.0], 0.4, [0.4, 0.4]),
        ([0.0, 0.0], 0.4, [1.0, 0.6]),  # the partner has it
        ([0.0, 0.0], 0.6, [0.4, 0.4]),
    ],
)
def test_remix_keeps_a_rare_label_whole(own: list[float], share: float, expected: list[float]) -> None:
    mixer = LabelMixer(RemixConfig(), prevalence=np.array([0.05, 0.4]), groups=())
    targets = torch.tensor([own, [1.0 - value for value in own]])
    found = mixer.mix(targets, MixPlan(torch.tensor([0]), torch.tensor([1]), torch.tensor([share])))
    torch.testing.assert_close(found, torch.tensor([expected]))


def test_remix_of_an_exclusive_group_is_the_papers_rule_and_still_adds_to_one() -> None:
    mixer = LabelMixer(RemixConfig(), prevalence=np.array([0.8, 0.15, 0.05]), groups=((0, 1, 2),))
    classes = torch.eye(3)
    for share, own, other, expected in (
        (0.4, 0, 1, [0.0, 1.0, 0.0]),  # a partner five times rarer, more than half of the image
        (0.6, 0, 1, [0.6, 0.4, 0.0]),
        (0.6, 2, 0, [0.0, 0.0, 1.0]),
        (0.4, 1, 2, [0.0, 0.0, 1.0]),  # exactly three times rarer is enough
        (0.6, 1, 2, [0.0, 0.6, 0.4]),
    ):
        plan = MixPlan(torch.tensor([own]), torch.tensor([other]), torch.tensor([share]))
        torch.testing.assert_close(mixer.mix(classes, plan), torch.tensor([expected]))
