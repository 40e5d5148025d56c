from __future__ import annotations

import math

import pytest
import torch

from medtail.models.csra import CsraConfig, CsraHead


def test_scores_equal_the_papers_formula_position_by_position() -> None:
    torch.manual_seed(0)
    head = CsraHead(3, 2, config=CsraConfig(heads=2, share=0.3), bias=[0.5, -1.0])
    features = torch.randn(1, 3, 2, 2)
    found = head(features)[0].tolist()
    positions = features[0].flatten(1).T.tolist()
    for c, bias in enumerate([0.5, -1.0]):
        total = bias
        for number in range(2):
            w = head.weight[number, c].tolist()
            norm = math.sqrt(sum(value**2 for value in w))
            s = [sum(a * b for a, b in zip(w, x, strict=True)) / norm for x in positions]
            shares = [math.exp(value) / sum(map(math.exp, s)) for value in s]
            attended = sum(p * v for p, v in zip(shares, s, strict=True)) if number == 0 else max(s)
            total += sum(s) / 4 + 0.3 * attended
        assert found[c] == pytest.approx(total, rel=1e-5)


def test_small_finding_raises_the_score_more_than_its_mean() -> None:
    head = CsraHead(1, 1, config=CsraConfig(heads=2, share=1.0))
    with torch.no_grad():
        head.weight.fill_(1.0)
    spread, focal = torch.full((1, 1, 8, 8), 0.5), torch.zeros(1, 1, 8, 8)
    focal[0, 0, 2, 3] = 32.0
    assert spread.mean() == focal.mean()
    assert head(focal).item() > head(spread).item() + 10


def test_length_of_the_weights_changes_nothing_and_share_zero_is_the_mean() -> None:
    head = CsraHead(4, 3, config=CsraConfig(share=0.0))
    features = torch.randn(2, 4, 3, 3)
    before = head(features)
    with torch.no_grad():
        head.weight.mul_(7.0)
    torch.testing.assert_close(head(features), before)
    unit = head.weight[0] / head.weight[0].norm(dim=1, keepdim=True)
    torch.testing.assert_close(before, features.mean(dim=(2, 3)) @ unit.T)


@pytest.mark.parametrize("heads", [1, 2, 4, 6, 8])
def test_every_published_number_of_heads_works_on_a_map_of_one_position(heads: int) -> None:
    head = CsraHead(4, 1, config=CsraConfig(heads=heads, share=0.5))  # type: ignore[arg-type]
    features = torch.randn(2, 4, 1, 1)
    unit = torch.nn.functional.normalize(head.weight[:, 0], dim=1)
    torch.testing.assert_close(head(features)[:, 0], 1.5 * (features[:, :, 0, 0] @ unit.T).sum(dim=1))


def test_weights_start_as_short_as_a_convolutions_so_that_a_step_turns_them() -> None:
    torch.manual_seed(0)
    weight = CsraHead(512, 6, config=CsraConfig(heads=4)).weight
    usual = torch.nn.Conv2d(512, 6, 1, bias=False).weight.flatten(1).norm(dim=1).mean().item()
    assert usual == pytest.approx(3**-0.5, rel=0.05)
    torch.testing.assert_close(weight.norm(dim=2), torch.full((4, 6), usual), rtol=0.1, atol=0.0)
