from __future__ import annotations

import math

import pytest
import torch

from medtail.losses.build import ClassBalancedConfig, CrossEntropyConfig, FocalConfig, build_loss
from medtail.losses.contract import GroupLayout, LossContext
from medtail.losses.multiclass import cross_entropy_cells, smoothed

TWO = LossContext((2, 1), (3, 3), ((0, 1),), 3)
FIRST = torch.tensor([[1.0, 0.0]])


def test_cross_entropy_by_hand() -> None:
    # softmax(log 3, 0) = (3/4, 1/4)
    cells = build_loss(CrossEntropyConfig(), TWO).values(torch.tensor([[math.log(3), 0.0]]), FIRST)
    assert cells.tolist() == [pytest.approx([math.log(4 / 3), 0.0])]


def test_smoothed_cross_entropy_by_hand() -> None:
    # targets (0.9, 0.1): 0.9 log(4/3) + 0.1 log 4
    cells = build_loss(CrossEntropyConfig(smoothing=0.2), TWO).values(torch.tensor([[math.log(3), 0.0]]), FIRST)
    assert cells.sum().item() == pytest.approx(0.9 * math.log(4 / 3) + 0.1 * math.log(4))


def test_focal_by_hand() -> None:
    # p = 3/4: (1/4)^2 log(4/3)
    logits = torch.tensor([[math.log(3), 0.0]])
    cells = build_loss(FocalConfig(gamma=2.0), TWO).values(logits, FIRST)
    assert cells.tolist() == [pytest.approx([math.log(4 / 3) / 16, 0.0])]
    # by itself each class is a sigmoid: present at 3/4, absent at 1/2; alpha weighs the sides 1/4 to 3/4
    cells = build_loss(FocalConfig(gamma=2.0, alpha=0.25, link="sigmoid"), TWO).values(logits, FIRST)
    assert cells.tolist() == [pytest.approx([0.25 * math.log(4 / 3) / 16, 0.75 * math.log(2) / 4])]


def test_class_balanced_by_hand() -> None:
    # weights (0.8, 1.2), see test_weights; all logits 0
    loss = build_loss(ClassBalancedConfig(beta=0.5), TWO)
    assert loss.values(torch.zeros(1, 2), FIRST).tolist() == [pytest.approx([0.8 * math.log(2), 0.0])]
    loss = build_loss(ClassBalancedConfig(beta=0.5, link="sigmoid"), TWO)
    assert loss.values(torch.zeros(1, 2), FIRST).tolist() == [pytest.approx([0.8 * math.log(2), 1.2 * math.log(2)])]


def test_alpha_weighs_free_classes_only() -> None:
    layout = GroupLayout([(0, 1)], num_classes=3)
    cells = cross_entropy_cells(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 1.0]]), layout=layout, alpha=0.25)
    assert cells.tolist() == [pytest.approx([math.log(2), 0.0, 0.25 * math.log(2)])]


def test_smoothing_keeps_the_sum_of_a_group() -> None:
    layout = GroupLayout([(0, 1, 2)], num_classes=4)
    targets = torch.tensor([[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    found = smoothed(targets, layout=layout, smoothing=0.3)
    assert found.tolist() == [pytest.approx([0.1, 0.8, 0.1, 0.85]), pytest.approx([0.0, 0.0, 0.0, 0.15])]


def test_a_sure_answer_with_a_fractional_focus_has_a_finite_gradient() -> None:
    logits = torch.tensor([[1000.0, -1000.0]], requires_grad=True)
    build_loss(FocalConfig(gamma=0.1), TWO).values(logits, FIRST).sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[0.0, 0.0]]


def test_soft_targets_mix_the_losses_of_their_classes() -> None:
    loss = build_loss(CrossEntropyConfig(), TWO)
    logits = torch.tensor([[0.7, -0.2]])
    mixed = loss.values(logits, torch.tensor([[0.3, 0.7]])).sum()
    apart = 0.3 * loss.values(logits, FIRST).sum() + 0.7 * loss.values(logits, 1 - FIRST).sum()
    assert mixed.item() == pytest.approx(apart.item())
