from __future__ import annotations

import pytest
import torch
from torch.distributions import Bernoulli, kl_divergence

from medtail.losses.consistency import bernoulli_divergence, consistency


def test_the_divergence_is_that_of_two_bernoullis() -> None:
    torch.manual_seed(0)
    first, second = 3 * torch.randn(5, 4), 3 * torch.randn(5, 4)
    expected = kl_divergence(Bernoulli(logits=first), Bernoulli(logits=second))
    torch.testing.assert_close(bernoulli_divergence(first, second), expected, rtol=1e-4, atol=1e-5)


def test_layers_that_agree_cost_nothing() -> None:
    logits = torch.tensor([[3.0, -4.0], [0.1, 50.0]])
    value, cells = consistency(logits, logits.clone())
    assert value == 0
    assert cells == 3


def test_each_divergence_moves_only_its_own_side() -> None:
    fixed = torch.tensor([2.0], requires_grad=True)
    moving = torch.tensor([-1.0], requires_grad=True)
    bernoulli_divergence(fixed, moving).sum().backward()
    assert fixed.grad is None
    assert moving.grad is not None
    # d KL(p ‖ q) / d logit q = q − p
    torch.testing.assert_close(moving.grad, torch.sigmoid(torch.tensor([-1.0])) - torch.sigmoid(torch.tensor([2.0])))


def test_both_layers_are_drawn_to_each_other() -> None:
    first = torch.tensor([[2.0, 0.1]], requires_grad=True)
    second = torch.tensor([[-1.0, 0.2]], requires_grad=True)
    value, cells = consistency(first, second)
    value.backward()
    assert cells == 1  # the second cell is sure in neither
    assert first.grad is not None
    assert second.grad is not None
    assert first.grad[0, 0] > 0 > second.grad[0, 0]
    assert first.grad[0, 1] == second.grad[0, 1] == 0
    p, q = torch.sigmoid(torch.tensor(2.0)), torch.sigmoid(torch.tensor(-1.0))
    expected = 0.5 * (kl_divergence(Bernoulli(p), Bernoulli(q)) + kl_divergence(Bernoulli(q), Bernoulli(p)))
    torch.testing.assert_close(value.detach(), expected)


@pytest.mark.parametrize("is_counted", [None, torch.zeros(1, 2, dtype=torch.bool)])
def test_no_cell_to_compare_is_zero_without_nan(is_counted: torch.Tensor | None) -> None:
    size = 0.1 if is_counted is None else 5.0
    first = torch.full((1, 2), size, requires_grad=True)
    value, cells = consistency(first, -first.detach(), is_counted=is_counted)
    value.backward()
    assert value == 0
    assert cells == 0
    assert first.grad is not None
    assert (first.grad == 0).all()


def test_logits_of_fifty_are_finite() -> None:
    first = torch.tensor([[50.0, -50.0]], requires_grad=True)
    value, _ = consistency(first, torch.tensor([[-50.0, 50.0]]))
    value.backward()
    assert torch.isfinite(value)
    assert first.grad is not None
    assert torch.isfinite(first.grad).all()
