from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from medtail.losses.build import BceConfig, CrossEntropyConfig, build_loss
from medtail.losses.contract import LossContext, masked_mean
from medtail.losses.influence import InfluenceBalanced, InfluenceBalancedConfig, influences
from medtail.losses.objective import Step

LOSS = build_loss(BceConfig(), LossContext((30, 8, 2), (60, 40, 80), (), 100))


def test_influence_is_the_l1_norm_of_the_last_layers_gradient() -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 5, requires_grad=True)
    pooled, targets = torch.randn(4, 5), torch.tensor([[1.0, 0.0, torch.nan]] * 2 + [[0.0, 1.0, 1.0]] * 2)
    logits = pooled @ weight.T
    found = influences(Step.of(logits.detach(), targets, pooled=pooled))
    for row in range(4):
        known = ~targets[row].isnan()
        cells = torch.nn.functional.binary_cross_entropy_with_logits(
            logits[row][known], targets[row][known], reduction="sum"
        )
        (gradient,) = torch.autograd.grad(cells, weight, retain_graph=True)
        assert found[row].item() == pytest.approx(gradient.abs().sum().item(), rel=1e-5)


def test_images_that_pull_hardest_count_least_from_its_point_on() -> None:
    logits = torch.tensor([[-3.0, 0.0, 0.0], [3.0, 0.0, 0.0]], requires_grad=True)
    targets = torch.tensor([[1.0, torch.nan, torch.nan]] * 2)
    step = Step.of(logits, targets, pooled=torch.ones(2, 4))
    objective = InfluenceBalanced(InfluenceBalancedConfig(balance_from=0.5), loss=LOSS)
    assert objective(replace(step, progress=0.4)).total.item() == masked_mean(LOSS, logits, targets).item()
    (gradient,) = torch.autograd.grad(objective(replace(step, progress=0.5)).total, logits)
    assert gradient[0, 0].item() == pytest.approx(gradient[1, 0].item(), rel=0.03)  # each pulls alike
    (plain,) = torch.autograd.grad(objective(replace(step, progress=0.4)).total, logits)
    assert plain[0, 0] < 15 * plain[1, 0] < 0


def test_influence_in_an_exclusive_group_is_that_of_its_softmax() -> None:
    torch.manual_seed(1)
    loss = build_loss(CrossEntropyConfig(), LossContext((30, 8, 2, 5), (40, 40, 40, 40), ((0, 1, 2),), 40))
    weight = torch.randn(4, 5, requires_grad=True)
    pooled = torch.randn(3, 5)
    targets = torch.tensor([[0.0, 1, 0, 1], [1, 0, torch.nan, 0], [0, 0, 0, 0]])  # whole; a gap; none of them
    logits = pooled @ weight.T
    step = Step.of(logits.detach(), targets, pooled=pooled)
    found = influences(step, layout=loss.layout)
    for row in range(3):
        terms = 1 + (row == 0)  # the free class, and the group where it counts
        (gradient,) = torch.autograd.grad(
            terms * masked_mean(loss, logits[row : row + 1], targets[row : row + 1]), weight, retain_graph=True
        )
        assert found[row].item() == pytest.approx(gradient.abs().sum().item(), rel=1e-5)
    assert not torch.isclose(found[0], influences(step)[0], rtol=0.05)


def test_weighing_moves_pull_between_images_and_takes_none_away() -> None:
    logits = torch.tensor([[-3.0, 0.0, 0.0], [0.0, 0.0, 0.0], [4.0, 0.0, 0.0]], requires_grad=True)
    targets = torch.tensor([[1.0, torch.nan, torch.nan]] * 3)
    step = Step.of(logits, targets, pooled=torch.ones(3, 4))
    objective = InfluenceBalanced(InfluenceBalancedConfig(), loss=LOSS)
    pulls = []
    for progress in (0.0, 1.0):
        (gradient,) = torch.autograd.grad(objective(replace(step, progress=progress)).total, logits)
        pulls.append(gradient.abs().sum().item())
    assert pulls[1] == pytest.approx(pulls[0], rel=0.03)
    blind = replace(step, pooled=torch.zeros(3, 4), progress=1.0)  # no features, so no influence to weigh by
    assert objective(blind).total.item() == pytest.approx(masked_mean(LOSS, logits, targets).item())
    # a row whose group has a gap has no term, and must not make the others' influence look larger
    context = LossContext((30, 8, 2), (40, 40, 40), ((0, 1, 2),), 40)
    grouped = InfluenceBalanced(InfluenceBalancedConfig(), loss=build_loss(CrossEntropyConfig(), context))
    rows = torch.tensor([[1.0, 0, 0], [0, 1, 0], [torch.nan, 0, 0]])
    late = Step.of(logits, rows, pooled=torch.ones(3, 4), progress=1.0)
    both = replace(Step.of(logits[:2], rows[:2], pooled=torch.ones(2, 4)), progress=1.0)
    assert grouped(late).total.item() == pytest.approx(grouped(both).total.item())
