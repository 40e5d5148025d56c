"""The figures worked out by hand in the specification; that every cell obeys the formula is a law of the family."""

from __future__ import annotations

import pytest
import torch

from medtail.losses.contract import DrawnCounts, LossContext, masked_sum
from medtail.losses.distribution_balanced import (
    DistributionBalanced,
    DistributionBalancedConfig,
    rebalancing_weights,
)

CONTEXT = LossContext((600, 50, 10), (1000, 1000, 1000), (), 1000)
INVERSE = 1 / torch.tensor([600.0, 50.0, 10.0], dtype=torch.float64)
NUMBERS = {"alpha": 0.1, "beta": 10.0, "mu": 0.3}


def loss(**changes: object) -> DistributionBalanced:
    return DistributionBalanced(DistributionBalancedConfig(**changes), context=CONTEXT).double()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "logits", "weights", "values"),
    [
        ([1.0, 1.0, 0.0], [1.0, -0.5, -1.0], [0.197021, 1.098036, 1.1], [0.008845, 0.863315, 0.0]),
        ([1.0, 0.0, 0.0], [2.0, 0.0, -2.0], [1.099089, 1.1, 1.1], [0.003921, 0.058758, 0.0]),
    ],
)
def test_the_worked_rows(labels: list[float], logits: list[float], weights: list[float], values: list[float]) -> None:
    y, z = torch.tensor([labels], dtype=torch.float64), torch.tensor([logits], dtype=torch.float64)
    found = rebalancing_weights(y, INVERSE, **NUMBERS)[0]
    torch.testing.assert_close(found, torch.tensor(weights, dtype=torch.float64), rtol=0, atol=1e-6)
    cells = loss().values(z, y)[0]
    torch.testing.assert_close(cells, torch.tensor(values, dtype=torch.float64), rtol=0, atol=1e-6)


def test_the_shift_of_a_rare_label_is_the_worked_one() -> None:
    shifted = torch.tensor([1.0, -0.5, -1.0], dtype=torch.float64) + loss()._shift
    torch.testing.assert_close(
        shifted, torch.tensor([1.004055, -0.529444, -1.045951], dtype=torch.float64), rtol=0, atol=1e-6
    )
    whole = loss(bias_over_scale=False)
    torch.testing.assert_close(whole._shift, 5 * loss()._shift, rtol=1e-6, atol=0)


def test_a_row_without_a_positive_has_r_one() -> None:
    found = rebalancing_weights(torch.zeros(1, 3, dtype=torch.float64), INVERSE, **NUMBERS)
    torch.testing.assert_close(found, torch.full((1, 3), 0.1 + torch.sigmoid(torch.tensor(7.0)).item()).double())


def test_the_counts_of_a_stream_take_the_place_of_the_train_folds() -> None:
    y, z = torch.tensor([[1.0, 1.0, 0.0]]).double(), torch.zeros(1, 3).double()
    even = loss()
    even.set_counts(DrawnCounts((500.0, 500.0, 500.0), (1000.0, 1000.0, 1000.0)))
    torch.testing.assert_close(even._shift, torch.zeros(3).double())
    weights = even.values(z, y) / even.values(z, y)[0, 0]
    assert weights[0, 0] == weights[0, 1]  # equally frequent labels share a row's chance
    assert loss().values(z, y)[0, 0] < 0.3 * loss().values(z, y)[0, 1]


def test_counts_of_zero_and_of_every_row_are_finite() -> None:
    context = LossContext((0, 10, 0), (10, 10, 0), (), 10)
    found = DistributionBalanced(DistributionBalancedConfig(), context=context).values(
        torch.zeros(2, 3), torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    )
    assert torch.isfinite(found).all()


def test_the_control_deals_a_labels_weights_out_over_the_rows() -> None:
    torch.manual_seed(0)
    y = (torch.rand(40, 3) < 0.4).double()
    z = torch.zeros(40, 3).double()
    base = loss(alpha=0.0, kappa=0.0, scale=1.0, gamma=0.0)
    sham = loss(alpha=0.0, kappa=0.0, scale=1.0, gamma=0.0, sham="permute_weights")
    own, dealt = base.values(z, y), sham.values(z, y)  # at z = 0 a cell is worth its weight times 2 log 2
    assert not torch.equal(own, dealt)
    torch.testing.assert_close(own.sort(dim=0).values, dealt.sort(dim=0).values)


def test_emptying_a_negative_cell_leaves_the_rest_of_the_row() -> None:
    y = torch.tensor([[1.0, 0.0, 1.0]]).double()
    z = torch.tensor([[0.3, -0.2, 0.5]]).double().requires_grad_(True)
    masked_sum(loss(), z, y)[0].backward()
    assert z.grad is not None
    before, z.grad = z.grad.clone(), None
    masked_sum(loss(), z, torch.tensor([[1.0, torch.nan, 1.0]]).double())[0].backward()
    assert z.grad is not None
    assert z.grad[0, 1] == 0
    assert torch.equal(z.grad[0, [0, 2]], before[0, [0, 2]])
