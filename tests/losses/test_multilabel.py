from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from medtail.losses.build import AslConfig, BceConfig, build_loss
from medtail.losses.contract import LossContext, masked_mean
from medtail.losses.multilabel import binary_cross_entropy

CONTEXT = LossContext((25, 1), (100, 100), (), 100)


def test_bce_by_hand_and_by_torch() -> None:
    loss = build_loss(BceConfig(), CONTEXT)
    logits = torch.tensor([[math.log(3), -math.log(3)]])  # scores 3/4 and 1/4
    cells = loss.values(logits, torch.tensor([[1.0, 1.0]]))
    assert cells.tolist() == [pytest.approx([math.log(4 / 3), math.log(4)])]
    wide = torch.linspace(-50, 50, 101)
    for target in (0.0, 0.3, 1.0):
        targets = torch.full_like(wide, target)
        expected = binary_cross_entropy_with_logits(wide, targets, reduction="none")
        torch.testing.assert_close(binary_cross_entropy(wide, targets), expected, rtol=1e-6, atol=1e-6)


def test_asl_by_hand() -> None:
    loss = build_loss(AslConfig(), CONTEXT)
    # score 1/2: present 1/2 log 2; absent q = 0.45: 0.45^4 * -log(0.55)
    cells = loss.values(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
    assert cells.tolist() == [pytest.approx([0.3465736, 0.0245151], rel=1e-5)]


def test_asl_prior_weights_by_hand() -> None:
    # prevalences 0.25 and 0.01: positives weigh e^0.75, negatives e^0.01
    plain = build_loss(AslConfig(), CONTEXT).values(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
    weighted = build_loss(AslConfig(prior_weights=True), CONTEXT).values(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
    assert (weighted / plain).tolist() == [pytest.approx([math.exp(0.75), math.exp(0.01)])]


def test_asl_drops_negatives_below_the_clip() -> None:
    loss = build_loss(AslConfig(clip=0.05, gamma_negative=0.5), CONTEXT)
    logits = torch.tensor([[-3.0, -2.9]], requires_grad=True)  # scores 0.0474 and 0.0522
    value = loss.values(logits, torch.zeros(1, 2))
    value.sum().backward()
    assert logits.grad is not None
    assert value[0, 0].item() == logits.grad[0, 0].item() == 0.0
    assert value[0, 1].item() > 0
    assert logits.grad[0, 1].item() > 0


def test_asl_has_a_finite_gradient_at_the_clip_itself() -> None:
    logits = torch.zeros(1, 2, requires_grad=True)  # score 1/2, so q is 0 exactly
    build_loss(AslConfig(clip=0.5, gamma_negative=0.5), CONTEXT).values(logits, torch.zeros(1, 2)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [pytest.approx([0.0, 0.0], abs=1e-12)]


def test_asl_without_gradient_through_the_focus_keeps_the_value() -> None:
    targets = torch.tensor([[1.0, 0.0]])
    gradients, values = [], []
    for detach in (False, True):
        logits = torch.tensor([[0.3, 0.8]], requires_grad=True)
        value = masked_mean(build_loss(AslConfig(detach_focus=detach, clip=0.0), CONTEXT), logits, targets)
        value.backward()
        assert logits.grad is not None
        values.append(value.item())
        gradients.append(logits.grad)
    assert values[0] == values[1]
    # with the focus held, the slope is focus times that of cross-entropy
    p, q = 1 / (1 + math.exp(-0.3)), 1 / (1 + math.exp(-0.8))
    assert gradients[1].tolist() == [pytest.approx([-((1 - p) ** 2) / 2, q**5 / 2], rel=1e-5)]
    assert not torch.allclose(gradients[0], gradients[1])


def test_asl_treats_a_group_cell_by_cell() -> None:
    grouped = LossContext((25, 1), (100, 100), ((0, 1),), 100)
    logits, targets = torch.tensor([[1.0, -2.0]]), torch.tensor([[1.0, torch.nan]])
    found = masked_mean(build_loss(AslConfig(), grouped), logits, targets)
    assert found.item() == masked_mean(build_loss(AslConfig(), CONTEXT), logits, targets).item() > 0
