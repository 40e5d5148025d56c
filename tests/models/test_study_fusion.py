from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medtail.errors import MedtailError
from medtail.models.heads import LinearHeadConfig
from medtail.models.ml_decoder import MlDecoderConfig
from medtail.models.study_fusion import FusionConfig, StudyFusion

CONFIGS = {
    "ml_decoder": FusionConfig(width=16, heads=2, inner=16, decoder=MlDecoderConfig(width=16, inner=16)),
    "linear": FusionConfig(width=16, heads=2, inner=16, decoder=LinearHeadConfig()),
    "no layers": FusionConfig(width=16, heads=2, inner=16, layers=0, decoder=MlDecoderConfig(width=16, inner=16)),
}
both = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def made(config: FusionConfig) -> StudyFusion:
    """A module a few steps from its start, so that no zero hides a mistake."""
    torch.manual_seed(0)
    fusion = StudyFusion(6, 3, config=config)
    optimizer = torch.optim.AdamW(fusion.parameters(), lr=0.01)
    for _ in range(5):
        maps, kinds, there = studies()
        optimizer.zero_grad()
        (fusion(maps, kinds, there).sum(dim=1) - maps[:, 0].mean(dim=(1, 2, 3))).square().mean().backward()
        optimizer.step()
    return fusion.eval()


def studies() -> tuple[Tensor, Tensor, Tensor]:
    maps, kinds = torch.randn(5, 4, 6, 3, 2), torch.randint(0, 4, (5, 4))
    is_there = torch.arange(4)[None] < torch.tensor([1, 2, 3, 4, 2])[:, None]
    return maps, kinds, is_there


@both
@pytest.mark.parametrize("rubbish", [1e6, -1.0, float("nan"), float("inf")])
def test_what_stands_in_a_missing_view_never_changes_a_digit(config: FusionConfig, rubbish: float) -> None:
    fusion = made(config)
    maps, kinds, is_there = studies()
    with torch.inference_mode():
        plain = fusion(torch.where(is_there[:, :, None, None, None], maps, 0.0), kinds, is_there)
        other_kinds = torch.where(is_there, kinds, (kinds + 1) % 4)
        filled = fusion(torch.where(is_there[:, :, None, None, None], maps, rubbish), other_kinds, is_there)
    assert torch.equal(plain, filled)


@both
def test_more_empty_places_change_nothing(config: FusionConfig) -> None:
    fusion = made(config)
    maps, kinds, is_there = studies()
    with torch.inference_mode():
        wide = fusion(maps[1:2], kinds[1:2], is_there[1:2])
        narrow = fusion(maps[1:2, :2], kinds[1:2, :2], is_there[1:2, :2])
    torch.testing.assert_close(wide, narrow, rtol=0, atol=1e-5)


@both
def test_the_order_of_views_does_not_matter_but_what_they_are_does(config: FusionConfig) -> None:
    fusion = made(config)
    maps, kinds, is_there = studies()
    order = torch.tensor([2, 0, 3, 1])
    with torch.inference_mode():
        plain = fusion(maps, kinds, is_there)
        turned = fusion(maps[:, order], kinds[:, order], is_there[:, order])
        renamed = fusion(maps, (kinds + 1) % 4, is_there)
    torch.testing.assert_close(turned, plain, rtol=0, atol=1e-5)
    assert (renamed - plain).abs().max() > 1e-3


@both
def test_a_study_gets_the_same_logits_alone_and_in_a_batch(config: FusionConfig) -> None:
    fusion = made(config)
    maps, kinds, is_there = studies()
    with torch.inference_mode():
        together = fusion(maps, kinds, is_there)
        alone = torch.cat([fusion(maps[n : n + 1], kinds[n : n + 1], is_there[n : n + 1]) for n in range(5)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)


@both
def test_every_view_that_is_there_and_its_place_in_the_image_are_read(config: FusionConfig) -> None:
    fusion = made(config)
    maps, kinds, is_there = studies()
    maps.requires_grad_(True)
    fusion(maps, kinds, is_there).square().sum().backward()
    assert maps.grad is not None
    moved = maps.grad.abs().amax(dim=(2, 3, 4)) > 0
    assert torch.equal(moved, is_there)
    with torch.inference_mode():
        mirrored = fusion(maps.detach().flip(-1), kinds, is_there)
        assert (mirrored - fusion(maps.detach(), kinds, is_there)).abs().max() > 1e-4


def test_it_begins_with_the_class_frequencies() -> None:
    prior = [-1.0, -4.0]
    config = FusionConfig(width=16, heads=2, inner=16, decoder=LinearHeadConfig())
    fusion = StudyFusion(6, 2, config=config, bias=prior).eval()
    found = fusion(torch.zeros(1, 1, 6, 2, 2), torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool))
    torch.testing.assert_close(found, torch.tensor([prior]), rtol=0, atol=0.3)


def test_a_width_that_does_not_divide_is_refused() -> None:
    with pytest.raises(MedtailError, match="width 30, heads 8: expected a width that is a multiple of 4 and of heads"):
        FusionConfig(width=30)
